"""Equations that put elements of their operands in other places: found by moving the elements' numbers.

Each rule gives, for every operand, the number of the element that stands in each place of the result; -1 for none.
What depends on an index that is not known has no rule here; its ties are all that is known of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._linear import Program, is_variable
from ._rows import Shape, positions

# Looks up what an atom holds, where that depends on no argument.
Known = Callable[[Any], np.ndarray | None]
# Operand -> the element that stands in each place of the result.
Moved = dict[int, np.ndarray]


def _shape(atom: Any) -> Shape:
    return tuple(getattr(atom.aval, "shape", ()))


def _reshape(equation: Any, known: Known) -> Moved | None:
    if equation.params.get("dimensions") is not None:
        return None
    return {0: positions(_shape(equation.invars[0]))}


def _transpose(equation: Any, known: Known) -> Moved:
    return {0: positions(_shape(equation.invars[0])).transpose(equation.params["permutation"])}


def _broadcast(equation: Any, known: Known) -> Moved:
    operand, out = _shape(equation.invars[0]), _shape(equation.outvars[0])
    shape = [1] * len(out)
    for size, axis in zip(operand, equation.params["broadcast_dimensions"], strict=True):
        shape[axis] = size
    return {0: np.broadcast_to(positions(operand).reshape(shape), out)}


def _slice(equation: Any, known: Known) -> Moved:
    params = equation.params
    strides = params["strides"] or (1,) * len(params["start_indices"])
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return {0: positions(_shape(equation.invars[0]))[tuple(slice(*b) for b in bounds)]}


def _rev(equation: Any, known: Known) -> Moved:
    return {0: np.flip(positions(_shape(equation.invars[0])), equation.params["dimensions"])}


def _concatenate(equation: Any, known: Known) -> Moved:
    axis, moved = equation.params["dimension"], {}
    shapes = [_shape(v) for v in equation.invars]
    for k in range(len(shapes)):
        parts = [positions(s) if j == k else np.full(s, -1) for j, s in enumerate(shapes)]
        moved[k] = np.concatenate(parts, axis)
    return moved


def _pad(equation: Any, known: Known) -> Moved:
    out, operand = _shape(equation.outvars[0]), _shape(equation.invars[0])
    filled = np.full(out, -1)
    target, source = [], []
    for n, size, (low, _, interior) in zip(operand, out, equation.params["padding_config"], strict=True):
        step = interior + 1
        first = max(0, -(low // step)) if low < 0 else 0
        last = min(n, (size - 1 - low) // step + 1) if size else 0
        last = max(first, last)
        source.append(slice(first, last))
        target.append(slice(low + first * step, low + first * step + (last - first) * step, step))
    if 0 not in out and all(s.stop > s.start for s in source):
        filled[tuple(target)] = positions(operand)[tuple(source)]
    return {0: filled, 1: np.where(filled < 0, 0, -1)}


def _split(equation: Any, known: Known) -> list[Moved]:
    sizes, axis = equation.params["sizes"], equation.params["axis"]
    parts = np.split(positions(_shape(equation.invars[0])), np.cumsum(sizes)[:-1], axis)
    return [{0: part} for part in parts]


def _stack(equation: Any, known: Known) -> Moved:
    axis, shapes = equation.params["axis"], [_shape(v) for v in equation.invars]
    return {
        k: np.stack([positions(s) if j == k else np.full(s, -1) for j, s in enumerate(shapes)], axis)
        for k in range(len(shapes))
    }


def _unstack(equation: Any, known: Known) -> list[Moved]:
    whole = positions(_shape(equation.invars[0]))
    return [{0: part} for part in np.moveaxis(whole, equation.params["axis"], 0)]


def _tile(equation: Any, known: Known) -> Moved:
    out, operand = _shape(equation.outvars[0]), _shape(equation.invars[0])
    return {0: positions(operand)[np.ix_(*(np.arange(m) % n for m, n in zip(out, operand, strict=True)))]}


def _dynamic_slice(equation: Any, known: Known) -> Moved | None:
    operand, out = _shape(equation.invars[0]), _shape(equation.outvars[0])
    starts = _starts(equation.invars[1:], operand, out, known)
    if starts is None:
        return None
    return {0: positions(operand)[tuple(slice(s, s + n) for s, n in zip(starts, out, strict=True))]}


def _dynamic_update_slice(equation: Any, known: Known) -> Moved | None:
    operand, update = _shape(equation.invars[0]), _shape(equation.invars[1])
    starts = _starts(equation.invars[2:], operand, update, known)
    if starts is None:
        return None
    where = tuple(slice(s, s + n) for s, n in zip(starts, update, strict=True))
    kept, new = positions(operand).copy(), np.full(operand, -1)
    kept[where], new[where] = -1, positions(update)
    return {0: kept, 1: new}


def _starts(atoms: Sequence[Any], operand: Shape, part: Shape, known: Known) -> list[int] | None:
    values = [known(atom) for atom in atoms]
    if any(value is None for value in values):
        return None
    found = [int(value) for value in values if value is not None]
    return [min(max(v, 0), n - m) for v, n, m in zip(found, operand, part, strict=True)]


def _gather(equation: Any, known: Known) -> Moved | None:
    shape, where = _shape(equation.invars[0]), known(equation.invars[1])
    if where is None:
        return None
    # Counted from 1, so that what is filled in, zeros or NaN, is nowhere.
    index = _evaluated(equation, [positions(shape) + 1, where])
    return None if index is None else {0: index - 1}


def _select(equation: Any, known: Known) -> Moved | None:
    """Which case stands where, if the condition is known."""
    which = known(equation.invars[0])
    if which is None:
        return None
    out = _shape(equation.outvars[0])
    which, here = np.broadcast_to(which, out).astype(int), positions(out)
    return {k: np.where(which == k - 1, here, -1) for k in range(1, len(equation.invars))}


def _evaluated(equation: Any, operands: Sequence[Any]) -> np.ndarray | None:
    """An equation applied to the positive numbers of elements rather than to elements; None where that fails."""
    numbers, *others = operands
    if numbers.size >= 2**24:  # numbers must be exact in float32
        return None
    params = {**equation.params, "fill_value": 0} if "fill_value" in equation.params else equation.params
    try:
        with jax.ensure_compile_time_eval():
            found = equation.primitive.bind(jnp.asarray(numbers, jnp.float32), *map(jnp.asarray, others), **params)
        return np.nan_to_num(np.asarray(found)).astype(np.int64)
    except Exception:
        return None  # what cannot be evaluated here is not known


MOVES: dict[str, Callable[[Any, Known], Moved | list[Moved] | None]] = {
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "rev": _rev,
    "concatenate": _concatenate,
    "pad": _pad,
    "split": _split,
    "stack": _stack,
    "unstack": _unstack,
    "tile": _tile,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    "select_n": _select,
}


def landings(equation: Any, known: Known) -> np.ndarray | None:
    """Where each element that a scatter adds arrives; -1 for nowhere; None where the index is not known."""
    index = known(equation.invars[1])
    size = int(np.prod(_shape(equation.outvars[0])))
    if index is None or size >= 2**24:  # numbers must be exact in float32
        return None
    operand, indices, updates = equation.invars
    inputs = [v for v in (operand, indices, updates) if is_variable(v)]
    alone = Program(tuple(inputs), tuple(equation.outvars), (equation,))

    def scattered(u: Any) -> Any:
        values = {id(operand): jnp.zeros(_shape(operand), u.dtype), id(indices): jnp.asarray(index), id(updates): u}
        (out,) = alone(*(values[id(v)] for v in inputs))
        return out

    try:
        with jax.ensure_compile_time_eval():
            # Whatever the dtype of what is scattered: the numbers would not be exact in a narrower one.
            numbers = jnp.arange(1, size + 1, dtype=jnp.float32).reshape(_shape(equation.outvars[0]))
            like = jax.ShapeDtypeStruct(_shape(updates), jnp.float32)
            (landed,) = jax.linear_transpose(scattered, like)(numbers)
        return np.asarray(landed).astype(np.int64).reshape(-1) - 1
    except Exception:
        return None  # what cannot be evaluated here is not known
