"""Tensor networks: found in plain code, equal to what passes give, contracted as einsum would."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax import Array

import jaxobian as jb
from jaxobian._planning import Candidate
from jaxobian._planning.network._contraction import Contraction
from jaxobian._planning.network._terms import Source
from jaxobian.testing import Scenario, scenarios

RNG = np.random.default_rng(3)


def normal(*shape: int) -> Array:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


# Contractions ---------------------------------------------------------------------------------------------------------

SIZES = {1: 2, 2: 3, 3: 4, 4: 5}


@pytest.mark.parametrize(
    ("operands", "output"),
    [
        ([(1, 2), (2, 3)], (1, 3)),
        ([(1, 2), (2, 3)], (3, 1)),
        ([(1, 2), (2, 3), (3, 4), (4,)], (1,)),
        ([(1, 2), (1, 2), (2, 1)], ()),
        ([(1, 2), (1,), (2,)], (2, 1)),
        ([(1, 1), (1, 2)], (2,)),
        ([(3, 3, 2)], (2,)),
        ([(1, 2, 3), (3, 4)], (4, 1)),
        ([(1,), (2,)], (2, 1)),
        ([(1,), (4, 2)], (2,)),
        ([(1, 2)], (1, 3, 2)),
        ([(1, 2), (2, 3), (3, 1)], (2,)),
        ([(1, 2, 4), (4, 2, 3), (1, 2, 3)], (2,)),
        ([], (1, 2)),
    ],
    ids=str,
)
def test_steps_equal_an_einsum(operands: list[tuple[int, ...]], output: tuple[int, ...]) -> None:
    arrays = [np.asarray(normal(*(SIZES[k] for k in letters))) for letters in operands]
    sources = [Source(number, a.shape, 4) for number, a in enumerate(arrays)]
    shape = tuple(SIZES[k] for k in output)
    made = Contraction(tuple(zip(sources, operands, strict=True)), output, shape, 2.5, SIZES)
    ones = [np.ones(SIZES[k]) for k in output]
    given: list[Any] = [
        x for pair in zip([*arrays, *ones], [*operands, *((k,) for k in output)], strict=True) for x in pair
    ]
    expected = 2.5 * (np.einsum(*given, output) if given else np.ones(shape))
    got = made.value(lambda source: jnp.asarray(arrays[source.atom]))
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_chain_is_multiplied_from_its_thin_end() -> None:
    sizes = {1: 100, 2: 90, 3: 80, 4: 70}
    shapes = [(1, 2), (2, 3), (3, 4), (4,)]
    sources = [Source(k, tuple(sizes[n] for n in letters), 4) for k, letters in enumerate(shapes)]
    made = Contraction(tuple(zip(sources, shapes, strict=True)), (1,), (100,), 1.0, sizes)
    assert made.work.flops == 80 * 70 + 90 * 80 + 100 * 90


# What is found in plain code ----------------------------------------------------------------------------------------

W1, W2, W3 = normal(30, 40) / 5, normal(40, 50) / 5, normal(50, 30) / 5
X = normal(300, 30)
NET = {"w": W1, "b": normal(40), "v": W2, "scale": normal(50)}
IMAGES, KERNEL, HEAD = normal(16, 9, 9, 2), normal(3, 3, 2, 6), normal(6, 4)
WORDS, TABLE = jnp.asarray(RNG.integers(0, 12, (16, 5))), normal(12, 20)


def field(x: Array) -> Array:
    return jnp.tanh(jnp.tanh(x @ W1) @ W2) @ W3


def forced_in(x: Array) -> Array:
    """A gate, a skip connection, and something of the argument's own."""
    return x + jnp.sin(x) * (jax.nn.sigmoid(x @ W1) @ W2[:, :30])


def losses(net: Any, x: Array) -> Array:
    h = jax.nn.relu(x @ net["w"] + net["b"]) @ net["v"]
    return jnp.sum((h * net["scale"]) ** 2, 1)


def convolved(kernel: Array, images: Array) -> Array:
    h = jax.lax.conv_general_dilated(images, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(h).mean((1, 2)) @ HEAD


def looked_up(table: Array, words: Array) -> Array:
    return jnp.tanh(table[words] @ normal_20_8).mean(1) @ normal_8_3


def in_time(x: Array) -> Array:
    h = jnp.concatenate([x, jnp.full((len(x), 1), 0.5)], 1)
    return jnp.tanh(jnp.tanh(h @ W4) @ W2) @ W3


def stacked(net: Any, x: Array) -> Array:
    for k in range(3):
        x = x + jnp.tanh(x @ net["w"][k]) @ net["v"][k]
    return jnp.sum(x**2, 1)


def halves(x: Array) -> Array:
    """Windows that overlap, that are apart, with strides, turned round, and with zeros between and around."""
    h = jnp.tanh(x @ W1)
    apart = jnp.concatenate([h[:, 7:30], h[:, 20:30:2], h[:, ::-1][:, :2]], 1)
    return jnp.pad(apart, ((0, 0), (3, 2))) @ normal_35_30 + jax.lax.pad(x[:, :8], 0.0, ((0, 0, 0), (1, 0, 3)))


def halves_of_weights(w: Array, x: Array) -> Array:
    return (x[:, :25] @ w[:25]) * (x[:, 5:] @ w[5:])[:, ::-1]


def recurrent(p: Any, x: Array) -> Array:
    """Weights that all steps share, a bias, states on the way, and a step counted."""

    def step(carry: Any, x: Array) -> tuple[Any, Array]:
        h, k = carry
        h = jnp.tanh(h @ p["h"] + x @ p["x"] + p["b"] + 0.1 * k)
        return (h, k + 1), h @ p["o"]

    start = jnp.zeros((len(x), 6)), 0
    (h, _), ys = jax.lax.scan(step, start, jnp.moveaxis(x.reshape(len(x), 6, 5), 1, 0), reverse=True)
    return jnp.sum(h**2, 1) + jnp.sum(ys[..., 0] ** 2, 0)


def powers(w: Array, x: Array) -> Array:
    """Nothing but the weights in every step."""
    return jax.lax.scan(lambda h, _: (jnp.sin(h @ w.T) + x[:, :6], None), x[:, 6:12], length=4)[0].sum(1)


def scanned(net: Any, x: Array) -> Array:
    def layer(x: Array, own: Any) -> tuple[Array, None]:
        return x + jnp.tanh(x @ own["w"]) @ own["v"], None

    return jnp.sum(jax.lax.scan(layer, x, net)[0] ** 2, 1)


CELL = {"h": normal(6, 6) / 3, "x": normal(5, 6) / 3, "b": normal(6), "o": normal(6, 1)}
W4, normal_35_30, STACKED = normal(31, 40) / 5, normal(35, 30), {"w": normal(3, 30, 20) / 9, "v": normal(3, 20, 30) / 9}
normal_20_8, normal_8_3 = normal(20, 8), normal(8, 3)
Verb = Callable[..., Any]
BY_PARAMETERS: dict[str, Any] = {"argnums": 0, "in_axes": (None, 0)}
FOUND: dict[str, tuple[Callable[[], Any], tuple[Any, ...], str, dict[str, Any], int]] = {
    "a divergence": (lambda: jb.batch_jacobian(field), (X,), "trace", {}, 0),
    "a diagonal": (lambda: jb.batch_jacobian(forced_in), (X,), "diagonal", {}, 0),
    "gradients' norms": (lambda: jb.batch_jacobian(losses, **BY_PARAMETERS), (NET, X), "squared_norms", {}, 1),
    "a divergence with time": (lambda: jb.batch_jacobian(in_time), (X,), "trace", {}, 0),
    "windows of axes of several sizes": (
        lambda: jb.jacobian(lambda w: jnp.tanh(X[:5] @ w)[:, :1] * (X[5:10] @ w)[:1]),
        (normal(30, 6),), "squared_norms", {}, 0,
    ),
    "windows": (lambda: jb.batch_jacobian(halves), (X,), "diagonal", {}, 0),
    "rows of windows": (lambda: jb.batch_jacobian(halves), (X,), "squared_norms", {}, 0),
    "columns of windows": (lambda: jb.batch_jacobian(halves), (X,), "squared_norms", {"over": "out"}, 0),
    "gradients of stacked layers": (
        lambda: jb.batch_jacobian(stacked, **BY_PARAMETERS), (STACKED, X), "squared_norms", {}, 1,
    ),
    "a recurrent network": (
        lambda: jb.batch_jacobian(recurrent, **BY_PARAMETERS), (CELL, X[:30]), "squared_norms", {}, 1,
    ),
    "its kernel": (lambda: jb.jacobian(lambda p: recurrent(p, X[:9])), (CELL,), "gram", {}, 1),
    "weights alone": (
        lambda: jb.batch_jacobian(powers, **BY_PARAMETERS), (normal(6, 6) / 3, X[:30]), "squared_norms", {}, 1,
    ),
    "layers in a loop": (
        lambda: jb.batch_jacobian(scanned, **BY_PARAMETERS), (STACKED, X), "squared_norms", {}, 1,
    ),
    "their kernel": (lambda: jb.jacobian(lambda p: scanned(p, X[:20])), (STACKED,), "gram", {}, 1),
    "their squares": (
        lambda: jb.batch_jacobian(stacked, **BY_PARAMETERS), (STACKED, X[:20]), "squared_norms", {"over": "out"}, 1,
    ),
    "a kernel of stacked layers": (lambda: jb.jacobian(lambda p: stacked(p, X[:20])), (STACKED,), "gram", {}, 1),
    "a kernel of windows": (
        lambda: jb.jacobian(lambda w: halves_of_weights(w, X[:9])), (normal(30, 6),), "gram", {}, 1,
    ),
    "its other side": (
        lambda: jb.jacobian(lambda w: halves_of_weights(w, X[:9])), (normal(30, 6),), "gram", {"side": "in"}, 0,
    ),
    "gradients' norms by leaf": (
        lambda: jb.batch_jacobian(losses, **BY_PARAMETERS), (NET, X), "squared_norms", {"over": "all"}, 1,
    ),
    "a tangent kernel": (lambda: jb.jacobian(lambda net: losses(net, X[:20])), (NET,), "gram", {}, 1),
    "one of a convolution": (lambda: jb.jacobian(lambda k: convolved(k, IMAGES)), (KERNEL,), "gram", {}, 0),
    "one of a table": (lambda: jb.jacobian(lambda t: looked_up(t, WORDS)), (TABLE,), "gram", {}, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_it_is_found_in_plain_code(name: str) -> None:
    make, args, quantity, own, passes = FOUND[name]
    function = getattr(make(), quantity)
    plan = function.plan(*args, **own)
    (network,) = [c for c in plan.candidates if c.mode == "network"]
    assert isinstance(network, Candidate), network
    assert network.passes == passes
    assert_equal(plan, args)


def assert_equal(plan: jb.Plan, args: tuple[Any, ...]) -> None:
    """By a network what passes give."""
    possible = {c.mode: c for c in plan.candidates if isinstance(c, Candidate)}
    network = possible.pop("network")
    other = min(possible.values(), key=lambda candidate: candidate.seconds)
    got, expected = (plan._of(candidate)(*args) for candidate in (network, other))
    oracles.assert_same(got, expected, rtol=2e-4)


MIXING = lambda x: jnp.tanh(x @ W1[:6, :8]) @ W2[:8, :6]
FULL, C = jnp.full(6, 2.0), jnp.arange(1.0, 7.0)
SUMMED: dict[str, Callable[[Array], Array]] = {
    "a slice": lambda x: FULL * jnp.sum(x[2:5]),
    "turned halves": lambda x: jnp.concatenate([x[3:], x[:3]]) + MIXING(x),
    "slices side by side": lambda x: jnp.sum(jnp.concatenate([x[3:], x[:3], x[::2]])) * C + MIXING(x),
    "copies and a constant": lambda x: (
        jnp.sum(jnp.concatenate([jnp.broadcast_to(x, (2, 6)), jnp.ones((1, 6))]), 0) * C + MIXING(x)
    ),
    "zeros around a sum": lambda x: jnp.pad(x[1:4].sum()[None], (2, 3)) * C + MIXING(x),
    "reversed": lambda x: x[::-1][1:5].sum() * C + MIXING(x)[::-1] + x[::-1],
    "nothing": lambda x: MIXING(x) + x[:0] @ jnp.ones((0, 6)),
}


@pytest.mark.parametrize(
    ("quantity", "own"), [("trace", {}), ("squared_norms", {"over": "all"}), ("gram", {"side": "in"})]
)
@pytest.mark.parametrize("name", SUMMED)
def test_windows_that_are_summed(name: str, quantity: str, own: dict[str, Any]) -> None:
    f, x = SUMMED[name], normal(6)
    plan = getattr(jb.jacobian(f), quantity).plan(x, **own)
    (network,) = [c for c in plan.candidates if c.mode == "network"]
    assert isinstance(network, Candidate), network
    J = np.asarray(jax.jacrev(f)(x))
    expected = {"trace": np.trace(J), "squared_norms": (J**2).sum(), "gram": J.T @ J}[quantity]
    np.testing.assert_allclose(plan._of(network)(x), expected, rtol=1e-5, atol=1e-5)


# Forced ---------------------------------------------------------------------------------------------------------------

EVERY = [s for s in scenarios() if not {"large"} & set(s.tags) and not s.holomorphic]
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("trace", {}), ("squared_norms", {"over": "in"}), ("squared_norms", {"over": "out"}), ("gram", {}),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "asked"),
    [pytest.param(s, ASKED[k % len(ASKED)], id=s.name) for k, s in enumerate(EVERY[::3])],
)
def test_of_scenarios_where_it_is_not_chosen(scenario: Scenario, asked: tuple[str, dict[str, Any]]) -> None:
    f, args = scenario.make()
    J, (quantity, own) = (jb.batch_jacobian if scenario.batched else jb.jacobian)(f, scenario.argnums), asked
    try:
        plan = getattr(J, quantity).plan(*args, **own)
    except (ValueError, jb.MemoryBudgetError) as error:
        if not re.search("is defined where|takes", str(error)):  # not square, or a matrix of all pairs too large
            raise
        return
    modes = [c.mode for c in plan.candidates if isinstance(c, Candidate) and c.seconds < 0.1]
    if "network" in modes and len(modes) > 1 and plan.mode != "network":
        assert_equal(plan, args)
