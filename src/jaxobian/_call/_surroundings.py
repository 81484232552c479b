"""What surrounds a call: how many copies of it `jax.vmap` makes, and whether a trace or values are at the bottom.

Asked of a function that computes nothing, whose rules for vmap and for derivatives take note of what they are called
with. It leaves one equation in a trace that is under way, and nothing reads what that makes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from .._arrays import is_concrete


@dataclass(frozen=True)
class Surroundings:
    """What surrounds a call.

    Attributes:
        copies: how many run side by side under `jax.vmap`, as far as it is traced now.
        mapped: whether there is a vmap at all.
        traced: whether the call becomes a part of a jaxpr; False where values are known to all transformations' ends.
    """

    copies: int = 1
    mapped: bool = False
    traced: bool = False


# What the call that is under way has noted. The functions are the same for all calls, so that programs are alike.
_noted = threading.local()


@jax.custom_jvp
def _ask(*arrays: Any) -> Any:
    if all(map(is_concrete, arrays)):
        return jnp.zeros(())
    _noted.traced = True
    return _copied(*arrays)


@_ask.defjvp
def _derivative(primals: tuple[Any, ...], _: tuple[Any, ...]) -> tuple[Any, Any]:
    return _ask(*primals), jnp.zeros(())


@custom_vmap
def _copied(*arrays: Any) -> Any:
    return jnp.zeros(())


@_copied.def_vmap
def _rule(size: int, _: Any, *arrays: Any) -> tuple[Any, bool]:
    _noted.sizes = [*getattr(_noted, "sizes", ()), size]
    _noted.traced = False
    return _ask(*arrays), False


def surroundings(arrays: Sequence[Any]) -> Surroundings:
    """What surrounds a computation from `arrays`."""
    unknown = [x for x in arrays if not is_concrete(x) and not jnp.issubdtype(x.dtype, jax.dtypes.extended)]
    if not unknown:
        return Surroundings(traced=not all(map(is_concrete, arrays)))
    _noted.sizes, _noted.traced = [], False
    _ask(*unknown)
    return Surroundings(math.prod(_noted.sizes), bool(_noted.sizes), _noted.traced)
