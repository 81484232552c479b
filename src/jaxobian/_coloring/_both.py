"""The few dense rows are pulled and all else pushed, or the few dense columns pushed and all else pulled."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .._lazy import sparse
from ._coloring import Coloring
from ._distance_two import distance_two
from ._lattices import Shapes
from ._matrices import n_colors, nonzeros, shape_of

# Splits into dense and other rows that are looked at.
_SPLITS = 12


def bicolored(
    matrix: sparse.csr_matrix,
    columns: Shapes = (),
    rows: Shapes = (),
    price: Callable[[int, int], float] = lambda pushed, pulled: pushed + pulled,
    below: float = math.inf,
) -> Coloring | None:
    """Pull the dense rows and push the rest, or push the dense columns and pull the rest.

    Args:
        matrix: the pattern.
        columns: shapes of the arrays whose elements the columns are.
        rows: the same of the rows.
        price: what so many pushes and pulls take.
        below: give up where it is plain that it will take no less.
    """
    found = [_split(matrix, columns, price, below)]
    mirrored = _split(sparse.csr_matrix(matrix.T), rows, lambda pushed, pulled: price(pulled, pushed), below)
    if mirrored is not None:
        found.append(_mirrored(mirrored, matrix))
    possible = [c for c in found if c is not None]
    return min(possible, key=lambda c: price(c.n_columns, c.n_rows), default=None)


def _split(
    matrix: sparse.csr_matrix, shapes: Shapes, price: Callable[[int, int], float], below: float
) -> Coloring | None:
    """Pull the rows with the most nonzeros, and push what is left; as many as seems best."""
    height = shape_of(matrix)[0]
    lengths = np.diff(matrix.indptr)
    limits = np.unique(lengths)[::-1][1 : _SPLITS + 1]
    guesses = {int(t): price(int(t), int((lengths > t).sum())) for t in limits}
    if not guesses:
        return None
    limit = min(guesses, key=guesses.__getitem__)
    if guesses[limit] >= below:
        return None
    dense = np.flatnonzero(lengths > limit)
    left = np.where(lengths <= limit, lengths, 0)
    sparser = sparse.csr_matrix(
        (matrix.data[np.repeat(lengths <= limit, lengths)], matrix.indices[np.repeat(lengths <= limit, lengths)],
         np.concatenate([[0], np.cumsum(left)])), shape=shape_of(matrix),
    )  # fmt: skip
    columns = distance_two(sparser, shapes)
    few = distance_two(sparse.csr_matrix(matrix[dense].T))
    if columns is None or few is None:
        return None
    rows = np.full(height, -1)
    rows[dense] = few
    i, j = nonzeros(matrix)
    pulled = lengths[i] > limit
    return Coloring(
        columns, rows, n_colors(columns), n_colors(few), pulled, np.where(pulled, rows[i], columns[j]),
        np.where(pulled, j, i),
    )  # fmt: skip


def _mirrored(coloring: Coloring, matrix: sparse.csr_matrix) -> Coloring:
    """A coloring of the transpose as one of the matrix itself."""
    i, j = nonzeros(sparse.csr_matrix(matrix.T))
    order = np.lexsort((i, j))  # the transpose's nonzeros in the order of the matrix's
    return Coloring(
        coloring.rows, coloring.columns, coloring.n_rows, coloring.n_columns, ~coloring.pulled[order],
        coloring.color[order], coloring.landing[order],
    )  # fmt: skip
