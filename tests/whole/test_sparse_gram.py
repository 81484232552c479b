"""Gram matrices of sparse Jacobians: the same numbers, and nonzeros where rows of J meet alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO
from oracles import slow_after

import jaxobian as jb

X = jnp.linspace(1.0, 2.0, 40)
BATCH = jnp.stack([X, X + 1, 2 * X])


def chain(x: Any) -> Any:
    return x[1:] ** 2 * x[:-1]


def arrow(x: Any) -> Any:
    return jnp.concatenate([x**2, jnp.sum(jnp.sin(x))[None]])


def of_trees(d: Any) -> Any:
    return {"u": d["a"][1:] * d["b"][:-1], "v": d["b"] ** 2 * jnp.sum(d["a"][:2])}


def of_two(x: Any) -> Any:
    return x[:3] * 2, jnp.tanh(x)[1:] * x[1:]


def energy(x: Any) -> Any:
    return jnp.sum((x[1:] - x[:-1] ** 2) ** 2)


CASES: dict[str, tuple[Callable[..., Any], Any]] = {
    "chain": (lambda **own: jb.jacobian(chain, **own), X),
    "arrow": (lambda **own: jb.jacobian(arrow, **own), X),
    "elementwise": (lambda **own: jb.jacobian(jnp.sin, **own), X),
    "dense": (lambda **own: jb.jacobian(lambda x: jnp.tanh(jnp.ones((7, 40)) @ x), **own), X),
    "zero": (lambda **own: jb.jacobian(lambda x: jnp.zeros(3) + 0 * x[:3], **own), X),
    "trees": (lambda **own: jb.jacobian(of_trees, **own), {"a": X, "b": X + 1}),
    "two outputs": (lambda **own: jb.jacobian(of_two, **own), X[:6]),
    "a Hessian": (lambda **own: jb.hessian(energy, **own), X),
    "a batch": (lambda **own: jb.batch_jacobian(jax.vmap(chain), **own), BATCH),
    "complex": (lambda **own: jb.jacobian(chain, holomorphic=True, **own), X * (1 + 2j)),
}


def is_sparse(node: Any) -> bool:
    return isinstance(node, BCOO)


@pytest.mark.parametrize("weighted", slow_after(1, [False, True]))
@pytest.mark.parametrize("side", ["out", "in"])
@pytest.mark.parametrize("name", CASES)
def test_numbers_and_places(name: str, side: Literal["out", "in"], weighted: bool) -> None:
    make, x = CASES[name]
    y = jax.eval_shape(make().with_value, x)[0]
    like = x if side == "out" else y
    weights = jax.tree.map(lambda a: jnp.linspace(1.0, 3.0, a.size).reshape(a.shape), like) if weighted else None
    if name == "a Hessian" and weighted:
        weights = jnp.linspace(1.0, 3.0, 40) if side == "out" else None  # its outputs are y's, each with x's leaves
    got = make(format="bcoo").gram(x, side=side, weights=weights)
    dense = make(mode="fwd").gram(x, side=side, weights=weights)
    for ours, expected in zip(jax.tree.leaves(got, is_leaf=is_sparse), jax.tree.leaves(dense), strict=True):
        assert is_sparse(ours)
        assert ours.dtype == expected.dtype
        assert len(np.unique(np.asarray(ours.indices), axis=0)) == ours.nse
        np.testing.assert_allclose(ours.todense(), expected, rtol=1e-4, atol=1e-4 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize(
    ("name", "side", "nonzeros"),
    [
        ("chain", "out", 3 * 39 - 2),
        ("chain", "in", 3 * 40 - 2),
        ("elementwise", "out", 40),
        ("arrow", "out", 3 * 40 + 1),
    ],
)
def test_what_does_not_meet_is_left_out(name: str, side: Literal["out", "in"], nonzeros: int) -> None:
    make, x = CASES[name]
    assert make(format="bcoo").gram(x, side=side).nse == nonzeros


@pytest.mark.parametrize("side", ["out", "in"])
def test_dense_ones_are_made_of_nonzeros(side: Literal["out", "in"]) -> None:
    x = jnp.linspace(1.0, 2.0, 300)
    J = jb.jacobian(chain, mode="colored")
    dense = jax.jacrev(chain)(x)
    expected = dense @ dense.T if side == "out" else dense.T @ dense
    np.testing.assert_allclose(J.gram(x, side=side), expected, rtol=1e-5, atol=1e-5)
    program = str(jax.make_jaxpr(lambda x: J.gram(x, side=side))(x))
    assert "dot_general" not in program


def test_thousands_of_rows_in_little_memory() -> None:
    x = jnp.linspace(0.0, 1.0, 20_000)
    J = jb.jacobian(chain, format="bcoo", memory_budget="100MB")
    gram = J.gram(x)
    assert gram.nse == 3 * 19_999 - 2
    v = jnp.sin(jnp.arange(19_999.0))
    op = J.at(x)
    np.testing.assert_allclose(gram @ v, op.mv(op.rmv(v)), rtol=1e-4, atol=1e-4)


def test_transformations() -> None:
    J = jb.jacobian(chain, format="bcoo")
    np.testing.assert_array_equal(jax.jit(J.gram)(X).todense(), J.gram(X).todense())
    with jax.disable_jit():
        np.testing.assert_allclose(J.gram(X).todense(), jb.jacobian(chain).gram(X), rtol=1e-5, atol=1e-6)
    assert jax.grad(lambda x: J.gram(x).data.sum())(X).shape == X.shape
    assert "bcoo" in J.gram.plan(X).explain()
