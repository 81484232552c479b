"""How many copies of a computation `jax.vmap` makes, which share the cache and the memory.

Asked of a function that computes nothing, and whose rule for vmap takes note of the size that it is called with.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from ._linear import is_concrete

# What the call that is under way has noted. The function is one for all calls, so that programs that hold it are alike.
_noted = threading.local()


@custom_vmap
def _note(x: Any) -> Any:
    return jnp.zeros(())


@_note.def_vmap
def _rule(size: int, _: Any, x: Any) -> tuple[Any, bool]:
    _noted.sizes = [*getattr(_noted, "sizes", ()), size]
    return _note(x), False


def copies(arrays: Sequence[Any]) -> int:
    """How many copies of what is computed from `arrays` run side by side, as far as it is traced now."""
    most = 1
    for x in arrays:
        if not is_concrete(x) and jnp.issubdtype(x.dtype, jnp.inexact):
            _noted.sizes = []
            _note(jax.lax.stop_gradient(x))
            most = max(most, math.prod(_noted.sizes))
    return most
