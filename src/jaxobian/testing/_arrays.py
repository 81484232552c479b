"""Scenarios: what a function may be made of: shapes, trees, indices, dtypes, complex numbers."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from ._scenario import integers, normal, scenario, uniform

# --- Shapes and trees --------------------------------------------------------------------------------------


@scenario()
def scalar():
    """A 0-d array to a 0-d array."""
    return jnp.sin, (jnp.float32(0.3),)


@scenario()
def scalar_to_vector():
    """One number to four."""
    return lambda t: jnp.stack([t, t**2, jnp.sin(t), jnp.float32(1)]), (jnp.float32(0.3),)


@scenario()
def vector_to_scalar():
    """A gradient."""
    return lambda x: jnp.sum(x**3), (normal(5),)


@scenario()
def python_float():
    """A Python number for an argument."""
    return lambda t: jnp.stack([jnp.sin(t), jnp.cos(t)]), (0.3,)


@scenario()
def repeated_operand():
    """One operand used twice: x * x."""
    return lambda x: x * x, (normal(4),)


@scenario()
def identity():
    """The output is the input."""
    return lambda x: x, (normal(3),)


@scenario(argnums=(0, 1))
def pass_through():
    """Outputs that are inputs, as they came, beside one that is not, swapped."""
    return lambda x, y: (y, x, x @ y), (normal(3), normal(3, seed=1))


@scenario(argnums=(0, 1))
def unused_input():
    """An argument that f never looks at: zeros."""
    return lambda x, y: jnp.sin(x), (normal(3), normal(2))


@scenario()
def constant_output():
    """An output that depends on nothing: zeros."""
    return lambda x: (jnp.arange(3.0), jnp.tanh(x)), (normal(2),)


@scenario()
def all_constant():
    """Nothing depends on anything."""
    return lambda x: jnp.ones(3), (normal(2),)


@scenario()
def empty_input():
    """An array of no elements to an array of three."""
    return lambda x: jnp.ones(3) * x.sum(), (jnp.zeros((0, 2), jnp.float32),)


@scenario()
def empty_output():
    """An array of three to an array of none."""
    return lambda x: x[:0] * 2, (normal(3),)


@scenario()
def pytrees():
    """Dicts, tuples, lists and None, in and out."""

    def f(inputs: Any) -> Any:
        a, (b, nothing), c = inputs["a"], inputs["b"], inputs["c"][0]
        return {"sum": a + b.sum(), "parts": (b * c, [c**2, nothing]), "scalar": jnp.dot(a, a)}

    return f, ({"a": normal(3), "b": (normal(2, 2, seed=1), None), "c": [jnp.float32(0.7)]},)


@scenario(argnums=(-1, 0))
def negative_argnums():
    """The last argument and the first, in this order, out of three."""
    return lambda x, k, y: jnp.outer(x, y) * k, (normal(2), 3, normal(3, seed=1))


@scenario(argnums=1)
def integer_argument():
    """Indices as an ordinary argument."""
    return lambda i, x: x[i] ** 2, (integers(5, 4), normal(5))


@scenario()
def broadcasting():
    """A column times a row, plus a scalar, without a broadcast in sight."""
    return lambda x: x[:, None] * x[None, :] + 2 * x[0], (normal(4),)


@scenario()
def size_one_axes():
    """Axes of size one that broadcast."""
    return lambda x: x * jnp.ones((3, 4)) + x.sum(0, keepdims=True), (normal(3, 1),)


@scenario()
def reshapes():
    """Merged, split, swapped, reversed and padded axes."""

    def f(x: Array) -> Array:
        y = jnp.tanh(x.reshape(3, 8)).T.reshape(2, 4, 3)
        return jnp.pad(jnp.flip(y, 1).swapaxes(0, 2), ((1, 0), (0, 0), (0, 1)))

    return f, (normal(2, 3, 4),)


@scenario()
def concatenation():
    """Concatenate, split, stack and tile."""

    def f(x: Array) -> Array:
        a, b = jnp.split(x, 2)
        return jnp.concatenate([jnp.tile(a * b, 2), jnp.stack([b, a]).reshape(-1), x])

    return f, (normal(6),)


@scenario()
def einsum():
    """A contraction of the argument with itself and with a constant over several axes."""
    w = normal(3, 2, 4, seed=1)
    return lambda x: jnp.einsum("ij,jkl,il->ik", x, w, x @ jnp.ones((3, 4))), (normal(2, 3),)


# --- Indices, order, reductions ----------------------------------------------------------------------------


@scenario()
def gather():
    """Indexing with an array of indices, some repeated."""
    index = jnp.array([[0, 2], [2, 3]])
    return lambda x: jnp.sin(x)[index], (normal(4, 2),)


@scenario()
def gather_by_value():
    """Indices that depend on the argument: piecewise constant."""
    return lambda x: x[jnp.argsort(x)[:2]] * x[jnp.argmax(x)], (normal(5),)


@scenario()
def scatter():
    """`.at[].add` on repeated indices, `.at[].set`, `.at[].multiply`, `.at[].max`."""
    index = jnp.array([0, 2, 2])

    def f(x: Array) -> Array:
        y = jnp.zeros(5).at[index].add(x[:3] ** 2).at[1].set(x[3]).at[4].max(x[2] + 3)
        return y.at[jnp.array([0, 3])].multiply(x[:2], unique_indices=True)

    return f, (normal(4),)


@scenario()
def dynamic_slices():
    """Slices read and updated at traced offsets."""

    def f(x: Array, start: Array) -> Array:
        part = lax.dynamic_slice(jnp.sin(x), (start,), (3,))
        return lax.dynamic_update_slice(x * 2, part * part, (start - 1,))

    return f, (normal(6), jnp.int32(2))


@scenario()
def sorting():
    """Sorted values, the largest two, and the median."""
    return lambda x: (jnp.sort(x), lax.top_k(x**2, 2)[0], jnp.median(x)), (normal(6),)


@scenario()
def cumulative():
    """Cumulative sum, product and maximum."""
    return lambda x: jnp.stack([jnp.cumsum(x), jnp.cumprod(x), lax.cummax(x)]), (uniform(12),)


@scenario()
def reductions():
    """Sum, product, mean, maximum, minimum, variance along axes."""

    def f(x: Array) -> dict[str, Array]:
        sums = {"sum": x.sum(0), "mean": x.mean(), "var": x.var(0), "prod": x.prod(1)}
        return sums | {"max": jnp.tanh(x.max(0)), "min": jnp.tanh(x.min(1))}

    return f, (normal(3, 4),)


@scenario()
def where_and_clip():
    """Choices between elements."""
    return lambda x: jnp.where(x > 0, jnp.sin(x), x**2) + jnp.clip(x, -0.5, 0.5) + jnp.abs(x), (normal(8),)


@scenario()
def stop_gradient():
    """A normalization that is not differentiated."""
    return lambda x: x / lax.stop_gradient(jnp.linalg.norm(x)), (normal(4),)


@scenario()
def pooling_windows():
    """Overlapping sum, max and average windows in one dimension."""

    def f(x: Array) -> Array:
        total = lax.reduce_window(x, 0.0, lax.add, (3,), (1,), "SAME")
        return total * lax.reduce_window(x, -jnp.inf, lax.max, (3,), (1,), "SAME")

    return f, (normal(9),)


# --- Dtypes ------------------------------------------------------------------------------------------------


@scenario()
def half_to_single():
    """From f16 to f32: J is f32."""
    return lambda x: x.astype(jnp.float32) * 2, (jnp.arange(4, dtype=jnp.float16),)


@scenario()
def single_to_half():
    """From f32 to f16: J is f32."""
    return lambda x: (x * 2).astype(jnp.float16), (jnp.arange(4, dtype=jnp.float32),)


@scenario()
def mixed_dtypes():
    """Leaves of f16, bf16 and f32 in, f16 and f32 out."""

    def f(x: dict[str, Array]) -> tuple[Array, Array]:
        return x["h"] * 2, x["s"] * x["h"].astype(jnp.float32) + x["b"].astype(jnp.float32)

    dtypes = {"h": jnp.float16, "b": jnp.bfloat16, "s": jnp.float32}
    return f, ({name: jnp.arange(1, 4, dtype=dtype) for name, dtype in dtypes.items()},)


# --- Complex numbers ---------------------------------------------------------------------------------------


@scenario("complex", modes=("fwd",))
def real_to_complex():
    """The Fourier transform of a real signal: forward."""
    return lambda x: jnp.fft.rfft(jnp.tanh(x)), (normal(8),)


@scenario("complex", modes=("rev",))
def complex_to_real():
    """The moduli of complex numbers: reverse."""
    return lambda z: jnp.abs(z) ** 2 + z.real, (normal(4) + 1j * normal(4, seed=1),)


@scenario("complex", holomorphic=True)
def holomorphic():
    """An analytic function of complex numbers."""
    return lambda z: jnp.sin(z) * jnp.roll(z, 1), (normal(4) + 1j * normal(4, seed=1),)


@scenario("complex")
def complex_inside():
    """Real to real by way of complex numbers."""
    gains = normal(9) + 1j * normal(9, seed=1)
    return lambda x: jnp.abs(jnp.fft.fft(x) * gains) + (jnp.exp(1j * x) ** 2).real, (normal(9, seed=2),)


@scenario("complex", modes=("fwd",))
def real_to_both():
    """Real in, a real and a complex leaf out."""
    return lambda x: {"phase": jnp.exp(1j * x), "power": x**2}, (normal(3),)


@scenario("complex", modes=("rev",), argnums=(0, 1))
def both_to_real():
    """A real and a complex argument in, real out."""
    return lambda x, z: x * jnp.abs(z), (normal(3), normal(3, seed=1) + 1j * normal(3, seed=2))
