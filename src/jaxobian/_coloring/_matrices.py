"""What all colorings need: how much they may look at, and small questions to matrices and colors."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._lazy import sparse

# Work that improving a coloring may take, in nonzeros looked at: the same on every machine.
EFFORT = 1_000_000


def n_colors(colors: np.ndarray) -> int:
    return int(colors.max(initial=-1)) + 1


def shape_of(matrix: Any) -> tuple[int, int]:
    return matrix.shape


def nonzeros(matrix: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each nonzero, in the order of the matrix."""
    return np.repeat(np.arange(shape_of(matrix)[0]), np.diff(matrix.indptr)), matrix.indices.astype(np.int64)
