"""Scenarios: forces between particles, spectral methods, signals."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ._scenario import integers, normal, scenario, uniform

# --- Forces ------------------------------------------------------------------------------------------------


def _crystal(n: int) -> Array:
    """Particles on a cubic lattice, each a little off its place."""
    side = int(np.ceil(n ** (1 / 3)))
    places = jnp.stack(jnp.meshgrid(*3 * [jnp.arange(side)], indexing="ij"), -1).reshape(-1, 3)[:n]
    return 1.2 * places.astype(jnp.float32) + 0.05 * normal(n, 3)


def _lennard_jones(positions: Array) -> Array:
    """Forces between all pairs."""
    apart = positions[:, None] - positions[None]
    own = jnp.eye(len(positions))
    inverse = (1 - own) / (jnp.sum(apart**2, -1) + own)
    sixth = inverse**3
    return jnp.sum((24 * inverse * (2 * sixth**2 - sixth))[..., None] * apart, axis=1)


@scenario("bench")
def lennard_jones_8():
    """Lennard-Jones forces between eight particles."""
    return _lennard_jones, (_crystal(8),)


@scenario("bench")
def lennard_jones_32(particles: int = 32):
    """Lennard-Jones forces between 32 particles, each on each."""
    return _lennard_jones, (_crystal(particles),)


@scenario("bench")
def gravity(bodies: int = 24):
    """Softened gravity between 24 bodies of different masses."""
    masses = uniform(bodies, seed=1)

    def f(positions: Array) -> Array:
        apart = positions[None] - positions[:, None]
        squared = jnp.sum(apart**2, -1) + 0.05
        return jnp.einsum("j,ijd,ij->id", masses, apart, squared**-1.5)

    return f, (normal(bodies, 3),)


@scenario("bench")
def energy_gradient(charges: int = 20):
    """Coulomb energy of 20 charges by their positions: many inputs, one output."""
    charge = normal(charges, seed=1)
    i, j = np.triu_indices(charges, 1)

    def f(positions: Array) -> Array:
        apart = positions[i] - positions[j]
        return jnp.sum(charge[i] * charge[j] / jnp.sqrt(jnp.sum(apart**2, -1) + 0.1))

    return f, (normal(charges, 3),)


@scenario("bench")
def neighbor_list(particles: int = 60):
    """Forces on 60 particles from the six that a list names for each."""
    neighbors = integers(particles, particles, 6)

    def f(positions: Array) -> Array:
        apart = positions[:, None] - positions[neighbors]
        squared = jnp.sum(apart**2, -1, keepdims=True) + 0.5
        return jnp.sum(apart / squared**2, axis=1)

    return f, (normal(particles, 3),)


@scenario("bench")
def springs(masses: int = 150):
    """Forces of 300 springs on 150 masses, collected by a scatter."""
    i, j = integers(masses, 2 * masses), integers(masses, 2 * masses, seed=1)

    def f(positions: Array) -> Array:
        apart = positions[i] - positions[j]
        force = apart * (1 - 1 / jnp.sqrt(jnp.sum(apart**2, -1, keepdims=True) + 0.1))
        return jnp.zeros_like(positions).at[i].add(-force).at[j].add(force)

    return f, (normal(masses, 2),)


@scenario("bench")
def bond_angles(atoms: int = 60):
    """All angles along a chain of 60 atoms."""

    def f(positions: Array) -> Array:
        bonds = jnp.diff(positions, axis=0)
        bonds = bonds / jnp.linalg.norm(bonds, axis=1, keepdims=True)
        return jnp.arccos(0.99 * jnp.sum(bonds[1:] * bonds[:-1], axis=1))

    return f, (normal(atoms, 3),)


@scenario("bench")
def oscillators(number: int = 200):
    """Phases of 200 oscillators on a ring, each coupled with its two neighbors on either side."""
    own = normal(number)

    def f(phase: Array) -> Array:
        return own + sum(jnp.sin(jnp.roll(phase, k) - phase) for k in (-2, -1, 1, 2))

    return f, (normal(number, seed=1),)


@scenario("bench", argnums=(0, 1))
def power_flow(buses: int = 80):
    """Powers that flow into 80 buses of a grid of 120 lines, by the angles and the magnitudes of their voltages."""
    i, j = integers(buses, 3 * buses // 2), integers(buses, 3 * buses // 2, seed=1)
    conductance, susceptance = uniform(3 * buses // 2), uniform(3 * buses // 2, seed=1)

    def f(angle: Array, v: Array) -> tuple[Array, Array]:
        apart = angle[i] - angle[j]
        active = v[i] * v[j] * (conductance * jnp.cos(apart) + susceptance * jnp.sin(apart))
        reactive = v[i] * v[j] * (conductance * jnp.sin(apart) - susceptance * jnp.cos(apart))
        return jnp.zeros(buses).at[i].add(active).at[j].add(-active), jnp.zeros(buses).at[i].add(reactive)

    return f, (0.1 * normal(buses), uniform(buses, seed=2))


# --- Spectra -----------------------------------------------------------------------------------------------


@scenario("bench")
def fft_filter_1024():
    """A real signal of 1,024 filtered in the frequency domain."""
    gains = uniform(513)
    return lambda x: jnp.fft.irfft(jnp.fft.rfft(jnp.tanh(x)) * gains, n=1024), (normal(1024),)


@scenario("bench")
def spectral_burgers(points: int = 96):
    """Burgers' equation on a periodic line of 96 points, derived in the frequency domain."""
    k = 1j * jnp.arange(points // 2 + 1)

    def f(u: Array) -> Array:
        v = jnp.fft.rfft(u)
        return -u * jnp.fft.irfft(k * v, n=points) + 0.1 * jnp.fft.irfft(k**2 * v, n=points)

    return f, (normal(points),)


@scenario("bench")
def poisson(side: int = 12):
    """The potential of a periodic 12 x 12 density that saturates, by two-dimensional transforms."""
    k = jnp.fft.fftfreq(side)
    factor = 1 / (k[:, None] ** 2 + k[None, : side // 2 + 1] ** 2 * 1.0 + 0.05)
    return lambda rho: jnp.fft.irfft2(jnp.fft.rfft2(jnp.tanh(rho)) * factor, s=(side, side)), (normal(side, side),)


@scenario("bench")
def power_spectrum():
    """The power of a signal of 64 in eight bands."""

    def f(x: Array) -> Array:
        return jnp.sum(jnp.abs(jnp.fft.rfft(x * jnp.hanning(64))[:32].reshape(8, 4)) ** 2, axis=1)

    return f, (normal(64),)


@scenario("bench")
def complex_recurrence(steps: int = 32):
    """A diagonal complex recurrence over 32 steps of four features, by an associative scan: a state-space model."""
    decay = 0.9 * jnp.exp(1j * jnp.linspace(0.1, 1.5, 4))

    def f(x: Array) -> Array:
        a = jnp.broadcast_to(decay, x.shape)
        return lax.associative_scan(lambda p, q: (p[0] * q[0], q[0] * p[1] + q[1]), (a, x + 0j))[1].real

    return f, (normal(steps, 4),)


@scenario("bench")
def quantum_circuit(layers: int = 2):
    """The expectation after six rotations of three qubits, each pair entangled between, by the angles."""
    signs = jnp.array([(-1.0) ** (bin(k).count("1")) for k in range(8)])
    entangle = jnp.array([(-1.0) ** ((k & 1) * (k >> 1 & 1) + (k >> 1 & 1) * (k >> 2)) for k in range(8)])

    def f(angles: Array) -> Array:
        state = jnp.zeros((2, 2, 2), jnp.complex64).at[0, 0, 0].set(1)
        for layer in angles.reshape(layers, 3):
            for qubit, angle in enumerate(layer):
                c, s = jnp.cos(angle / 2), jnp.sin(angle / 2)
                gate = jnp.array([[c, -1j * s], [-1j * s, c]])
                state = jnp.moveaxis(jnp.tensordot(gate, state, (1, qubit)), 0, qubit)
            state = (state.reshape(8) * entangle).reshape(2, 2, 2)
        return jnp.sum(signs * jnp.abs(state.reshape(8)) ** 2)

    return f, (normal(3 * layers),)


@scenario("bench")
def kalman_filter(steps: int = 20):
    """Filtered states of a constant-velocity model over 20 steps, by the measurements."""
    step = jnp.array([[1.0, 0.1], [0.0, 1.0]])

    def f(measured: Array) -> Array:
        def update(state: tuple[Array, Array], z: Array) -> tuple[tuple[Array, Array], Array]:
            mean, cov = state
            mean, cov = step @ mean, step @ cov @ step.T + 0.01 * jnp.eye(2)
            gain = cov[:, 0] / (cov[0, 0] + 0.5)
            mean, cov = mean + gain * (jnp.tanh(z) - mean[0]), cov - jnp.outer(gain, cov[0])
            return (mean, cov), mean

        return lax.scan(update, (jnp.zeros(2), jnp.eye(2)), measured)[1]

    return f, (normal(steps),)


@scenario("bench")
def kalman_likelihood():
    """The likelihood of 20 measurements under such a model, by the logarithms of three variances."""
    measured = jnp.cumsum(0.3 * normal(20))

    def f(p: Array) -> Array:
        process, noise, start = jnp.exp(p)

        def update(state: tuple[Array, Array], z: Array) -> tuple[tuple[Array, Array], Array]:
            mean, var = state
            var = var + process
            total = var + noise
            gain, off = var / total, z - mean
            return (mean + gain * off, (1 - gain) * var), jnp.log(total) + off**2 / total

        return jnp.sum(lax.scan(update, (jnp.zeros(()), start), measured)[1])

    return f, (0.5 * normal(3),)
