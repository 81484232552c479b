"""Words for arrays of many rows, up to two hundred: normalisations, sums of rows, and what reads them back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from .words import as_matrix, fitted, unary, word


def _attention(a):
    a = as_matrix(a)[:24]
    return jax.nn.softmax(a @ a.T / 3) @ a


unary(
    "rows",
    {
        "rms_norm": lambda a: as_matrix(a) * lax.rsqrt(jnp.mean(as_matrix(a) ** 2, -1, keepdims=True) + 0.1),
        "layer_norm": lambda a: jax.nn.standardize(as_matrix(a), axis=-1, epsilon=0.1) * 1.1 + 0.2,
        "batch_norm": lambda a: jax.nn.standardize(as_matrix(a), axis=0, epsilon=0.1),
        "row_softmax": lambda a: jax.nn.softmax(as_matrix(a)),
        "column_softmax": lambda a: jax.nn.softmax(as_matrix(a), axis=0),
        "row_norms": lambda a: jnp.sqrt(jnp.sum(as_matrix(a) ** 2, 1) + 0.1),
        "unit_rows": lambda a: as_matrix(a) / jnp.linalg.norm(as_matrix(a) + 0.1, axis=1, keepdims=True),
        "rows_times_their_squares": lambda a: as_matrix(a) * jnp.sum(as_matrix(a) ** 2, axis=1, keepdims=True),
        "attention": _attention,
        "row_differences": lambda a: jnp.diff(as_matrix(a), axis=0, prepend=0),
        "row_sums": lambda a: jnp.cumsum(as_matrix(a), axis=0) / 10,
        "sorted_rows": lambda a: jnp.sort(as_matrix(a), axis=-1),
        "largest_of_rows": lambda a: jnp.max(as_matrix(a), axis=-1),
        "vmapped_rows": lambda a: jax.vmap(lambda row: jnp.outer(row, jnp.sin(row)).sum(0))(as_matrix(a)),
        "products_of_rows": lambda a: jnp.prod(as_matrix(a), axis=1),
    },
)


@word("rows")
def scaled_by_a_sum_of_squares(c, a, b):
    """What each example does: p times a sum of squares of c."""
    p, other = as_matrix(a), as_matrix(fitted(b, a))
    return jax.vmap(lambda p, v: p[:2] * jnp.sum(v[:3] ** 2))(p, other)


@word("rows")
def gather_rows_into_sums(c, a, b):
    a = as_matrix(a)
    neighbours = c.indices(a.shape[0], (a.shape[0], 3))
    return jnp.sum((a[neighbours] - a[:, None]) ** 2, axis=(1, 2)) / 4


@word("rows")
def mix_neighbours(c, a, b):
    a = as_matrix(a)
    return jnp.sin(a) + 0.5 * a[c.indices(a.shape[0], (a.shape[0],))]


@word("rows")
def sums_of_segments(c, a, b):
    a = as_matrix(a)
    which = jnp.asarray(c.indices(5, (a.shape[0],)))
    sums = jax.ops.segment_sum(a, which, 5)
    return a * jnp.cos(sums[which] / 5) if c.number(0, 2) else sums


@word("rows")
def dense_rows(c, a, b):
    a = as_matrix(a)
    return a @ c.constant((a.shape[1], 2), a)


@word("rows")
def dense_of_all(c, a, b):
    flat = a.reshape(-1)
    return flat @ c.constant_like((flat.size, 3), a) / flat.size**0.5


@word("rows")
def scan_over_rows(c, a, b):
    a = as_matrix(a)
    step = lambda carry, row: (jnp.tanh(carry * 0.5 + row), carry * row)
    return lax.scan(step, jnp.zeros(a.shape[1:], a.dtype), a)[c.number(0, 2)]
