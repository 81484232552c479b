"""Columns that share no row: greedy coloring in several orders, then iterated; lattices first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._lazy import sparse
from ._lattices import Shapes, lattice
from ._matrices import EFFORT, n_colors, shape_of

# Turns that improving a coloring may take, beside the effort.
_TURNS = 40
# Turns that take no color away, after which no more are taken; so few where a single color is left to be taken.
_PATIENCE, _LAST = 10, 4
# With more nonzeros, a lattice of one color more than the least is good enough.
_LARGE = 200_000


def distance_two(
    matrix: sparse.csr_matrix,
    shapes: Shapes = (),
    below: float = math.inf,
    known: int = 0,
    order: Callable[[], list[int]] | None = None,
) -> np.ndarray | None:
    """A color for each column, such that no two of a color have a nonzero in the same row; -1 for empty ones.

    Args:
        matrix: the pattern.
        shapes: of the arrays whose elements the columns are.
        below: give up where it is plain that not fewer colors than that will do.
        known: so many colors are known to be needed.
        order: the columns that are not empty, in the second order in which they are colored: the fullest first if None.
    """
    least = max(known, least_colors(matrix))
    if least >= below:
        return None
    regular = lattice(matrix, shapes, range(least, least + 2))
    if regular is not None and (n_colors(regular) == least or matrix.nnz > _LARGE):
        return regular
    transposed = sparse.csc_matrix(matrix)
    pointers: Any = transposed.indptr.tolist()
    rows: Any = transposed.indices.tolist()
    full = np.flatnonzero(np.diff(transposed.indptr))
    best = _greedy(full.tolist(), pointers, rows, shape_of(matrix))
    if regular is None:
        regular = lattice(matrix, shapes, range(least + 2, n_colors(best)))
    if regular is not None and n_colors(regular) < n_colors(best):
        best = regular
    random, now = np.random.default_rng(0), best
    turns, better = max(1, min(_TURNS, EFFORT // (matrix.nnz + len(full) + 1))), 0
    for turn in range(turns):
        if n_colors(best) <= least or turn - better > (_LAST if n_colors(best) == least + 1 else _PATIENCE):
            break
        if turn > 0:
            turned = classes(now, full, turn, random)
        elif order is not None:
            turned = order()
        else:
            turned = full[np.argsort(-np.diff(transposed.indptr)[full], kind="stable")].tolist()
        now = _greedy(turned, pointers, rows, shape_of(matrix))
        if n_colors(now) < n_colors(best):
            best, better = now, turn
        now = now if n_colors(now) == n_colors(best) else best
    return best


def least_colors(matrix: sparse.csr_matrix) -> int:
    """The least colors that the columns can take, by the fullest row and by how many pairs of columns share a row."""
    lengths = np.diff(matrix.indptr).astype(np.int64)
    least = int(lengths.max(initial=0))
    pairs, n = int((lengths * (lengths - 1)).sum()), int(np.count_nonzero(np.bincount(matrix.indices)))
    if least == 0 or pairs > 4 * EFFORT or pairs * least <= n * n * (least - 1):
        return least
    ones = matrix.astype(np.int32)
    return max(least, turan(n, (int(sparse.csr_matrix(ones.T @ ones).nnz) - n) // 2))


def turan(vertices: int, edges: int) -> int:
    """The least colors of a graph of n vertices and m edges: n^2 / (n^2 - 2m). Source: Turán's theorem (1941)."""
    if not edges:
        return min(vertices, 1)
    return math.ceil(vertices**2 / (vertices**2 - 2 * edges))


def _greedy(order: Sequence[int], pointers: list[int], rows: list[int], shape: tuple[int, int]) -> np.ndarray:
    """The least color for each column in turn that no row of it has seen."""
    taken = [0] * shape[0]  # for each row, the colors of its columns, as bits
    colors = np.full(shape[1], -1)
    for column in order:
        mine = rows[pointers[column] : pointers[column + 1]]
        seen = 0
        for row in mine:
            seen |= taken[row]
        bit = ~seen & (seen + 1)
        for row in mine:
            taken[row] |= bit
        colors[column] = bit.bit_length() - 1
    return colors


def classes(colors: np.ndarray, full: np.ndarray, turn: int, random: np.random.Generator) -> list[int]:
    """The columns class by class: the classes turned about, the largest first, or in any order."""
    count = n_colors(colors)
    if turn % 3 == 0:
        rank = np.arange(count)[::-1]
    elif turn % 3 == 1:
        rank = np.argsort(np.argsort(-np.bincount(colors[full], minlength=count), kind="stable"))
    else:
        rank = random.permutation(count)
    return full[np.argsort(rank[colors[full]], kind="stable")].tolist()
