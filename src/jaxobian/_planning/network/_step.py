"""A step of a contraction: some arrays multiplied, and summed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

Letters = tuple[int, ...]


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


def _along(array: Any, letters: Letters, order: Sequence[int]) -> Any:
    """An array with its axes in an order, and axes of size one for those that it lacks."""
    here = [k for k in order if k in letters]
    if here != list(letters):
        array = array.transpose([letters.index(k) for k in here])
    sizes = dict(zip(here, array.shape, strict=True))
    return array.reshape([sizes.get(k, 1) for k in order])
