"""Scenarios about speed: as many outputs as inputs, nearly, so that what f does decides which mode is faster.

The tag `size_rule_wrong` was given by measurement, on a CPU: there `jit` of the mode that the sizes suggest
took at least 1.3 times as long as `jit` of the other.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from ._scenario import conv, integers, max_pool, normal, scenario, weights

# --- Sizes point the wrong way -----------------------------------------------------------------------------


def _sin_roll(x: Array, layers: int) -> Array:
    for _ in range(layers):
        x = jnp.sin(x) + 0.1 * jnp.roll(x, 1)
    return x


@scenario("large")
def sin_roll_3000():
    """Twenty layers of sin(x) + 0.1 roll(x), n = 3000: run at once, 1.4 GB."""
    return lambda x: _sin_roll(x, 20), (normal(3000),)


@scenario("bench", "size_rule_wrong")
def sin_roll_tall():
    """Ten layers of sin(x) + 0.1 roll(x) on 300 numbers, 280 of them kept."""
    # The residuals cos(x) are fused into, and so recomputed in, every row that is pulled back.
    return lambda x: _sin_roll(x, 10)[:280], (normal(300),)


@scenario("bench", "size_rule_wrong")
def order_statistics():
    """The 1000 smallest of 1200 numbers in order: a gather, which transposes to a scatter."""
    return lambda x: jnp.sort(jnp.sin(x))[:1000] ** 2, (normal(1200),)


@scenario("bench", "size_rule_wrong")
def table_interpolation():
    """A table of 1200 values, interpolated at 1000 places."""
    at = jnp.linspace(0, 1150, 1000)
    low = at.astype(jnp.int32)
    return lambda table: table[low] * (1 - (at - low)) + table[low + 1] * (at - low), (normal(1200),)


@scenario("bench", "size_rule_wrong")
def triangle_areas():
    """The areas of 1000 triangles by the positions of 600 corners."""
    corners = integers(600, 1000, 3)

    def f(p: Array) -> Array:
        a, b, c = p[corners[:, 0]], p[corners[:, 1]], p[corners[:, 2]]
        return (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]

    return f, (normal(600, 2),)


@scenario("bench", "size_rule_wrong")
def image_warp():
    """A 34 x 34 image resampled bilinearly at 1000 places."""
    at = 16 + 5 * normal(2, 1000)

    def f(image: Array) -> Array:
        return jax.scipy.ndimage.map_coordinates(image, list(at), order=1, mode="nearest")

    return f, (normal(34, 34),)


@scenario("bench", "size_rule_wrong")
def pooled_features():
    """340 numbers, a dense layer, max-pooling, 320 numbers."""
    dense = weights(340, 1600)

    def f(x: Array) -> Array:
        return max_pool(jnp.tanh(x @ dense).reshape(1, 20, 20, 4)).reshape(-1)[:320]

    return f, (normal(340),)


@scenario("bench")
def elementwise_scan():
    """200 steps of an elementwise map of 180 numbers, and 20 of them once more."""

    def f(x: Array) -> Array:
        x = lax.scan(lambda h, _: (h + 0.01 * jnp.sin(h), None), x, None, length=200)[0]
        return jnp.concatenate([x, x[:20]])

    return f, (normal(180),)


# --- Near ties ---------------------------------------------------------------------------------------------


@scenario("bench")
def gathers():
    """Five layers of gathers on 400 numbers, 360 of them kept."""
    index = [integers(400, 400, seed=i) for i in range(5)]

    def f(x: Array) -> Array:
        for i in index:
            x = jnp.sin(x[i]) + x
        return x[:360]

    return f, (normal(400),)


@scenario("bench")
def scatters():
    """Five layers of scatters on 400 numbers, 440 outputs."""
    index = [integers(400, 400, seed=i) for i in range(5)]

    def f(x: Array) -> Array:
        for i in index:
            x = jnp.zeros(400).at[i].add(x) * 1.1 + x
        return jnp.concatenate([x, x[:40]])

    return f, (normal(400),)


@scenario("bench")
def message_passing():
    """Two rounds of message passing over a random graph of 100 nodes and 600 edges."""
    senders, receivers, w = integers(100, 600), integers(100, 600, seed=1), weights(4, 4)

    def f(h: Array) -> Array:
        for _ in range(2):
            h = jnp.tanh(h @ w + jax.ops.segment_sum(h[senders], receivers, 100) / 6)
        return h[:90]

    return f, (normal(100, 4),)


@scenario("bench")
def cumulative_sums():
    """Five layers of cumulative sums, 300 numbers to 280."""

    def f(x: Array) -> Array:
        for _ in range(5):
            x = jnp.sin(jnp.cumsum(x))
        return x[20:]

    return f, (normal(300),)


def _convolutions(*kernels: Array) -> Callable[[Array], Array]:
    def f(image: Array) -> Array:
        x = image[None]
        for kernel in kernels:
            x = jnp.tanh(conv(x, kernel))
        return x[0]

    return f


@scenario("bench")
def convolutions_from_gray():
    """Two convolutions, one channel to sixteen to one: both modes end in a convolution to one channel."""
    return _convolutions(weights(3, 3, 1, 16), weights(3, 3, 16, 1, seed=1)), (normal(14, 14, 1),)


@scenario("bench")
def decoder():
    """200 numbers, a dense layer, a convolution to a 14 x 14 picture of one channel."""
    dense, kernel = weights(200, 14 * 14 * 8), weights(3, 3, 8, 1, seed=1)
    return lambda z: conv(jnp.tanh(z @ dense).reshape(1, 14, 14, 8), kernel)[0], (normal(200),)
