"""`hessian`: laid out as `jax.hessian`, which is the oracle; and it works where that does not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import jaxobian as jb
from jaxobian._request import Mode

MODES = ("auto", "fwd", "rev")
X = jnp.array([0.3, -1.2, 2.0])
M = jnp.arange(6.0).reshape(2, 3) / 5

assert_same = functools.partial(oracles.assert_same, rtol=1e-4)


CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], Any]] = {
    "scalar": (lambda a: a**4, (jnp.array(2.0),), 0),
    "vector to scalar": (lambda a: jnp.prod(a) + jnp.sum(jnp.sin(a)), (X,), 0),
    "matrix to scalar": (lambda a: jnp.sum(jnp.tanh(a @ a.T)), (M,), 0),
    "vector to vector": (lambda a: jnp.sin(a) * a[::-1], (X,), 0),
    "dict to scalar": (lambda p: jnp.sum(jnp.tanh(p["w"] @ p["b"])), ({"w": M, "b": X},), 0),
    "tree to tree": (lambda p: {"y": p[0] * p[1][0], "z": (jnp.sum(p[1]),)}, ((X, M),), 0),
    "second argument": (lambda a, b: jnp.sum(a * jnp.cos(b)), (X, 2 * X), 1),
    "tuple of argnums": (lambda a, b: jnp.sum(a * jnp.cos(b)), (X, 2 * X), (0, 1)),
    "last argument": (lambda a, b: jnp.sum(a * jnp.cos(b)), (X, 2 * X), -1),
    "None leaves": (lambda p: jnp.sum(p["w"] ** 3), ({"w": X, "no": None},), 0),
    "linear": (lambda a: jnp.sum(a), (X,), 0),
    "constant": (lambda a: jnp.float32(1.0), (X,), 0),
    "unused leaf": (lambda p: jnp.sum(p["a"] ** 2), ({"a": X, "b": X},), 0),
    "Python float": (lambda a: a**3, (2.0,), 0),
    "empty": (lambda a: jnp.sum(a**2), (jnp.zeros(0),), 0),
    "custom_jvp": (lambda a: jnp.sum(jax.nn.silu(a) ** 2), (X,), 0),
    "logsumexp": (lambda a: jax.nn.logsumexp(a), (X,), 0),
    "scan": (lambda a: jnp.sum(jax.lax.scan(lambda c, _: (jnp.sin(c) * a, None), a, None, 3)[0]), (X,), 0),
    "solve": (lambda a: jnp.sum(jnp.linalg.solve(jnp.eye(3) * 3 + jnp.outer(a, a), a)), (X,), 0),
}


@pytest.mark.parametrize("name", CASES)
def test_layout_and_values_are_jax_s(name: str) -> None:
    f, args, argnums = CASES[name]
    expected = jax.jit(jax.hessian(f, argnums))(*args)
    assert_same(jb.hessian(f, argnums)(*args), expected)


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_modes_and_chunks(mode: Mode, chunk_size: int | None) -> None:
    f, args, _ = CASES["dict to scalar"]
    assert_same(jb.hessian(f, mode=mode, chunk_size=chunk_size)(*args), jax.hessian(f)(*args))


def test_keyword_arguments_value_and_aux() -> None:
    f = lambda a, *, power: (jnp.sum(a**power), {"sin": jnp.sin(a), "name": "kept"})
    expected = jax.hessian(lambda a: jnp.sum(a**3))(X)
    H, aux = jb.hessian(f, has_aux=True)(X, power=3)
    (value, same), G = jb.hessian(f, has_aux=True).with_value(X, power=3)
    assert aux["name"] == same["name"] == "kept"
    assert_same([H, G], [expected, expected])
    assert_same([value, aux["sin"], same["sin"]], [jnp.sum(X**3), jnp.sin(X), jnp.sin(X)])
    value, H = jb.hessian(lambda a: jnp.sum(a**3)).with_value(X)
    assert_same([value, H], [jnp.sum(X**3), expected])


def test_the_value_of_a_tree() -> None:
    f = lambda a: {"y": jnp.sum(a**3), "z": a}
    value, H = jb.hessian(f).with_value(X)
    assert_same(value, f(X))
    assert_same(H, jax.hessian(f)(X))


def test_integer_leaves_with_allow_int() -> None:
    f = lambda p: jnp.sum(p["w"][p["i"]] ** 3)
    w, i = X, jnp.array([0, 2])
    H = jb.hessian(f, allow_int=True)({"w": w, "i": i})
    assert_same(H["w"]["w"], jax.hessian(lambda w: jnp.sum(w[i] ** 3))(w))


def test_holomorphic() -> None:
    f = lambda z: jnp.sum(jnp.exp(z) * z[::-1])
    z = X + 0.5j
    assert_same(jb.hessian(f, holomorphic=True)(z), jax.hessian(f, holomorphic=True)(z))


def test_sparse_format() -> None:
    f, args, _ = CASES["vector to scalar"]
    H = jb.hessian(f, format="bcoo")(*args)
    assert H.shape == (3, 3)
    assert_same(H.todense(), jax.hessian(f)(*args))


def test_double_precision_and_strict_promotion() -> None:
    f = lambda a: jnp.sum(jnp.sin(a) * a[::-1])
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        x = jnp.asarray(np.array([0.3, -1.2, 2.0]))
        assert_same(jb.hessian(f)(x), jax.hessian(f)(x), rtol=1e-12)


# Functions that only one mode can differentiate -------------------------------------------------------------


def test_a_dynamic_loop() -> None:
    pushed = lambda x: jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * x), (0, x))[1]
    f = lambda x: jnp.sum(pushed(x))  # x^4
    assert_same(jb.hessian(f)(X), jnp.diag(12 * X**2))


def test_a_custom_vjp_that_can_be_pulled_back_twice() -> None:
    @jax.custom_vjp
    def cube(x):
        return x**3

    # Its rule is written with x itself, so that it can be differentiated again; twice the truth, on purpose.
    cube.defvjp(lambda x: (x**3, x), lambda x, g: (6 * x**2 * g,))
    f = lambda x: jnp.sum(cube(x))
    assert_same(jb.hessian(f)(X), jnp.diag(12 * X))


def test_the_inner_jacobian_is_reversed_where_possible() -> None:
    # A rule that only reverse mode can run, and whose own rule allows both: forward inside would fail.
    @jax.custom_vjp
    def sine(x):
        return jnp.sin(x)

    sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (jnp.cos(x) * g,))
    make = lambda sine: lambda x: jnp.sum(sine(x) ** 2)
    assert_same(jb.hessian(make(sine))(X), jax.hessian(make(jnp.sin))(X))


def test_hessians_of_jacobians_and_their_jacobians() -> None:
    f = lambda a: a**4 * a[::-1]
    expected = jax.hessian(jax.jacrev(f))(X)
    assert_same(jb.hessian(jb.jacobian(f))(X), expected)
    assert_same(jb.jacobian(jb.hessian(f))(X), expected)


def test_the_plan_of_a_hessian() -> None:
    f = lambda a: jnp.sum(jnp.sin(a) * a[::-1])
    plan = jb.hessian(f).plan(jax.ShapeDtypeStruct((3,), jnp.float32))
    assert plan.passes == 3  # of the outer Jacobian, of the gradient
    assert str(plan).startswith("hessian of <lambda> (test_hessian.py:")
    assert_same(plan(X), jax.hessian(f)(X))
    assert_same(plan(2 * X), jax.hessian(f)(2 * X))


@pytest.mark.parametrize(
    ("f", "has_aux", "ends"),
    [
        (lambda a: jnp.sum(a**3), False, "f32[3] -> f32[]"),
        (lambda a: (jnp.sum(a**3), {"twice": 2 * a}), True, "f32[3] -> f32[]"),
        (lambda a: {"y": jnp.sum(a**3), "z": a[:2] ** 2}, False, "f32[3] -> f32[], f32[2]"),
    ],
    ids=["a loss", "beside aux", "several outputs"],
)
def test_the_plan_of_a_hessian_shows_what_f_returns(f: Any, has_aux: bool, ends: str) -> None:
    assert jb.hessian(f, has_aux=has_aux).plan(X).title.endswith(f": {ends}")


def test_errors_name_the_user_s_leaves() -> None:
    with pytest.raises(TypeError, match=r"args\[0\]\['i'\].*i32"):
        jb.hessian(lambda p: jnp.sum(p["w"]))({"w": X, "i": jnp.arange(3)})
    with pytest.raises(TypeError, match=r"\['n'\].*i32.*has_aux"):
        jb.hessian(lambda a: {"y": jnp.sum(a), "n": jnp.argmax(a)})(X)


def test_a_jacobian_inside_leaves_the_hessian_symmetric() -> None:
    f = lambda x: jnp.sum(jb.jacobian(lambda x: x**3 * jnp.roll(x, 1))(x) ** 2)
    H: Any
    H, x = jb.hessian(f), jnp.linspace(0.5, 1.5, 12)
    H.plan(x)
    assert not H._gradient.has_rules
    np.testing.assert_allclose(H(x), jax.hessian(f)(x), rtol=1e-4, atol=1e-4)
