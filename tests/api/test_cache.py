"""What eager calls keep: nothing compiles twice, and nothing is used for another question."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import compilations

import jaxobian as jb
from jaxobian import _cache
from jaxobian._cache import _kept
from jaxobian._call import Options
from jaxobian._call._batch import Batch
from jaxobian._outputs import SquaredNorms
from jaxobian._request import Request
from jaxobian.testing._scenario import normal, weights

pytestmark = pytest.mark.contracts

W = weights(6, 5, seed=1)


@jax.custom_jvp
def softened(x: Any) -> Any:
    return jnp.abs(x)


softened.defjvp(lambda p, t: (softened(*p), jnp.tanh(p[0]) * t[0]))


@jax.custom_vjp
def doubled(x: Any) -> Any:
    return 2 * x


doubled.defvjp(lambda x: (doubled(x), None), lambda _, g: (2 * g,))


@jax.custom_batching.custom_vmap
def sine(x: Any) -> Any:
    return jnp.sin(x)


sine.def_vmap(lambda n, batched, x: (jnp.sin(x), batched[0]))

net = lambda x: jnp.tanh(W @ x)
loss = lambda x: jnp.sum(jnp.tanh(W @ x) ** 3)
tree_loss = lambda p: jnp.sum(jnp.tanh(p["w"] @ p["b"]))
X, XS = normal(5), normal(4, 5)
TREE = {"w": normal(3, 4), "b": normal(4, seed=1)}

# Each makes a function anew, and the arguments that it is called with.
CALLS: dict[str, tuple[Callable[[], Callable[..., Any]], tuple[Any, ...]]] = {
    "jacobian": (lambda: jb.jacobian(lambda x: net(x)), (X,)),
    "forward": (lambda: jb.jacobian(lambda x: net(x), mode="fwd"), (X,)),
    "in chunks": (lambda: jb.jacobian(lambda x: net(x), chunk_size=2), (X,)),
    "bcoo": (lambda: jb.jacobian(lambda x: x[1:] * x[:-1], format="bcoo"), (X,)),
    "with its value": (lambda: jb.jacobian(lambda x: net(x)).with_value, (X,)),
    "value_and_jacobian": (lambda: jb.value_and_jacobian(lambda x: net(x)), (X,)),
    "batch": (lambda: jb.batch_jacobian(lambda x: jnp.tanh(x @ W.T)), (XS,)),
    "by what examples share": (
        lambda: jb.batch_jacobian(lambda w, x: jnp.tanh(x @ w), in_axes=(None, 0)), (normal(5, 3), XS)),
    "hessian": (lambda: jb.hessian(lambda x: loss(x)), (X,)),
    "hessian with its value": (lambda: jb.hessian(lambda x: loss(x)).with_value, (X,)),
    "hessian of a tree": (lambda: jb.hessian(lambda p: tree_loss(p)), (TREE,)),
    "hessian of several outputs": (lambda: jb.hessian(lambda x: net(x) ** 2), (X,)),
    "jacobian of a jacobian": (lambda: jb.jacobian(lambda x: jb.jacobian(net)(x).sum(0)), (X,)),
    "jacobian of a gradient": (lambda: jb.jacobian(jax.grad(lambda x: loss(x))), (X,)),
    "a jacobian inside a jit inside": (lambda: jb.hessian(jax.jit(lambda x: jb.jacobian(loss)(x).sum())), (X,)),
    "vmap": (lambda: jax.vmap(jb.jacobian(lambda x: net(x))), (XS,)),
    "vmap in chunks": (lambda: jax.vmap(jb.jacobian(lambda x: net(x), chunk_size=1)), (XS,)),
    "vmap of vmap": (lambda: jax.vmap(jax.vmap(jb.jacobian(lambda x: net(x)))), (XS.reshape(2, 2, 5),)),
    "vmap of a hessian": (lambda: jax.vmap(jb.hessian(lambda x: loss(x))), (XS,)),
    "grad": (lambda: jax.grad(lambda x: jb.jacobian(net)(x).sum()), (X,)),
    "custom_jvp": (lambda: jb.jacobian(lambda x: softened(x) * x), (X,)),
    "custom_vjp": (lambda: jb.jacobian(lambda x: doubled(x) * x), (X,)),
    "hessian of custom_jvp": (lambda: jb.hessian(lambda x: jnp.sum(softened(x) ** 3)), (X,)),
    "custom_vmap": (lambda: jb.jacobian(lambda x: sine(x) * x), (X,)),
    "scan": (lambda: jb.jacobian(lambda x: jax.lax.scan(lambda c, y: (c * y, c), 1.0, x)[1]), (X,)),
    "while": (lambda: jb.jacobian(lambda x: jax.lax.while_loop(lambda c: c[0] < 9, lambda c: 2 * c, x + 3)), (X,)),
    "checkpoint": (lambda: jb.jacobian(jax.checkpoint(lambda x: net(x))), (X,)),
    "solve": (lambda: jb.jacobian(lambda x: jnp.linalg.solve(jnp.eye(5) + jnp.outer(x, x), x)), (X,)),
    "odd reductions": (
        lambda: jb.jacobian(lambda x: x * jax.lax.reduce(x, -jnp.inf, lambda a, b: jnp.maximum(a, b), (0,))), (X,)),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_the_second_and_third_call_compile_nothing(name: str) -> None:
    make, args = CALLS[name]
    same = make()
    jax.block_until_ready(same(*args))
    for function in (same, same, make(), make()):
        with compilations() as found:
            jax.block_until_ready(function(*args))
        assert not found


def test_compilations_are_seen() -> None:
    with compilations() as found:
        jb.jacobian(lambda x: net(x) * 1.2345)(X)
    assert found


def test_a_jacobian_inside_a_trace_leaves_one_equation_however_many_arrays_there_are() -> None:
    tree = {str(k): X + k for k in range(30)}
    jaxpr = jax.make_jaxpr(jb.jacobian(lambda t: sum(jnp.sum(x) for x in t.values())))(tree)
    assert [e.primitive.name for e in jaxpr.eqns].count("custom_jvp_call") == 1
    assert "custom_vmap_call" not in {e.primitive.name for e in jaxpr.eqns}


# For each field of a request two values that ask for different things.
OTHERS: dict[str, tuple[Any, Any]] = {
    "mode": ("fwd", "rev"),
    "holomorphic": (False, True),
    "format": ("dense", "bcoo"),
    "chunk_size": (None, 2),
    "memory_budget": (None, "1GB"),
    "rewrite": (True, False),
    "independent": (False, True),
    "prefer_reverse": (False, True),
    "symmetric": (False, True),
    "copies": (1, 2),
    "quantity": (SquaredNorms("in"), SquaredNorms("out")),
    "sparsity": (jb.Pattern.from_scipy(np.eye(2)), jb.Pattern.from_scipy(np.eye(3))),
}
# How f is called is in the program; how results are handed back comes after what is kept.
NOT_ASKED = {"argnums", "has_aux", "allow_int", "batch"}


def test_every_field_of_a_request_tells_it_from_another() -> None:
    assert {f.name for f in fields(Request)} == OTHERS.keys()
    for name, (one, other) in OTHERS.items():
        assert Request(**{name: one}) != Request(**{name: other}), name
        assert hash(Request(**{name: one})) == hash(Request(**{name: one}))
    assert {f.name for f in fields(Options)} == NOT_ASKED | {"request"}


def test_what_is_not_in_the_key_changes_the_program_or_what_is_done_after() -> None:
    f = lambda x, y: (x * y, jnp.arange(3))
    aux = jb.jacobian(f, has_aux=True)(X, X)[0]
    np.testing.assert_allclose(aux, jnp.diag(X))
    np.testing.assert_allclose(jb.jacobian(f, argnums=1, has_aux=True)(2 * X, X)[0], jnp.diag(2 * X))
    np.testing.assert_array_equal(jb.jacobian(lambda x, i: x * i, (0, 1), allow_int=True)(X, 2)[1], jnp.zeros(5, int))
    rows, square = lambda x: jnp.tanh(x), normal(4, 4)
    np.testing.assert_allclose(jb.batch_jacobian(rows)(square)[1], jnp.diag(1 - jnp.tanh(square[1]) ** 2), rtol=1e-5)
    columns = jb.batch_jacobian(rows, in_axes=1, out_axes=1)(square)
    np.testing.assert_allclose(columns[1], jnp.diag(1 - jnp.tanh(square[:, 1]) ** 2), rtol=1e-5)
    assert Options(batch=Batch(0, 0)) != Options(batch=Batch(1, 1))


def test_functions_made_anew_are_told_apart_by_what_they_close_over() -> None:
    def times(c: float) -> Callable[[Any], Any]:
        @jax.custom_batching.custom_vmap
        def g(x: Any) -> Any:
            return c * x

        g.def_vmap(lambda n, batched, x: (c * x, batched[0]))
        return g

    for c in (2.0, 3.0, 2.0):
        np.testing.assert_allclose(jb.jacobian(lambda x, c=c: times(c)(x) * x)(X), jnp.diag(2 * c * X), rtol=1e-6)


def test_clear_cache() -> None:
    J = jb.jacobian(lambda x: net(x) * 2)
    J(X)
    assert _kept
    jb.clear_cache()
    assert not _kept
    with compilations() as found:
        J(X)
    assert found


@pytest.mark.parametrize("make", [list, dict, lambda: np.zeros(1)], ids=["list", "dict", "array"])
def test_callbacks_write_into_what_their_own_function_holds(make: Callable[[], Any]) -> None:
    def noting(held: Any) -> Callable[[Any], Any]:
        def note(v: Any) -> None:
            if isinstance(held, list):
                held.append(float(v))
            else:
                held[0] = float(v)

        def f(x: Any) -> Any:
            jax.debug.callback(note, x.sum())
            return x**2

        return f

    first, second = make(), make()
    for scale, held in ((1.0, first), (2.0, second)):
        jb.jacobian(noting(held))(scale * X)
        jax.effects_barrier()
    assert [float(held[0]) for held in (first, second)] == [float(X.sum()), float(2 * X.sum())]
    with compilations() as found:  # the same objects again
        jb.jacobian(noting(second))(X)
        jax.effects_barrier()
    assert not found


def test_threads_share_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cache, "KEPT", 12)
    jb.clear_cache()
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for k in range(36):  # more than are kept, so that others are always being dropped
                f = lambda x, n=(seed * 7 + k) % 16: x * float(n)
                jb.jacobian(f).plan  # noqa: B018
                _touch(f)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(_kept) <= 12


def _touch(f: Callable[[Any], Any]) -> None:
    """What a call keeps, without compiling it: the compiled function is made when it first runs."""
    from jaxobian._cache import kept
    from jaxobian._call import Traced

    kept(Traced.of(f, Options(), (X,), {}), Options(), False)
