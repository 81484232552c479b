"""J W J^H and J^H W J as JAX's sparse arrays: sums of which no nonzeros of J meet are left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._analysis import Relation
from .._lazy import sparse
from .._seeds import Seeds
from .._trace import Ends
from ._bcoo import INDEX_BYTES, bcoo
from ._gram import Gram
from ._output import Block, Rows, compressed_size
from ._products import Nonzeros, pair_count


@dataclass(frozen=True)
class SparseGram(Gram):
    """A Gram matrix in `jax.experimental.sparse.BCOO`, indices sorted and unique."""

    has_zeros: bool = False

    def size(self, ends: Ends, relations: Sequence[dict[int, Relation]]) -> int:
        """Bytes of the elements that ties leave."""
        return self.entries_size(ends, compressed_size(ends, relations, 0) // self._dtype(ends, 0).itemsize)

    def entries_size(self, ends: Ends, entries: int) -> int:
        """Bytes where so many elements of J are spread evenly, with an index along each axis."""
        side, other = self._side(ends), (ends.inputs if self.side == "out" else ends.outputs).size
        lead = math.prod(ends.lead)
        most = min(entries**2 // max(1, lead * other), lead * side.size**2)
        rank = max((len(shape) for shape in side.shapes), default=0)
        return most * (self._dtype(ends, 0).itemsize + INDEX_BYTES * (2 * rank + len(ends.lead)))

    def keeps(self, seeds: Seeds) -> bool:
        """Always: which sums there are is known of J alone."""
        return True

    def of_blocks(self, ends: Ends, blocks: Sequence[Sequence[Block]]) -> Rows:
        """Products of nonzeros."""
        matrices, shapes = self._nonzeros(ends, blocks), self._side(ends).shapes
        if self.by_pairs(ends, pair_count(matrices)):
            find = lambda a, b: self.product(ends, matrices, a, b)  # noqa: E731
        else:
            dense = super().of_blocks(ends, blocks)
            find = lambda a, b: self._picked(ends, matrices, a, b, dense[a][b])  # noqa: E731
        rows = []
        for a, out in enumerate(shapes):
            rows.append([])
            for b, other in enumerate(shapes):
                data, index = find(a, b)
                rows[-1].append(bcoo(data.astype(self._dtype(ends, a, b)), index, (*ends.lead, *out, *other)))
        return rows

    def _picked(self, ends: Ends, matrices: Sequence[Nonzeros], a: int, b: int, dense: Any) -> tuple[Any, np.ndarray]:
        """The elements that can be nonzero, of all of them."""
        index, (height, width) = [], (self._side(ends).sizes[k] for k in (a, b))
        other = ends.inputs if self.side == "out" else ends.outputs
        for example in range(math.prod(ends.lead)):
            left, right = (_pattern(matrices[k], example, self._side(ends).sizes[k], other.size) for k in (a, b))
            met = sparse.coo_matrix(left @ right.T)
            index.append((example * height + met.row.astype(np.int64)) * width + met.col)
        every = np.sort(np.concatenate(index)) if index else np.zeros(0, np.int64)
        return jnp.reshape(dense, -1)[every], every


def _pattern(matrix: Nonzeros, example: int, height: int, width: int) -> sparse.csr_matrix:
    ours = matrix.example == example
    return sparse.csr_matrix((np.ones(ours.sum(), bool), (matrix.row[ours], matrix.met[ours])), shape=(height, width))
