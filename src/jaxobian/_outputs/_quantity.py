"""What all that is something of J, and not J, has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, Self

import jax.numpy as jnp

from .._analysis import Relation
from .._arrays import block_dtype
from .._cost import Work
from .._seeds import Seeds
from .._trace import Ends
from ._output import Block, Reduction, Results, Rows
from ._placed import Kept, places

# What an axis of the result is one of.
SideName = Literal["out", "in"]


class Quantity(ABC):
    """Something of J, which is summed up chunk by chunk where that is possible.

    Attributes:
        sides: whose axes the arrays of the result have, after that of examples.
    """

    name: str
    sides: tuple[SideName, ...]
    has_zeros: bool = True
    whole: bool = False
    by_example: bool = False
    n_weights: int = 0

    @abstractmethod
    def size(self, ends: Ends, relations: Sequence[dict[int, Relation]]) -> int:
        """Bytes of it."""

    @abstractmethod
    def of_sums(self, ends: Ends, groups: Sequence[Seeds], results: Sequence[Results]) -> Rows:
        """It, from the sums that are left of passes."""

    @abstractmethod
    def of_blocks(self, ends: Ends, blocks: Sequence[Sequence[Block]]) -> Rows:
        """It, from the blocks of J."""

    @abstractmethod
    def of_parts(self, ends: Ends, parts: dict[Any, Any]) -> Rows:
        """It, from its arrays: by output, by row, or by pair, as its kind has them; those left out are zero."""

    @abstractmethod
    def sums(self, ends: Ends, seeds: Seeds) -> Reduction:
        """What chunks are summed up to."""

    def entries_size(self, ends: Ends, entries: int) -> int:
        """Bytes of it, however few elements of J can be nonzero."""
        return self.size(ends, ())

    def keeps(self, seeds: Seeds) -> bool:
        """Whether chunks cannot be summed up one by one."""
        return seeds.lands_on_batch

    def work(self, ends: Ends, passes: int) -> Work:
        """Nothing beside the reading of them."""
        return Work()

    def reduction(self, ends: Ends, seeds: Seeds) -> Reduction:
        """Sums; or all is kept."""
        return Kept(seeds) if self.keeps(seeds) else self.sums(ends, seeds)

    def of_passes(self, ends: Ends, groups: Sequence[Seeds], results: Sequence[Results]) -> Rows:
        """It, of what is left of passes: sums, or all that they brought."""
        if not any(map(self.keeps, groups)):
            return self.of_sums(ends, groups, results)
        return self.of_blocks(ends, places(ends, groups, results))

    def of_examples(self, batch_axes: Sequence[int | None], rows: Rows) -> Rows:
        """It, of a J that has the rows of all examples, from what it is of each example's J."""
        raise NotImplementedError

    def bound(self, weights: Sequence[Any]) -> Self:
        """The same with the arrays that it reads."""
        return self

    def named(self, made: Any) -> Any:
        """It, in the user's trees, with names for its parts where it has several."""
        return made


def matrix(block: Block, ends: Ends, out: int, inp: int) -> Any:
    """A block with one axis of outputs and one of inputs: (*lead, out, in)."""
    return block.dense().reshape(*ends.lead, ends.outputs.sizes[out], ends.inputs.sizes[inp])


def dtype_of(ends: Ends, outs: Sequence[int], inps: Sequence[int]) -> Any:
    """The dtype of what is made of some blocks of J together."""
    pairs = [(ends.outputs.avals[o], ends.inputs.avals[i]) for o in outs for i in inps]
    found = [block_dtype(*pair) for pair in pairs] or [ends.outputs.avals[o].dtype for o in outs]
    return jnp.result_type(*found) if found else jnp.result_type(float)
