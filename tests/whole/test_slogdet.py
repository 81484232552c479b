"""Determinants: by blocks of a triangular form, by cuts, by the lemma, and of all of J, against NumPy's of JAX's J."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

import jaxobian as jb
from jaxobian._coloring import block_triangular
from jaxobian.testing._scenario import normal, weights

W, V = np.asarray(weights(12, 32, seed=1)), np.asarray(weights(32, 24, seed=2))
U, Q = np.asarray(weights(24, 3, seed=3)), np.asarray(weights(24, 24, seed=4)) + np.eye(24)
CENTER, ORDER = np.asarray(normal(24, seed=5)), np.random.default_rng(0).permutation(24).astype(np.int32)


def coupling(x: Any) -> Any:
    a, b = x[..., :12], x[..., 12:]
    s, t = jnp.split(jnp.tanh(a @ W) @ V, 2, -1)
    return jnp.concatenate([a, b * jnp.exp(jnp.tanh(s)) + t], -1)


def couplings(x: Any) -> Any:
    for _ in range(3):
        x = coupling(x)[..., ORDER]
    return x


def radial(x: Any) -> Any:
    far = x - CENTER
    return x - 1.5 / (1.3 + jnp.sqrt(jnp.sum(far**2, -1, keepdims=True))) * far


def zeroed(x: Any) -> Any:
    return x * (x > jnp.sort(x, -1)[..., 1:2]) + jnp.tanh(x @ U) @ U.T


# A function of one example, or of many; the mode that knows more than passes do, and what its plan says then.
FLOWS: dict[str, tuple[Callable[[Any], Any], Any, str]] = {
    "coupling": (coupling, "colored", "triangular after a permutation"),
    "couplings": (couplings, "mixed", "as wide as x"),
    "planar": (lambda x: x - U[:, 0] * jnp.tanh(x @ U[:, 1] + 0.1)[..., None], "mixed", "lemma, of 1 x 1"),
    "radial": (radial, "mixed", "lemma, of 1 x 1"),
    "Sylvester": (lambda x: x[..., ::-1] + jnp.tanh(x @ U) @ U.T, "mixed", "lemma, of 3 x 3"),
    "on a small diagonal": (lambda x: 1e-6 * x + jnp.tanh(x @ U) @ U.T, "mixed", "lemma"),
    "with zeros on the diagonal": (zeroed, "mixed", "lemma, of 3 x 3"),
    "autoregressive": (
        lambda x: jnp.roll(jnp.sinh(jnp.cumsum(x, -1)) + x, 1, -1),
        "colored",
        "triangular after a permutation",
    ),
    "dense": (lambda x: jnp.tanh(x @ Q) + x**3, None, ""),
    "elementwise": (lambda x: jnp.roll(jnp.sinh(x), 1, -1), None, ""),
    "triangular, then dense": (lambda x: coupling(x) @ Q, "mixed", "as wide as x"),
}


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("batched", [False, True], ids=["one", "batch"])
def test_flows(name: str, batched: bool) -> None:
    f, mode, way = FLOWS[name]
    of, reference = (jb.batch_jacobian, jax.vmap(jax.jacrev(f))) if batched else (jb.jacobian, jax.jacrev(f))
    hand = lambda x: jnp.linalg.slogdet(reference(x))
    with jax.enable_x64(True):
        x = jnp.asarray(np.asarray(normal(*([4] * batched), 24, seed=6)), float)
        expected, gradient = hand(x), jax.jit(jax.grad(lambda x: jnp.sum(hand(x)[1])))(x)
        assert not way or way in str(of(f, mode=mode or "auto").slogdet.plan(x))
        for J in (of(f), of(f, mode=mode)) if mode else (of(f),):
            found = [J.slogdet(x), jax.jit(J.slogdet)(x), J.slogdet.plan(x)(x)]
            for sign, logabsdet in found:
                np.testing.assert_array_equal(sign, expected[0])
                np.testing.assert_allclose(logabsdet, expected[1], rtol=1e-8)
            own = jax.jit(jax.grad(lambda x, J=J: jnp.sum(J.slogdet(x)[1])))(x)
            np.testing.assert_allclose(own, gradient, rtol=1e-6, atol=1e-8 * np.abs(gradient).max())


@pytest.mark.parametrize("name", ["coupling", "couplings", "planar", "radial", "Sylvester", "autoregressive"])
def test_chosen_for_many_examples(name: str) -> None:
    f, mode, way = FLOWS[name]
    plan = jb.batch_jacobian(f).slogdet.plan(jnp.zeros((1_000, 24)))
    assert plan.mode == mode
    assert way in str(plan)


def test_the_lemma_knows_the_order_of_rows() -> None:
    f = lambda x: x[::-1] + U[:6, 0] * jnp.tanh(x @ U[:6, 1])  # three swaps, an odd number
    J = jb.jacobian(f, mode="mixed")
    x = normal(6, seed=8)
    assert "lemma" in str(J.slogdet.plan(x))
    np.testing.assert_allclose(J.slogdet(x), jnp.linalg.slogdet(jax.jacfwd(f)(x)), rtol=1e-4, atol=1e-5)


def test_the_lemma_of_several_leaves() -> None:
    def f(t: Any) -> Any:
        both = jnp.concatenate([t["a"], t["b"] * jnp.sum(t["a"])])
        return {"z": both[:25], "y": jnp.concatenate([t["a"], t["b"] * 2])[25:] ** 2}

    with jax.enable_x64(True):
        x = jnp.asarray(np.asarray(normal(40, seed=9)), float)
        t = {"a": x[:30], "b": x[30:]}
        forward = jb.jacobian(f, mode="fwd").slogdet(t)
        np.testing.assert_allclose(jb.jacobian(f, mode="mixed").slogdet(t), forward, rtol=1e-8)


def test_what_does_not_fit_is_refused() -> None:
    x = jax.ShapeDtypeStruct((200_000,), jnp.float32)  # J would take 160 GB
    with pytest.raises(jb.MemoryBudgetError, match="the slogdet of J"):
        jb.jacobian(lambda x: x + jnp.tanh(jnp.sum(x))).slogdet.plan(x)


def test_modes_trees_and_errors() -> None:
    x = normal(24, seed=7)
    expected = jnp.linalg.slogdet(jax.jacfwd(coupling)(x))[1]
    for mode in ("fwd", "rev", "colored"):
        assert abs(jb.jacobian(coupling, mode=mode).slogdet(x)[1] - expected) < 1e-4
    t = {"a": x[:2], "b": x[2:6].reshape(2, 2)}
    found = jb.jacobian(lambda t: {"b": t["a"] * 2 + t["b"][0], "a": t["b"] ** 2}).slogdet(t)
    assert found.sign.shape == found.logabsdet.shape == ()
    assert jb.jacobian(lambda x: x.at[3].set(0.0), mode="colored").slogdet(x) == (0.0, -jnp.inf)
    assert jb.jacobian(lambda x: x[:0]).slogdet(x[:0]) == (1.0, 0.0)
    with pytest.raises(ValueError, match="f returns 3, x has 24"):
        jb.jacobian(lambda x: x[:3]).slogdet(x)
    energy = lambda x: jnp.sum(x**4) + x[0] * x[1]
    np.testing.assert_allclose(
        jb.hessian(energy).slogdet(x)[1], jnp.linalg.slogdet(jax.hessian(energy)(x))[1], rtol=1e-4
    )


@pytest.mark.parametrize("seed", range(20))
def test_block_triangular_form(seed: int) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 12))
    dense = random.random((n, n)) < random.uniform(0.1, 0.6)
    if seed % 2:
        dense |= np.eye(n, dtype=bool)[random.permutation(n)]
    J = np.where(dense, random.standard_normal((n, n)), 0)
    found = block_triangular(sparse.csr_matrix(dense))
    if found is None:
        assert abs(np.linalg.det(J)) < 1e-12
        return
    product = float(found.sign)
    for rows, columns in found.blocks:
        for own_rows, own_columns in zip(rows, columns, strict=True):
            product *= np.linalg.det(J[np.ix_(own_rows, own_columns)])
    np.testing.assert_allclose(product, np.linalg.det(J), atol=1e-12)
    assert sorted(np.concatenate([columns.ravel() for _, columns in found.blocks])) == list(range(n))
