"""Terms of J -> contractions: what is wanted of J closes them, as einsum would be asked."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from ..._outputs import Diagonal, Gram, Quantity, SquaredNorms, Trace
from ..._trace import Ends
from ._contraction import Contraction
from ._terms import Axes, Factor, Letters, Source, Term, aligned, fresh, window_of

# J as terms: jacobian[out][in].
Jacobian = Sequence[Sequence[Sequence[Term]]]


class NotClosedError(Exception):
    """Axes do not fit together digit by digit."""


@dataclass(frozen=True, eq=False)
class Joint:
    """Some terms multiplied, with the letters of their sides."""

    factors: tuple[Factor, ...]
    sides: tuple[Axes, ...]
    scale: float
    letters: Letters

    @classmethod
    def of(cls, *terms: Term, letters: Letters) -> Joint:
        """A term, or several of which all but the first take letters of their own. Sides: y, x, y, x, ..."""
        apart = [terms[0], *(fresh(term, letters) for term in terms[1:])]
        factors = tuple(f for term in apart for f in term.factors)
        sides = tuple(side for term in apart for side in (term.own, term.inp))
        return cls(factors, sides, math.prod(term.scale for term in terms), letters)

    def tied(self, first: Callable[[Joint], Axes], second: Callable[[Joint], Axes]) -> Joint:
        """With the axes that two functions pick being the same."""
        splits = aligned(first(self), second(self), self.letters)
        if splits is None:
            raise NotClosedError
        joint = self.renamed(splits)
        while True:
            pairs = zip(_flat(first(joint), self.letters), _flat(second(joint), self.letters), strict=True)
            found = next(((a, b) for a, b in pairs if a != b), None)
            if found is None:
                return joint
            joint = joint.renamed({found[1]: (found[0],)})

    def renamed(self, names: dict[int, tuple[int, ...]]) -> Joint:
        def over(axes: Axes) -> Axes:
            return tuple(tuple(n for k in digits for n in names.get(k, (k,))) for digits in axes)

        factors = tuple((source, over(axes)) for source, axes in self.factors)
        return replace(self, factors=factors, sides=tuple(map(over, self.sides)))

    def times(self, source: Source, axes: Axes) -> Joint:
        return replace(self, factors=(*self.factors, (source, axes)))

    def windows_met(self) -> Joint | None:
        """With windows of one axis that are the same taken once; None where it is zero, as windows apart make it."""
        joint = self
        if any(0 in source.shape for source, _ in joint.factors):
            return None  # a sum of nothing
        while True:
            found = [(k, source, axes) for k, (source, axes) in enumerate(joint.factors) if window_of(source)]
            pairs = [(p, q) for p, q in itertools.combinations(found, 2) if p[2][1] == q[2][1]]
            if any(set(window_of(p[1]) or ()).isdisjoint(window_of(q[1]) or ()) for p, q in pairs):
                return None
            same = next(((p[0], q[0]) for p, q in pairs if p[1].kind == q[1].kind), None)
            if same is None:
                return joint
            kept, gone = same
            joint = joint.tied(lambda j, k=kept: j.factors[k][1][:1], lambda j, k=gone: j.factors[k][1][:1])
            joint = replace(joint, factors=(*joint.factors[:gone], *joint.factors[gone + 1 :]))

    def _opened(self, wanted: Axes) -> tuple[list[Factor], set[int], set[int]]:
        """The factors without windows that nothing else looks through, and what those had in front and behind."""
        factors, front, behind = list(self.factors), set[int](), set[int]()
        for k, (source, axes) in reversed(list(enumerate(factors))):
            if not window_of(source):
                continue
            others = (*wanted, axes[0], *(digits for n, (_, each) in enumerate(factors) if n != k for digits in each))
            if not set(axes[1]) & {letter for digits in others for letter in digits}:
                del factors[k]
                front.update(axes[0])
                behind.update(axes[1])
        return factors, front, behind

    def contraction(self, wanted: Axes, *, times: float = 1.0) -> Contraction:
        """Summed over all letters but those of some axes."""
        letters = self.letters
        factors, front, behind = self._opened(wanted)
        shape = tuple(letters.size(digits) for digits in wanted)
        output: list[int] = []
        for letter in _flat(wanted, letters):
            if letter in output:  # an identity
                size, other = letters.sizes[letter], letters.new(letters.sizes[letter])
                factors.append((Source(None, (size, size), 4, _eye(size), ("eye", size)), ((letter,), (other,))))
                letter = other
            output.append(letter)
        read = {k for _, axes in factors for k in _flat(axes, letters)}
        every = {k for side in self.sides for k in _flat(side, letters)} | front
        alike = [k for k in every if k not in read and k not in output and k not in behind]
        scale = self.scale * times * letters.size(alike)
        operands = tuple((source, tuple(_flat(axes, letters))) for source, axes in factors)
        return Contraction(operands, tuple(output), shape, scale, letters.sizes)


def _eye(size: int) -> Callable[[Any], Any]:
    return lambda _: jnp.eye(size)


def _flat(axes: Axes, letters: Letters) -> list[int]:
    return [k for digits in axes for k in digits if letters.sizes[k] > 1]


Closed = dict[Any, list[Contraction]]


def closed(quantity: Quantity, jacobian: Jacobian, ends: Ends, letters: Letters) -> Closed:
    """For each part of the result the contractions that add up to it.

    Raises:
        NotClosedError: digits do not fit, or products of terms would lose what is left where those cancel.
    """
    if isinstance(quantity, SquaredNorms | Gram) and any(_cancel(terms) for row in jacobian for terms in row):
        raise NotClosedError
    found: Closed = defaultdict(list)
    made = CLOSINGS[type(quantity)](quantity, jacobian, ends, letters)
    for key, contraction in made:
        found[key].append(contraction)
    return {key: _together(some) for key, some in found.items()}


def _cancel(terms: Sequence[Term]) -> bool:
    """Whether terms are likely to be nearly the same but for their sign, as those of softmax, diag(p) - p p^T, are.

    |A - B|^2 as |A|^2 - 2 A . B + |B|^2 has half of the digits that the difference has.
    """
    arrays = [Counter(source.key for source, _ in term.factors) for term in terms]
    return any(
        terms[a].scale * terms[b].scale < 0 and (arrays[a] <= arrays[b] or arrays[b] <= arrays[a])
        for a, b in itertools.combinations(range(len(terms)), 2)
    )


def _together(some: Sequence[Contraction]) -> list[Contraction]:
    """The same ones added."""
    known: dict[Hashable, Contraction] = {}
    for one in some:
        other = known.get(one.key)
        known[one.key] = one if other is None else replace(other, scale=other.scale + one.scale)
    return list(known.values())


class _Sides:
    """Which axes are which, of a term or of a pair: sides are y, x, y, x."""

    def __init__(self, ends: Ends, o: int, i: int, p: int | None = None, k: int | None = None):
        self.out = ends.outputs.batch_axes[o], ends.outputs.batch_axes[p if p is not None else o]
        self.inp = ends.inputs.batch_axes[i], ends.inputs.batch_axes[k if k is not None else i]
        self.batched = ends.batch is not None

    def y(self, joint: Joint, number: int = 0) -> Axes:
        return _without(joint.sides[2 * number], self.out[number])

    def x(self, joint: Joint, number: int = 0) -> Axes:
        return _without(joint.sides[2 * number + 1], self.inp[number])

    def lead(self, joint: Joint, side: int = 0) -> Axes:
        axis = (self.out[0], self.inp[0], self.out[1], self.inp[1])[side]
        return () if axis is None or not self.batched else (joint.sides[side][axis],)

    def batch_tied(self, joint: Joint) -> Joint:
        """All sides have the same example."""
        if not self.batched:
            return joint
        for side in range(1, len(joint.sides)):
            joint = joint.tied(self.lead, lambda j, side=side: self.lead(j, side))
        return joint


def _without(axes: Axes, axis: int | None) -> Axes:
    return axes if axis is None else (*axes[:axis], *axes[axis + 1 :])


_Closing = Callable[[Any, Jacobian, Ends, Letters], Iterator[tuple[Any, Contraction]]]


def _diagonals(
    quantity: Diagonal | Trace, jacobian: Jacobian, ends: Ends, letters: Letters
) -> Iterator[tuple[Any, Contraction]]:
    for o, i in enumerate(quantity.paired):
        for term in jacobian[o][i] if i is not None else ():
            sides = _Sides(ends, o, i or 0)
            joint = sides.batch_tied(Joint.of(term, letters=letters))
            above = len(sides.y(joint)) - len(sides.x(joint))
            joint = joint.tied(lambda j, s=sides, a=above: s.y(j)[a:], sides.x).windows_met()
            if joint is None:
                continue
            kept = sides.y(joint)[:above] if isinstance(quantity, Trace) else sides.y(joint)
            yield o, joint.contraction((*sides.lead(joint), *kept))


def _norms(
    quantity: SquaredNorms, jacobian: Jacobian, ends: Ends, letters: Letters
) -> Iterator[tuple[Any, Contraction]]:
    for o, row in enumerate(jacobian):
        for i, terms in enumerate(row):
            sides = _Sides(ends, o, i)
            for a, b in itertools.combinations_with_replacement(range(len(terms)), 2):
                joint = sides.batch_tied(Joint.of(terms[a], terms[b], letters=letters))
                joint = joint.tied(sides.y, lambda j, s=sides: s.y(j, 1)).tied(sides.x, lambda j, s=sides: s.x(j, 1))
                joint = joint.windows_met()
                if joint is None:
                    continue
                number, kept = {"in": (o, sides.y(joint)), "out": (i, sides.x(joint)), "all": (0, ())}[quantity.over]
                yield number, joint.contraction((*sides.lead(joint), *kept), times=1.0 if a == b else 2.0)


def _grams(quantity: Gram, jacobian: Jacobian, ends: Ends, letters: Letters) -> Iterator[tuple[Any, Contraction]]:
    outer = quantity.side == "out"
    ours, others = (ends.outputs, ends.inputs) if outer else (ends.inputs, ends.outputs)
    for a, b in itertools.combinations_with_replacement(range(len(ours.avals)), 2):
        for k in range(len(others.avals)):
            first, second = (jacobian[a][k], jacobian[b][k]) if outer else (jacobian[k][a], jacobian[k][b])
            sides = _Sides(ends, a, k, b, k) if outer else _Sides(ends, k, a, k, b)
            kept, met = (sides.y, sides.x) if outer else (sides.x, sides.y)
            for one, other in itertools.product(first, second):
                joint = sides.batch_tied(Joint.of(one, other, letters=letters))
                joint = joint.tied(met, lambda j, met=met: met(j, 1)).windows_met()
                if joint is None:
                    continue
                if quantity.places is not None:
                    place = quantity.places[k]
                    shape = others.avals[k].shape
                    source = Source(None, tuple(shape), 4, None, ("weight", place))
                    joint = joint.times(source, joint.sides[1 if outer else 0])
                yield (a, b), joint.contraction((*sides.lead(joint), *kept(joint), *kept(joint, 1)))


CLOSINGS: dict[type, _Closing] = {Diagonal: _diagonals, Trace: _diagonals, SquaredNorms: _norms, Gram: _grams}
