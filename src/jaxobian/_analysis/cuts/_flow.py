"""Minimum vertex cuts of a directed graph, by maximum flow.

Every vertex becomes an edge of its own, from an entry to an exit, whose capacity is its weight; the edges of the graph
have no bound. What a maximum flow leaves over, its residual graph, knows all minimum cuts: a set of vertices is the
near side of one exactly if it holds the source and not the sink, and no residual edge leaves it (Picard and
Queyranne, On the structure of all minimum cuts in a network, 1980).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..._lazy import csgraph, sparse

# SciPy counts flow in int32.
_UNBOUNDED = 2**30


@dataclass
class Graph:
    """Vertices with weights, numbered in the order in which they are added, and edges between them.

    Attributes:
        weights: of each vertex; None where it cannot be cut.
        edges: pairs of vertices.
    """

    weights: list[int | None] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)

    def add(self, weight: int | None) -> int:
        self.weights.append(weight)
        return len(self.weights) - 1


def minimum_cuts(
    graph: Graph, sources: Sequence[int], sinks: Sequence[int], bound: int
) -> tuple[int, list[frozenset[int]]]:
    """The vertices whose removal separates sinks from sources, of the least total weight.

    Args:
        graph: the graph.
        sources: vertices at which paths begin; they may be cut, too.
        sinks: vertices at which paths end.
        bound: cuts of this weight or more are of no interest.

    Returns:
        The weight of the narrowest cut, and as many such cuts as can be found, each closer to the sinks than the one
        before. `bound` and none where there is none below the bound.
    """
    if bound >= _UNBOUNDED:
        return bound, []
    n = len(graph.weights)
    entry, source, sink, start = 2 * np.arange(n), 2 * n, 2 * n + 1, 2 * n + 2
    capacity = [_UNBOUNDED if w is None else min(w, bound) for w in graph.weights]
    arcs = [(2 * u + 1, 2 * v) for u, v in graph.edges]
    arcs += [(source, 2 * s) for s in sources] + [(2 * t + 1, sink) for t in sinks] + [(start, source)]
    tails, heads = ([*first, *(arc[k] for arc in arcs)] for k, first in enumerate((entry, entry + 1)))
    # No more than the bound can flow, or sums of unbounded edges would overflow.
    room = [*capacity, *[_UNBOUNDED] * (len(tails) - n - 1), bound]
    edges = dict(zip(zip(tails, heads, strict=True), room, strict=True))  # parallel edges count once
    rows, columns = np.array(list(edges), np.int32).reshape(-1, 2).T
    network = sparse.csr_matrix((np.array(list(edges.values()), np.int32), (rows, columns)), shape=(2 * n + 3,) * 2)
    result = csgraph.maximum_flow(network, start, sink)
    if result.flow_value >= bound:
        return bound, []
    residual = sparse.csr_array((network - result.flow) > 0)
    return int(result.flow_value), list(_chain(residual, start, sink, n))


def _chain(residual: sparse.csr_array, start: int, sink: int, n: int) -> Iterator[frozenset[int]]:
    """The cuts between sets that no residual edge leaves, each set larger than the one before."""
    n_parts, part = csgraph.connected_components(residual, directed=True, connection="strong")
    tails, heads = part[residual.nonzero()[0]], part[residual.nonzero()[1]]
    arcs = {(int(a), int(b)) for a, b in zip(tails, heads, strict=True) if a != b}
    after: list[list[int]] = [[] for _ in range(n_parts)]
    before: list[list[int]] = [[] for _ in range(n_parts)]
    for a, b in arcs:
        after[a].append(b)
        before[b].append(a)
    members: list[list[int]] = [[] for _ in range(n_parts)]
    for node, p in enumerate(part):
        members[p].append(node)
    reached = {int(p) for p in part[csgraph.breadth_first_order(residual, start, return_predecessors=False)]}
    beyond = {int(p) for p in part[csgraph.breadth_first_order(residual.T.tocsr(), sink, return_predecessors=False)]}
    near = np.zeros(2 * n, bool)
    cut: set[int] = set()

    def take(p: int) -> None:
        inner = [node for node in members[p] if node < 2 * n]
        near[inner] = True
        for vertex in {node // 2 for node in inner}:
            if near[2 * vertex] and not near[2 * vertex + 1]:
                cut.add(vertex)
            else:
                cut.discard(vertex)

    for p in sorted(reached):
        take(p)
    yield frozenset(cut)
    missing = {p: sum(q not in reached for q in after[p]) for p in range(n_parts)}
    # Parts that come first in the program go first, so that parallel branches advance together.
    ready = [(min(members[p]), p) for p in range(n_parts) if not missing[p] and p not in reached | beyond]
    heapq.heapify(ready)
    last = frozenset(cut)
    while ready:
        _, p = heapq.heappop(ready)
        take(p)
        if cut != last:
            last = frozenset(cut)
            yield last
        for q in before[p]:
            missing[q] -= 1
            if not missing[q] and q not in reached | beyond:
                heapq.heappush(ready, (min(members[q]), q))
