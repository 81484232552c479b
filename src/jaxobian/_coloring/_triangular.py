"""Block-triangular form: rows and columns in an order in which all nonzeros are in, or on one side of, small blocks.

    det P J Q = product of det J[rows, columns] over the diagonal blocks

Each column is matched to a row in which it can be nonzero; the blocks are the strongly connected components of the
graph that joins a column to those in whose matched row it is. They do not depend on which matching is taken.

Source: Dulmage and Mendelsohn, Coverings of bipartite graphs (Canadian Journal of Mathematics 10, 1958); Pothen and
Fan, Computing the block triangular form of a sparse matrix (ACM Transactions on Mathematical Software 16, 1990).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .._lazy import csgraph, sparse
from ._matrices import nonzeros, shape_of


@dataclass(frozen=True, eq=False)
class Triangular:
    """The diagonal blocks of a square pattern in block-triangular form.

    Attributes:
        blocks: rows and columns, each (count, size), of the blocks of each size, the smallest first.
        sign: +1 or -1, that of the permutation which brings the rows of the blocks to their columns.
    """

    blocks: Sequence[tuple[np.ndarray, np.ndarray]]
    sign: int

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """How many blocks there are, and of which size."""
        return [columns.shape for _, columns in self.blocks]

    def needed(self, matrix: sparse.csr_matrix) -> sparse.csr_matrix:
        """Of a pattern of the same shape what is in the blocks."""
        height, width = shape_of(matrix)
        of_row, of_column, number = np.empty(height, np.int64), np.empty(width, np.int64), 0
        for rows, columns in self.blocks:
            numbers = np.arange(number, number + len(rows))[:, None]
            of_row[rows], of_column[columns], number = numbers, numbers, number + len(rows)
        i, j = nonzeros(matrix)
        inside = of_row[i] == of_column[j]
        found = sparse.csr_matrix((np.ones(inside.sum(), bool), (i[inside], j[inside])), shape=(height, width))
        found.sort_indices()
        return found


def block_triangular(matrix: sparse.csr_matrix) -> Triangular | None:
    """The diagonal blocks; None where the determinant is zero whatever the nonzeros are.

    Args:
        matrix: the pattern, square.
    """
    width = shape_of(matrix)[1]
    row_of = csgraph.maximum_bipartite_matching(matrix, perm_type="row").astype(np.int64)
    if (row_of < 0).any():
        return None
    _, component = csgraph.connected_components(matrix[row_of], directed=True, connection="strong")
    order = np.argsort(component, kind="stable")
    counts = np.bincount(component, minlength=0)
    starts, blocks = np.cumsum(counts) - counts, []
    for size in np.unique(counts):
        columns = order[starts[counts == size][:, None] + np.arange(size)]
        blocks.append((row_of[columns], columns))
    return Triangular(blocks, permutation_sign(row_of) if width else 1)


def permutation_sign(permutation: np.ndarray) -> int:
    """Of a permutation: each cycle of even length turns it."""
    n = len(permutation)
    arrows = sparse.csr_matrix((np.ones(n, bool), (np.arange(n), permutation)), shape=(n, n))
    cycles, _ = csgraph.connected_components(arrows, directed=False)
    return -1 if (n - cycles) % 2 else 1
