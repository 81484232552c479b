"""Elements at flat indices, put into the zeros of an array."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import zeros_like
from .._seeds import MOST_INDEXED


def scattered(data: Any, index: np.ndarray, shape: tuple[int, ...]) -> Any:
    """Zeros, with data (batch, elements) at sorted flat indices of an example.

    Args:
        data: with an axis of examples in front, where there is a batch.
        index: of each element.
        shape: of an example.
    """
    batch = data.shape[:-1]
    if not len(index):
        return zeros_like(jax.typeof(data), (*batch, *shape))
    sizes, places = indexed(index, shape)
    # Zeros of which XLA does not know that they are: those of several blocks it would make once, and copy.
    first = data[..., 0]
    unknown = ((first != first) & (first == 0)).astype(data.dtype)
    zeros = jnp.broadcast_to(unknown.reshape(*batch, *(1,) * len(sizes)), (*batch, *sizes))
    filled = zeros.at[..., *places].set(data, indices_are_sorted=True, unique_indices=True, mode="promise_in_bounds")
    return filled.reshape(*batch, *shape)


def indexed(index: np.ndarray, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[np.ndarray, ...]]:
    """The axes along which elements at flat indices are found, flat where that can be, and their indices along them."""
    size = math.prod(shape)
    return ((size,), (index,)) if size <= MOST_INDEXED else (shape, np.unravel_index(index, shape))
