"""J as one matrix of SciPy's: elements of the outputs by those of the differentiated inputs, leaf after leaf."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._arrays import is_concrete
from .._lazy import jax_sparse, sparse
from .._outputs import Rows
from .._trace import Ends, Side


def as_matrix(blocks: Rows, ends: Ends) -> sparse.csr_array:
    """J as a matrix; of a batch with zeros between its examples.

    Args:
        blocks: of J, sparse or dense, `blocks[o][i]` of shape `(*lead, *out, *in)`.
        ends: both sides of J.

    Raises:
        ValueError: blocks have no values, within a trace.
    """
    shape = tuple(sum(math.prod(aval.shape) for aval in side.avals) for side in (ends.outputs, ends.inputs))
    rows, columns = _numbers(ends.outputs), _numbers(ends.inputs)
    parts = []
    for o, row in enumerate(blocks):
        for i, block in enumerate(row):
            data, index = _entries(block)
            lead, out = len(ends.lead), len(ends.lead) + len(ends.outputs.shapes[o])
            left, right = rows[o][index[:out]], columns[i][(*index[:lead], *index[out:])]
            parts.append((data, *(np.broadcast_to(numbers, data.shape) for numbers in (left, right))))
    if not parts:
        return sparse.csr_array(shape)
    data, left, right = (np.concatenate(each) for each in zip(*parts, strict=True))
    if (left[1:] >= left[:-1]).all():  # sorted as they are, as one array's are
        starts = np.searchsorted(left, np.arange(shape[0] + 1))
        return sparse.csr_array((data, right, starts), shape=shape)
    return sparse.csr_array((data, (left, right)), shape=shape)


def _numbers(side: Side) -> list[np.ndarray]:
    """Each element's number among all of a side, arrays after each other; examples are first in each."""
    found, start = [], 0
    for aval, batch_axis in zip(side.avals, side.batch_axes, strict=True):
        numbers = start + np.arange(size := math.prod(aval.shape), dtype=np.int32).reshape(aval.shape)
        found.append(numbers if batch_axis is None else np.moveaxis(numbers, batch_axis, 0))
        start += size
    return found


def _entries(block: Any) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """The elements of a block, in a dtype that SciPy knows, and the index of each along each axis."""
    is_sparse = isinstance(block, jax_sparse.BCOO)
    data = block.data if is_sparse else block
    if not is_concrete(data):
        raise ValueError(
            'format="scipy" needs values: call it outside jax.jit, jax.vmap and jax.grad, or use format="bcoo".'
        )
    data = np.asarray(data).reshape(-1)
    if is_sparse:
        index = tuple(np.asarray(block.indices).T)
    else:
        there = np.flatnonzero(data)
        data, index = data[there], np.unravel_index(there, block.shape) if block.shape else ()
    return data.astype(np.float32) if data.dtype.itemsize < 4 else data, index
