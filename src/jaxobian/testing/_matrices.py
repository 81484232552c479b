"""Scenarios: matrices: factors, inverses, least squares, sparse products."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import sparse

from ._scenario import normal, scenario, uniform


def _positive(n: int) -> Array:
    a = normal(n, n)
    return a @ a.T / n + jnp.eye(n)


# --- Factors -----------------------------------------------------------------------------------------------


@scenario("bench")
def inverse(order: int = 10):
    """The inverse of a 10 x 10 matrix by the matrix."""
    return jnp.linalg.inv, (_positive(order),)


@scenario("bench")
def cholesky_factor(order: int = 10):
    """The Cholesky factor of a 10 x 10 matrix by the matrix."""
    return jnp.linalg.cholesky, (_positive(order),)


@scenario("bench")
def cholesky_solve(order: int = 12):
    """A system of twelve equations, solved by Cholesky's factor, by the matrix."""
    b = normal(order)
    return lambda a: jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(a), b), (_positive(order),)


@scenario("bench")
def solve_matrix():
    """The solution of a system of ten equations by its matrix."""
    b = normal(10)
    return lambda a: jnp.linalg.solve(a, b), (_positive(10),)


@scenario("bench")
def log_determinant(order: int = 12):
    """The log-determinant of a 12 x 12 matrix by the matrix: one output."""
    return lambda a: jnp.linalg.slogdet(a)[1], (_positive(order),)


@scenario("bench")
def matrix_exponential_times():
    """exp(tA) b at four times by three entries of A."""
    b = normal(4)

    def f(p: Array) -> Array:
        a = jnp.zeros((4, 4)).at[(0, 1, 2), (1, 2, 3)].set(p) - 0.5 * jnp.eye(4)
        return jax.scipy.linalg.expm(a) @ b

    return f, (uniform(3),)


# --- Least squares -----------------------------------------------------------------------------------------


@scenario("bench")
def polynomial_fit():
    """The coefficients of a parabola fitted to nine points, by their heights."""
    x = jnp.linspace(-1, 1, 9)
    return lambda y: jnp.polyfit(x, y, 2), (normal(9),)


@scenario("bench")
def least_squares():
    """The three coefficients of a linear fit to 32 points, by their heights."""
    a = normal(32, 3)
    return lambda b: jnp.linalg.lstsq(a, jnp.sinh(0.5 * b))[0], (normal(32, seed=1),)


# --- Sparse products ---------------------------------------------------------------------------------------


def _sparse(n: int, m: int, share: float) -> sparse.BCOO:
    dense = np.where(np.asarray(uniform(n, m, low=0, high=1)) < share, np.asarray(normal(n, m)), 0)
    return sparse.BCOO.fromdense(jnp.asarray(dense))


@scenario("bench")
def sparse_product_by_vector(rows: int = 150, columns: int = 200):
    """A 150 x 200 BCOO matrix times a vector, by the vector."""
    matrix = _sparse(rows, columns, 0.02)
    return lambda x: jnp.tanh(matrix @ jnp.sin(x)), (normal(columns),)


@scenario("bench")
def sparse_product_by_data():
    """A 40 x 50 BCOO matrix times a vector, by the entries of the matrix."""
    matrix, x = _sparse(40, 50, 0.1), normal(50)

    def f(data: Array) -> Array:
        return sparse.BCOO((data, matrix.indices), shape=matrix.shape) @ x

    return f, (matrix.data,)
