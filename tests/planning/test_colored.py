"""Colored mode equals jacfwd, in few passes; it is taken where it wins, and says why where not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

import jaxobian as jb
from jaxobian._request import Format
from jaxobian.testing._networks import conv
from jaxobian.testing._scenario import normal, weights


def burgers(u: Array) -> Array:
    return -u * (jnp.roll(u, -1) - jnp.roll(u, 1)) + 0.1 * (jnp.roll(u, -1) - 2 * u + jnp.roll(u, 1))


def arrowhead(x: Array) -> Array:
    return jnp.concatenate([jnp.sum(x**2)[None], x[1:] ** 2 * x[0]])


def brusselator(s: Array) -> Array:
    u, v = s
    spread = lambda w: sum(jnp.roll(w, d, a) for d in (1, -1) for a in (0, 1)) - 4 * w
    return jnp.stack([1 + u * u * v - 4.4 * u + spread(u), 3.4 * u - u * u * v + spread(v)])


KERNELS = weights(3, 3, 1, 4, seed=1), weights(3, 3, 4, 1, seed=2)


def convolutions(x: Array) -> Array:
    first, second = (w.astype(x.dtype) for w in KERNELS)
    return jnp.tanh(conv(jnp.tanh(conv(x, first)), second))


CASES: dict[str, tuple[Callable[..., Any], Array, int]] = {
    "burgers": (burgers, normal(99), 3),
    "brusselator": (brusselator, normal(2, 8, 8), 2),
    "arrowhead": (arrowhead, normal(60), 3),
    "arrowhead, upside down": (lambda x: arrowhead(x[::-1])[::-1], normal(60), 3),
    "convolutions": (convolutions, normal(1, 12, 12, 1), 25),
    "wide": (lambda x: x[::2] * x[1::2], normal(60), 2),
    "tall": (lambda x: jnp.repeat(x, 3) ** 2, normal(30), 1),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("format", ["dense", "bcoo"])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_values(name: str, format: Format, chunk_size: int | None, x64) -> None:
    f, x, passes = CASES[name]
    x = x.astype(jnp.float64)
    J = jb.jacobian(f, mode="colored", format=format, chunk_size=chunk_size)
    assert J.plan(x).passes <= passes
    expected = jax.jacfwd(f)(x)
    for run in (J, jax.jit(J), J.plan(x)):
        actual = run(x)
        if format == "bcoo":
            assert actual.indices_sorted
            assert actual.unique_indices
            assert actual.shape == expected.shape
            indices = np.asarray(actual.indices)
            flat = np.ravel_multi_index(tuple(indices.T), expected.shape)
            assert (np.diff(flat) > 0).all()
            actual = actual.todense()
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_it_is_chosen_where_it_wins() -> None:
    plan = jb.jacobian(burgers).plan(normal(999))
    assert (plan.mode, plan.passes) == ("colored", 3)
    assert "2,997 of 998,001 elements can be nonzero: columns in 3 colors" in str(plan)


def test_many_unknowns_as_bcoo_where_a_dense_j_would_not_fit() -> None:
    x = normal(200_001)
    J = jax.jit(jb.jacobian(burgers, format="bcoo"))(x)
    assert J.nse == 3 * 200_001
    t = normal(200_001, seed=3)
    np.testing.assert_allclose(J @ t, jax.jvp(burgers, (x,), (t,))[1], rtol=1e-4, atol=1e-4)


def test_trees() -> None:
    def f(tree: Any, y: Array) -> Any:
        return {"a": jnp.sin(tree["x"]) * y[:20], "b": (burgers(y), tree["x"].sum()), "c": jnp.ones(2)}

    args = {"x": normal(20)}, normal(24)
    expected = jax.jacfwd(f, (0, 1))(*args)
    actual = jb.jacobian(f, (0, 1), mode="colored")(*args)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_each_example_of_a_batch() -> None:
    f = lambda X: jax.vmap(burgers)(X)
    X = normal(5, 60)
    J = jb.batch_jacobian(f, mode="colored")
    assert J.plan(X).passes == 3
    expected = jax.vmap(jax.jacfwd(burgers))(X)
    np.testing.assert_allclose(J(X), expected, rtol=1e-5, atol=1e-6)
    entries = jb.batch_jacobian(f, mode="colored", format="bcoo")(X)
    assert entries.nse == 5 * 180
    np.testing.assert_allclose(entries.todense(), expected, rtol=1e-5, atol=1e-6)


def test_only_reverse_will_do_for_a_custom_vjp() -> None:
    @jax.custom_vjp
    def g(x: Array) -> Array:
        return x**2

    g.defvjp(lambda x: (x**2, x), lambda x, t: (2 * x * t,))
    f = lambda x: g(x) + jnp.sin(jnp.roll(x, 1))
    x = normal(30)
    plan = jb.jacobian(f, mode="colored").plan(x)
    assert "rows in" in str(plan)
    np.testing.assert_allclose(plan(x), jax.jacrev(f)(x), rtol=1e-6)


def test_a_custom_vjp_whose_jacobian_is_zero_takes_no_pass() -> None:
    @jax.custom_vjp
    def g(x: Array) -> Array:
        return x**2

    g.defvjp(lambda x: (x**2, None), lambda _, t: (jnp.zeros_like(t),))
    x = normal(6)
    f = lambda x: g(x)[:0]
    np.testing.assert_allclose(jb.jacobian(f, mode="colored")(x), jax.jacrev(f)(x))
    np.testing.assert_allclose(jb.jacobian(g, mode="colored")(x), jnp.zeros((6, 6)))


@pytest.mark.parametrize("f", [jnp.cumsum, lambda x: jnp.tanh(weights(20, 20, seed=1) @ x)])
def test_where_all_is_dense_it_says_so(f: Any) -> None:
    x = normal(20)
    plan = jb.jacobian(f).plan(x)
    (option,) = (c for c in plan.candidates if c.mode == "colored")
    assert plan.mode != "colored"
    assert " colors instead of 20 passes" in str(option) or "no zeros were found" in str(option)
    np.testing.assert_allclose(jb.jacobian(f, mode="colored")(x), jax.jacfwd(f)(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("format", ["dense", "bcoo"])
@pytest.mark.parametrize("f", [lambda x: x[:0], lambda x: jnp.ones(3), lambda x: (x[:0], jnp.sin(x), jnp.ones(2))])
def test_empty_and_constant_outputs(f: Any, format: Format) -> None:
    x = normal(5)
    J = jb.jacobian(f, mode="colored", format=format)
    assert J.plan(x).passes <= 1
    blocks = jax.tree.leaves(J(x), is_leaf=lambda b: hasattr(b, "todense"))
    expected = jax.tree.leaves(jax.jacfwd(f)(x))
    for a, b in zip(blocks, expected, strict=True):
        np.testing.assert_allclose(a.todense() if format == "bcoo" else a, b, rtol=1e-6)


def test_what_runs_is_the_same_for_other_values() -> None:
    x = normal(30)
    plan = jb.jacobian(burgers, mode="colored").plan(jax.ShapeDtypeStruct(x.shape, x.dtype))
    np.testing.assert_allclose(plan(x), jax.jacfwd(burgers)(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(plan(2 * x - 1), jax.jacfwd(burgers)(2 * x - 1), rtol=1e-5, atol=1e-6)


def test_transformations() -> None:
    x = normal(30)
    J = jb.jacobian(burgers, mode="colored")
    np.testing.assert_allclose(
        jax.vmap(J)(jnp.stack([x, 2 * x])), jax.vmap(jax.jacfwd(burgers))(jnp.stack([x, 2 * x])), rtol=1e-5, atol=1e-6
    )
    loss = lambda J: lambda x: jnp.sum(J(x) ** 2)
    np.testing.assert_allclose(jax.grad(loss(J))(x), jax.grad(loss(jax.jacfwd(burgers)))(x), rtol=1e-4, atol=1e-4)


def rosenbrock(x: Array) -> Array:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


HESSIANS: dict[str, tuple[Callable[..., Any], Array, int]] = {
    "rosenbrock": (rosenbrock, normal(50), 3),
    "arrowhead": (lambda x: jnp.sum(x[0] * x**2), normal(40), 2),
    "grid": (lambda x: jnp.sum((x - jnp.roll(x, 1, 0)) ** 4 + (x - jnp.roll(x, 1, 1)) ** 4), normal(8, 8), 8),
}


@pytest.mark.parametrize("name", HESSIANS)
@pytest.mark.parametrize("format", ["dense", "bcoo"])
def test_hessians_are_symmetric(name: str, format: Format) -> None:
    f, x, passes = HESSIANS[name]
    H = jb.hessian(f, mode="colored", format=format)
    assert H.plan(x).passes <= passes
    actual = H(x).todense() if format == "bcoo" else H(x)
    np.testing.assert_allclose(actual, jax.hessian(f)(x), rtol=1e-4, atol=1e-4)


def test_second_derivatives_of_custom_rules_need_not_be_symmetric() -> None:
    @jax.custom_jvp
    def odd(x: Array) -> Array:
        return x[0] * jnp.sum(x**2)

    @odd.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        (x,), (t,) = primals, tangents
        return odd(x), jnp.sum(jnp.concatenate([x[:1], x[1:] * jnp.arange(1.0, len(x)) * x[0] ** 2]) * t)

    x = normal(20)
    expected = jax.hessian(odd)(x)
    assert not np.allclose(expected, expected.T)
    np.testing.assert_allclose(jb.hessian(odd, mode="colored")(x), expected, rtol=1e-5, atol=1e-6)


def test_hessians_of_nothing() -> None:
    for shape in ((0,), (0, 2)):
        H = jb.hessian(lambda v: jnp.sum(v**2), format="bcoo")(jnp.ones(shape))
        assert H.shape == (*shape, *shape)


def test_arrays_too_large_to_look_at_are_planned_at_once() -> None:
    shape = jax.ShapeDtypeStruct((2**32,), jnp.float32)
    option = jb.jacobian(lambda x: jnp.roll(x, 1)[:100] * x[:100], memory_budget="1e15B").plan(shape).candidates[-1]
    assert "skipped: its arrays are large" in str(option)
    wide = lambda x: jnp.sum(jnp.sin(x)[:, None] * jnp.ones((1, 2**26)), 1)
    assert jb.jacobian(wide).plan(jax.ShapeDtypeStruct((64,), jnp.float32)).mode != "colored"


@pytest.mark.parametrize("f", [burgers, arrowhead, lambda x: 2 * x[::-1], lambda x: jnp.stack([x.sum(), x[0]])])
def test_plans_are_drawn(f: Callable[..., Any]) -> None:
    pytest.importorskip("matplotlib").use("Agg")
    plan = jb.jacobian(f, mode="colored").plan(normal(60))
    texts = [t.get_text() for t in plan.plot().texts if "pass" in t.get_text()]
    assert texts == [
        f"colored, {word}, {seeds.passes} pass{'es' * (seeds.passes > 1)}"
        for seeds in plan.choice.chosen.seeds
        for word in (["reverse", "forward"][seeds.forward],)
    ]


def test_a_budget_bounds_the_entries() -> None:
    x = normal(10_000)
    with pytest.raises(jb.MemoryBudgetError):
        jb.jacobian(burgers, format="bcoo", memory_budget="100kB")(x)
    jb.jacobian(burgers, format="bcoo", memory_budget="4MB")(x)
