"""In which order the factors of a contraction are multiplied: two at a time, as opt_einsum finds.

Factors with the same axes are multiplied first, element by element: that makes nothing larger, and XLA fuses them. Each
product has its axes in the order in which XLA makes them, so that nothing is transposed on the way.

Where a contraction is a product of something with itself, as norms and traces of Hessians are, that is made once:

    sum over k of d[k] J[k, i] J[k, i],  J[k, i] = sum over h of W[k, h] D[h] V[h, i]
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

import opt_einsum

from ._step import Letters, Step

# Of more factors not all orders are looked at.
_MOST_ORDERED = 20


@lru_cache(maxsize=4096)
def steps(factors: tuple[Letters, ...], output: Letters, sizes: tuple[int, ...], quickly: bool) -> tuple[Step, ...]:
    """The products of factors with these letters: layers of one shape have the same.

    Args:
        factors: the letters of each.
        output: those of the result.
        sizes: what each letter runs over.
        quickly: whether a good order will do, rather than the best, which takes longer to find.
    """
    order = _Order(factors, output, sizes)
    order.multiply(quickly=quickly)
    order.finish()
    return tuple(order.steps)


@lru_cache(maxsize=4096)
def halved_steps(
    factors: tuple[Letters, ...], names: tuple[int, ...], output: Letters, sizes: tuple[int, ...], quickly: bool
) -> tuple[Step, ...] | None:
    """Steps in which a half of the product is made once; None where it has no equal halves.

    Args:
        factors: as `steps` has them.
        names: a number for each factor, the same for those that are the same array.
        output: as `steps` has it.
        sizes: as `steps` has them.
        quickly: as `steps` has it.
    """
    halves = _halves(factors, names, output)
    if halves is None or len(halves[0]) < 2:
        return None
    half, middle, kept = halves
    first = _Order([factors[k] for k in half], kept, sizes)
    first.multiply(quickly=quickly)
    (whole,) = first.left.values()
    last = _Order([whole, whole, *(factors[k] for k in middle)], output, sizes)
    last.multiply(quickly=quickly)
    last.finish()
    made = range(len(factors), len(factors) + len(first.steps))
    again = range(made.stop, made.stop + len(last.steps))
    return (
        *_renumbered(first.steps, [*half, *made]),
        *_renumbered(last.steps, [made[-1], made[-1], *middle, *again]),
    )


def _renumbered(some: Sequence[Step], numbers: Sequence[int]) -> list[Step]:
    return [Step(tuple(numbers[k] for k in step.operands), step.given, step.result) for step in some]


def _halves(
    factors: Sequence[Letters], names: Sequence[int], output: Letters
) -> tuple[list[int], list[int], Letters] | None:
    """Numbers of the factors of a half, and of those between it and the other one; the letters that both have."""
    swap, half = {k: k for k in output}, list[int]()
    for one, other in itertools.combinations(range(len(factors)), 2):
        if names[one] != names[other] or factors[one] == factors[other]:
            continue
        more = _with_pair(swap, factors[one], factors[other])
        more = None if more is None else _completed(more, factors, names)
        side = None if more is None else _one_side(more, factors)
        if more is not None and side is not None:
            swap, half = more, side
    moved = {k for k, image in swap.items() if k != image}
    if not moved:
        return None
    middle = [k for k, letters in enumerate(factors) if moved.isdisjoint(letters)]
    kept = dict.fromkeys(k for number in half for k in factors[number] if k not in moved)
    return half, middle, tuple(kept)


def _with_pair(swap: Mapping[int, int], one: Letters, other: Letters) -> dict[int, int] | None:
    """An exchange of letters, which also makes one factor the other; None where it cannot."""
    if len(one) != len(other):
        return None
    more = dict(swap)
    for a, b in zip(one, other, strict=True):
        if more.setdefault(a, b) != b or more.setdefault(b, a) != a:
            return None
    return more


def _completed(swap: dict[int, int], factors: Sequence[Letters], names: Sequence[int]) -> dict[int, int] | None:
    """The exchange, extended to the other letters of what it touches, so that the product stays the same."""
    images: set[int] = set()
    for number, letters in enumerate(factors):
        if all(swap.get(k, k) == k for k in letters):
            continue
        found = None
        for image, others in enumerate(factors):
            if image not in images and names[image] == names[number]:
                found = _with_pair(swap, letters, others)
                if found is not None:
                    images.add(image)
                    break
        if found is None:
            return None
        if len(found) > len(swap):
            return _completed(found, factors, names)  # letters that were looked at before may be moved now
    return swap


def _one_side(swap: Mapping[int, int], factors: Sequence[Letters]) -> list[int] | None:
    """The factors of one half; None where a letter of it meets its own image."""
    side: dict[int, bool] = {}  # of each letter that moves
    for start, image in swap.items():
        if start == image or start in side:
            continue
        reached = [start]
        while reached:
            letter = reached.pop()
            if side.get(letter, True) is False:
                return None
            if letter in side:
                continue
            side[letter], side[swap[letter]] = True, False
            reached += [k for f in factors if letter in f for k in f if swap.get(k, k) != k]
    return [number for number, f in enumerate(factors) if any(side.get(k, False) for k in f)]


class _Order:
    """Finds the steps: what is there is replaced, step by step, until the result alone is left."""

    def __init__(self, factors: Sequence[Letters], output: Letters, sizes: Sequence[int]):
        self.output, self.sizes = output, sizes
        self.steps: list[Step] = []
        self._n_factors = len(factors)
        self.left: dict[int, Letters] = dict(enumerate(factors))
        # How many of what is left know of each letter; the result is one more.
        self._times = Counter(k for letters in (*factors, output) for k in letters)

    def _merge(self) -> None:
        """Sum what one array alone knows of, and multiply arrays with the same letters, as long as there are any."""
        while True:
            alike: dict[frozenset[int], list[int]] = {}
            for number, letters in self.left.items():
                alike.setdefault(frozenset(letters), []).append(number)
            found = next((numbers for numbers in alike.values() if self._can_shrink(numbers)), None)
            if found is None:
                return
            self._step(found)

    def _can_shrink(self, numbers: Sequence[int]) -> bool:
        return len(numbers) > 1 or any(self._times[k] == 1 for k in self.left[numbers[0]])

    def _needed(self, numbers: Sequence[int]) -> set[int]:
        """Their letters of which others, or the result, know."""
        ours = Counter(k for number in numbers for k in self.left[number])
        return {k for k, times in ours.items() if self._times[k] > times}

    def multiply(self, *, quickly: bool) -> None:
        """Take two at a time, in the order with the fewest operations, or in one that is found quickly."""
        self._merge()
        left = list(self.left)
        if len(left) > 1:
            symbol = {k: opt_einsum.get_symbol(i) for i, k in enumerate(dict.fromkeys(self._every()))}
            given = ["".join(symbol[k] for k in self.left[number]) for number in left]
            shapes = [tuple(self.sizes[k] for k in self.left[number]) for number in left]
            expression = ",".join(given) + "->" + "".join(symbol[k] for k in self.output)
            how = "greedy" if quickly or len(left) > _MOST_ORDERED else "dp"
            path, _ = opt_einsum.contract_path(expression, *shapes, shapes=True, optimize=how)
            for places in path:
                taken = [left[place] for place in places]
                left = [number for number in left if number not in taken]
                left.append(self._step(taken))

    def finish(self) -> None:
        """Put the axes of what is left in the order of the result's."""
        (last,) = self.left
        if self.left[last] != self.output:
            self.steps.append(Step((last,), (self.left[last],), self.output))

    def _transposed(self, first: int, second: int, needed: set[int]) -> int:
        """How many of two matrices are read across: rows of the first are multiplied with columns of the second."""
        one, other = self.left[first], self.left[second]
        summed = [k for k in one if k in other and k not in needed]
        both = [k for k in one if k in other and k in needed]
        begin, end = len(both), len(both) + len(summed)
        return (set(one[len(one) - len(summed) :]) != set(summed)) + (set(other[begin:end]) != set(summed))

    def _every(self) -> list[int]:
        return [k for letters in self.left.values() for k in letters]

    def _step(self, numbers: Sequence[int]) -> int:
        """Multiply some arrays, and return the number of what that makes."""
        needed = self._needed(numbers)
        # A product of matrices has what both have, what the first has alone, what the second has alone. Where both are
        # read across, a small one takes twice the time.
        numbers = sorted(numbers, key=lambda k: (-math.prod(self.sizes[n] for n in self.left[k]), k))
        if len(numbers) == 2:
            numbers = min((numbers, numbers[::-1]), key=lambda pair: self._transposed(pair[0], pair[1], needed))
        given = tuple(self.left.pop(number) for number in numbers)
        both = [k for k in given[0] if all(k in letters for letters in given[1:])] if len(given) > 1 else []
        result = tuple(k for k in dict.fromkeys((*both, *(k for letters in given for k in letters))) if k in needed)
        step = Step(tuple(numbers), given, result)
        if not step.is_dot and len(given) > 1:  # element by element: in the order of the largest
            order = dict.fromkeys(k for letters in given for k in letters)
            step = Step(step.operands, given, tuple(k for k in order if k in needed))
        made = self._n_factors + len(self.steps)
        self.steps.append(step)
        self.left[made] = step.result
        self._times.subtract(k for letters in given for k in letters)
        self._times.update(step.result)
        return made
