"""J itself: what passes bring back is kept, and each element put where the ties say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import block_dtype, zeros_like
from .._cost import Work
from .._seeds import Run, Seeds
from .._trace import Ends
from ._output import Block, Chunk, Results, Rows
from ._scatter import indexed, scattered

# Up to this share of a block, elements are added one by one; more are spread out first.
_FEW = 1 / 16


@dataclass(frozen=True)
class Kept:
    """The results of all passes, side by side."""

    seeds: Seeds

    def start(self, run: Run, parts: Sequence[Any]) -> list[Any]:
        """Zeros for all of them."""
        made = []
        for part, axis in zip(jax.eval_shape(self.seeds.turned, parts), self.seeds.axes, strict=True):
            shape = list(part.shape)
            shape[axis] = run.total
            made.append(zeros_like(part, tuple(shape)))  # under shard_map a loop's carry must vary as its result does
        return made

    def add(self, left: Sequence[Any], chunk: Chunk, parts: Sequence[Any]) -> list[Any]:
        """Written in their place."""
        return [
            jax.lax.dynamic_update_slice_in_dim(buffer, part, chunk.start, axis % buffer.ndim)
            for buffer, part, axis in zip(left, self.seeds.turned(parts), self.seeds.axes, strict=True)
        ]

    def joined(self, run: Run, pieces: Sequence[Sequence[Any]]) -> list[Any]:
        """One after the other."""
        turned = [self.seeds.turned(parts) for parts in pieces]
        if len(turned) == 1:
            return list(turned[0])
        return [jnp.concatenate(parts, axis) for *parts, axis in zip(*turned, self.seeds.axes, strict=True)]


class Whole(ABC):
    """An output that is all of J, block by block."""

    whole: bool = True
    by_example: bool = False
    n_weights: int = 0

    @abstractmethod
    def block(self, block: Block) -> Any:
        """A block as the user gets it."""

    def keeps(self, seeds: Seeds) -> bool:
        """Where results belong to several elements, they are spread into J when all are there."""
        return bool(seeds.group and any(seeds.group.cells))

    def work(self, ends: Ends, passes: int) -> Work:
        """Results are put in their place, which the planner counts by itself."""
        return Work()

    def reduction(self, ends: Ends, seeds: Seeds) -> Kept:
        """All are kept."""
        return Kept(seeds)

    def of_passes(self, ends: Ends, groups: Sequence[Seeds], results: Sequence[Results]) -> Rows:
        """Blocks with each result in its place."""
        return self.of_blocks(ends, places(ends, groups, results))

    def of_blocks(self, ends: Ends, blocks: Sequence[Sequence[Block]]) -> Rows:
        """blocks[out][in]."""
        return [[self.block(block) for block in row] for row in blocks]

    def of_examples(self, batch_axes: Sequence[int | None], rows: Rows) -> Rows:
        """Of blocks, they are made as they are of others."""
        raise NotImplementedError

    def bound(self, weights: Sequence[Any]) -> Self:
        """It reads nothing."""
        return self


@dataclass(frozen=True)
class DenseBlock:
    """A block without zeros that are known."""

    block: Any
    has_known_zeros: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """As of J."""
        return self.block.shape

    def dense(self) -> Any:
        """It is."""
        return self.block

    def entries(self) -> tuple[Any, np.ndarray]:
        """Every element."""
        return self.block.reshape(-1), np.arange(self.block.size)


@dataclass(frozen=True)
class Place:
    """A compressed block, and where its elements belong.

    Attributes:
        shape: of the block.
        seeds: the passes that brought it back.
        seeded, result: numbers of the arrays that it is between.
        block: what they brought.
    """

    shape: tuple[int, ...]
    seeds: Seeds
    seeded: int
    result: int
    block: Any

    @property
    def has_known_zeros(self) -> bool:
        """Whether ties know of zeros."""
        return self.seeds.colors[self.seeded] == 0 or bool(self.seeds.group and self.seeds.group.cells[self.seeded])

    def dense(self) -> Any:
        """All elements."""
        if not self.seeds.scattered or not self.block.size:
            return self.seeds.spread(self.seeded, self.result, self.block).reshape(self.shape)
        return scattered(*self.entries(), self.shape)

    def entries(self) -> tuple[Any, np.ndarray]:
        """The elements without the zeros that ties know of, and their flat indices, sorted."""
        order, index = self.seeds.entries(self.seeded, self.result)
        return self.block.reshape(-1)[order] if len(order) else jnp.zeros(0, self.block.dtype), index

    def added_to(self, other: Any) -> Any:
        """A dense block, with these added; None stands for zeros."""
        if other is None or self.block.size > _FEW * other.size:
            return self.dense() if other is None else other + self.dense()
        data, index = self.entries()
        sizes, places = indexed(index, self.shape)
        sum_ = other.reshape(sizes).at[places].add(data, indices_are_sorted=True, unique_indices=True, mode="drop")
        return sum_.reshape(self.shape)


def placed(ends: Ends, seeds: Seeds, results: Results) -> Iterator[tuple[int, int, Place]]:
    """Output, input and place of every compressed block that the passes of a group bring back."""
    for s, row in enumerate(seeds.compressed(results)):
        for r, (number, block) in enumerate(zip(seeds.numbers, row, strict=True)):
            out, inp = (number, s) if seeds.forward else (s, number)
            block = block.astype(block_dtype(ends.outputs.avals[out], ends.inputs.avals[inp]))
            yield out, inp, Place(ends.shape(out, inp), seeds, s, r, block)


def places(ends: Ends, groups: Sequence[Seeds], results: Sequence[Results]) -> list[list[Place]]:
    """blocks[out][in], from what the runs of each group returned."""
    found = {
        (out, inp): place
        for seeds, brought in zip(groups, results, strict=True)
        for out, inp, place in placed(ends, seeds, brought)
    }
    outputs, inputs = range(len(ends.outputs.avals)), range(len(ends.inputs.avals))
    return [[found[o, i] for i in inputs] for o in outputs]
