"""Columns of a symmetric pattern, of which an element may be read off its mirror image, too."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._lazy import sparse
from ._coloring import Coloring
from ._distance_two import classes
from ._matrices import EFFORT, n_colors, nonzeros, shape_of

# Orders in which a symmetric pattern is colored again: iterated greedy promises nothing there, and often helps.
_STARS = 8


def star(matrix: sparse.csr_matrix) -> Coloring | None:
    """Push the columns of a symmetric pattern; None where it is not symmetric, or too dense to be worth it.

    Source: Gebremedhin, Tarafdar, Manne and Pothen, New acyclic and star coloring algorithms with application to
    computing Hessians (SIAM Journal on Scientific Computing 29, 2007), algorithm 4.1.
    """
    width = shape_of(matrix)[1]
    if not width or shape_of(matrix)[0] != width or (matrix != matrix.T).nnz:
        return None
    degree = np.diff(matrix.indptr).astype(np.int64)
    effort = int((degree**2).sum())
    if effort > 4 * EFFORT:
        return None
    colors = _star_colors(matrix, range(width))
    random, order = np.random.default_rng(0), np.argsort(-degree, kind="stable").tolist()
    for turn in range(min(_STARS, EFFORT // (4 * effort + 1))):
        if n_colors(colors) <= 3:
            break
        now = _star_colors(matrix, order)
        colors = now if n_colors(now) <= n_colors(colors) else colors
        order = classes(colors, np.arange(width), turn, random)
    i, j = nonzeros(matrix)
    count = n_colors(colors)
    # How many columns of a color have a nonzero in a row: where one alone has, it is read off there.
    seen = np.bincount(i * count + colors[j], minlength=width * count)
    direct = seen[i * count + colors[j]] == 1
    if not (direct | (seen[j * count + colors[i]] == 1)).all():
        return None
    color, landing = np.where(direct, colors[j], colors[i]), np.where(direct, i, j)
    return Coloring(colors, np.full(width, -1), count, 0, np.zeros(len(i), bool), color, landing)


def _star_colors(matrix: sparse.csr_matrix, order: Sequence[int]) -> np.ndarray:
    """Vertices colored in turn: neighbors differ, and no path of four has two colors alone."""
    pointers: Any = matrix.indptr.tolist()
    indices: Any = matrix.indices.tolist()
    width = shape_of(matrix)[1]
    near = [[k for k in indices[pointers[v] : pointers[v + 1]] if k != v] for v in range(width)]
    colors = [-1] * width
    for v in order:
        forbidden = set()
        for w in near[v]:
            if colors[w] >= 0:
                forbidden.add(colors[w])
            for x in near[w]:
                if x == v or colors[x] < 0:
                    continue
                if colors[w] < 0 or any(y != w and colors[y] == colors[w] for y in near[x]):
                    forbidden.add(colors[x])
        colors[v] = next(c for c in itertools.count() if c not in forbidden)
    return np.array(colors)
