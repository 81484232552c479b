"""Functions that only one mode, or two in turn, can differentiate; what is said of those that none can."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_same

import jaxobian as jb
from jaxobian._request import Mode

X = jnp.array([0.3, -1.2, 2.0])
P = {"p": X, "q": jnp.array([[0.5, 1.0], [1.5, -0.5]])}


def line_of(function: Callable[..., Any], text: str) -> str:
    """Where `text` stands in the source of `function`, as an error should name it."""
    lines, first = inspect.getsourcelines(function)
    offset = next(k for k, line in enumerate(lines) if text in line)
    return rf"test_modes\.py:{first + offset}\b"


# Both have a derivative that is wrong on purpose (3 cos instead of cos), so that a rule that is not obeyed
# shows. The first can only be pulled back; the second allows both modes and is the oracle for the first.


@jax.custom_vjp
def pulled(x):
    return jnp.sin(x)


def three_cosines(x, g):
    return (3 * jnp.cos(x) * g,)


pulled.defvjp(lambda x: (jnp.sin(x), x), three_cosines)


@jax.custom_jvp
def both(x):
    return jnp.sin(x)


@both.defjvp
def _(primals, tangents):
    return jnp.sin(primals[0]), 3 * jnp.cos(primals[0]) * tangents[0]


def pushed(x):
    """Can only be pushed forward: its number of steps is known only when it runs."""
    return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * jnp.roll(c[1], 1)), (0, x))[1]


# One mode only ----------------------------------------------------------------------------------------------

REVERSE_ONLY = {
    "alone": lambda c: c,
    "between": lambda c: lambda x: jnp.outer(jnp.tanh(c(x**2)), x),
    "twice": lambda c: lambda x: c(c(x)),
    "in jit": lambda c: jax.jit(lambda x: c(x) * x),
    "in scan": lambda c: lambda x: jax.lax.scan(lambda s, a: (c(s) * a, s), x, jnp.arange(1.0, 3.0)),
    "in cond": lambda c: lambda x: jax.lax.cond(x[0] > 0, c, lambda y: y, x),
    "in checkpoint": lambda c: jax.checkpoint(lambda x: c(x) ** 2),
    "in vmap": lambda c: lambda x: jax.vmap(lambda s: c(s) * s)(x),
    "in a loop of fixed length": lambda c: lambda x: jax.lax.fori_loop(0, 2, lambda _, s: c(s), x),
}


@pytest.mark.parametrize("name", REVERSE_ONLY)
def test_custom_vjp_goes_in_reverse(name: str) -> None:
    f, twin = REVERSE_ONLY[name](pulled), REVERSE_ONLY[name](both)
    J = jb.jacobian(f)
    assert J.plan(X).mode == "rev"
    assert_same(J(X), jax.jacrev(twin)(X))
    with pytest.raises(jb.ModeError, match=r"forward.*custom_vjp.*three_cosines.*[Rr]everse mode works"):
        jb.jacobian(f, mode="fwd")(X)


FORWARD_ONLY = {
    "alone": pushed,
    "between": lambda x: jnp.outer(jnp.tanh(pushed(x**2)), x),
    "in jit": jax.jit(lambda x: pushed(x) * x),
    "in scan": lambda x: jax.lax.scan(lambda s, a: (pushed(s) * a, s), x, jnp.arange(1.0, 3.0)),
    "in cond": lambda x: jax.lax.cond(x[0] > 0, pushed, lambda y: y, x),
    "in checkpoint": jax.checkpoint(lambda x: pushed(x) ** 2),
    "steps that depend on x": lambda x: jax.lax.while_loop(lambda c: jnp.sum(c) < 9, lambda c: c * 1.5, x),
    "a loop to a traced bound": lambda x: jax.lax.fori_loop(0, jnp.sum(x > 0), lambda _, c: jnp.sin(c), x),
}


@pytest.mark.parametrize("name", FORWARD_ONLY)
def test_a_dynamic_loop_goes_forward(name: str) -> None:
    f = FORWARD_ONLY[name]
    J = jb.jacobian(f)
    assert J.plan(X).mode == "fwd"
    assert_same(J(X), jax.jacfwd(f)(X))
    with pytest.raises(jb.ModeError, match=r"reverse.*while_loop.*[Ff]orward mode works"):
        jb.jacobian(f, mode="rev")(X)


def test_a_loop_that_no_tangent_reaches_forbids_nothing() -> None:
    f = lambda x: jnp.sin(x) * jax.lax.stop_gradient(pushed(x))
    assert_same(jb.jacobian(f, mode="rev")(X), jax.jacfwd(f)(X))


def test_a_custom_vjp_that_no_tangent_reaches_forbids_nothing() -> None:
    f = lambda x: jnp.sin(x) * pulled(jax.lax.stop_gradient(x))
    assert_same(jb.jacobian(f, mode="fwd")(X), jax.jacrev(f)(X))


def test_a_loop_inside_a_linear_solve_forbids_nothing() -> None:
    # `cg` holds a dynamic loop, and reverses nevertheless: whole equations are tried, not looked into.
    A = jnp.array([[2.0, 0.5, 0.0], [0.5, 3.0, 0.1], [0.0, 0.1, 1.0]])
    f = lambda x: jax.scipy.sparse.linalg.cg(lambda v: A @ v, jnp.sin(x))[0]
    for mode in ("auto", "fwd", "rev"):
        assert_same(jb.jacobian(f, mode=mode)(X), jax.jacrev(f)(X), 1e-4)


def test_nondiff_arguments_and_none_cotangents_of_a_custom_vjp() -> None:
    def scaled(n, x, i):
        return x[i] ** n

    f = jax.custom_vjp(scaled, nondiff_argnums=(0,))
    f.defvjp(
        lambda n, x, i: (scaled(n, x, i), (x, i)),
        lambda n, res, g: (jnp.zeros_like(res[0]).at[res[1]].add(g * n * res[0][res[1]] ** (n - 1)), None),
    )
    k = jnp.array([2, 0])
    assert_same(jb.jacobian(lambda x: f(3, x, k))(X), jax.jacrev(lambda x: x[k] ** 3)(X))


# Two modes in turn, or side by side -------------------------------------------------------------------------

COMPOSED: dict[str, tuple[Callable[..., Any], Any]] = {
    "reverse, then forward": (lambda c: lambda x: pushed(c(x)), X),
    "forward, then reverse": (lambda c: lambda x: c(pushed(x)), X),
    "side by side": (lambda c: lambda x: c(x) + pushed(x), X),
    "sandwich": (lambda c: lambda x: c(pushed(c(x))), X),
    "sandwich the other way": (lambda c: lambda x: pushed(c(pushed(x))), X),
    "four in turn": (lambda c: lambda x: pushed(c(pushed(c(x)))), X),
    "a skip past both": (lambda c: lambda x: c(pushed(x)) * x + pushed(x), X),
    "each its own input": (lambda c: lambda t: c(t["p"])[:2] + pushed(t["q"]), P),
    "each its own output": (lambda c: lambda x: {"c": c(x), "w": pushed(x), "x": x, "twice": (x, x)}, X),
    "trees": (lambda c: lambda t: {"a": c(pushed(t["q"])) @ c(t["p"][:2]), "b": jnp.sum(pushed(t["p"]))}, P),
    "wide in the middle": (lambda c: lambda x: jnp.sum(c(pushed(jnp.outer(x, x)))), X),
    "narrow in the middle": (lambda c: lambda x: jnp.outer(c(jnp.sum(pushed(x))) * x, x), X),
    "a scalar": (lambda c: lambda x: c(pushed(x)), jnp.array(0.7)),
    "an unused input": (lambda c: lambda t: c(pushed(t["p"])), P),
    "inside jit": (lambda c: jax.jit(lambda x: c(jax.jit(pushed)(x))), X),
    "a constant output": (lambda c: lambda x: {"y": c(pushed(x)), "one": jnp.ones(2)}, X),
    "an empty leaf": (lambda c: lambda t: c(pushed(t[0])), (X, jnp.zeros(0))),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_modes_in_turn(name: str) -> None:
    make, x = COMPOSED[name]
    with pytest.raises(ValueError, match="while_loop"):  # else there is nothing to test
        jax.jacrev(make(pulled))(x)
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jacfwd(make(pulled))(x)
    plan = jb.jacobian(make(pulled)).plan(x)
    assert plan.mode == "mixed"
    expected = jax.jacfwd(make(both))(x)
    assert_same(plan(x), expected)
    assert_same(jb.jacobian(make(pulled), chunk_size=2)(x), expected)


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_where_modes_must_take_turns_each_alone_is_impossible(mode: Mode) -> None:
    culprit = "custom_vjp" if mode == "fwd" else "while_loop"
    with pytest.raises(jb.ModeError, match=f"{culprit}.*ixed"):
        jb.jacobian(lambda x: pulled(pushed(x)), mode=mode)(X)


@jax.custom_vjp
def squared(z):
    return z**2


squared.defvjp(lambda z: (z**2, z), lambda z, g: (2 * z * g,))

COMPLEX = {
    # Cut where the variables are complex: the map between real parts and imaginary parts is what counts.
    "reverse, then forward": lambda s: lambda x: jnp.abs(pushed(s(x * jnp.exp(1j * x)))),
    "forward, then reverse": lambda s: lambda x: jnp.abs(s(pushed(x * jnp.exp(1j * x)))),
    "not C-linear between": lambda s: lambda x: jnp.abs(jnp.conj(pushed(jnp.conj(s(x + 2j)) * x)) + x),
    "side by side": lambda s: lambda x: jnp.real(s(x + 1j * x**2)) + jnp.imag(pushed(x * (1 - 2j))),
    "strictly typed": lambda s: lambda x: jnp.real(pushed(s(jax.lax.complex(x, jnp.sin(x))))),
}


@pytest.mark.parametrize("promotion", ["standard", "strict"])
@pytest.mark.parametrize("name", COMPLEX)
def test_complex_numbers_between_two_modes(name: str, promotion: str) -> None:
    make = COMPLEX[name]
    expected = jax.jacfwd(make(lambda z: z**2))(X)
    if promotion == "strict" and name != "strictly typed":
        pytest.skip("f itself mixes dtypes")
    with jax.numpy_dtype_promotion(promotion):
        assert_same(jb.jacobian(make(squared))(X), expected, 1e-4)


def test_holomorphic_in_two_modes() -> None:
    make = lambda s: lambda z: s(pushed(s(z)))
    z = X + 0.5j
    J = jb.jacobian(make(squared), holomorphic=True)(z)
    assert_same(J, jax.jacfwd(make(lambda z: z**2), holomorphic=True)(z), 1e-4)


def test_real_to_complex_and_back_in_two_modes() -> None:
    outwards = lambda s: lambda x: s(pushed(x * (1 + 2j)))
    assert_same(jb.jacobian(outwards(squared))(X), jax.jacfwd(outwards(lambda z: z**2))(X), 1e-4)
    inwards = lambda s: lambda z: jnp.abs(s(pushed(z)))
    z = X + 0.5j
    # jacrev cannot: by hand, from real and imaginary part (JAX's convention conjugates).
    parts = jax.jacfwd(lambda a, b: inwards(lambda z: z**2)(a + 1j * b), (0, 1))(z.real, z.imag)
    assert_same(jb.jacobian(inwards(squared))(z), parts[0] - 1j * parts[1], 1e-4)


@pytest.mark.parametrize("promotion", ["standard", "strict"])
@pytest.mark.parametrize("order", ["reverse first", "forward first"])
@pytest.mark.parametrize("narrow", [jnp.float16, jnp.bfloat16])
def test_half_precision_between_two_modes(order: str, narrow: Any, promotion: str) -> None:
    def make(c):
        first, second = (c, pushed) if order == "reverse first" else (pushed, c)
        return lambda x: second(jnp.tanh(first(x).astype(narrow))).astype(jnp.float32)

    with jax.numpy_dtype_promotion(promotion):
        J = jb.jacobian(make(pulled))(X)
        assert_same(J, jax.jacfwd(make(both))(X), 3e-2)


@pytest.mark.parametrize("name", ["forward, then reverse", "side by side", "trees"])
def test_modes_in_turn_in_double_precision(name: str) -> None:
    make, x = COMPOSED[name]
    with jax.enable_x64(True):
        x = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), x)
        assert_same(jb.jacobian(make(pulled))(x), jax.jacfwd(make(both))(x), 1e-12)


def test_modes_in_turn_compose() -> None:
    make = COMPOSED["sandwich"][0]
    J, K = jb.jacobian(make(pulled)), jax.jacfwd(make(both))
    assert_same(jax.jit(J)(X), K(X))
    assert_same(jax.vmap(J)(jnp.stack([X, 2 * X])), jax.vmap(K)(jnp.stack([X, 2 * X])))
    assert_same(J.plan(X)(2 * X), K(2 * X))
    assert_same(jax.lax.map(J, jnp.stack([X, 2 * X])), jax.vmap(K)(jnp.stack([X, 2 * X])))


def test_a_hessian_with_a_dynamic_loop() -> None:
    f = lambda x: jnp.sum(pushed(x) ** 2)
    with pytest.raises((ValueError, TypeError)):
        jax.hessian(f)(X)
    assert_same(jb.hessian(f)(X), jax.jacfwd(jax.jacfwd(f))(X))


# Primitives without a batching or a transpose rule ----------------------------------------------------------


def host_sine(vmap_method: str | None) -> Callable[..., Any]:
    """A sine whose derivative is a callback that sees the tangent: no transpose, maybe no batching."""

    @jax.custom_jvp
    def sine(x):
        return jnp.sin(x)

    @sine.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        out = jax.ShapeDtypeStruct(jnp.broadcast_shapes(x.shape, t.shape), x.dtype)
        return jnp.sin(x), jax.pure_callback(lambda x, t: np.cos(x) * t, out, x, t, vmap_method=vmap_method)

    return sine


@pytest.mark.parametrize(
    # 20: more passes than are written out
    ("vmap_method", "size"),
    [(None, 1), (None, 3), (None, 20), ("sequential", 3), ("expand_dims", 3), ("broadcast_all", 20)],
)
def test_callbacks_are_pushed_forward_one_by_one_if_need_be(vmap_method: str | None, size: int) -> None:
    sine = host_sine(vmap_method)
    f = lambda x: sine(x) * x[::-1]
    x = jnp.linspace(-1, 1, size)
    J = jb.jacobian(f)
    assert J.plan(x).mode == "fwd"
    if vmap_method is None:
        assert J.plan(x).chunk_size == 1
    assert_same(J(x), jax.jacrev(lambda x: jnp.sin(x) * x[::-1])(x))
    with pytest.raises(jb.ModeError, match=r"pure_callback \(test_modes\.py:\d+\).*[Ff]orward mode works"):
        jb.jacobian(f, mode="rev")(x)


def test_callbacks_in_reverse_one_by_one() -> None:
    @jax.custom_vjp
    def sine(x):
        return jnp.sin(x)

    def bwd(x, g):
        return (jax.pure_callback(lambda x, g: np.cos(x) * g, jax.ShapeDtypeStruct(x.shape, x.dtype), x, g),)

    sine.defvjp(lambda x: (jnp.sin(x), x), bwd)
    J = jb.jacobian(lambda x: sine(x) * x[::-1])
    for x in (X, jnp.linspace(-1, 1, 20)):
        plan = J.plan(x)
        assert (plan.mode, plan.chunk_size) == ("rev", 1)
        assert_same(J(x), jax.jacrev(lambda x: jnp.sin(x) * x[::-1])(x))


def test_callbacks_beside_a_custom_vjp() -> None:
    make = lambda c, sine: lambda x: c(sine(x))
    assert_same(jb.jacobian(make(pulled, host_sine(None)))(X), jax.jacfwd(make(both, jnp.sin))(X))


def test_a_callback_without_a_derivative_is_named() -> None:
    def f(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    for mode in ("auto", "fwd", "rev"):
        with pytest.raises(ValueError, match=r"[Pp]ure.callbacks? "):
            jb.jacobian(f, mode=mode)(X)


def test_a_callback_that_no_tangent_reaches_is_fine() -> None:
    def f(x):
        scale = jax.pure_callback(np.sin, jax.ShapeDtypeStruct((3,), jnp.float32), jax.lax.stop_gradient(x))
        return scale * x**2

    assert_same(jb.jacobian(f)(X), jnp.diag(2 * X * jnp.sin(X)))


# No mode at all ---------------------------------------------------------------------------------------------


def rule_in_loop(x):
    return jax.lax.while_loop(
        lambda c: jnp.sum(c) < 3,
        lambda c: pulled(c) + 1,  # the rule
        x,
    )


def loop_and_rule_in_scan(x):
    def body(c, _):
        c = pushed(c)
        c = pulled(c)  # the rule
        return c, None

    return jax.lax.scan(body, x, None, length=2)[0]


@pytest.mark.parametrize("f", [rule_in_loop, loop_and_rule_in_scan])
def test_where_one_equation_allows_no_mode_one_error_names_everything(f: Callable[..., Any]) -> None:
    for mode in ("auto", "fwd", "rev"):
        with pytest.raises(jb.ModeError) as caught:
            jb.jacobian(f, mode=mode)(X)
        message = str(caught.value)
        assert " only and " not in message  # of the rule, what is said of the loop
        for internal in ("custom_lin", "linear_transpose", "eqn", "jaxpr", "Tracer"):
            assert internal not in message
    rule = r"custom_vjp function.*three_cosines.*" + line_of(f, "# the rule")
    with pytest.raises(jb.ModeError, match=rule):
        jb.jacobian(f)(X)
    with pytest.raises(jb.ModeError, match="while_loop"):
        jb.jacobian(f)(X)


def test_of_an_equation_that_allows_no_mode_each_part_is_told_what_it_forbids() -> None:
    f = rule_in_loop
    rule, loop = line_of(f, "# the rule"), line_of(f, "while_loop")
    message = (
        rf"one operation allows neither mode: a custom_vjp function \(backward rule three_cosines\) inside "
        rf"lax\.while_loop \({rule}\) has a rule for reverse mode only; "
        rf"lax\.while_loop \({loop}\) runs a number of steps known only when it runs, so it has no reverse mode"
    )
    for mode in ("auto", "mixed"):
        with pytest.raises(jb.ModeError, match=message):
            jb.jacobian(f, mode=mode)(X)


def test_every_obstructing_primitive_is_named() -> None:
    def f(x):
        a = rule_in_loop(x)
        b = loop_and_rule_in_scan(x)
        return a + b

    with pytest.raises(jb.ModeError) as caught:
        jb.jacobian(f)(X)
    for g in (rule_in_loop, loop_and_rule_in_scan):
        assert line_of(g, "# the rule").removesuffix(r"\b").replace("\\", "") in str(caught.value)


def test_the_user_s_line_of_a_loop() -> None:
    def f(x):
        y = jnp.sin(x)
        return jax.lax.while_loop(lambda c: jnp.sum(c) < 3, lambda c: c * 2.0, y)  # the loop

    with pytest.raises(jb.ModeError, match="while_loop.*" + line_of(f, "# the loop")):
        jb.jacobian(f, mode="rev")(X)
    assert line_of(f, "# the loop").removesuffix(r"\b").replace("\\", "") in str(jb.jacobian(f).plan(X))


def test_the_user_s_line_of_a_function_that_is_itself_a_custom_vjp() -> None:
    with pytest.raises(jb.ModeError, match=r"custom_vjp.*test_modes\.py:\d+"):
        jb.jacobian(pulled, mode="fwd")(X)
