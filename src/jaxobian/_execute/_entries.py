"""Blocks of J of which the elements are known that can be nonzero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._analysis import rows_of
from .._arrays import block_dtype
from .._lazy import sparse
from .._outputs import indexed, scattered
from .._trace import Ends


@dataclass(frozen=True)
class Entries:
    """The elements of a block that can be nonzero.

    Attributes:
        data: (batch, elements).
        index: their sorted flat indices in the block of one example.
        size: elements of that block.
        shape: of the whole block, examples first.
    """

    data: Any
    index: np.ndarray
    size: int
    shape: tuple[int, ...]
    has_known_zeros: bool = True

    def dense(self) -> Any:
        """All elements."""
        return scattered(self.data, self.index, self.shape[self.data.ndim - 1 :])

    def entries(self) -> tuple[Any, np.ndarray]:
        """These, of all examples."""
        examples = math.prod(self.data.shape[:-1])
        every = np.arange(examples)[:, None] * self.size + self.index
        return self.data.reshape(-1), every.reshape(-1)

    def added_to(self, block: Any) -> Any:
        """A dense block, with these added; None stands for zeros."""
        if block is None:
            return self.dense()
        batch = self.data.shape[:-1]
        sizes, places = indexed(self.index, self.shape[len(batch) :])
        added = (
            block.reshape(*batch, *sizes)
            .at[..., *places]
            .add(self.data, indices_are_sorted=True, unique_indices=True, mode="promise_in_bounds")
        )
        return added.reshape(self.shape)


def known_entries(ends: Ends, matrix: sparse.csr_matrix) -> list[list[Entries]]:
    """The blocks that numbers make which are the same for every x, and for every example."""
    return [
        [_known(ends, matrix, o, i, row, column) for i, column in enumerate(_starts(ends.inputs.sizes))]
        for o, row in enumerate(_starts(ends.outputs.sizes))
    ]


def _starts(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[:k]) for k in range(len(sizes))]


def _known(ends: Ends, matrix: sparse.csr_matrix, o: int, i: int, row: int, column: int) -> Entries:
    m, n = ends.outputs.sizes[o], ends.inputs.sizes[i]
    ours, index = in_block(matrix, (row, m), (column, n))
    numbers = jnp.asarray(matrix.data[ours], block_dtype(ends.outputs.avals[o], ends.inputs.avals[i]))
    return Entries(jnp.broadcast_to(numbers, (*ends.lead, len(ours))), index, m * n, ends.shape(o, i))


def in_block(matrix: sparse.csr_matrix, rows: tuple[int, int], columns: tuple[int, int]) -> tuple[Any, np.ndarray]:
    """The nonzeros of a block, first and count along each side: their numbers, and flat indices in it."""
    i, j = rows_of(matrix) - rows[0], matrix.indices - columns[0]
    ours = np.flatnonzero((i >= 0) & (i < rows[1]) & (j >= 0) & (j < columns[1]))
    return ours, i[ours] * columns[1] + j[ours]
