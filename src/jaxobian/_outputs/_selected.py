"""The parts of a chunk that belong to one seeded array, and where elements of J are in them.

J[i, k] = result[i] of the pass that seeds k, where the cells of k are those of i, and 0 elsewhere
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import zeros_like
from .._seeds import Run, Seeds
from ._output import Chunk, Reduction


class Passes(NamedTuple):
    """Those passes of a chunk that seed one array.

    Attributes:
        seeded: its number.
        start: the number of the first one, among the passes of this array.
        fresh: for each pass whether it was not made before; None where all are fresh.
        parts: for each result array what they bring back, passes in front.
    """

    seeded: int
    start: Any
    fresh: Any
    parts: Sequence[Any]

    @property
    def numbers(self) -> Any:
        """Of each pass, among those of this array; -2 where it was made before: -1 stands for elements of no color."""
        numbers = jnp.arange(len(self.parts[0])) + self.start if self.parts else jnp.zeros(0, int)
        return numbers if self.fresh is None else jnp.where(self.fresh, numbers, -2)

    def masked(self, part: Any) -> Any:
        """What passes bring back, zeros of those made before."""
        if self.fresh is None:
            return part
        return jnp.where(self.fresh.reshape(-1, *(1,) * (part.ndim - 1)), part, jnp.zeros((), part.dtype))


def by_array(seeds: Seeds, chunk: Chunk, parts: Sequence[Any]) -> Iterator[Passes]:
    """The passes of a chunk, array by array; a run of several arrays is one chunk."""
    leaves = chunk.run.leaves
    if len(leaves) == 1 or seeds.classes is not None:  # a color is one of all arrays
        fresh = None if chunk.done is None else jnp.arange(chunk.width) + chunk.start >= chunk.done
        for s in leaves:
            yield Passes(s, chunk.start, fresh, parts)
        return
    first = 0
    for s in leaves:
        yield Passes(s, 0, None, [part[first : first + seeds.colors[s]] for part in parts])
        first += seeds.colors[s]


def folded(reduction: Reduction, run: Run, pieces: Sequence[Sequence[Any]]) -> list[Any]:
    """The chunks of a run, which are written out, added one after the other."""
    left = reduction.start(run, pieces[0])
    starts = range(0, run.total, run.width)
    for start, parts in zip(starts, pieces, strict=True):
        left = reduction.add(left, Chunk(run, start, min(run.width, run.total - start)), parts)
    return left


def lead_first(part: Any, batch_axis: int | None) -> Any:
    """A result (passes, ...) with the axis of examples, if there is one, behind that of passes."""
    return part if batch_axis is None else jnp.moveaxis(part, batch_axis + 1, 1)


def sums(like: Sequence[Any], shape: tuple[int, ...], dtype: Any) -> Any:
    """Zeros to add to, which vary over mesh axes as what is added does; halves are added as singles."""
    zeros = zeros_like(like[0], shape)
    for other in like[1:]:
        zeros += jnp.zeros_like(zeros_like(other, ()))
    summed = summed_dtype(dtype)
    return (zeros if jnp.issubdtype(summed, jnp.complexfloating) else jnp.real(zeros)).astype(summed)


def summed_dtype(dtype: Any) -> Any:
    """The dtype in which numbers are added up."""
    return jnp.promote_types(dtype, jnp.float32)


def along(table: np.ndarray, axis: int, rank: int) -> Any:
    """A number for each index along an axis, as XLA computes it best, to be broadcast with arrays of a rank."""
    shape = [1] * rank
    shape[axis] = len(table)
    if len(table) and (table == table[0]).all():
        return np.full((1,) * rank, table[0])
    step = table[1] - table[0]
    if (np.diff(table) == step).all():
        return (jnp.arange(len(table), dtype=jnp.int32) * int(step) + int(table[0])).reshape(shape)
    return jnp.asarray(table, jnp.int32).reshape(shape)


def diagonal_mask(seeds: Seeds, passes: Passes, r: int, rank: int) -> Any:
    """Where the passes of an array bring back a diagonal element: (passes, ...) as the larger of both sides has it.

    Args:
        seeds: all passes.
        passes: those of the seeded array.
        r: the place of the result array in its group.
        rank: of the larger side, without its batch. The axes of the smaller one are its last ones.
    """
    s = passes.seeded
    own = len(seeds.own_shape(s))
    number = seeds.pass_of(s, lambda table, axis: along(table, rank - own + axis, rank), rank)
    mask = number == passes.numbers.reshape(-1, *(1,) * rank)
    for axis, digits, there, landed in seeds.cells_of(s, r):
        width = len(seeds.result_shape(r))
        here, there = rank - own + axis, rank - width + there
        if here == there:
            if not (digits == landed).all():
                mask &= along((digits == landed).astype(int), here, rank) == 1
        else:
            mask &= along(digits, here, rank) == along(landed, there, rank)
    return mask


def arranged(seeds: Seeds, s: int, found: Any, lead: int) -> Any:
    """What is there for each pass and all cells of a seeded array, (passes, *lead, *cells), as (*lead, *array)."""
    split = seeds.split(s)
    free = [n for place, n in enumerate(split.all) if place not in split.places]
    found = jnp.moveaxis(found, 0, lead)
    found = found.reshape(*found.shape[:lead], *free, *found.shape[lead + 1 :])
    order, next_free = list(range(lead)), lead
    for place in range(len(split.all)):
        if place in split.places:
            order.append(lead + len(free) + split.places.index(place))
        else:
            order.append(next_free)
            next_free += 1
    return jnp.transpose(found, order).reshape(*found.shape[:lead], *split.shape)


def to_cells(seeds: Seeds, s: int, r: int, part: Any, lead: int) -> Any:
    """A result (passes, *lead, ...) summed over all that belongs to the same cells: (passes, *lead, *cells)."""
    found = seeds.cells_of(s, r)
    kept = sorted({there for _, _, there, _ in found})
    own = range(part.ndim - 1 - lead)
    part = part.sum([1 + lead + axis for axis in own if axis not in kept])
    order, shape = [], []
    for place, axis in enumerate(kept):
        cells = [(k, landed) for k, (_, _, there, landed) in enumerate(found) if there == axis]
        bases = [seeds.split(s).cells[k].base for k, _ in cells]
        flat = np.ravel_multi_index([landed for _, landed in cells], bases)
        part = _gathered(part, 1 + lead + place, flat, int(np.prod(bases)))
        order += [k for k, _ in cells]
        shape += bases
    part = part.reshape(*part.shape[: 1 + lead], *shape)
    first = list(range(1 + lead))
    return jnp.transpose(part, [*first, *(1 + lead + order.index(k) for k in range(len(order)))])


def _gathered(part: Any, axis: int, index: np.ndarray, size: int) -> Any:
    """The sum of what has the same index along an axis."""
    if size == len(index) and (index == np.arange(size)).all():
        return part
    part = jnp.moveaxis(part, axis, -1)
    summed = jax.ops.segment_sum(jnp.moveaxis(part, -1, 0), jnp.asarray(index), size)
    return jnp.moveaxis(summed, 0, axis)
