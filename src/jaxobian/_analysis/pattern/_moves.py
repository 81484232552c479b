"""Equations that put elements of their operands in other places: found by moving the elements' numbers.

Each rule gives, for every operand, the number of the element that stands in each place of the result; -1 for none.
What depends on an index that is not known has no rule here; its ties are all that is known of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..._trace import reshape_order
from ._rows import Shape, dims_of, positions, size_of

# Looks up what an atom holds, where that depends on no argument.
Known = Callable[[Any], np.ndarray | None]
# Operand -> the element that stands in each place of the result.
Moved = dict[int, np.ndarray]


def _reshape(equation: Any, known: Known) -> Moved:
    return {0: positions(dims_of(equation.invars[0])).transpose(reshape_order(equation))}


def _transpose(equation: Any, known: Known) -> Moved:
    return {0: positions(dims_of(equation.invars[0])).transpose(equation.params["permutation"])}


def _broadcast(equation: Any, known: Known) -> Moved:
    operand, out = dims_of(equation.invars[0]), dims_of(equation.outvars[0])
    shape = [1] * len(out)
    for size, axis in zip(operand, equation.params["broadcast_dimensions"], strict=True):
        shape[axis] = size
    return {0: np.broadcast_to(positions(operand).reshape(shape), out)}


def _slice(equation: Any, known: Known) -> Moved:
    params = equation.params
    strides = params["strides"] or (1,) * len(params["start_indices"])
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return {0: positions(dims_of(equation.invars[0]))[tuple(slice(*b) for b in bounds)]}


def _rev(equation: Any, known: Known) -> Moved:
    return {0: np.flip(positions(dims_of(equation.invars[0])), equation.params["dimensions"])}


def _concatenate(equation: Any, known: Known) -> Moved:
    axis, moved = equation.params["dimension"], {}
    shapes = [dims_of(v) for v in equation.invars]
    for k in range(len(shapes)):
        parts = [positions(s) if j == k else np.full(s, -1) for j, s in enumerate(shapes)]
        moved[k] = np.concatenate(parts, axis)
    return moved


def _pad(equation: Any, known: Known) -> Moved:
    out, operand = dims_of(equation.outvars[0]), dims_of(equation.invars[0])
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
    parts = np.split(positions(dims_of(equation.invars[0])), np.cumsum(sizes)[:-1], axis)
    return [{0: part} for part in parts]


def _stack(equation: Any, known: Known) -> Moved:
    axis, shapes = equation.params["axis"], [dims_of(v) for v in equation.invars]
    return {
        k: np.stack([positions(s) if j == k else np.full(s, -1) for j, s in enumerate(shapes)], axis)
        for k in range(len(shapes))
    }


def _unstack(equation: Any, known: Known) -> list[Moved]:
    whole = positions(dims_of(equation.invars[0]))
    return [{0: part} for part in np.moveaxis(whole, equation.params["axis"], 0)]


def _tile(equation: Any, known: Known) -> Moved:
    out, operand = dims_of(equation.outvars[0]), dims_of(equation.invars[0])
    return {0: positions(operand)[np.ix_(*(np.arange(m) % n for m, n in zip(out, operand, strict=True)))]}


def _dynamic_slice(equation: Any, known: Known) -> Moved | None:
    operand, out = dims_of(equation.invars[0]), dims_of(equation.outvars[0])
    starts = _starts(equation.invars[1:], operand, out, known)
    if starts is None:
        return None
    return {0: positions(operand)[tuple(slice(s, s + n) for s, n in zip(starts, out, strict=True))]}


def _dynamic_update_slice(equation: Any, known: Known) -> Moved | None:
    operand, update = dims_of(equation.invars[0]), dims_of(equation.invars[1])
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
    numbers, index = equation.params["dimension_numbers"], known(equation.invars[1])
    if index is None:
        return None
    places = _looked_at(
        dims_of(equation.invars[0]), index, numbers.offset_dims, numbers.collapsed_slice_dims,
        numbers.start_index_map, numbers.operand_batching_dims, numbers.start_indices_batching_dims,
        equation.params["slice_sizes"], dims_of(equation.outvars[0]), equation.params["mode"],
    )  # fmt: skip
    return None if places is None else {0: places}


def _scatter(equation: Any, known: Known) -> Moved | None:
    """What is written into, and what is written; None where something is written twice."""
    landed = landings(equation, known)
    if landed is None:
        return None
    there = np.flatnonzero(landed >= 0)
    if len(np.unique(landed[there])) < len(there):
        return None
    kept, new = positions(dims_of(equation.invars[0])).reshape(-1), np.full(size_of(equation.invars[0]), -1)
    kept[landed[there]], new[landed[there]] = -1, there
    return {0: kept, 2: new}


def landings(equation: Any, known: Known) -> np.ndarray | None:
    """Where each element that a scatter adds arrives; -1 for nowhere; None where that is not known."""
    numbers, index = equation.params["dimension_numbers"], known(equation.invars[1])
    if index is None:
        return None
    operand, updates = dims_of(equation.outvars[0]), dims_of(equation.invars[2])
    # A scatter puts elements where the gather with the same numbers would take them from.
    whole = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    windows = iter(updates[d] for d in numbers.update_window_dims)
    sizes = [1 if axis in whole else next(windows) for axis in range(len(operand))]
    places = _looked_at(
        operand, index, numbers.update_window_dims, numbers.inserted_window_dims,
        numbers.scatter_dims_to_operand_dims, numbers.operand_batching_dims, numbers.scatter_indices_batching_dims,
        sizes, updates, equation.params["mode"],
    )  # fmt: skip
    return None if places is None else places.reshape(-1)


def _looked_at(
    operand: Shape, index: np.ndarray, offsets: Sequence[int], collapsed: Sequence[int], starts_at: Sequence[int],
    batching: Sequence[int], index_batching: Sequence[int], sizes: Sequence[int], out: Shape, mode: Any,
) -> np.ndarray | None:  # fmt: skip
    """The element of the operand that each element of a gather's result is; -1 for one beyond the operand's ends.

    None where an index is beyond them though it was promised not to be: it is clamped, or dropped, or neither.
    """
    index = index.astype(np.int64)
    lead = index.shape[:-1]
    strides = [math.prod(operand[axis + 1 :]) for axis in range(len(operand))]
    first, inside = np.zeros(lead, np.int64), np.ones(lead, bool)
    for column, axis in enumerate(starts_at):
        start, room = index[..., column], operand[axis] - sizes[axis]
        within = (start >= 0) & (start <= room)
        if "FILL_OR_DROP" in str(mode):
            inside &= within
        elif "CLIP" not in str(mode) and not within.all():
            return None
        first = first + np.clip(start, 0, room) * strides[axis]
    for axis, lead_axis in zip(batching, index_batching, strict=True):
        own = np.arange(lead[lead_axis]).reshape(-1, *(1,) * (len(lead) - lead_axis - 1))
        first = first + own * strides[axis]
    window = [axis for axis in range(len(operand)) if axis not in collapsed and axis not in batching]
    places = np.where(inside, first, -1)[(..., *(None,) * len(window))]
    for k, axis in enumerate(window):
        step = np.arange(sizes[axis]).reshape(-1, *(1,) * (len(window) - k - 1)) * strides[axis]
        places = np.where(places < 0, -1, places + step)
    # The axes of the window go where the result has them, those of the index to the others.
    leading = iter(range(len(lead)))
    order = [len(lead) + list(offsets).index(d) if d in offsets else next(leading) for d in range(len(out))]
    return places.transpose(order)


def _select(equation: Any, known: Known) -> Moved | None:
    """Which case stands where, if the condition is known."""
    which = known(equation.invars[0])
    if which is None:
        return None
    out = dims_of(equation.outvars[0])
    which, here = np.broadcast_to(which, out).astype(int), positions(out)
    return {k: np.where(which == k - 1, here, -1) for k in range(1, len(equation.invars))}


MOVES: dict[str | None, Callable[[Any, Known], Moved | list[Moved] | None]] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast": _broadcast,
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
    "written": _scatter,
    "cases": _select,
}
