"""Per-example gradients: x that examples share is copied for each, and one pass brings back the rows of all."""

from __future__ import annotations

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax import Array

import jaxobian as jb
from jaxobian._planning import per_example

RNG = np.random.default_rng(0)

assert_same = functools.partial(oracles.assert_same, rtol=2e-5)


def normal(*shape: int) -> Array:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


X, IMAGES, TOKENS, TIMES = normal(24, 5), normal(12, 10, 10, 4), jnp.arange(24) * 5 % 9, jnp.linspace(0, 1, 30)
NET = {"w": normal(5, 7), "b": normal(7), "v": normal(7, 3), "c": normal(3)}
KERNEL, TABLE = normal(3, 3, 4, 8), normal(9, 5)


@pytest.fixture
def wherever_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are taken whatever they are predicted to cost: what is never taken cannot be wrong."""
    monkeypatch.setattr(per_example, "CLEAR_WIN", 0.0)


def network(p: Any) -> Array:
    return jnp.tanh(X @ p["w"] + p["b"]) @ p["v"] + p["c"]


def convolution(kernel: Array) -> Array:
    y = jax.lax.conv_general_dilated(IMAGES, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.tanh(y).mean((1, 2))


def lookup(table: Array) -> Array:
    return jnp.sin(table[TOKENS]) @ NET["w"]


def decays(p: Array) -> Array:
    return p[0] * jnp.exp(-p[1] * TIMES) + p[2] * jnp.exp(-p[3] * TIMES)


def physics(p: Any) -> Array:
    """A derivative by the time of each example, of a network that all share."""

    def u(t: Array) -> Array:
        return (jnp.tanh(t * p["b"]) @ p["v"] + p["c"])[0]

    return jax.vmap(lambda t: jax.grad(jax.grad(u))(t) + u(t))(TIMES)


def transposed(p: Any) -> Array:
    return network(p).T


def pairs(p: Any) -> dict[str, Array]:
    y = network(p)
    return {"y": y, "norm": jnp.sum(y**2, axis=1)}


def scaled(p: Any) -> Array:
    """Weights that are normalized before examples meet them."""
    return jnp.tanh(X @ (p["w"] / jnp.linalg.norm(p["w"], axis=0))) @ p["v"]


def looped(p: Any) -> Array:
    """Weights that a loop makes before."""
    w = jax.lax.fori_loop(0, 3, lambda _, w: jnp.sin(w), p["w"])
    return jnp.tanh(X @ w) @ p["v"]


def checkpointed(p: Any) -> Array:
    """Layers that are computed anew where they are pulled back, one of them within another."""
    inner = jax.checkpoint(lambda w, b: jnp.tanh(X @ w + b))
    return jax.checkpoint(lambda w, b, v: inner(w, b) @ v)(p["w"], p["b"], p["v"]) + p["c"]


def each_checkpointed(p: Any) -> Array:
    """An example at a time, of which little is kept."""
    policy = jax.checkpoint_policies.dots_saveable
    one = jax.checkpoint(lambda p, x: jnp.tanh(x @ p["w"] + p["b"]) @ p["v"], policy=policy)
    return jax.vmap(one, (None, 0))(p, X)


TAKEN = {
    "network": (network, NET, 3),
    "convolution": (convolution, KERNEL, 1),
    "lookup": (lookup, TABLE, 7),
    "physics": (physics, NET, 1),
    "the examples last": (transposed, NET, 3),
    "two outputs": (pairs, NET, 4),
    "weights made of others": (scaled, NET, 3),
    "weights made by a loop": (looped, NET, 3),
    "checkpointed": (jax.checkpoint(network), NET, 3),
    "checkpointed layers": (checkpointed, NET, 3),
    "each example checkpointed": (each_checkpointed, NET, 3),
}


@pytest.mark.parametrize(("f", "p", "passes"), TAKEN.values(), ids=TAKEN)
@pytest.mark.usefixtures("wherever_possible")
def test_a_pass_brings_back_the_rows_of_all_examples(f: Any, p: Any, passes: int) -> None:
    transform = jb.jacobian(f, mode="rev")
    expected = jax.jacrev(f)(p)
    plan = transform.plan(p)
    assert plan.passes == passes
    assert re.search(r"per-example gradients: \d+ examples share x, and one VJP brings back a row of J", str(plan))
    assert_same(transform(p), expected)
    assert_same(jax.jit(transform)(p), expected)


def test_elementwise_models_are_left_to_forward_mode() -> None:
    p = normal(4)
    assert jb.jacobian(decays).plan(p).mode == "fwd"
    assert "share x" not in str(jb.jacobian(decays, mode="rev").plan(p))


def test_it_composes() -> None:
    f, many = network, jax.tree.map(lambda x: jnp.stack([x, 2 * x]), NET)
    assert jb.jacobian(f).plan(NET).passes == 3
    assert_same(jax.vmap(jb.jacobian(f))(many), jax.vmap(jax.jacrev(f))(many))
    y, J = jb.value_and_jacobian(f)(NET)
    assert_same((y, J), (f(NET), jax.jacrev(f)(NET)))
    loss = lambda J: sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(J))
    assert_same(jax.grad(lambda p: loss(jb.jacobian(f)(p)))(NET), jax.grad(lambda p: loss(jax.jacrev(f)(p)))(NET))


def test_two_arguments_share_passes() -> None:
    f = lambda w, v: jnp.tanh(X @ w) @ v
    transform = jb.jacobian(f, (0, 1))
    assert transform.plan(NET["w"], NET["v"]).passes == 3
    assert_same(transform(NET["w"], NET["v"]), jax.jacrev(f, (0, 1))(NET["w"], NET["v"]))


@pytest.mark.parametrize(
    "f",
    [
        lambda w: jnp.tanh(X @ w) - jnp.mean(jnp.tanh(X @ w), axis=0),  # examples meet again
        lambda w: jnp.cumsum(jnp.tanh(X @ w), axis=0),
        lambda w: jax.nn.softmax(X @ w, axis=0),
        lambda w: jnp.sort(X @ w, axis=0),
        lambda w: jnp.tanh(X @ w)[::-1] + jnp.tanh(X @ w),
        lambda w: (X @ w) * w[0],  # met twice, each time on its own
        lambda w: jnp.concatenate([X @ w, w]),
        lambda w: X[:5] @ w + w,  # as examples, and as what they share
        lambda w: (X @ w)[TOKENS],
        lambda w: jax.lax.scan(lambda c, x: (c + x @ w, jnp.tanh(c)), jnp.zeros(7), X)[1],
    ],
)
@pytest.mark.usefixtures("wherever_possible")
def test_functions_whose_examples_meet_are_right(f: Any) -> None:
    for mode in ("auto", "rev"):
        assert_same(jb.jacobian(f, mode=mode)(NET["w"]), jax.jacrev(f)(NET["w"]))


def test_a_tight_budget_does_without() -> None:
    transform = jb.jacobian(network, mode="rev", memory_budget=30_000)
    assert transform.plan(NET).peak_bytes <= 30_000
    assert_same(transform(NET), jax.jacrev(network)(NET))


def test_more_examples_take_no_more_passes() -> None:
    def f(data: Array) -> Any:
        return lambda w: jnp.tanh(data @ w).sum(1)

    assert {jb.jacobian(f(normal(n, 5))).plan(NET["w"]).passes for n in (50, 500)} == {1}
