"""Sparsity patterns hold every nonzero of the dense Jacobian; for most primitives they hold nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax
from jax.experimental import sparse as jax_sparse
from jax.experimental.ode import odeint

import jaxobian as jb
from jaxobian._request import Format, Mode
from jaxobian.testing._networks import avg_pool, conv, max_pool
from jaxobian.testing._scenario import normal, weights

N = 12
X = normal(N)


@jax.custom_vjp
def backward_only(x: Array) -> Array:
    return jnp.sin(x) * jnp.roll(x, 1)


backward_only.defvjp(lambda x: (backward_only(x), x), lambda x, g: (g * jnp.cos(x) + jnp.roll(g, -2),))


@jax.custom_jvp
def straight_through(x: Array) -> Array:
    return jnp.round(x)


straight_through.defjvp(lambda p, t: (straight_through(*p), t[0]))

IMAGE = normal(1, 6, 5, 2)
SPARSE = jax_sparse.BCOO.fromdense(jnp.eye(N) + jnp.eye(N, k=2))
MATRIX = normal(4, 4) + 4 * jnp.eye(4)

# name: (function, argument, whether the pattern is just what is nonzero)
CASES: dict[str, tuple[Callable[..., Any], Any, bool]] = {
    "elementwise": (lambda x: jnp.sin(x) * x**2, X, True),
    "roll": (lambda x: x * jnp.roll(x, 1) + jnp.roll(x, -1), X, True),
    "scalar": (lambda x: x[0] * x, X, True),
    "broadcast": (lambda x: x.reshape(3, 4)[:, :1] * x.reshape(3, 4), X, True),
    "transposed": (lambda x: x.reshape(3, 4).T * jnp.arange(3.0), X, False),
    "reduction": (lambda x: x.reshape(3, 4).sum(1), X, True),
    "maximum": (lambda x: x.reshape(3, 4).max(1), X, False),
    "product": (lambda x: jnp.prod(x.reshape(3, 4), 1), X, False),
    "cumulative": (lambda x: jnp.cumsum(x**2), X, True),
    "cumulative backwards": (lambda x: lax.cumsum(x.reshape(3, 4), 1, reverse=True), X, True),
    "sort": (lambda x: jnp.sort(x.reshape(3, 4), 1), X, False),
    "fft": (lambda x: jnp.abs(jnp.fft.fft(x.reshape(3, 4))), X, True),
    "softmax": (lambda x: jax.nn.softmax(x.reshape(3, 4)), X, True),
    "solve": (lambda x: jnp.linalg.solve(MATRIX, x.reshape(4, 3)), X, True),
    "cholesky": (lambda x: jnp.linalg.cholesky(MATRIX @ MATRIX.T + jnp.diag(x[:4] ** 2)), X, False),
    "tridiagonal": (lambda x: lax.linalg.tridiagonal_solve(x, 9 + x, x, x[:, None]), X, False),
    "gather": (lambda x: x[jnp.array([3, 1, 1, 7])] ** 2, X, True),
    "gather rows": (lambda x: x.reshape(3, 4)[jnp.array([2, 0])], X, True),
    "reshape in Fortran's order": (lambda x: x.reshape((3, 4), order="F") * jnp.arange(4), X, False),
    "an index in Fortran's order": (lambda x: x[jnp.arange(N).reshape(3, 4).reshape((4, 3), order="F")], X, True),
    "a mask in Fortran's order": (
        lambda x: jnp.where(jnp.arange(N).reshape(3, 4).reshape(N, order="F") < 5, x, 0.0), X, True),
    "a matrix in Fortran's order": (
        lambda x: lax.reshape(jnp.eye(N).reshape(N, 3, 4), (N, N), (0, 2, 1)) @ x, X, True),
    "gather by its value": (lambda x: x[jnp.argmax(x)] * x, X, False),
    "scatter-add": (lambda x: jnp.zeros(6).at[jnp.array([0, 1, 1, 5, 2, 2])].add(x[:6]) + x[6:], X, True),
    "scatter": (lambda x: x.at[jnp.array([0, 3])].set(x[5] * x[6]), X, True),
    "scatter, twice": (lambda x: x.at[jnp.array([0, 3, 0])].set(x[5:8] * x[6:9]), X, False),
    "dynamic update": (lambda x: lax.dynamic_update_slice(x, x[:3] ** 2, (4,)), X, True),
    "pad": (lambda x: lax.pad(x, 0.0, ((-2, 3, 2),)), X, True),
    "slices": (lambda x: x.reshape(3, 4)[::2, 1::2], X, True),
    "stack": (lambda x: jnp.stack([x[:4], x[4:8] * x[8:]]), X, True),
    "split": (lambda x: [part**2 for part in jnp.split(x, 3)], X, True),
    "tile": (lambda x: jnp.tile(x, 3), X, True),
    "flip": (lambda x: x[::-1] * jnp.sin(x), X, True),
    "where": (lambda x: jnp.where(x > 0, x, jnp.roll(x, 1)), X, False),
    "known mask": (lambda x: jnp.where(jnp.arange(N) % 2 == 0, x, jnp.roll(x, 1)), X, True),
    "masked product": (lambda x: (jnp.tril(jnp.ones((N, N))) * x).sum(1), X, True),
    "banded product": (lambda x: (jnp.eye(N) + jnp.eye(N, k=1)) @ jnp.sin(x), X, True),
    "banded on the right": (lambda x: jnp.sin(x.reshape(3, 4)) @ (jnp.eye(4) + jnp.eye(4, k=1)), X, True),
    "convolution": (lambda x: jnp.tanh(conv(x, weights(3, 3, 2, 4, seed=1))), IMAGE, False),
    "convolution, strided": (
        lambda x: lax.conv_general_dilated(
            x, weights(4, 2, 3, 3, seed=1), (2, 1), ((1, 1), (0, 2)), (1, 2), (2, 1)
        ),
        normal(2, 2, 6, 5),
        True,
    ),
    "depthwise": (
        lambda x: lax.conv_general_dilated(
            x, weights(3, 3, 1, 2, seed=1), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        ),
        IMAGE,
        True,
    ),
    "by the kernel": (lambda k: conv(IMAGE, k), normal(3, 3, 2, 4), False),
    "max-pool": (max_pool, normal(1, 6, 4, 2), False),
    "average pool": (avg_pool, normal(1, 6, 4, 2), True),
    "gradient of a pool": (jax.grad(lambda x: (max_pool(x) ** 2).sum()), normal(1, 6, 4, 2), False),
    "scan, elementwise": (lambda x: lax.scan(lambda c, _: (jnp.sin(c), c), x, None, length=5), X, True),
    "scan, its slices": (lambda x: lax.scan(lambda c, v: (c + v, v * 2), jnp.zeros(3), x.reshape(4, 3)), X, True),
    "scan, spreading": (
        lambda x: lax.scan(lambda c, _: (c + 0.1 * jnp.roll(c, 1), None), x, None, length=3)[0], X, False,
    ),
    "scan, backwards": (
        lambda x: lax.scan(lambda c, v: (c * v, c), jnp.ones(3), x.reshape(4, 3), reverse=True)[1], X, False,
    ),
    "fori": (lambda x: lax.fori_loop(0, 3, lambda i, c: jnp.sin(c) + 0.1 * jnp.roll(c, 1), x), X, False),
    "while": (lambda x: lax.while_loop(lambda c: c.sum() < 100, lambda c: c * 1.5 + 1, x), X, True),
    "while, spreading": (
        lambda x: lax.while_loop(lambda c: c.sum() < 99, lambda c: jnp.abs(c) + 0.1 * jnp.roll(c, 1) + 1, x), X, False,
    ),
    "cond": (lambda x: lax.cond(x[0] > 0, lambda x: jnp.roll(x, 1) * 2, lambda x: x**2, x), X, False),
    "custom_jvp": (straight_through, X, True),
    "remat": (jax.checkpoint(lambda x: jnp.sin(jnp.roll(jnp.cos(x), 1))), X, True),
    "jit": (jax.jit(lambda x: jnp.cos(x[::-1])), X, True),
    "vmap": (jax.vmap(lambda x: x * x.sum()), X.reshape(3, 4), True),
    "igamma": (lambda x: jax.scipy.special.gammainc(1.5, jnp.abs(x)), X, True),
    "sparse product": (
        lambda x: SPARSE @ x, X, False,
    ),
    "odeint": (lambda x: odeint(lambda y, t: -y, x, jnp.array([0.0, 1.0]))[-1], X, False),
    "dense": (lambda x: jnp.tanh(weights(20, N, seed=1) @ x), X, True),
    "constant": (lambda x: jnp.ones(3), X, True),
    "complex": (lambda x: jnp.abs(jnp.exp(1j * x) + x), X, True),
    "empty": (lambda x: x[:0], X, True),
}  # fmt: skip


def nonzeros(f: Callable[..., Any], x: Any) -> np.ndarray:
    """Where the dense Jacobian is nonzero, at this point and at others nearby."""
    jac = jax.jacrev(f) if f is CASES["odeint"][0] else jax.jacfwd(f)
    found = None
    for factor in (1.0, 0.7, -1.1):
        leaves = [np.asarray(b).reshape(-1, x.size) for b in jax.tree.leaves(jac(factor * x))]
        here = np.concatenate(leaves) != 0
        found = here if found is None else found | here
    assert found is not None
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_pattern_holds_every_nonzero(name: str) -> None:
    f, x, exact = CASES[name]
    pattern = jb.sparsity(f, x)
    true = nonzeros(f, x)
    assert pattern.shape == true.shape
    dense = pattern.todense()
    assert not (true & ~dense).any(), "a nonzero is missing"
    if exact:
        np.testing.assert_array_equal(dense, true)


def test_custom_backward_rules_are_obeyed() -> None:
    true = np.asarray(jax.jacrev(backward_only)(X)) != 0
    np.testing.assert_array_equal(jb.sparsity(backward_only, X).todense(), true)


def test_values_that_may_change_are_taken_for_any_value() -> None:
    pattern = jb.sparsity(lambda x, i: x[i] * jnp.ones(3), X, jnp.array([1, 2, 3]))
    assert pattern.nnz == 3 * N  # i is an argument


def test_index_arrays_that_f_closes_over_are_known() -> None:
    for index in (np.array([3, 1]), jnp.array([3, 1])):
        pattern = jb.sparsity(lambda x, index=index: x[index], X)
        np.testing.assert_array_equal(pattern.todense(), np.eye(N, dtype=bool)[[3, 1]])


def test_a_kept_function_is_not_used_for_other_indices() -> None:
    def run(index: Array) -> Array:
        return jb.jacobian(lambda x: x[index] ** 2, mode="colored")(X)

    for index in (jnp.arange(N), jnp.arange(N)[::-1], jnp.roll(jnp.arange(N), 1)):
        expected = jax.jacrev(lambda x, index=index: x[index] ** 2)(X)
        np.testing.assert_allclose(run(index), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_where_elements_go_does_not_depend_on_their_dtype(dtype: Any) -> None:
    index = jnp.asarray(np.random.default_rng(0).permutation(600))
    for f in (lambda x: x[index], lambda x: jnp.zeros(600, dtype).at[index].add(x)):
        J = np.asarray(jax.jacfwd(f, holomorphic=dtype == jnp.complex64)(jnp.ones(600, dtype)).astype(jnp.complex64))
        np.testing.assert_array_equal(jb.sparsity(f, jnp.ones(600, dtype)).todense(), J != 0)


# What f makes of a complex constant whose zeros are known: purely imaginary, real, and mixed ones.
COMPLEX: dict[str, Callable[[Any, Any, Any], Any]] = {
    "matrix times vector": lambda xp, c, z: xp.diag(c) @ z,
    "vector times matrix": lambda xp, c, z: z @ (xp.roll(xp.diag(c), 1, 0) + xp.diag(c)),
    "batched product": lambda xp, c, z: jnp.einsum("bij,bj->bi", xp.stack([xp.diag(c[:3])] * 4), z.reshape(4, 3)),
    "convolution": lambda xp, c, z: lax.conv_general_dilated(
        z[None, None], xp.stack([c[:3], 0 * c[:3]])[:, None], (1,), "SAME"),
    "factor": lambda xp, c, z: c * (c != 0) * z,
    "matrix of real parts": lambda xp, c, z: xp.diag(c).real @ z.imag + (xp.diag(c).imag @ z.real) * 1j,
    "matrix made complex": lambda xp, c, z: (xp.diag(c.imag) * 1j) @ z,
    "select": lambda xp, c, z: jnp.where(xp.diag(c) != 0, xp.diag(c) * z, 0).sum(1),
    "scattered": lambda xp, c, z: jnp.zeros((N, N), z.dtype).at[jnp.arange(N), jnp.arange(N)].set(jnp.asarray(c)) @ z,
}  # fmt: skip


@pytest.mark.parametrize("name", COMPLEX)
@pytest.mark.parametrize("whose", ["made by f", "NumPy's", "JAX's"])
def test_complex_constants_keep_their_imaginary_part(name: str, whose: str) -> None:
    c = np.array([1j, -2j, 0, 1, 1 + 1j, 0, 3j, -1j, 2, 1j, -1, 1j], np.complex64)
    closed = jnp.asarray(c)

    def f(x: Array) -> Array:
        given = {"made by f": jnp.asarray(c.real) + 1j * jnp.asarray(c.imag), "NumPy's": c, "JAX's": closed}[whose]
        made = COMPLEX[name](np if whose == "NumPy's" else jnp, given, x * jnp.exp(1j * x)).reshape(-1)
        return jnp.concatenate([made.real, made.imag])

    true = jax.jacfwd(f)(X)
    assert not ((np.asarray(true) != 0) & ~jb.sparsity(f, X).todense()).any(), "a nonzero is missing"
    asked: list[tuple[Mode, Format]] = [("auto", "dense"), ("colored", "dense"), ("fwd", "dense"), ("auto", "bcoo")]
    for mode, format in asked:
        J: Any = jb.jacobian(f, mode=mode, format=format)(X)
        np.testing.assert_allclose(J.todense() if format == "bcoo" else J, true, atol=1e-5, err_msg=mode)


def test_several_arguments_and_outputs() -> None:
    f = lambda tree, y: {"a": tree["x"] * y[:3], "b": (y[1:], tree["x"].sum())}
    tree, y = {"x": normal(3)}, normal(5)
    pattern = jb.sparsity(f, tree, y, argnums=(0, 1))
    J = jax.jacfwd(f, (0, 1))(tree, y)
    rows = [(J["a"][0]["x"], J["a"][1]), (J["b"][0][0]["x"], J["b"][0][1]), (J["b"][1][0]["x"], J["b"][1][1])]
    true = np.concatenate([np.concatenate([np.asarray(b).reshape(-1, n) for b, n in zip(row, (3, 5), strict=True)], 1)
                           for row in rows])  # fmt: skip
    np.testing.assert_array_equal(pattern.todense(), true != 0)


def test_shapes_will_do() -> None:
    pattern = jb.sparsity(lambda x: x[1:] - x[:-1], jax.ShapeDtypeStruct((100_000,), jnp.float32))
    assert pattern.shape == (99_999, 100_000)
    assert pattern.nnz == 199_998
    assert repr(pattern) == "Pattern(99999 x 100000, 199998 nonzeros)"


def test_a_pattern_is_drawn() -> None:
    pytest.importorskip("matplotlib").use("Agg")
    ax = jb.sparsity(lambda x: jnp.cumsum(x), X).spy()
    assert "78 nonzeros" in ax.get_title()
    assert (jb.sparsity(jnp.sin, X).to_scipy().toarray() == np.eye(N)).all()
