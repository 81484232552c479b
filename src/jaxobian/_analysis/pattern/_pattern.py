"""Pattern: which elements of J can be nonzero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..._lazy import sparse
from ._rows import shape_of


@dataclass(frozen=True, eq=False)
class Pattern:
    """The elements of a Jacobian that can be nonzero: all that are for some values of the arguments, perhaps more.

    Rows are the elements of the outputs, columns those of the differentiated inputs, leaf after leaf, each in row-major
    order. Made by `sparsity`.

    Attributes:
        matrix: the pattern in compressed sparse rows, indices sorted.
    """

    matrix: sparse.csr_matrix

    @property
    def shape(self) -> tuple[int, int]:
        """Elements of the outputs, elements of the inputs."""
        return shape_of(self.matrix)

    @property
    def nnz(self) -> int:
        """How many elements can be nonzero."""
        return int(self.matrix.nnz)

    @property
    def density(self) -> float:
        """The fraction of all elements that can be nonzero."""
        return self.nnz / max(1, self.shape[0] * self.shape[1])

    def to_scipy(self) -> sparse.csr_matrix:
        """A copy as a SciPy matrix of booleans."""
        return self.matrix.copy()

    def todense(self) -> np.ndarray:
        """A boolean array of the whole pattern."""
        return self.matrix.toarray()

    def spy(self, ax: Any = None, **options: Any) -> Any:
        """Draw the pattern; needs matplotlib.

        Args:
            ax: matplotlib axes to draw into; by default those of a new figure.
            **options: for `matplotlib.axes.Axes.spy`.

        Returns:
            The axes.
        """
        if ax is None:
            import matplotlib.pyplot as plt

            ax = plt.figure(layout="constrained").gca()
        options.setdefault("markersize", max(0.3, min(5.0, 300 / max(1, *self.shape))))
        ax.spy(self.matrix, **options)
        ax.set_title(f"{self.shape[0]:,} x {self.shape[1]:,}, {self.nnz:,} nonzeros", fontsize="medium")
        return ax

    def __repr__(self) -> str:
        rows, columns = self.shape
        return f"Pattern({rows} x {columns}, {self.nnz} nonzeros)"


def rows_of(matrix: sparse.csr_matrix) -> np.ndarray:
    """The row of each nonzero."""
    return np.repeat(np.arange(shape_of(matrix)[0]), np.diff(matrix.indptr))
