"""Pattern: which elements of J can be nonzero."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np

from ..._lazy import sparse
from ._rows import shape_of


@dataclass(frozen=True, eq=False)
class Pattern:
    """The elements of a Jacobian that can be nonzero: all that are for some values of the arguments, perhaps more.

    Rows are the elements of the outputs, columns those of the differentiated inputs, leaf after leaf, each in row-major
    order. Made by `sparsity`, or of a matrix of your own by `Pattern.from_scipy`. Two that hold the same elements are
    equal.

    Attributes:
        matrix: the pattern in compressed sparse rows, indices sorted.
    """

    matrix: sparse.csr_matrix

    @classmethod
    def from_scipy(cls, matrix: Any) -> Pattern:
        """The pattern of a matrix of SciPy's, or of a NumPy array: all elements that are stored, or are not zero.

        Args:
            matrix: of shape (elements of the outputs, elements of the inputs).

        Raises:
            ValueError: it is no matrix.

        Example:
            >>> import jaxobian as jb
            >>> from scipy.sparse import eye_array
            >>> jb.Pattern.from_scipy(eye_array(4))
            Pattern(4 x 4, 4 nonzeros)
        """
        if not sparse.issparse(matrix) and np.ndim(matrix) != 2:
            raise ValueError(f"a pattern is a matrix; got {type(matrix).__name__} of shape {np.shape(matrix)}.")
        found = sparse.coo_matrix(matrix)
        stored = np.ones(len(found.row), bool)  # explicit zeros, too
        made = sparse.csr_matrix((stored, (found.row, found.col)), shape=found.shape)
        made.sum_duplicates()
        return cls(made)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Pattern:
        """The pattern that `save` has written to a file.

        Args:
            path: of the file, `.npz`; any sparse matrix that `scipy.sparse.save_npz` wrote will do.
        """
        return cls.from_scipy(sparse.load_npz(path))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the pattern to a file, for `Pattern.load`.

        Args:
            path: of the file, `.npz`.

        Example:
            >>> import jax.numpy as jnp
            >>> import jaxobian as jb
            >>> pattern = jb.sparsity(lambda x: x[1:] - x[:-1], jnp.zeros(4))
            >>> path = getfixture("tmp_path") / "pattern.npz"
            >>> pattern.save(path)
            >>> jb.Pattern.load(path) == pattern
            True
        """
        sparse.save_npz(path, self.matrix)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pattern):
            return NotImplemented
        return self.shape == other.shape and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    @cached_property
    def _digest(self) -> bytes:
        """Of where its elements are."""
        parts = (np.asarray(part, np.int64).tobytes() for part in (self.matrix.indptr, self.matrix.indices))
        return hashlib.blake2b(b"".join(parts)).digest()

    @property
    def shape(self) -> tuple[int, int]:
        """Elements of the outputs, elements of the inputs."""
        return shape_of(self.matrix)

    def symmetrized(self) -> Pattern:
        """The elements of it, and those of its transpose."""
        return Pattern.from_scipy(self.matrix + self.matrix.T)

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
