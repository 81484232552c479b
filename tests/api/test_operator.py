"""`J.at`: products equal `jax.jvp`, `jax.vjp` and products with `jax.jacrev`'s J; f is evaluated once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_same, compilations

import jaxobian as jb
from jaxobian.testing._scenario import normal

X = normal(3)
M = normal(2, 3, seed=1)
Z = X + 1j * normal(3, seed=2)


def like(tree: Any, seed: int, lead: tuple[int, ...] = ()) -> Any:
    """Numbers like those of a tree."""
    rng = np.random.default_rng(seed)

    def leaf(x: Any) -> Any:
        real = rng.normal(size=(*lead, *jnp.shape(x)))
        made = real + 1j * rng.normal(size=real.shape) if jnp.iscomplexobj(x) else real
        return jnp.asarray(made, jnp.result_type(x))

    return jax.tree.map(leaf, tree)


# f, arguments, argnums
CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], Any]] = {
    "vector": (lambda x: jnp.sin(x) * x[::-1], (X,), 0),
    "number": (lambda x: x**3, (jnp.float32(2.0),), 0),
    "matrix to vector": (lambda m: jnp.tanh(m @ m.T)[0], (M,), 0),
    "tree to tree": (lambda p: {"y": p[0] * p[1][0], "z": (jnp.sum(p[1]),)}, ((X, M),), 0),
    "second argument": (lambda a, b: a @ jnp.cos(b), (M, X), 1),
    "tuple of argnums": (lambda a, b: (a @ jnp.cos(b), b), (M, X), (1, 0)),
    "None leaves": (lambda p: p["w"] ** 3, ({"w": X, "no": None},), 0),
    "unused leaf": (lambda p: p["a"] ** 2, ({"a": X, "b": X},), 0),
    "linear": (lambda x: M @ x, (X,), 0),
    "constant": (lambda x: jnp.ones(2), (X,), 0),
    "handed through": (lambda x: (x, x), (X,), 0),
    "scan": (lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c) * x, c), x, None, 3), (X,), 0),
    "custom_jvp": (lambda x: jax.nn.silu(x) @ M.T, (X,), 0),
    "solve": (lambda x: jnp.linalg.solve(3 * jnp.eye(3) + jnp.outer(x, x), x), (X,), 0),
    "gather": (lambda x: x[jnp.array([2, 0, 2])] ** 2, (X,), 0),
    "complex": (lambda z: jnp.exp(z) * z[::-1].conj(), (Z,), 0),
    "complex to real": (lambda z: jnp.abs(z) ** 2, (Z,), 0),
    "real to complex": (lambda x: x * Z, (X,), 0),
    "empty": (lambda x: x**2, (jnp.zeros(0),), 0),
}


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_products_are_jax_s(name: str, jitted: bool) -> None:
    f, args, argnums = CASES[name]
    numbers = argnums if isinstance(argnums, tuple) else (argnums,)

    def g(*xs: Any) -> Any:
        every = list(args)
        for k, x in zip(numbers, xs, strict=True):
            every[k] = x
        return f(*every)

    xs = tuple(args[k] for k in numbers)
    op = (jax.jit(jb.jacobian(f, argnums).at) if jitted else jb.jacobian(f, argnums).at)(*args)
    call = (
        jax.jit(lambda op, way, v: getattr(op, way)(v), static_argnums=1)
        if jitted
        else lambda o, w, v: getattr(o, w)(v)
    )
    bare = lambda tree: tree if isinstance(argnums, tuple) else tree[0]
    y, pull = jax.vjp(g, *xs)
    v, u = like(xs, 3), like(y, 4)
    V, U = like(xs, 5, (2,)), like(y, 6, (2,))
    assert_same(op.value, y)
    push = lambda v: jax.jvp(g, xs, v)[1]
    assert_same(call(op, "mv", bare(v)), push(v))
    assert_same(call(op, "rmv", u), bare(pull(u)))
    assert_same(call(op.T, "mv", u), bare(pull(u)))
    assert_same(call(op.T, "rmv", bare(v)), push(v))
    assert_same(call(op, "mm", bare(V)), jax.vmap(push)(V))
    assert_same(call(op, "rmm", U), bare(jax.vmap(pull)(U)))
    size = lambda tree: sum(jnp.size(leaf) for leaf in jax.tree.leaves(tree))
    assert op.shape == (size(y), size(xs))
    assert op.T.shape == op.shape[::-1]


@pytest.mark.parametrize("name", ["vector", "matrix to vector", "tree to tree", "tuple of argnums", "gather"])
@pytest.mark.parametrize("format", ["dense", "bcoo"])
def test_dense_is_j_and_its_transpose(name: str, format: Any) -> None:
    f, args, argnums = CASES[name]
    J = jb.jacobian(f, argnums, format=format)
    op = J.at(*args)
    full = lambda tree: jax.tree.map(
        lambda b: b.todense() if format == "bcoo" else b, tree, is_leaf=lambda b: hasattr(b, "todense")
    )
    expected = jax.jacrev(f, argnums)(*args)
    assert_same(full(op.dense()), expected)
    x, y = [args[k] for k in argnums] if isinstance(argnums, tuple) else args[argnums], op.value
    blocks, transposed = jax.tree.leaves(expected), jax.tree.leaves(full(op.T.dense()))
    n = len(jax.tree.leaves(x))
    for k, a in enumerate(jax.tree.leaves(y)):
        for i, b in enumerate(jax.tree.leaves(x)):
            turned = jnp.moveaxis(blocks[k * n + i], range(a.ndim), range(b.ndim, b.ndim + a.ndim))
            assert_same(transposed[i * len(jax.tree.leaves(y)) + k], turned)


def test_at_operators_and_numpy() -> None:
    f, _, _ = CASES["vector"]
    op, J = jb.jacobian(f).at(X), jax.jacrev(f)(X)
    v = like(X, 1)
    assert_same([op @ v, v @ op, np.asarray(v) @ op, op.T @ v], [J @ v, v @ J, v @ J, v @ J])
    assert_same(op @ np.asarray(v, np.float64), J @ v)  # which JAX takes for single precision
    assert_same(jb.jacobian(lambda x: x**2).at(3.0).mv(1), jnp.float32(6.0))
    assert repr(op) == "LinearizedJacobian(3 x 3)"
    assert repr(jb.jacobian(lambda x: x[:2]).at(X).T) == "LinearizedJacobian(3 x 2, transposed)"
    assert_same(op.diagonal(), jnp.diag(J))


# Once -------------------------------------------------------------------------------------------------------


def test_f_is_evaluated_once_for_many_products() -> None:
    calls = []

    def noted(x: Any) -> Any:
        calls.append(1)
        return np.sin(x)

    def f(x: Any) -> Any:
        scale = jax.pure_callback(noted, jax.ShapeDtypeStruct((), x.dtype), jax.lax.stop_gradient(x[0]))
        return jnp.sin(x) * scale

    op = jb.jacobian(f).at(X)
    for k in range(5):
        jax.block_until_ready((op.mv(like(X, k)), op.rmv(like(X, k)), op.mm(like(X, k, (2,)))))
    assert len(calls) == 1


def test_products_are_compiled_once_for_all_points() -> None:
    f = lambda x: jnp.sin(x) * x[::-1]  # traced anew, and yet the same
    product = jax.jit(lambda op, v: op.mv(v))
    for way in ("mv", "rmv", "mm"):
        getattr(jb.jacobian(f).at(X), way)(like(X, 0, (2,) * (way == "mm")))
    product(jb.jacobian(f).at(X), X)
    with compilations() as found:
        for k in range(3):
            op = jb.jacobian(f).at(X + k)
            op.mv(X)
            op.rmv(X)
            op.mm(like(X, k, (2,)))
            product(op, X)
    assert not [name for name in found if "add" not in name]  # X + k


def test_index_arrays_that_change_do_not_trace_anew() -> None:
    f = lambda x, labels: jnp.sin(x)[labels]
    traces = []

    @jax.jit
    def product(op: Any, v: Any) -> Any:
        traces.append(1)
        return op.mv(v)

    for labels in ([0, 1], [2, 2]):
        labels = jnp.array(labels)
        assert_same(product(jb.jacobian(f).at(X, labels), X), (jnp.cos(X) * X)[labels])
    assert len(traces) == 1


def test_two_functions_make_two_operators() -> None:
    first, second = jb.jacobian(jnp.sin).at(X), jb.jacobian(jnp.cos).at(X)
    assert jax.tree.structure(first) == jax.tree.structure(jb.jacobian(jnp.sin).at(2 * X))
    assert jax.tree.structure(first) != jax.tree.structure(second)
    assert jax.tree.structure(first) != jax.tree.structure(first.T)
    assert jax.tree.structure(first) != jax.tree.structure(jb.jacobian(jnp.sin, mode="fwd").at(X))


# Transformations --------------------------------------------------------------------------------------------


def test_operators_cross_jit_and_vmap() -> None:
    f = lambda x: jnp.tanh(M @ x)
    at = jb.jacobian(f).at
    many = normal(4, 3, seed=7)
    expected = jax.vmap(lambda x: jax.jvp(f, (x,), (X,))[1])(many)
    assert_same(jax.vmap(lambda x: at(x).mv(X))(many), expected)
    ops = jax.vmap(at)(many)
    assert_same(jax.vmap(lambda op: op.mv(X))(ops), expected)
    assert_same(jax.jit(jax.vmap(lambda op: op.dense()))(jax.jit(jax.vmap(at))(many)), jax.vmap(jax.jacrev(f))(many))
    carried, _ = jax.lax.scan(lambda v, x: (v + at(x).rmv(at(x).mv(v)), None), X, many)
    J = jax.vmap(jax.jacrev(f))(many)
    assert_same(carried, functools.reduce(lambda v, J: v + J.T @ (J @ v), J, X))


def test_products_can_be_differentiated() -> None:
    f = lambda x: jnp.sin(x) * jnp.sum(x**2)
    through = lambda x: jnp.sum(jb.jacobian(f).at(x).mv(X) ** 2) + jnp.sum(jb.jacobian(f).at(x).rmv(X))
    plain = lambda x: jnp.sum((jax.jacrev(f)(x) @ X) ** 2) + jnp.sum(X @ jax.jacrev(f)(x))
    assert_same(jax.grad(through)(X), jax.grad(plain)(X))
    assert_same(jax.jit(jax.hessian(through))(X), jax.hessian(plain)(X), rtol=1e-4)
    assert_same(jb.jacobian(lambda x: jb.jacobian(f).at(x).mv(X))(X), jax.jacrev(lambda x: jax.jacrev(f)(x) @ X)(X))


def test_without_jit_it_is_traced_all_the_same() -> None:
    with jax.disable_jit():
        op = jb.jacobian(lambda x: jax.lax.fori_loop(0, 2, lambda _, c: c * x, x)).at(X)
        assert_same(op.mv(X), 3 * X**3)


def test_under_shard_map() -> None:
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("i")

    @jax.shard_map(mesh=mesh, in_specs=(spec, jax.sharding.PartitionSpec()), out_specs=spec)
    def product(x: Any, v: Any) -> Any:
        op = jb.jacobian(jnp.sin).at(x)
        return op.mv(v) + op.rmv(v)

    assert_same(product(X, X), 2 * jnp.cos(X) * X)


def test_meshes_with_explicit_axes_are_refused() -> None:
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Explicit,))
    x = jax.device_put(X, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("i")))
    with pytest.raises(ValueError, match="Explicit axes yet"):
        jb.jacobian(jnp.sin).at(x)


# Options ----------------------------------------------------------------------------------------------------


def test_aux_keyword_arguments_and_methods() -> None:
    f = lambda x, *, power: (x**power, {"sum": jnp.sum(x), "name": "kept"})
    op = jb.jacobian(f, has_aux=True).at(X, power=3)
    assert op.aux["name"] == "kept"
    assert_same([op.value, op.aux["sum"], op.mv(X)], [X**3, jnp.sum(X), 3 * X**3])
    assert jb.jacobian(jnp.sin).at(X).aux is None

    class Model:
        scale = 2.0

        @functools.partial(jb.jacobian, argnums=1)
        def jacobian(self, x: Any) -> Any:
            return self.scale * x**2

    assert_same(Model().jacobian.at(X).mv(X), 4 * X**2)


def test_integers_have_no_derivative() -> None:
    f = lambda p: p["w"][p["i"]] ** 2
    p = {"w": X, "i": jnp.array([0, 2])}
    op = jb.jacobian(f, allow_int=True).at(p)
    none = np.zeros(2, jax.dtypes.float0)
    y, pull = jax.vjp(f, p)
    v = {"w": 2 * X, "i": none}
    assert_same(op.mv(v), jax.jvp(f, (p,), (v,))[1])
    assert_same(op.mv(v | {"i": jnp.zeros(2, int)}), op.mv(v))
    assert jax.tree.map(lambda x: x.dtype, op.rmv(y)) == jax.tree.map(lambda x: x.dtype, pull(y)[0])
    assert_same(op.rmv(y)["w"], pull(y)[0]["w"])
    assert op.rmm(jnp.stack([y, y, y]))["i"].shape == (3, 2)
    assert op.shape == (2, 3)
    assert_same(op.dense(), jax.jacrev(f, allow_int=True)(p))
    assert_same(op.to_scipy() @ np.asarray(2 * X), np.asarray(op.mv(v)))
    scalars: Any = jb.jacobian(lambda x, y: x**2 * y, argnums=(0, 1)).at(jnp.float32(3.0), jnp.float32(2.0)).to_scipy()
    np.testing.assert_allclose(scalars @ np.array([1.0, 10.0]), [102.0])
    with pytest.raises(ValueError, match=r"v\['i'\] has shape \(3,\); it stands for an integer of shape \(2,\)"):
        op.mv(v | {"i": np.zeros(3)})
    with pytest.raises(ValueError, match="no differentiated argument has a leaf with a derivative"):
        jb.jacobian(lambda i: 1.0 * i, allow_int=True).at(jnp.arange(3))


def test_a_hessian() -> None:
    f = lambda p: jnp.sum(jnp.tanh(p["w"] @ p["b"]))
    p = {"w": M, "b": X}
    op = jb.hessian(f).at(p)
    v = like(p, 1)
    expected = jax.jvp(jax.grad(f), (p,), (v,))[1]
    assert_same([op.value, op.mv(v), op.rmv(v), op.dense()], [f(p), expected, expected, jax.hessian(f)(p)])
    op = jb.hessian(lambda x: (jnp.stack([jnp.prod(x), x[0]]), {"a": x[1]}), has_aux=True).at(X)
    assert_same([op.value, op.aux["a"]], [jnp.stack([jnp.prod(X), X[0]]), X[1]])
    assert_same(op.mv(X), jax.hessian(lambda x: jnp.stack([jnp.prod(x), x[0]]))(X) @ X)


@pytest.mark.parametrize(("in_axes", "out_axes"), [(0, 0), (1, -1)])
def test_a_batch(in_axes: int, out_axes: int) -> None:
    one = lambda x: jnp.sin(x[:2]) * x[2]
    f = jax.vmap(one, in_axes, out_axes)
    X = normal(4, 3)
    x = jnp.moveaxis(X, 0, in_axes)
    J = jb.batch_jacobian(f, in_axes=in_axes, out_axes=out_axes)
    op = J.at(x)
    v = like(x, 1)
    assert_same([op.mv(v), op.dense()], [jax.jvp(f, (x,), (v,))[1], jax.vmap(jax.jacrev(one))(X)])
    assert op.shape == (8, 12)
    assert_same(op.T.dense(), jax.vmap(jax.jacrev(one))(X).swapaxes(1, 2))
    assert_same(jb.batch_jacobian(jnp.sin).at(X).diagonal(), jnp.cos(X))


def test_examples_that_are_coupled_or_shared_are_refused() -> None:
    with pytest.raises(jb.BatchCouplingError, match="coupled by reduce_sum"):
        jb.batch_jacobian(lambda x: x - x.sum(0)).at(M)
    with pytest.raises(ValueError, match=r"use jacobian\(f, argnums\)\.at"):
        jb.batch_jacobian(lambda p, x: x @ p, in_axes=(None, 0)).at(X, M)


# What cannot be done ----------------------------------------------------------------------------------------


def loop(x: Any) -> Any:
    return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * x), (0, x))[1]


@jax.custom_vjp
def cube(x: Any) -> Any:
    return x**3


def cube_backward(x: Any, g: Any) -> Any:
    return (3 * x**2 * g,)


cube.defvjp(lambda x: (x**3, x), cube_backward)


@pytest.mark.parametrize("jitted", [False, True])
def test_directions_that_are_impossible_are_refused_where_they_are_asked_for(jitted: bool) -> None:
    at = (lambda J: jax.jit(J.at)) if jitted else (lambda J: J.at)
    op = at(jb.jacobian(loop))(X)
    assert_same(op.mv(X), 4 * X**4)
    for call in (op.rmv, op.T.mv, op.T.__matmul__, lambda u: op.rmm(u[None]), jax.jit(op.rmv)):
        with pytest.raises(
            jb.ModeError,
            match=r"u J \(rmv, rmm\) needs reverse mode.* lax.while_loop \(test_operator.py:\d+\) runs a number",
        ) as found:
            call(X)
        assert "J v (mv, mm) works here." in str(found.value)
    assert_same(op.dense(), jnp.diag(4 * X**3))
    op = at(jb.jacobian(cube))(X)
    assert_same(op.rmv(X), 3 * X**3)
    for call in (op.mv, op.T.rmv, lambda v: op.mm(v[None]), jax.jit(op.mv)):
        with pytest.raises(
            jb.ModeError, match=r"needs forward mode.* \(backward rule cube_backward\) \(test_operator.py:\d+\)"
        ):
            call(X)
    op = at(jb.jacobian(lambda x: cube(loop(x))))(X)
    with pytest.raises(jb.ModeError, match="needs forward mode") as found:
        op.mv(X)
    assert "works here" not in str(found.value)


def test_vectors_that_do_not_fit_are_refused() -> None:
    op = jb.jacobian(lambda p: {"y": p["w"] @ p["b"]}).at({"w": M, "b": X})
    good = {"w": M, "b": X}
    with pytest.raises(TypeError, match=r"v must be like x, leaf for leaf: expected .*'b'.*'w'.*, got"):
        op.mv({"w": M})
    with pytest.raises(ValueError, match=r"v\['b'\] is f32\[2\]: expected f32\[3\], as args\[0\]\['b'\] is"):
        op.mv(good | {"b": X[:2]})
    with pytest.raises(TypeError, match=r"v\['b'\] is i32\[3\]: expected dtype float32.*v\['b'\].astype\(float32\)"):
        op.mv(good | {"b": jnp.arange(3)})
    with pytest.raises(TypeError, match=r"v\['b'\] must be f32\[3\], as args\[0\]\['b'\] is; got 'b' of type str"):
        op.mv(good | {"b": "b"})
    with pytest.raises(ValueError, match=r"u\['y'\] is f32\[3\]: expected f32\[2\], as f's output \['y'\] is"):
        op.rmv({"y": X})
    with pytest.raises(
        ValueError, match=r"U\['y'\] is f32\[2\]: expected f32\[2\] after a leading axis.*goes to mv, or rmv"
    ):
        op.rmm({"y": X[:2]})
    with pytest.raises(ValueError, match=r"V\['w'\] .* after a leading axis of 4, as the leaves before it"):
        op.mm({"w": jnp.zeros((5, 2, 3)), "b": jnp.zeros((4, 3))})
    with pytest.raises(ValueError, match="Several vectors, along a leading axis of every leaf, go to mm"):
        jb.jacobian(jnp.sin).at(X).__matmul__(jnp.zeros((2, 3)))


# SciPy ------------------------------------------------------------------------------------------------------


def test_scipy_solves_with_it() -> None:
    from scipy.sparse.linalg import gmres, lsqr, svds

    A = 4 * jnp.eye(6) + normal(6, 6)
    op = jb.jacobian(lambda x: A @ x + 0.1 * x**2).at(normal(6, seed=3))
    b = np.asarray(normal(6, seed=4))
    x, info = gmres(op.to_scipy(), b, rtol=1e-6)
    assert info == 0
    np.testing.assert_allclose(op.dense() @ jnp.asarray(x), b, atol=1e-4)
    tall = jb.jacobian(lambda p: {"y": jnp.tanh(p["w"] @ p["b"]), "z": p["b"] ** 2}).at({"w": M, "b": X})
    J = np.concatenate(
        [np.concatenate([b.reshape(len(b), -1) for b in row.values()], 1) for row in tall.dense().values()]
    )
    operator: Any = tall.to_scipy()
    assert (operator.shape, operator.dtype) == ((5, 9), np.float32)
    V, U = normal(9, 2), normal(5, 2)
    pairs: list[Any] = [
        (operator @ V, J @ V),
        (operator @ V[:, 0], J @ V[:, 0]),
        (operator @ V[:, :1], J @ V[:, :1]),
        (operator @ (1j * V[:, 0]), 1j * (J @ V[:, 0])),
        (operator.rmatvec(U[:, 0]), J.T @ U[:, 0]),
        (operator.H @ U, J.T @ U),
        (tall.T.to_scipy() @ U, J.T @ U),
    ]
    for got, expected in pairs:
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    u = np.asarray(U[:, 0])
    np.testing.assert_allclose(lsqr(operator, u)[0], np.linalg.lstsq(J, u)[0], atol=1e-3)
    np.testing.assert_allclose(svds(operator, 2)[1], np.sort(np.linalg.svd(J)[1])[-2:], rtol=1e-4)


def test_scipy_s_adjoint_of_complex_numbers_is_conjugated() -> None:
    f = lambda z: jnp.exp(z) * z[::-1]
    J = np.asarray(jax.jacrev(f, holomorphic=True)(Z))
    operator: Any = jb.jacobian(f, holomorphic=True).at(Z).to_scipy()
    np.testing.assert_allclose(operator.H @ np.asarray(Z), J.conj().T @ Z, rtol=1e-5)
    np.testing.assert_allclose(operator @ np.asarray(X), J @ X, rtol=1e-5)
    with pytest.raises(ValueError, match="pass holomorphic=True"):
        jb.jacobian(f).at(Z).to_scipy()


def test_scipy_needs_values_and_takes_short_numbers() -> None:
    with pytest.raises(ValueError, match="call it outside"):
        jax.jit(lambda x: jb.jacobian(jnp.sin).at(x).to_scipy().matvec(x))(X)
    operator: Any = jb.jacobian(jnp.sin).at(X.astype(jnp.bfloat16)).to_scipy()
    assert operator.dtype == np.float32
    np.testing.assert_allclose(operator @ np.ones(3), np.cos(X), atol=0.02)
