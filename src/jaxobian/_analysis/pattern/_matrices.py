"""Equations with known factors as sparse matrices: (elements of the result, elements of the operand)."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np

from ..._lazy import sparse
from ._rows import Shape, csr, dims_of, positions


def dot_matrix(equation: Any, k: int, matrix: np.ndarray, most: int) -> sparse.csr_matrix | None:
    """What a product with a known array does to the elements of operand k: (result, operand); None with too many.

    Args:
        equation: the product.
        k: the operand that is not known.
        matrix: the other one.
        most: nonzeros that may be written down.
    """
    contract, batch = equation.params["dimension_numbers"]
    ours, theirs = dims_of(equation.invars[k]), matrix.shape
    free = [a for a in range(len(ours)) if a not in contract[k] and a not in batch[k]]
    other = [a for a in range(len(theirs)) if a not in contract[1 - k] and a not in batch[1 - k]]
    # As (batch, contracted, other) and (batch, free, contracted).
    flat = matrix.transpose([*batch[1 - k], *contract[1 - k], *other])
    batches, depth = math.prod(ours[a] for a in batch[k]), math.prod(ours[a] for a in contract[k])
    flat = flat.reshape(batches, depth, math.prod(theirs[a] for a in other))
    width, height = flat.shape[2], math.prod(ours[a] for a in free)
    places = positions(ours).transpose([*batch[k], *free, *contract[k]]).reshape(batches, height, depth)
    b, d, w = np.nonzero(flat)
    if len(b) * height > most:
        return None
    source, here = places[b, :, d], np.arange(height)  # (nonzeros, height)
    # The result has the free axes of the first operand first.
    target = (b * height * width + w)[:, None] + here * width if k == 0 else ((b * width + w) * height)[:, None] + here
    data = np.repeat(_in_full(flat[b, d, w]), height)
    shape = (batches * height * width, math.prod(ours))
    return sparse.csr_matrix((data, (target.reshape(-1), source.reshape(-1))), shape=shape)


def _in_full(numbers: np.ndarray) -> np.ndarray:
    """Numbers in double precision, which SciPy's matrices hold as they do not hold bfloat16; complex ones stay so."""
    return numbers.astype(np.complex128 if np.issubdtype(numbers.dtype, np.complexfloating) else np.float64)


def conv_matrix(equation: Any, kernel: np.ndarray, most: int) -> sparse.csr_matrix | None:
    """What a convolution with a known kernel does to the image; None with groups, or too many nonzeros.

    Args:
        equation: the convolution.
        kernel: what its kernel holds.
        most: nonzeros that may be written down.
    """
    params, numbers = equation.params, equation.params["dimension_numbers"]
    if params["feature_group_count"] * params["batch_group_count"] != 1:
        return None
    taps: Any = _in_full(kernel).transpose(numbers.rhs_spec)  # out, in, space
    result, lhs = dims_of(equation.outvars[0]), dims_of(equation.invars[0])
    out = positions(result).transpose(numbers.out_spec)  # batch, out, space
    image = positions(lhs).transpose(numbers.lhs_spec)  # batch, in, space
    if out[:, 0].size * np.count_nonzero(taps) > most:
        return None
    none = np.zeros(0, np.int64)
    rows, columns, data = [none], [none], [np.zeros(0, taps.dtype)]
    for at in product(*map(range, taps.shape[2:])):
        here, there = out, image
        for axis, tap in enumerate(at):
            (low, _), spread = params["padding"][axis], params["lhs_dilation"][axis]
            place = np.arange(out.shape[2 + axis]) * params["window_strides"][axis] - low
            place += tap * params["rhs_dilation"][axis]
            inside = (place >= 0) & (place % spread == 0) & (place // spread < image.shape[2 + axis])
            here, there = here.compress(inside, 2 + axis), there.take(place[inside] // spread, 2 + axis)
        weights = taps[(..., *at)]
        for o, i in zip(*np.nonzero(weights), strict=True):
            rows.append(here[:, o].reshape(-1))
            columns.append(there[:, i].reshape(-1))
            data.append(np.full(here[:, o].size, weights[o, i]))
    index = np.concatenate(rows), np.concatenate(columns)
    return sparse.csr_matrix((np.concatenate(data), index), shape=(math.prod(result), math.prod(lhs)))


def window_matrix(
    out: Shape, operand: Shape, sizes: Any, strides: Any, padding: Any, spread: Any, holes: Any
) -> sparse.csr_matrix:
    """The elements of an operand that each window looks at."""
    total, valid = np.zeros((1, 1), np.int64), np.ones((1, 1), bool)
    for axis in range(len(out)):
        low = int(padding[axis][0])
        at = (np.arange(out[axis]) * strides[axis] - low)[:, None] + np.arange(sizes[axis]) * holes[axis]
        inside = (at >= 0) & (at % spread[axis] == 0) & (at // spread[axis] < operand[axis])
        at = np.where(inside, at // spread[axis], 0)
        total = total[:, None, :, None] * operand[axis] + at[None, :, None, :]
        valid = valid[:, None, :, None] & inside[None, :, None, :]
        shape = (total.shape[0] * total.shape[1], total.shape[2] * total.shape[3])
        total, valid = total.reshape(shape), valid.reshape(shape)
    indptr = np.concatenate([[0], np.cumsum(valid.sum(1))])
    return csr(indptr, total[valid], (math.prod(out), math.prod(operand)))
