"""Seeds that are alike along an axis: what is computed from them alone is computed once, not once an example.

    (1 e^T) W  =  1 (e^T W)        1: ones, an element for each example

A pass seeds every example with the same one-hot vector. Until an equation brings in something of the examples' own,
such as the slope of an activation, all of them carry the same numbers: the axis of examples is kept at size 1, and
written out where an equation tells them apart. So is any axis that a pass seeds as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import jax.extend.core as jex
import jax.numpy as jnp
from jax import Array, lax

from .._primitives import is_product, row_of
from .._trace import Program, inlined, is_variable, program_of, reshape_order
from ._rewrite import side_by_side, written

# Axes of an array that are kept at size 1, because the array is the same all along them.
_Axes = frozenset[int]
_NONE: _Axes = frozenset()
# What an equation keeps of each operand's axes, and the axes of its result that follow.
_Kept = tuple[list[_Axes], _Axes]


def shrunk(shape: Sequence[int], axes: Collection[int]) -> tuple[int, ...]:
    """A shape with size 1 along some axes."""
    return tuple(1 if axis in axes else n for axis, n in enumerate(shape))


def compact(
    linear: Callable[..., Sequence[Any]], avals: Sequence[Any], axes: Sequence[Sequence[int]]
) -> Callable[..., list[Any]]:
    """`linear`, to be called with seeds that are the same along some axes, and have size 1 there.

    Args:
        linear: a linear map of some seeds.
        avals: the seeds as `linear` takes them, abstractly.
        axes: for each seed, those axes.
    """

    def run(*seeds: Any) -> list[Any]:
        program, constants, _ = program_of(lambda *full: linear(*full), *avals)
        shared, _ = hoist(inlined(program), axes)
        return shared(*constants, *seeds)

    return run


def hoist(program: Program, axes: Sequence[Sequence[int]]) -> tuple[Program, list[Any]]:
    """`program` with size 1 along some axes of its last inputs, for as long as it makes no difference.

    Args:
        program: a flat program.
        axes: for each of its last inputs, the axes along which it is the same.

    Returns:
        The program, and the products of `program` of which it makes one for all.
    """
    first = len(program.inputs) - len(axes)
    seeds = program.inputs[first:]
    inputs = tuple(_shrunk(v, own) for v, own in zip(seeds, axes, strict=True))
    writer = _Writer(
        names=dict(zip(seeds, inputs, strict=True)),
        alike={v: frozenset(own) for v, own in zip(seeds, axes, strict=True)},
    )
    once = [equation for equation in program.equations if writer.add(equation)]
    outputs = tuple(writer.whole(v) for v in program.outputs)
    made = Program((*program.inputs[:first], *inputs), outputs, tuple(writer.equations))
    return made.pruned(), list(filter(is_product, once))


@dataclass
class _Writer:
    """The new program, as far as it is written.

    Attributes:
        names: what stands for variables of the original.
        alike: along which axes what stands for them has size 1.
        equations: of the new program.
    """

    names: dict[Any, Any]
    alike: dict[Any, _Axes]
    equations: list[Any] = field(default_factory=list)

    def add(self, equation: Any) -> bool:
        """Write an equation; say whether its result is made once for all."""
        marks = [self._marks(v) for v in equation.invars]
        placed = any(value is not None for name, value in equation.params.items() if name.endswith("sharding"))
        row = row_of(equation)
        rule = _RULES.get(row.kind) if row.hoists and any(marks) and not placed else None
        kept, made = rule(equation, marks) if rule else ([], _NONE)
        where = equation.source_info
        if not any(kept):
            self.equations.append(equation.replace(invars=[self.whole(v, where) for v in equation.invars]))
            return False
        operands = [self._spread(v, m - k, where) for v, m, k in zip(equation.invars, marks, kept, strict=True)]
        (result,) = equation.outvars
        self.names[result], self.alike[result] = self._small(equation, operands, made), made
        return bool(made)

    def whole(self, atom: Any, where: Any = None) -> Any:
        """An operand with all its elements."""
        return self._spread(atom, self._marks(atom), where)

    def _marks(self, atom: Any) -> _Axes:
        return self.alike.get(atom, _NONE) if is_variable(atom) else _NONE

    def _spread(self, atom: Any, axes: _Axes, where: Any) -> Any:
        """An operand with all its elements along some axes."""
        name = self.names.get(atom, atom) if is_variable(atom) else atom
        if not axes:
            return name
        spread, like = _shrunk(atom, self._marks(atom) - axes), _broadcasting()
        shape = spread.aval.shape
        params = like.params | {"shape": shape, "broadcast_dimensions": tuple(range(len(shape)))}
        where = like.source_info if where is None else where
        self.equations.append(like.replace(invars=[name], outvars=[spread], params=params, source_info=where))
        return spread

    def _small(self, equation: Any, operands: Sequence[Any], made: _Axes) -> Any:
        """The result of the equation on operands of which some have size 1."""
        params, (result,) = equation.params, equation.outvars
        small = _shrunk(result, made)
        match equation.primitive.name:
            case "broadcast_in_dim":
                params = params | {"shape": small.aval.shape}
            case "reshape":
                params = params | {"new_sizes": small.aval.shape}
            case "dot_general" if dropped := _unlike(operands, params["dimension_numbers"][1]):
                run = partial(_product, dropped=dropped, **params)
                (program,), _ = side_by_side([(run, *(v.aval for v in operands))])
                equations, (small,) = written(program, equation.source_info, operands)
                self.equations += equations
                return small
        self.equations.append(equation.replace(invars=operands, outvars=[small], params=params))
        return small


@cache
def _broadcasting() -> Any:
    """An equation that broadcasts, to make others of: what parameters it has is for JAX to say."""
    return program_of(lambda x: jnp.broadcast_to(x, (2,)), 0.0)[0].equations[-1]


def _shrunk(variable: Any, axes: Collection[int]) -> Any:
    """A variable like another one, with size 1 along some axes."""
    return jex.Var(variable.aval.update(shape=shrunk(variable.aval.shape, axes)))


# Rules: an equation and the marks of its operands -> what it keeps of them, and the marks of its result; none if none.


def _elementwise(equation: Any, marks: Sequence[_Axes]) -> _Kept:
    """The axes along which all operands are the same."""
    rank = len(equation.outvars[0].aval.shape)
    shaped = [m for v, m in zip(equation.invars, marks, strict=True) if len(v.aval.shape) == rank]
    made = frozenset.intersection(*shaped)
    return [m & made for m in marks], made


def _dot_general(equation: Any, marks: Sequence[_Axes]) -> _Kept:
    """Free axes stay free; an axis that goes with one of the other operand is written out where that one needs it."""
    contract, batch = equation.params["dimension_numbers"]
    made, kept, place = set[int](), [], len(batch[0])
    for k, variable in enumerate(equation.invars):
        free = [a for a in range(len(variable.aval.shape)) if a not in (*contract[k], *batch[k])]
        made.update(place + n for n, a in enumerate(free) if a in marks[k])
        place += len(free)
        kept.append(marks[k] & frozenset((*free, *batch[k])))
    made.update(n for n, (a, b) in enumerate(zip(*batch, strict=True)) if a in marks[0] and b in marks[1])
    return kept, frozenset(made)


def _unlike(operands: Sequence[Any], batch: Sequence[Sequence[int]]) -> list[int]:
    """Which of the axes that go with each other have size 1 in one operand alone."""
    x, y = (v.aval.shape for v in operands)
    return [n for n, (a, b) in enumerate(zip(*batch, strict=True)) if x[a] != y[b]]


def _product(x: Array, y: Array, dropped: Sequence[int], dimension_numbers: Any, **params: Any) -> list[Array]:
    """A dot_general in which some of the axes that go with each other have size 1 in one operand.

    Such an axis is dropped, and the other operand's is free: one product in place of one for each example.
    """
    contract, batch = dimension_numbers
    pairs = list(zip(*batch, strict=True))
    ones = [[pairs[n][k] for n in dropped if z.shape[pairs[n][k]] == 1] for k, z in enumerate((x, y))]
    paired = [n for n in range(len(pairs)) if n not in dropped]
    numbers, names = [], [(0, n) for n in paired]  # the result's axes: pairs first, then free ones of x, then of y
    for k, z in enumerate((x, y)):
        left = [a for a in range(z.ndim) if a not in ones[k]]
        numbers.append([[left.index(a) for a in axes] for axes in (contract[k], [pairs[n][k] for n in paired])])
        free = [a for a in left if a not in contract[k] and a not in [pairs[n][k] for n in paired]]
        names += [(0, batch[k].index(a)) if a in batch[k] else (1 + k, a) for a in free]
    (contract_x, batch_x), (contract_y, batch_y) = numbers
    small = lax.squeeze(x, ones[0]), lax.squeeze(y, ones[1])
    made = lax.dot_general(*small, ((contract_x, contract_y), (batch_x, batch_y)), **params)
    return [made.transpose([names.index(name) for name in sorted(names)])]


def _convolution(equation: Any, marks: Sequence[_Axes]) -> _Kept:
    numbers, params = equation.params["dimension_numbers"], equation.params
    examples = numbers.lhs_spec[0]
    if examples not in marks[0] or params["batch_group_count"] != 1:
        return [], _NONE
    return [frozenset((examples,)), _NONE], frozenset((numbers.out_spec[0],))


def _transpose(equation: Any, marks: Sequence[_Axes]) -> _Kept:
    order = equation.params["permutation"]
    return list(marks), frozenset(order.index(a) for a in marks[0])


def _broadcast(equation: Any, marks: Sequence[_Axes]) -> _Kept:
    """All axes but those along which the operand tells elements apart: new ones, too, are the same all along."""
    places, (variable, *_) = equation.params["broadcast_dimensions"], equation.invars
    shape = equation.outvars[0].aval.shape
    told = {place for a, place in enumerate(places) if a not in marks[0] and variable.aval.shape[a] == shape[place]}
    return list(marks), frozenset(place for place, n in enumerate(shape) if n > 1) - told


def _reshape(equation: Any, marks: Sequence[_Axes]) -> _Kept:
    """Axes that a reshape leaves as they are."""
    order, operand, after = reshape_order(equation), equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    before = [operand[a] for a in order]
    starts = {(math.prod(after[:b]), n): b for b, n in enumerate(after)}
    pairs = {a: starts.get((math.prod(before[:k]), n)) for k, (a, n) in enumerate(zip(order, before, strict=True))
             if a in marks[0]}  # fmt: skip
    same = {a: b for a, b in pairs.items() if b is not None}
    return [frozenset(same)], frozenset(same.values())


def _reduce_sum(equation: Any, marks: Sequence[_Axes]) -> _Kept:
    summed = equation.params["axes"]
    rest = [a for a in range(len(equation.invars[0].aval.shape)) if a not in summed]
    return [marks[0] - frozenset(summed)], frozenset(n for n, a in enumerate(rest) if a in marks[0])


_RULES: dict[str | None, Callable[[Any, Sequence[_Axes]], _Kept]] = {
    "elementwise": _elementwise,
    "dot": _dot_general,
    "convolution": _convolution,
    "transpose": _transpose,
    "broadcast": _broadcast,
    "reshape": _reshape,
    "reduction": _reduce_sum,
}
