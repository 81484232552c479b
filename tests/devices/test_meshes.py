"""Meshes of 1 and 8 devices, with Auto and with Explicit axes: values as without a mesh, results where they belong.

`make test` runs this file in a process of its own, for JAX must be told of 8 devices before it starts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import sparse
from jax.sharding import AxisType, NamedSharding, auto_axes, reshard
from jax.sharding import PartitionSpec as P
from oracles import compilations

import jaxobian as jb

pytestmark = pytest.mark.devices

KINDS = {"explicit": AxisType.Explicit, "auto": AxisType.Auto}
HOW = {"eager": lambda f: f, "jit": jax.jit}
# Of one device, where less can go wrong, jit alone: it has types, and no placing after the fact.
MESHES = [(kind, n, how) for kind in KINDS for n, how in ((8, "eager"), (8, "jit"), (1, "jit"))]


@pytest.fixture(autouse=True)
def _there_are_eight_devices() -> None:
    if jax.device_count() < 8:
        pytest.fail("8 devices are needed: `make test`, or XLA_FLAGS=--xla_force_host_platform_device_count=8 pytest")


def mesh_of(kind: str, shape: tuple[int, ...]) -> jax.sharding.Mesh:
    names = ("b", "m")[: len(shape)]
    return jax.make_mesh(shape, names, (KINDS[kind],) * len(shape), devices=jax.devices()[: int(np.prod(shape))])


def put(x: Any, mesh: jax.sharding.Mesh, *spec: Any) -> jax.Array:
    return jax.device_put(x, NamedSharding(mesh, P(*(s for s in spec if s is None or s in mesh.axis_names))))


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


X, W = numbers(16, 4), numbers(4, 2)


def is_bcoo(leaf: Any) -> bool:
    return isinstance(leaf, sparse.BCOO)


def assert_same(actual: Any, expected: Any) -> None:
    def same(a: Any, b: Any) -> None:
        np.testing.assert_allclose(a.todense() if is_bcoo(a) else a, b, rtol=1e-4, atol=1e-5)

    jax.tree.map(same, actual, expected, is_leaf=is_bcoo)


def spec_of(J: Any) -> P:
    """How a dense J is sharded, a None for each axis that is not."""
    spec = tuple(J.sharding.spec)
    return P(*((s[0] if isinstance(s, tuple) and len(s) == 1 else s) for s in spec), *[None] * (J.ndim - len(spec)))


# Functions of a matrix on every device and a batch divided among them ---------------------------------------------


def net(w: Any, x: Any) -> Any:
    return jnp.tanh(x @ w)


def spread(w: Any, x: Any) -> Any:
    """Neighbors along the axis that is not divided; three colors do for the four columns."""
    return jnp.sin(x[:, 1:]) * x[:, :-1] * w[0, 0]


def narrow(w: Any, x: Any) -> Any:
    return jnp.tanh(x @ w[:, :1]) * jnp.arange(1.0, 5)


def coupled(w: Any, x: Any) -> Any:
    return jnp.sin(x) * x.sum(0) * w.sum()


def beside(w: Any, x: Any) -> Any:
    return net(w, x), {"sum": x.sum(1), "name": w}


def one(f: Callable[..., Any], argnum: int) -> Callable[..., Any]:
    """The Jacobian of each example, written by hand."""

    def row(w: Any, x: Any) -> Any:
        return f(w, x[None])[0]

    return jax.vmap(jax.jacrev(row, argnum), in_axes=(None, 0))


class Call(NamedTuple):
    """A call of ours and the same by JAX, both of a matrix and a batch."""

    ours: Callable[..., Any]
    theirs: Callable[..., Any]


def loss(w: Any, x: Any) -> Any:
    return jnp.sum(net(w, x) ** 2)


CALLS = {
    "jacobian": Call(jb.jacobian(net, 1), jax.jacrev(net, 1)),
    "by both": Call(jb.jacobian(coupled, (0, 1)), jax.jacrev(coupled, (0, 1))),
    "elementwise": Call(lambda _, x: jb.jacobian(jnp.sin)(x), lambda _, x: jax.jacrev(jnp.sin)(x)),
    "linear": Call(lambda _, x: jb.jacobian(lambda x: 2 * x)(x), lambda _, x: jax.jacrev(lambda x: 2 * x)(x)),
    "fwd": Call(jb.jacobian(spread, 1, mode="fwd"), jax.jacrev(spread, 1)),
    "rev": Call(jb.jacobian(spread, 1, mode="rev"), jax.jacrev(spread, 1)),
    "colored": Call(jb.jacobian(spread, 1, mode="colored"), jax.jacrev(spread, 1)),
    "mixed": Call(jb.jacobian(narrow, 1, mode="mixed"), jax.jacrev(narrow, 1)),
    "bcoo": Call(jb.jacobian(spread, 1, format="bcoo"), jax.jacrev(spread, 1)),
    "bcoo fwd": Call(jb.jacobian(spread, 1, mode="fwd", format="bcoo"), jax.jacrev(spread, 1)),
    "bcoo rev": Call(jb.jacobian(spread, 1, mode="rev", format="bcoo"), jax.jacrev(spread, 1)),
    "bcoo colored": Call(jb.jacobian(spread, 1, mode="colored", format="bcoo"), jax.jacrev(spread, 1)),
    "bcoo mixed": Call(jb.jacobian(narrow, 1, mode="mixed", format="bcoo"), jax.jacrev(narrow, 1)),
    "chunks fwd": Call(jb.jacobian(coupled, 1, mode="fwd", chunk_size=1), jax.jacrev(coupled, 1)),
    "chunks rev": Call(jb.jacobian(coupled, 1, mode="rev", chunk_size=7), jax.jacrev(coupled, 1)),
    "batch": Call(jb.batch_jacobian(net, 1), one(net, 1)),
    "batch bcoo": Call(jb.batch_jacobian(spread, 1, format="bcoo"), one(spread, 1)),
    "batch mixed": Call(jb.batch_jacobian(narrow, 1, mode="mixed"), one(narrow, 1)),
    "examples": Call(jb.batch_jacobian(net, 0, in_axes=(None, 0)), one(net, 0)),
    "hessian": Call(jb.hessian(loss), jax.hessian(loss)),
    "hessian by x": Call(jb.hessian(loss, 1, format="bcoo"), jax.hessian(loss, 1)),
    "value": Call(jb.value_and_jacobian(net, 1), lambda w, x: (net(w, x), jax.jacrev(net, 1)(w, x))),
    "aux": Call(
        jb.jacobian(beside, 1, has_aux=True).with_value,
        lambda w, x: (beside(w, x), jax.jacrev(beside, 1, has_aux=True)(w, x)[0]),
    ),
    "plan": Call(lambda w, x: jb.jacobian(net, 1).plan(w, x)(w, x), jax.jacrev(net, 1)),
    "plan of a batch": Call(lambda w, x: jb.batch_jacobian(net, 1).plan(w, x)(w, x), one(net, 1)),
    "plan of examples": Call(
        lambda w, x: jb.batch_jacobian(net, 0, in_axes=(None, 0)).plan(w, x)(w, x), one(net, 0)
    ),
    "under vmap": Call(jax.vmap(jb.jacobian(net, 1), (None, 0)), jax.vmap(jax.jacrev(net, 1), (None, 0))),
    "inside itself": Call(
        lambda w, x: jb.jacobian(jb.jacobian(spread, 1), 1)(w, x[:, :3]),
        lambda w, x: jax.jacrev(jax.jacrev(spread, 1), 1)(w, x[:, :3]),
    ),
}  # fmt: skip


@functools.cache
def expected(name: str) -> Any:
    return CALLS[name].theirs(W, X)


@pytest.mark.parametrize(("kind", "n", "how"), MESHES)
@pytest.mark.parametrize("name", CALLS)
def test_values_are_those_without_a_mesh(name: str, kind: str, n: int, how: str) -> None:
    mesh = mesh_of(kind, (n,))
    w, x = put(W, mesh), put(X, mesh, "b")
    assert_same(HOW[how](CALLS[name].ours)(w, x), expected(name))


@pytest.mark.parametrize("name", CALLS)
def test_values_are_the_same_where_the_mesh_is_set(name: str) -> None:
    mesh = mesh_of("explicit", (4, 2))
    w, x = put(W, mesh), put(X, mesh, "b")
    with jax.set_mesh(mesh):
        for run in HOW.values():
            assert_same(run(CALLS[name].ours)(w, x), expected(name))


@pytest.mark.parametrize("how", HOW)
def test_a_set_mesh_changes_no_value_of_arrays_that_are_not_on_it(how: str) -> None:
    with jax.set_mesh(mesh_of("explicit", (8,))):
        assert_same(HOW[how](jb.jacobian(net, 1))(W, X), expected("jacobian"))
        assert_same(HOW[how](jb.hessian(loss))(W, X), expected("hessian"))


def test_closed_over_arrays_may_be_on_the_mesh() -> None:
    x = put(X, mesh_of("explicit", (8,)), "b")
    for run in HOW.values():
        assert_same(run(jb.jacobian(lambda w: net(w, x)))(W), jax.jacrev(net)(W, X))
        assert_same(run(jb.jacobian(jax.jit(lambda y: y * x)))(x), jax.jacrev(lambda y: y * X)(X))


def test_an_axis_may_be_divided_among_two_axes_of_the_mesh() -> None:
    mesh = mesh_of("explicit", (4, 2))
    x = put(X, mesh)
    for spec in (P(("b", "m")), P("m", "b"), P(None, "m")):
        placed = jax.device_put(x, NamedSharding(mesh, spec))
        for run in HOW.values():
            assert_same(run(jb.jacobian(coupled, 1))(put(W, mesh), placed), jax.jacrev(coupled, 1)(W, X))


# Where results are ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_is_divided_gives_jacobians_that_are(kind: str, how: str) -> None:
    mesh = mesh_of(kind, (8,))
    w, x = put(W, mesh), put(X, mesh, "b")
    for J in (jb.batch_jacobian(net, 1), jb.batch_jacobian(net, 0, in_axes=(None, 0))):
        assert spec_of(HOW[how](J)(w, x))[0] == "b"
        text = jax.jit(J).lower(w, x).compile().as_text()
        assert text is not None
        assert not [word for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute") if word in text]


@pytest.mark.parametrize("how", HOW)
def test_axes_of_j_are_divided_as_those_of_y_and_x_that_they_come_from(how: str) -> None:
    mesh = mesh_of("explicit", (4, 2))
    w, x = put(W, mesh, None, "m"), put(X, mesh, "b")
    for mode in ("auto", "fwd", "rev"):
        by_w, by_x = HOW[how](jb.jacobian(net, (0, 1), mode=mode))(w, x)
        assert spec_of(by_w) == jax.typeof(by_w).sharding.spec == P("b", "m", None, None)  # "m" stays with y
        assert spec_of(by_x) == jax.typeof(by_x).sharding.spec == P("b", "m", None, None)
    (y, aux), J = HOW[how](jb.jacobian(beside, has_aux=True).with_value)(w, x)
    assert [spec_of(v) for v in (y, aux["sum"], aux["name"])] == [P("b", "m"), P("b"), P(None, "m")]
    assert mesh.axis_types == J.sharding.mesh.axis_types
    product = jnp.einsum("bmij,ij->bm", J, w, out_sharding=NamedSharding(mesh, P("b", "m")))
    assert_same(product, np.einsum("bmij,ij->bm", jax.jacrev(net)(W, X), W))


def test_arguments_are_not_copied_and_nothing_compiles_twice() -> None:
    mesh = mesh_of("explicit", (8,))
    w, x = put(W, mesh), put(X, mesh, "b")
    calls = [CALLS[name].ours for name in ("batch", "examples", "chunks fwd", "hessian", "bcoo")]
    for call in calls:
        call(w, x)
    with compilations() as found:
        for call in calls:
            call(w, x)
    assert not found


# f that says itself how arrays are sharded ------------------------------------------------------------------------


@jax.custom_vjp
def pulled(x: Any) -> Any:
    return jnp.sin(x)


pulled.defvjp(
    lambda x: (jnp.sin(x), reshard(jnp.cos(x), P("b"))),
    lambda cos, g: (reshard(cos * g, P("b")),),
)


@jax.custom_jvp
def pushed(x: Any) -> Any:
    return jnp.sin(x)


pushed.defjvp(lambda x, t: (jnp.sin(x[0]), reshard(jnp.cos(x[0]), P("b")) * t[0]))


def manual(x: Any) -> Any:
    return jax.shard_map(lambda x: jnp.sin(x) * lax.psum(x, "b"), in_specs=P("b"), out_specs=P("b"))(x)


def scanned(x: Any) -> Any:
    def step(c: Any, _: Any) -> Any:
        return reshard(jnp.sin(c), P("b")), c.sum(1)

    return lax.scan(step, x, None, length=2)[1]


class Typed(NamedTuple):
    """A function that only an Explicit mesh knows, and one of the same values that knows none."""

    f: Callable[..., Any]
    plain: Callable[..., Any]


TYPED = {
    "out_sharding": Typed(lambda x: jnp.dot(x.T, x, out_sharding=P("m")), lambda x: x.T @ x),
    "reshard": Typed(lambda x: reshard(jnp.sin(reshard(x, P())), P(None, "m")) * 2, lambda x: jnp.sin(x) * 2),
    "gathered": Typed(lambda x: x.at[np.array([3, 0])].get(out_sharding=P()) ** 2, lambda x: x[np.array([3, 0])] ** 2),
    "auto_axes": Typed(
        lambda x: auto_axes(lambda x: jnp.cumsum(x, 0), out_sharding=P("b"))(x) * x, lambda x: jnp.cumsum(x, 0) * x
    ),
    "custom_vjp": Typed(lambda x: pulled(x) * x[:, ::-1], lambda x: jnp.sin(x) * x[:, ::-1]),
    "custom_jvp": Typed(lambda x: pushed(x) * x[:, ::-1], lambda x: jnp.sin(x) * x[:, ::-1]),
    "shard_map": Typed(manual, lambda x: jnp.sin(x) * jnp.tile(x.reshape(4, 4, 4).sum(0), (4, 1))),
    "scan": Typed(scanned, lambda x: jnp.stack([x.sum(1), jnp.sin(x).sum(1)])),
    "cond": Typed(
        lambda x: lax.cond(x.sum() > 99, lambda x: reshard(x, P("b")), lambda x: reshard(x**2, P("b")), x),
        lambda x: x**2,
    ),
    "checkpoint": Typed(jax.checkpoint(lambda x: jnp.sin(reshard(jnp.sin(x), P("b")))), lambda x: jnp.sin(jnp.sin(x))),
}


@pytest.mark.parametrize("name", TYPED)
def test_f_may_speak_of_shardings(name: str) -> None:
    f, plain = TYPED[name]
    mesh = mesh_of("explicit", (4, 2))
    reference = jax.jacrev(plain)(X)
    with jax.set_mesh(mesh):
        x = put(X, mesh, "b")
        assert_same(jb.jacobian(f)(x), reference)
        for mode in ("rev",) if name == "custom_vjp" else ("fwd", "rev"):
            assert_same(jax.jit(jb.jacobian(f, mode=mode))(x), reference)


@pytest.mark.parametrize("name", ["custom_vjp", "custom_jvp", "checkpoint"])
def test_f_of_a_batch_may_speak_of_shardings(name: str) -> None:
    f, plain = TYPED[name]
    mesh = mesh_of("explicit", (4, 2))
    with jax.set_mesh(mesh):
        x, few = put(X, mesh, "b"), put(X[:4], mesh, "b")
        for run in HOW.values():
            assert_same(run(jb.batch_jacobian(f))(x), one(lambda _, x: plain(x), 1)(W, X))
            assert_same(run(jb.hessian(lambda x: f(x).sum()))(few), jax.hessian(lambda x: plain(x).sum())(X[:4]))


@pytest.mark.parametrize("names", [{"b"}, {"b", "m"}], ids=["in part", "in all"])
@pytest.mark.parametrize("kind", KINDS)
def test_inside_shard_map(kind: str, names: set[str]) -> None:
    mesh = mesh_of(kind, (4, 2))

    def mapped(jac: Callable[..., Any]) -> Callable[..., Any]:
        def local(w: Any, x: Any) -> Any:
            return jac(lambda w: net(w, x).sum(0))(w)

        return jax.shard_map(local, mesh=mesh, in_specs=(P(), P("b")), out_specs=P("b"), axis_names=names)

    w, x = put(W, mesh), put(X, mesh, "b")
    reference = jax.jit(mapped(jax.jacfwd))(w, x)
    for mode in ("fwd", "rev"):
        assert_same(jax.jit(mapped(functools.partial(jb.jacobian, mode=mode)))(w, x), reference)
    if kind == "explicit":
        assert_same(mapped(jb.jacobian)(w, x), reference)


# What surrounds a call, and what is made without one --------------------------------------------------------------


def test_derivatives_and_copies_of_jacobians() -> None:
    mesh = mesh_of("explicit", (8,))
    x = put(X, mesh, "b")

    def total(jac: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x: jnp.sum(jac(lambda x: jnp.sin(x) * x[:, ::-1])(x) ** 2)

    assert_same(jax.jit(jax.grad(total(jb.jacobian)))(x), jax.grad(total(jax.jacrev))(X))
    rows = jax.vmap(jb.jacobian(lambda x: 2 * x))(x)
    assert_same(rows, jax.vmap(jax.jacrev(lambda x: 2 * x))(X))
    blocks = jax.vmap(jb.jacobian(jnp.sin, format="bcoo"))(x)
    assert blocks.data.sharding.mesh.axis_types == blocks.indices.sharding.mesh.axis_types == mesh.axis_types


def test_a_plan_runs_on_arrays_that_are_placed_otherwise() -> None:
    mesh = mesh_of("explicit", (8,))
    x, reference = put(X, mesh, "b"), jax.jacrev(jnp.sin)(X)
    there = jb.jacobian(jnp.sin).plan(jax.ShapeDtypeStruct(X.shape, X.dtype, sharding=x.sharding))
    for plan in (jb.jacobian(jnp.sin).plan(X), there, there.tune(x)):
        assert_same(plan(X), reference)
        assert_same(plan(x), reference)
        assert isinstance(plan(x).sharding, NamedSharding)
    assert spec_of(there(x)) == P("b", None, None, None)


@pytest.mark.parametrize("set_mesh", [False, True])
def test_patterns_couplings_and_explanations_are_those_without_a_mesh(set_mesh: bool) -> None:
    mesh = mesh_of("explicit", (8,))
    w, x = put(W, mesh), put(X, mesh, "b")
    plain = jb.sparsity(spread, W, X, argnums=1)
    with jax.set_mesh(mesh) if set_mesh else nullcontext():
        np.testing.assert_array_equal(jb.sparsity(spread, w, x, argnums=1).todense(), plain.todense())
        assert str(jb.jacobian(net, 1).plan(w, x)) == str(jb.jacobian(net, 1).plan(W, X))
        with pytest.raises(jb.BatchCouplingError, match="example 1 of the output changes with example 0"):
            jb.batch_jacobian(coupled, 1)(w, x)
