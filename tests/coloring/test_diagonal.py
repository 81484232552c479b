"""Colors of a diagonal are valid, by a verifier that is slow and obviously right; most optima are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patterns import banded, bipartite, cycle, five_point, graph, grid, path, pattern
from scipy import sparse

from jaxobian._coloring import color_diagonal
from jaxobian._coloring._diagonal import _saturated
from jaxobian._coloring._distance_two import turan
from jaxobian._coloring._lattices import _apart


def assert_reads_the_diagonal(colors: np.ndarray, dense: np.ndarray) -> None:
    """Push and pull each color with numbers, of which no two cancel, and read its diagonal elements off."""
    J = np.where(dense, np.random.default_rng(0).integers(1, 1000, dense.shape), 0)
    assert colors.shape == (len(J),)
    for i in range(len(J)):
        assert (colors[i] >= 0) == dense[i, i]
        if colors[i] >= 0:
            seed = colors == colors[i]
            assert J[i] @ seed == J[i, i] == seed @ J[:, i]
    assert set(colors.tolist()) - {-1} == set(range(colors.max(initial=-1) + 1))


def colored(dense: np.ndarray, *shapes: tuple[int, ...]) -> int:
    """How many colors there are; what they bring back is checked."""
    colors = color_diagonal(pattern(dense), shapes)
    assert colors is not None
    assert_reads_the_diagonal(colors, dense)
    return int(colors.max(initial=-1)) + 1


def squares(most: int) -> st.SearchStrategy[np.ndarray]:
    """Patterns with any number of nonzeros, the diagonal and all else apart."""
    return st.tuples(st.integers(1, most), st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1)).map(_square)


def _square(parts: tuple[int, int, float, float]) -> np.ndarray:
    n, seed, density, diagonal = parts
    random = np.random.default_rng(seed)
    return np.where(np.eye(n), random.random(n) <= diagonal, random.random((n, n)) < density**2)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(squares(16), st.booleans())
def test_random_patterns(dense: np.ndarray, shaped: bool) -> None:
    shapes = [(len(dense),)] if shaped else []
    count = colored(dense, *shapes)
    assert count <= np.count_nonzero(dense.diagonal())
    assert colored(dense.T, *shapes) == count == colored(dense | dense.T, *shapes)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(squares(6))
def test_small_patterns_take_the_fewest_colors(dense: np.ndarray) -> None:
    best = fewest(dense)
    assert colored(dense) == best
    # A bound is never more than the fewest.
    assert color_diagonal(pattern(dense), below=best + 1) is not None


def fewest(dense: np.ndarray) -> int:
    """The fewest colors, by trying all colorings."""
    full = np.flatnonzero(dense.diagonal())
    edges = [(a, b) for a, b in itertools.permutations(range(len(full)), 2) if dense[full[a], full[b]]]
    for count in itertools.count():
        for colors in itertools.product(range(count), repeat=len(full)):
            if all(colors[a] != colors[b] for a, b in edges):
                return count
    raise AssertionError


def box(*sides: int, radius: int) -> np.ndarray:
    """Each element of a grid depends on all that are at most so far from it along every axis."""
    dense = np.ones((1, 1), bool)
    for side in sides:
        dense = np.kron(dense, banded(side, *range(-radius, radius + 1)))
    return dense


def arrowhead(n: int) -> np.ndarray:
    return bipartite(1, n - 1)


def hollow(n: int) -> np.ndarray:
    return ~np.eye(n, dtype=bool)


SEVEN_POINT = np.kron(five_point(5), np.eye(5)).astype(bool) | np.kron(np.eye(25), path(5)).astype(bool)
TORUS = np.kron(cycle(9), np.eye(9)).astype(bool) | np.kron(np.eye(9), cycle(9)).astype(bool)
ALTERNATING = np.where(np.eye(20), np.arange(20) % 2, 1).astype(bool)
# The pattern, the shapes of what its columns are elements of, and the fewest colors. As many as a clique has vertices
# are needed, two where there is an edge, three where there is an odd cycle; that so many do is said where it is not
# plain.
KNOWN = {
    "nothing": (np.zeros((4, 4), bool), [(4,)], 0),
    "no diagonal": (hollow(6), [(6,)], 0),
    "a diagonal": (np.eye(20, dtype=bool), [(20,)], 1),
    "two diagonals": (banded(20, 0, 1), [(20,)], 2),
    "one nonzero beside the diagonal": (np.triu(np.ones((2, 2), bool)), [(2,)], 2),
    "tridiagonal": (banded(30, -1, 0, 1), [(30,)], 2),
    "pentadiagonal": (banded(30, *range(-2, 3)), [(30,)], 3),
    "pentadiagonal below": (banded(30, 0, -1, -2), [(30,)], 3),
    "tridiagonal, periodic, even": (cycle(20), [(20,)], 2),
    "tridiagonal, periodic, odd": (cycle(21), [(21,)], 3),
    "five points": (five_point(8), [(8, 8)], 2),  # a checkerboard
    "five points, periodic, odd": (TORUS, [(9, 9)], 3),  # (i + j) mod 3
    "seven points": (SEVEN_POINT, [(5, 5, 5)], 2),
    "nine points": (box(7, 8, radius=1), [(7, 8)], 4),  # those of a square are a clique; so are a cube's
    "twenty-seven points": (box(4, 4, 4, radius=1), [(4, 4, 4)], 8),
    # Both fields of two neighbors are a clique of 4; a checkerboard of two colors for each field suffices.
    "two fields": (np.kron(np.ones((2, 2), bool), five_point(7)), [(7, 7), (7, 7)], 4),
    "two fields, first": (np.kron(np.ones((2, 2), bool), five_point(7)), [(2, 7, 7)], 4),
    "two fields, last": (np.kron(five_point(7), np.ones((2, 2), bool)), [(7, 7, 2)], 4),
    # Three convolutions of 3 x 3: any 4 x 4 neighbors are a clique, and i mod 4 with j mod 4 tells all others apart.
    "three convolutions": (box(11, 10, radius=3), [(1, 11, 10, 1)], 16),
    "three convolutions of three channels": (
        np.kron(box(8, 8, radius=3), np.ones((3, 3), bool)), [(1, 8, 8, 3)], 48,
    ),
    "an arrowhead": (arrowhead(40), [(40,)], 2),
    "an arrowhead whose head is zero": (np.where(np.eye(40), np.arange(40) > 0, arrowhead(40)), [(40,)], 1),
    "a column": (np.eye(20, dtype=bool) | (np.arange(20) == 3), [(20,)], 2),
    "dense": (np.ones((25, 25), bool), [(25,)], 25),
    "dense, half of the diagonal": (ALTERNATING, [(20,)], 10),
    "upper triangular": (np.triu(np.ones((25, 25), bool)), [(25,)], 25),
    "blocks": (np.kron(np.eye(9), np.ones((5, 5))).astype(bool), [(9, 5)], 5),
    "blocks, taken apart": (np.kron(np.ones((5, 5)), np.eye(9)).astype(bool), [(5, 9)], 5),
    "complete bipartite": (bipartite(7, 9), [(16,)], 2),
    "a triangle, and some that are alone": (graph(9, (2, 4), (2, 7), (4, 7)), [(9,)], 3),
    "a wheel of five spokes": (graph(6, *((i, (i + 1) % 5) for i in range(5)), *((i, 5) for i in range(5))), [(6,)], 4),
}  # fmt: skip


@pytest.mark.parametrize(("dense", "shapes", "best"), KNOWN.values(), ids=KNOWN)
def test_known_optima(dense: np.ndarray, shapes: list[tuple[int, ...]], best: int) -> None:
    assert colored(dense, *shapes) == best
    assert color_diagonal(pattern(dense), shapes, best + 1) is not None


# An odd wheel has no clique of so many, so that no bound is as high.
@pytest.mark.parametrize(("dense", "shapes", "best"), list(KNOWN.values())[:-1], ids=list(KNOWN)[:-1])
def test_what_cannot_win_is_given_up(dense: np.ndarray, shapes: list[tuple[int, ...]], best: int) -> None:
    assert color_diagonal(pattern(dense), shapes, best) is None


def test_without_shapes() -> None:
    assert colored(five_point(8)) == 2
    assert colored(np.kron(np.ones((2, 2), bool), five_point(7))) == 4
    assert colored(box(11, 10, radius=3)) <= 20


def test_a_large_grid() -> None:
    side = 256
    line = sparse.csr_matrix(banded(side, -1, 0, 1), dtype=np.int64)
    matrix = sparse.csr_matrix(sparse.kronsum(line, line), dtype=bool)
    colors = color_diagonal(matrix, [(side, side)])
    i, j = np.indices((side, side)).reshape(2, -1)
    np.testing.assert_array_equal(colors, (i + j) % 2)


def kneser(n: int, k: int) -> np.ndarray:
    """Subsets of k out of n, joined where they have nothing in common."""
    subsets = [set(s) for s in itertools.combinations(range(n), k)]
    pairs = itertools.combinations(range(len(subsets)), 2)
    return graph(len(subsets), *((a, b) for a, b in pairs if not subsets[a] & subsets[b]))


def mycielskian(dense: np.ndarray) -> np.ndarray:
    """A graph with as many triangles as the given one, of which there may be none, that takes one color more."""
    n = len(dense)
    edges = [(a, b) for a, b in np.argwhere(dense).tolist() if a != b]
    return graph(2 * n + 1, *edges, *((a, n + b) for a, b in edges), *((n + a, 2 * n) for a in range(n)))


def queens(n: int) -> np.ndarray:
    """Squares of a chessboard, joined where a queen moves from one to the other."""
    i, j = np.indices((n, n)).reshape(2, -1)
    down, across = i[:, None] - i, j[:, None] - j
    return (down == 0) | (across == 0) | (np.abs(down) == np.abs(across))


# Lovász, Kneser's conjecture, chromatic number, and homotopy (Journal of Combinatorial Theory A 25, 1978): n - 2k + 2.
# Mycielski, Sur le coloriage des graphs (Colloquium Mathematicum 3, 1955). Queens: A088202 of the OEIS.
PUBLISHED = {
    "Petersen's graph": (kneser(5, 2), 3),
    "pairs of six": (kneser(6, 2), 4),
    "pairs of seven": (kneser(7, 2), 5),
    "triples of seven": (kneser(7, 3), 3),
    "Grötzsch's graph": (mycielskian(cycle(5)), 4),
    "Mycielski's of 23": (mycielskian(mycielskian(cycle(5))), 5),
    "queens on 5 x 5": (queens(5), 5),
    "queens on 6 x 6": (queens(6), 7),
    "queens on 7 x 7": (queens(7), 7),
    "queens on 8 x 8": (queens(8), 9),
}


@pytest.mark.parametrize(("dense", "published"), PUBLISHED.values(), ids=PUBLISHED)
def test_published_chromatic_numbers_bound_it(dense: np.ndarray, published: int) -> None:
    # Greedy coloring takes at most one color more than a vertex has neighbors, and may miss the optimum.
    assert published <= colored(dense) <= dense.sum(axis=1).max()
    assert color_diagonal(pattern(dense), below=published + 1) is not None


@pytest.mark.parametrize("name", ["Petersen's graph", "Grötzsch's graph", "Mycielski's of 23", "triples of seven"])
def test_published_chromatic_numbers_that_are_reached(name: str) -> None:
    dense, published = PUBLISHED[name]
    assert colored(dense) == published


def test_the_same_twice() -> None:
    dense = np.random.default_rng(0).random((60, 60)) < 0.1
    first, second = (color_diagonal(pattern(dense), [(6, 10)]) for _ in range(2))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first, second)


def test_bounds_by_edges() -> None:
    assert [turan(n, n * (n - 1) // 2) for n in range(6)] == list(range(6))
    assert [turan(8, edges) for edges in (0, 1, 16, 17)] == [1, 2, 2, 3]  # up to 16, it may be bipartite
    assert colored(grid(3, 4)) == 2


@settings(max_examples=30, deadline=None, derandomize=True)
@given(squares(14))
def test_the_next_vertex_has_neighbors_of_the_most_colors(dense: np.ndarray) -> None:
    near = (dense | dense.T) & hollow(len(dense))
    left = sorted(np.flatnonzero(near.any(axis=1)).tolist(), key=lambda v: -near[v].sum())
    colors = np.full(len(dense), -1)
    order = []
    while left:
        seen = {v: set(colors[near[v]].tolist()) - {-1} for v in left}
        order.append(max(left, key=lambda v: len(seen[v])))  # the first of them
        left.remove(order[-1])
        colors[order[-1]] = next(c for c in itertools.count() if c not in seen[order[-1]])
    assert _saturated(pattern(near)) == order


@pytest.mark.parametrize("count", [3, 1_000_000])
def test_no_row_has_a_color_twice(count: int) -> None:
    rows = np.array([0, 0, 2, 2, 5])
    assert _apart(rows, np.array([0, 1, 2, 1, 2]), count)
    assert not _apart(rows, np.array([0, 1, 2, 2, 2]), count)
