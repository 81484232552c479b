"""A contraction: factors multiplied and summed, two at a time in the order that opt_einsum finds.

Factors with the same axes are multiplied first, element by element: that makes nothing larger, and XLA fuses them. Each
product has its axes in the order in which XLA makes them, so that nothing is transposed on the way.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import jax.numpy as jnp
import opt_einsum

from ..._cost import Work
from ._terms import Source

Letters = tuple[int, ...]
# Of more factors not all orders are looked at.
_MOST_ORDERED = 20


@dataclass(frozen=True)
class Step:
    """Some arrays multiplied, and summed over what nobody reads any more.

    Attributes:
        operands: numbers of the arrays: factors first, then what earlier steps made.
        given: the letters of each.
        result: the letters of what is made.
    """

    operands: tuple[int, ...]
    given: tuple[Letters, ...]
    result: Letters

    @property
    def letters(self) -> set[int]:
        return {k for letters in self.given for k in letters}

    @property
    def is_dot(self) -> bool:
        """Whether it is a product of matrices: something is summed, and both have axes of their own."""
        if len(self.given) != 2 or self.letters == set(self.result):
            return False
        one, other = map(set, self.given)
        return bool(one - other) and bool(other - one)

    def value(self, arrays: Sequence[Any]) -> Any:
        """What it makes of the arrays of all factors, and of earlier steps."""
        if self.is_dot:
            first, second = (arrays[k] for k in self.operands)
            return jnp.einsum(first, self.given[0], second, self.given[1], self.result)
        order = (*self.result, *sorted(self.letters - set(self.result)))
        product: Any = None
        for k, letters in zip(self.operands, self.given, strict=True):
            factor = _along(arrays[k], letters, order)
            product = factor if product is None else product * factor
        summed = tuple(range(len(self.result), len(order)))
        return jnp.sum(product, summed) if summed else product


def _diagonal(array: Any, letters: Letters) -> Any:
    """What is left of an array where axes with the same letter have the same index."""
    unique = tuple(dict.fromkeys(letters))
    return array if unique == letters else jnp.einsum(array, letters, unique)


def _along(array: Any, letters: Letters, order: Sequence[int]) -> Any:
    """An array with its axes in an order, and axes of size one for those that it lacks."""
    here = [k for k in order if k in letters]
    if here != list(letters):
        array = array.transpose([letters.index(k) for k in here])
    sizes = dict(zip(here, array.shape, strict=True))
    return array.reshape([sizes.get(k, 1) for k in order])


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
    """

    operands: tuple[tuple[Source, Letters], ...]
    output: Letters
    shape: tuple[int, ...]
    scale: float
    sizes: dict[int, int]
    quickly: bool = False

    @cached_property
    def key(self) -> Hashable:
        """What two that compute the same, but for their numbers, have in common."""
        names: dict[int, int] = {}

        def named(letters: Sequence[int]) -> Letters:
            return tuple(names.setdefault(k, len(names)) for k in letters)

        return tuple((source.key, named(letters)) for source, letters in self.operands), named(self.output), self.shape

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
        return _steps(*self._spelled, self.quickly) if self.operands else ()

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
        total = Work()
        for step in self.steps:
            every = self._elements(step.letters)
            moved = 4.0 * sum(map(self._elements, (*step.given, step.result)))
            if step.is_dot:
                total += Work(dot=2.0 * every, library=1.0, bytes=moved)
            elif len(step.given) == 1:
                total += Work(reduce=float(every), bytes=moved)
            else:
                total += Work(arithmetic=float(every * (len(step.given) - 1)), bytes=moved, equations=1.0)
        return total

    @property
    def peak(self) -> int:
        """Bytes of all that is made on the way."""
        return sum(4 * self._elements(step.result) for step in self.steps)

    def value(self, read: Callable[[Source], Any]) -> Any:
        """It, in the shape of the result."""
        if not self.operands:
            return jnp.full(self.shape, self.scale)
        arrays = [
            _diagonal(read(source).reshape([self.sizes[k] for k in letters]), letters)
            for source, letters in self.operands
        ]
        for step in self.steps:
            arrays.append(step.value(arrays))
        found = arrays[-1] if self.scale == 1.0 else arrays[-1] * self.scale
        own = [self.sizes[k] for k in self.output]
        known = set(self._read)
        found = found.reshape([n if k in known else 1 for k, n in zip(self.output, own, strict=True)])
        return jnp.broadcast_to(found, own).reshape(self.shape)


@lru_cache(maxsize=4096)
def _steps(factors: tuple[Letters, ...], output: Letters, sizes: tuple[int, ...], quickly: bool) -> tuple[Step, ...]:
    """The products of factors with these letters: layers of one shape have the same."""
    order = _Order(factors, output, sizes)
    order.merge()
    order.multiply(quickly=quickly)
    return tuple(order.steps)


class _Order:
    """Finds the steps: what is there is replaced, step by step, until the result alone is left."""

    def __init__(self, factors: Sequence[Letters], output: Letters, sizes: Sequence[int]):
        self.output, self.sizes = output, sizes
        self.steps: list[Step] = []
        self._n_factors = len(factors)
        self._left: dict[int, Letters] = dict(enumerate(factors))
        # How many of what is left know of each letter; the result is one more.
        self._times = Counter(k for letters in (*factors, output) for k in letters)

    def merge(self) -> None:
        """Sum what one array alone knows of, and multiply arrays with the same letters, as long as there are any."""
        while True:
            alike: dict[frozenset[int], list[int]] = {}
            for number, letters in self._left.items():
                alike.setdefault(frozenset(letters), []).append(number)
            found = next((numbers for numbers in alike.values() if self._can_shrink(numbers)), None)
            if found is None:
                return
            self._step(found)

    def _can_shrink(self, numbers: Sequence[int]) -> bool:
        return len(numbers) > 1 or any(self._times[k] == 1 for k in self._left[numbers[0]])

    def _needed(self, numbers: Sequence[int]) -> set[int]:
        """Their letters of which others, or the result, know."""
        ours = Counter(k for number in numbers for k in self._left[number])
        return {k for k, times in ours.items() if self._times[k] > times}

    def multiply(self, *, quickly: bool) -> None:
        """Take two at a time, in the order with the fewest operations, or in one that is found quickly."""
        left = list(self._left)
        if len(left) > 1:
            symbol = {k: opt_einsum.get_symbol(i) for i, k in enumerate(dict.fromkeys(self._every()))}
            given = ["".join(symbol[k] for k in self._left[number]) for number in left]
            shapes = [tuple(self.sizes[k] for k in self._left[number]) for number in left]
            expression = ",".join(given) + "->" + "".join(symbol[k] for k in self.output)
            how = "greedy" if quickly or len(left) > _MOST_ORDERED else "dp"
            path, _ = opt_einsum.contract_path(expression, *shapes, shapes=True, optimize=how)
            for places in path:
                taken = [left[place] for place in places]
                left = [number for number in left if number not in taken]
                left.append(self._step(taken))
        (last,) = self._left
        if self._left[last] != self.output:
            self.steps.append(Step((last,), (self._left[last],), self.output))

    def _every(self) -> list[int]:
        return [k for letters in self._left.values() for k in letters]

    def _step(self, numbers: Sequence[int]) -> int:
        """Multiply some arrays, and return the number of what that makes."""
        needed = self._needed(numbers)
        # A product of matrices has what both have, what the first has alone, what the second has alone.
        numbers = sorted(numbers, key=lambda k: (-math.prod(self.sizes[n] for n in self._left[k]), k))
        given = tuple(self._left.pop(number) for number in numbers)
        both = [k for k in given[0] if all(k in letters for letters in given[1:])] if len(given) > 1 else []
        result = tuple(k for k in dict.fromkeys((*both, *(k for letters in given for k in letters))) if k in needed)
        step = Step(tuple(numbers), given, result)
        if not step.is_dot and len(given) > 1:  # element by element: in the order of the largest
            order = dict.fromkeys(k for letters in given for k in letters)
            step = Step(step.operands, given, tuple(k for k in order if k in needed))
        made = self._n_factors + len(self.steps)
        self.steps.append(step)
        self._left[made] = step.result
        self._times.subtract(k for letters in given for k in letters)
        self._times.update(step.result)
        return made
