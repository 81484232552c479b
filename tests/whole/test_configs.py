"""What users set in jax.config holds for their functions, and nothing of ours fails under it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

import jaxobian as jb
from jaxobian._request import Mode
from jaxobian.testing._networks import max_pool
from jaxobian.testing._scenario import normal, weights

W, X, XS = weights(6, 5, seed=1), normal(5), normal(3, 5)
LONG, IMAGES, KERNEL = normal(30), normal(2, 8, 8, 1), normal(3, 3, 1, 4)
IN, OUT = weights(40, 3, seed=2), weights(3, 40, seed=3)


def pooled(x: Array) -> Array:
    h = lax.conv_general_dilated(x, KERNEL, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return max_pool(jax.nn.relu(h)).reshape(len(x), -1) @ weights(64, 3, seed=4)


net = lambda x: jnp.tanh(W @ x)
CALLS: dict[str, tuple[Callable[[Any], Any], Callable[..., Any], tuple[Any, ...]]] = {
    "reverse": (lambda f: jb.jacobian(f, mode="rev"), net, (X,)),
    "forward, one at a time": (lambda f: jb.jacobian(f, mode="fwd", chunk_size=1), net, (X,)),
    "in chunks": (lambda f: jb.jacobian(f, chunk_size=2), net, (X,)),
    "colored": (lambda f: jb.jacobian(f, mode="colored"), lambda x: x[1:] * x[:-1], (LONG,)),
    "a constant part": (lambda f: jb.jacobian(f, mode="colored"), lambda x: 2 * jnp.roll(x, 1) + x**2, (LONG,)),
    "bcoo": (lambda f: jb.jacobian(f, format="bcoo"), lambda x: x[1:] * x[:-1], (LONG,)),
    "bcoo of a batch": (lambda f: jb.batch_jacobian(f, format="bcoo"), lambda x: x[:, 1:] * x[:, :-1], (XS,)),
    "mixed": (lambda f: jb.jacobian(f, mode="mixed"), lambda x: jnp.tanh(jnp.tanh(x @ IN) @ OUT), (normal(40),)),
    "a batch": (jb.batch_jacobian, lambda x: jnp.tanh(x @ W.T), (XS,)),
    "a batch, dense": (jb.jacobian, lambda x: jnp.tanh(x @ W.T), (XS,)),
    "by what examples share": (
        lambda f: jb.batch_jacobian(f, in_axes=(None, 0)), lambda w, x: jnp.tanh(x @ w), (normal(5, 2), XS)),
    "diagonal": (jb.jacobian, jnp.sin, (XS,)),
    "images": (jb.batch_jacobian, pooled, (IMAGES,)),
    "hessian": (jb.hessian, lambda x: jnp.sum(net(x) ** 2), (X,)),
    "value": (jb.value_and_jacobian, net, (X,)),
    "plan": (lambda f: lambda *args: jb.jacobian(f).plan(*args)(*args), net, (X,)),
    "vmap": (lambda f: jax.vmap(jb.jacobian(f)), net, (XS,)),
    "jit": (lambda f: jax.jit(jb.jacobian(f)), net, (X,)),
}  # fmt: skip
CONFIGS: dict[str, Callable[[], Any]] = {
    "no promotion of ranks": lambda: jax.numpy_rank_promotion("raise"),
    "no promotion of dtypes": lambda: jax.numpy_dtype_promotion("strict"),
    "NaN is an error": lambda: jax.debug_nans(True),
    "no jit": jax.disable_jit,
}


def dense(tree: Any) -> list[Any]:
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: hasattr(x, "todense"))
    return [np.asarray(x.todense() if hasattr(x, "todense") else x) for x in leaves]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", CALLS)
def test_configurations_change_no_value(name: str, config: str) -> None:
    make, f, args = CALLS[name]
    expected = dense(make(f)(*args))
    jb.clear_cache()
    with CONFIGS[config]():
        found = dense(make(lambda *args: f(*args))(*args))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_f_is_held_to_what_is_set() -> None:
    with jax.numpy_rank_promotion("raise"), pytest.raises(ValueError, match="rank_promotion"):
        jb.jacobian(lambda x: XS * x)(X)


def test_nan_in_f_is_found() -> None:
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        jb.jacobian(lambda x: jnp.sqrt(x - 10))(X)


# Without jit ----------------------------------------------------------------------------------------------------------


def branching(x: Array) -> Array:
    return jnp.sin(x[0]) * x if x[1] < 10 else x


@pytest.mark.parametrize("mode", ["auto", "fwd", "rev", "mixed", "colored"])
def test_without_jit_f_may_branch_on_values(mode: Mode) -> None:
    with jax.disable_jit():
        J = jb.jacobian(branching, mode=mode)(X)
        H = jb.hessian(lambda x: branching(x).sum())(X)
        y, J2 = jb.value_and_jacobian(branching)(X)
        batch = jb.batch_jacobian(lambda x: x**2 if x[0, 0] < 9 else x)(XS)
    true = jax.jacrev(lambda x: jnp.sin(x[0]) * x)(X)
    np.testing.assert_allclose(J, true, rtol=1e-6)
    np.testing.assert_allclose(J2, true, rtol=1e-6)
    np.testing.assert_allclose(y, jnp.sin(X[0]) * X, rtol=1e-6)
    np.testing.assert_allclose(H, jax.hessian(lambda x: (jnp.sin(x[0]) * x).sum())(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(batch, jax.vmap(jnp.diag)(2 * XS), rtol=1e-6)


def test_without_jit_layouts_dtypes_and_options_are_the_same() -> None:
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (jb.jacobian(lambda t, y: {"a": t["x"] * y, "b": y.sum()}, (0, 1)), ({"x": X}, X)),
        (jb.jacobian(lambda x: (x.astype(jnp.float16), "aux"), has_aux=True), (X,)),
        (jb.jacobian(lambda x: x * 1j), (X,)),
        (jb.jacobian(lambda z: z**2, holomorphic=True), (X + 1j,)),
        (jb.jacobian(lambda x, n: x * n, (0, 1), allow_int=True), (X, 3)),
        (jb.jacobian(lambda x: x**2), (2.0,)),
        (jb.batch_jacobian(lambda x: jnp.tanh(W @ x), in_axes=1, out_axes=-1), (XS.T,)),
        (jb.batch_jacobian(lambda x, y: (x * y).sum(1), (0, 1), in_axes=(0, 0)), (XS, XS)),
    ]
    for J, args in calls:
        expected = J(*args)
        with jax.disable_jit():
            found = J(*args)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            if not isinstance(theirs, str):
                assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
                np.testing.assert_allclose(ours, theirs, rtol=1e-3)


OF_J: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "diagonal of trees": (
        jb.jacobian(lambda t: {"x": t["x"] * t["n"].sum(), "n": t["x"]}, allow_int=True).diagonal,
        ({"x": X, "n": jnp.arange(5)},),
    ),
    "trace of a batch, BCOO or not": (
        jb.batch_jacobian(lambda x: x**3, in_axes=1, out_axes=1, format="bcoo").trace, (XS,)),
    "trace of half precision": (jb.batch_jacobian(lambda x: x**2).trace, (XS.astype(jnp.float16),)),
    "norms": (jb.jacobian(lambda x: (net(x), "aux"), has_aux=True).squared_norms, (X,)),
    "per-example norms": (
        jb.batch_jacobian(lambda w, x: jnp.tanh(x @ w), in_axes=(None, 0)).squared_norms, (normal(5, 2), XS)),
    "gram": (jb.jacobian(lambda x, n: (x * n, n * x), (0, 1), allow_int=True).gram, (X, 3)),
    "gram with weights": (lambda x: jb.jacobian(net).gram(x, side="in", weights=jnp.arange(6.0)), (X,)),
    "gram of complex numbers": (jb.jacobian(lambda z: z**2, holomorphic=True).gram, (X + 1j,)),
    "trace of a Hessian": (jb.hessian(lambda x: {"a": jnp.sum(x**3), "b": x**2}).trace, (X,)),
    "diagonal of a Hessian": (jb.hessian(lambda x, y: (jnp.sum(x**3 * y[0]), y * x[0]), (0, 1)).diagonal, (X, X[:2])),
    "value": (jb.jacobian(lambda x: x**2).trace.with_value, (X,)),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_J)
def test_without_jit_what_is_asked_of_J_is_the_same(name: str) -> None:
    quantity, args = OF_J[name]
    expected = quantity(*args)
    with jax.disable_jit():
        found = quantity(*args)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if not isinstance(theirs, str):
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-5)


def test_without_jit_what_is_not_defined_is_refused() -> None:
    with jax.disable_jit():
        np.testing.assert_allclose(jb.jacobian(branching).trace(X), jnp.trace(jb.jacobian(branching)(X)), rtol=1e-5)
        with pytest.raises(ValueError, match=r"diagonal is defined where each leaf.*f's output is f32\[6\]"):
            jb.jacobian(net).diagonal(X)
        with pytest.raises(ValueError, match=r"weights must be real and of the shapes of f's output"):
            jb.jacobian(net).gram(X, side="in", weights=X)


def test_without_jit_coupled_examples_are_refused() -> None:
    J = jb.batch_jacobian(lambda x: x - x.mean(0))
    match = "example 0 of the output changes with example 1"
    with jax.disable_jit(), pytest.raises(jb.BatchCouplingError, match=match):
        J(XS)


def test_without_jit_the_other_mode_is_taken_where_one_is_impossible() -> None:
    doubling = lambda x: lax.while_loop(lambda c: c[0] < 9, lambda c: 2 * c, x + 3)
    with jax.disable_jit():
        np.testing.assert_allclose(jb.jacobian(doubling)(X), jax.jacfwd(doubling)(X))
