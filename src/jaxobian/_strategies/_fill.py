"""The blocks of J from what passes bring back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse

from .._layout import block_dtype
from .._seeds import Seeds
from ._problem import Problem


def filled(
    problem: Problem, groups: Sequence[Seeds], results: Sequence[Sequence[Any]], format: str = "dense"
) -> list[list[Any]]:
    """blocks[out][in] in their final shape, dtype and format, from what the runs of each group returned."""
    outputs, inputs = problem.outputs, problem.inputs
    batch = () if problem.batch is None else (problem.batch,)
    found: dict[tuple[int, int], Any] = {}
    for seeds, landed in zip(groups, results, strict=True):
        numbers = seeds.group.landed if seeds.group else range(len(seeds.landed.avals))
        rows = seeds.compressed(landed)
        for s, row in enumerate(rows):
            for r, (number, block) in enumerate(zip(numbers, row, strict=True)):
                out, inp = (number, s) if seeds.forward else (s, number)
                shape = (*batch, *outputs.shapes[out], *inputs.shapes[inp])
                block = block.astype(block_dtype(outputs.avals[out], inputs.avals[inp]))
                if format == "bcoo":
                    found[out, inp] = _bcoo(seeds, s, r, block, shape)
                else:
                    found[out, inp] = seeds.spread(s, r, block).reshape(shape)
    return [[found[o, i] for i in range(len(inputs.avals))] for o in range(len(outputs.avals))]


def _bcoo(seeds: Seeds, s: int, r: int, block: Any, shape: tuple[int, ...]) -> sparse.BCOO:
    """A block without the zeros that ties know of; it is never formed as a whole."""
    order, index = seeds.entries(s, r)
    data = block.reshape(-1)[order] if len(order) else jnp.zeros(0, block.dtype)
    return bcoo(data, index, shape)


def bcoo(data: Any, index: np.ndarray, shape: tuple[int, ...]) -> sparse.BCOO:
    """The elements of an array at sorted flat indices."""
    places = np.unravel_index(index, shape) if shape else ()
    indices = np.stack(places, -1).astype(np.int32) if shape else np.zeros((len(index), 0), np.int32)
    return sparse.BCOO((data, jnp.asarray(indices)), shape=shape, indices_sorted=True, unique_indices=True)
