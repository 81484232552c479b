"""Passes beside their examples give what passes in front of them do, and J takes one array less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

import jaxobian as jb
from jaxobian._rewrite import batch_major, pass_axis, supports_batch_major
from jaxobian._trace import program_of
from jaxobian.testing._scenario import conv, normal

W, V = normal(4, 6, seed=1), normal(3, 4, seed=2)

# Linear in (3, 4), or in (3, 4) and a number.
MAPS: dict[str, Callable[..., Any]] = {
    "itself": lambda t: [t],
    "products and residuals": lambda t: [(V * (t @ W @ W.T)) @ W],
    "the example last": lambda t: [W.T @ (V * t).T],
    "sums": lambda t: [t.sum(), t.sum(0), (V * t).sum(1)],
    "moved": lambda t: [t.reshape(12)[::-1], jnp.concatenate([t, 2 * t], 1)[:, 2:5], t.T[None]],
    "no seed reaches it": lambda t: [t, V @ W, jnp.float32(3)],
    "a number": lambda t, s: [s * V, t + s, s],
    "read twice": lambda t: [t + jnp.tanh(V) * t],
}


@pytest.mark.parametrize("name", MAPS)
def test_passes_beside_and_in_front(name: str) -> None:
    linear = MAPS[name]
    avals = [jax.ShapeDtypeStruct((3, 4), jnp.float32)]
    avals += [jax.ShapeDtypeStruct((), jnp.float32)] if name == "a number" else []
    seeds = [normal(5, *aval.shape, seed=k) for k, aval in enumerate(avals)]
    expected = jax.vmap(linear)(*seeds)
    turned = [jnp.moveaxis(seed, 0, pass_axis(aval)) for seed, aval in zip(seeds, avals, strict=True)]
    for run in (batch_major(linear, avals), jax.jit(batch_major(linear, avals))):
        for actual, right in zip(run(*turned), expected, strict=True):
            actual = jnp.moveaxis(actual, min(1, actual.ndim - 1), 0)
            assert actual.dtype == right.dtype
            np.testing.assert_allclose(actual, right, rtol=1e-5, atol=1e-5)


def test_where_passes_go_beside() -> None:
    image = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
    program, _, _ = program_of(lambda x: conv(x, normal(3, 3, 1, 2)), image)
    assert not supports_batch_major(program)  # there passes and examples become one axis
    program, _, _ = program_of(MAPS["products and residuals"], jax.ShapeDtypeStruct((3, 4), jnp.float32))
    assert supports_batch_major(program)


def network(x: Array) -> Array:
    return jnp.tanh(jnp.tanh(x @ normal(5, 7)) @ normal(7, 6, seed=1)) @ normal(6, 3, seed=2)


@pytest.mark.parametrize("mode", ["fwd", "rev"])
@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("jitted", [False, True])
def test_batches(mode: Any, chunk_size: int | None, jitted: bool) -> None:
    x = normal(4, 5, seed=3)
    J = jb.batch_jacobian(network, mode=mode, chunk_size=chunk_size)
    assert all(seeds.batch_major for seeds in J.plan(x).choice.chosen.seeds)
    assert not any(
        seeds.batch_major for seeds in jb.batch_jacobian(network, mode=mode, rewrite=False).plan(x).choice.chosen.seeds
    )
    expected = jax.vmap(jax.jacrev(network))(x)
    np.testing.assert_allclose((jax.jit(J) if jitted else J)(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_trees_and_numbers(mode: Any) -> None:
    f = lambda tree: {"sum": network(tree["x"]).sum(1) * tree["s"], "x": tree["x"] @ normal(5, 2), "free": jnp.ones(4)}
    tree = {"x": normal(4, 5, seed=3), "s": normal(4, seed=4)}
    J = jb.batch_jacobian(f, mode=mode)
    assert all(seeds.batch_major for seeds in J.plan(tree).choice.chosen.seeds)
    alone = lambda one: jax.tree.map(lambda y: y[0], f(jax.tree.map(lambda x: x[None], one)))
    expected = jax.vmap(jax.jacrev(alone))(tree)
    actual = J(tree)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_other_axes_are_left_in_front() -> None:
    x = normal(5, 4, seed=3)
    J = jb.batch_jacobian(lambda x: network(x.T), in_axes=1)
    assert not any(seeds.batch_major for seeds in J.plan(x).choice.chosen.seeds)
    np.testing.assert_allclose(J(x), jax.vmap(jax.jacrev(network))(x.T), rtol=1e-4, atol=1e-5)


def test_one_array_less() -> None:
    """What comes back is J as it lies: XLA holds no copy of it."""
    x = normal(64, 300, seed=3)
    f = lambda x: jnp.tanh(jnp.tanh(x @ normal(300, 50)) @ normal(50, 50)) @ normal(50, 10)
    held = [
        jax.jit(jb.batch_jacobian(f, mode="rev", rewrite=rewrite)).lower(x).compile().memory_analysis()
        for rewrite in (True, False)
    ]
    if all(m is not None for m in held):
        ours, plain = (m.temp_size_in_bytes for m in held if m is not None)
        assert ours <= plain - 0.5 * 64 * 10 * 300 * 4
