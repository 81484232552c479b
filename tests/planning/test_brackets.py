"""The dynamic program over orders of multiplication, against every order there is."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from jaxobian._planning.mixed._brackets import Chain, Leaf, Multiply, Pull, Push, Tree


def random_chain(seed: int) -> Chain:
    """Random widths and costs; now and then a mode is impossible, or a local Jacobian free."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 5))
    widths = [int(w) for w in rng.integers(1, 30, n + 1)]
    tangent, adjoint = rng.integers(1, 50, n).astype(float), rng.integers(1, 50, n).astype(float)
    tangent[rng.random(n) < 0.15] = math.inf
    adjoint[rng.random(n) < 0.15] = math.inf
    free = rng.random((n, 2)) < 0.2

    def local(k: int, mode: str) -> float:
        forward = mode == "fwd"
        cost = tangent[k] * widths[k] if forward else adjoint[k] * widths[k + 1]
        return 0.0 if free[k, int(forward)] and cost < math.inf else float(cost)

    return Chain(
        widths,
        local,
        push=lambda k, number: float(tangent[k] * number),
        pull=lambda k, number: float(adjoint[k] * number),
        multiply=lambda n, k, m: float(n * k * m),
        hold=lambda n, m: float(n * m % 7),
    )


def every(first: int, last: int) -> Iterator[Tree]:
    """Every order for segments first, ..., last; what is pushed on from the identity is a leaf already."""
    yield Leaf(first, last, "fwd")
    yield Leaf(first, last, "rev")
    for k in range(first, last):
        for inner in every(first, k):
            if not isinstance(inner, Leaf) or inner.mode != "fwd":
                yield Push(inner, last)
            for outer in every(k + 1, last):
                yield Multiply(inner, outer)
        for outer in every(k + 1, last):
            if not isinstance(outer, Leaf) or outer.mode != "rev":
                yield Pull(outer, first)


@pytest.mark.parametrize("seed", range(300))
def test_cheapest_of_all(seed: int) -> None:
    chain = random_chain(seed)
    last = len(chain.widths) - 2
    composed = [tree for tree in every(0, last) if not isinstance(tree, Leaf)]
    least = min(map(chain.cost, composed))
    found = chain.cheapest()
    if found is None:
        assert least == math.inf
    else:
        assert not isinstance(found, Leaf)
        assert chain.cost(found) == pytest.approx(least)
        assert (found.first, found.last) == (0, last)


def test_griewank_and_naumann() -> None:
    """n passes through an hourglass are dearer than two local Jacobians and a product."""
    plain = Chain(
        [100, 5, 100],
        local=lambda k, mode: 1000.0 * (100 if (k == 0) == (mode == "fwd") else 5),
        push=lambda k, number: 1000.0 * number,
        pull=lambda k, number: 1000.0 * number,
        multiply=lambda n, k, m: float(n * k * m),
        hold=lambda n, m: 0.0,
    )
    tree = plain.cheapest()
    assert tree == Multiply(Leaf(0, 0, "rev"), Leaf(1, 1, "fwd"))
    assert tree is not None
    assert plain.cost(tree) == 5 * 1000 + 5 * 1000 + 100 * 5 * 100
    assert plain.cost(Leaf(0, 1, "fwd")) == 100 * 1000 * 2


def test_a_matrix_at_hand_is_pushed_where_that_is_cheapest() -> None:
    """Reverse alone is possible at first, forward alone after it, and the end is wide: no product pays."""
    chain = Chain(
        [3, 40, 40],
        local=lambda k, mode: {(0, "rev"): 40.0, (1, "fwd"): 400.0}.get((k, mode), math.inf),
        push=lambda k, number: 10.0 * number if k == 1 else math.inf,
        pull=lambda k, number: 1.0 * number if k == 0 else math.inf,
        multiply=lambda n, k, m: float(n * k * m),
        hold=lambda n, m: 0.0,
    )
    assert chain.cheapest() == Push(Leaf(0, 0, "rev"), 1)
