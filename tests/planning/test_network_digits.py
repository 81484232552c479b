"""Norms and Gram matrices keep their digits where terms of J nearly cancel."""

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

W = normal(8, 6, seed=1)


def softmax(x: Array) -> Array:
    # J = diag(p) - p p^T is all but zero where one p is all but one.
    return jax.nn.softmax(x)


def classes(x: Array) -> Array:
    return jax.nn.softmax(20 * (x @ W), axis=-1)


def forces(x: Array) -> Array:
    # A body has a huge force on itself, and its opposite.
    apart = x[:, None] - x[None]
    return jnp.sum(apart / (jnp.sum(apart**2, -1, keepdims=True) + 1e-5) ** 1.5, 1)


def centered(x: Array) -> Array:
    return (x - jnp.mean(x)) * jnp.ones(x.shape)


CASES: dict[str, tuple[Callable[[Array], Array], Array]] = {
    "softmax": (softmax, jnp.array([9.0, 0.0, -1.0, 0.5])),
    "classes": (classes, normal(5, 8)),
    "forces": (forces, normal(12, 3) * 3),
    "centered": (centered, normal(6)),
}


@pytest.mark.parametrize("name", CASES)
def test_norms_and_gram_matrices(name: str) -> None:
    f, x = CASES[name]
    with jax.enable_x64():
        J = np.asarray(jax.jacrev(f)(jnp.asarray(np.asarray(x), jnp.float64)))
    J = J.reshape(-1, x.size)
    for over, axis in (("in", 1), ("out", 0), ("all", (0, 1))):
        assert_near(jb.jacobian(f).squared_norms(x, over=over), np.sum(J**2, axis))
    gram = np.asarray(jb.jacobian(f).gram(x)).reshape(len(J), len(J))
    assert_near(np.diagonal(gram), np.sum(J**2, 1))


def assert_near(found: Any, exact: np.ndarray) -> None:
    """To three digits, which J's own elements have."""
    found = np.asarray(found, np.float64).reshape(exact.shape)
    assert np.all(found >= 0)
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-9 * float(np.max(exact)))
