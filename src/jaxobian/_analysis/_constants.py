"""Small equations evaluated with NumPy: an index array or a mask is not worth a compilation each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._trace import reshape_order

# An equation and the values of its operands -> its first result.
Evaluate = Callable[[Any, Sequence[np.ndarray]], np.ndarray]


def _shape(equation: Any) -> tuple[int, ...]:
    return tuple(equation.outvars[0].aval.shape)


def _iota(equation: Any, values: Sequence[np.ndarray]) -> np.ndarray:
    shape, axis = _shape(equation), equation.params["dimension"]
    index = np.arange(shape[axis]).reshape(-1, *(1,) * (len(shape) - axis - 1))
    return np.broadcast_to(index, shape)


def _broadcast(equation: Any, values: Sequence[np.ndarray]) -> np.ndarray:
    shape = [1] * len(_shape(equation))
    for size, axis in zip(values[0].shape, equation.params["broadcast_dimensions"], strict=True):
        shape[axis] = size
    return np.broadcast_to(values[0].reshape(shape), _shape(equation))


def _reshape(equation: Any, values: Sequence[np.ndarray]) -> np.ndarray:
    return values[0].transpose(reshape_order(equation)).reshape(_shape(equation))


def _slice(equation: Any, values: Sequence[np.ndarray]) -> np.ndarray:
    params = equation.params
    strides = params["strides"] or (1,) * len(params["start_indices"])
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return values[0][tuple(slice(*b) for b in bounds)]


def _converted(equation: Any, values: Sequence[np.ndarray]) -> np.ndarray:
    """Of a complex number the real part; an integer out of a real number, if there is one: NumPy makes up others."""
    (x,), to = values, equation.params["new_dtype"]
    if jnp.issubdtype(x.dtype, jnp.complexfloating) and not jnp.issubdtype(to, jnp.complexfloating):
        x = np.real(x)
    if jnp.issubdtype(x.dtype, jnp.floating) and jnp.issubdtype(to, jnp.integer):
        limits, x = jnp.iinfo(to), x.astype(np.float64)
        if not ((x > limits.min - 1.0) & (x < limits.max)).all():
            raise ValueError(f"not all of these numbers are {to}")
    return x


def _rem(equation: Any, values: Sequence[np.ndarray]) -> np.ndarray:
    """XLA's remainder of an integer by zero is the integer."""
    x, by = values
    if jnp.issubdtype(x.dtype, jnp.floating):
        return np.fmod(x, by)
    return np.where(by == 0, x, np.fmod(x, np.where(by == 0, 1, by)))


def _select(equation: Any, values: Sequence[np.ndarray]) -> np.ndarray:
    which, *cases = values
    return np.choose(np.broadcast_to(which, cases[0].shape).astype(int), cases)


_OWN: dict[str, Evaluate] = {
    "iota": _iota,
    "broadcast": _broadcast,
    "reshape": _reshape,
    "slice": _slice,
    "cases": _select,
    "transpose": lambda e, values: values[0].transpose(e.params["permutation"]),
    "rev": lambda e, values: np.flip(values[0], e.params["dimensions"]),
    "concatenate": lambda e, values: np.concatenate(values, e.params["dimension"]),
    "conversion": _converted,
    "identity": lambda e, values: values[0],
    "remainder": _rem,
}


def evaluation(kind: str) -> Evaluate:
    """How equations of a kind are evaluated: in a way of our own, or as a function of NumPy's does."""
    return _OWN.get(kind) or (lambda equation, values: getattr(np, kind)(*values))
