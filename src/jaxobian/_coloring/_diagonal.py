"""Columns whose diagonal elements can share a pass: no two of a color have a nonzero in each other's rows."""

from __future__ import annotations

import heapq
import math
from typing import Any

import numpy as np

from .._lazy import csgraph, sparse
from ._distance_two import distance_two, turan
from ._lattices import Shapes
from ._matrices import EFFORT, nonzeros, shape_of

# Vertices about which a clique is sought, those with the most neighbors.
_STARTS = 8
# Work of an edge in finding an order, in nonzeros looked at.
_EDGE = 2


def color_diagonal(matrix: sparse.csr_matrix, shapes: Shapes = (), below: float = math.inf) -> np.ndarray | None:
    """A color for each column, such that its diagonal element is read off the sum of all columns of the color.

    With s_c the ones at the columns of color c, (J s_c)[i] = (s_c J)[i] = J[i, i] for each i of color c: J[i, j] and
    J[j, i] are zero for every other j of it. In the graph that joins i and j where J[i, j] or J[j, i] can be nonzero,
    neighbors differ.

    Args:
        matrix: the pattern, square.
        shapes: of the arrays whose elements the columns are.
        below: give up where it is plain that not fewer colors than that will do.

    Returns:
        The colors; -1 for the columns that need no pass, as their diagonal elements are zero.
    """
    width = shape_of(matrix)[1]
    i, j = nonzeros(matrix)
    pushed = np.zeros(width, bool)
    pushed[i[i == j]] = True
    disturbs = (i != j) & pushed[i] & pushed[j]
    if turan(int(pushed.sum()), (int(disturbs.sum()) + 1) // 2) >= below:
        return None
    graph = _graph(i[disturbs], j[disturbs], width)
    colors = _sides(graph)
    if colors is None:
        colors = _colors(graph, shapes, below)
    if colors is None:
        return None
    return np.where(pushed, np.maximum(colors, 0), -1)  # without neighbors, any color will do


def _graph(i: np.ndarray, j: np.ndarray, width: int) -> sparse.csr_matrix:
    """The symmetric pattern of a graph that has an edge from i to j, row by row, or from j to i."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(i, minlength=width))])
    one_way = sparse.csr_matrix((np.ones(len(i), bool), j, starts), shape=(width, width))
    return sparse.csr_matrix(one_way + one_way.T)


def _sides(graph: sparse.csr_matrix) -> np.ndarray | None:
    """Colors 0 and 1, where they suffice.

    Of each vertex there are two copies, and an edge joins the one copy of an end with the other copy of the other end:
    what is reached from a vertex then tells walks of even length from those of odd length.
    """
    width = shape_of(graph)[0]
    starts = np.concatenate([graph.indptr, np.full(width, graph.nnz)])
    twice = sparse.csr_matrix((graph.data, graph.indices + width, starts), shape=(2 * width, 2 * width))
    _, part = csgraph.connected_components(twice, directed=False)
    even, odd = part[:width], part[width:]
    return None if (even == odd).any() else (even > odd).astype(np.int64)


def _colors(graph: sparse.csr_matrix, shapes: Shapes, below: float) -> np.ndarray | None:
    """At least three colors; -1 for vertices without neighbors."""
    least = max(3, turan(int((np.diff(graph.indptr) > 0).sum()), graph.nnz // 2))
    if least >= below:
        return None
    quick = _EDGE * graph.nnz <= EFFORT
    return distance_two(_conflicts(graph), shapes, below, least, (lambda: _saturated(graph)) if quick else None)


def _conflicts(graph: sparse.csr_matrix) -> sparse.csr_matrix:
    """A pattern whose columns share a row where they are neighbors: a row for a clique, and one for each other edge."""
    clique = _clique(graph)
    inside = np.zeros(shape_of(graph)[1], bool)
    inside[clique] = True
    i, j = nonzeros(graph)
    edges = np.stack([i, j], axis=1)[(i < j) & ~(inside[i] & inside[j])]
    columns = np.concatenate([clique, edges.ravel()])
    starts = np.concatenate([[0], len(clique) + 2 * np.arange(len(edges) + 1)])
    return sparse.csr_matrix((np.ones(len(columns), bool), columns, starts), shape=(len(starts) - 1, len(inside)))


def _clique(graph: sparse.csr_matrix) -> np.ndarray:
    """Vertices that are all neighbors of each other, as many as a quick search finds: each takes a color of its own."""
    degree = np.diff(graph.indptr)
    most = math.isqrt(max(4 * EFFORT, 2 * graph.nnz))  # the square of so many is looked at
    best = np.zeros(0, np.int64)
    for start in np.argsort(-degree, kind="stable")[:_STARTS]:
        if degree[start] < len(best):
            break
        near = graph.indices[graph.indptr[start] : graph.indptr[start + 1]]
        near = near[np.argsort(-degree[near], kind="stable")[:most]]
        among = np.sort(np.append(near, start))
        found = among[_grown(graph[among][:, among].toarray())]
        best = found if len(found) > len(best) else best
    return best


def _grown(near: np.ndarray) -> np.ndarray:
    """Of all vertices the one with the most neighbors, of those the one with the most among them, and so on."""
    left, degree = np.ones(len(near), bool), near.sum(axis=0)
    clique = np.zeros(len(near), bool)
    while left.any():
        vertex = np.argmax(np.where(left, degree, -1))
        clique[vertex] = True
        degree -= near[left & ~near[vertex]].sum(axis=0)
        left &= near[vertex]
    return clique


def _saturated(graph: sparse.csr_matrix) -> list[int]:
    """The vertices with neighbors, next always the one whose neighbors have the most colors so far.

    Source: Brélaz, New methods to color the vertices of a graph (Communications of the ACM 22, 1979).
    """
    pointers: Any = graph.indptr.tolist()
    indices: Any = graph.indices.tolist()
    degree = np.diff(graph.indptr)
    full = np.flatnonzero(degree)
    rank = {v: at for at, v in enumerate(full[np.argsort(-degree[full], kind="stable")].tolist())}
    seen = dict.fromkeys(rank, 0)  # the colors of each vertex's neighbors, as bits; of those that are not colored yet
    waiting = [(0, at, v) for v, at in rank.items()]  # a heap, and a vertex in it for each time that it saw a new color
    order = []
    while waiting:
        vertex = heapq.heappop(waiting)[2]
        if vertex not in seen:
            continue
        order.append(vertex)
        mine = seen.pop(vertex)
        bit = ~mine & (mine + 1)
        for near in indices[pointers[vertex] : pointers[vertex + 1]]:
            if not seen.get(near, bit) & bit:
                seen[near] |= bit
                heapq.heappush(waiting, (-seen[near].bit_count(), rank[near], near))
    return order
