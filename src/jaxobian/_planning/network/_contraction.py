"""A contraction: factors multiplied and summed, step by step, and what several contractions have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax.numpy as jnp

from ..._cost import Work
from ._order import halved_steps, steps
from ._step import Letters, Step
from ._terms import Source


@dataclass(frozen=True)
class Made:
    """What steps of several contractions made, by the numbers that they have in common."""

    numbers: dict[Hashable, int] = field(default_factory=dict)
    arrays: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Contraction:
    """An einsum of factors, times a number.

    Attributes:
        operands: the factors, with a letter for each of their digits.
        output: the letters that are left.
        shape: of the result.
        scale: the number.
        sizes: of all letters.
        quickly: whether a good order will do, rather than the best, which takes longer to find.
        halved: whether a half of it is made once, of which it is the product with itself.
    """

    operands: tuple[tuple[Source, Letters], ...]
    output: Letters
    shape: tuple[int, ...]
    scale: float
    sizes: dict[int, int]
    quickly: bool = False
    halved: bool = False

    @cached_property
    def key(self) -> Hashable:
        """What two that compute the same, but for their numbers, have in common."""
        every = [k for _, letters in self.operands for k in letters]
        sources = tuple((source.key, len(letters)) for source, letters in self.operands)
        return sources, _renamed([*every, *self.output]), self.shape

    @cached_property
    def _read(self) -> Letters:
        """The letters of the result that factors know of; it is the same along the others."""
        known = {k for _, letters in self.operands for k in letters}
        return tuple(k for k in self.output if k in known)

    @cached_property
    def _spelled(self) -> tuple[tuple[Letters, ...], Letters, tuple[int, ...]]:
        """The letters of each factor and of the result, counted from 0 as they come, and their sizes."""
        factors = [tuple(dict.fromkeys(letters)) for _, letters in self.operands]
        names = {k: n for n, k in enumerate(dict.fromkeys(k for letters in factors for k in letters))}
        spelled = tuple(tuple(names[k] for k in letters) for letters in factors)
        return spelled, tuple(names[k] for k in self._read), tuple(self.sizes[k] for k in names)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The products, one after the other; the last one makes the result."""
        if not self.operands:
            return ()
        if self.halved:
            found = halved_steps(self._spelled[0], self._names, *self._spelled[1:], self.quickly)
            assert found is not None
            return found
        return steps(*self._spelled, self.quickly)

    @property
    def _names(self) -> tuple[int, ...]:
        """A number for each factor, the same for the same array."""
        numbers: dict[Hashable, int] = {}
        keys = ((source.key, _renamed(letters)) for source, letters in self.operands)
        return tuple(numbers.setdefault(key, len(numbers)) for key in keys)

    def in_halves(self) -> Contraction | None:
        """The same with a half of it made once, where it is a product of something with itself."""
        found = self.operands and halved_steps(self._spelled[0], self._names, *self._spelled[1:], self.quickly)
        return replace(self, halved=True) if found else None

    def numbered(self, numbers: dict[Hashable, int]) -> list[int]:
        """A number for each factor and each step, the same for what is the same; `numbers` gathers those of all."""
        found: list[int] = []
        for source, letters in self.operands:
            key: Hashable = (source.key, tuple(self.sizes[k] for k in letters), _renamed(letters))
            found.append(numbers.setdefault(key, len(numbers)))
        for step in self.steps:
            every = (*step.given, step.result)
            spelled = _renamed([k for letters in every for k in letters])
            key = (tuple(found[k] for k in step.operands), tuple(map(len, every)), spelled)
            found.append(numbers.setdefault(key, len(numbers)))
        return found

    @property
    def in_dots(self) -> set[Hashable]:
        """The keys of the factors that products of matrices read as they are."""
        numbers = {number for step in self.steps if step.is_dot for number in step.operands}
        return {source.key for number, (source, _) in enumerate(self.operands) if number in numbers}

    def _elements(self, letters: Iterable[int]) -> int:
        """How many a step's array with these letters has."""
        return math.prod(self._spelled[2][k] for k in letters)

    @property
    def work(self) -> Work:
        """What it takes."""
        return sum(map(self.work_of, self.steps), Work())

    def work_of(self, step: Step) -> Work:
        """What a step takes."""
        every = self._elements(step.letters)
        # An array that is multiplied with itself is read once.
        read = dict(zip(step.operands, step.given, strict=True)).values()
        moved = 4.0 * sum(map(self._elements, (*read, step.result)))
        if step.is_dot:
            return Work(dot=2.0 * every, library=1.0, bytes=moved)
        if len(step.given) == 1:
            return Work(reduce=float(every), bytes=moved)
        return Work(arithmetic=float(every * (len(step.given) - 1)), bytes=moved, equations=1.0)

    def nbytes_of(self, step: Step) -> int:
        """Size of what a step makes."""
        return 4 * self._elements(step.result)

    @property
    def peak(self) -> int:
        """Bytes of all that is made on the way."""
        return sum(map(self.nbytes_of, self.steps))

    def value(self, read: Callable[[Source], Any], made: Made | None = None) -> Any:
        """It, in the shape of the result.

        Args:
            read: what a factor is.
            made: what other contractions made, and this one does not make again.
        """
        if not self.operands:
            return jnp.full(self.shape, self.scale)
        made = Made() if made is None else made
        arrays = [
            _diagonal(read(source).reshape([self.sizes[k] for k in letters]), letters)
            for source, letters in self.operands
        ]
        for number, step in zip(self.numbered(made.numbers)[len(arrays) :], self.steps, strict=True):
            if number not in made.arrays:
                made.arrays[number] = step.value(arrays)
            arrays.append(made.arrays[number])
        found = arrays[-1] if self.scale == 1.0 else arrays[-1] * self.scale
        own = [self.sizes[k] for k in self.output]
        known = set(self._read)
        found = found.reshape([n if k in known else 1 for k, n in zip(self.output, own, strict=True)])
        return jnp.broadcast_to(found, own).reshape(self.shape)


def _renamed(letters: Sequence[int]) -> Letters:
    """Counted from 0 as they come."""
    names: dict[int, int] = {}
    return tuple(names.setdefault(k, len(names)) for k in letters)


def _diagonal(array: Any, letters: Letters) -> Any:
    """What is left of an array where axes with the same letter have the same index."""
    unique = tuple(dict.fromkeys(letters))
    return array if unique == letters else jnp.einsum(array, letters, unique)
