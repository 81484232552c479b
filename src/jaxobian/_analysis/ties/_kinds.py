"""Kinds of primitives, by what they do to axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._indices import Indices
from ._ties import DENSE, Relation, Tie, line

# For each output: operand -> its relation; an operand that is not there is dense.
Local = list[dict[int, Relation]]
Shape = tuple[int, ...]


def shape_of(atom: Any) -> Shape:
    return tuple(getattr(atom.aval, "shape", ()))


def tied(ties: Sequence[Tie | None]) -> Relation:
    return frozenset(tie for tie in ties if tie is not None)


def aligned(out: Shape, operand: Shape, pairs: Sequence[tuple[int, int]]) -> Relation:
    """Axes of the output that are axes of the operand: of the same size, for an axis of size 1 may be broadcast."""
    return tied([line(o, i) for o, i in pairs if out[o] == operand[i]])


def same_axes(out: Shape, operand: Shape) -> Relation:
    """Axis by axis, where sizes agree: an operand may have rank 0, or axes of size 1, and be broadcast silently."""
    if len(out) != len(operand):
        return DENSE
    return aligned(out, operand, [(a, a) for a in range(len(out))])


def each_pair(equation: Any, relation: Callable[[Shape, Shape], Relation]) -> Local:
    """One relation for every output and operand, by their shapes."""
    operands = [shape_of(v) for v in equation.invars]
    return [{k: relation(shape_of(out), operand) for k, operand in enumerate(operands)} for out in equation.outvars]


def elementwise(equation: Any, indices: Indices) -> Local:
    """y[i] = g(x1[i], x2[i], ...): of (4, 1) and (4, 5), y[2, 3] by x1[2, 0] and x2[2, 3]."""
    return each_pair(equation, same_axes)


def except_axes(axes: Callable[[Any], Sequence[int]]) -> Callable[[Any, Indices], Local]:
    """Elementwise but along some axes, where all mix: a cumulative sum of (4, 5) along axis 1, y[2, 3] by x[2]."""

    def rule(equation: Any, indices: Indices) -> Local:
        mixed = set(axes(equation))

        def relation(out: Shape, operand: Shape) -> Relation:
            return frozenset(tie for tie in same_axes(out, operand) if tie.out not in mixed)

        return each_pair(equation, relation)

    return rule


def leading_axes(last: int) -> Callable[[Any, Indices], Local]:
    """All axes but the last few, factorizations of a batch of matrices: of (8, 3, 3), y[5] by x[5]."""

    def rule(equation: Any, indices: Indices) -> Local:
        local = []
        for out in equation.outvars:
            row = {}
            for k, v in enumerate(equation.invars):
                leading = len(shape_of(v)) - last
                row[k] = aligned(shape_of(out), shape_of(v), [(a, a) for a in range(min(leading, len(shape_of(out))))])
            local.append(row)
        return local

    return rule


def passed_on(equation: Any, indices: Indices) -> Local:
    """Output k is operand k, and no other: of x1 and x2, y2[i] = x2[i]."""
    return [{k: same_axes(shape_of(v), shape_of(v))} for k, v in enumerate(equation.invars)]


def reduction(equation: Any, indices: Indices) -> Local:
    """The axes that are left: the sum of (4, 5) along axis 0, y[3] by x[:, 3]."""
    reduced = {int(a) for a in equation.params.get("axes", equation.params.get("dimensions", ()))}
    local = []
    for out in equation.outvars:
        row = {}
        for k, v in enumerate(equation.invars):
            left = [a for a in range(len(shape_of(v))) if a not in reduced]
            if len(left) == len(shape_of(out)):
                row[k] = aligned(shape_of(out), shape_of(v), list(enumerate(left)))
        local.append(row)
    return local


def keys(equation: Any, indices: Indices) -> Local:
    """Random bits of keys, keys of keys: a key for each place of the leading axes, in Threefry alone.

    Of keys (4,), bits (4, 7): y[2] by x[2]. Other generators may make the bits of many keys from the first.
    """
    if not all("fry" in str(v.aval.dtype) for v in (*equation.invars, *equation.outvars) if _is_key(v)):
        return [{} for _ in equation.outvars]
    return each_pair(equation, lambda out, x: aligned(out, x, [(a, a) for a in range(min(len(out), len(x)))]))


def _is_key(atom: Any) -> bool:
    return jnp.issubdtype(atom.aval.dtype, jax.dtypes.prng_key)
