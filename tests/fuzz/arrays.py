"""Words that move elements about, look them up, and reduce them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax, nn

from .words import add, as_matrix, as_real, at_least_1d, binary, fitted, single, unary, unit, word

both = {"complex": True, "holomorphic": True}

# Moved --------------------------------------------------------------------------------------------------------

unary(
    "moves",
    {
        "flatten": lambda a: a.reshape(-1),
        "in_two": lambda a: a.reshape(2, -1) if a.size % 2 == 0 else a.reshape(1, -1),
        "split_last_axis": lambda a: a.reshape(*a.shape[:-1], 2, -1) if a.ndim and a.shape[-1] % 2 == 0 else a[None],
        "merge_axes": lambda a: a.reshape(-1, *a.shape[2:]) if a.ndim > 1 else a,
        "squeeze": jnp.squeeze,
        "expand": lambda a: jnp.expand_dims(a, a.ndim // 2),
        "first_axis_last": lambda a: jnp.moveaxis(at_least_1d(a), 0, -1),
        "in_columns": lambda a: jnp.ravel(a, order="F"),
        "diagonal": lambda a: jnp.diagonal(as_matrix(a)),
        "on_the_diagonal": lambda a: jnp.diag(a.reshape(-1)[:4]),
        "lower_triangle": lambda a: jnp.tril(as_matrix(a)),
        "upper_triangle": lambda a: jnp.triu(as_matrix(a), 1),
        "trace": lambda a: jnp.trace(as_matrix(a)),
        "rot90": lambda a: jnp.rot90(as_matrix(a)),
        "tile": lambda a: jnp.tile(a, 2),
        "repeat": lambda a: jnp.repeat(at_least_1d(a), 2, axis=0),
        "repeat_by_counts": lambda a: jnp.repeat(jnp.resize(a, (2,)), jnp.array([2, 1]), total_repeat_length=3),
        "reflect": lambda a: jnp.pad(a.reshape(-1), 1, mode="edge"),
        "wrap": lambda a: jnp.pad(a.reshape(-1), (1, 0), mode="wrap"),
        "difference": lambda a: jnp.diff(at_least_1d(a), axis=0, append=0),
        "unstack_and_stack": lambda a: jnp.stack(jnp.unstack(at_least_1d(a))[::-1], axis=-1),
        "split_and_join": lambda a: jnp.concatenate(jnp.array_split(at_least_1d(a), 2)[::-1]),
        "halves": lambda a: jnp.add(*jnp.split(a.reshape(2, -1), 2)) if a.size % 2 == 0 else a,
        "insert": lambda a: jnp.insert(a.reshape(-1), 1, 0.5),
        "delete": lambda a: jnp.delete(a.reshape(-1), 0) if a.size > 1 else a,
        "copy": jnp.copy,
        "barrier": lambda a: lax.optimization_barrier((a * 2, a))[0],
        "device_put": lambda a: jax.device_put(a) * 2,
        "fftshift": lambda a: jnp.fft.fftshift(a),
        "blocks": lambda a: jnp.block([[a.reshape(1, -1), a.reshape(1, -1)[:, :1]]]),
        "vander": lambda a: jnp.vander(a.reshape(-1)[:4], 3),
    },
    **both,
)


@word("moves", **both)
def transpose(c, a, b):
    return jnp.transpose(a, c.rng.permutation(a.ndim))


@word("moves", **both)
def flip(c, a, b):
    return jnp.flip(at_least_1d(a), c.axis(at_least_1d(a)))


@word("moves", **both)
def roll(c, a, b):
    a = at_least_1d(a)
    return jnp.roll(a, c.one_of(c.number(-2, 3), c.index.reshape(-1)[0] % 3), c.axis(a))


@word("moves", **both)
def slices(c, a, b):
    a = at_least_1d(a)
    axis = c.axis(a)
    start, stride = c.number(0, 2), c.number(1, 3)
    return lax.slice_in_dim(a, min(start, a.shape[axis] - 1), a.shape[axis], stride, axis)


@word("moves", **both)
def dynamic_slice(c, a, b):
    a = at_least_1d(a)
    start = c.one_of(jnp.int32(c.number(0, 3)), jnp.sum(as_real(b) > 0).astype(jnp.int32) % 2, c.index.reshape(-1)[0])
    return lax.dynamic_slice_in_dim(a, start, (a.shape[0] + 1) // 2)


@word("moves", **both)
def dynamic_update(c, a, b):
    a = at_least_1d(a)
    part = fitted(b, a)[: (a.shape[0] + 1) // 2]
    return lax.dynamic_update_slice_in_dim(a, part, c.one_of(jnp.int32(c.number(0, 2)), c.index.reshape(-1)[0]), 0)


@word("moves", **both)
def pad(c, a, b):
    a = at_least_1d(a)
    interior = c.number(0, 2)
    widths = [(c.number(-1 if n > 2 else 0, 2), c.number(0, 2), interior if a.size < 9 else 0) for n in a.shape]
    return lax.pad(a, c.one_of(jnp.asarray(0.5, a.dtype), fitted(b, a).reshape(-1)[0]), widths)


@word("moves", **both)
def concatenate(c, a, b):
    return jnp.concatenate([a.reshape(-1), b.reshape(-1) if c.complex else as_real(b).reshape(-1)])


@word("moves", **both)
def stack(c, a, b):
    return jnp.stack([a, fitted(b, a)], axis=c.number(0, a.ndim + 1))


@word("moves", **both)
def broadcast(c, a, b):
    return jnp.broadcast_to(a[..., None], (*a.shape, 2)) * fitted(b, jnp.zeros((*a.shape, 1), a.dtype))


# Looked up ----------------------------------------------------------------------------------------------------


@word("indexing", **both)
def gather(c, a, b):
    a = at_least_1d(a)
    axis = c.axis(a)
    mode = c.one_of(None, "clip", "fill", "wrap")
    return jnp.take(a, c.indices(a.shape[axis], (c.number(1, 4),)), axis=axis, mode=mode)


@word("indexing", **both)
def gather_out_of_bounds(c, a, b):
    a = at_least_1d(a)
    return a.at[c.indices(a.shape[0] + 2, (3,))].get(mode=c.one_of("fill", "clip"), fill_value=0)


@word("indexing", **both)
def gather_pairs(c, a, b):
    a = as_matrix(a)
    return a[c.indices(a.shape[0], (3, 2)), c.indices(a.shape[1], (2,))]


@word("indexing", **both)
def gather_into_a_sum(c, a, b):
    a = at_least_1d(a)
    return jnp.sum(a[c.indices(a.shape[0], (4, 2))] ** 2, axis=1) * fitted(b, a[:1])


@word("indexing")
def gather_by_rank(c, a, b):
    a = at_least_1d(a)
    return jnp.take_along_axis(a, jnp.argsort(fitted(b, a), axis=-1), axis=-1)


@word("indexing", **both)
def gather_by_mask(c, a, b):
    return at_least_1d(a)[jnp.nonzero(c.rng.random(at_least_1d(a).shape[0]) < 0.6, size=2, fill_value=0)[0]]


@word("indexing", **both)
def gather_under_vmap(c, a, b):
    a = as_matrix(a)
    return jax.vmap(lambda row, i: row[i])(a, jnp.asarray(c.indices(a.shape[1], (a.shape[0], 2))))


@word("indexing")
def one_hot(c, a, b):
    return nn.one_hot(jnp.argmax(a), a.size, dtype=a.dtype) * a.reshape(-1)


@word("indexing")
def argmin_as_number(c, a, b):
    return a * jnp.argmin(a).astype(a.dtype)


@word("indexing", **both)
def scatter_add(c, a, b):
    a = at_least_1d(a)
    return jnp.zeros((3, *a.shape[1:]), a.dtype).at[c.indices(3, (a.shape[0],))].add(a)


@word("indexing", **both)
def scatter_set(c, a, b):
    a = at_least_1d(a)
    return a.at[c.one_of(c.number(0, a.shape[0]), c.index.reshape(-1)[0] % a.shape[0])].set(jnp.sum(fitted(b, a)))


@word("indexing", **both)
def scatter_several(c, a, b):
    a = at_least_1d(a)
    return a.at[c.rng.permutation(a.shape[0])[:2]].set(fitted(b, a)[:2], unique_indices=True)


@word("indexing", **both)
def scatter_subtract(c, a, b):
    a = at_least_1d(a)
    return a.at[c.indices(a.shape[0], (2,))].subtract(fitted(b, a)[0])


@word("indexing", **both)
def scatter_multiply(c, a, b):
    a = at_least_1d(a)
    return a.at[c.rng.permutation(a.shape[0])[:2]].multiply(fitted(b, a)[0], unique_indices=True)


@word("indexing")
def scatter_extremes(c, a, b):
    a = at_least_1d(a)
    place = a.at[c.number(0, a.shape[0])]
    return c.one_of(place.min, place.max)(fitted(b, a)[0])


@word("indexing")
def segments(c, a, b):
    a = at_least_1d(a)
    which = jnp.asarray(c.indices(3, (a.shape[0],)))
    function = c.one_of(jax.ops.segment_sum, jax.ops.segment_max, jax.ops.segment_min)
    return jnp.where(jnp.isfinite(found := function(a, which, 3)), found, 0)


# Sorted -------------------------------------------------------------------------------------------------------


@word("sorting")
def sort(c, a, b):
    a = at_least_1d(a)
    return jnp.sort(a, axis=c.axis(a), descending=bool(c.number(0, 2)))


@word("sorting")
def sort_two_together(c, a, b):
    a = at_least_1d(a)
    return lax.sort((fitted(b, a), a), dimension=c.axis(a), num_keys=1)[1]


@word("sorting")
def top_k(c, a, b):
    a = at_least_1d(a)
    return lax.top_k(a, min(2, a.shape[-1]))[0]


@word("sorting", half=False)
def approximately_largest(c, a, b):
    return lax.approx_max_k(a.reshape(-1), min(2, a.size))[0]


@word("sorting", half=False)
def median(c, a, b):
    return c.one_of(jnp.median, partial(jnp.quantile, q=0.3), jnp.ptp)(at_least_1d(a), axis=0)


# Reduced ------------------------------------------------------------------------------------------------------


def _along_an_axis(function):
    def run(c, a, b):
        a = at_least_1d(a)
        return function(a, axis=c.axis(a), keepdims=bool(c.number(0, 2)))

    return run


def _norm(a, axis, keepdims):
    return jnp.sqrt(0.1 + jnp.sum(a * a, axis, keepdims=keepdims))


for name, function in {"sum": jnp.sum, "mean": jnp.mean, "prod": jnp.prod, "norm": _norm}.items():
    add("reductions", name, _along_an_axis(function), **both)
for name, function in {"max": jnp.max, "min": jnp.min, "var": jnp.var, "logsumexp": nn.logsumexp}.items():
    add("reductions", name, _along_an_axis(function))


@word("reductions")
def reduce_by_function(c, a, b):
    a = at_least_1d(a)
    return lax.reduce(a, jnp.asarray(0.0, a.dtype), lambda x, y: x + y * 1.0, (c.axis(a),))


@word("reductions", **both)
def cumulative(c, a, b):
    a = at_least_1d(a)
    return c.one_of(lax.cumsum, lax.cumprod)(unit(a), axis=c.axis(a), reverse=bool(c.number(0, 2)))


def _cumulative(scan):
    def run(c, a, b):
        a = at_least_1d(a)
        return scan(a, axis=c.axis(a), reverse=bool(c.number(0, 2)))

    return run


for name, function in {"cummax": lax.cummax, "cummin": lax.cummin, "cumlogsumexp": lax.cumlogsumexp}.items():
    add("reductions", name, _cumulative(function))


@word("reductions")
def windows(c, a, b):
    a = single(at_least_1d(a))
    init, combine = c.one_of((0.0, lax.add), (-jnp.inf, lax.max), (jnp.inf, lax.min))
    size = tuple(2 if n > 1 else 1 for n in a.shape)
    return lax.reduce_window(a, init, combine, size, (c.number(1, 3),) * a.ndim, c.one_of("SAME", "VALID"))


@word("reductions", half=False)
def gradient_of_pooling(c, a, b):
    a = a.reshape(-1)
    pooled = lambda v: lax.reduce_window(v, -jnp.inf, lax.max, (2,), (2,), "SAME")
    return jax.grad(lambda v: jnp.sum(jnp.sin(pooled(v))))(a)


unary(
    "reductions",
    {
        "subtract_mean": lambda a: a - jnp.mean(a),
        "scaled_to_one": lambda a: a / (0.5 + jnp.sum(a * a)),
        "sum_of_all": jnp.sum,
    },
    **both,
)
unary(
    "reductions",
    {
        "softmax": lambda a: nn.softmax(at_least_1d(a)),
        "log_softmax": lambda a: nn.log_softmax(at_least_1d(a), axis=0),
        "standardize": lambda a: nn.standardize(at_least_1d(a), epsilon=0.1),
        "glu": lambda a: nn.glu(jnp.stack([a, a * a], -1)),
        "gradient_of_an_axis": lambda a: jnp.gradient(jnp.concatenate([a.reshape(-1), jnp.ones(2, a.dtype)])),
        "interpolated": lambda a: jnp.interp(a, jnp.array([-1.0, 0.1, 1.3]), jnp.array([0.3, 1.0, -0.5])),
        "interpolated_by_values": lambda a: jnp.interp(0.37, jnp.arange(a.size) / a.size, a.reshape(-1)),
        "trapezoid": lambda a: jnp.trapezoid(at_least_1d(a)),
    },
)
binary("reductions", {"scale_by_a_sum": lambda a, b: a * jnp.sum(b * b)}, **both)
