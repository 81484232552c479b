"""J as a sum of products of arrays: each a term, whose factors share letters where einsum would have them.

    z[b, h] = sum_k a[b, k] dW[h, k]          one factor, a: letters (b, k); z has (b, h), W has (h, k)

The axes of a variable are *digits*: an axis of two letters is one that a reshape merged of two.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

# The letters of each axis of an array, from the most significant one down; an axis of size 1 may have none.
Axes = tuple[tuple[int, ...], ...]


class Letters:
    """Letters with the sizes of what they run over."""

    def __init__(self) -> None:
        self._counter = itertools.count()
        self.sizes: dict[int, int] = {}

    def new(self, size: int) -> int:
        """Another one."""
        letter = next(self._counter)
        self.sizes[letter] = size
        return letter

    def axes(self, shape: Sequence[int]) -> Axes:
        """New ones for an array."""
        return tuple(() if n == 1 else (self.new(n),) for n in shape)

    def size(self, letters: Sequence[int]) -> int:
        """Of all together."""
        return math.prod(self.sizes[k] for k in letters)


@dataclass(frozen=True, eq=False)
class Source:
    """An array that a factor is: one that the linear program reads, or is given, perhaps changed.

    Attributes:
        atom: a variable that no tangent influences, or a literal; or what stands for an array that passes make.
        shape: of the array, once changed.
        change: what is made of it.
        kind: what that is, in keys.
        parts: of a sum of products of others, each a number and what it is times.
    """

    atom: Any
    shape: tuple[int, ...]
    itemsize: int
    change: Callable[[Any], Any] | None = None
    kind: Any = None
    parts: tuple[tuple[float, tuple[Source, ...]], ...] = ()

    @property
    def key(self) -> Any:
        """What two that are the same have in common."""
        parts = tuple((scale, tuple(source.key for source in sources)) for scale, sources in self.parts)
        return id(self.atom), self.kind, parts

    @property
    def atoms(self) -> list[Any]:
        """All that it is made of."""
        own = [] if self.atom is None else [self.atom]
        return own + [atom for _, sources in self.parts for source in sources for atom in source.atoms]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.itemsize


Factor = tuple[Source, Axes]


def window(start: int, stride: int, m: int, n: int) -> Source:
    """(m, n), with a one in each row, m indices from `start` on."""

    def made(_: Any) -> Any:
        return (start + stride * jnp.arange(m)[:, None] == jnp.arange(n)).astype(jnp.float32)

    return Source(None, (m, n), 4, made, ("window", range(start, start + stride * m, stride), n))


def window_of(source: Source) -> range | None:
    """The indices that a factor picks; None where it is no window."""
    picks = isinstance(source.kind, tuple) and source.kind[0] == "window"
    return source.kind[1] if picks else None


@dataclass(frozen=True, eq=False)
class Term:
    """A product of factors, times a number: dz / dx for one way from x to z.

    Attributes:
        factors: the arrays with their letters.
        own: the letters of z.
        inp: the letters of x. One that both have is a diagonal.
        scale: the number.
    """

    factors: tuple[Factor, ...]
    own: Axes
    inp: Axes
    scale: float = 1.0

    @property
    def letters(self) -> set[int]:
        """All."""
        axes = (*self.own, *self.inp, *(digits for _, each in self.factors for digits in each))
        return {letter for digits in axes for letter in digits}

    def read(self) -> set[int]:
        """Those of factors and of x."""
        axes = (*self.inp, *(digits for _, each in self.factors for digits in each))
        return {letter for digits in axes for letter in digits}

    def renamed(self, names: dict[int, tuple[int, ...]]) -> Term:
        """With letters replaced, each by one or by several digits."""

        def over(axes: Axes) -> Axes:
            return tuple(tuple(n for letter in digits for n in names.get(letter, (letter,))) for digits in axes)

        factors = tuple((source, over(axes)) for source, axes in self.factors)
        return replace(self, factors=factors, own=over(self.own), inp=over(self.inp))

    def times(self, source: Source, axes: Axes) -> Term:
        """With one more factor."""
        return replace(self, factors=(*self.factors, (source, axes)))


def fresh(term: Term, letters: Letters) -> Term:
    """The same in letters of its own."""
    return term.renamed({k: (letters.new(letters.sizes[k]),) for k in sorted(term.letters)})


def reshaped(term: Term, shape: Sequence[int], letters: Letters) -> Term | None:
    """The term of z in another shape; None where an axis would have to be split unevenly."""
    left = [letter for digits in term.own for letter in digits]
    made: list[tuple[int, ...]] = []
    for n in shape:
        digits: list[int] = []
        have = 1
        while have < n:
            if not left:
                return None
            letter, size, wanted = left.pop(0), 0, n // have
            size = letters.sizes[letter]
            if size > wanted:
                if n % have or size % wanted:
                    return None
                parts = letters.new(wanted), letters.new(size // wanted)
                term = term.renamed({letter: parts})
                made = [tuple(p for k in axis for p in (parts if k == letter else (k,))) for axis in made]
                digits = [p for k in digits for p in (parts if k == letter else (k,))]
                left = [p for k in left for p in (parts if k == letter else (k,))]
                left.insert(0, parts[1])
                letter, size = parts[0], wanted
            digits.append(letter)
            have *= size
        if have != n:
            return None
        made.append(tuple(digits))
    return replace(term, own=tuple(made))


def aligned(first: Axes, second: Axes, letters: Letters) -> dict[int, tuple[int, ...]] | None:
    """How letters are split so that two arrays of one shape have the same digits; None where they cannot be."""
    splits: dict[int, tuple[int, ...]] = {}

    def spelled(digits: Sequence[int]) -> list[int]:
        return [n for k in digits for n in (spelled(splits[k]) if k in splits else [k])]

    for one, other in zip(first, second, strict=True):
        a, b = spelled(one), spelled(other)
        while a and b:
            m, n = letters.sizes[a[0]], letters.sizes[b[0]]
            if m == n:
                a, b = a[1:], b[1:]
                continue
            large, few = (a, n) if m > n else (b, m)
            if letters.sizes[large[0]] % few:
                return None
            parts = letters.new(few), letters.new(letters.sizes[large[0]] // few)
            splits[large[0]] = parts
            large[:1] = parts
            a, b = spelled(a), spelled(b)
        if any(letters.sizes[k] > 1 for k in (*a, *b)):
            return None
    return {k: tuple(spelled([k])) for k in splits}


def added(terms: Sequence[Term], letters: Letters) -> list[Term]:
    """Terms of one variable by one input; those that differ by arrays like the variable alone as one."""
    merged: list[Term] = []
    for term in terms:
        for place, other in enumerate(merged):
            both = _merged(other, term, letters)
            if both is not None:
                merged[place] = both
                break
        else:
            merged.append(term)
    return merged


def _merged(one: Term, other: Term, letters: Letters) -> Term | None:
    if one.own != other.own or one.inp != other.inp:
        return None
    same = 0
    for (a, here), (b, there) in zip(one.factors, other.factors, strict=False):
        if a.key != b.key or here != there:
            break
        same += 1
    rest = one.factors[same:], other.factors[same:]
    if any(axes not in (one.own, ()) for some in rest for _, axes in some):
        return None
    if not any(rest):
        return replace(one, scale=one.scale + other.scale)
    parts = tuple(
        (term.scale, tuple(source for source, _ in some)) for term, some in zip((one, other), rest, strict=True)
    )
    shape = tuple(letters.size(digits) for digits in one.own)
    itemsize = max(source.itemsize for some in rest for source, _ in some)
    total = Source(None, shape, itemsize, parts=parts)
    return replace(one, factors=(*one.factors[:same], (total, one.own)), scale=1.0)
