"""`batch_hessian` gives what `vmap(hessian(one))` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from oracles import assert_same

import jaxobian as jb
from jaxobian._request import Mode
from jaxobian.testing._scenario import normal, weights

X = normal(4, 3)
M = normal(4, 2, 3, seed=1)
W = weights(3, 3, seed=2)

# f of one example, its arguments as batches, argnums
CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], Any]] = {
    "energies": (lambda x: jnp.sum(jnp.tanh(W @ x) * x), (X,), 0),
    "a vector each": (lambda x: jnp.sin(W @ x) * x, (X,), 0),
    "a tree to a tree": (lambda p: {"y": jnp.sum(jnp.tanh(p["m"] @ p["x"])), "z": p["x"] ** 2}, ({"m": M, "x": X},), 0),
    "second argument": (lambda a, b: jnp.sum(a @ jnp.cos(b)), (M, X), 1),
    "tuple of argnums": (lambda a, b: jnp.sum(a @ jnp.cos(b)), (M, X), (0, 1)),
    "scan": (lambda x: jnp.sum(jax.lax.scan(lambda c, _: (jnp.sin(c) * x, None), x, None, 3)[0]), (X,), 0),
    "number": (lambda x: x**4, (X[:, 0],), 0),
    "linear": (lambda x: jnp.sum(x), (X,), 0),
}


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_every_example_s_hessian(name: str, jitted: bool) -> None:
    one, args, argnums = CASES[name]
    H = jb.batch_hessian(jax.vmap(one), argnums)
    assert_same((jax.jit(H) if jitted else H)(*args), jax.vmap(jax.hessian(one, argnums))(*args), rtol=1e-4)


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize("mode", ["fwd", "rev", "colored"])
def test_modes_and_chunks(mode: Mode, chunk_size: int | None) -> None:
    one, args, _ = CASES["a vector each"]
    H = jb.batch_hessian(jax.vmap(one), mode=mode, chunk_size=chunk_size)
    assert_same(H(*args), jax.vmap(jax.hessian(one))(*args), rtol=1e-4)


@pytest.mark.parametrize(("in_axes", "out_axes"), [(1, 1), (-1, 0), ({"x": 1, "m": 2}, {"y": 0, "z": -1})])
def test_axes(in_axes: Any, out_axes: Any) -> None:
    one, (args,), _ = CASES["a tree to a tree"]
    whole = in_axes if isinstance(in_axes, dict) else {"x": in_axes, "m": in_axes}
    one = one if isinstance(out_axes, dict) else lambda p, one=one: one(p)["z"]
    moved = jax.tree.map(lambda x, axis: jnp.moveaxis(x, 0, axis), args, whole)
    f = jax.vmap(one, (whole,), out_axes)
    H = jb.batch_hessian(f, in_axes=(in_axes,), out_axes=out_axes)
    expected = jax.vmap(jax.hessian(one))(args)
    value, blocks = H.with_value(moved)
    assert_same([H(moved), blocks, value], [expected, expected, f(moved)], rtol=1e-4)


def test_value_aux_and_keyword_arguments() -> None:
    f = lambda x, *, power: (jnp.sum(x**power, 1), {"sin": jnp.sin(x), "name": "kept"})
    expected = jax.vmap(jax.hessian(lambda x: jnp.sum(x**3)))(X)
    H, aux = jb.batch_hessian(f, has_aux=True)(X, power=3)
    (value, same), G = jb.batch_hessian(f, has_aux=True).with_value(X, power=3)
    assert aux["name"] == same["name"] == "kept"
    assert_same([H, G, value, aux["sin"]], [expected, expected, jnp.sum(X**3, 1), jnp.sin(X)])


def test_quantities_and_sparse_format() -> None:
    one, _, _ = CASES["energies"]
    f = jb.batch_hessian(jax.vmap(one))
    H = jax.vmap(jax.hessian(one))(X)
    assert_same(f.diagonal(X), jnp.diagonal(H, axis1=1, axis2=2), rtol=1e-4)
    assert_same(f.trace(X), jnp.trace(H, axis1=1, axis2=2), rtol=1e-4)
    assert_same(f.squared_norms(X), jnp.sum(H**2, 2), rtol=1e-4)
    assert_same(f.gram(X), H @ H, rtol=1e-4)
    assert_same(jb.batch_hessian(jax.vmap(one), format="bcoo")(X).todense(), H, rtol=1e-4)
    two = lambda x: {"y": one(x), "z": jnp.prod(x)}
    traces = jax.tree.map(lambda h: jnp.trace(h, axis1=1, axis2=2), jax.vmap(jax.hessian(two))(X))
    assert_same(jb.batch_hessian(jax.vmap(two)).trace(X), traces, rtol=1e-4)


def test_integers_and_complex_numbers() -> None:
    one = lambda p: jnp.sum(p["x"] ** 3 * p["i"])
    p = {"x": X, "i": jnp.arange(12).reshape(4, 3)}
    H = jb.batch_hessian(jax.vmap(one), allow_int=True)(p)
    expected = jax.vmap(jax.hessian(lambda x, i: one({"x": x, "i": i})))(X, p["i"])
    assert_same(H["x"]["x"], expected)
    g = lambda z: jnp.sum(jnp.exp(z) * z[::-1])
    z = X + 0.5j
    assert_same(
        jb.batch_hessian(jax.vmap(g), holomorphic=True)(z), jax.vmap(jax.hessian(g, holomorphic=True))(z), rtol=1e-4
    )


def test_as_many_passes_as_for_one_example() -> None:
    one, _, _ = CASES["energies"]
    H = jb.batch_hessian(jax.vmap(one))
    plan = H.plan(jax.ShapeDtypeStruct((64, 3), jnp.float32))
    assert plan.passes == 3
    assert str(plan).startswith("batch_hessian of <lambda> (test_batch_hessian.py:")
    assert_same(H.plan(X)(X), H(X))
    assert repr(H) == "jaxobian.batch_hessian(<lambda>)"


def test_transformations() -> None:
    one, _, _ = CASES["energies"]
    H = jb.batch_hessian(jax.vmap(one))
    expected = jax.vmap(jax.hessian(one))
    many = normal(2, 4, 3, seed=5)
    assert_same(jax.vmap(H)(many), jax.vmap(expected)(many), rtol=1e-4)
    through = lambda h: jax.grad(lambda x: jnp.sum(h(x) ** 2))(X)
    assert_same(through(H), through(expected), rtol=1e-4)


def test_products_with_the_hessian_of_the_batch() -> None:
    one, _, _ = CASES["energies"]
    op = jb.batch_hessian(jax.vmap(one)).at(X)
    H = jax.vmap(jax.hessian(one))(X)
    assert_same(op.mv(X), jnp.einsum("bij,bj->bi", H, X), rtol=1e-4)
    assert_same([op.dense(), op.value], [H, jax.vmap(one)(X)], rtol=1e-4)


def test_examples_that_are_coupled_are_refused() -> None:
    with pytest.raises(
        jb.BatchCouplingError,
        match=r"that the examples of the batch do not mix: .* reduce_sum at test_batch_hessian.py",
    ):
        jb.batch_hessian(lambda x: jnp.sum((x - x.mean(0)) ** 2, 1))(X)
    with pytest.raises(ValueError, match="has 3 entries along axis 0"):
        jb.batch_hessian(lambda x: x[:3])(X)


# By what all examples share ---------------------------------------------------------------------------------


def losses(p: Any, x: Any) -> Any:
    return jnp.sum(jnp.tanh(x @ p["w"]) * p["b"], 1)


P = {"w": W, "b": W[0]}
ONE = lambda p, x: losses(p, x[None])[0]


@pytest.mark.parametrize("jitted", [False, True])
def test_by_what_examples_share(jitted: bool) -> None:
    H = jb.batch_hessian(losses, in_axes=(None, 0))
    expected = jax.vmap(jax.hessian(ONE), (None, 0))(P, X)
    assert_same((jax.jit(H) if jitted else H)(P, X), expected, rtol=1e-4)
    value, blocks = H.with_value(P, X)
    assert_same([value, blocks], [losses(P, X), expected], rtol=1e-4)
    both = jb.batch_hessian(losses, (0, 1), in_axes=(None, 0))(P, X)
    assert_same(both, jax.vmap(jax.hessian(ONE, (0, 1)), (None, 0))(P, X), rtol=1e-4)


def test_quantities_plans_and_aux_of_what_examples_share() -> None:
    f = lambda w, x: losses({"w": w, "b": W[0]}, x)
    H = jb.batch_hessian(f, in_axes=(None, 0))
    expected = jax.vmap(jax.hessian(lambda w, x: f(w, x[None])[0]), (None, 0))(W, X)
    trace = jnp.trace(expected.reshape(4, 9, 9), axis1=1, axis2=2)
    assert_same(H.trace(W, X), trace, rtol=1e-4)
    assert_same(H.diagonal(W, X), jnp.diagonal(expected.reshape(4, 9, 9), axis1=1, axis2=2).reshape(4, 3, 3), rtol=1e-4)
    plan = H.plan(W, X)
    assert str(plan).startswith("batch_hessian of <lambda> (test_batch_hessian.py:")
    assert_same(plan(W, X), expected, rtol=1e-4)
    blocks, aux = jb.batch_hessian(lambda w, x: (f(w, x), x.sum()), in_axes=(None, 0), has_aux=True)(W, X)
    assert_same([blocks, aux], [expected, X.sum()], rtol=1e-4)
    with pytest.raises(ValueError, match=r"batch_hessian\(f, in_axes=\(None, 0\)\).at is not there.* use hessian"):
        H.at(W, X)
    with pytest.raises(ValueError, match='use "dense"'):
        jb.batch_hessian(f, in_axes=(None, 0), format="bcoo")
    with pytest.raises(ValueError, match="depends on how many there are: div"):
        jb.batch_hessian(lambda w, x: f(w, x) / len(x), in_axes=(None, 0))(W, X)
