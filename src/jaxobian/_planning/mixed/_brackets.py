"""The order in which to multiply a chain of local Jacobians out.

A program cut at variables z_1, ..., z_{q-1} is a chain of q segments, z_0 = x and z_q = y. The Jacobian of z_j by z_i
is a segment's own, or a product, or a matrix at hand whose columns are pushed on (or whose rows are pulled back)
through further segments. With C[i, j] the least cost of the Jacobian from the start of segment i to the end of
segment j:

    C[i, j] = min over k of   C[i, k] + C[k+1, j] + one product           multiply
                              C[i, k] + n_i sum t_{k+1..j}                push
                              C[k+1, j] + n_{j+1} sum a_{i..k}            pull

Source: Griewank and Naumann, Accumulating Jacobians as chained sparse matrix products (2003), with local Jacobians that
have a price of their own as in Naumann, arXiv:2406.11862 (2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from operator import itemgetter


@dataclass(frozen=True)
class Leaf:
    """Segments first, ..., last as a whole, by passes of one mode."""

    first: int
    last: int
    mode: str


@dataclass(frozen=True)
class Multiply:
    """The product of two Jacobians, that of the later segments on the left."""

    inner: Tree
    outer: Tree

    @property
    def first(self) -> int:
        return self.inner.first

    @property
    def last(self) -> int:
        return self.outer.last


@dataclass(frozen=True)
class Push:
    """The columns of a Jacobian, pushed on through segments up to `last`."""

    inner: Tree
    last: int

    @property
    def first(self) -> int:
        return self.inner.first


@dataclass(frozen=True)
class Pull:
    """The rows of a Jacobian, pulled back through segments down to `first`."""

    outer: Tree
    first: int

    @property
    def last(self) -> int:
        return self.outer.last


Tree = Leaf | Multiply | Push | Pull


@dataclass(frozen=True)
class Chain:
    """What the parts of a chain cost.

    Attributes:
        widths: elements of z_0, ..., z_q.
        local: segment, mode -> cost of its Jacobian; infinite where the mode is impossible.
        push: segment, number of tangents -> cost of pushing those through it.
        pull: segment, number of cotangents -> cost of pulling those back through it.
        multiply: n, k, m -> cost of the product of an n x k and a k x m matrix.
        hold: n, m -> cost of having an n x m matrix at hand: of writing it down and reading it again.
    """

    widths: Sequence[int]
    local: Callable[[int, str], float]
    push: Callable[[int, int], float]
    pull: Callable[[int, int], float]
    multiply: Callable[[int, int, int], float]
    hold: Callable[[int, int], float]

    def cost(self, tree: Tree) -> float:
        """What multiplying out in this order costs."""
        n_in, n_out = self.widths[tree.first], self.widths[tree.last + 1]
        match tree:
            case Leaf(first, last, "fwd"):
                return self.local(first, "fwd") + sum(self.push(k, n_in) for k in range(first + 1, last + 1))
            case Leaf(first, last, _):
                return self.local(last, "rev") + sum(self.pull(k, n_out) for k in range(first, last))
            case Multiply(inner, outer):
                return self.cost(inner) + self.cost(outer) + self._product(inner, outer)
            case Push(inner, last):
                pushed = sum(self.push(k, n_in) for k in range(inner.last + 1, last + 1))
                return self.cost(inner) + self._held(inner) + pushed
            case Pull(outer, first):
                pulled = sum(self.pull(k, n_out) for k in range(first, outer.first))
                return self.cost(outer) + self._held(outer) + pulled

    def _held(self, tree: Tree) -> float:
        return self.hold(self.widths[tree.last + 1], self.widths[tree.first])

    def _product(self, inner: Tree, outer: Tree) -> float:
        product = self.multiply(self.widths[outer.last + 1], self.widths[outer.first], self.widths[inner.first])
        return product + self._held(inner) + self._held(outer)

    def cheapest(self) -> Tree | None:
        """The cheapest order of more than one part; None where every order is impossible."""

        @cache
        def best(first: int, last: int, modes: tuple[str, ...] = ("fwd", "rev")) -> tuple[float, Tree]:
            """The cheapest order for some segments, those leaves among it that run in one of `modes`."""
            passes = {"fwd": self.widths[first], "rev": self.widths[last + 1]}
            leaves: list[Tree] = [Leaf(first, last, mode) for mode in sorted(modes, key=passes.__getitem__)]
            return min([*((self.cost(leaf), leaf) for leaf in leaves), composed(first, last)], key=itemgetter(0))

        @cache
        def composed(first: int, last: int) -> tuple[float, Tree]:
            """The cheapest order of more than one part; what stands for none is infinitely dear."""
            offers: list[tuple[float, Tree]] = [(math.inf, Leaf(first, last, "fwd"))]
            for k in range(first, last):
                (left, inner), (right, outer) = best(first, k), best(k + 1, last)
                offers.append((left + right + self._product(inner, outer), Multiply(inner, outer)))
                # Pushing on what was pushed from the identity is one forward sweep; a leaf stands for it.
                _, inner = best(first, k, ("rev",))
                _, outer = best(k + 1, last, ("fwd",))
                offers += [(self.cost(tree), tree) for tree in (Push(inner, last), Pull(outer, first))]
            return min(offers, key=itemgetter(0))

        least, tree = composed(0, len(self.widths) - 2)
        return tree if least < math.inf else None
