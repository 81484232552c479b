"""Equation -> rows of its results: elements are moved, masked and united."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from ..._primitives import row_of
from ._matrices import conv_matrix, dot_matrix, window_matrix
from ._moves import MOVES, landings
from ._rows import Results, Rows, Shape, dims_of, merged, multiplied, size_of, stacked, taken, united

if TYPE_CHECKING:
    from ._elements import Elements

# The rows of an equation's results by those of its operands; None where another rule must say.
Rule = Callable[["Elements", Any, dict[int, Rows]], Results | None]


def moved(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    rule = MOVES.get(row_of(equation).of_elements)
    moved = rule(equation, elements.known) if rule is not None else None
    if moved is None:
        return None
    each = moved if isinstance(moved, list) else [moved]
    results: Results = []
    for places in each:
        parts = [taken(rows, places[k]) for k, rows in operands.items() if k in places]
        results.append(united(parts) if parts else None)
    return results


def _concatenate(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Rows one below the other, where the axis is the first one that is longer than 1."""
    axis, out = equation.params["dimension"], dims_of(equation.outvars[0])
    if math.prod(out[:axis]) != 1:
        return None
    parts = [operands.get(k, sparse.csr_matrix((size_of(v), elements.columns), dtype=bool))
             for k, v in enumerate(equation.invars)]  # fmt: skip
    return [stacked(parts)]


def _elementwise(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results:
    out = dims_of(equation.outvars[0])
    made: Rows | None = united([_broadcast(rows, dims_of(equation.invars[k]), out) for k, rows in operands.items()])
    return [made] * len(equation.outvars)


def _broadcast(rows: Rows, shape: Shape, out: Shape) -> Rows:
    """The rows of an operand whose axes of size 1, or missing ones, are broadcast silently."""
    if shape == out:
        return rows
    places = np.arange(math.prod(shape)).reshape((1,) * (len(out) - len(shape)) + shape)
    return taken(rows, np.broadcast_to(places, out))


def _product(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Elementwise; where the other factor is known to be zero, nothing is left."""
    if len(operands) != 1:
        return None
    ((k, rows),) = operands.items()
    factor = elements.known(equation.invars[1 - k])
    out = dims_of(equation.outvars[0])
    if factor is None or factor.size <= 1 or np.all(factor):
        return None
    here = np.where(np.broadcast_to(factor, out) != 0, np.arange(math.prod(out)).reshape(out), -1)
    return [taken(_broadcast(rows, dims_of(equation.invars[k]), out), here)]


def _dot(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """A product with a matrix that is known, and mostly zeros."""
    ((k, rows), *others) = operands.items()
    matrix = elements.known(equation.invars[1 - k]) if not others else None
    if matrix is None or matrix.size == 0 or np.count_nonzero(matrix) > 0.5 * matrix.size:
        return None
    product = dot_matrix(equation, k, matrix, elements.room)
    return None if product is None else [multiplied(product != 0, rows)]


def _windows(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Pooling: a window's result depends on all of it."""
    params, out = equation.params, dims_of(equation.outvars[0])
    if any(dims_of(equation.invars[k]) != dims_of(equation.invars[0]) for k in operands):
        return None
    operand, rank = dims_of(equation.invars[0]), len(out)
    window = window_matrix(
        out, operand, params["window_dimensions"], params["window_strides"], params["padding"],
        params.get("base_dilation", (1,) * rank), params.get("window_dilation", (1,) * rank),
    )  # fmt: skip
    made = united([multiplied(window, rows) for rows in operands.values()])
    return [made for _ in equation.outvars]


def _scattered_windows(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """The transpose of that: each element depends on the windows that it is in."""
    if set(operands) != {0}:
        return None
    params, source, out = equation.params, dims_of(equation.invars[0]), dims_of(equation.outvars[0])
    ones = (1,) * len(out)
    window = window_matrix(
        source, out, params["window_dimensions"], params["window_strides"], params["padding"], ones, ones
    )
    return [multiplied(sparse.csr_matrix(window.T), operands[0])]


def _convolution(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Each place depends on a window of space and on all channels of its group."""
    params = equation.params
    if set(operands) != {0} or params["batch_group_count"] != 1:
        return None
    known = elements.known(equation.invars[1])
    if known is not None and not known.all():
        exact = conv_matrix(equation, known, elements.room)
        if exact is not None:
            return [multiplied(exact != 0, operands[0])]
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    lhs, kernel, out = (dims_of(v) for v in (*equation.invars, equation.outvars[0]))
    batch, channels, *space = (lhs[a] for a in numbers.lhs_spec)
    made_channels, *made = (out[a] for a in numbers.out_spec[1:])
    if 0 in (*lhs, *kernel, *out):
        return None
    # A key for each (example, group, place): channels of a group are united first.
    key = np.arange(batch * groups * math.prod(space)).reshape(batch, groups, 1, *space)
    key = np.broadcast_to(key, (batch, groups, channels // groups, *space)).reshape(batch, channels, *space)
    key = key.transpose(np.argsort(numbers.lhs_spec)).reshape(-1)
    rows = merged(operands[0], key, batch * groups * math.prod(space))
    window = window_matrix(
        (batch * groups, *made), (batch * groups, *space),
        (1, *(kernel[a] for a in numbers.rhs_spec[2:])), (1, *params["window_strides"]),
        ((0, 0), *params["padding"]), (1, *params["lhs_dilation"]), (1, *params["rhs_dilation"]),
    )  # fmt: skip
    rows = multiplied(window, rows)
    place = np.arange(batch * groups * math.prod(made)).reshape(batch, groups, 1, *made)
    place = np.broadcast_to(place, (batch, groups, made_channels // groups, *made))
    place = place.reshape(batch, made_channels, *made).transpose(np.argsort(numbers.out_spec))
    return [taken(rows, place)]


def _cumulative(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Each element depends on those before it."""
    ((k, rows),) = operands.items()
    shape, axis = dims_of(equation.invars[k]), equation.params["axis"]
    size = shape[axis]
    if math.prod(shape) * size > elements.room:
        return None
    places = np.moveaxis(np.arange(math.prod(shape)).reshape(shape), axis, -1).reshape(-1, size)
    before = np.tril(np.ones((size, size), bool))
    before = before.T if equation.params.get("reverse") else before
    i, j = np.nonzero(before)
    target, source = places[:, i].reshape(-1), places[:, j].reshape(-1)
    matrix = sparse.csr_matrix((np.ones(len(target), bool), (target, source)), shape=(math.prod(shape),) * 2)
    return [multiplied(matrix, rows)]


def _scatter_add(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """What is scattered into keeps its place; what is added arrives where the index says, if that is known."""
    if not set(operands) <= {0, 2}:
        return None
    parts = [operands[0]] if 0 in operands else []
    if 2 in operands:
        landed = landings(equation, elements.known)
        if landed is None:
            return None
        parts.append(merged(operands[2], landed, size_of(equation.outvars[0])))
    return [united(parts)]


UNIONS: dict[str | None, Rule] = {
    **dict.fromkeys("elementwise sum difference negation identity conversion quotient".split(), _elementwise),
    "product": lambda elements, e, operands: _product(elements, e, operands) or _elementwise(elements, e, operands),
    "concatenate": _concatenate,
    "dot": _dot,
    "convolution": _convolution,
    **dict.fromkeys(["window_sum", "each_window"], _windows),
    "scattered_windows": _scattered_windows,
    "cumulative": _cumulative,
    **dict.fromkeys(["added", "subtracted"], _scatter_add),
}
