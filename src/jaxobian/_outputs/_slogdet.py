"""The determinant of J, by its sign and the logarithm of its absolute value: of the blocks of J's triangular form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .._analysis import Relation
from .._coloring import Triangular, block_triangular
from .._cost import Work
from .._lazy import sparse
from .._seeds import Seeds
from .._trace import Ends
from ._output import Block, Reduction, Results, Rows
from ._placed import Kept
from ._quantity import Quantity, SideName, dtype_of, matrix
from ._selected import summed_dtype


class SlogdetResult(NamedTuple):
    """What `slogdet` returns, as `numpy.linalg.slogdet` does.

    Attributes:
        sign: -1, 0 or 1; of complex J a number of absolute value 1, or 0.
        logabsdet: log |det J|, -inf where the determinant is zero.
    """

    sign: Any
    logabsdet: Any


@dataclass(frozen=True)
class Slogdet(Quantity):
    """sign(det J) and log |det J|."""

    name: str = "slogdet"
    sides: tuple[SideName, ...] = ()

    def size(self, ends: Ends, relations: Sequence[dict[int, Relation]]) -> int:
        """Two numbers for each example."""
        return 2 * math.prod(ends.lead) * self.dtype(ends).itemsize

    def keeps(self, seeds: Seeds) -> bool:
        """Always: it is no sum over passes."""
        return True

    def work(self, ends: Ends, passes: int) -> Work:
        """Factorizations of J's blocks: with fewer passes than J has columns, ties make it block-diagonal."""
        size = min(passes, ends.inputs.size) or ends.inputs.size
        return self.of_sizes(ends, [(-(-ends.inputs.size // max(1, size)), size)])[0]

    def of_sizes(self, ends: Ends, sizes: Sequence[tuple[int, int]]) -> tuple[Work, int]:
        """What factorizations of so many blocks of some sizes take, and bytes that are held for them."""
        number, complex_ = math.prod(ends.lead), 4.0 if jnp.issubdtype(self.dtype(ends), jnp.complexfloating) else 1.0
        work = Work()
        for count, size in sizes:
            if size == 1:
                work += Work(arithmetic=8.0 * number * count, reduce=2.0 * number * count, equations=4.0)
            else:
                flops = complex_ * number * count * 2 / 3 * size**3
                work += Work(solve=flops, library=1.0, matrices=float(number * count), equations=8.0)
        held = sum(count * size**2 for count, size in sizes if size > 1)
        return work, 2 * number * held * self.dtype(ends).itemsize

    def sums(self, ends: Ends, seeds: Seeds) -> Reduction:
        """All is kept."""
        return Kept(seeds)

    def of_sums(self, ends: Ends, groups: Sequence[Seeds], results: Sequence[Results]) -> Rows:
        """It is no sum."""
        raise NotImplementedError("a determinant is no sum over passes")

    def of_parts(self, ends: Ends, parts: dict[Any, Any]) -> Rows:
        """It is no contraction."""
        raise NotImplementedError("a determinant is no contraction")

    def named(self, made: Any) -> SlogdetResult:
        """As NumPy names them."""
        return SlogdetResult(*made)

    def of_blocks(self, ends: Ends, blocks: Sequence[Sequence[Block]]) -> Rows:
        """Of the blocks of J's triangular form, where zeros are known."""
        dtype = summed_dtype(self.dtype(ends))
        found = nonzeros(ends, blocks, dtype)
        if found is not None:
            data, pattern = found
            triangular = block_triangular(pattern)
            if triangular is None:
                return self._delivered(ends, jnp.zeros(ends.lead, dtype), jnp.full(ends.lead, -jnp.inf, _real(dtype)))
            if len(triangular.blocks) != 1 or triangular.sizes[0][0] > 1:
                return self._delivered(ends, *_of_triangular(data, pattern, triangular))
        rows = [
            [matrix(block, ends, o, i).astype(dtype) for i, block in enumerate(row)] for o, row in enumerate(blocks)
        ]
        if not ends.inputs.size:
            return self._delivered(ends, jnp.ones(ends.lead, dtype), jnp.zeros(ends.lead, _real(dtype)))
        J = jnp.concatenate([jnp.concatenate(row, -1) for row in rows if row], -2)
        return self._delivered(ends, *jnp.linalg.slogdet(J))

    def _delivered(self, ends: Ends, sign: Any, logabsdet: Any) -> Rows:
        dtype = self.dtype(ends)
        return [[sign.astype(dtype)], [logabsdet.astype(_real(dtype))]]

    def dtype(self, ends: Ends) -> Any:
        """Of J."""
        return dtype_of(ends, range(len(ends.outputs.avals)), range(len(ends.inputs.avals)))


def _real(dtype: Any) -> Any:
    return jnp.finfo(dtype).dtype


def nonzeros(ends: Ends, blocks: Sequence[Sequence[Block]], dtype: Any) -> tuple[Any, sparse.csr_matrix] | None:
    """The elements of J that can be nonzero, (*lead, elements), and where they are: the number of each in its place.

    None where no zeros are known, or each example has its own.
    """
    if not any(block.has_known_zeros for row in blocks for block in row):
        return None
    number, n = max(1, math.prod(ends.lead)), ends.inputs.size
    data, places = [], []
    for o, row in enumerate(blocks):
        for i, block in enumerate(row):
            height, width = ends.outputs.sizes[o], ends.inputs.sizes[i]
            values, index = block.entries()
            own = index[: len(index) // number]
            every = np.arange(number)[:, None] * height * width + own
            if every.size != len(index) or (every.reshape(-1) != index).any():
                return None
            data.append(values.astype(dtype).reshape(*ends.lead, len(own)))
            row_starts, column_starts = sum(ends.outputs.sizes[:o]), sum(ends.inputs.sizes[:i])
            places.append(np.stack([own // max(1, width) + row_starts, own % max(1, width) + column_starts]))
    rows, columns = np.concatenate(places, 1)
    numbers = np.arange(len(rows))
    # One more, for a zero that is written down would be left out.
    pattern = sparse.csr_matrix((numbers + 1, (rows, columns)), shape=(n, n))
    return jnp.concatenate(data, -1), pattern


def _of_triangular(data: Any, pattern: sparse.csr_matrix, triangular: Triangular) -> tuple[Any, Any]:
    """The product of the determinants of the blocks.

    Args:
        data: the elements, examples first.
        pattern: where each is, by its number, and one.
        triangular: the blocks.
    """
    sign, logabsdet = jnp.asarray(triangular.sign, data.dtype), jnp.zeros((), _real(data.dtype))
    padded = jnp.concatenate([jnp.zeros((*data.shape[:-1], 1), data.dtype), data], -1)
    for rows, columns in triangular.blocks:
        size = rows.shape[1]
        if size == 1:
            elements = padded[..., _numbers(pattern, rows[:, 0], columns[:, 0])]
            signs, logs = jnp.sign(elements), jnp.log(jnp.abs(elements))
        else:
            elements = padded[..., _numbers(pattern, rows[:, :, None], columns[:, None, :])]
            signs, logs = jnp.linalg.slogdet(elements)
        sign, logabsdet = sign * jnp.prod(signs, -1), logabsdet + jnp.sum(logs, -1)
    return jnp.broadcast_to(sign, data.shape[:-1]), jnp.broadcast_to(logabsdet, data.shape[:-1])


def _numbers(pattern: sparse.csr_matrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The number of each element; 0 of those that are zero."""
    rows, columns = np.broadcast_arrays(rows, columns)
    return np.asarray(pattern[rows.reshape(-1), columns.reshape(-1)]).reshape(rows.shape)
