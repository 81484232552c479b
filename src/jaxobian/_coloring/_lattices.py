"""Colors that are a sum of multiples of the indices, modulo their number, as those of stencils are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from .._lazy import sparse
from ._matrices import EFFORT, nonzeros, shape_of

# Lattices tried, and rows that a lattice is first tried on, each of as many nonzeros.
_LATTICES, _SAMPLE = 2_000, 64
# Colors of rows are counted where those that may be are at most so many times those that are, and sorted elsewhere.
_SPARSE = 8

Shapes = Sequence[tuple[int, ...]]


def lattice(matrix: sparse.csr_matrix, shapes: Shapes, counts: range) -> np.ndarray | None:
    """Colors that are a sum of multiples of the indices, modulo their number; None where none is found."""
    if not shapes or sum(map(math.prod, shapes)) != shape_of(matrix)[1] or not counts or not counts[0]:
        return None
    i, j = nonzeros(matrix)
    filled = np.flatnonzero(np.diff(matrix.indptr))
    # Rows from anywhere, more of them the fewer nonzeros each has; and the first and last ones, where a lattice may not
    # close.
    number = max(_SAMPLE, _SAMPLE**2 * len(filled) // max(1, matrix.nnz))
    sample = np.random.default_rng(0).permutation(filled)[:number]
    sample = np.unique(np.concatenate([sample, filled[: _SAMPLE // 4], filled[-_SAMPLE // 4 :]]))
    some_i, some_j = nonzeros(sparse.csr_matrix(matrix[sample]))
    axes = _axes(shapes)
    if not len(axes):
        return None
    # Most lattices fail at the fullest row already, where many are looked at together.
    fullest = axes[:, j[i == np.argmax(np.diff(matrix.indptr))]]
    left = min(_LATTICES, max(1, 20 * EFFORT // fullest.shape[1]))
    for count in counts:
        weights = weights_of(len(axes), count, left)
        left -= len(weights)
        for some in _distinct(weights, fullest, count):
            if not _apart(some_i, (some @ axes[:, some_j]) % count, count):
                continue
            colors = (some @ axes) % count
            if _apart(i, colors[j], count):
                empty = np.bincount(j, minlength=len(colors)) == 0
                return np.where(empty, -1, colors)
        if left <= 0:
            return None
    return None


def _distinct(weights: np.ndarray, indices: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """The weights that give every one of some elements a color of its own."""
    block = max(1, EFFORT // indices.shape[1])
    for first in range(0, len(weights), block):
        some = weights[first : first + block]
        colors = np.sort((some @ indices) % count, axis=1)
        yield from some[(np.diff(colors) != 0).all(axis=1)]


def _axes(shapes: Shapes) -> np.ndarray:
    """The index of each element along every axis that some array has, then the number of its array."""
    rank = max(len(shape) for shape in shapes)
    columns = []
    for number, shape in enumerate(shapes):
        index = np.indices(shape).reshape(len(shape), math.prod(shape))
        missing = np.zeros((rank - len(shape), index.shape[1]), np.int64)
        columns.append(np.concatenate([missing, index, np.full((1, index.shape[1]), number)]))
    joined = np.concatenate(columns, axis=1)
    return joined[np.flatnonzero(joined.max(axis=1, initial=0))]


def weights_of(axes: int, count: int, most: int) -> np.ndarray:
    """Multiples for each axis, at most so many; the last one's may be 1 without loss where it divides nothing."""
    number = min(most, count ** (axes - 1))
    rest = np.ones((number, axes), np.int64)
    left = np.arange(number)
    for axis in reversed(range(axes - 1)):
        left, rest[:, axis] = left // count, left % count
    return rest


def _apart(rows: np.ndarray, colors: np.ndarray, count: int) -> bool:
    """Whether no row has a color twice."""
    keys = rows * count + colors
    if keys.max(initial=0) > _SPARSE * len(keys):  # with many colors and few nonzeros a row, counts would fill memory
        return bool((np.diff(np.sort(keys)) != 0).all())
    return bool(np.bincount(keys - keys.min(initial=0)).max(initial=0) <= 1)
