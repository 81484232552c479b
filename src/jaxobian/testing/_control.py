"""Scenarios: control flow, transformations inside f, and custom derivative rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ._scenario import normal, scenario, weights

# --- Control flow ------------------------------------------------------------------------------------------


@scenario("bench")
def long_scan():
    """A thousand steps of a small nonlinear map."""

    def f(x: Array) -> Array:
        return lax.scan(lambda h, _: (h + 0.01 * jnp.sin(jnp.roll(h, 1)), None), x, None, length=1000)[0]

    return f, (normal(6),)


@scenario()
def scan_with_inputs_and_outputs():
    """A scan with a pytree carry, inputs, outputs and reversed time."""

    def f(x: dict[str, Array]) -> Any:
        def step(carry: tuple[Array, Array], v: Array) -> tuple[tuple[Array, Array], Array]:
            a, b = carry
            return (a * v + b, b + jnp.sin(a)), a - b

        return lax.scan(step, (x["a"], jnp.float32(0.5)), x["vs"], reverse=True)

    return f, ({"a": jnp.float32(0.2), "vs": normal(5)},)


@scenario()
def scan_of_constants():
    """A scan whose carried index is an integer that selects rows of a table."""
    table = normal(4, 3)

    def f(x: Array) -> Array:
        return lax.scan(lambda c, _: ((c[0] + 1, c[1] * table[c[0]]), c[1].sum()), (0, x), None, length=4)[1]

    return f, (normal(3, seed=1),)


@scenario()
def associative_scan():
    """A linear recurrence by an associative scan."""

    def f(x: Array) -> Array:
        return lax.associative_scan(lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1]), (jnp.cos(x), x))[1]

    return f, (normal(7),)


@scenario()
def fori_loop():
    """A fori_loop with a fixed number of steps: a scan in disguise."""
    return lambda x: lax.fori_loop(0, 5, lambda i, v: jnp.sin(v) * (i + 1), x), (normal(4),)


@scenario()
def loop_map():
    """A lax.map over rows."""
    return lambda x: lax.map(lambda row: jnp.cumsum(row) * row[0], x), (normal(4, 3),)


def _until_large(x: Array) -> Array:
    """Grow x until its norm is 10: how often is only known at run time."""
    return lax.while_loop(lambda v: jnp.sum(v**2) < 100, lambda v: v * 1.5 + 0.1 * jnp.sin(v), x)


@scenario("bench", modes=("fwd",))
def while_dynamic():
    """A while loop that runs until its value is large: JAX cannot pull through it."""
    return _until_large, (normal(4),)


@scenario(modes=("fwd",))
def while_newton():
    """Newton's method until it converges, many inputs to one output: forward is the only mode."""

    def f(coefficients: Array) -> Array:
        def newton(state: tuple[Array, Array]) -> tuple[Array, Array]:
            x, _ = state
            return x - (x**3 + coefficients @ x**2 - 9) / (3 * x**2 + 1), x

        far = lambda state: jnp.max(jnp.abs(state[0] - state[1])) > 1e-5  # noqa: E731
        return lax.while_loop(far, newton, (jnp.ones(3), jnp.zeros(3)))[0].sum()

    return f, (0.1 * normal(3, 3),)


@scenario()
def while_of_integers():
    """A while loop that only counts; what is differentiated does not pass through it."""

    def f(x: Array) -> Array:
        n = lax.while_loop(lambda i: i * i < 50, lambda i: i + 1, 0)
        return jnp.sin(x) * n

    return f, (normal(3),)


@scenario()
def cond():
    """A branch chosen by the value of the argument."""
    return lambda x: lax.cond(x[0] > 0, lambda v: jnp.sin(v), lambda v: v**2, x), (normal(3),)


@scenario(argnums=1)
def switch():
    """One of three branches, one of them constant."""
    branches = [jnp.sin, lambda v: v * v[0], lambda v: jnp.ones_like(v)]
    return lambda i, x: lax.switch(i, branches, x), (jnp.int32(1), normal(4))


@scenario()
def cond_in_scan():
    """A branch inside a scan."""

    def f(x: Array) -> Array:
        def step(h: Array, i: Array) -> tuple[Array, Array]:
            return lax.cond(i % 2 == 0, jnp.sin, lambda v: 2 * v, h), h

        return lax.scan(step, x, jnp.arange(4))[1]

    return f, (normal(2),)


@scenario()
def nested_jit():
    """Jits inside a jit inside f."""
    inner = jax.jit(lambda x: jnp.sin(x) * x)
    outer = jax.jit(lambda x: inner(inner(x)) + x)
    return lambda x: outer(x) + inner(x), (normal(4),)


@scenario()
def vmap_inside():
    """Transformations inside f: vmap, grad and jvp."""

    def f(x: Array) -> Array:
        energy = lambda row: jnp.sum(jnp.sin(row) * row**2)  # noqa: E731
        gradients = jax.vmap(jax.grad(energy))(x)
        return jax.jvp(jnp.tanh, (gradients,), (x,))[1]

    return f, (normal(3, 2),)


@scenario()
def remat():
    """Half of f under jax.checkpoint, twice."""
    half = jax.checkpoint(lambda x: jnp.sin(jnp.cos(x) * x))
    return lambda x: half(half(x)[::-1] * x), (normal(5),)


@scenario()
def callback_free_rng():
    """Random numbers inside f: the same in every pass."""
    return lambda x: x * jax.random.normal(jax.random.key(3), (4,)), (normal(4),)


# --- Custom rules ------------------------------------------------------------------------------------------


def _triple(x: Array) -> Array:
    return x**2


# The rules say 3x where calculus says 2x: rules are obeyed, never looked through.
custom_vjp_square = jax.custom_vjp(_triple)
custom_vjp_square.defvjp(lambda x: (x**2, x), lambda x, g: (3 * x * g,))

custom_jvp_square = jax.custom_jvp(_triple)
custom_jvp_square.defjvp(lambda primals, tangents: (primals[0] ** 2, 3 * primals[0] * tangents[0]))


@scenario()
def custom_jvp():
    """A custom_jvp rule that says 3x where calculus says 2x."""
    return lambda x: jnp.sin(custom_jvp_square(x)), (normal(4),)


@scenario(modes=("rev",))
def custom_vjp():
    """A custom_vjp rule that says 3x where calculus says 2x: JAX cannot push it."""
    return lambda x: jnp.sin(custom_vjp_square(x)), (normal(4),)


@scenario("bench", modes=("rev",))
def custom_vjp_wide():
    """A custom_vjp rule in a function with many more outputs than inputs: still only reverse."""
    w = weights(5, 40)
    return lambda x: jnp.tanh(custom_vjp_square(x) @ w), (normal(5),)


@scenario()
def straight_through():
    """Rounding with the derivative of the identity, by stop_gradient."""
    return lambda x: x + lax.stop_gradient(jnp.round(x) - x), (3 * normal(5),)


@scenario(modes=("rev",))
def custom_vjp_clipped():
    """A custom_vjp with a non-differentiable argument that clips its cotangent."""

    def clip_bwd(limit: float, _: None, g: Array) -> tuple[Array]:
        return (jnp.clip(g, -limit, limit),)

    identity = jax.custom_vjp(lambda limit, x: x, nondiff_argnums=(0,))
    identity.defvjp(lambda limit, x: (x, None), clip_bwd)
    return lambda x: identity(0.5, 2 * x), (normal(3),)


def _neither(combine: Callable[[Callable[[Array], Array], Array], Array]) -> Callable[[], Any]:
    """The same program with a rule that can be pushed forward instead."""
    return lambda: lambda x: combine(custom_jvp_square, x)


def _vjp_then_while(square: Callable[[Array], Array], x: Array) -> Array:
    return _until_large(square(x) + 0.5)


def _while_then_vjp(square: Callable[[Array], Array], x: Array) -> Array:
    return square(_until_large(x))[:3]


def _vjp_plus_while(square: Callable[[Array], Array], x: Array) -> Array:
    return square(x) + _until_large(x)


@scenario(modes=(), reference=_neither(_vjp_then_while))
def custom_vjp_then_while():
    """Reverse through the first half, forward through the second: neither mode works alone."""
    return lambda x: _vjp_then_while(custom_vjp_square, x), (normal(4),)


@scenario(modes=(), reference=_neither(_while_then_vjp))
def while_then_custom_vjp():
    """Forward, then reverse."""
    return lambda x: _while_then_vjp(custom_vjp_square, x), (normal(4),)


@scenario(modes=(), reference=_neither(_vjp_plus_while))
def custom_vjp_plus_while():
    """Forward and reverse side by side."""
    return lambda x: _vjp_plus_while(custom_vjp_square, x), (normal(4),)
