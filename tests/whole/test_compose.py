"""`jacobian` is a function: it composes with JAX's transformations and with itself. JAX's is the oracle."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_same

import jaxobian as jb
from jaxobian._request import Mode

MODES = ("auto", "fwd", "rev")
X = jnp.array([0.3, -1.2, 2.0])
BATCH = jnp.stack([X, 2 * X, X[::-1], X**2])
W = jnp.array([[0.5, 1.0, -0.3], [1.5, -0.5, 0.2]])


def f(x):
    return jnp.tanh(W @ x) * jnp.sum(jnp.sin(x))


def tree(p):
    return {"y": jnp.tanh(p["w"] @ p["b"]), "s": jnp.sum(p["b"] ** 3)}


POINT = {"w": W, "b": X}


# Each takes a Jacobian's maker and is tried with ours and with JAX's.
COMPOSITIONS: dict[str, Callable[[Any], Any]] = {
    "jit": lambda jac: jax.jit(jac(f))(X),
    "jit of f": lambda jac: jac(jax.jit(f))(X),
    "jit of a tree": lambda jac: jax.jit(jac(tree))(POINT),
    "vmap": lambda jac: jax.vmap(jac(f))(BATCH),
    "vmap over another axis": lambda jac: jax.vmap(jac(f), in_axes=1, out_axes=2)(BATCH.T),
    "vmap over a constant": lambda jac: jax.vmap(jac(lambda x, s: f(x) * s), (None, 0))(X, BATCH[:, 0]),
    "vmap over a closed-over array": lambda jac: jax.vmap(lambda s: jac(lambda x: f(x) * s)(X))(BATCH[:, 0]),
    "vmap of vmap": lambda jac: jax.vmap(jax.vmap(jac(f)))(BATCH.reshape(2, 2, 3)),
    "vmap of f": lambda jac: jac(jax.vmap(f))(BATCH[:2]),
    "jit of vmap": lambda jac: jax.jit(jax.vmap(jac(f)))(BATCH),
    "vmap of jit": lambda jac: jax.vmap(jax.jit(jac(f)))(BATCH),
    "grad": lambda jac: jax.grad(lambda x: jnp.sum(jac(f)(x) ** 2))(X),
    "grad by a closed-over array": lambda jac: jax.grad(lambda s: jnp.sum(jac(lambda x: f(x) * s)(X) ** 2))(2.0),
    "grad by another argument": lambda jac: jax.grad(lambda s: jnp.sum(jac(lambda x, s: f(x * s))(X, s) ** 2))(2.0),
    "jvp": lambda jac: jax.jvp(jac(f), (X,), (X,)),
    "vjp": lambda jac: jax.vjp(jac(f), X)[1](W),
    "linearize": lambda jac: jax.linearize(jac(f), X)[1](X),
    "jit of grad": lambda jac: jax.jit(jax.grad(lambda x: jnp.sum(jac(f)(x) ** 2)))(X),
    "scan": lambda jac: jax.lax.scan(lambda x, _: (x - 0.1 * jac(f)(x).T @ f(x), f(x)), X, None, 3),
    "grad of scan": lambda jac: jax.grad(
        lambda x: jnp.sum(jax.lax.scan(lambda x, _: (x - 0.1 * jac(f)(x).T @ f(x), None), x, None, 3)[0])
    )(X),
    "f is a scan": lambda jac: jac(lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c) * x, c), x, None, 3))(X),
    "cond": lambda jac: jax.lax.cond(X[0] > 0, jac(f), lambda x: 0 * jac(f)(x), X),
    "while": lambda jac: jax.lax.fori_loop(0, 3, lambda _, x: x - 0.1 * jac(f)(x).T @ f(x), X),
    "checkpoint": lambda jac: jax.grad(lambda x: jnp.sum(jax.checkpoint(jac(f))(x) ** 2))(X),
    "inside f": lambda jac: jac(lambda x: jac(lambda y: y * x)(x) @ x)(X),
    "inside f, by both": lambda jac: jac(lambda x: jac(lambda y: jnp.sin(x) * y**2)(x))(X),
    "jvp by its own input": lambda jac: jax.jvp(lambda t: jac(lambda x: f(t * x))(t * X), (1.5,), (1.0,)),
    "custom_jvp inside": lambda jac: jac(jax.nn.relu)(X),
    "eval_shape": lambda jac: jnp.array(jax.eval_shape(jac(f), X).shape),
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_composition(name: str) -> None:
    compose = COMPOSITIONS[name]
    expected = jax.jit(lambda: compose(jax.jacrev))()
    for mode in ("fwd", "rev"):
        assert_same(compose(functools.partial(jb.jacobian, mode=mode)), expected, 1e-4)
    assert_same(jax.jit(lambda: compose(jb.jacobian))(), expected, 1e-4)


@pytest.mark.parametrize("name", ["jit", "vmap", "grad", "vmap of f", "inside f"])
@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_composition_in_chunks(name: str, mode: Mode) -> None:
    # In chunks that do not divide.
    compose = COMPOSITIONS[name]
    expected = compose(jax.jacrev)
    actual = jax.jit(lambda: compose(lambda f: jb.jacobian(f, mode=mode, chunk_size=2)))()
    assert_same(actual, expected, 1e-4)


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_a_loop_of_chunks_composes(mode: Mode) -> None:
    # More chunks than are written out: a loop, which must be differentiable forward and vmappable.
    x = jnp.linspace(-1, 1, 40)
    g = lambda x: jnp.sin(x) * x[::-1]
    J, K = jb.jacobian(g, mode=mode, chunk_size=1), jax.jacrev(g)
    assert_same(jax.jit(J)(x), K(x))
    assert_same(jax.vmap(J)(jnp.stack([x, 2 * x])), jax.vmap(K)(jnp.stack([x, 2 * x])))
    assert_same(jax.jvp(J, (x,), (x,)), jax.jvp(K, (x,), (x,)))
    # In reverse, too: what jax.grad can do through jacrev it must be able to do through ours.
    total = lambda J: jax.grad(lambda x: jnp.sum(J(x) ** 2))(x)
    assert_same(total(J), total(K), 1e-4)


@pytest.mark.parametrize("inner", MODES)
@pytest.mark.parametrize("outer", MODES)
def test_jacobian_of_jacobian(outer: Mode, inner: Mode) -> None:
    J = jb.jacobian(jb.jacobian(f, mode=inner), mode=outer)
    assert_same(J(X), jax.jacfwd(jax.jacrev(f))(X), 1e-4)


def test_three_deep() -> None:
    g = lambda x: jnp.sum(jnp.sin(x) * x[::-1])
    J = jb.jacobian(jb.jacobian(jb.jacobian(g)))
    assert_same(J(X), jax.jacfwd(jax.jacfwd(jax.jacrev(g)))(X), 1e-4)


def test_with_jax_s_jacobians_in_either_order() -> None:
    expected = jax.jacfwd(jax.jacrev(f))(X)
    for jac in (jax.jacfwd, jax.jacrev):
        assert_same(jac(jb.jacobian(f))(X), expected, 1e-4)
        assert_same(jb.jacobian(jac(f))(X), expected, 1e-4)


def test_gradients_by_what_is_not_differentiated() -> None:
    loss = lambda jac: lambda w: jnp.sum(jac(lambda p, x: tree({**p, "b": x}), 1)({"w": w}, X)["y"] ** 2)
    assert_same(jax.grad(loss(jb.jacobian))(W), jax.grad(loss(jax.jacrev))(W), 1e-4)


def test_with_value_and_aux_under_transformations() -> None:
    g = lambda x: (f(x), {"aux": jnp.sum(x), "name": "kept"})
    run = jb.jacobian(g, has_aux=True).with_value
    (y, aux), J = jax.vmap(lambda x: (lambda r: ((r[0][0], r[0][1]["aux"]), r[1]))(run(x)))(BATCH)
    assert_same([y, aux, J], [jax.vmap(f)(BATCH), jnp.sum(BATCH, 1), jax.vmap(jax.jacrev(f))(BATCH)])


def test_batch_jacobian_and_hessian_under_transformations() -> None:
    batched = lambda x: jnp.tanh(x @ W.T)
    expected = jax.vmap(jax.jacrev(lambda x: jnp.tanh(W @ x)))(BATCH)
    assert_same(jax.jit(jb.batch_jacobian(batched))(BATCH), expected)
    twice = jnp.stack([BATCH, BATCH])
    assert_same(jax.vmap(jb.batch_jacobian(batched))(twice), jnp.stack([expected, expected]))
    energy = lambda x: jnp.sum(jnp.tanh(W @ x)) ** 2
    each = lambda hessian: jax.jit(jax.vmap(hessian(energy)))(BATCH)
    assert_same(each(jb.hessian), each(jax.hessian), 1e-4)
    slope = lambda hessian: jax.jit(jax.grad(lambda x: jnp.trace(hessian(energy)(x))))(X)
    assert_same(slope(jb.hessian), slope(jax.hessian), 1e-3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [3, 40])
def test_double_precision_and_strict_promotion_together(mode: Mode, n: int) -> None:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        for dtype in (jnp.float32, jnp.float64):
            x = jnp.linspace(-1, 1, n, dtype=dtype)
            g = lambda x: jnp.sin(x) * x[::-1]
            expected = jax.jacrev(g)(x)
            for chunk_size in (None, 2):  # 40 in chunks of 2: in a loop
                assert_same(jb.jacobian(g, mode=mode, chunk_size=chunk_size)(x), expected)


def test_precision_may_change_between_two_calls_of_one_object() -> None:
    J = jb.jacobian(lambda x: jnp.sin(x))
    for wide in (False, True, False):
        with jax.enable_x64(wide):
            x = jnp.asarray([0.1, 0.2])
            assert J(x).dtype == (jnp.float64 if wide else jnp.float32)
            np.testing.assert_allclose(J(x), np.diag(np.cos([0.1, 0.2])), rtol=1e-14 if wide else 1e-6)


def test_matmul_precision_and_debug_nans_are_obeyed() -> None:
    with jax.default_matmul_precision("float32"):
        assert_same(jb.jacobian(f)(X), jax.jacrev(f)(X))
    with jax.debug_nans(True):
        assert_same(jb.jacobian(f)(X), jax.jacrev(f)(X))
        with pytest.raises(FloatingPointError):
            jb.jacobian(lambda x: jnp.sqrt(x))(-X)


def test_leaked_tracers_there_are_none() -> None:
    with jax.checking_leaks():
        J, aux = jax.jit(jb.jacobian(lambda x: (jnp.sin(x), x), has_aux=True))(X)
    assert_same((J, aux), (jnp.diag(jnp.cos(X)), X))


# Several devices --------------------------------------------------------------------------------------------

SHARDED = """
import jax, jax.numpy as jnp, numpy as np
import jaxobian as jb
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

assert jax.device_count() == 2
mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
w = jnp.array([0.3, -1.2, 2.0])
x = jnp.arange(12.0).reshape(4, 3) / 7
wide = jnp.linspace(-1, 1, 40)

@jax.custom_vjp
def pulled(x): return jnp.sin(x)
pulled.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (jnp.cos(x) * g,))

def pushed(x):
    return jax.lax.while_loop(lambda c: jnp.sum(c[0]) < 3, lambda c: (c[0] + 1, c[1] * 1.5), (0, x))[1]

def sharded(local, *args, specs, out=P("d")):
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=out)(*args)

def same(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, expected)

def check(name, local, *args, **where):
    expected = jax.jit(lambda: sharded(local(jax.jacfwd), *args, **where))()
    for mode in ("fwd", "rev"):
        for chunk_size in (None, 2):
            ours = local(lambda f: jb.jacobian(f, mode=mode, chunk_size=chunk_size))
            same(jax.jit(lambda: sharded(ours, *args, **where))(), expected)
    print("ok", name, flush=True)

R, V = P(), P("d")
# A replicated input of a varying output: each device's own derivative, as jacfwd has it, in every mode.
own = lambda jac: lambda w, x: jac(lambda w: jnp.tanh(x * w))(w)
check("replicated to varying", own, w, x, specs=(R, V))
eager = sharded(own(jb.jacobian), w, x, specs=(R, V))
same(eager, jax.jit(lambda: sharded(own(jax.jacfwd), w, x, specs=(R, V)))())
check("a loop of chunks", lambda jac: lambda w, x: jac(lambda w: x[:, :1] * w)(w), wide, x, specs=(R, V))
check("varying to varying", lambda jac: lambda x: jac(lambda x: jnp.sin(x) * x[::-1])(x), x, specs=V)
check("replicated to replicated", lambda jac: lambda w: jac(jnp.sin)(w), w, specs=R, out=R)
leaves = lambda jac: lambda w, x: jac(lambda p: {"y": jnp.tanh(p["x"] @ p["w"])})({"w": w, "x": x})
check("one leaf of two replicated", leaves, w, x, specs=(R, V))

turns = lambda c: lambda jac: lambda w, x: jac(lambda w: pushed(c(x * w)))(w)
same(
    jax.jit(lambda: sharded(turns(pulled)(jb.jacobian), w, x, specs=(R, V)))(),
    jax.jit(lambda: sharded(turns(jnp.sin)(jax.jacfwd), w, x, specs=(R, V)))(),
)
print("ok modes in turn", flush=True)

# shard_map inside f, and sharded arrays outside any: same values.
inside = jax.shard_map(lambda x: jnp.tanh(x) * jax.lax.psum(x, "d"), mesh=mesh, in_specs=V, out_specs=V)
placed = jax.device_put(x, NamedSharding(mesh, V))
for g in (inside, lambda x: jnp.tanh(x @ x.T)):
    for mode in ("fwd", "rev"):
        same(jb.jacobian(g, mode=mode)(placed), jax.jacrev(g)(x))
print("ok sharded arrays", flush=True)
for y in (x, placed, x):  # what is kept between calls does not confuse placements
    same(jb.jacobian(jnp.sin)(y), jax.jacrev(jnp.sin)(x))
there = jax.device_put(x, jax.devices()[1])
assert jb.jacobian(jnp.sin)(there).devices() == {jax.devices()[1]}
print("done", flush=True)
"""


def test_several_devices() -> None:
    path = os.pathsep.join(filter(None, [str(Path(jb.__file__).parents[1]), os.getenv("PYTHONPATH")]))
    devices = "--xla_force_host_platform_device_count=2"
    env = {**os.environ, "XLA_FLAGS": devices, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    command = [sys.executable, "-W", "error", "-c", SHARDED]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("done\n"), done.stdout + done.stderr[-3000:]


CALLBACK = """
import jax, jax.numpy as jnp, numpy as np, jaxobian as jb

def slope(x, t):
    return np.cos(x) * t  # of JAX arrays: an operation of JAX, while others are queued

@jax.custom_jvp
def sine(x):
    return jnp.sin(x)

@sine.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    return jnp.sin(x), jax.pure_callback(slope, jax.typeof(x), x, t, vmap_method="sequential")

W = np.random.default_rng(0).standard_normal((300, 300)).astype("float32")
make = lambda sine: lambda x: jnp.stack([W @ sine(jnp.tanh(W @ x)), W @ jnp.sin(sine(W @ x))])
x = jnp.linspace(0, 1, 300)
plan, expected = jb.jacobian(make(sine), mode="fwd", chunk_size=2).plan(x), jax.jacfwd(make(jnp.sin))(x)
for _ in range(5):  # a race
    assert jnp.allclose(plan(x), expected, rtol=1e-2, atol=1e-2)
print("done", flush=True)
"""


def test_a_callback_may_use_jax_while_a_loop_of_chunks_runs_on_the_host() -> None:
    path = os.pathsep.join(filter(None, [str(Path(jb.__file__).parents[1]), os.getenv("PYTHONPATH")]))
    env, command = {**os.environ, "PYTHONPATH": path}, [sys.executable, "-c", CALLBACK]
    # Where it waits forever, it is ended.
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.endswith("done\n"), done.stdout + done.stderr[-3000:]


def _grown(x: Any) -> Any:
    return jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * jnp.cos(s[1]) + s[1]), (0, x))[1]


LOOPS: dict[str, Callable[[Any], Any]] = {
    "alone": _grown,
    "in a jit": lambda x: jax.jit(_grown)(x) * x,
    "in a scan": lambda x: jax.lax.scan(lambda c, _: (jnp.sin(_grown(c)), None), x, None, length=2)[0],
    "in a branch": lambda x: jax.lax.cond(x[0] > 0, _grown, jnp.sin, x),
    "in a checkpoint": lambda x: jax.checkpoint(_grown)(x) * 2,
    "one after the other": lambda x: _grown(jnp.cos(_grown(x))),
}


@pytest.mark.parametrize("name", LOOPS)
def test_derivatives_of_jacobians_of_loops_of_unknown_length(name: str) -> None:
    f, x = LOOPS[name], jnp.linspace(1.0, 2.0, 3)
    expected = jax.jvp(jax.jacfwd(f), (x,), (x,))
    assert_same(jax.jvp(jb.jacobian(f), (x,), (x,)), expected, 1e-4)
    assert_same(jax.jvp(jax.jit(jb.jacobian(f, chunk_size=1)), (x,), (x,)), expected, 1e-4)
