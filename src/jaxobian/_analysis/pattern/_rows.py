"""What each element of a variable depends on: a row of a sparse matrix for each, and what equations do to rows.

Booleans say on what it can depend, numbers what it is a multiple of: `+` unites the ones and adds the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeAlias

import numpy as np

from ..._lazy import sparse
from ..ties._kinds import Shape
from ..ties._kinds import shape_of as dims_of
from ..ties._ties import Line, Relation


class Full:
    """Every element depends on everything, for all that is known."""

    def __repr__(self) -> str:
        return "FULL"


FULL: Final = Full()
# A row for each element, a column for each element of the inputs.
Rows: TypeAlias = "sparse.csr_matrix | Full"
# The rows of an equation's results; None for one that depends on nothing.
Results: TypeAlias = "list[Rows | None]"

# A pattern denser than this is of no use, once it has more than a few rows and is not small: passes can hardly share.
_DENSE: ContextVar[float] = ContextVar("dense", default=0.4)
_FEW, _SMALL = 32, 50_000
# Patterns with more nonzeros are given up.
MOST = 40_000_000


def shape_of(rows: sparse.csr_matrix) -> tuple[int, int]:
    """How many rows and columns."""
    shape: Any = rows.shape
    return shape


def csr(
    indptr: np.ndarray, indices: np.ndarray, shape: tuple[int, int], data: np.ndarray | None = None
) -> sparse.csr_matrix:
    """A pattern of its parts; with `data`, a matrix of numbers."""
    data = np.ones(len(indices), bool) if data is None else data
    return sparse.csr_matrix((data, indices, indptr), shape=shape, copy=False)


def unit(size: int, first: int, columns: int) -> sparse.csr_matrix:
    """Element k depends on column first + k."""
    return csr(np.arange(size + 1, dtype=np.int32), np.arange(first, first + size, dtype=np.int32), (size, columns))


def checked(rows: Rows) -> Rows:
    """The same, or FULL where it is too dense to be of use."""
    if isinstance(rows, Full):
        return rows
    height, width = shape_of(rows)
    dense = height > _FEW and rows.nnz > _SMALL and rows.nnz > _DENSE.get() * height * width
    return FULL if dense or rows.nnz > MOST else rows


@contextmanager
def denser(share: float) -> Iterator[None]:
    """Follow patterns up to this density, whose triangular form may be of use where their colors are not."""
    token = _DENSE.set(share)
    try:
        yield
    finally:
        _DENSE.reset(token)


def taken(rows: Rows, index: np.ndarray) -> Rows:
    """Row k of the result is row index[k], of a pattern or of a matrix of numbers; none where that is negative."""
    if isinstance(rows, Full):
        return FULL
    index = np.asarray(index).reshape(-1)
    there = index >= 0
    if not there.any():
        return sparse.csr_matrix((len(index), shape_of(rows)[1]), dtype=rows.dtype)
    if index[0] >= 0 and index[-1] - index[0] == len(index) - 1 and (np.diff(index) == 1).all():
        first, last = int(index[0]), int(index[-1]) + 1  # as they stand: in a slice, or a reshape
        low, high = rows.indptr[first], rows.indptr[last]
        shape = (len(index), shape_of(rows)[1])
        return csr(rows.indptr[first : last + 1] - low, rows.indices[low:high], shape, rows.data[low:high])
    at = index if there.all() else np.where(there, index, 0)
    starts, lengths = rows.indptr[at], rows.indptr[at + 1] - rows.indptr[at]
    if at is not index:
        lengths = np.where(there, lengths, 0)
    indptr = np.zeros(len(index) + 1, np.int64)
    np.cumsum(lengths, out=indptr[1:])
    if indptr[-1] > MOST:
        return FULL
    if len(lengths) and (lengths == lengths[0]).all():  # as in a stencil
        source = (starts[:, None] + np.arange(lengths[0])).reshape(-1)
    else:
        source = np.repeat(starts - indptr[:-1], lengths) + np.arange(indptr[-1])
    data = None if rows.dtype == bool else rows.data[source]
    return checked(csr(indptr.astype(np.int32), rows.indices[source], (len(index), shape_of(rows)[1]), data))


def united(parts: Sequence[Rows]) -> Rows:
    """Row by row, everything that any of the parts depends on; or their sum."""
    total: Rows | None = None
    for part in parts:
        if isinstance(part, Full) or isinstance(total, Full):
            return FULL
        total = part if total is None or part is total else checked(total + part)
    assert total is not None
    return total


def stacked(parts: Sequence[Rows]) -> Rows:
    """The rows of patterns, one below the other."""
    there = [part for part in parts if not isinstance(part, Full)]
    if len(there) < len(parts):
        return FULL
    starts = np.cumsum([0, *(part.nnz for part in there)])
    indptr = [part.indptr[:-1] + start for part, start in zip(there, starts, strict=False)]
    indptr = np.concatenate([*indptr, starts[-1:]]).astype(np.int32)
    shape = len(indptr) - 1, shape_of(there[0])[1]
    indices, data = (np.concatenate(each) for each in ([p.indices for p in there], [p.data for p in there]))
    return checked(csr(indptr, indices, shape, data))


def multiplied(matrix: sparse.csr_matrix, rows: Rows) -> Rows:
    """Row k of the result is the union of the rows at which row k of `matrix` is nonzero, or their weighted sum."""
    if isinstance(rows, Full):
        return FULL
    if matrix.nnz == 0:
        return sparse.csr_matrix((shape_of(matrix)[0], shape_of(rows)[1]), dtype=rows.dtype)
    work = np.diff(rows.indptr)[matrix.indices].sum()
    if work > 4 * MOST:
        return FULL
    product: Any = matrix @ rows
    product.sort_indices()
    return checked(product)


def merged(rows: Rows, key: np.ndarray, count: int) -> Rows:
    """The union, or sum, of the rows with the same key, for each of `count` keys; negative keys are left out."""
    if isinstance(rows, Full):
        return FULL
    at = np.flatnonzero(key >= 0)
    order = at[np.argsort(key[at], kind="stable")]
    indptr = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(key[at], minlength=count), out=indptr[1:])
    return multiplied(csr(indptr, order, (count, shape_of(rows)[0])), rows)


def by_ties(rows: Rows, relation: Relation, out: Shape, operand: Shape) -> Rows:
    """What an equation makes of an operand of which only the ties are known."""
    if isinstance(rows, Full):
        return FULL
    out_key, in_key = np.zeros(math.prod(out), np.int64), np.zeros(math.prod(operand), np.int64)
    out_bad, in_bad = np.zeros(out_key.shape, bool), np.zeros(in_key.shape, bool)
    count = 1
    for tie in sorted(relation, key=str):
        place, other = _along(out, tie.out), _along(operand, tie.inp)
        if isinstance(tie, Line):
            base = operand[tie.inp]
            place = (place - tie.offset) * tie.sign
            out_bad |= (place < 0) | (place >= base)
            place = np.clip(place, 0, base - 1)
        else:
            place, other = place // tie.stride, other // tie.in_stride
            base = tie.base or int(max(place.max(initial=0), other.max(initial=0))) + 1
            place, other = place % base, other % base
        out_key, in_key, count = out_key * base + place, in_key * base + other, count * base
        if count > 50_000_000:
            return FULL
    out_key[out_bad] = -1
    in_key[in_bad] = -1
    return taken(merged(rows, in_key, count), out_key)


def _along(shape: Shape, axis: int) -> np.ndarray:
    """The index along `axis` of each element, in row-major order."""
    index = np.arange(shape[axis]).reshape(-1, *(1,) * (len(shape) - axis - 1))
    return np.broadcast_to(index, shape).reshape(-1)


def positions(shape: Shape) -> np.ndarray:
    """The number of each element, in the shape of the array."""
    return np.arange(math.prod(shape)).reshape(shape)


def nothing(like: Rows, size: int) -> Rows:
    """The rows of an array that depends on nothing, to stand beside others."""
    return FULL if isinstance(like, Full) else sparse.csr_matrix((size, shape_of(like)[1]), dtype=like.dtype)


def size_of(atom: Any) -> int:
    """Elements of an atom."""
    return math.prod(dims_of(atom))
