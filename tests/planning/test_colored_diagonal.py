"""Diagonals by colors equal those of JAX's J, in few passes; what of them does not depend on x takes none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

import jaxobian as jb
from jaxobian.testing._scenario import normal


def spread(u: Array) -> Array:
    return jnp.roll(u, 1) - 2 * u + jnp.roll(u, -1)


def fisher(u: Array) -> Array:
    return 0.3 * spread(u) + u * (1 - u)


def brusselator(s: Array) -> Array:
    u, v = s
    return jnp.stack([1 + u * u * v - 4.4 * u + spread(u), 3.4 * u - u * u * v + spread(v)])


# A function, its x, and passes.
CASES: dict[str, tuple[Callable[..., Any], Array, int]] = {
    # Without what is the same for every x, each of these is elementwise, or couples two species at a place.
    "one species": (fisher, normal(99), 1),
    "two species": (brusselator, normal(2, 40), 2),
    "reversed": (lambda x: jnp.flip(x) * 0.5 + 2 * spread(x) + x**3, normal(40), 1),
    # Nothing depends on x.
    "linear": (lambda x: spread(x) - 3 * x * jnp.arange(40.0), normal(40), 0),
    "off the diagonal alone": (lambda x: jnp.roll(x, 1), normal(40), 0),
    # Nothing does not.
    "advection": (lambda u: u * (jnp.roll(u, 1) - jnp.roll(u, -1)), normal(40), 2),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_values(name: str, chunk_size: int | None, x64) -> None:
    f, x, passes = CASES[name]
    x = x.astype(jnp.float64)
    J = jb.jacobian(f, mode="colored", chunk_size=chunk_size)
    assert J.diagonal.plan(x).passes == J.trace.plan(x).passes == passes
    expected = jnp.diagonal(jax.jacrev(f)(x).reshape(x.size, x.size)).reshape(x.shape)
    for made in (J.diagonal(x), jax.jit(J.diagonal)(x)):
        np.testing.assert_allclose(made, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(jax.jit(J.trace)(x), expected.sum(), rtol=1e-12)


def test_of_each_example(x64) -> None:
    X = normal(5, 40).astype(jnp.float64)
    J = jb.batch_jacobian(jax.vmap(fisher), mode="colored")
    assert J.diagonal.plan(X).passes == 1
    expected = jnp.diagonal(jax.vmap(jax.jacrev(fisher))(X), axis1=1, axis2=2)
    np.testing.assert_allclose(J.diagonal(X), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(J.trace(X), expected.sum(1), rtol=1e-12)


def test_of_hessians_of_several_outputs(x64) -> None:
    def energies(x: Array) -> Array:
        between = (x[1:] - x[:-1]) ** 2
        return jnp.stack([jnp.sum(between) + jnp.sum(x**4), 2 * jnp.sum(between) - jnp.sum(jnp.cos(x))])

    x = normal(30).astype(jnp.float64)
    H = jb.hessian(energies, mode="colored")
    expected = jnp.diagonal(jax.hessian(energies)(x), axis1=1, axis2=2)
    np.testing.assert_allclose(H.diagonal(x), expected, rtol=1e-12)
    np.testing.assert_allclose(H.trace(x), expected.sum(1), rtol=1e-12)


def test_of_trees(x64) -> None:
    def f(t: dict[str, Array]) -> dict[str, Array]:
        return {"a": fisher(t["a"]) + t["b"][0], "b": spread(t["b"]) * 3 + t["a"][:20] * t["b"]}

    t = {"a": normal(40).astype(jnp.float64), "b": normal(20, seed=1).astype(jnp.float64)}
    J, expected = jb.jacobian(f, mode="colored"), jax.jacrev(f)(t)
    for name, found in J.diagonal(t).items():
        np.testing.assert_allclose(found, jnp.diagonal(expected[name][name]), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(J.trace(t), sum(jnp.trace(expected[n][n]) for n in t), rtol=1e-12)


def test_plans_say_what_does_not_depend_on_x() -> None:
    plan = str(jb.jacobian(fisher).diagonal.plan(normal(99)))
    assert "297 of 9,801 elements can be nonzero (198 do not depend on x): the diagonal in 1 color" in plan


def test_numbers_closed_over_may_change() -> None:
    """What is known of an array that f holds is known of its numbers: with others, J is made anew."""
    scale = np.ones(40)
    f = lambda u: scale * spread(u) + u**2
    u = normal(40)
    J = jb.jacobian(f, mode="colored")
    for factor in (1.0, 3.0):
        scale[:] = factor
        np.testing.assert_allclose(J.diagonal(u), -2 * factor + 2 * u, rtol=1e-5)
