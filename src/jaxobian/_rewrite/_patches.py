"""What a convolution's kernel reads of the image, for each element of the result: a product is left of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import jax.numpy as jnp
from jax import lax


def has_patches(equation: Any) -> bool:
    """Whether an equation is a convolution without groups."""
    params = equation.params
    named = equation.primitive.name == "conv_general_dilated"
    return named and params["feature_group_count"] == params["batch_group_count"] == 1


def patches(equation: Any) -> tuple[Callable[[Any], Any], tuple[int, ...]]:
    """Image -> patches of shape (examples, channels, *window, *positions); and that shape."""
    params, (image, kernel) = equation.params, (v.aval.shape for v in equation.invars)
    spec, result = params["dimension_numbers"], equation.outvars[0].aval.shape
    window = [kernel[k] for k in spec.rhs_spec[2:]]
    positions = [result[k] for k in spec.out_spec[2:]]
    examples, channels = image[spec.lhs_spec[0]], image[spec.lhs_spec[1]]
    none = (0, 0, 0)
    pads = [(low, high, n - 1) for (low, high), n in zip(params["padding"], params["lhs_dilation"], strict=True)]

    def made(x: Any) -> Any:
        x = lax.pad(jnp.transpose(x, spec.lhs_spec), jnp.zeros((), x.dtype), [none, none, *pads])
        seen = []
        for offset in product(*map(range, window)):
            start = [at * hole for at, hole in zip(offset, params["rhs_dilation"], strict=True)]
            spans = zip(start, positions, params["window_strides"], strict=True)
            stop = [at + (n - 1) * step + 1 for at, n, step in spans]
            whole = [examples, channels]
            seen.append(lax.slice(x, [0, 0, *start], [*whole, *stop], [1, 1, *params["window_strides"]]))
        stacked = jnp.stack(seen, 2) if seen else jnp.zeros((examples, channels, 0, *positions), x.dtype)
        return stacked.reshape(examples, channels, *window, *positions)

    return made, (examples, channels, *window, *positions)


def convolved(equation: Any, seen: Any, kernels: Any) -> Any:
    """The result by patches of each example, with a kernel for each: the examples of `kernels` come first."""
    spec = equation.params["dimension_numbers"]
    kernels = jnp.transpose(kernels, (0, *(1 + k for k in (*spec.rhs_spec[1:], spec.rhs_spec[0]))))
    examples, channels = seen.shape[0], kernels.shape[-1]
    read = math.prod(kernels.shape[1:-1])
    positions: Sequence[int] = seen.shape[kernels.ndim - 1 :]
    flat = seen.reshape(examples, read, math.prod(positions))
    product_ = jnp.einsum(
        "nkp,nko->nop", flat, kernels.reshape(examples, read, channels), precision=equation.params["precision"]
    ).reshape(examples, channels, *positions)
    order = [0] * product_.ndim
    for here, there in enumerate(spec.out_spec):
        order[there] = here
    return jnp.transpose(product_, order)
