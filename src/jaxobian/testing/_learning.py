"""Scenarios: losses and small models by their parameters, normalizations, embeddings."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ._scenario import apply_mlp, init_mlp, integers, mlp, normal, scenario, uniform, weights

# --- Losses: one output ------------------------------------------------------------------------------------


@scenario("bench")
def logistic_loss(points: int = 100, features: int = 24):
    """Logistic loss of 100 points by 24 weights."""
    x, y = normal(points, features), jnp.sign(normal(points, seed=1))
    return lambda w: jnp.mean(jax.nn.softplus(-y * (x @ w))) + 0.01 * w @ w, (normal(features, seed=2),)


@scenario("bench")
def squared_loss():
    """Squared loss of 40 points by 12 weights."""
    x, y = normal(40, 12), normal(40, seed=1)
    return lambda w: jnp.sum((x @ w - y) ** 2), (normal(12, seed=2),)


@scenario("bench")
def softmax_loss():
    """Cross-entropy of 32 points in five classes by a 12 x 5 matrix."""
    x, labels = normal(32, 12), integers(5, 32)

    def f(w: Array) -> Array:
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x @ w), labels[:, None], axis=1))

    return f, (weights(12, 5),)


@scenario("bench")
def network_loss(points: int = 20):
    """Squared loss of a 10-16-1 network on 20 points by its parameters: one output."""
    x, y = normal(points, 10), normal(points, 1, seed=1)
    return lambda p: jnp.mean((apply_mlp(p, x) - y) ** 2), (init_mlp(10, 16, 1),)


@scenario("bench")
def weight_norm_direction():
    """Loss of a weight-normalized layer by the direction of its five weights."""
    x, y = normal(50, 5), normal(50, seed=1)
    return lambda v: jnp.mean((jnp.tanh(x @ (1.3 * v / jnp.linalg.norm(v))) - y) ** 2), (normal(5, seed=2),)


@scenario("bench")
def marginal_likelihood():
    """A Gaussian process's marginal likelihood of 16 points by the logarithms of three hyperparameters."""
    x, y = jnp.linspace(0, 1, 16), normal(16)
    squared = (x[:, None] - x) ** 2

    def f(p: Array) -> Array:
        scale, length, noise = jnp.exp(p)
        factor = jnp.linalg.cholesky(scale * jnp.exp(-squared / length) + (noise + 0.1) * jnp.eye(16))
        z = jax.scipy.linalg.solve_triangular(factor, y, lower=True)
        return z @ z / 2 + jnp.sum(jnp.log(jnp.diagonal(factor)))

    return f, (0.3 * normal(3, seed=1),)


# --- Outputs by parameters ---------------------------------------------------------------------------------


@scenario("bench")
def pinn_residuals(points: int = 30):
    """Residuals of u'' + u = 0 at 30 points by the parameters of a 1-16-16-1 network: natural gradients."""
    times = jnp.linspace(-1, 1, points)

    def f(p: Any) -> Array:
        def u(t: Array) -> Array:
            return apply_mlp(p, t[None])[0]

        return jax.vmap(lambda t: jax.grad(jax.grad(u))(t) + u(t))(times)

    return f, (init_mlp(1, 16, 16, 1),)


@scenario("bench")
def network_residuals(points: int = 25):
    """Residuals of a 4-12-1 network at 25 points by its parameters: Levenberg and Marquardt's Jacobian."""
    x = normal(points, 4)
    return lambda p: apply_mlp(p, x)[:, 0] - jnp.sin(x[:, 0]), (init_mlp(4, 12, 1),)


@scenario("bench")
def curve_fit(times: int = 40):
    """Residuals of a sum of two decays at 40 times, by its four parameters."""
    t = jnp.linspace(0, 2, times)
    return lambda p: p[0] * jnp.exp(-p[1] * t) + p[2] * jnp.exp(-p[3] * t), (uniform(4),)


@scenario("bench")
def embedding_table(vocabulary: int = 50, length: int = 12):
    """Logits of a text of 12 tokens by the table of 50 embeddings, looked up, added to places and mixed."""
    tokens, places = integers(vocabulary, length), normal(length, 8, seed=1)
    hidden, head = weights(8, 16, seed=2), weights(16, 4, seed=3)

    def f(table: Array) -> Array:
        return jnp.tanh((table[tokens] + places) @ hidden).mean(0) @ head

    return f, (normal(vocabulary, 8),)


@scenario("bench")
def network_30_5():
    """A 30-20-5 network by its input."""
    return mlp(30, 20, 5), (normal(30),)


@scenario("bench")
def deep_sets(elements: int = 16):
    """A network on each of 16 elements of three numbers, summed and mapped to two."""
    each, whole = mlp(3, 16, 8), mlp(8, 8, 2, seed=5)
    return lambda x: whole(jnp.tanh(each(x)).sum(0)), (normal(elements, 3),)


@scenario("bench")
def classifier_parameters(examples: int = 32):
    """Logits of 32 examples by the parameters of a 20-32-10 network that all share."""
    x = normal(examples, 20)
    return lambda p: apply_mlp(p, x), (init_mlp(20, 32, 10),)


# --- Normalizations ----------------------------------------------------------------------------------------


@scenario("bench")
def normalized_rows(rows: int = 30):
    """Rows of a 30 x 10 matrix, divided by their norms."""
    return lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True), (normal(rows, 10),)


@scenario("bench")
def softmax_rows(rows: int = 12):
    """Softmax of each of 12 rows of eight."""
    return lambda x: jax.nn.softmax(x, axis=-1), (normal(rows, 8),)


@scenario("bench")
def rms_norm(rows: int = 8):
    """RMSNorm of eight rows of 16, and a dense layer."""
    scale, w = uniform(16), weights(16, 12, seed=1)
    return lambda x: (x * scale / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5)) @ w, (normal(rows, 16),)
