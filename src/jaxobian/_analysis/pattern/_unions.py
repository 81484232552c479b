"""Equation -> rows of its results: elements are moved, scaled and added up.

One set of rules serves two domains. In booleans a row says on what an element can depend, and a sum is a union; in
numbers it says what the element is a multiple of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np

from ..._lazy import sparse
from ..._primitives import row_of
from ._matrices import conv_matrix, dot_matrix, window_matrix
from ._moves import Known, landings, moves
from ._rows import Results, Rows, Shape, dims_of, merged, multiplied, nothing, size_of, stacked, taken, united


class Domain(Protocol):
    """What rows hold.

    Attributes:
        known: looks up what atoms hold, where that is known.
        exact: whether rows are numbers: rules that say less than all do not hold then.
    """

    known: Known
    exact: ClassVar[bool]

    @property
    def room(self) -> int:
        """How many nonzeros may be written down at once."""
        ...

    def scaled(self, rows: Rows, factor: np.ndarray, shape: Shape) -> Rows:
        """The rows of an array of some shape times a factor that is broadcast to it."""
        ...

    def matrix(self, numbers: sparse.csr_matrix) -> sparse.csr_matrix:
        """A matrix by which rows are multiplied."""
        ...


# The rows of an equation's results by those of its operands; None where another rule must say.
Rule: TypeAlias = "Callable[[Domain, Any, dict[int, Rows]], Results | None]"


def followed(domain: Domain, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """The rows of an equation's results by the rule of its kind; None where its ties must say."""
    kind = row_of(equation).of_elements
    rule = SUMS.get(kind) or (None if domain.exact else UNIONS.get(kind))
    results = rule(domain, equation, operands) if rule is not None else None
    return _moved(domain, equation, operands) if results is None else results


def _moved(domain: Domain, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Each element is one of an operand's: of y = concatenate(x, z), y[5] may be z[2]."""
    moved = moves(equation, domain.known, operands)
    if moved is None:
        return None
    results: Results = []
    for places in moved:
        parts = [taken(rows, places[k]) for k, rows in operands.items() if k in places]
        results.append(united(parts) if parts else None)
    return results


def _concatenate(domain: Domain, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Rows one below the other, where the axis is the first one that is longer than 1."""
    axis, out = equation.params["dimension"], dims_of(equation.outvars[0])
    if math.prod(out[:axis]) != 1:
        return None
    like = next(iter(operands.values()))
    return [stacked([operands.get(k, nothing(like, size_of(v))) for k, v in enumerate(equation.invars)])]


def _elementwise(domain: Domain, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Each element by those at its own place: y = x - 2 z has rows of x and, times -2, of z."""
    out, parts = dims_of(equation.outvars[0]), []
    for k, rows in operands.items():
        factor = _factor(domain, equation, k, alone=len(operands) == 1)
        if factor is None and domain.exact:
            return None
        rows = _broadcast(rows, dims_of(equation.invars[k]), out)
        parts.append(rows if factor is None else domain.scaled(rows, factor, out))
    return [made for made in [united(parts)] for _ in equation.outvars]


_ONE = np.ones(())


def _factor(domain: Domain, equation: Any, k: int, *, alone: bool) -> np.ndarray | None:
    """What an elementwise equation multiplies operand k by; None where that is not known, or nothing comes of it."""
    match row_of(equation).of_elements:
        case "sum" | "identity" | "conversion":
            return _ONE
        case "difference":
            return _ONE - 2 * k
        case "negation":
            return -_ONE
        case "product":
            return domain.known(equation.invars[1 - k]) if alone else None
        case "quotient" if domain.exact:
            divisor = domain.known(equation.invars[1])
            with np.errstate(divide="ignore"):
                return None if divisor is None else 1 / np.asarray(divisor, np.float64)
        case _:
            return None


def _broadcast(rows: Rows, shape: Shape, out: Shape) -> Rows:
    """The rows of an operand whose axes of size 1, or missing ones, are broadcast silently."""
    if shape == out:
        return rows
    places = np.arange(math.prod(shape)).reshape((1,) * (len(out) - len(shape)) + shape)
    return taken(rows, np.broadcast_to(places, out))


def _dot(domain: Domain, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """A product with a matrix that is known: y = W x has W times the rows of x.

    Of booleans its ties say as much where it is not mostly zeros.
    """
    ((k, rows), *others) = operands.items()
    matrix = domain.known(equation.invars[1 - k]) if not others else None
    if matrix is None or matrix.size == 0 or not (domain.exact or np.count_nonzero(matrix) <= 0.5 * matrix.size):
        return None
    product = dot_matrix(equation, k, matrix, domain.room)
    return None if product is None else [multiplied(domain.matrix(product), rows)]


def _windows(domain: Domain, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Pooling: a window's result depends on all of it."""
    params, out = equation.params, dims_of(equation.outvars[0])
    if any(dims_of(equation.invars[k]) != dims_of(equation.invars[0]) for k in operands):
        return None
    operand, rank = dims_of(equation.invars[0]), len(out)
    window = window_matrix(
        out, operand, params["window_dimensions"], params["window_strides"], params["padding"],
        params.get("base_dilation", (1,) * rank), params.get("window_dilation", (1,) * rank),
    )  # fmt: skip
    made = united([multiplied(domain.matrix(window), rows) for rows in operands.values()])
    return [made for _ in equation.outvars]


def _scattered_windows(domain: Domain, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """The transpose of that: each element depends on the windows that it is in."""
    if set(operands) != {0}:
        return None
    params, source, out = equation.params, dims_of(equation.invars[0]), dims_of(equation.outvars[0])
    ones = (1,) * len(out)
    window = window_matrix(
        source, out, params["window_dimensions"], params["window_strides"], params["padding"], ones, ones
    )
    return [multiplied(sparse.csr_matrix(window.T), operands[0])]


def _convolution(domain: Domain, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Each place depends on a window of space and on all channels of its group."""
    params = equation.params
    if set(operands) != {0} or params["batch_group_count"] != 1:
        return None
    known = domain.known(equation.invars[1])
    if known is not None and (domain.exact or not known.all()):
        matrix = conv_matrix(equation, known, domain.room)
        if matrix is not None:
            return [multiplied(domain.matrix(matrix), operands[0])]
    return None if domain.exact else _convolution_of_any(equation, operands[0])


def _convolution_of_any(equation: Any, rows: Rows) -> Results | None:
    """The same with a kernel that may hold any numbers."""
    params = equation.params
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
    rows = merged(rows, key, batch * groups * math.prod(space))
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


def _cumulative(domain: Domain, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Each element depends on those before it."""
    ((k, rows),) = operands.items()
    shape, axis = dims_of(equation.invars[k]), equation.params["axis"]
    size = shape[axis]
    if math.prod(shape) * size > domain.room:
        return None
    places = np.moveaxis(np.arange(math.prod(shape)).reshape(shape), axis, -1).reshape(-1, size)
    before = np.tril(np.ones((size, size), bool))
    before = before.T if equation.params.get("reverse") else before
    i, j = np.nonzero(before)
    target, source = places[:, i].reshape(-1), places[:, j].reshape(-1)
    matrix = sparse.csr_matrix((np.ones(len(target), bool), (target, source)), shape=(math.prod(shape),) * 2)
    return [multiplied(matrix, rows)]


def _scatter_add(domain: Domain, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """What is scattered into keeps its place; what is added arrives where the index says, if that is known."""
    if not set(operands) <= {0, 2}:
        return None
    parts = [operands[0]] if 0 in operands else []
    if 2 in operands:
        landed = landings(equation, domain.known)
        if landed is None:
            return None
        arrived = merged(operands[2], landed, size_of(equation.outvars[0]))
        subtracted = row_of(equation).of_elements == "subtracted"
        parts.append(domain.scaled(arrived, -_ONE, dims_of(equation.outvars[0])) if subtracted else arrived)
    return [united(parts)]


def _reduced(domain: Domain, equation: Any, operands: dict[int, Rows]) -> Results:
    """The sum of some elements, or the union: of y = sum(x, 1), y[2] has the rows of x[2, :]."""
    shape, size = dims_of(equation.invars[0]), size_of(equation.outvars[0])
    kept = [1 if a in equation.params["axes"] else n for a, n in enumerate(shape)]
    key = np.broadcast_to(np.arange(size).reshape(kept), shape).reshape(-1)
    return [merged(operands[0], key, size)]


# What holds of booleans and of numbers,
SUMS: dict[str | None, Rule] = {
    **dict.fromkeys("sum difference negation identity conversion product quotient".split(), _elementwise),
    "concatenate": _concatenate,
    "reduce_sum": _reduced,
    "window_sum": _windows,
    "dot": _dot,
    "convolution": _convolution,
    **dict.fromkeys(["added", "subtracted"], _scatter_add),
}
# and of booleans alone.
UNIONS: dict[str | None, Rule] = {
    "elementwise": _elementwise,
    "each_window": _windows,
    "scattered_windows": _scattered_windows,
    "cumulative": _cumulative,
}
