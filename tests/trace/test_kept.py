"""Eager calls differentiate f once: what is kept is right for the next call, whatever has changed meanwhile."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_same

import jaxobian as jb
from jaxobian._trace import _kept

W = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
X = jnp.asarray([0.3, -0.7, 1.1, 0.4])


def dense(x: Any) -> Any:
    return jnp.tanh(x @ W)


def relu(x: Any) -> Any:
    return jax.nn.relu(x @ W) + jax.nn.softplus(x[:3])


def loop(x: Any) -> Any:
    return jax.lax.fori_loop(0, 3, lambda k, y: jnp.sin(y) * (1 + jnp.linalg.norm(y)), x)


def branches(x: Any) -> Any:
    return jax.lax.cond(x[0] > 0, lambda x: jnp.cumsum(x**2), lambda x: jnp.flip(x), x)


@jax.custom_jvp
def doubled(x: Any) -> Any:
    return 2 * x


FACTOR = [2.0]


@doubled.defjvp
def _(primals: Any, tangents: Any) -> Any:
    return 2 * primals[0], FACTOR[0] * tangents[0]


@jax.custom_vjp
def tripled(x: Any) -> Any:
    return 3 * x


tripled.defvjp(lambda x: (3 * x, None), lambda _, u: (FACTOR[0] * u,))


def times_differentiated(run: Callable[[], Any]) -> int:
    with mock.patch.object(_kept, "linearize", wraps=_kept.linearize) as linearize:
        run()
    return linearize.call_count


@pytest.mark.parametrize("f", [dense, relu, loop, branches])
def test_the_second_call_differentiates_nothing(f: Callable[..., Any]) -> None:
    jb.clear_cache()
    jacobian = jb.jacobian(f)
    assert times_differentiated(lambda: jacobian(X)) == 1
    assert times_differentiated(lambda: [jacobian(X), jb.jacobian(f)(2 * X), jacobian.with_value(X)]) == 0
    assert_same(jacobian(-X), jax.jacfwd(f)(-X))
    jb.clear_cache()
    assert times_differentiated(lambda: jacobian(X)) == 1


@pytest.mark.parametrize("f", [doubled, tripled])
def test_what_a_rule_does_is_asked_anew(f: Callable[..., Any]) -> None:
    jacobian = jb.jacobian(lambda x: f(x) + x)
    for factor in (5.0, 7.0, 5.0):
        FACTOR[0] = factor
        assert_same(jacobian(X), (factor + 1) * jnp.eye(4))


def test_callbacks_are_asked_anew() -> None:
    def f(x: Any) -> Any:
        return x * jax.pure_callback(lambda x: np.float32(FACTOR[0] * x.sum()), X[0], jax.lax.stop_gradient(x))

    for FACTOR[0] in (5.0, 7.0):
        assert_same(jb.jacobian(f)(X), FACTOR[0] * X.sum() * jnp.eye(4), rtol=1e-6)


def test_arrays_that_f_closes_over_may_change() -> None:
    weights = [jnp.asarray(W)]
    jacobian = jb.jacobian(lambda x: jnp.tanh(x @ weights[0]))
    for scale in (1.0, 2.0, 1.0):
        weights[0] = scale * jnp.asarray(W)
        assert_same(jacobian(X), jax.jacrev(lambda x: jnp.tanh(x @ weights[0]))(X))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["f", "jit"])
def test_numpy_s_arrays_may_be_written_to(wrap: Any) -> None:
    for value in (1.0, 2.0, 1.0):
        held = np.full(4, value, np.float32)
        f = lambda x, held=held: jax.lax.fori_loop(0, 2, lambda k, y: wrap(lambda y: y * held)(y), x)
        jacobian = jb.jacobian(f)
        assert_same(jacobian(X), value**2 * jnp.eye(4))
        held[:] = 3.0
        assert_same(jb.jacobian(lambda x, f=f: f(x))(X), 9 * jnp.eye(4))


def test_settings_are_those_of_the_call() -> None:
    jacobian = jb.jacobian(lambda x: jnp.linalg.cholesky(jnp.outer(x, x) + 5 * jnp.eye(4)))
    found = [jacobian(X)]
    with jax.default_matmul_precision("highest"):
        assert times_differentiated(lambda: found.append(jacobian(X))) == 1
    assert times_differentiated(lambda: found.append(jacobian(X))) == 0
    assert_same(found[0], found[2])
    with jax.enable_x64(True):
        assert jacobian(np.asarray(X, np.float64)).dtype == np.float64


def test_a_mistake_is_where_the_function_has_it() -> None:
    first, second = (lambda x: jnp.sin(x) * 2), (lambda x: jnp.sin(x) * 2)
    jb.jacobian(first)(X)
    jacobian = jb.jacobian(second)
    assert times_differentiated(lambda: jacobian(X)) == 1  # of other lines


def test_what_f_closed_over_is_let_go() -> None:
    weights = jnp.ones((4, 4))
    gone = weakref.ref(weights)
    jb.jacobian(lambda x, w=weights: jnp.tanh(x @ w))(X)
    del weights
    gc.collect()
    assert gone() is None
