"""What is the same for every x takes no pass: J(x) = F + R(x), with F exact and R without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax
from oracles import structure_of

import jaxobian as jb
from jaxobian._analysis import constant_part, elements
from jaxobian._cache import _kept, _Runs
from jaxobian._request import Format, Mode
from jaxobian.testing._scenario import normal, weights


def stencil(x: Array, kernel: Any, **params: Any) -> Array:
    kernel = jnp.stack([jnp.asarray(row, x.dtype) for row in kernel])[None, None]
    strides = params.pop("strides", (1, 1))
    return lax.conv_general_dilated(x[None, None], kernel, strides, params.pop("padding", "SAME"), **params)[0, 0]


def channels(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, (1,), "VALID", dimension_numbers=("NHC", "HIO", "NHC"))


LAPLACE = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
UNEVEN = ((1.0, 0.0, 3.0), (0.0, -4.0, 5.0))
PLACES = np.array([3, 0, 3, 5])

# Linear functions of a vector of 24, with factors that are known.
LINEAR: dict[str, Callable[[Array], Any]] = {
    "itself": lambda x: x,
    "elementwise": lambda x: 2 * x[:12] - x[12:] / 3 + (-x[::2]),
    "with a vector": lambda x: x * jnp.arange(24) - x / (1.0 + jnp.arange(24)),
    "broadcast": lambda x: x[:, None] * jnp.arange(3) + x[:3],
    "a number for all": lambda x: x[3] + x[:4],
    "moved": lambda x: jnp.roll(x.reshape(4, 6), 1, 0).T[::-1],
    "padded": lambda x: lax.pad(x, jnp.zeros((), x.dtype), ((2, -3, 1),)),
    "joined": lambda x: jnp.concatenate([x[3:7], 2 * x, x[:1]]),
    "stacked": lambda x: jnp.stack([x, jnp.roll(x, 2)], 1),
    "parts": lambda x: tuple(jnp.split(jnp.concatenate([x, x]), [7, 20])),
    "tiled": lambda x: jnp.tile(x, 3),
    "masked": lambda x: jnp.where(jnp.arange(24) % 3 == 0, 5 * x, x[::-1]),
    "triangle": lambda x: jnp.tril(jnp.outer(x, jnp.arange(24.0))),
    "sums": lambda x: (x.reshape(2, 3, 4).sum((0, 2)), x.sum(), x.reshape(4, 6).mean(0)),
    "looked up": lambda x: x[PLACES] + x[jnp.arange(4) * 2],
    "written": lambda x: x.at[PLACES].add(x[:4]).at[2:5].set(x[5:8]),
    "subtracted": lambda x: x.at[PLACES].subtract(2 * x[:4]),
    "sliced": lambda x: lax.dynamic_slice(x, (5,), (3,)) + lax.dynamic_update_slice(x, x[:2], (4,))[3:6],
    "product": lambda x: x.reshape(4, 6) @ (jnp.arange(18.0).reshape(6, 3) - 4),
    "product from the left": lambda x: jnp.eye(5, 4) @ x.reshape(4, 6),
    "batched product": lambda x: jnp.einsum("bij,bjk->bik", jnp.arange(18.0).reshape(2, 3, 3), x.reshape(2, 3, 4)),
    "stencil": lambda x: stencil(x.reshape(4, 6), LAPLACE),
    "uneven stencil": lambda x: stencil(x.reshape(4, 6), UNEVEN, strides=(1, 2), padding=((1, 2), (0, 1))),
    "wide stencil": lambda x: stencil(
        x.reshape(4, 6), LAPLACE, padding=((2, 1), (0, 3)), lhs_dilation=(2, 1), rhs_dilation=(1, 2)
    ),
    "channels": lambda x: channels(x.reshape(2, 4, 3), (jnp.arange(12.0) - 5).reshape(2, 3, 2).astype(x.dtype)),
    "windows": lambda x: lax.reduce_window(x.reshape(4, 6), 0.0, lax.add, (2, 3), (1, 2), "SAME"),
    "in another precision": lambda x: (x.astype(jnp.float32) * 0.5).astype(x.dtype),
}


def parts(f: Callable[..., Any], x: Array) -> tuple[np.ndarray, np.ndarray] | None:
    """F, and the pattern of R."""
    found = structure_of(f, x)
    columns = [np.arange(x.size)]
    taken = constant_part(found, columns, x.size, 10**6)
    if taken is None:
        return None
    numbers, program, _ = taken
    rows, _, _ = elements(found.part(program), columns, x.size)
    dense = lambda m, n: np.zeros((len(n.indptr) - 1, x.size), bool) if m is None else m.toarray()
    left = [dense(m, n) for m, n in zip(rows, numbers, strict=True)]
    return np.concatenate([m.toarray() for m in numbers]), np.concatenate(left)


def jacobian(f: Callable[..., Any], x: Array) -> np.ndarray:
    return np.concatenate([b.reshape(-1, x.size) for b in jax.tree.leaves(jax.jacfwd(f)(x))])


@pytest.mark.parametrize("name", LINEAR)
def test_linear_functions_are_fixed_as_a_whole(name: str, x64) -> None:
    f, x = LINEAR[name], normal(24).astype(jnp.float64)
    found = parts(f, x)
    assert found is not None
    np.testing.assert_allclose(found[0], jacobian(f, x), rtol=1e-14, atol=1e-14)
    assert not found[1].any()
    J = jb.jacobian(f, mode="colored")
    assert J.plan(x).passes == 0
    for a, b in zip(jax.tree.leaves(J(x)), jax.tree.leaves(jax.jacfwd(f)(x)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", LINEAR)
def test_what_is_added_is_all_that_takes_passes(name: str, x64) -> None:
    format = "dense" if len(name) % 2 else "bcoo"
    linear, x = LINEAR[name], normal(24).astype(jnp.float64)
    f = lambda x: (jax.tree.map(lambda y: y + jnp.sin(x[0]), linear(x)), x**3)
    J = jb.jacobian(f, mode="colored", format=format)
    assert J.plan(x).passes <= 2
    for at in (x, 3 * x - 1):
        actual = jax.tree.leaves(J(at), is_leaf=lambda b: hasattr(b, "todense"))
        for a, b in zip(actual, jax.tree.leaves(jax.jacfwd(f)(at)), strict=True):
            np.testing.assert_allclose(a.todense() if format == "bcoo" else a, b, rtol=1e-12, atol=1e-12)


SEMILINEAR: dict[str, tuple[Callable[..., Any], Array, int]] = {
    "reaction and diffusion": (lambda u: stencil(u, LAPLACE) + u - u**3, normal(9, 9), 1),
    "chain": (lambda x: jnp.roll(x, 1) - 2 * x + jnp.roll(x, -1) + jnp.exp(x), normal(40), 1),
    "residual": (lambda x: x[::-1] + jnp.sin(jnp.roll(x, 1)) * x, normal(40), 2),
    "through a product": (lambda x: jnp.roll(x, 5) + (x + jnp.roll(x, 1)) * jnp.roll(x, 3), normal(40), 4),
    "a loop is not looked into": (
        lambda x: x[::-1] + lax.fori_loop(0, 3, lambda _, h: h * jnp.sin(h), x),
        normal(40),
        1,
    ),
}


@pytest.mark.parametrize("name", SEMILINEAR)
@pytest.mark.parametrize(("format", "chunk_size"), [("dense", None), ("bcoo", 1)])
def test_stencils_take_no_pass(name: str, format: Format, chunk_size: int | None, x64) -> None:
    f, x, passes = SEMILINEAR[name]
    x = x.astype(jnp.float64)
    J = jb.jacobian(f, mode="colored", format=format, chunk_size=chunk_size)
    plan = J.plan(x)
    assert plan.passes == passes
    assert "do not depend on x" in str(plan)
    for run in (J, jax.jit(J), plan, lambda x: jax.vmap(J)(x[None])[0]):
        actual = run(x).todense() if format == "bcoo" else run(x)
        np.testing.assert_allclose(actual, jax.jacfwd(f)(x), rtol=1e-12, atol=1e-12)
    assert jb.sparsity(f, x).nnz == np.count_nonzero(jax.jacfwd(f)(x))


def test_what_depends_on_arguments_is_not_fixed() -> None:
    assert parts(jnp.sin, normal(5)) is None
    assert parts(lambda x: x * x, normal(5)) is None
    scale = normal(5)
    assert parts(lambda x: scale * x, normal(5)) is None  # an array that f closes over may change
    assert parts(lambda x: lax.fori_loop(0, 3, lambda _, h: 2 * h, x), normal(5)) is None


def test_only_what_reaches_the_output_untouched_is_fixed() -> None:
    x = normal(6)
    found = parts(lambda x: 2 * x + jnp.sin(x[::-1]) + 3 * jnp.roll(x, 1) * jnp.where(x > 0, 1.0, 2.0), x)
    assert found is not None
    numbers, left = found
    np.testing.assert_allclose(numbers, 2 * np.eye(6))
    np.testing.assert_array_equal(left, np.eye(6, dtype=bool)[::-1] | np.roll(np.eye(6, dtype=bool), 1, 0))


BANDED = np.diag(np.ones(29), 1) - 2 * np.eye(30) + np.diag(np.ones(29), -1)


def test_matrices_of_numpy_are_a_part_of_f() -> None:
    x = normal(30)
    f = lambda x: BANDED @ x + jnp.sin(x)
    assert jb.sparsity(f, x).nnz == 88
    plan = jb.jacobian(f, mode="colored").plan(x)
    assert plan.passes == 1
    np.testing.assert_allclose(plan(x), jax.jacfwd(f)(x), rtol=1e-6)
    weights = jnp.asarray(BANDED)  # these may change
    assert jb.sparsity(lambda x: weights @ x + jnp.sin(x), x).nnz == 900


@pytest.mark.parametrize("mode", ["auto", "colored", "fwd"])
def test_matrices_that_change(mode: Mode) -> None:
    x, matrix = normal(30), BANDED
    f = lambda x: (matrix @ x) * x + matrix @ x
    J = jb.jacobian(f, mode=mode)
    for k in range(8):
        matrix = np.roll(BANDED, k, 0) * (k + 1)
        np.testing.assert_allclose(J(x), jax.jacfwd(f)(x), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(J(x), jax.jacfwd(f)(x), rtol=1e-5, atol=1e-5)


def test_what_changes_often_is_no_longer_known() -> None:
    x, scale = normal(30), np.arange(30.0)
    f = lambda x: jnp.roll(x, 1) * scale + jnp.exp(x)
    J = jb.jacobian(f, mode="colored")
    _kept.clear()
    counts = []
    for k in range(9):
        scale = np.arange(30.0) + k
        np.testing.assert_allclose(J(x), jax.jacfwd(f)(x), rtol=1e-6)
        counts.append(sum(len(found.runs) for found in _kept.values() if isinstance(found, _Runs)))
    assert counts == [1, 2, 3, 4, 5, 5, 5, 5, 5]


def test_a_plan_keeps_the_numbers_that_it_was_made_with() -> None:
    x, matrix = normal(30), BANDED.copy()
    f = lambda x: matrix @ x + jnp.sin(matrix @ x)
    J = jb.jacobian(f, mode="colored")
    plan, before = J.plan(x), J(x)
    matrix *= 2
    np.testing.assert_allclose(plan(x), before)
    np.testing.assert_allclose(J(x), jax.jacfwd(f)(x), rtol=1e-5, atol=1e-5)


def test_boundary_values() -> None:
    f = lambda u: (jnp.roll(u, 1) - 2 * u + jnp.roll(u, -1) + u**3).at[jnp.array([0, -1])].set(0.0)
    u = normal(30)
    assert jb.sparsity(f, u).nnz == 28 * 3
    J = jb.jacobian(f, mode="colored")
    assert J.plan(u).passes == 1
    np.testing.assert_allclose(J(u), jax.jacfwd(f)(u), rtol=1e-6)


def test_other_closed_over_values_are_other_numbers() -> None:
    mask = np.arange(30) % 2

    def f(x: Array) -> Array:
        return jnp.roll(x, 1) * jnp.asarray(mask) + x**2

    x = normal(30)
    J = jb.jacobian(f, mode="colored")
    first = J(x)
    mask = np.arange(30) % 3
    assert not np.allclose(first, J(x))
    np.testing.assert_allclose(J(x), jax.jacfwd(f)(x), rtol=1e-6)


def test_each_example_of_a_batch() -> None:
    X = normal(4, 30)
    same = lambda X: jnp.roll(X, 1, 1) - 2 * X + jnp.exp(X)
    own = lambda X: jnp.roll(X, 1, 1) * jnp.arange(4.0)[:, None] + jnp.exp(X)
    for f, passes in ((same, 1), (own, 2)):
        for format in ("dense", "bcoo"):
            J = jb.batch_jacobian(f, mode="colored", format=format)
            assert J.plan(X).passes == passes
            actual = J(X).todense() if format == "bcoo" else J(X)
            expected = np.stack([jax.jacfwd(f)(X)[b, :, b] for b in range(4)])
            np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_several_arguments_and_outputs() -> None:
    def f(u: Array, v: Array) -> dict[str, Array]:
        return {"u": jnp.roll(u, 1) + u * v, "v": 3 * u - v, "w": jnp.sin(v)}

    args = normal(20), normal(20, seed=1)
    J = jb.jacobian(f, (0, 1), mode="colored")
    assert J.plan(*args).passes == 2
    expected, actual = jax.jacfwd(f, (0, 1))(*args), J(*args)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), actual, expected)


def test_quadratic_parts_of_a_hessian() -> None:
    f = lambda x: jnp.sum((x - jnp.roll(x, 1)) ** 2 + 0.5 * (x * jnp.roll(x, 3))) + jnp.sum(jnp.exp(x))
    x = normal(40)
    H = jb.hessian(f, mode="colored")
    assert H.plan(x).passes == 1
    np.testing.assert_allclose(H(x), jax.hessian(f)(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jb.hessian(f, format="bcoo")(x).todense(), jax.hessian(f)(x), rtol=1e-5, atol=1e-5)


def test_hessians_of_several_outputs() -> None:
    f = lambda x: jnp.roll(x, 1) * x + x**3
    x = normal(20)
    for mode in ("auto", "colored"):
        np.testing.assert_allclose(jb.hessian(f, mode=mode)(x), jax.hessian(f)(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jb.hessian(f, format="bcoo")(x).todense(), jax.hessian(f)(x), rtol=1e-5, atol=1e-5)


def test_a_custom_rule_may_make_the_numbers_unsymmetric() -> None:
    @jax.custom_jvp
    def odd(x: Array) -> Array:
        return jnp.sum(x**2)

    @odd.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        (x,), (t,) = primals, tangents
        return odd(x), jnp.sum((jnp.roll(x, 1) + x**2 * jnp.roll(x, 2)) * t)

    x = normal(20)
    np.testing.assert_allclose(jb.hessian(odd, mode="colored")(x), jax.hessian(odd)(x), rtol=1e-5, atol=1e-6)


def test_infinite_arguments_do_not_touch_numbers() -> None:
    f = lambda x: jnp.roll(x, 1) - 2 * x + jnp.exp(x)
    x = normal(12).at[3].set(jnp.inf)
    J = jb.jacobian(f, mode="colored")(x)
    assert np.isinf(J[3, 3])
    np.testing.assert_array_equal(J[4, 3], 1.0)
    assert np.isfinite(np.delete(np.asarray(J).reshape(-1), 3 * 12 + 3)).all()


def test_factors_that_are_not_finite_take_passes() -> None:
    f = lambda x: jnp.roll(x, 1) * jnp.inf + jnp.exp(x)
    x = normal(12)
    J = jb.jacobian(f, mode="colored")
    assert J.plan(x).passes == 2
    np.testing.assert_array_equal(np.diag(J(x)), np.diag(jax.jacfwd(f)(x)))
    np.testing.assert_array_equal(np.diag(J(x), -1), np.inf)


ODD: dict[str, Callable[[Array], Any]] = {
    "a remainder by zero": lambda x: x * lax.rem(jnp.arange(12) - 6, 0) + x[::-1] ** 2,
    "an integer that is none": lambda x: x[jnp.asarray(np.array([np.nan, 2.7, -1.2])).astype(int)] + x[:3] ** 2,
    "a byte out of few bits": lambda x: x * jnp.array([1e10, -300.0, 3, 0] * 3, jnp.bfloat16).astype(jnp.uint8) + x**2,
    "four bits": lambda x: x * jnp.array([1e10, -300.0, 3, 0] * 3).astype(jnp.int4).astype(jnp.int32) + x**2,
    "four bits out of many": lambda x: x * (jnp.arange(12) * 5).astype(jnp.int4).astype(jnp.int32) + x**2,
    "a remainder of few bits": lambda x: x * lax.rem(jnp.arange(12).astype(jnp.bfloat16), jnp.bfloat16(5)) + x**2,
    "an index beyond the end": jax.grad(lambda x: jnp.sum(x[np.array([0, 1, 1, 13, -1])] ** 2)),
    "a product with nothing": lambda x: jnp.zeros((3, 0)) @ x[:0] + x[:3] ** 2,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_numbers_are_those_of_xla(name: str) -> None:
    x = normal(12)
    np.testing.assert_allclose(jb.jacobian(ODD[name], mode="colored")(x), jax.jacfwd(ODD[name])(x), rtol=1e-6)


def test_complex_numbers_take_passes(x64) -> None:
    f = lambda z: jnp.roll(z, 1) * 2j + z**2
    z = normal(12) + 1j * normal(12, seed=1)
    J = jb.jacobian(f, mode="colored", holomorphic=True)
    np.testing.assert_allclose(J(z), jax.jacfwd(f, holomorphic=True)(z), rtol=1e-12)


def test_networks_pay_nothing_for_it() -> None:
    w = weights(30, 30, seed=1)
    plan = jb.jacobian(lambda x: jnp.tanh(w @ x) + x).plan(normal(30))
    assert plan.mode != "colored"
    np.testing.assert_allclose(
        jb.jacobian(lambda x: jnp.tanh(w @ x) + x, mode="colored")(normal(30)),
        jax.jacfwd(lambda x: jnp.tanh(w @ x) + x)(normal(30)), rtol=1e-5, atol=1e-5,
    )  # fmt: skip
