"""Copies that vmap makes of a computation are counted, and change what is chosen but no value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

import jaxobian as jb
from jaxobian._call._surroundings import surroundings
from jaxobian.testing._scenario import normal, weights

TRANSFORMS: dict[str, tuple[Callable[[Any], Any], int, int]] = {
    "nothing": (lambda f: f, 0, 1),
    "jit": (jax.jit, 0, 1),
    "vmap": (jax.vmap, 1, 4),
    "jit of vmap": (lambda f: jax.jit(jax.vmap(f)), 1, 4),
    "vmap of vmap": (lambda f: jax.vmap(jax.vmap(f)), 2, 20),
    "grad of vmap": (lambda f: jax.grad(lambda x: jax.vmap(f)(x).sum()), 1, 4),
    "vmap of grad": (lambda f: jax.vmap(jax.grad(lambda x: f(x).sum())), 1, 4),
    "jvp of vmap": (lambda f: lambda x: jax.jvp(jax.vmap(f), (x,), (x,)), 1, 4),
    "checkpoint of vmap": (lambda f: jax.grad(lambda x: jax.checkpoint(jax.vmap(f))(x).sum()), 1, 4),
    "scan": (lambda f: lambda x: jax.lax.scan(lambda c, x: (c, f(x)), 0.0, x), 1, 1),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_counted(name: str) -> None:
    transform, axes, expected = TRANSFORMS[name]
    seen = []

    def f(x: Array) -> Array:
        seen.append(surroundings((x,)).copies)
        return 2 * x

    transform(f)(jnp.ones((*(5, 4)[2 - axes :], 3)))
    assert seen
    assert max(seen) == expected


def test_what_is_closed_over_counts() -> None:
    f = lambda w, x: jb.jacobian(lambda x: jnp.tanh(w * x))(x)
    w, x = normal(4, 3), normal(3, seed=1)
    np.testing.assert_allclose(
        jax.vmap(f, (0, None))(w, x), jax.vmap(lambda w: jnp.diag(w / jnp.cosh(w * x) ** 2))(w), rtol=1e-5
    )
    assert surroundings((jnp.ones(3), jnp.arange(3))).copies == 1


def classifier(x: Array) -> Array:
    return jnp.tanh(jnp.tanh(x @ weights(300, 256, seed=1)) @ weights(256, 256, seed=2)) @ weights(256, 7, seed=3)


def test_products_of_few_rows_are_those_of_one_computation() -> None:
    """Side by side the rows are not few."""
    J, x = jb.jacobian(classifier), normal(5, 300)
    assert "optimization_barrier" in str(jax.make_jaxpr(J)(x[0]))
    assert "optimization_barrier" not in str(jax.make_jaxpr(jax.vmap(J))(x))
    np.testing.assert_allclose(jax.vmap(J)(x), jax.vmap(jax.jacrev(classifier))(x), rtol=1e-4, atol=1e-5)


def test_a_budget_is_that_of_all() -> None:
    J = jb.jacobian(classifier, memory_budget="100kB")
    J(normal(300))
    with pytest.raises(jb.MemoryBudgetError, match=r"50 examples x .*; the budget is 100.0 kB"):
        jax.vmap(J)(normal(50, 300))
