"""Scenarios: differential equations: time stepping, implicit steps, shooting, collocation, chemistry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.ode import odeint

from ._scenario import mlp, normal, scenario, uniform


def _rk4(field: Callable[[Array], Array], y: Array, h: float) -> Array:
    """One step of the classical Runge-Kutta method."""
    k1 = field(y)
    k2 = field(y + h / 2 * k1)
    k3 = field(y + h / 2 * k2)
    k4 = field(y + h * k3)
    return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def _states(field: Callable[[Array], Array], y: Array, h: float, steps: int) -> tuple[Array, Array]:
    """The last state, and all of them."""

    def step(y: Array, _: Any) -> tuple[Array, Array]:
        y = _rk4(field, y, h)
        return y, y

    return lax.scan(step, y, None, length=steps)


def _predator_prey(p: Array, y: Array) -> Array:
    return jnp.stack([p[0] * y[0] - p[1] * y[0] * y[1], p[2] * y[0] * y[1] - p[3] * y[1]])


# --- Explicit steps ----------------------------------------------------------------------------------------


@scenario("bench")
def rk4_parameters(steps: int = 40):
    """All states of a predator-prey model over 40 Runge-Kutta steps, by its four parameters."""
    start = jnp.array([1.2, 0.8])
    return lambda p: _states(lambda y: _predator_prey(p, y), start, 2.0 / steps, steps)[1], (uniform(4),)


@scenario("bench")
def rk4_fit():
    """Squared distance of the same states from measured ones, by the four parameters and the initial state."""
    measured = uniform(40, 2, seed=1)

    def f(p: Array) -> Array:
        return jnp.sum((_states(lambda y: _predator_prey(p, y), p[4:], 0.05, 40)[1] - measured) ** 2)

    return f, (uniform(6),)


@scenario("bench")
def neural_ode(width: int = 6):
    """A 6-32-6 network as a vector field, 10 Runge-Kutta steps, by the initial state."""
    net = mlp(width, 32, width)
    return lambda y: _states(net, y, 0.1, 10)[0], (normal(width),)


@scenario("bench")
def heat_steps(cells: int = 100):
    """Six explicit steps of a nonlinear heat equation on 100 cells."""

    def step(u: Array, _: Any) -> tuple[Array, None]:
        padded = jnp.pad(u, 1, mode="edge")
        flux = (1 + u**2) * (padded[2:] - 2 * u + padded[:-2])
        return u + 0.05 * flux, None

    return lambda u: lax.scan(step, u, None, length=6)[0], (uniform(cells),)


@scenario("bench", modes=("rev",))
def odeint_parameters():
    """A predator-prey model integrated by `odeint`, by its four parameters."""
    start, times = jnp.array([1.2, 0.8]), jnp.linspace(0.0, 1.0, 4)
    return lambda p: odeint(lambda y, t, p: _predator_prey(p, y), start, times, p), (uniform(4),)


@scenario("bench")
def optimal_control(nodes: int = 60):
    """Defects of a cart with a pole between 60 nodes, a Runge-Kutta step apart, by the states and the controls."""

    def field(y: Array, u: Array) -> Array:
        s, c = jnp.sin(y[1]), jnp.cos(y[1])
        push = (u + s * (y[3] ** 2 + 9.81 * c)) / (2 + s**2)
        return jnp.stack([y[2], y[3], push, -push * c - 9.81 * s])

    def f(z: Array) -> Array:
        ends = jax.vmap(lambda y, u: _rk4(lambda y: field(y, u), y, 0.05))(z[:-1, :4], z[:-1, 4])
        return z[1:, :4] - ends

    return f, (normal(nodes, 5),)


@scenario("bench")
def trajectories(number: int = 40):
    """The ends of 40 trajectories of a driven pendulum, 20 Runge-Kutta steps each, by where they begin."""

    def end(y: Array) -> Array:
        return _states(lambda y: jnp.stack([y[1], -jnp.sin(y[0]) - 0.1 * y[1]]), y, 0.1, 20)[0]

    return jax.vmap(end), (normal(number, 2),)


# --- Implicit steps, and constraints -----------------------------------------------------------------------


def _kinetics(y: Array) -> Array:
    """Three species, of which one reacts much faster than the others."""
    fast, slow, back = 3.0 * y[1] ** 2, 0.4 * y[0], 1.5 * y[1] * y[2]
    return jnp.stack([back - slow, slow - back - fast, fast])


@scenario("bench")
def implicit_steps():
    """Eight backward Euler steps of a chemical reaction, three Newton iterations each, by the initial state."""

    def step(y: Array, _: Any) -> tuple[Array, None]:
        def newton(z: Array, _: Any) -> tuple[Array, None]:
            residual = z - y - 0.2 * _kinetics(z)
            return z - jnp.linalg.solve(jnp.eye(3) - 0.2 * jax.jacfwd(_kinetics)(z), residual), None

        return lax.scan(newton, y, None, length=3)[0], None

    return lambda y: lax.scan(step, y, None, length=8)[0], (uniform(3),)


@scenario("bench")
def multiple_shooting(pieces: int = 30):
    """Gaps between the ends of 30 pieces of a trajectory and the starts of the next, by the starts."""

    def f(starts: Array) -> Array:
        ends = jax.vmap(lambda y: _states(lambda y: jnp.stack([y[1], -jnp.sin(y[0])]), y, 0.1, 5)[0])(starts)
        return ends[:-1] - starts[1:]

    return f, (normal(pieces + 1, 2),)


@scenario("bench")
def collocation(nodes: int = 80):
    """Hermite-Simpson defects of a pendulum at 80 nodes, by its states and controls."""

    def field(z: Array) -> Array:
        return jnp.stack([z[:, 1], -jnp.sin(z[:, 0]) + z[:, 2]], axis=1)

    def f(z: Array) -> Array:
        h, y, dy = 0.1, z[:, :2], field(z)
        middle = (y[:-1] + y[1:]) / 2 + h / 8 * (dy[:-1] - dy[1:])
        control = (z[:-1, 2:] + z[1:, 2:]) / 2
        at_middle = field(jnp.concatenate([middle, control], axis=1))
        return y[1:] - y[:-1] - h / 6 * (dy[:-1] + 4 * at_middle + dy[1:])

    return f, (normal(nodes, 3),)


# --- Chemistry ---------------------------------------------------------------------------------------------


@scenario("bench")
def reaction_network(species: int = 10, reactions: int = 14):
    """Rates of change of ten species under 14 reactions of mass action."""
    orders = jnp.round(uniform(reactions, species, low=0, high=0.65, seed=1))
    changes = jnp.round(1.2 * normal(reactions, species, seed=2))
    rates = uniform(reactions, seed=3)
    return lambda c: changes.T @ (rates * jnp.exp(orders @ jnp.log(c))), (uniform(species),)


@scenario("bench")
def reaction_temperatures(temperatures: int = 20):
    """Rates of 14 reactions at 20 temperatures, by the logarithms of Arrhenius' factors and by energies."""
    inverse = jnp.linspace(1.0, 2.0, temperatures)
    return lambda p: jnp.exp(p[0] - inverse[:, None] * p[1]), (uniform(2, 14),)


@scenario("bench")
def equilibrium():
    """Concentrations at equilibrium by three totals and two constants: eight Newton iterations."""

    def residual(z: Array, p: Array) -> Array:
        a, b, c = jnp.exp(z)
        ab, bc = jnp.exp(p[3]) * a * b, jnp.exp(p[4]) * b * c
        return jnp.stack([a + ab, b + ab + bc, c + bc]) - jnp.exp(p[:3])

    def f(p: Array) -> Array:
        def newton(z: Array, _: Any) -> tuple[Array, None]:
            return z - jnp.linalg.solve(jax.jacfwd(residual)(z, p), residual(z, p)), None

        return jnp.exp(lax.scan(newton, jnp.zeros(3), None, length=8)[0])

    return f, (0.3 * normal(5),)


@scenario("bench")
def reactor(cells: int = 60):
    """Three species that flow, spread and react along 60 cells of a tube, as a method of lines."""

    def f(c: Array) -> Array:
        padded = jnp.pad(c, ((1, 1), (0, 0)), mode="edge")
        flow = padded[:-2] - c
        spread = padded[2:] - 2 * c + padded[:-2]
        return 2.0 * flow + 0.5 * spread + jax.vmap(_kinetics)(c)

    return f, (uniform(cells, 3),)
