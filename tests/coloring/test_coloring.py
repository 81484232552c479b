"""Colorings are valid, by verifiers that are slow and obviously right; some optima are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from jaxobian._coloring import Coloring, _weights, bicolored, color_columns, color_rows, lower_bounds, star


def pattern(dense: np.ndarray) -> sparse.csr_matrix:
    matrix = sparse.csr_matrix(dense.astype(bool))
    matrix.sort_indices()
    return matrix


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


def banded(n: int, *offsets: int, periodic: bool = False) -> np.ndarray:
    i, j = np.indices((n, n))
    apart = (j - i) % n if periodic else j - i
    return np.isin(apart, [o % n if periodic else o for o in offsets])


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


def five_point(n: int) -> np.ndarray:
    i, j = np.indices((n, n)).reshape(2, -1)
    away = [np.abs(a[:, None] - a) for a in (i, j)]
    return away[0] + away[1] <= 1


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


def test_what_cannot_win_is_given_up() -> None:
    dense = np.ones((5, 50), bool)
    assert color_columns(pattern(dense), below=50) is None
    assert color_rows(pattern(dense), below=6) is not None
    assert star(pattern(np.ones((3, 4), bool))) is None


def test_lattices_of_many_axes() -> None:
    weights = _weights(8, 2048, 2000)
    assert weights.shape == (2000, 8)
    assert (weights[:, :-3] == 0).all()
    np.testing.assert_array_equal(weights[:, -2], np.arange(2000))
    np.testing.assert_array_equal(_weights(3, 2, 100), [[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]])
