"""Linear programs: they are the derivative, flat, know their lines, and when two of them are the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxobian as jb
from jaxobian._arrays import is_concrete
from jaxobian._trace import (
    LinearProgram,
    Program,
    _linearize,
    active_variables,
    identity,
    obstructions,
    program_of,
    pullback,
    source_line,
    trace,
    walk,
)

X = jnp.array([0.3, -1.2, 2.0])
W = jnp.array([[0.5, 1.0, -0.3], [1.5, -0.5, 0.2]])


def traced(f: Callable[..., Any], *xs: Any, aux: bool = False) -> LinearProgram:
    """The linear program of a function of arrays to an array, or a tuple of them."""

    def flat(extras: Any, xs: Any) -> tuple[list[Any], list[Any]]:
        out = f(*xs)
        out, extra = out if aux else (out, [])
        return list(out) if isinstance(out, tuple) else [out], list(extra)

    return trace(flat, xs)


def names(program: Program) -> list[str]:
    return [e.primitive.name for e in program.equations]


# The derivative ---------------------------------------------------------------------------------------------

FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "elementwise": (lambda x: jnp.sin(x) * x, (X,)),
    "product": (lambda x, w: jnp.tanh(w @ x), (X, W)),
    "two outputs": (lambda x: (jnp.sum(x**2), x[::-1]), (X,)),
    "unused input": (lambda x, y: jnp.sin(x), (X, X)),
    "constant output": (lambda x: (jnp.sin(x), jnp.ones(2)), (X,)),
    "pass-through": (lambda x: (x, x), (X,)),
    "gather": (lambda x: x[jnp.array([2, 0, 0])] ** 2, (X,)),
    "scan": (lambda x: jax.lax.scan(lambda c, a: (jnp.sin(c) * a, c), x, W)[0], (X,)),
    "cond": (lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), (X,)),
    "checkpoint": (jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))), (X,)),
    "jit in jit": (jax.jit(lambda x: jax.jit(jnp.tanh)(x) * jax.nn.silu(x)), (X,)),
    "jit twice": (lambda x: jax.jit(jnp.sinh)(jax.jit(jnp.sinh)(x)), (X,)),
    "solve": (lambda x: jnp.linalg.solve(jnp.eye(3) * 3 + jnp.outer(x, x), x), (X,)),
    "sort": (lambda x: jnp.sort(x) * x, (X,)),
    "NumPy constant in jit": (jax.jit(lambda x: jnp.sin(x) * np.array([1, 2, 3], np.float32)), (X,)),
    "complex inside": (lambda x: jnp.abs(jnp.fft.fft(x)) ** 2, (X,)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_linear_program_is_the_derivative(name: str) -> None:
    f, xs = FUNCTIONS[name]
    program = traced(f, *xs)
    flat = lambda *xs: jax.tree.leaves(f(*xs))
    ts = [jnp.cos(x + k) for k, x in enumerate(xs)]
    ys, aux, residuals = program.evaluate(program.operands, xs)
    expected, expected_t = jax.jvp(flat, xs, tuple(ts))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert aux == []
    jax.tree.map(close, ys, expected)
    jax.tree.map(close, program.push(residuals, ts), expected_t)
    gs = [jnp.sin(1.0 + y) for y in ys]
    pulled = pullback(lambda *t: program.push(residuals, t), program.in_avals)(*gs)
    jax.tree.map(close, pulled, list(jax.vjp(flat, *xs)[1](gs)))
    # The function itself, for the build that recomputes.
    jax.tree.map(close, program.function(*program.operands, *xs)[: program.n_out], expected)


# Told apart in one trace, or by JAX -------------------------------------------------------------------------


@jax.custom_jvp
def looping(x: Any) -> Any:
    return jnp.sin(x)


@looping.defjvp
def _(primals: Any, tangents: Any) -> Any:
    body = lambda c, _: (c * 1.5, None)
    return looping(*primals), jax.lax.scan(body, tangents[0] * primals[0], None, 3)[0]


@jax.custom_vjp
def doubled(x: Any) -> Any:
    return 2 * x


doubled.defvjp(lambda x: (2 * x, jnp.sum(x)), lambda s, g: (2 * g * s,))

IN_ONE_TRACE: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "relu of a product": (lambda x, w: jax.nn.relu(w @ x), (X, W)),
    "scatter": (lambda x: jnp.zeros(5).at[jnp.array([3, 1, 1])].add(x**2).at[0].set(x[1]), (X,)),
    "sort": (lambda x: jnp.sort(jnp.sin(x)) * x, (X,)),
    "softmax": (lambda x: jax.nn.softmax(x[None] * x[:, None]), (X,)),
    "constant output": (lambda x: (jnp.sin(x), jnp.ones((2, 3)), jnp.zeros(())), (X,)),
    "unused input": (lambda x, y: jnp.sin(x), (X, X)),
    "pass-through": (lambda x: (x, x), (X,)),
    "straight through": (lambda x: x + jax.lax.stop_gradient(jnp.round(x) - x), (X,)),
    "determinant": (lambda x: jnp.linalg.det(jnp.outer(x, x) + jnp.eye(3)), (X,)),
    "convolution": (lambda x: jnp.convolve(x, x), (X,)),
    "max-pool": (lambda x: jax.lax.reduce_window(x**3, -jnp.inf, jax.lax.max, (2,), (1,), "SAME"), (X,)),
    "complex": (lambda x: (jnp.exp(1j * x) ** 2).imag, (X,)),
    "custom_vjp": (lambda x: doubled(x) * x, (X,)),
    "integers in between": (lambda x: x * jnp.argmax(x) + jnp.floor(x).astype(int), (X,)),
}
BY_JAX: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "scan": (lambda x: jax.lax.scan(lambda c, a: (jnp.sin(c) * a, c), x, W), (X,)),
    "cond": (lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), (X,)),
    "checkpoint": (jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))), (X,)),
    "a rule with a loop": (lambda x: looping(x) * x, (X,)),
    "solve": (lambda x: jnp.linalg.solve(jnp.outer(x, x) + jnp.eye(3), x), (X,)),
}


def linearized(f: Callable[..., Any], xs: tuple[Any, ...], way: Callable[..., Any]) -> Any:
    function, constants, _ = program_of(lambda *xs: tuple(jax.tree.leaves(f(*xs))), *xs)
    found = way(function, len(constants), len(function.outputs))
    if found is None:
        return None
    more, function, primal, linear = found
    operands, n_out = (*more, *constants), len(function.outputs)
    results = jax.jit(lambda *xs: primal(*operands, *xs))(*xs)
    seeds = [jnp.cos(3.0 * x + 1) for x in xs]
    pulls = linear.out_avals
    pushed = None if "custom_lin" in names(linear) else linear(*results[n_out:], *seeds)
    pull = pullback(lambda *t: linear(*results[n_out:], *t), [v.aval for v in linear.inputs[-len(xs) :]])
    return results[:n_out], pushed, pull(*(jnp.cos(jnp.arange(1.0, a.size + 1)).reshape(a.shape) for a in pulls))


@pytest.mark.parametrize("name", IN_ONE_TRACE)
def test_told_apart_programs_are_those_of_linearize(name: str) -> None:
    f, xs = IN_ONE_TRACE[name]
    actual = linearized(f, xs, _linearize._told_apart)
    expected = linearized(f, xs, _linearize._by_jax)
    assert actual is not None
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, expected)


@pytest.mark.parametrize("name", BY_JAX)
def test_what_does_the_work_of_both_programs_is_taken_apart_by_jax(name: str) -> None:
    f, xs = BY_JAX[name]
    assert linearized(f, xs, _linearize._told_apart) is None
    assert linearized(f, xs, lambda function, n, n_out: _linearize.linearize(function, (None,) * n, n_out)) is not None
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), jb.jacobian(f)(*xs), jax.jacfwd(f)(*xs)
    )


def test_integer_inputs_are_left_to_jax() -> None:
    function, constants, _ = program_of(lambda n: (n * 1.5,), jnp.arange(3))
    assert _linearize._told_apart(function, len(constants), 1) is None


def test_it_needs_no_values() -> None:
    program = traced(lambda x: jnp.sin(x) * x, jax.ShapeDtypeStruct((3,), jnp.float32))
    ys, _, residuals = program.evaluate(program.operands, [X])
    np.testing.assert_allclose(ys[0], jnp.sin(X) * X, rtol=1e-6)
    np.testing.assert_allclose(program.push(residuals, [X])[0], X * (jnp.cos(X) * X + jnp.sin(X)), rtol=1e-6)


def test_aux_is_evaluated_and_not_differentiated() -> None:
    program = traced(lambda x: (x**2, [jnp.argmax(x), jnp.sin(x)]), X, aux=True)
    ys, aux, residuals = program.evaluate(program.operands, [X])
    assert program.n_out == len(ys) == 1
    np.testing.assert_array_equal(aux[0], 2)
    np.testing.assert_allclose(aux[1], jnp.sin(X), rtol=1e-6)
    assert len(program.push(residuals, [X])) == 1


def test_f_runs_once() -> None:
    calls = []
    traced(lambda x: (calls.append(1), jnp.sin(x))[1], X)
    assert calls == [1]


def test_closed_over_arrays_are_operands() -> None:
    scale = jnp.array([1.0, 2.0, 3.0])
    program = traced(lambda x: jnp.sin(x) * scale, X)
    (operand,) = program.operands
    np.testing.assert_array_equal(operand, scale)
    # Another value in its place, and it is another function.
    _, _, residuals = program.evaluate([10 * scale], [X])
    np.testing.assert_allclose(program.push(residuals, [jnp.ones(3)])[0], 10 * scale * jnp.cos(X), rtol=1e-6)
    assert program.without_values().operands[0].shape == (3,)
    assert not isinstance(program.without_values().operands[0], jax.Array)


# Flat, pruned, with its lines -------------------------------------------------------------------------------


def test_nested_jits_are_written_out() -> None:
    inner = jax.jit(lambda x: jax.jit(jnp.sin)(x) * x)
    program = traced(lambda x: inner(inner(x)), X)
    assert not {"jit", "pjit", "closed_call"} & set(names(program.linear))
    made = [v for e in program.linear.equations for v in e.outvars]
    assert len(made) == len(set(made))  # a body inlined twice has variables of its own each time


def test_nothing_is_left_that_no_output_needs() -> None:
    program = traced(lambda x: (jnp.sin(x), jnp.exp(x), jnp.cos(x))[0], X)
    read = {v for e in program.linear.equations for v in e.invars} | set(program.linear.outputs)
    for equation in program.linear.equations:
        assert any(v in read for v in equation.outvars)
    assert len(program.residuals) == 1  # cos(x)
    assert all(r in read for r in program.residuals)


def test_pruning_keeps_order_and_values() -> None:
    def f(x):
        a, b = jnp.sin(x), jnp.cos(x)
        return a * 2, b * 3, a + b

    program, _, _ = program_of(f, X)
    kept = Program(program.inputs, program.outputs[:1], program.equations).pruned()
    assert names(kept) == ["sin", "mul"]
    np.testing.assert_allclose(kept(X)[0], 2 * jnp.sin(X), rtol=1e-6)


def test_pruning_keeps_effects() -> None:
    program, _, _ = program_of(lambda x: (jax.debug.callback(lambda _: None, x), x * 2)[1], X)
    assert "debug_callback" in names(program.pruned())


def test_walking_goes_into_bodies() -> None:
    body = lambda c, _: (jax.lax.cond(c[0] > 0, jnp.sin, jnp.cos, c), None)
    f = lambda x: jax.lax.scan(body, x, None, 2)[0]
    program, _, _ = program_of(f, X)
    assert {"scan", "cond", "sin", "cos"} <= {e.primitive.name for e in walk(program.equations)}


def test_active_variables() -> None:
    def f(x, y):
        a = jnp.sin(x)
        b = jnp.cos(y)
        return a * b

    program, _, _ = program_of(f, X, X)
    active = active_variables(program, program.inputs[:1])
    by_name = {e.primitive.name: e.outvars[0] in active for e in program.equations}
    assert by_name == {"sin": True, "cos": False, "mul": True}


def lines(x):
    y = jnp.tanh(x)
    z = jnp.dot(W, y)  # the product

    def body(c, _):
        return jnp.sin(c), None  # the body

    return jax.jit(lambda z: jax.lax.scan(body, z, None, 2)[0])(z)  # the loop


def test_every_equation_knows_the_user_s_line() -> None:
    source, first = inspect.getsourcelines(lines)
    row = lambda mark: next(k for k, text in enumerate(source) if f"# the {mark}" in text)
    at = {mark: f"test_linear.py:{first + row(mark)}" for mark in ("product", "body", "loop")}
    program = traced(lines, X)
    found: dict[str, set[str]] = {}
    for equation in walk(program.linear.equations):
        found.setdefault(equation.primitive.name, set()).add(source_line(equation))
    assert found["dot_general"] == {at["product"]}
    assert found["scan"] == {at["loop"]}
    assert at["body"] in set().union(*found.values())


def test_the_user_s_line_is_never_a_library_s() -> None:
    program = traced(lambda x: jnp.linalg.norm(x) * jnp.tanh(x), X)
    frame = inspect.currentframe()
    assert frame is not None
    line = frame.f_lineno - 3
    # JAX keeps traces of its own functions, such as norm: the line is that of this call all the same.
    assert {source_line(e) for e in program.linear.equations} == {f"test_linear.py:{line}"}


# What an equation forbids -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_ordinary_equations_forbid_nothing(name: str) -> None:
    f, xs = FUNCTIONS[name]
    program = traced(f, *xs)
    active = active_variables(program.linear, program.tangents)
    for mode in ("fwd", "rev"):
        assert obstructions(program.linear, active, mode) == []


# When two programs are the same -----------------------------------------------------------------------------


def key(f: Callable[..., Any], *xs: Any) -> Any:
    return identity(traced(f, *(xs or (X,))))


def custom_vjp(factor: float) -> Callable[..., Any]:
    @jax.custom_vjp
    def f(x):
        return jnp.sin(x)

    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (factor * jnp.cos(x) * g,))
    return f


def custom_jvp(factor: float) -> Callable[..., Any]:
    @jax.custom_jvp
    def f(x):
        return jnp.sin(x)

    f.defjvp(lambda x, t: (jnp.sin(x[0]), factor * jnp.cos(x[0]) * t[0]))
    return f


C1, C2, C3 = jnp.ones(3), 2 * jnp.ones(3), jnp.ones(1)
VJP2, VJP3 = custom_vjp(2.0), custom_vjp(3.0)

SAME: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "itself": (lambda x: jnp.sin(x), lambda x: jnp.sin(x)),
    "other names": (lambda x: jnp.sin(x) * 2, lambda y: jnp.sin(y) * 2),
    "other constants of the same kind": (lambda x: x * C1, lambda x: x * C2),
    "the same scan": (
        lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, None, 3)[0],
        lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, None, 3)[0],
    ),
    "the same custom rule": (lambda x: VJP2(x), lambda y: VJP2(y)),
    "relu": (lambda x: jax.nn.relu(x), lambda x: jax.nn.relu(x)),
}

DIFFERENT: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "primitives": (lambda x: jnp.sin(x), lambda x: jnp.cos(x)),
    "literals": (lambda x: x * 2.0, lambda x: x * 3.0),
    "signs of zero": (lambda x: jnp.arctan2(x, 0.0), lambda x: jnp.arctan2(x, -0.0)),
    "integer powers": (lambda x: x**2, lambda x: x**3),
    "shapes of constants": (lambda x: x * C1, lambda x: x * C3),
    "dtypes of constants": (lambda x: x * C1, lambda x: x * C1.astype(jnp.bfloat16)),
    "order of operands": (lambda x: jnp.sin(x) - x, lambda x: x - jnp.sin(x)),
    "order of outputs": (lambda x: (jnp.sin(x), x), lambda x: (x, jnp.sin(x))),
    "lengths of scans": (
        lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, None, 3)[0],
        lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, None, 4)[0],
    ),
    "bodies of scans": (
        lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, None, 3)[0],
        lambda x: jax.lax.scan(lambda c, _: (jnp.cos(c), None), x, None, 3)[0],
    ),
    "literals deep inside": (
        lambda x: jax.lax.while_loop(lambda c: jnp.sum(c) < 5.0, lambda c: c * 2.0, x),
        lambda x: jax.lax.while_loop(lambda c: jnp.sum(c) < 6.0, lambda c: c * 2.0, x),
    ),
    "axes": (lambda x: jnp.cumsum(jnp.outer(x, x), 0), lambda x: jnp.cumsum(jnp.outer(x, x), 1)),
    "custom_vjp rules": (lambda x: VJP2(x), lambda x: VJP3(x)),
    "custom_jvp rules": (lambda x: custom_jvp(2.0)(x), lambda x: custom_jvp(3.0)(x)),
    "a rule and none": (lambda x: custom_jvp(2.0)(x), lambda x: jnp.sin(x)),
    "precisions": (
        lambda x: jnp.dot(W, x, precision="highest"),
        lambda x: jnp.dot(W, x, precision="default"),
    ),
    "branches": (
        lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x),
        lambda x: jax.lax.cond(x[0] > 0, jnp.cos, jnp.sin, x),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_programs_that_are_the_same(name: str) -> None:
    f, g = SAME[name]
    assert key(f) == key(g)
    assert hash(key(f)) == hash(key(g))


@pytest.mark.parametrize("name", DIFFERENT)
def test_programs_that_are_not(name: str) -> None:
    f, g = DIFFERENT[name]
    assert key(f) != key(g)
    # And so nothing that was kept for the one is run for the other.
    for h in (f, g, f):
        oracle = jax.jacfwd if name == "literals deep inside" else jax.jacrev
        actual, expected = jb.jacobian(h)(X), oracle(h)(X)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-6), actual, expected)


def test_arguments_of_other_kinds_are_other_programs() -> None:
    f = lambda x: x * 2
    kinds = [X, X[:2], X.astype(jnp.float16), X + 0j, X[None], 1.0]
    assert len({key(f, jnp.asarray(x)) for x in kinds}) == len(kinds)
    assert key(f, X) == key(f, 2 * X)


def test_callbacks_are_told_apart_by_what_they_call() -> None:
    def calling(g):
        return lambda x: (
            jax.pure_callback(
                g, jax.ShapeDtypeStruct((3,), jnp.float32), jax.lax.stop_gradient(x), vmap_method="sequential"
            )
            * x
        )

    for g in (np.sin, np.cos, np.sin):
        J = jb.jacobian(calling(g))(X)
        np.testing.assert_allclose(J, np.diag(g(np.asarray(X))), rtol=1e-6)


# Traced or not ----------------------------------------------------------------------------------------------


def test_concrete_values() -> None:
    for leaf in (X, np.ones(2), 2.0, jax.random.key(0)):
        assert is_concrete(leaf)
    seen: list[bool] = []
    note = lambda x: (seen.append(is_concrete(x)), x * 1.0)[1]
    jax.jit(note)(X)
    jax.vmap(note)(X)
    jax.grad(note)(1.0)
    jax.linearize(note, X)
    jax.make_jaxpr(note)(X)
    assert seen
    assert not any(seen)
