"""The passes of one group: seeds made chunk by chunk, results put in their place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import zeros_like
from .._rewrite import shrunk
from .._trace._ends import Side
from ._groups import Cell, Group, plain
from ._runs import Run, even
from ._split import Split

# JAX counts elements in 32 bits.
MOST_INDEXED = 2**31 - 1
# Up to this many chunks are written out one after the other; more run in a loop.
UNROLLED_CHUNKS = 16


@dataclass(frozen=True, eq=False)
class Classes:
    """Seeded elements by color: a pass has ones at all elements of its color.

    Attributes:
        colors: for each seeded array, the color of each element, its batch apart; -1 for none.
        count: how many colors there are.
    """

    colors: tuple[np.ndarray, ...]
    count: int


@dataclass(frozen=True)
class Seeds:
    """The passes through a linear map: what is seeded, and how what comes back fills the blocks of J.

    Attributes:
        seeded: the side on which seeds are put.
        result: the side on which results arrive.
        forward: whether the seeded side is the input: its axes are then the last ones of a block.
        width: passes made at once.
        vmapped: whether several passes can run as one (every primitive has a batching rule).
        looped: whether chunks run in a loop, which bounds memory, or are written out.
        group: which elements share a pass, and which result arrays are looked at; by default no tie is known.
        initial: where passes begin with rows at hand rather than with one-hot vectors: the shapes of what they seed.
        classes: where a pass stands for all elements of a color.
        weights_first: whether products of the few rows that passes are put their constant first.
        batch_major: whether passes stand beside their examples, rather than in front of them, in all that they make.
        hoisted: whether axes along which a seed is the same are kept at size 1 for as long as it makes no difference.
        scattered: whether results that several elements share are put into J one by one.
    """

    seeded: Side
    result: Side
    forward: bool
    width: int
    vmapped: bool = True
    looped: bool = False
    group: Group | None = None
    initial: tuple[tuple[int, ...], ...] | None = None
    classes: Classes | None = None
    weights_first: bool = False
    batch_major: bool = False
    hoisted: bool = False
    scattered: bool = False

    @cached_property
    def _group(self) -> Group:
        return self.group or plain(len(self.seeded.avals), len(self.result.avals))

    @property
    def numbers(self) -> tuple[int, ...]:
        """Those of the result arrays of the group."""
        return self._group.results

    @cached_property
    def _results(self) -> Side:
        """The result arrays of the group."""
        return self.result.only(self._group.results)

    @cached_property
    def _splits(self) -> list[Split]:
        pairs = zip(self.seeded.avals, self.seeded.batch_axes, self._group.cells, strict=True)
        return [Split.of(aval.shape, batch, cells) for aval, batch, cells in pairs]

    @cached_property
    def invariant_axes(self) -> tuple[tuple[int, ...], ...]:
        """The axes of each seeded array along which every pass seeds the same."""
        return tuple(
            tuple(axis for axis, n in enumerate(aval.shape) if n > 1 and (axis == batch or Cell(axis, 1, n) in cells))
            for aval, batch, cells in zip(self.seeded.avals, self.seeded.batch_axes, self._group.cells, strict=True)
        )

    @cached_property
    def colors(self) -> tuple[int, ...]:
        """How many passes each seeded array takes: none, if nothing depends on it."""
        alive = self._group.seeded
        return tuple(split.colors if s in alive else 0 for s, split in enumerate(self._splits))

    @property
    def elements_per_pass(self) -> float:
        """How many elements of one example a pass seeds."""
        alive = sum(split.size for s, split in enumerate(self._splits) if s in self._group.seeded)
        return alive / max(1, self.passes)

    @property
    def last_axis_is_shared(self) -> bool:
        """Whether results are the same along the last axis of J's blocks, but for zeros."""
        splits = [split for s, split in enumerate(self._splits) if s in self._group.seeded]
        return self.forward and all(split.cells and split.free[-1] == 1 for split in splits)

    @property
    def passes(self) -> int:
        return sum(self.colors) if self.classes is None else self.classes.count

    def runs(self) -> list[Run]:
        """Seeded arrays packed into runs of at most `width` passes; a larger array is a run of its own."""
        if self.classes is not None:  # each pass seeds all arrays
            count = self.classes.count
            return [Run(tuple(range(len(self.seeded.avals))), 0, count, even(count, self.width))] if count else []
        sizes, offsets = self.colors, (0, *accumulate(self.colors))
        packs: list[list[int]] = []
        for k, size in enumerate(sizes):
            if not size:
                continue
            if packs and sum(sizes[j] for j in packs[-1]) + size <= self.width:
                packs[-1].append(k)
            else:
                packs.append([k])
        totals = [sum(sizes[k] for k in pack) for pack in packs]
        return [
            Run(tuple(pack), offsets[pack[0]], total, even(total, self.width))
            for pack, total in zip(packs, totals, strict=True)
        ]

    def blocks(self, results: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """The blocks of J from what each run returned.

        Returns:
            `blocks[s][r]`, for seeded array s and the r-th result array of the group: of shape (batch, out, in), the
            axes of the seeded array still flat.
        """
        return [
            [self.spread(s, r, block) for r, block in enumerate(row)] for s, row in enumerate(self.compressed(results))
        ]

    def compressed(self, results: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """Blocks that have colors in place of the elements of the seeded array."""
        rows: dict[int, list[Any]] = {}
        for run, brought in zip(self.runs(), results, strict=True):
            ends = list(accumulate(self.colors[k] for k in run.leaves))[:-1]
            parts = [jnp.split(x, ends, axis) if ends else [x] for x, axis in zip(brought, self.axes, strict=True)]
            rows.update((leaf, [part[k] for part in parts]) for k, leaf in enumerate(run.leaves))
        return [rows[k] if k in rows else self._empty() for k in range(len(self.seeded.avals))]

    def spread(self, s: int, r: int, block: Any) -> Any:
        """A compressed block with every element of the seeded array: each in its place, zeros elsewhere."""
        split, axis = self._splits[s], self.axes[r] % block.ndim
        before, after = block.shape[:axis], block.shape[axis + 1 :]
        if block.shape[axis] == 0:
            return zeros_like(self._results.avals[r], (*before, split.size, *after)).astype(block.dtype)
        if not split.cells:
            return block
        block = block.reshape(*before, *split.free, *after)
        mask = self._mask(s, r, block.ndim, axis)
        shape = (*before, *split.all, *after)
        spread = jnp.broadcast_to(block, shape) if mask is None else jnp.where(mask, block, jnp.zeros((), block.dtype))
        return spread.reshape(*before, split.size, *after)

    def _mask(self, s: int, r: int, rank: int, first: int) -> Any:
        """Where the cells of a seeded element are those of the result one; None where there is no dependence."""
        split, aval, batch = self._splits[s], self._results.avals[r], self._results.batch_axes[r]
        mask = None
        for place, cell, landing in zip(split.places, split.cells, self._group.landings[s][r], strict=False):
            here = jnp.arange(cell.base).reshape(cell.base, *(1,) * (rank - first - place - 1))
            axis = self._axis_in_block(landing.axis, batch, first, len(split.free))
            there = jnp.asarray(landing.digits(aval.shape[landing.axis])).reshape(-1, *(1,) * (rank - axis - 1))
            mask = here == there if mask is None else mask & (here == there)
        return mask

    def _axis_in_block(self, axis: int, batch: int | None, first: int, width: int) -> int:
        """Where an axis of a result array stands in a block whose seeded axes are `width` ones from `first` on."""
        if axis == batch:
            return 0
        own = axis - int(batch is not None and axis > batch) + int(batch is not None)
        return own if self.forward else own + width

    def entries(self, s: int, r: int) -> tuple[np.ndarray, np.ndarray]:
        """The elements of the compressed block, as J has them in order, and the index of each in (batch, out, in).

        Returns:
            Positions in the flat compressed block, and their index in the block as it is spread, sorted.
        """
        if self.colors[s] == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        split, aval, batch = self._splits[s], self._results.avals[r], self._results.batch_axes[r]
        lead = () if batch is None else (aval.shape[batch],)
        own = tuple(n for a, n in enumerate(aval.shape) if a != batch)
        shape = (*lead, *own, *split.free) if self.forward else (*lead, *split.free, *own)
        first = len(lead) + (len(own) if self.forward else 0)
        index = list(np.indices(shape, np.int64, sparse=True))
        valid = np.ones((1,) * len(shape), bool)
        for place, cell, landing in zip(split.places, split.cells, self._group.landings[s][r], strict=False):
            axis = self._axis_in_block(landing.axis, batch, first, len(split.free))
            digits = landing.digits(aval.shape[landing.axis]).reshape(-1, *(1,) * (len(shape) - axis - 1))
            index[first + place] = digits
            valid = valid & (digits >= 0) & (digits < cell.base)
        full = (*lead, *own, *split.all) if self.forward else (*lead, *split.all, *own)
        flat = np.broadcast_to(sum(i * math.prod(full[a + 1 :]) for a, i in enumerate(index)), shape).reshape(-1)
        at = np.flatnonzero(np.broadcast_to(valid, shape).reshape(-1))
        order = at[np.argsort(flat[at], kind="stable")]
        return order, flat[order]

    def split(self, s: int) -> Split:
        """The axes of a seeded array, cut into what a pass tells apart and what it does not."""
        return self._splits[s]

    def own_shape(self, s: int) -> tuple[int, ...]:
        """The shape of a seeded array without its batch."""
        return self._splits[s].shape

    def result_shape(self, r: int) -> tuple[int, ...]:
        """The shape of the r-th result array of the group, without its batch."""
        return self._results.shapes[r]

    def result_batch_axis(self, r: int) -> int | None:
        """Its axis of examples."""
        return self._results.batch_axes[r]

    def pass_of(self, s: int, along: Callable[[np.ndarray, int], Any], rank: int) -> Any:
        """The number of the pass that seeds each element of a seeded array, among those of the array; -1 for none.

        Args:
            s: the array.
            along: a table of numbers for the indices along an axis, and that axis -> the same, to be broadcast.
            rank: of what it is broadcast with, whose last axes are the array's.
        """
        split = self._splits[s]
        if self.classes is not None:
            colors = self.classes.colors[s].reshape(split.shape)
            return jnp.asarray(colors, jnp.int32).reshape(*(1,) * (rank - colors.ndim), *colors.shape)
        number: Any = np.zeros((1,) * rank, np.int32)
        for axis, size in enumerate(split.shape):
            table, below = np.zeros(size, np.int64), 1
            for piece in reversed(range(len(split.all))):
                if split.axes[piece] != axis:
                    continue
                if piece not in split.places:
                    table += np.arange(size) // below % split.all[piece] * math.prod(split.free[piece + 1 :])
                below *= split.all[piece]
            number = number + along(table, axis)
        return number

    def cells_of(self, s: int, r: int) -> list[tuple[int, np.ndarray, int, np.ndarray]]:
        """The cells of a seeded array, with where the r-th result array of the group has them.

        Returns:
            For each the axis of the seeded array and its digit for each index along it; and the same of the result
            array. Axes are counted without the batch. None are there where the result does not depend on the array.
        """
        split, aval, batch = self._splits[s], self._results.avals[r], self._results.batch_axes[r]
        found = []
        for place, cell, landing in zip(split.places, split.cells, self._group.landings[s][r], strict=False):
            axis = split.axes[place]
            digits = np.arange(split.shape[axis]) // cell.stride % cell.base
            there = landing.axis - int(batch is not None and landing.axis > batch)
            found.append((axis, digits, there, landing.digits(aval.shape[landing.axis])))
        return found

    def depends(self, s: int, r: int) -> bool:
        """Whether the r-th result array of the group has a place for each cell of a seeded array."""
        return s in self._group.seeded and len(self._group.landings[s][r]) == len(self._splits[s].cells)

    @property
    def lands_on_batch(self) -> bool:
        """Whether a cell is told by which example it is."""
        return any(
            landing.axis == batch
            for of_array in self._group.landings
            for landings, batch in zip(of_array, self._results.batch_axes, strict=True)
            for landing in landings
        )

    def made(self, start: Any, width: int, like: Sequence[Any]) -> list[Any]:
        """Seeds start, ..., start + width - 1 as arrays (width, *shape), one for each seeded array.

        Args:
            start: number of the first pass.
            width: how many.
            like: arrays like the seeded ones; where passes begin with rows at hand, those.
        """
        make = self._colored if self.classes else self._basis if self.initial is None else self._rows
        return make(start, width, like)

    def _rows(self, start: Any, width: int, like: Sequence[Any]) -> list[Any]:
        """Rows start, ..., start + width - 1 of those at hand, the same along axes that a pass seeds as a whole."""
        rows = [jax.lax.dynamic_slice_in_dim(x, start, width) for x in like]
        return [jnp.broadcast_to(x, (width, *shape)) for x, shape in zip(rows, self.initial or (), strict=True)]

    def _colored(self, start: Any, width: int, like: Sequence[Any]) -> list[Any]:
        """Ones at all elements of colors start, ..., start + width - 1."""
        made = []
        assert self.classes is not None
        for colors, split, aval, batch_axis, x in zip(
            self.classes.colors, self._splits, self.seeded.avals, self.seeded.batch_axes, like, strict=True
        ):
            if isinstance(start, int) and width * split.size <= MOST_INDEXED:
                # Written where they are, ones take no comparisons, which XLA would make anew wherever it reads a seed.
                there = np.flatnonzero((colors >= start) & (colors < start + width))
                index = (colors[there] - start) * split.size + there
                ones = zeros_like(aval, (width * split.size,))
                ones = ones.at[index].set(1, unique_indices=True, mode="promise_in_bounds")
            else:
                rows = (jnp.arange(width, dtype=jnp.int32) + start)[:, None] == jnp.asarray(colors, jnp.int32)[None]
                ones = rows.astype(aval.dtype)
            ones = ones.reshape(width, *split.shape)
            if batch_axis is not None:
                ones = jnp.broadcast_to(jnp.expand_dims(ones, batch_axis + 1), (width, *aval.shape))
            made.append(ones + jnp.zeros_like(x))
        return made

    def _basis(self, start: Any, width: int, like: Sequence[Any]) -> list[Any]:
        """Basis vectors start, ..., start + width - 1 as arrays (width, *shape), one for each seeded array."""
        made, offset = [], 0
        pairs = zip(self._splits, self.colors, self.seeded.avals, self.seeded.batch_axes, like, strict=True)
        for split, colors, aval, batch_axis, x in pairs:
            rows = jnp.arange(width) + (start - offset)
            shape = split.free if colors else (0,)
            ones = (rows[:, None] == jnp.arange(colors)[None, :]).astype(aval.dtype).reshape(width, *shape)
            if not colors:
                ones = jnp.zeros((width, *split.shape), aval.dtype)
            elif split.cells:
                ones = jnp.broadcast_to(ones, (width, *split.all))
            ones = ones.reshape(width, *split.shape)
            if batch_axis is not None:
                ones = jnp.broadcast_to(jnp.expand_dims(ones, batch_axis + 1), (width, *aval.shape))
            # The zero takes over x's varying axes under shard_map.
            made.append(ones + jnp.zeros_like(x))
            offset += colors
        return (
            [self._first(seed, axes) for seed, axes in zip(made, self.invariant_axes, strict=True)]
            if self.hoisted
            else made
        )

    @staticmethod
    def _first(seeds: Any, axes: Sequence[int]) -> Any:
        """What is at index 0 of some axes of the seeded array, where its seeds are the same."""
        return jax.lax.slice(seeds, (0,) * seeds.ndim, (len(seeds), *shrunk(seeds.shape[1:], axes)))

    @property
    def axes(self) -> list[int]:
        """Where the axis of passes stands in the block of each result array."""
        return [-1 if self._last else int(batch_axis is not None) for batch_axis in self._results.batch_axes]

    @property
    def _last(self) -> bool:
        """Whether passes are J's columns. Those by color are gathered one by one, and stay as they come."""
        return self.forward and self.classes is None

    def turned(self, results: Sequence[Any]) -> list[Any]:
        """Results (passes, ...) with their axes in the order of a block: batch, out, in."""
        return [
            self._turned(result, batch_axis)
            for result, batch_axis in zip(results, self._results.batch_axes, strict=True)
        ]

    def _turned(self, result: Any, batch_axis: int | None) -> Any:
        """A result (passes, ...) with its axes in the order of a block: batch, out, in."""
        if batch_axis is not None:
            result = jnp.moveaxis(result, batch_axis + 1, 0)  # tied, passes, ...
            return jnp.moveaxis(result, 1, -1) if self._last else result
        return jnp.moveaxis(result, 0, -1) if self._last else result

    def _empty(self) -> list[Any]:
        """Compressed blocks of a seeded array that takes no pass."""
        blocks = []
        for aval, shape, batch_axis in zip(
            self._results.avals, self._results.shapes, self._results.batch_axes, strict=True
        ):
            batch = () if batch_axis is None else (aval.shape[batch_axis],)
            blocks.append(zeros_like(aval, (*batch, *shape, 0) if self.forward else (*batch, 0, *shape)))
        return blocks
