"""By arguments that all examples share, f must give an example what it gives a batch of that example alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random
from oracles import assert_same

import jaxobian as jb
from jaxobian import _values
from jaxobian._analysis import check_sizes
from jaxobian.testing._scenario import normal, weights

W, V, TABLE = weights(3, 4, seed=1), weights(3, 3, seed=2), weights(6, 3, seed=3)
X, LABELS, KEYS = normal(6, 3), jnp.array([2, 0, 1, 1, 3, 2]), random.split(random.key(3), 6)
SERIES, SQUARE = normal(6, 5, 3), normal(6, 6, 3)  # the second has as many steps as examples
KEY = random.key(0)


def attention(w: Any, x: Any) -> Any:
    scores = x @ w @ jnp.swapaxes(x, 1, 2) / np.sqrt(3)
    causal = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))
    return jax.nn.softmax(jnp.where(causal, scores, -jnp.inf)) @ x


def normalized(w: Any, x: Any) -> Any:
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-3)
    return (x - jnp.arange(3.0)) / np.sqrt(2.0) * w[0] + w[1]


def recurrent(w: Any, x: Any) -> Any:
    def step(h: Any, now: Any) -> Any:
        h = jnp.tanh(now + h @ w)
        return h, h

    h, every = lax.scan(step, jnp.zeros((x.shape[0], 3)), jnp.moveaxis(x, 1, 0))
    return h + every.sum(0)


def merged(w: Any, x: Any) -> Any:
    rows = x.reshape(-1, 3) @ w
    return jnp.where(rows > 0, rows, 0.0).reshape(*x.shape[:2], 4).sum(1)


def scattered_labels(w: Any, x: Any, y: Any) -> Any:
    n = x.shape[0]
    return (jnp.zeros((n, 4)).at[jnp.arange(n), y].set(1.0) * (x @ w)).sum(1)


@jax.custom_vjp
def clipped(x: Any) -> Any:
    return 2 * x


clipped.defvjp(lambda x: (2 * x, x), lambda x, g: (jnp.clip(g, -1, 1) * jnp.cos(x),))


@jax.custom_jvp
def straight(x: Any) -> Any:
    return jnp.round(x)


straight.defjvp(lambda x, t: (jnp.round(x[0]), 2 * t[0]))

# name: (function, arguments), differentiated by the first; in_axes is 0 for the others
SAME: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "mean of features": (lambda w, x: jnp.mean((x @ w) ** 2, axis=(1, 2)), (W, SERIES)),
    "norm": (lambda w, x: x @ w / jnp.linalg.norm(x @ w, axis=1, keepdims=True), (W, X)),
    "attention": (attention, (V, SERIES)),
    "attention, as many steps as examples": (attention, (V, SQUARE)),
    "layer normalization": (normalized, (V, X)),
    "reshape": (lambda w, x: jnp.tanh(x.reshape(x.shape[0], -1) @ w), (weights(15, 2), SERIES)),
    "merged with another axis": (merged, (W, SERIES)),
    "places in a sequence": (lambda w, x: jnp.tanh(x + jnp.arange(x.shape[1])[:, None]) @ w, (W, SERIES)),
    "places, as many as examples": (lambda w, x: jnp.tanh(x + jnp.arange(x.shape[1])[:, None]) @ w, (W, SQUARE)),
    "a table of places": (lambda w, x: jnp.tanh(x + w[jnp.arange(x.shape[1])]), (TABLE, SERIES)),
    "a table of places, as many as examples": (lambda w, x: jnp.tanh(x + w[: x.shape[1]]), (TABLE, SQUARE)),
    "labels, one-hot": (lambda w, x, y: (jax.nn.one_hot(y, 4) * (x @ w)).sum(1), (W, X, LABELS)),
    "labels, taken along": (lambda w, x, y: jnp.take_along_axis(x @ w, y[:, None], 1)[:, 0], (W, X, LABELS)),
    "labels, by own places": (lambda w, x, y: (x @ w)[jnp.arange(x.shape[0]), y], (W, X, LABELS)),
    "labels, scattered to own places": (scattered_labels, (W, X, LABELS)),
    "lengths": (
        lambda w, x, n: jnp.where((jnp.arange(5) < n[:, None])[..., None], x @ w, 0.0).sum(1), (W, SERIES, LABELS)),
    "lax.map": (lambda w, x: lax.map(lambda r: jnp.tanh(r @ w), x), (W, X)),
    "vmap": (lambda w, x: jax.vmap(jax.jacrev(lambda r: jnp.tanh(r @ w)))(x), (W, X)),
    "recurrent": (recurrent, (V, SERIES)),
    "recurrent, as many steps as examples": (recurrent, (V, SQUARE)),
    "by each step": (
        lambda w, x: lax.scan(
            lambda c, t: (c + jnp.take(x, t, 1) @ w, None), jnp.zeros((x.shape[0], 4)), jnp.arange(x.shape[1])
        )[0], (W, SERIES)),
    "a loop": (lambda w, x: lax.fori_loop(0, 4, lambda i, c: jnp.tanh(c @ w) * i, x), (V, X)),
    "while": (lambda w, x: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1] @ w)), (0, x))[1],
              (V, X)),
    "a branch": (lambda w, x: lax.cond(w[0, 0] > 0, jnp.sin, jnp.cos, x @ w), (W, X)),
    "broadcast": (lambda w, x: (x[:, None] * w.T[None]).sum(-1), (W, X)),
    "a column of ones": (lambda w, x: jnp.concatenate([x, jnp.ones((x.shape[0], 1))], 1) @ w, (weights(4, 2), X)),
    "zeros written over": (lambda w, x: jnp.zeros((x.shape[0], 4)).at[:, 1:].add((x @ w)[:, 1:]), (W, X)),
    "a first token": (
        lambda w, x: jnp.concatenate([jnp.tile(w[:1][None], (x.shape[0], 1, 1)), x], 1).sum(1) @ w, (V, SERIES)),
    "jit, checkpoint": (jax.jit(jax.checkpoint(lambda w, x: jnp.where(x @ w > 0, x @ w, 0.0))), (W, X)),
    "a gradient inside": (lambda w, x: jax.grad(lambda x: (jnp.tanh(x @ w) ** 2).sum())(x), (W, X)),
    "sorted": (lambda w, x: lax.top_k(jnp.sort(x @ w, 1), 2)[0] + jnp.argmax(x @ w, 1)[:, None], (W, X)),
    "solved": (lambda w, x: jnp.linalg.solve(w @ w.T + jnp.eye(3), x[..., None])[..., 0], (V, X)),
    "one mask for all": (lambda w, x: (x * random.bernoulli(KEY, 0.5, x.shape[1:])) @ w, (W, SQUARE)),
    "a key for each": (
        lambda w, x, k: (x * jax.vmap(lambda k: random.bernoulli(k, 0.5, (3,)))(k)) @ w, (W, X, KEYS)),
    "a rule for backward": (lambda w, x: clipped(x @ w), (W, X)),
    "a rule for forward": (lambda w, x: jnp.where(x @ w > 0, straight(x @ w), 0.0), (W, X)),
    "two examples": (attention, (V, SERIES[:2])),
    "one example": (lambda w, x: x @ w / x.shape[0], (W, X[:1])),
}  # fmt: skip


def alone(f: Any, args: tuple[Any, ...]) -> Any:
    """f of each example in a batch of its own."""
    w, *rest = args
    return jnp.concatenate([f(w, *(x[b : b + 1] for x in rest)) for b in range(len(rest[0]))])


def axes(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (None, *[0] * (len(args) - 1))


@pytest.mark.parametrize("name", SAME)
def test_what_gives_an_example_the_same_in_any_batch_is_proved_to(name: str) -> None:
    f, args = SAME[name]
    np.testing.assert_allclose(alone(f, args), f(*args), rtol=1e-4, atol=1e-5)
    jax.eval_shape(jb.batch_jacobian(f, in_axes=axes(args)), *args)


@jax.custom_vjp
def averaged(x: Any) -> Any:
    return jnp.sin(x)


averaged.defvjp(lambda x: (jnp.sin(x), None), lambda _, g: (g / g.shape[0],))


@jax.custom_jvp
def scaled(x: Any) -> Any:
    return jnp.sin(x)


scaled.defjvp(lambda x, t: (jnp.sin(x[0]), t[0] / t[0].shape[0]))


def noisy_steps(w: Any, x: Any) -> Any:
    def step(h: Any, now: Any) -> Any:
        key, x = now
        return jnp.tanh(x * random.bernoulli(key, 0.5, x.shape) + h @ w), None

    return lax.scan(step, jnp.zeros((x.shape[0], 3)), (random.split(KEY, 5), jnp.moveaxis(x, 1, 0)))[0]


def a_key_carried(w: Any, x: Any) -> Any:
    def step(key: Any, row: Any) -> Any:
        key, own = random.split(key)
        return key, (row * random.bernoulli(own, 0.5, row.shape)) @ w

    return lax.scan(step, KEY, x)[1]


# name: (function, arguments, primitive), by an example's place in the batch
PLACES: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "dropout": (lambda w, x: (x * random.bernoulli(KEY, 0.5, x.shape)) @ w, (W, X), "random_bits"),
    "dropout, words of a key": (
        lambda w, x: (x * random.bernoulli(random.PRNGKey(0), 0.5, x.shape)) @ w, (W, X), "random_bits"),
    "dropout in a loop": (noisy_steps, (V, SERIES), "random_bits"),
    "keys made inside": (
        lambda w, x: jax.vmap(lambda k, r: (r * random.bernoulli(k, 0.5, r.shape)) @ w)(
            random.split(KEY, x.shape[0]), x), (W, X), "random_split"),
    "keys by place": (
        lambda w, x: jax.vmap(lambda i, r: r @ w * random.normal(random.fold_in(KEY, i)))(jnp.arange(x.shape[0]), x),
        (W, X), "iota"),
    "numbered": (lambda w, x: x @ w * jnp.arange(x.shape[0])[:, None], (W, X), "iota"),
    "numbered by vmap": (
        lambda w, x: jax.vmap(lambda r: r @ w * lax.axis_index("b"), axis_name="b")(x), (W, X), "iota"),
    "the first another": (
        lambda w, x: jnp.where(jnp.arange(x.shape[0])[:, None] == 0, 0.0, x @ w), (W, X), "iota"),
    "the first overwritten": (lambda w, x: (x @ w).at[0].set(7.0), (W, X), "scatter"),
    "columns by place": (
        lambda w, x: (x @ w)[jnp.arange(len(x)), jnp.arange(len(x)) % 4][:, None] * w[0], (W, X), "iota"),
}  # fmt: skip
SIZES: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "a mean": (lambda w, x: (x @ w) ** 2 / x.shape[0], (W, X), "div"),
    "a mean of vmap's": (
        lambda w, x: jax.vmap(lambda r: r @ w / lax.axis_size("b"), axis_name="b")(x), (W, X), "div"),
    "a mean in a loop": (
        lambda w, x: lax.scan(lambda h, x: (jnp.tanh(h @ w) + x / x.shape[0], None), jnp.zeros((x.shape[0], 3)),
                              jnp.moveaxis(x, 1, 0))[0], (V, SERIES), "div"),
    "a mean in a branch": (lambda w, x: lax.cond(w[0, 0] > -9, lambda z: z / len(x), jnp.cos, x @ w), (W, X), "div"),
    "counted": (lambda w, x: x @ w / jnp.ones(x.shape[0]).sum(), (W, X), "reduce_sum"),
    "repeated and summed up": (
        lambda w, x: x @ w + jnp.broadcast_to(w[0], (x.shape[0], 4)).sum(0), (W, X), "reduce_sum"),
    "a power": (lambda w, x: (x @ w) ** x.shape[0], (W, X), "integer_pow"),
    "as many steps as examples": (
        lambda w, x: lax.fori_loop(0, x.shape[0], lambda i, c: jnp.tanh(c @ w), x), (V, X), "scan"),
    "as many columns as examples": (lambda w, x: x[:, : x.shape[0]].sum(1) @ w, (W, normal(6, 9, 3)), "slice"),
    "a key handed on": (a_key_carried, (W, X), "scan"),
    "evenly spaced": (lambda w, x: x @ w * jnp.linspace(0, 1, x.shape[0])[:, None], (W, X), "iota"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "told"), [*((n, "place in the batch") for n in PLACES), *((n, "how many") for n in SIZES)]
)
def test_what_depends_on_place_or_size_is_refused(name: str, told: str) -> None:
    f, args, primitive = {**PLACES, **SIZES}[name]
    assert not np.allclose(alone(f, args), f(*args), atol=1e-5)
    J = jb.batch_jacobian(f, in_axes=axes(args))
    for call in (J, J.plan, jax.jit(J)):
        with pytest.raises(ValueError, match=rf"{told}.*{primitive} at test_shared_sizes.py:\d+.*jacobian\(f\)"):
            call(*args)


@pytest.mark.parametrize("f", [averaged, scaled])
def test_a_rule_that_depends_on_the_size_is_refused(f: Any) -> None:
    with pytest.raises(ValueError, match=r"how many there are: div at test_shared_sizes.py"):
        jb.batch_jacobian(lambda w, x: f(x @ w), in_axes=(None, 0))(W, X)


def test_numbers_that_numpy_makes_of_the_size_are_refused() -> None:
    f = lambda w, x: x @ w * np.full(4, 1 / x.shape[0], np.float32)
    with pytest.raises(ValueError, match=r"how many there are: an array that f makes with NumPy"):
        jb.batch_jacobian(f, in_axes=(None, 0))(W, X)


def test_what_cannot_be_compared_is_refused() -> None:
    f = lambda w, x: jnp.sin(x @ w) if len(x) > 4 else jnp.cos(x @ w)
    with pytest.raises(ValueError, match=r"could not be proved.*6 examples and with 2.*sin at test_shared_sizes.py"):
        jb.batch_jacobian(f, in_axes=(None, 0))(W, X)
    with pytest.raises(TypeError) as error:
        jb.batch_jacobian(lambda w, x: x.reshape(6, 3) @ w, in_axes=(None, 0))(W, X)
    assert "f was called with a batch of 2" in " ".join(error.value.__notes__)


def test_jacobian_and_your_word_are_the_ways_out() -> None:
    dropout, args, _ = PLACES["dropout"]
    mean = SIZES["a mean"][0]
    assert_same(jb.jacobian(dropout)(*args), jax.jacrev(dropout)(*args))
    J = jb.batch_jacobian(mean, in_axes=(None, 0), independent=True)(W, X)
    assert_same(J, 6 * jax.jacrev(mean)(W, X))  # of batches of one


def test_a_second_call_proves_nothing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    proofs, traces = [], []
    monkeypatch.setattr(_values, "check_sizes", lambda *a, **k: proofs.append(a) or check_sizes(*a, **k))

    def f(w: Any, x: Any) -> Any:
        traces.append(x.shape)
        return jnp.tanh(jnp.tanh(x @ w))

    jb.batch_jacobian(f, in_axes=(None, 0))(W, X)
    assert len(proofs) == 1
    assert traces == [(6, 3), (2, 3), (1, 3)]
    jb.batch_jacobian(f, in_axes=(None, 0))(2 * W, 2 * X)
    assert len(proofs) == 1
    assert traces[3:] == [(6, 3), (1, 3)]


def test_two_functions_that_are_one_for_this_size_are_told_apart() -> None:
    jb.batch_jacobian(lambda w, x: x @ w / 6, in_axes=(None, 0))(W, X)
    with pytest.raises(ValueError, match="how many there are"):
        jb.batch_jacobian(lambda w, x: x @ w / len(x), in_axes=(None, 0))(W, X)


@pytest.mark.parametrize("make", [jnp.asarray, np.asarray])
def test_a_keyword_argument_is_called_so(make: Any) -> None:
    f = lambda w, x, *, mask: x @ w * mask["m"][:, None]
    mask = {"m": make(np.arange(6.0, dtype=np.float32))}
    with pytest.raises(ValueError, match=r"own entry of the keyword argument `mask`\['m'\],.*a positional argument"):
        jb.batch_jacobian(f, in_axes=(None, 0))(W, X, mask=mask)


def test_aux_is_that_of_the_whole_batch() -> None:
    f = lambda w, x: (x @ w, {"y": x @ w, "norm": jnp.linalg.norm(x @ w), "name": "net"})
    J = jb.batch_jacobian(f, in_axes=(None, 0), has_aux=True)
    expected = f(W, X)[1]
    for aux in (J(W, X)[1], J.with_value(W, X)[0][1], J.plan(W, X)(W, X)[1]):
        assert aux.pop("name") == "net"
        assert_same(aux, {k: v for k, v in expected.items() if k != "name"})
    assert_same(jax.jit(lambda w, x: J(w, x)[1]["norm"])(W, X), expected["norm"])
