"""Free Jacobians: passes that begin with a constant's rows give what passes through the product would."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxobian as jb
from jaxobian._planning import Candidate
from jaxobian._request import Mode


def normal(*shape: int, seed: int = 0, dtype: Any = jnp.float32) -> Any:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


W, V, BIG = normal(60, 50), normal(50, 40, seed=1), normal(200, 200, seed=2) / 14


# name: (f, x, the modes whose passes can begin past a product)
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], Any, str]] = {
    "two products": (lambda x: jnp.tanh(x @ W) @ V, normal(60), "fwd rev"),
    "from the left": (lambda x: V.T @ jnp.tanh(W.T @ x), normal(60), "fwd rev"),
    "with biases": (lambda x: jnp.tanh(x @ W + 1) @ V + 2, normal(60), "fwd rev"),
    "a batch": (lambda x: jnp.tanh(x @ W) @ V, normal(7, 60), "fwd rev"),
    "two batch axes": (lambda x: jnp.tanh(x @ W) @ V, normal(2, 3, 60), "fwd rev"),
    "batch axes of the product": (
        lambda x: jnp.einsum("bij,bjk->bik", jnp.tanh(jnp.einsum("bji,bjk->bik", x, normal(4, 9, 8))), normal(4, 8, 6)),
        normal(4, 9, 3),
        "fwd rev",
    ),
    "axes in disorder": (
        lambda x: jnp.einsum("kb,ikj->jbi", jnp.sin(jnp.einsum("jab,akj->kb", x, normal(20, 30, 7))), normal(5, 30, 6)),
        normal(7, 20, 3),
        "fwd",
    ),
    "several axes contracted": (
        lambda x: jnp.einsum("k,kij->ij", jnp.tanh(jnp.einsum("ij,ijk->k", x, normal(6, 7, 30))), normal(30, 5, 4)),
        normal(6, 7),
        "fwd rev",
    ),
    "several outputs": (lambda x: (jnp.tanh(x @ W), jnp.sin(x @ W) @ V), normal(60), ""),
    "read twice": (lambda x: jnp.tanh(x @ W) @ V + x[:40], normal(60), ""),
    "read by one product, made by a sum": (lambda x: (lambda h: jnp.tanh(h) @ V + h[:40])(x @ W), normal(60), "fwd"),
    "by the matrix": (lambda w: jnp.tanh(w @ normal(50)) @ normal(60, 9), normal(60, 50), "rev"),
    "into half precision": (
        lambda x: jnp.tanh(x @ W).astype(jnp.float16) @ V.astype(jnp.float16),
        normal(60),
        "fwd rev",
    ),
    "holomorphic inside": (lambda x: jnp.abs(jnp.sin((x + 0j) @ (W + 1j * W))) @ V, normal(60), "rev"),
    "a quadratic form": (lambda x: x @ BIG @ x, normal(200), ""),
    "no colors at all": (lambda x: jnp.tanh(x * 2) @ normal(60), normal(60), "rev"),
}


def begins(candidate: Any) -> bool:
    return isinstance(candidate, Candidate) and "starts from the weights" in candidate.note


@pytest.mark.parametrize("mode", ["fwd", "rev"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values(name: str, mode: Mode) -> None:
    f, x, modes = FUNCTIONS[name]
    expected = jax.jacrev(f)(x)
    rtol = 2e-2 if "half" in name else 2e-4
    for chunk_size in (None, 7):
        J = jb.jacobian(f, mode=mode, chunk_size=chunk_size)
        plan = J.plan(x)
        (mine,) = [c for c in plan.candidates if c.mode == mode]
        assert not begins(mine) or mode in modes.split()
        for run in (J, jax.jit(J), plan) if chunk_size is None else (plan,):
            for a, b in zip(jax.tree.leaves(run(x)), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(jnp.max(jnp.abs(b))))


@pytest.mark.parametrize("name", ["two products", "from the left", "with biases", "several axes contracted"])
def test_products_are_saved(name: str) -> None:
    f, x, _ = FUNCTIONS[name]
    for mode in ("fwd", "rev"):
        (mine,) = [c for c in jb.jacobian(f, mode=mode).plan(x).candidates if c.mode == mode]
        assert begins(mine)
    told = r"starts from the weights of the matmul at test_known_first\.py:\d+, which are its Jacobian"
    assert re.search(told, str(jb.jacobian(f).plan(x)))


def test_batches() -> None:
    f, x = lambda x: jnp.tanh(x @ W) @ V, normal(7, 60)
    expected = jax.vmap(jax.jacrev(f))(x)
    for mode in ("fwd", "rev"):
        # Rows would be repeated for all examples: to make the product once for all is faster, where that may be.
        assert "hoisted" in str(jb.batch_jacobian(f, mode=mode).plan(x))
        plan = jb.batch_jacobian(f, mode=mode, rewrite=False).plan(x)
        assert "starts from" in str(plan)
        np.testing.assert_allclose(plan(x), expected, rtol=1e-4, atol=1e-5)


def test_the_constant_may_be_an_argument() -> None:
    f = lambda w, x: jnp.tanh(x @ w) @ V
    J = jb.jacobian(f, 1)
    for w in (W, 2 * W):
        np.testing.assert_allclose(J(w, normal(60)), jax.jacrev(f, 1)(w, normal(60)), rtol=1e-4, atol=1e-5)
    plan = J.plan(W, normal(60))
    np.testing.assert_allclose(plan(2 * W, normal(60)), jax.jacrev(f, 1)(2 * W, normal(60)), rtol=1e-4, atol=1e-5)


def test_composition() -> None:
    f, x = lambda x: jnp.tanh(x @ BIG[:5, :6]) @ BIG[:6, :4], normal(5)
    J, R = jb.jacobian(f), jax.jacrev(f)
    np.testing.assert_allclose(jax.vmap(J)(normal(3, 5)), jax.vmap(R)(normal(3, 5)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jb.jacobian(J)(x), jax.jacrev(R)(x), rtol=1e-4, atol=1e-6)
    squares = [jax.grad(lambda x, G=G: jnp.sum(G(x) ** 2))(x) for G in (J, R)]
    np.testing.assert_allclose(*squares, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_rows_at_hand_do_not_break_a_budget(mode: Mode) -> None:
    """They take memory that passes without them do not: under a tight budget those run."""
    square = normal(60, 60)
    f, x = lambda x: jnp.tanh(x @ square) @ square.T, normal(60)
    free = jb.jacobian(f, mode=mode, chunk_size=1 if mode == "rev" else None).plan(x)
    assert begins(free.choice.chosen)
    budget = free.peak_bytes - 1
    plan = jb.jacobian(f, mode=mode, memory_budget=budget).plan(x)
    assert plan.peak_bytes <= budget
    assert mode == "fwd" or not begins(plan.choice.chosen)  # forward can still take fewer passes at a time
    np.testing.assert_allclose(plan(x), jax.jacrev(f)(x), rtol=1e-4, atol=1e-4)
