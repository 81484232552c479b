"""The questions that an output answers for the planner, and for what runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from .._analysis import Relation
from .._arrays import block_dtype
from .._cost import Work
from .._seeds import Run, Seeds, groups
from .._trace import Ends

# What the passes of some seeds leave: for each run the arrays that its reduction makes of them.
Results = list[list[Any]]
# What the user gets, before it is put into trees: rows of arrays, such as blocks[out][in] of J.
Rows = list[list[Any]]


class Block(Protocol):
    """A block of J as it is known after the passes.

    Attributes:
        shape: (batch, out, in).
        has_known_zeros: whether `entries` leaves out elements, which are zero.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def has_known_zeros(self) -> bool: ...

    def dense(self) -> Any:
        """All elements."""
        ...

    def entries(self) -> tuple[Any, np.ndarray]:
        """The elements that can be nonzero, and their sorted flat indices."""
        ...


class Chunk(NamedTuple):
    """Passes start, ..., start + width - 1 of a run.

    Attributes:
        run: of which passes.
        start: the first one; the last chunk of a run overlaps its neighbor where widths do not divide.
        width: how many they are.
        done: so many passes of the run were made before; None where none of these is among them.
    """

    run: Run
    start: Any
    width: int
    done: Any = None


class Reduction(Protocol):
    """What becomes of the results of passes, chunk after chunk."""

    def start(self, run: Run, parts: Sequence[Any]) -> list[Any]:
        """Zeros for what the passes of a run leave.

        Args:
            run: the passes.
            parts: what a chunk of them brings back, abstract: for each result array one with the passes in front.
        """
        ...

    def add(self, left: Sequence[Any], chunk: Chunk, parts: Sequence[Any]) -> list[Any]:
        """What is left of the passes before, with one more chunk."""
        ...

    def joined(self, run: Run, pieces: Sequence[Sequence[Any]]) -> list[Any]:
        """What is left of all chunks of a run, which do not overlap, where they are written out."""
        ...


class Output(Protocol):
    """What is wanted of J.

    Attributes:
        name: as the user says it.
        has_zeros: whether all elements are written down, those too that are known to be zero.
        whole: whether all of J is wanted, rather than something of it.
        by_example: whether it can be made of what it is of each of some rows alone.
        n_weights: how many operands of the program, the last ones, it reads.
    """

    @property
    def name(self) -> str: ...
    @property
    def has_zeros(self) -> bool: ...
    @property
    def whole(self) -> bool: ...
    @property
    def by_example(self) -> bool: ...
    @property
    def n_weights(self) -> int: ...

    def size(self, ends: Ends, relations: Sequence[dict[int, Relation]]) -> int:
        """Bytes of it, where passes bring back what J's ties leave."""
        ...

    def entries_size(self, ends: Ends, entries: int) -> int:
        """Bytes of it, where so many elements of J can be nonzero."""
        ...

    def keeps(self, seeds: Seeds) -> bool:
        """Whether all that passes bring back is held until the last is made, beside what is wanted."""
        ...

    def work(self, ends: Ends, passes: int) -> Work:
        """What it takes to sum up the results of so many passes, the reading of them apart."""
        ...

    def reduction(self, ends: Ends, seeds: Seeds) -> Reduction:
        """What becomes of the results of some passes of J."""
        ...

    def of_passes(self, ends: Ends, groups: Sequence[Seeds], results: Sequence[Results]) -> Rows:
        """It, from what the passes of each group left."""
        ...

    def of_blocks(self, ends: Ends, blocks: Sequence[Sequence[Block]]) -> Rows:
        """It, from the blocks of J."""
        ...

    def of_examples(self, batch_axes: Sequence[int | None], rows: Rows) -> Rows:
        """It, of a J that has the rows of all examples, from what it is of each example's, those along these axes."""
        ...

    def bound(self, weights: Sequence[Any]) -> Output:
        """The same with the values of the operands that it reads."""
        ...


def compressed_size(ends: Ends, relations: Sequence[dict[int, Relation]], index_bytes: int) -> int:
    """Bytes of what passes bring back, in the direction in which that is less.

    Args:
        ends: both sides of J.
        relations: the ties of each output.
        index_bytes: of an index along one axis, where each element has one.
    """
    sizes = []
    for forward in (True, False):
        seeded, result = ends.sides(forward=forward)
        total = 0
        for group in groups(relations, seeded, result, forward=forward):
            colors = Seeds(seeded, result, forward, 1, group=group).colors
            for passes, a in zip(colors, seeded.avals, strict=True):
                for number in group.results:
                    b = result.avals[number]
                    entry = block_dtype(a, b).itemsize + index_bytes * (len(a.shape) + len(b.shape))
                    total += passes * math.prod(b.shape) * entry
        sizes.append(total)
    return min(sizes)
