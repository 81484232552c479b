"""The blocks of J from what passes bring back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse

from .._layout import block_dtype, zeros_like
from .._seeds import MOST_INDEXED, Seeds
from ._problem import Problem

# Up to this share of a block, elements are added one by one; more are spread out first.
_FEW = 1 / 16


def filled(
    problem: Problem, groups: Sequence[Seeds], results: Sequence[Sequence[Any]], format: str = "dense"
) -> list[list[Any]]:
    """blocks[out][in] in their final shape, dtype and format, from what the runs of each group returned."""
    found: dict[tuple[int, int], Any] = {}
    for out, inp, shape, place in _placed(problem, groups, results):
        found[out, inp] = bcoo(*place.entries(), shape) if format == "bcoo" else place.spread(shape)
    outputs, inputs = range(len(problem.outputs.avals)), range(len(problem.inputs.avals))
    return [[found[o, i] for i in inputs] for o in outputs]


def added(
    problem: Problem, groups: Sequence[Seeds], results: Sequence[Sequence[Any]], blocks: list[list[Any]]
) -> list[list[Any]]:
    """Dense blocks, with what passes brought back added to them where it belongs."""
    total = [list(row) for row in blocks]
    for out, inp, shape, place in _placed(problem, groups, results):
        block = total[out][inp]
        if block is None or place.block.size > _FEW * block.size:
            spread = place.spread(shape)
            total[out][inp] = spread if block is None else block + spread
            continue
        data, index = place.entries()
        sizes, places = indexed(index, shape)
        sum_ = block.reshape(sizes).at[places].add(data, indices_are_sorted=True, unique_indices=True, mode="drop")
        total[out][inp] = sum_.reshape(shape)
    return total


@dataclass(frozen=True)
class _Place:
    """A compressed block, and where its elements belong."""

    seeds: Seeds
    seeded: int
    landed: int
    block: Any

    def spread(self, shape: tuple[int, ...]) -> Any:
        """The block in its shape."""
        if not self.seeds.scattered or not self.block.size:
            return self.seeds.spread(self.seeded, self.landed, self.block).reshape(shape)
        return scattered(*self.entries(), shape)

    def entries(self) -> tuple[Any, np.ndarray]:
        """Its elements without the zeros that ties know of, and their flat indices, sorted."""
        order, index = self.seeds.entries(self.seeded, self.landed)
        return self.block.reshape(-1)[order] if len(order) else jnp.zeros(0, self.block.dtype), index


def _placed(
    problem: Problem, groups: Sequence[Seeds], results: Sequence[Sequence[Any]]
) -> Iterator[tuple[int, int, tuple[int, ...], _Place]]:
    """Output, input, shape and place of every compressed block."""
    outputs, inputs = problem.outputs, problem.inputs
    batch = () if problem.batch is None else (problem.batch,)
    for seeds, landed in zip(groups, results, strict=True):
        numbers = seeds.group.landed if seeds.group else range(len(seeds.landed.avals))
        for s, row in enumerate(seeds.compressed(landed)):
            for r, (number, block) in enumerate(zip(numbers, row, strict=True)):
                out, inp = (number, s) if seeds.forward else (s, number)
                block = block.astype(block_dtype(outputs.avals[out], inputs.avals[inp]))
                shape = (*batch, *outputs.shapes[out], *inputs.shapes[inp])
                yield out, inp, shape, _Place(seeds, s, r, block)


def scattered(data: Any, index: np.ndarray, shape: tuple[int, ...]) -> Any:
    """Zeros, with data (batch, elements) at sorted flat indices of an example.

    Args:
        data: with an axis of examples in front, where there is a batch.
        index: of each element.
        shape: of an example.
    """
    batch = data.shape[:-1]
    if not len(index):
        return zeros_like(jax.typeof(data), (*batch, *shape))
    sizes, places = indexed(index, shape)
    # Zeros of which XLA does not know that they are: those of several blocks it would make once, and copy.
    first = data[..., 0]
    unknown = ((first != first) & (first == 0)).astype(data.dtype)
    zeros = jnp.broadcast_to(unknown.reshape(*batch, *(1,) * len(sizes)), (*batch, *sizes))
    filled = zeros.at[..., *places].set(data, indices_are_sorted=True, unique_indices=True, mode="promise_in_bounds")
    return filled.reshape(*batch, *shape)


def indexed(index: np.ndarray, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[np.ndarray, ...]]:
    """The axes along which elements at flat indices are found, flat where that can be, and their indices along them."""
    size = math.prod(shape)
    return ((size,), (index,)) if size <= MOST_INDEXED else (shape, np.unravel_index(index, shape))


def bcoo(data: Any, index: np.ndarray, shape: tuple[int, ...]) -> sparse.BCOO:
    """The elements of an array at sorted flat indices."""
    places = np.unravel_index(index, shape) if shape else ()
    indices = np.stack(places, -1).astype(np.int32) if shape else np.zeros((len(index), 0), np.int32)
    return sparse.BCOO((data, jnp.asarray(indices)), shape=shape, indices_sorted=True, unique_indices=True)
