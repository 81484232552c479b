"""Blocks of J from what passes bring back, each element where the ties say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._arrays import block_dtype
from .._outputs import Output
from .._seeds import Seeds
from .._trace import Ends
from ._passes import Results
from ._scatter import indexed, scattered

# Up to this share of a block, elements are added one by one; more are spread out first.
_FEW = 1 / 16


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


def filled(ends: Ends, groups: Sequence[Seeds], results: Sequence[Results], output: Output) -> list[list[Any]]:
    """blocks[out][in] as the output has them, from what the runs of each group returned."""
    found = {
        (out, inp): output.block(place)
        for seeds, brought in zip(groups, results, strict=True)
        for out, inp, place in placed(ends, seeds, brought)
    }
    outputs, inputs = range(len(ends.outputs.avals)), range(len(ends.inputs.avals))
    return [[found[o, i] for i in inputs] for o in outputs]
