"""Patterns of matrices and graphs, dense arrays of booleans."""

from __future__ import annotations

import itertools

import numpy as np
from scipy import sparse


def pattern(dense: np.ndarray) -> sparse.csr_matrix:
    matrix = sparse.csr_matrix(dense.astype(bool))
    matrix.sort_indices()
    return matrix


def banded(n: int, *offsets: int, periodic: bool = False) -> np.ndarray:
    i, j = np.indices((n, n))
    apart = (j - i) % n if periodic else j - i
    return np.isin(apart, [o % n if periodic else o for o in offsets])


def five_point(n: int) -> np.ndarray:
    i, j = np.indices((n, n)).reshape(2, -1)
    away = [np.abs(a[:, None] - a) for a in (i, j)]
    return away[0] + away[1] <= 1


def graph(size: int, *edges: tuple[int, int]) -> np.ndarray:
    """The symmetric pattern of a graph, its diagonal full."""
    dense = np.eye(size, dtype=bool)
    for i, j in edges:
        dense[i, j] = dense[j, i] = True
    return dense


def path(size: int) -> np.ndarray:
    return graph(size, *itertools.pairwise(range(size)))


def cycle(size: int) -> np.ndarray:
    return graph(size, *itertools.pairwise(range(size)), (size - 1, 0))


def bipartite(left: int, right: int) -> np.ndarray:
    return graph(left + right, *itertools.product(range(left), range(left, left + right)))


def grid(height: int, width: int) -> np.ndarray:
    return np.kron(np.eye(height), path(width)).astype(bool) | np.kron(path(height), np.eye(width)).astype(bool)
