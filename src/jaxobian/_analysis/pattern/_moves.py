"""Equations that put elements of their operands in other places: found by moving the elements' numbers.

For every operand, the number of the element that stands in each place of a result; -1 for none. What depends on an
index that is not known has no rule here; its ties are all that is known of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..._primitives import row_of
from .._constants import evaluation
from ._rows import Shape, dims_of, positions, size_of

# Looks up what an atom holds, where that depends on no argument.
Known = Callable[[Any], np.ndarray | None]
# Operand -> the element that stands in each place of the result.
Moved = dict[int, np.ndarray]

# Kinds that put elements where they put their numbers: they are run on those.
EVALUATED = frozenset(
    "broadcast reshape transpose rev slice split pad concatenate stack unstack tile dynamic_slice dynamic_update_slice "
    "cases".split()
)


def moves(equation: Any, known: Known, operands: Iterable[int]) -> list[Moved] | None:
    """For each result, where the elements of some operands are; None where that is not known."""
    kind = row_of(equation).of_elements
    if kind in INDEXED:
        moved = INDEXED[kind](equation, known)
        return None if moved is None else [moved]
    return _evaluated(equation, known, kind, operands) if kind in EVALUATED else None


def _evaluated(equation: Any, known: Known, kind: str, operands: Iterable[int]) -> list[Moved] | None:
    """The equation run on the numbers of one operand's elements at a time, and on -1 in place of the others'."""
    linear: Any = row_of(equation).linear
    atoms = dict(enumerate(equation.invars))
    moving: Any = {"all": [*atoms], "cases": [*atoms][1:]}.get(linear, linear)
    given: dict[int, Any] = {k: np.full(dims_of(v), -1) if k in moving else known(v) for k, v in atoms.items()}
    if any(value is None for value in given.values()):
        return None
    results: list[Moved] = [{} for _ in equation.outvars]
    for k in set(operands).intersection(moving):
        made = evaluation(kind)(equation, [*(given | {k: positions(dims_of(atoms[k]))}).values()])
        for result, places in zip(results, made if isinstance(made, list) else [made], strict=True):
            result[k] = places
    return results


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


INDEXED: dict[str | None, Callable[[Any, Known], Moved | None]] = {"gather": _gather, "written": _scatter}
