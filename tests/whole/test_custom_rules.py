"""Rules of the user's own and of libraries: obeyed in the modes that they allow, whatever they are given or return."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax
from jax.experimental.ode import odeint
from oracles import slow_after

import jaxobian as jb
from jaxobian._request import Mode

pytestmark = pytest.mark.contracts

X = jnp.array([1.0, 2.0, -0.5])

# Rules for vmap -------------------------------------------------------------------------------------------------------


@jax.custom_batching.custom_vmap
def sine(x: Array) -> Array:
    return jnp.sin(x)


sine.def_vmap(lambda n, batched, x: (jnp.sin(x), batched[0]))


@jax.custom_batching.custom_vmap
def product(x: Array, y: Array) -> Array:
    return x * y


@product.def_vmap
def _product(n: int, batched: Any, x: Array, y: Array) -> Any:
    assert all(batched), "a rule that takes nothing but whole batches"
    return x * y, True


@jax.custom_vjp
def scaled_square(x: Array) -> Array:
    """Its rule is three times the truth, to be seen at work."""
    return sine(x) * 0 + x**2


scaled_square.defvjp(lambda x: (scaled_square(x), x), lambda x, g: (6 * x * g,))

VMAP_RULES: dict[str, Callable[[Array], Any]] = {
    "alone": lambda x: sine(x) * x,
    "twice": lambda x: sine(sine(x) * x) * x[0],
    "of what is not differentiated": lambda x: sine(jnp.ones(3)) * x,
    "in a scan": lambda x: lax.scan(lambda c, y: (sine(c * y), c + y), x[0], x)[1],
    "in a branch": lambda x: lax.cond(x[0] > 0, sine, jnp.cos, x),
    "in a loop": lambda x: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, sine(c[1]) * x), (0, x))[1],
    "in a jit": lambda x: jax.jit(sine)(x) * x,
    "in a checkpoint": lambda x: jax.checkpoint(lambda x: sine(x) * x)(x),
    "under vmap": lambda x: jax.vmap(sine)(x) * x,
    "beside a scan": lambda x: lax.scan(lambda c, y: (c * y, c + y), x[0], x)[1] + sine(x),
}


@pytest.mark.parametrize("name", VMAP_RULES)
def test_custom_vmap_functions_go_forward(name: str) -> None:
    f = VMAP_RULES[name]
    true = jax.jacfwd(f)(X)
    every: list[dict[str, Any]] = [{}, {"mode": "fwd"}, {"mode": "fwd", "chunk_size": 1}]
    for options in every:
        np.testing.assert_allclose(jb.jacobian(f, **options)(X), true, rtol=1e-5, atol=1e-6)
    batch = jnp.stack([X, 2 * X])
    J = jb.batch_jacobian(jax.vmap(f), independent=name == "in a loop")(batch)
    np.testing.assert_allclose(J, jax.vmap(jax.jacfwd(f))(batch), rtol=1e-5, atol=1e-5)


def test_custom_vmap_functions_have_hessians() -> None:
    f = lambda x: jnp.sum(sine(x) * x**2)
    np.testing.assert_allclose(jb.hessian(f)(X), jax.jacfwd(jax.jacfwd(f))(X), rtol=1e-5, atol=1e-6)


def test_a_rule_that_refuses_passes_gets_them_one_at_a_time() -> None:
    f = lambda x: product(x, x[::-1])
    np.testing.assert_allclose(jb.jacobian(f)(X), jax.jacfwd(lambda x: x * x[::-1])(X))


def test_a_custom_vmap_function_has_no_reverse_mode_and_its_line_is_told() -> None:
    with pytest.raises(jb.ModeError, match=r"a custom_vmap function \(test_custom_rules.py:\d+\) has no reverse mode"):
        jb.jacobian(lambda x: sine(x) * x, mode="rev")(X)


def test_custom_vjp_around_custom_vmap_is_obeyed() -> None:
    f = lambda x: scaled_square(x) * x
    np.testing.assert_allclose(jb.jacobian(f)(X), jax.jacrev(f)(X), rtol=1e-6)
    np.testing.assert_allclose(jb.jacobian(f)(X), jnp.diag(7 * X**2), rtol=1e-6)


def test_custom_vmap_around_custom_vjp_has_neither_mode_as_in_jax() -> None:
    @jax.custom_batching.custom_vmap
    def f(x: Array) -> Array:
        return scaled_square(x)

    f.def_vmap(lambda n, batched, x: (scaled_square(x), batched[0]))
    with pytest.raises(jb.ModeError, match="a custom_vjp function inside a custom_vmap function"):
        jb.jacobian(f)(X)


@jax.custom_jvp
def watched(x: Array) -> Array:
    return jnp.sin(x)


@watched.defjvp
def _watched_rule(primals: Any, tangents: Any) -> Any:
    jax.debug.callback(lambda v: None, tangents[0].sum())
    return watched(*primals), jnp.cos(primals[0]) * tangents[0]


@pytest.mark.parametrize("mode", ["auto", "fwd", "rev"])
def test_a_rule_may_look_at_tangents(mode: Mode) -> None:
    f = lambda x: watched(x) * x
    for chunk_size in (None, 1):
        J = jb.jacobian(f, mode=mode, chunk_size=chunk_size)
        np.testing.assert_allclose(J(X), jax.jacrev(f)(X), rtol=1e-6)


# Integers and NumPy's arrays in rules for reverse mode ----------------------------------------------------------------


@jax.custom_vjp
def quantized(x: Array) -> tuple[Array, Array]:
    return 2.0 * x, jnp.argmax(x)


quantized.defvjp(lambda x: (quantized(x), None), lambda _, g: (2.0 * g[0],))


@jax.custom_vjp
def codes_between(x: Array) -> tuple[Array, Array, Array, Array]:
    """Integers between two results that have tangents, and a boolean at the end."""
    return jnp.sin(x), jnp.arange(3), x.sum(), x > 0


codes_between.defvjp(lambda x: (codes_between(x), x), lambda x, g: (jnp.cos(x) * g[0] + g[2],))


def _with_codes(x: Array) -> Array:
    a, codes, b, positive = codes_between(x)
    return a[codes[::-1]] * b * jnp.where(positive, 1.0, 2.0)


INTEGERS: dict[str, Callable[[Array], Any]] = {
    "last": lambda x: quantized(x)[0] * (quantized(x)[1] + 1),
    "between": _with_codes,
    "in a scan": lambda x: lax.scan(lambda c, _: (quantized(c)[0] * (quantized(c)[1] + 1), None), x, None, 2)[0],
    "in a branch": lambda x: lax.cond(x[0] > 0, lambda x: quantized(x)[0], lambda x: x, x),
    "in a checkpoint": jax.checkpoint(lambda x: quantized(x)[0] * quantized(x)[1]),
    "unused": lambda x: quantized(x)[0] ** 2,
}


@pytest.mark.parametrize("name", INTEGERS)
def test_results_that_are_integers_have_no_tangents(name: str) -> None:
    f = INTEGERS[name]
    true = jax.jacrev(f)(X)
    for options in ({}, {"mode": "rev", "chunk_size": 1}):
        np.testing.assert_allclose(jb.jacobian(f, **options)(X), true, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jb.jacobian(f))(X), true, rtol=1e-5)
    assert not ((np.asarray(true) != 0) & ~jb.sparsity(f, X).todense()).any()
    batch = jnp.stack([X, X[::-1]])
    np.testing.assert_allclose(jb.batch_jacobian(jax.vmap(f))(batch), jax.vmap(jax.jacrev(f))(batch), rtol=1e-5)
    assert isinstance(jb.jacobian(f).plan(X).passes, int)


def _grown(x: Array) -> Array:
    """Forward only: nobody knows how many steps."""
    return lax.while_loop(lambda v: jnp.sum(v**2) < 30, lambda v: 1.5 * v + 0.1 * jnp.sin(v), x)


@jax.custom_batching.custom_vmap
def _sine(x: Array) -> Array:
    return jnp.sin(x) * x


_sine.def_vmap(lambda size, batched, x: (jnp.sin(x) * x, batched[0]))


def _looked_up(x: Array) -> Array:
    """Where the tangents of x go into a search whose results are integers."""
    return _sine(jnp.interp(x, jnp.asarray([0.0, 0.5, 2.0]), 2 * x[:3]))


@pytest.mark.parametrize("before", [_grown, _sine, _looked_up])
@pytest.mark.parametrize("after", [_grown, _sine, lambda x: x])
def test_integers_beside_what_goes_forward_only(before: Callable[..., Any], after: Callable[..., Any]) -> None:
    # Each of the two has a mode of its own: between them is a cut.
    f = lambda x: after(quantized(before(x))[0] * (quantized(before(x))[1] + 1))
    like_it = lambda x: after(2.0 * before(x) * (jnp.argmax(before(x)) + 1))
    assert jb.jacobian(f).plan(X).mode == "mixed"
    np.testing.assert_allclose(jb.jacobian(f)(X), jax.jacfwd(like_it)(X), rtol=1e-5)


@jax.custom_vjp
def decoded(y: Array, code: Array) -> tuple[Array, Array]:
    return y * (code + 1), code * 2


decoded.defvjp(
    lambda y, code: (decoded(y, code), code),
    lambda code, g: (g[0] * (code + 1), np.zeros(code.shape, jax.dtypes.float0)),
)


@pytest.mark.parametrize("before", [_grown, _sine, lambda x: x])
def test_integers_that_one_rule_hands_to_another(before: Callable[..., Any]) -> None:
    def f(x: Array) -> Array:
        y, code = quantized(before(x))
        z, twice = decoded(y, code)
        return z * (twice + 1)

    def like_it(x: Array) -> Array:
        y = before(x)
        code = jnp.argmax(y)
        return 2.0 * y * (code + 1) * (2 * code + 1)

    np.testing.assert_allclose(jb.jacobian(f)(X), jax.jacfwd(like_it)(X), rtol=1e-5)
    assert not ((np.asarray(jax.jacfwd(like_it)(X)) != 0) & ~jb.sparsity(f, X).todense()).any()


@jax.custom_vjp
def interpolated(x: Array, table: Any) -> Array:
    return x * table.sum()


def _interpolated_back(held: Any, g: Array) -> Any:
    _, table = held
    return g * table.sum() + 0 * table[jnp.argmax(g)], jnp.zeros_like(table)  # NumPy's array has no place for a tracer


interpolated.defvjp(lambda x, table: (interpolated(x, table), (x, table)), _interpolated_back)
TABLE = np.arange(3.0, dtype=np.float32)

NUMPY: dict[str, Callable[[Array, Any], Any]] = {
    "as an argument": interpolated,
    "in a scan": lambda x, table: lax.scan(lambda c, _: (interpolated(c, table), None), x, None, 2)[0],
    "in a checkpoint": lambda x, table: jax.checkpoint(lambda x: interpolated(x, table))(x),
    "under vmap": lambda x, table: jax.vmap(lambda y: interpolated(x * y, table))(x),
}


@pytest.mark.parametrize("name", NUMPY)
def test_rules_are_given_arrays_of_jax_where_f_has_numpy_s(name: str) -> None:
    f = lambda x: NUMPY[name](x, TABLE)
    true = jax.jacrev(lambda x: NUMPY[name](x, jnp.asarray(TABLE)))(X)
    for run in (jb.jacobian(f), jax.jit(jb.jacobian(f)), jb.jacobian(f, mode="rev", chunk_size=1)):
        np.testing.assert_allclose(run(X), true, rtol=1e-5)


@pytest.mark.parametrize("times", [np.linspace(0, 1, 3), np.linspace(0, 1, 3, dtype=np.float32), jnp.linspace(0, 1, 3)])
def test_odeint_with_its_times_inside(times: Any) -> None:
    f = lambda x: odeint(lambda y, t: -y * t, x, times)[-1]
    true = jax.jacrev(f)(X)
    for run in (jb.jacobian(f), jax.jit(jb.jacobian(f))):
        np.testing.assert_allclose(run(X), true, rtol=1e-4, atol=1e-6)


def test_a_rule_may_branch_on_what_f_says_in_python() -> None:
    @jax.custom_vjp
    def f(x: Array, double: Any) -> Array:
        return x * x

    def back(held: Any, g: Array) -> Any:
        x, double = held
        return (4 * x * g if double else 2 * x * g), None

    f.defvjp(lambda x, double: (f(x, double), (x, double)), back)
    for flag in (True, False, np.bool_(True), jnp.array(True), jnp.array(False)):
        g = lambda x, flag=flag: f(x, flag) + lax.scan(lambda c, y: (c, y), 0.0, x)[1]
        true = jnp.diag((4 if flag else 2) * X + 1)
        np.testing.assert_allclose(jb.jacobian(g)(X), true, rtol=1e-6)
        np.testing.assert_allclose(jax.jit(jb.jacobian(g))(X), true, rtol=1e-6)


# diffrax and equinox --------------------------------------------------------------------------------------------------


def solved(y: Array, p: Array, adjoint: Any, solver: Any) -> Any:
    """A damped oscillator, after a while."""
    field = lambda t, y, p: jnp.stack([p[0] * y[1], -p[1] * y[0] - p[2] * y[1]])
    found: Any = diffrax.diffeqsolve(
        diffrax.ODETerm(field), solver, 0.0, 0.5, 0.1, y, args=p, adjoint=adjoint, max_steps=16,
        stepsize_controller=diffrax.PIDController(rtol=1e-3, atol=1e-5),
    ).ys  # fmt: skip
    return found[-1]


Y, P = jnp.array([1.0, 0.0]), jnp.array([1.0, 2.0, 0.1])
ADJOINTS = {
    "default": diffrax.RecursiveCheckpointAdjoint(), "direct": diffrax.DirectAdjoint(), "forward": diffrax.ForwardMode()
}  # fmt: skip


@pytest.mark.parametrize("solver", slow_after(1, [diffrax.Tsit5(), diffrax.Kvaerno5()]), ids=["explicit", "stiff"])
@pytest.mark.parametrize("adjoint", slow_after(1, ADJOINTS))
def test_solutions_by_initial_state_and_by_parameters(adjoint: str, solver: Any) -> None:
    f = functools.partial(solved, adjoint=ADJOINTS[adjoint], solver=solver)
    jac = jax.jacfwd if adjoint == "forward" else jax.jacrev
    true = jax.jit(jac(f, (0, 1)))(Y, P)
    for ours, theirs in zip(jb.jacobian(f, (0, 1))(Y, P), true, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_solutions_under_transformations() -> None:
    f = functools.partial(solved, adjoint=ADJOINTS["default"], solver=diffrax.Tsit5())
    batch = jnp.stack([Y, 2 * Y, Y[::-1]])
    true = jax.jit(jax.vmap(jax.jacrev(f), (0, None)))(batch, P)
    np.testing.assert_allclose(jax.jit(jb.jacobian(f))(Y, P), true[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(jb.jacobian(f), (0, None))(batch, P), true, rtol=1e-4, atol=1e-6)
    plan = jb.batch_jacobian(jax.vmap(f, (0, None))).plan(batch, P)
    assert plan.passes == 2
    np.testing.assert_allclose(plan(batch, P), true, rtol=1e-4, atol=1e-6)


def test_equinox_s_checkpointed_loops() -> None:
    def f(x: Array) -> Array:
        step = lambda c: (c[0] + 1, jnp.sin(c[1]) * x)
        return eqx.internal.while_loop(lambda c: c[0] < 3, step, (0, x), max_steps=4, kind="checkpointed")[1]

    true = jax.jacrev(f)(X)
    np.testing.assert_allclose(jb.jacobian(f)(X), true, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jit(jb.jacobian(f))(X), true, rtol=1e-5, atol=1e-6)


def test_equinox_modules_are_arguments() -> None:
    net = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    params, static = eqx.partition(net, eqx.is_inexact_array)
    f = lambda params, x: eqx.combine(params, static)(x)
    for argnums in (0, 1):
        ours, true = jb.jacobian(f, argnums)(params, X), jax.jacrev(f, argnums)(params, X)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, true)


@eqx.filter_custom_vjp
def filtered(x: Array, factor: float) -> Array:
    return x * factor


@filtered.def_fwd
def _filtered_forward(perturbed: Any, x: Array, factor: float) -> Any:
    return filtered(x, factor), factor


@filtered.def_bwd
def _filtered_back(factor: float, g: Array, perturbed: Any, x: Array, _: float) -> Any:
    assert perturbed is True or perturbed
    return g * factor


def test_equinox_s_custom_rules_are_obeyed() -> None:
    f = lambda x: filtered(x, 3.0) * x
    np.testing.assert_allclose(jb.jacobian(f)(X), jax.jacrev(f)(X), rtol=1e-6)
