"""`batch_jacobian` by arguments that all examples share gives what `vmap(jacrev(one))` does."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxobian as jb
from jaxobian.testing._scenario import normal, weights

X = normal(6, 3)
PARAMS = {"w": weights(3, 4, seed=1), "b": weights(4, 2, seed=2)}


def apply(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["w"]) @ params["b"]


def one(params: Any, x: Any) -> Any:
    return apply(params, x[None])[0]


EXPECTED = jax.vmap(jax.jacrev(one), (None, 0))(PARAMS, X)


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["auto", "fwd", "rev"])
@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_every_example_by_its_parameters(mode: str, jitted: bool, chunk_size: int | None) -> None:
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
    np.testing.assert_allclose(aux["mean"][:, 0], X.mean(-1), rtol=1e-6)


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


def test_without_floating_point_examples_it_takes_your_word() -> None:
    embed = lambda table, tokens: jnp.tanh(table[tokens])
    table, tokens = weights(7, 3, seed=4), jnp.array([1, 5, 1, 0])
    with pytest.raises(jb.BatchCouplingError, match="independent=True"):
        jb.batch_jacobian(embed, in_axes=(None, 0))(table, tokens)
    labelled = lambda w, x, labels: jnp.tanh(x @ w) + labels[:, None].mean(0)
    with pytest.raises(jb.BatchCouplingError, match=r"args\[2\] is not of floating-point"):
        jb.batch_jacobian(labelled, in_axes=(None, 0, 0))(PARAMS["w"], X, jnp.arange(6))
    J = jb.batch_jacobian(embed, in_axes=(None, 0), independent=True)
    assert_same(J(table, tokens), jax.vmap(jax.jacrev(embed), (None, 0))(table, tokens))


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
