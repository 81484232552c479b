"""How far the ends of a linear program only repeat, sum and scale whole axes: x -> u before, v -> y behind.

    u = sum of factor * x, repeated along axes          y = sum of factor * v, summed along axes

The differences of all pairs are the first of these, and the sum of what acts on a particle is the second.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..._primitives import row_of
from ..._trace import Linear, active_variables, is_variable, reshape_order


class Term(NamedTuple):
    """A multiple of an input as a part of a variable, or of a variable as a part of an output.

    Attributes:
        end: the number of the input or output.
        axes: for each axis of the variable, the axis of the input or output that runs along it, or None.
        factor: of the multiple.
    """

    end: int
    axes: tuple[int | None, ...]
    factor: float


class _Move(NamedTuple):
    """What a result has of one of its operands: for each of its axes the operand's, or None, and the factor."""

    operand: Any
    axes: tuple[int | None, ...]
    factor: float


Terms = tuple[Term, ...]
# Factors of numbers are parts of the ends where they are of about their size.
_SMALLEST = 1e-2


@dataclass(frozen=True, eq=False)
class Ends:
    """Where the ends of a program meet what is between them.

    Attributes:
        before: variables made of inputs alone that what is between reads, each with what it is made of.
        behind: variables that it makes and outputs are made of alone, each with what it is a part of.
        joined: whether different ones of the latter are added to each other and then summed along different axes.
        products: the places of the contractions that make the latter: a part of their sums may belong to the ends.
    """

    before: dict[Any, Terms]
    behind: dict[Any, Terms]
    joined: bool
    products: tuple[int, ...]


def ends(program: Linear) -> Ends:
    """How far the ends of a program reach inwards."""
    active = active_variables(program.linear, program.tangents)
    equations = [(k, e) for k, e in enumerate(program.linear.equations) if _active(e, active)]
    made: dict[Any, Terms] = {v: (_whole(number, v),) for number, v in enumerate(program.tangents)}
    for _, equation in equations:
        terms = _made(equation, active, made)
        if terms is not None:
            made[equation.outvars[0]] = terms

    parts: dict[Any, list[_Part]] = defaultdict(list)
    for number, v in enumerate(program.linear.outputs):
        if is_variable(v) and v in active:
            parts[v].append(_Part(_whole(number, v), frozenset()))
    behind, products, needed = {}, [], set()
    for place, equation in reversed(equations):
        if equation.outvars[0] in made:
            continue  # whether that is needed is known by who reads it
        moves = _moves(equation, active)
        for v in equation.outvars:
            if v not in parts:
                continue
            if moves is None:
                behind[v] = parts[v]
                needed.add(v)
                if equation.primitive.name == "dot_general":
                    products.append(place)
                continue
            for move in moves:
                parts[move.operand] += (part.moved(move, v, place, several=len(moves) > 1) for part in parts[v])
        if any(v in needed for v in equation.outvars):
            needed.update(_active(equation, active))
    behind.update((v, found) for v, found in parts.items() if v in made)
    before = {v: _merged(terms) for v, terms in made.items() if v in needed or v in behind}
    terms = {v: _merged(part.term for part in found) for v, found in behind.items()}
    # What cancels altogether is a part of nothing.
    return Ends(before, {v: found for v, found in terms.items() if found}, _joined(behind), tuple(products))


def _active(equation: Any, active: set[Any]) -> list[Any]:
    return [v for v in equation.invars if is_variable(v) and v in active]


def _whole(number: int, v: Any) -> Term:
    return Term(number, tuple(axis if n > 1 else None for axis, n in enumerate(v.aval.shape)), 1.0)


def _merged(terms: Iterable[Term]) -> Terms:
    """Terms that differ in their factors alone as one; none that cancel."""
    factors: dict[tuple[int, tuple[int | None, ...]], float] = defaultdict(float)
    for end, axes, factor in terms:
        factors[end, axes] += factor
    return tuple(Term(end, axes, factor) for (end, axes), factor in factors.items() if factor)


def _made(equation: Any, active: set[Any], made: dict[Any, Terms]) -> Terms | None:
    """What the result of an equation is made of; None where that is more than repeated inputs."""
    moves = _moves(equation, active)
    if moves is None or any(move.operand not in made for move in moves):
        return None
    terms = []
    for operand, axes, factor in moves:
        if any(n > 1 and axis not in axes for axis, n in enumerate(operand.aval.shape)):
            return None  # a sum
        for term in made[operand]:
            places = tuple(None if axis is None else term.axes[axis] for axis in axes)
            terms.append(Term(term.end, places, factor * term.factor))
    return _merged(terms)


class _Part(NamedTuple):
    """What a variable is a part of, and the places of the additions, before sums along axes, that it goes through."""

    term: Term
    added: frozenset[int]

    def moved(self, move: _Move, result: Any, place: int, *, several: bool) -> _Part:
        """The part that an operand of the equation at `place` is, which makes `result`."""
        axes: list[int | None] = [None] * len(move.operand.aval.shape)
        factor = self.term.factor * move.factor
        for of_end, axis, n in zip(self.term.axes, move.axes, result.aval.shape, strict=True):
            if axis is not None:
                axes[axis] = of_end
            elif of_end is None:
                factor *= n  # repeated, and summed again
        summed = any(axis is None and n > 1 for axis, n in zip(self.term.axes, result.aval.shape, strict=True))
        added = self.added | {place} if several and summed else self.added
        return _Part(Term(self.term.end, tuple(axes), factor), added)


def up_to_sign(terms: Iterable[Term]) -> tuple[float, frozenset[Term]]:
    """1 or -1, and the terms times that: the same for terms of the opposite sign, but for the first."""
    found = list(terms)
    sign = math.copysign(1.0, min(found, key=repr).factor)
    return sign, frozenset(term._replace(factor=sign * term.factor) for term in found)


def _joined(behind: dict[Any, list[_Part]]) -> bool:
    """Whether different variables are added to each other, and then summed along different axes."""
    meeting: dict[int, dict[Any, list[Term]]] = defaultdict(lambda: defaultdict(list))
    for v, found in behind.items():
        for part in found:
            for place in part.added:
                meeting[place][v].append(part.term)
    return any(len({up_to_sign(terms)[1] for terms in met.values()}) > 1 for met in meeting.values())


# Equations ------------------------------------------------------------------------------------------------------


def _moves(equation: Any, active: set[Any]) -> list[_Move] | None:
    """What the result has of each active operand; None where an equation does more than to repeat, sum and scale."""
    kind, ours = row_of(equation).of_elements, _active(equation, active)
    if kind not in _RULES or (kind in ("product", "quotient") and len(ours) != 1):
        return None
    return _RULES[kind](equation, ours)


def _scaled(*factors: float) -> Callable[[Any, list[Any]], list[_Move] | None]:
    """A sum of operands with these factors, those of size 1 repeated."""

    def rule(equation: Any, ours: list[Any]) -> list[_Move] | None:
        if any(len(v.aval.shape) != len(equation.outvars[0].aval.shape) for v in ours):
            return None
        pairs = zip(equation.invars, factors, strict=True)
        return [_Move(v, _alike(equation, v), factor) for v, factor in pairs if any(v is w for w in ours)]

    return rule


def _alike(equation: Any, operand: Any) -> tuple[int | None, ...]:
    """The axes of an operand of the result's rank, those of size 1 repeated."""
    sizes = zip(operand.aval.shape, equation.outvars[0].aval.shape, strict=True)
    return tuple(a if n == size else None for a, (n, size) in enumerate(sizes))


def _product(equation: Any, ours: list[Any]) -> list[_Move] | None:
    """A product with, or a quotient by, a number that is written down."""
    first, second = equation.invars
    other = second if first is ours[0] else first
    value = None if is_variable(other) else np.asarray(other.val)
    if len(ours[0].aval.shape) != len(equation.outvars[0].aval.shape):
        return None
    if value is None or value.ndim or not np.isrealobj(value) or not np.isfinite(value) or not value:
        return None
    if equation.primitive.name == "div" and other is first:
        return None
    factor = float(value) if equation.primitive.name == "mul" else 1 / float(value)
    if not _SMALLEST < abs(factor) < 1 / _SMALLEST:
        return None  # the order of multiplications decides what overflows
    return [_Move(ours[0], _alike(equation, ours[0]), factor)]


def _broadcast(equation: Any, ours: list[Any]) -> list[_Move]:
    (v,), (result,) = ours, equation.outvars
    axes: list[int | None] = [None] * len(result.aval.shape)
    for axis, place in enumerate(equation.params["broadcast_dimensions"]):
        if v.aval.shape[axis] == result.aval.shape[place]:
            axes[place] = axis
    return [_Move(v, tuple(axes), 1.0)]


def _reshape(equation: Any, ours: list[Any]) -> list[_Move] | None:
    """Where axes of size 1 come and go."""
    (v,), (result,) = ours, equation.outvars
    order = reshape_order(equation)
    long = [axis for axis, n in enumerate(v.aval.shape) if n > 1]
    places = [axis for axis, n in enumerate(result.aval.shape) if n > 1]
    sizes = [v.aval.shape[axis] for axis in long], [result.aval.shape[axis] for axis in places]
    if sizes[0] != sizes[1] or order != tuple(range(len(order))):
        return None
    found = dict(zip(places, long, strict=True))
    return [_Move(v, tuple(found.get(axis) for axis in range(len(result.aval.shape))), 1.0)]


def _transpose(equation: Any, ours: list[Any]) -> list[_Move]:
    return [_Move(ours[0], tuple(equation.params["permutation"]), 1.0)]


def _reduce_sum(equation: Any, ours: list[Any]) -> list[_Move]:
    (v,) = ours
    return [_Move(v, tuple(a for a in range(len(v.aval.shape)) if a not in equation.params["axes"]), 1.0)]


_RULES: dict[str | None, Callable[[Any, list[Any]], list[_Move] | None]] = {
    "sum": _scaled(1.0, 1.0),
    "difference": _scaled(1.0, -1.0),
    "negation": _scaled(-1.0),
    "identity": _scaled(1.0),
    "product": _product,
    "quotient": _product,
    "broadcast": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "reduce_sum": _reduce_sum,
}
