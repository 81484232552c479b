"""Ties: an axis of the output that depends on an axis of the input along a diagonal only, and their algebra.

Two kinds. With i the index along the output's axis and k that along the input's, wherever dy/dx is not zero:

    Line    i = sign k + offset
    Digit   floor(i / stride) mod base = floor(k / in_stride) mod base      (base 0: without the mod)

A digit survives where axes are merged and split. A relation is a set of ties that all hold; the empty set, of which
nothing is known, is a dense dependence. That there is no dependence at all is told by the absence of a relation.

    y <- z <- x   composes ties that share an axis of z
    y <- x twice  (a sum of paths) keeps what holds on both
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple


class Digit(NamedTuple):
    """floor(i / stride) mod base = floor(k / in_stride) mod base; base 0 stands for no mod."""

    out: int
    stride: int
    inp: int
    in_stride: int
    base: int


class Line(NamedTuple):
    """i = sign k + offset."""

    out: int
    inp: int
    sign: int
    offset: int


Tie = Digit | Line
Relation = frozenset[Tie]

DENSE: Relation = frozenset()
# More ties than axes have digits are kept only where programs reshape a lot; beyond this some are forgotten.
_MOST = 24


def identity(shape: tuple[int, ...]) -> Relation:
    """Every axis tied to itself. Axes of size 1 carry no tie."""
    return frozenset(Line(a, a, 1, 0) for a, n in enumerate(shape) if n > 1)


def line(out: int, inp: int, offset: int = 0, sign: int = 1) -> Line:
    return Line(out, inp, sign, offset)


def digit(out: int, stride: int, inp: int, in_stride: int, base: int) -> Tie | None:
    """A digit, or the line that it is, or None where it says nothing."""
    if base == 1:
        return None
    if base == 0 and stride == in_stride == 1:
        return Line(out, inp, 1, 0)
    return Digit(out, stride, inp, in_stride, base)


def as_digit(tie: Tie) -> Digit | None:
    """What a tie says of digits. A shift leaves alone those that divide it; a reflection is not looked into."""
    if isinstance(tie, Digit):
        return tie
    if tie.sign != 1 or abs(tie.offset) == 1:
        return None
    return Digit(tie.out, 1, tie.inp, 1, abs(tie.offset))


def transposed(relation: Relation) -> Relation:
    """The same ties, read from the output to the input."""

    def turn(tie: Tie) -> Tie:
        if isinstance(tie, Digit):
            return Digit(tie.inp, tie.in_stride, tie.out, tie.stride, tie.base)
        return Line(tie.inp, tie.out, tie.sign, -tie.sign * tie.offset)

    return frozenset(map(turn, relation))


def shifted(relation: Relation, out: int, inp: int) -> Relation:
    """The same ties between axes further on, where leading axes have been added."""
    return frozenset(tie._replace(out=tie.out + out, inp=tie.inp + inp) for tie in relation)


@lru_cache(maxsize=100_000)
def compose(outer: Relation, inner: Relation) -> Relation:
    """The ties of y <- x, from those of y <- z and of z <- x."""
    return simplified(r for p in outer for q in inner if p.inp == q.out for r in (_through(p, q),) if r)


def _through(p: Tie, q: Tie) -> Tie | None:
    if isinstance(p, Line) and isinstance(q, Line):
        return Line(p.out, q.inp, p.sign * q.sign, p.offset + p.sign * q.offset)
    a, b = as_digit(p), as_digit(q)
    if a is None or b is None:
        return None
    low = math.lcm(a.in_stride, b.stride)
    f, g = low // a.in_stride, low // b.stride
    if a.base % f or b.base % g:
        return None
    return digit(a.out, a.stride * f, b.inp, b.in_stride * g, math.gcd(a.base // f, b.base // g))


@lru_cache(maxsize=100_000)
def join(first: Relation, second: Relation) -> Relation:
    """The ties that hold on both of two paths."""
    if first == second:
        return first
    pairs = ((p, q) for p in first for q in second if (p.out, p.inp) == (q.out, q.inp))
    return simplified(r for p, q in pairs for r in (_both(p, q),) if r)


def _both(p: Tie, q: Tie) -> Tie | None:
    if p == q:
        return p
    a, b = as_digit(p), as_digit(q)
    if a is None or b is None:
        return None
    low = math.lcm(a.stride, b.stride)
    f, g = low // a.stride, low // b.stride
    if a.base % f or b.base % g or a.in_stride * f != b.in_stride * g:
        return None
    return digit(a.out, low, a.inp, a.in_stride * f, math.gcd(a.base // f, b.base // g))


def simplified(ties: Iterable[Tie]) -> Relation:
    """Neighboring digits merged, and what follows from another tie left out."""
    kept = set(ties)
    merging = True
    while merging:
        merging = False
        for p in [tie for tie in kept if isinstance(tie, Digit) and tie.base]:
            above = (p.out, p.stride * p.base, p.inp, p.in_stride * p.base)
            for q in [tie for tie in kept if isinstance(tie, Digit) and tie[:4] == above]:
                merged = digit(p.out, p.stride, p.inp, p.in_stride, p.base * q.base)
                if p in kept and q in kept and merged is not None:
                    kept -= {p, q}
                    kept.add(merged)
                    merging = True
    kept = {tie for tie in kept if not any(tie != other and _implies(other, tie) for other in kept)}
    return frozenset(sorted(kept)[:_MOST])


@lru_cache(maxsize=100_000)
def within(relation: Relation, out: tuple[int, ...], inp: tuple[int, ...]) -> Relation:
    """The same ties between axes of these sizes: a mod that no index reaches is left out."""

    def bounded(tie: Tie) -> Tie:
        if isinstance(tie, Line) or out[tie.out] > tie.stride * tie.base or inp[tie.inp] > tie.in_stride * tie.base:
            return tie
        return digit(tie.out, tie.stride, tie.inp, tie.in_stride, 0) or tie

    return simplified(map(bounded, relation))


def _implies(strong: Tie, weak: Tie) -> bool:
    if isinstance(weak, Line) or (strong.out, strong.inp) != (weak.out, weak.inp):
        return False
    known = as_digit(strong)
    if known is None or weak.stride % known.stride:
        return False
    f = weak.stride // known.stride
    if weak.in_stride != known.in_stride * f or known.base % f:
        return False
    base = known.base // f
    return base == weak.base or (weak.base != 0 and base % weak.base == 0)


def holds(relation: Relation, i: tuple[int, ...], k: tuple[int, ...]) -> bool:
    """Whether the ties allow output element i to depend on input element k: the definition, for tests."""

    def allowed(tie: Tie) -> bool:
        if isinstance(tie, Line):
            return i[tie.out] == tie.sign * k[tie.inp] + tie.offset
        left, right = i[tie.out] // tie.stride, k[tie.inp] // tie.in_stride
        return left % tie.base == right % tie.base if tie.base else left == right

    return all(map(allowed, relation))


def has_line(relation: Relation, out: int | None, inp: int | None) -> bool:
    """Whether an axis of a result is tied to one of an operand, index for index."""
    return out is not None and inp is not None and Line(out, inp, 1, 0) in relation
