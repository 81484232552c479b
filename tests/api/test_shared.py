"""`batch_jacobian` by arguments that all examples share gives what `vmap(jacrev(one))` does."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_same

import jaxobian as jb
from jaxobian import _values
from jaxobian._analysis import influence
from jaxobian._request import Mode
from jaxobian.testing._scenario import normal, weights

X = normal(6, 3)
PARAMS = {"w": weights(3, 4, seed=1), "b": weights(4, 2, seed=2)}


def apply(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["w"]) @ params["b"]


def one(params: Any, x: Any) -> Any:
    return apply(params, x[None])[0]


EXPECTED = jax.vmap(jax.jacrev(one), (None, 0))(PARAMS, X)


@pytest.mark.parametrize("mode", ["auto", "fwd", "rev"])
@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_every_example_by_its_parameters(mode: Mode, jitted: bool, chunk_size: int | None) -> None:
    J = jb.batch_jacobian(apply, in_axes=(None, 0), mode=mode, chunk_size=chunk_size)
    assert_same((jax.jit(J) if jitted else J)(PARAMS, X), EXPECTED)


def test_by_both_at_once() -> None:
    J = jb.batch_jacobian(apply, (0, 1), in_axes=(None, 0))
    assert_same(J(PARAMS, X), jax.vmap(jax.jacrev(one, (0, 1)), (None, 0))(PARAMS, X))


def test_a_tree_some_leaves_of_which_are_shared() -> None:
    f = lambda tree: tree["x"] @ tree["w"]
    J = jb.batch_jacobian(f, in_axes=({"x": 0, "w": None},))
    expected = jax.vmap(jax.jacrev(lambda tree: tree["x"] @ tree["w"]), ({"x": 0, "w": None},))
    tree = {"x": X, "w": PARAMS["w"]}
    assert_same(J(tree), expected(tree))


@pytest.mark.parametrize(("axis_in", "axis_out"), [(0, 1), (1, 0), (-1, -1)])
def test_axes(axis_in: int, axis_out: int) -> None:
    f = lambda p, x: jnp.moveaxis(apply(p, jnp.moveaxis(x, axis_in, 0)), 0, axis_out)
    J = jb.batch_jacobian(f, in_axes=(None, axis_in), out_axes=axis_out)
    x = jnp.moveaxis(X, 0, axis_in)
    assert_same(J(PARAMS, x), EXPECTED)
    value, _ = J.with_value(PARAMS, x)
    np.testing.assert_allclose(value, f(PARAMS, x), rtol=1e-6)


def test_aux_and_keyword_arguments() -> None:
    def f(params: Any, x: Any, *, scale: float, name: str) -> Any:
        return scale * apply(params, x), {"mean": x.mean(-1), "name": name}

    J = jb.batch_jacobian(f, in_axes=(None, 0), has_aux=True)
    (value, aux), blocks = J.with_value(PARAMS, X, scale=2.0, name="net")
    assert_same(blocks, jax.tree.map(lambda b: 2 * b, EXPECTED))
    np.testing.assert_allclose(value, 2 * apply(PARAMS, X), rtol=1e-6)
    assert aux["name"] == "net"
    np.testing.assert_allclose(aux["mean"], X.mean(-1), rtol=1e-6)


def test_the_plan_is_that_of_one_example_and_runs_over_the_batch() -> None:
    plan = jb.batch_jacobian(apply, in_axes=(None, 0)).plan(PARAMS, X)
    line = apply.__code__.co_firstlineno
    assert str(plan).startswith(f"batch_jacobian of apply (test_shared.py:{line}): ")
    assert f", for each of {len(X)} examples" in str(plan).splitlines()[0]
    assert plan.passes == jb.jacobian(one).plan(PARAMS, X[0]).passes
    assert_same(plan(PARAMS, X), EXPECTED)
    assert_same(plan.tune(PARAMS, X)(PARAMS, X), EXPECTED)
    with pytest.raises(jb.PlanMismatchError):
        plan(PARAMS, X[:, :2])


def test_examples_that_influence_each_other_are_found() -> None:
    coupled = lambda p, x: apply(p, x - x.mean(0))
    with pytest.raises(jb.BatchCouplingError, match=r"test_shared.py:\d+"):
        jb.batch_jacobian(coupled, in_axes=(None, 0))(PARAMS, X)
    jb.batch_jacobian(coupled, in_axes=(None, 0), independent=True)(PARAMS, X)  # on your word


# Examples that are integers -----------------------------------------------------------------------------------

TOKENS, LABELS = jnp.array([[1, 5], [0, 0], [2, 4], [3, 1], [5, 5], [4, 0]]), jnp.array([2, 0, 1, 1, 3, 2])
W = PARAMS["w"]
TABLE = weights(7, 3, seed=4)


def cross_entropy(w: Any, x: Any, labels: Any) -> Any:
    return -jnp.take_along_axis(jax.nn.log_softmax(jnp.tanh(x) @ w), labels[..., None], -1)[..., 0]


def language_model(params: Any, tokens: Any) -> Any:
    """Embedding, causal attention, and how likely each next token is."""
    x = params["table"][tokens] + params["places"]
    scores = jnp.einsum("btd,bsd->bts", x @ params["q"], x)
    scores = jnp.where(jnp.tril(jnp.ones(scores.shape[1:], bool)), scores, -jnp.inf)
    logits = (x + jax.nn.softmax(scores) @ x) @ params["table"].T
    next_ones = jax.nn.one_hot(jnp.roll(tokens, -1, 1), logits.shape[-1])
    return -(jax.nn.log_softmax(logits) * next_ones)[:, :-1].sum((1, 2))


MODEL = {"table": TABLE, "places": weights(2, 3, seed=5), "q": weights(3, 3, seed=6)}
KEYS = jax.random.split(jax.random.key(3), 6)

# name: (function, in_axes, arguments), differentiated by the first
APART: dict[str, tuple[Any, Any, tuple[Any, ...]]] = {
    "labels": (cross_entropy, (None, 0, 0), (W, X, LABELS)),
    "labels by their own position": (
        lambda w, x, y: jax.nn.log_softmax(x @ w)[jnp.arange(len(x)), y], (None, 0, 0), (W, X, LABELS)),
    "labels, one-hot": (
        lambda w, x, y: (jax.nn.one_hot(y, 4) * jnp.tanh(x @ w)).sum(1), (None, 0, 0), (W, X, LABELS)),
    "booleans": (lambda w, x, m: jnp.where(m[:, None], x @ w, 0.0), (None, 0, 0), (W, X, LABELS > 1)),
    "integers in a tree, along another axis": (
        lambda w, d: jnp.tanh(w[d["i"][0]]), (None, {"i": 1, "x": 0}), (W, {"i": LABELS[None] % 3, "x": X})),
    "tokens": (lambda table, t: jnp.tanh(table[t]), (None, 0), (TABLE, TOKENS)),
    "a language model": (language_model, (None, 0), (MODEL, TOKENS)),
    "a language model of padded sequences": (
        lambda p, t, n: jnp.where(jnp.arange(2) < n[:, None], language_model(p, t)[:, None], 0.0),
        (None, 0, 0), (MODEL, TOKENS, LABELS % 2 + 1)),
    "counted": (lambda w, t: jax.vmap(lambda r: jnp.bincount(r, length=6) * w[0, 0])(t),
                (None, 0), (W, TOKENS)),
    "sorted": (lambda table, t: table[jnp.sort(t, 1)[:, 0]], (None, 0), (TABLE, TOKENS)),
    "scattered": (lambda w, t: jax.vmap(lambda r: jnp.zeros(6).at[r].add(w[0, :2]))(t), (None, 0), (W, TOKENS)),
    "a key for each": (
        lambda w, x, k: (x * jax.vmap(lambda k: jax.random.bernoulli(k, 0.5, (3,)))(k)) @ w,
        (None, 0, 0), (W, X, KEYS)),
    "words of keys": (
        lambda w, x, k: (x + jax.vmap(lambda k: jax.random.normal(k, (3,)))(k)) @ w,
        (None, 0, 0), (W, X, jax.random.key_data(KEYS))),
    "as many steps as each says": (
        lambda w, x, n: jax.vmap(lambda x, n: jax.lax.while_loop(
            lambda c: c[0] < n, lambda c: (c[0] + 1, jnp.tanh(c[1] @ w @ w.T)), (0, x))[1])(x, n),
        (None, 0, 0), (W, X, LABELS)),
    "a branch for each": (
        lambda w, x, y: jax.vmap(lambda x, y: jax.lax.switch(y, [jnp.sin, jnp.cos, jnp.tanh], x @ w))(x, y),
        (None, 0, 0), (W, X, LABELS)),
    "by a row of the batch's own features": (
        lambda w, x, y: jax.vmap(lambda r, i: jax.lax.dynamic_slice(r, (i,), (2,)))(x @ w, y),
        (None, 0, 0), (W, X, LABELS)),
}  # fmt: skip


@pytest.mark.parametrize(("name", "jitted"), [*((name, False) for name in APART), ("labels", True), ("tokens", True)])
def test_integers_that_keep_examples_apart_are_proved_to(name: str, jitted: bool) -> None:
    f, in_axes, args = APART[name]

    def one(*args: Any) -> Any:
        widened = [
            x if axis is None else jax.tree.map(jnp.expand_dims, x, axis) for x, axis in zip(args, in_axes, strict=True)
        ]
        return f(*widened)[0]

    expected = jax.vmap(jax.jacfwd(one), in_axes)(*args)
    J = jb.batch_jacobian(f, in_axes=in_axes)
    assert_same((jax.jit(J) if jitted else J)(*args), expected)


MIXED: dict[str, tuple[Any, Any, tuple[Any, ...], str]] = {
    "reversed": (lambda table, t: table[t[::-1]], (None, 0), (TABLE, TOKENS), "rev"),
    "shifted": (lambda table, t: table[jnp.roll(t, 1, 0)], (None, 0), (TABLE, TOKENS), "slice|concatenate"),
    "their mean": (lambda w, x, y: x @ w + y.mean(), (None, 0, 0), (W, X, LABELS), "reduce_sum"),
    "less their mean": (lambda w, x, y: x @ w * (y - y.mean())[:, None], (None, 0, 0), (W, X, LABELS), "reduce_sum"),
    "a mean without a derivative": (
        lambda w, x: (x - jax.lax.stop_gradient(x.mean(0))) @ w, (None, 0), (W, X), "reduce_sum"),
    "rows of all": (lambda table, t: table[t[:, 0]][t[:, 1] % 6], (None, 0), (TABLE, TOKENS), "gather"),
    "which is the largest": (lambda w, x, y: x @ w * jnp.argmax(y), (None, 0, 0), (W, X, LABELS), "argmax"),
    "sorted along the batch": (lambda w, x, y: x @ w * jnp.sort(y)[:, None], (None, 0, 0), (W, X, LABELS), "sort"),
    "scattered": (lambda w, x, y: jnp.zeros((6, 4)).at[y].add(x @ w), (None, 0, 0), (W, X, LABELS), "scatter.add"),
    "as many steps as the longest": (
        lambda w, x, n: jax.lax.while_loop(
            lambda c: (c[0] < n).any(), lambda c: (c[0] + 1, jnp.tanh(c[1] @ w @ w.T)), (0, x))[1],
        (None, 0, 0), (W, X, LABELS), "while"),
    "a branch for all": (
        lambda w, x, y: jax.lax.cond(y[0] > 1, jnp.sin, jnp.cos, x @ w),
        (None, 0, 0), (W, X, LABELS), "slice|cond|squeeze"),
    "one key of all": (
        lambda w, x, k: (x + jax.random.normal(k[0], (6, 3))) @ w,
        (None, 0, 0), (W, X, KEYS), "slice|squeeze|dynamic_slice"),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
def test_integers_that_couple_examples_are_refused_with_a_witness(name: str) -> None:
    f, in_axes, args, primitive = MIXED[name]
    line = f.__code__.co_firstlineno
    J = jb.batch_jacobian(f, in_axes=in_axes)
    where = rf"({primitive}) at test_shared.py:{line}"
    for call in (J, J.plan):
        with pytest.raises(jb.BatchCouplingError, match=rf"coupled by {where}.*example \d"):
            call(*args)
    with pytest.raises(jb.BatchCouplingError, match=rf"{where}.*independent=True"):
        jax.jit(J)(*args)


def test_where_nothing_is_known_it_takes_your_word() -> None:
    def shuffled(w: Any, x: Any, order: Any) -> Any:
        shape = jax.ShapeDtypeStruct(order.shape, order.dtype)
        keep = jax.pure_callback(lambda i: i, shape, order, vmap_method="sequential")
        return x @ w * keep[:, None]

    args = (W, X, LABELS)
    with pytest.raises(jb.BatchCouplingError, match=r"could not be proved.*args\[2\].*pure_callback.*independent=True"):
        jb.batch_jacobian(shuffled, in_axes=(None, 0, 0))(*args)
    J = jb.batch_jacobian(shuffled, in_axes=(None, 0, 0), independent=True)
    expected = jax.vmap(jax.jacrev(lambda w, x, i: x @ w * i), (None, 0, 0))(*args)
    assert_same(jax.jit(J)(*args), expected)


def test_a_derivative_of_your_own_that_couples_examples_is_found() -> None:
    @jax.custom_vjp
    def clipped(x: Any) -> Any:
        return x

    clipped.defvjp(lambda x: (x, None), lambda _, g: (g / jnp.sqrt((g**2).sum()),))
    with pytest.raises(jb.BatchCouplingError, match=r"could not be proved.*custom_lin at test_shared.py"):
        jb.batch_jacobian(lambda p, x: clipped(x) @ p["w"], in_axes=(None, 0))(PARAMS, X)


@pytest.mark.parametrize(
    ("f", "in_axes", "args", "name"),
    [
        (lambda w, x: cross_entropy(w, x, LABELS), (None, 0), (W, X), r"an array i32\[6\] that f closes over"),
        (lambda w, x, y: cross_entropy(w, x, y), (None, 0, None), (W, X, LABELS), r"args\[2\]"),
        (lambda w, x: (x @ w) * jnp.sin(LABELS)[: len(x), None], (None, 0), (W, X), r"an array i32\[6\]"),
        (lambda w, t: w["shift"] + w["table"][t[:, 0]], (None, 0), ({"shift": X, "table": TABLE}, TOKENS),
         r"args\[0\]\['shift'\]"),
    ],
)  # fmt: skip
def test_an_entry_for_each_example_must_be_an_argument(f: Any, in_axes: Any, args: Any, name: str) -> None:
    J = jb.batch_jacobian(f, in_axes=in_axes)
    for call in (J, J.plan, jax.jit(J)):
        with pytest.raises(ValueError, match=rf"own entry of {name}.*in_axes is 0"):
            call(*args)


def test_on_your_word_f_still_takes_a_batch_of_one() -> None:
    J = jb.batch_jacobian(lambda w, x: cross_entropy(w, x, LABELS), in_axes=(None, 0), independent=True)
    with pytest.raises(ValueError, match="such as labels, must be a positional argument whose in_axes is 0"):
        J(W, X)
    J = jb.batch_jacobian(lambda w, x: (jnp.ones((5, 6)) @ x @ w)[0], in_axes=(None, 0), independent=True)
    with pytest.raises(TypeError) as error:
        J(W, X)
    assert "batch of one" in error.value.__notes__[0]


def test_labels_that_f_closes_over_where_the_batch_is_differentiated() -> None:
    f = lambda w, x: cross_entropy(w, x, LABELS)
    expected = jax.vmap(jax.jacrev(cross_entropy, 1), (None, 0, 0))(W, X, LABELS)
    for transform in (lambda J: J, jax.jit):
        assert_same(transform(jb.batch_jacobian(f, 1))(W, X), expected)


def test_by_parameters_and_examples_beside_their_labels() -> None:
    J = jb.batch_jacobian(cross_entropy, (0, 1), in_axes=(None, 0, 0))
    assert_same(J(W, X, LABELS), jax.vmap(jax.jacrev(cross_entropy, (0, 1)), (None, 0, 0))(W, X, LABELS))


def test_batch_sizes_of_integers_that_differ() -> None:
    with pytest.raises(ValueError, match=r"args\[1\] f32\[6,3\] along axis 0, args\[2\] i32\[5\] along axis 0"):
        jb.batch_jacobian(cross_entropy, in_axes=(None, 0, 0))(W, X, LABELS[:5])


def test_a_second_call_proves_nothing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(_values, "influence", lambda *a: calls.append(a) or influence(*a))
    for scale in (1.0, 2.0):  # a rebuilt but equal function
        J = jb.batch_jacobian(lambda p, t: jnp.sin(language_model(p, t)), in_axes=(None, 0))
        J(jax.tree.map(lambda p, s=scale: s * p, MODEL), TOKENS)
        J(MODEL, TOKENS[::-1])
    assert len(calls) == 1


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="in_axes has 3 entries for 2"):
        jb.batch_jacobian(apply, in_axes=(None, 0, 0))(PARAMS, X)
    with pytest.raises(ValueError, match="batch of any size"):
        jb.batch_jacobian(lambda p, x: apply(p, x).sum(0, keepdims=True).repeat(6, 0), in_axes=(None, 0),
                          independent=True)(PARAMS, X)  # fmt: skip
    with pytest.raises(ValueError, match="bcoo"):
        jb.batch_jacobian(apply, in_axes=(None, 0), format="bcoo")


def test_examples_side_by_side_share_the_budget() -> None:
    plan = lambda n, **k: jb.batch_jacobian(apply, in_axes=(None, 0), **k).plan(PARAMS, normal(n, 3))
    alone = plan(1).peak_bytes
    assert plan(1, memory_budget=10 * alone).chunk_size == 2
    assert plan(10, memory_budget=10 * alone).peak_bytes <= 10 * alone
    assert plan(12, memory_budget=10 * alone).chunk_size == 1
    for n, words in ((20, r"Raise it.*or take fewer examples"), (100, r"J takes.*Take fewer examples")):
        with pytest.raises(jb.MemoryBudgetError, match=rf"\({n} examples x .*; the budget is") as error:
            plan(n, memory_budget=10 * alone)
        assert re.search(words, str(error.value))
    J = jb.batch_jacobian(apply, in_axes=(None, 0), memory_budget=5 * alone)
    assert_same(J(PARAMS, X), EXPECTED)


@pytest.mark.parametrize("independent", [False, True])
def test_arguments_that_hold_none(independent: bool) -> None:
    f = lambda p, x, mask: x @ p["w"] if p["b"] is None and mask is None else x
    J = jb.batch_jacobian(f, in_axes=(None, 0, 0), independent=independent)
    params = {"w": PARAMS["w"], "b": None}
    expected = jax.vmap(jax.jacrev(lambda p, x: x @ p["w"]), (None, 0))(params, X)
    assert_same(J(params, X, None), expected)
    assert_same(J.plan(params, X, None)(params, X, None), expected)


@pytest.mark.parametrize("independent", [False, True])
def test_an_axis_that_is_not_there(independent: bool) -> None:
    J = jb.batch_jacobian(apply, in_axes=(None, 5), independent=independent)
    with pytest.raises(ValueError, match="5"):
        J(PARAMS, X)


def test_no_examples() -> None:
    J = jb.batch_jacobian(apply, in_axes=(None, 0))
    assert_same(J(PARAMS, X[:0]), jax.tree.map(lambda b: b[:0], EXPECTED))


def test_compositions() -> None:
    J = jb.batch_jacobian(apply, in_axes=(None, 0))
    loss = lambda p: sum(jnp.sum(b**2) for b in jax.tree.leaves(J(p, X)))
    reference = lambda p: sum(jnp.sum(b**2) for b in jax.tree.leaves(jax.vmap(jax.jacrev(one), (None, 0))(p, X)))
    assert_same(jax.grad(loss)(PARAMS), jax.grad(reference)(PARAMS))
