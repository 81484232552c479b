"""Small equations evaluated with NumPy: an index array or a mask is not worth a compilation each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._trace import reshape_order


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


def _cases(equation: Any, values: Sequence[np.ndarray]) -> np.ndarray:
    which, *cases = values
    index = np.clip(np.broadcast_to(which, cases[0].shape).astype(int), 0, len(cases) - 1)
    return np.take_along_axis(np.stack(cases), index[None], 0)[0]


def _pad(equation: Any, values: Sequence[np.ndarray]) -> np.ndarray:
    (operand, by), target, source = values, [], []
    config = equation.params["padding_config"]
    for n, size, (low, _, interior) in zip(operand.shape, _shape(equation), config, strict=True):
        step = interior + 1
        first = max(0, -(low // step)) if low < 0 else 0
        last = max(first, min(n, (size - 1 - low) // step + 1) if size else 0)
        source.append(slice(first, last))
        target.append(slice(low + first * step, low + first * step + (last - first) * step, step))
    filled = np.full(_shape(equation), by)
    if filled.size and all(s.stop > s.start for s in source):
        filled[tuple(target)] = operand[tuple(source)]
    return filled


def _split(equation: Any, values: Sequence[np.ndarray]) -> list[np.ndarray]:
    return np.split(values[0], np.cumsum(equation.params["sizes"])[:-1], equation.params["axis"])


def _tile(equation: Any, values: Sequence[np.ndarray]) -> np.ndarray:
    each = zip(_shape(equation), values[0].shape, strict=True)
    return values[0][np.ix_(*(np.arange(m) % n for m, n in each))]


def _window(starts: Sequence[np.ndarray], sizes: Sequence[int], room: Sequence[int]) -> tuple[slice, ...]:
    """Where a slice is that is to begin somewhere: JAX moves it inside."""
    first = [min(max(int(start), 0), n - m) for start, m, n in zip(starts, sizes, room, strict=True)]
    return tuple(slice(start, start + m) for start, m in zip(first, sizes, strict=True))


def _dynamic_slice(equation: Any, values: Sequence[np.ndarray]) -> np.ndarray:
    operand, *starts = values
    return operand[_window(starts, _shape(equation), operand.shape)]


def _dynamic_update_slice(equation: Any, values: Sequence[np.ndarray]) -> np.ndarray:
    operand, update, *starts = values
    made = operand.copy()
    made[_window(starts, update.shape, made.shape)] = update
    return made


# Kinds that take parameters; those of several results have a list of them.
_OWN: dict[str, Callable[[Any, Sequence[np.ndarray]], Any]] = {
    "iota": _iota,
    "conversion": _converted,
    "identity": lambda e, values: values[0],
    "remainder": _rem,
    "cases": _cases,
    "broadcast": _broadcast,
    "reshape": _reshape,
    "transpose": lambda e, values: values[0].transpose(e.params["permutation"]),
    "rev": lambda e, values: np.flip(values[0], e.params["dimensions"]),
    "slice": _slice,
    "split": _split,
    "pad": _pad,
    "concatenate": lambda e, values: np.concatenate(values, e.params["dimension"]),
    "stack": lambda e, values: np.stack(values, e.params["axis"]),
    "unstack": lambda e, values: list(np.moveaxis(values[0], e.params["axis"], 0)),
    "tile": _tile,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
}


def evaluation(kind: str) -> Callable[[Any, Sequence[np.ndarray]], Any]:
    """How equations of a kind are evaluated: in a way of our own, or as a function of NumPy's does."""
    return _OWN.get(kind) or (lambda equation, values: getattr(np, kind)(*values))
