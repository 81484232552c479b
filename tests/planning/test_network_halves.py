"""What is a product of something with itself is made once: halves of contractions, and steps that several have."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

import jaxobian as jb
from jaxobian._planning import Candidate
from jaxobian._planning.network._contraction import Contraction, Made
from jaxobian._planning.network._terms import Source
from jaxobian._trace import program_of, repeats
from jaxobian.testing._scenario import normal

SIZES = {1: 2, 2: 3, 3: 4, 4: 5, 5: 3, 6: 4, 7: 5}


def contraction(
    factors: Sequence[tuple[str, tuple[int, ...]]], output: tuple[int, ...], sizes: dict[int, int] = SIZES
) -> tuple[Contraction, Any]:
    """One of named arrays, and what reads a factor."""
    arrays = {}
    for name, letters in factors:
        shape = tuple(sizes[k] for k in letters)
        arrays.setdefault(name, np.asarray(normal(*shape, seed=ord(name)), np.float64))
        assert arrays[name].shape == shape
    sources = {name: Source(name, a.shape, 4) for name, a in arrays.items()}
    operands = tuple((sources[name], letters) for name, letters in factors)
    shape = tuple(sizes[k] for k in output)
    return Contraction(operands, output, shape, 2.0, sizes), lambda source: jnp.asarray(arrays[source.atom])


def by_einsum(one: Contraction, read: Callable[[Source], Any]) -> Any:
    given = [x for source, letters in one.operands for x in (np.asarray(read(source)), letters)]
    return 2.0 * np.einsum(*given, one.output)


HALVES = {
    "a square between": [("A", (3, 1)), ("d", (3,)), ("A", (3, 1))],
    "a chain twice": [("A", (1, 2)), ("B", (2, 3)), ("d", (3,)), ("B", (5, 3)), ("A", (1, 5))],
    "what each side has": [("A", (1, 2)), ("d", (2,)), ("B", (2, 3)), ("B", (5, 3)), ("d", (5,)), ("A", (1, 5))],
    "two chains": [("A", (1, 2)), ("B", (3, 4)), ("C", (1, 3)), ("A", (1, 5)), ("B", (6, 4)), ("C", (1, 6))],
}
NONE = {
    "a matrix between": [("A", (1, 2)), ("S", (2, 5)), ("A", (1, 5))],
    "other arrays": [("A", (1, 2)), ("B", (2, 3)), ("d", (3,)), ("C", (5, 3)), ("A", (1, 5))],
    "diagonals of it": [("A", (2, 2, 5)), ("b", (5,)), ("A", (2, 5, 5)), ("b", (2,))],
    "a result of a side": [("A", (1, 2)), ("B", (2, 3)), ("B", (5, 3)), ("A", (1, 5)), ("c", (2,)), ("e", (5,))],
}


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("output", [(), (1,)], ids=str)
def test_halves_are_made_once(name: str, output: tuple[int, ...], x64) -> None:
    one, read = contraction(HALVES[name], output)
    halved = one.in_halves()
    if name == "a square between":  # there is nothing to make first
        assert halved is None
        return
    assert halved is not None
    assert sum(step.is_dot for step in halved.steps) < sum(step.is_dot for step in one.steps) or name == "two chains"
    for made in (one, halved):
        np.testing.assert_allclose(made.value(read), by_einsum(one, read), rtol=1e-10)


@pytest.mark.parametrize("name", NONE)
def test_there_are_none(name: str) -> None:
    assert contraction(NONE[name], ())[0].in_halves() is None


def test_random_contractions(x64) -> None:
    draw, found = random.Random(5), 0
    sizes = {1: 3, 2: 4, 3: 3, 4: 4, 5: 3, 11: 3, 12: 4, 13: 3}
    for _ in range(300):
        shapes: dict[str, tuple[int, ...]] = {}

        def drawn(names: str, letters: Sequence[int], shapes: dict[str, tuple[int, ...]] = shapes) -> Any:
            name = draw.choice(names)
            shape = shapes.setdefault(name, tuple(draw.choice((3, 4)) for _ in range(draw.randint(1, 3))))
            return name, tuple(draw.choice([k for k in letters if sizes[k] == n]) for n in shape)

        half = [drawn("ABC", (1, 2, 3, 4, 5)) for _ in range(draw.randint(1, 4))]
        mirrored = [(name, tuple(k + 10 if k < 4 else k for k in letters)) for name, letters in half]
        middle = [drawn("ABCDE", (4, 5)) for _ in range(draw.randint(0, 2))]
        factors = [*half, *mirrored, *middle]
        draw.shuffle(factors)
        output = tuple(k for k in (4, 5) if any(k in letters for _, letters in factors) and draw.random() < 0.5)
        one, read = contraction(factors, output, sizes)
        halved = one.in_halves()
        if halved is not None:
            found += 1
            np.testing.assert_allclose(halved.value(read), by_einsum(one, read), rtol=1e-9, err_msg=str(factors))
    assert found > 100


def test_steps_of_several_are_made_once(x64) -> None:
    made = Made()
    chain = [("A", (1, 2)), ("B", (2, 3))]
    first, read = contraction(chain, (1, 3))
    second, _ = contraction([("A", (11, 12)), ("B", (12, 13))], (11, 13), {k + 10: n for k, n in SIZES.items()})
    other, _ = contraction([*chain, ("B", (2, 3))], (1, 3))
    for one in (first, second, other):
        np.testing.assert_allclose(one.value(read, made), by_einsum(one, read), rtol=1e-10)
    assert len(made.arrays) == len(first.steps) + len(other.steps)


def test_equations_that_make_the_same() -> None:
    def f(x: Array, n: Array) -> Any:
        y = jnp.sin(x)
        return y * 2, jnp.sin(x) * 2, jnp.sin(-x) * 2, y * 3, jnp.sin(x) + n

    program, _, _ = program_of(f, *map(jax.typeof, (jnp.ones(3), jnp.ones(3))))
    same = repeats(program)
    first, second, third, fourth, _ = program.outputs
    assert same[second] is first
    assert not {first, third, fourth} & same.keys()


def test_two_draws_are_not_the_same() -> None:
    def f(x: Array) -> Any:
        return tuple(x * jax.lax.rng_uniform(0.0, 1.0, (3,)) for _ in range(2))

    assert not repeats(program_of(f, jax.typeof(jnp.ones(3)))[0])


# What is found in plain code ----------------------------------------------------------------------------------------


def network(sizes: Sequence[int], of: Callable[[Array], Array] = jnp.tanh) -> Callable[[Array], Array]:
    weights = [normal(m, n, seed=m + n) / m**0.5 for m, n in itertools.pairwise(sizes)]

    def f(x: Array) -> Array:
        for w in weights[:-1]:
            x = of(x @ w.astype(x.dtype))
        return (x @ weights[-1].astype(x.dtype))[..., 0]

    return f


@pytest.mark.parametrize("of", [jnp.tanh, jax.nn.softplus, jnp.sin], ids=["tanh", "softplus", "sin"])
def test_laplacians(of: Callable[[Array], Array], x64) -> None:
    f, X = network((20, 60, 50, 1), of), normal(12, 20).astype(jnp.float64)
    H = jb.batch_hessian(f)
    plan = H.trace.plan(X)
    assert plan.mode == "network"
    # By passes two products with the second weights for each of 20 inputs, or one and its transpose; here one.
    passes = next(c for c in plan.candidates if isinstance(c, Candidate) and c.mode == "fwd")
    assert plan.flops < 0.6 * passes.flops
    expected = jax.vmap(lambda x: jnp.trace(jax.hessian(f)(x)))(X)
    for made in (H.trace(X), jax.jit(H.trace)(X)):
        np.testing.assert_allclose(made, expected, rtol=1e-10, atol=1e-12)
    diagonals = jax.vmap(lambda x: jnp.diagonal(jax.hessian(f)(x)))(X)
    np.testing.assert_allclose(H.diagonal(X), diagonals, rtol=1e-9, atol=1e-12)


def test_deeper_networks_make_each_layer_once(x64) -> None:
    X = normal(8, 20).astype(jnp.float64)
    flops = []
    for depth in (2, 3, 4):
        f = network((20, *(64,) * depth, 1))
        plan = jb.batch_hessian(f).trace.plan(X)
        assert plan.mode == "network"
        flops.append(plan.flops)
        expected = jax.vmap(lambda x, f=f: jnp.trace(jax.hessian(f)(x)))(X)
        np.testing.assert_allclose(plan(X), expected, rtol=1e-9, atol=1e-12)
    assert flops[2] - flops[1] < 1.3 * (flops[1] - flops[0])
