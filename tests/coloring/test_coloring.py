"""Colorings are valid, by verifiers that are slow and obviously right; some optima are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patterns import banded, bipartite, cycle, five_point, graph, grid, path, pattern

from jaxobian._coloring import Coloring, bicolored, color_columns, color_rows, lower_bounds, star
from jaxobian._coloring._lattices import weights_of


def assert_recovers(coloring: Coloring, dense: np.ndarray, *, symmetric: bool = False) -> None:
    """Make the passes with numbers, and read every nonzero off where the coloring says."""
    random = np.random.default_rng(0)
    J = np.where(dense, random.integers(1, 1000, dense.shape), 0)
    J = np.triu(J) + np.triu(J, 1).T if symmetric else J
    pushed = np.stack([J @ (coloring.columns == c) for c in range(coloring.n_columns)] or [np.zeros(len(J))])
    pulled = np.stack([(coloring.rows == c) @ J for c in range(coloring.n_rows)] or [np.zeros(J.shape[1])])
    i, j = np.nonzero(dense)
    color, landing = coloring.color, coloring.landing
    read = np.array([
        pulled[c, at] if back else pushed[c, at]
        for c, at, back in zip(color, landing, coloring.pulled, strict=True)
    ])  # fmt: skip
    np.testing.assert_array_equal(read, J[i, j])


dense_patterns = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10_000), st.floats(0.05, 0.9)).map(
    lambda p: np.random.default_rng(p[2]).random((p[0], p[1])) < p[3]
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(dense_patterns)
def test_random_patterns(dense: np.ndarray) -> None:
    matrix = pattern(dense)
    for make in (color_columns, color_rows, bicolored):
        coloring = make(matrix)
        # Where all rows and columns are equally full there is nothing to split.
        assert coloring is not None or make is bicolored
        if coloring is not None:
            assert_recovers(coloring, dense)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(dense_patterns)
def test_random_symmetric_patterns(dense: np.ndarray) -> None:
    n = min(dense.shape)
    square = dense[:n, :n] | dense[:n, :n].T | np.eye(n, dtype=bool)
    coloring = star(pattern(square))
    assert coloring is not None
    assert_recovers(coloring, square, symmetric=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 10_000))
def test_small_patterns_take_the_fewest_colors(height: int, width: int, seed: int) -> None:
    dense = np.random.default_rng(seed).random((height, width)) < 0.4
    coloring = color_columns(pattern(dense))
    assert coloring is not None
    filled = [k for k in range(width) if dense[:, k].any()]
    for count in range(coloring.n_columns):
        for colors in itertools.product(range(count), repeat=len(filled)):
            clash = any(
                a == b and (dense[:, p] & dense[:, q]).any()
                for (p, a), (q, b) in itertools.combinations(zip(filled, colors, strict=True), 2)
            )
            assert clash, "fewer colors would do"


@pytest.mark.parametrize(
    ("dense", "best"),
    [
        (np.eye(20, dtype=bool), 1),
        (banded(30, -1, 0, 1), 3),
        (banded(30, -1, 0, 1, periodic=True), 3),
        (banded(31, -1, 0, 1, periodic=True), 4),  # the square of a cycle whose length 3 does not divide
        (banded(40, -2, -1, 0, 1, 2), 5),
        (np.ones((4, 6), bool), 6),
        (np.zeros((3, 4), bool), 0),
    ],
)
def test_known_optima(dense: np.ndarray, best: int) -> None:
    coloring = color_columns(pattern(dense), [(dense.shape[1],)])
    assert coloring is not None
    assert coloring.passes == best
    assert_recovers(coloring, dense)


def test_a_stencil_on_a_grid_takes_a_lattice() -> None:
    dense = five_point(9)
    coloring = color_columns(pattern(dense), [(9, 9)])
    assert coloring is not None
    assert coloring.passes == 5 == lower_bounds(pattern(dense))[0]
    assert_recovers(coloring, dense)


def test_an_arrowhead_takes_both_sides() -> None:
    dense = np.eye(40, dtype=bool)
    dense[0] = dense[:, 0] = True
    both, columns = bicolored(pattern(dense)), color_columns(pattern(dense))
    assert both is not None
    assert columns is not None
    assert (both.passes, columns.passes) == (3, 40)
    assert_recovers(both, dense)
    symmetric = star(pattern(dense))
    assert symmetric is not None
    assert symmetric.passes == 2
    assert_recovers(symmetric, dense, symmetric=True)
    mirrored = bicolored(pattern(np.vstack([dense, np.roll(dense, 1, 0)])))
    assert mirrored is not None
    assert_recovers(mirrored, np.vstack([dense, np.roll(dense, 1, 0)]))


# Published ----------------------------------------------------------------------------------------------------


# Gebremedhin, Manne and Pothen, What color is your Jacobian? (SIAM Review 47, 2005): figures 4.1 and 6.1. The second is
# figure 1 of Gebremedhin, Pothen, Tarafdar and Walther, Efficient computation of sparse Hessians (2009), too.
FIGURE_4_1 = graph(6, (0, 1), (1, 2), (1, 4), (1, 5), (2, 3), (3, 5))
FIGURE_6_1 = graph(
    10, (0, 1), (0, 6), (1, 2), (1, 4), (2, 3), (2, 5), (3, 9), (4, 5), (4, 7), (5, 8), (6, 7), (7, 8), (8, 9)
)  # fmt: skip
# The symmetric pattern, the colors of a star coloring that was published, and whether fewer are known to be impossible:
# Fertin, Raspaud and Reed, Star coloring of graphs (Journal of Graph Theory 47, 2004).
STARS = {
    "figure 4.1": (FIGURE_4_1, 3, False),
    "figure 6.1": (FIGURE_6_1, 5, False),
    "a path": (path(9), 3, True),
    "a cycle": (cycle(9), 3, True),
    "a cycle of five": (cycle(5), 4, True),
    "a complete graph": (np.ones((7, 7), bool), 7, True),
    "a star": (bipartite(1, 8), 2, True),
    "a complete bipartite graph": (bipartite(3, 8), 4, True),
    "a ladder": (grid(2, 8), 4, True),
    "a grid": (grid(6, 7), 5, True),
}


@pytest.mark.parametrize(("dense", "published", "optimal"), STARS.values(), ids=STARS)
def test_star_colorings_are_as_good_as_published_ones(dense: np.ndarray, published: int, optimal: bool) -> None:
    coloring = star(pattern(dense))
    assert coloring is not None
    assert_recovers(coloring, dense, symmetric=True)
    assert coloring.passes <= published
    assert not optimal or coloring.passes == published


# The least colors of the square of each graph, where columns of a color are more than two edges apart: at least one for
# a vertex and each of its neighbors. McCormick, Optimal approximation of sparse Hessians and its equivalence to a graph
# coloring problem (Mathematical Programming 26, 1983).
@pytest.mark.parametrize(
    ("dense", "shape", "best"),
    [
        (FIGURE_4_1, (6,), 5),  # the second vertex has four neighbors
        (FIGURE_6_1, (10,), 5),
        (path(9), (9,), 3),
        (cycle(9), (9,), 3),
        (cycle(5), (5,), 5),
        (bipartite(3, 8), (11,), 11),
        (grid(6, 7), (6, 7), 5),
    ],
    ids=["figure 4.1", "figure 6.1", "a path", "a cycle", "a cycle of five", "a complete bipartite graph", "a grid"],
)
def test_columns_two_edges_apart_share_a_color(dense: np.ndarray, shape: tuple[int, ...], best: int) -> None:
    coloring = color_columns(pattern(dense), [shape])
    assert coloring is not None
    assert coloring.passes == best
    assert_recovers(coloring, dense)


def test_columns_of_which_all_pairs_share_a_row_are_not_tried() -> None:
    # The Jacobian of the outer product x x^T: every row has two nonzeros, every two columns a row.
    n = 40
    dense = np.zeros((n, n, n), bool)
    for i, j in itertools.product(range(n), range(n)):
        dense[i, j, [i, j]] = True
    matrix = pattern(dense.reshape(n * n, n))
    assert lower_bounds(matrix)[0] == n
    assert color_columns(matrix, below=n) is None
    some = pattern(dense.reshape(n * n, n)[: n * n // 2])
    coloring = color_columns(some)
    assert coloring is not None
    assert 2 <= lower_bounds(some)[0] <= coloring.passes < n


def test_what_cannot_win_is_given_up() -> None:
    dense = np.ones((5, 50), bool)
    assert color_columns(pattern(dense), below=50) is None
    assert color_rows(pattern(dense), below=6) is not None
    assert star(pattern(np.ones((3, 4), bool))) is None


def test_lattices_of_many_axes() -> None:
    weights = weights_of(8, 2048, 2000)
    assert weights.shape == (2000, 8)
    assert (weights[:, :-3] == 0).all()
    np.testing.assert_array_equal(weights[:, -2], np.arange(2000))
    np.testing.assert_array_equal(weights_of(3, 2, 100), [[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]])
