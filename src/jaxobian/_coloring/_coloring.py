"""Pattern -> Coloring: all columns pushed, or all rows pulled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .._lazy import sparse
from ._distance_two import distance_two, least_colors
from ._lattices import Shapes
from ._matrices import n_colors, nonzeros, shape_of


@dataclass(frozen=True, eq=False)
class Coloring:
    """Passes that bring back every nonzero of a pattern, and where each is read off.

    Attributes:
        columns: the color of each column; -1 where it is not pushed.
        rows: the color of each row; -1 where it is not pulled.
        n_columns, n_rows: how many colors of each there are.
        pulled: for each nonzero in the order of the pattern, whether a pulled row brings it back.
        color: the pass that does.
        landing: the element of that pass's result: a row of a pushed pass, a column of a pulled one.
    """

    columns: np.ndarray
    rows: np.ndarray
    n_columns: int
    n_rows: int
    pulled: np.ndarray
    color: np.ndarray
    landing: np.ndarray

    @property
    def passes(self) -> int:
        return self.n_columns + self.n_rows


def color_columns(matrix: sparse.csr_matrix, shapes: Shapes = (), below: float = math.inf) -> Coloring | None:
    """Push all columns.

    Args:
        matrix: the pattern.
        shapes: of the arrays whose elements the columns are.
        below: give up where it is plain that not fewer colors than that will do.
    """
    colors = distance_two(matrix, shapes, below)
    if colors is None:
        return None
    height, _ = shape_of(matrix)
    i, j = nonzeros(matrix)
    none = np.zeros(len(i), bool)
    return Coloring(colors, np.full(height, -1), n_colors(colors), 0, none, colors[j], i)


def color_rows(matrix: sparse.csr_matrix, shapes: Shapes = (), below: float = math.inf) -> Coloring | None:
    """Pull all rows."""
    colors = distance_two(sparse.csr_matrix(matrix.T), shapes, below)
    if colors is None:
        return None
    _, width = shape_of(matrix)
    i, j = nonzeros(matrix)
    return Coloring(np.full(width, -1), colors, 0, n_colors(colors), np.ones(len(i), bool), colors[i], j)


def lower_bounds(matrix: sparse.csr_matrix) -> tuple[int, int]:
    """The least colors that the columns and the rows can take."""
    return least_colors(matrix), least_colors(sparse.csr_matrix(matrix.T))
