"""What of J can be nonzero, and what of it is the same for every x, of one example where there is a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from .._analysis import Full, Pattern, Structure, constant_part, csr, elements, merged, taken
from .._arrays import is_complex
from .._lazy import sparse
from .._trace import Ends, Linear, Side


def example_pattern(
    structure: Structure, ends: Ends, effort: int | None = None
) -> tuple[sparse.csr_matrix | None, list[Any], frozenset[int]]:
    """The pattern of J, of one example where there is a batch; None where no zeros are known.

    And the equations that are to blame; and the operands whose numbers it is known by.
    """
    outputs = ends.outputs
    columns, total = _columns(ends.inputs)
    found, dense, used = elements(structure, columns, total, effort)
    parts = []
    for rows, aval, batch_axis, size in zip(found, outputs.avals, outputs.batch_axes, outputs.sizes, strict=True):
        if rows is None:
            rows = sparse.csr_matrix((size, total), dtype=bool)
        elif batch_axis is not None:
            rows = merged(rows, _within_example(aval.shape, batch_axis).reshape(-1), size)
        if isinstance(rows, Full):
            if all(isinstance(r, Full) for r in found if r is not None):
                return None, dense, used
            rows = csr(np.arange(size + 1) * total, np.tile(np.arange(total), size), (size, total))
        parts.append(rows)
    matrix = sparse.csr_matrix(sparse.vstack(parts, format="csr"), dtype=bool)
    matrix.sum_duplicates()
    return matrix, dense, used


def pattern(structure: Structure, ends: Ends) -> Pattern:
    """The pattern of J, dense where no zeros are known."""
    matrix, _, _ = example_pattern(structure, ends)
    if matrix is None:
        matrix = sparse.csr_matrix(np.ones((ends.outputs.size, ends.inputs.size), bool))
    return Pattern(matrix)


def _columns(inputs: Side) -> tuple[list[np.ndarray], int]:
    """The column that each element of the inputs stands for, and how many there are."""
    starts = [0, *accumulate(inputs.sizes)]
    sides = zip(starts, inputs.avals, inputs.batch_axes, strict=False)
    return [start + _within_example(aval.shape, batch_axis) for start, aval, batch_axis in sides], starts[-1]


def _within_example(shape: Sequence[int], batch_axis: int | None) -> np.ndarray:
    """The number of each element within its example."""
    own = [n for axis, n in enumerate(shape) if axis != batch_axis]
    numbers = np.arange(math.prod(own)).reshape(own)
    return numbers if batch_axis is None else np.broadcast_to(np.expand_dims(numbers, batch_axis), tuple(shape))


def example_constant_part(
    structure: Structure, ends: Ends, most: int
) -> tuple[sparse.csr_matrix, Linear, frozenset[int]] | None:
    """The numbers in J that are the same for every x, and the program of the rest; None where there are none.

    And the operands whose numbers they are known by.

    Args:
        structure: the linear program.
        ends: both sides of J.
        most: how many numbers are worth it.
    """
    outputs = ends.outputs
    if any(map(is_complex, (*ends.inputs.avals, *outputs.avals))):
        return None
    columns, total = _columns(ends.inputs)
    found = constant_part(structure, columns, total, most)
    if found is None:
        return None
    parts = []
    for numbers, aval, batch_axis in zip(found[0], outputs.avals, outputs.batch_axes, strict=True):
        if batch_axis is not None:
            examples = np.moveaxis(np.arange(math.prod(aval.shape)).reshape(aval.shape), batch_axis, 0)
            one: Any = taken(numbers, examples[0])
            every: Any = taken(numbers, examples)
            if (every != sparse.vstack([one] * len(examples))).nnz:
                return None  # each example has its own
            numbers = one
        parts.append(numbers)
    matrix = sparse.csr_matrix(sparse.vstack(parts, format="csr"))
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix, *found[1:]
