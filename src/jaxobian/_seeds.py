"""Which (co)tangents to push, how many at once, and where the results land.

Seeds live on one side of a linear map (its inputs in forward mode, its outputs in reverse); what comes out on the
other side fills the blocks of J. Seeding the standard basis takes a pass an element. Where an axis is tied (a batch
whose examples never mix) one pass seeds every element along it at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp

from ._layout import varying_axes

# Up to this many chunks are written out one after the other; more run in a loop.
UNROLLED_CHUNKS = 16


@dataclass(frozen=True)
class Side:
    """The arrays on one side of a linear map, and the axis of each that is tied to the other side's."""

    avals: tuple[Any, ...]
    tied: tuple[int | None, ...]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Each array's shape without its tied axis: what one pass tells apart."""
        return tuple(
            tuple(n for axis, n in enumerate(aval.shape) if axis != tied)
            for aval, tied in zip(self.avals, self.tied, strict=True)
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """Elements that one pass tells apart."""
        return sum(self.sizes)


@dataclass(frozen=True)
class Seeds:
    """The passes through a linear map: what is seeded, and how what comes back fills the blocks of J.

    Attributes:
        seeded: the side on which seeds are put.
        landed: the side on which results arrive.
        forward: whether the seeded side is the input: its axes are then the last ones of a block.
        width: passes run at once.
        vmapped: whether several passes can run as one (every primitive has a batching rule).
        looped: whether chunks run in a loop, which bounds memory, or are written out.
    """

    seeded: Side
    landed: Side
    forward: bool
    width: int
    vmapped: bool = True
    looped: bool = False

    @property
    def passes(self) -> int:
        return self.seeded.size

    def tangents(self, start: Any, width: int, like: Sequence[Any]) -> list[Any]:
        """Basis vectors start, ..., start + width - 1 as arrays (width, *shape), one for each seeded array.

        Args:
            start: number of the first pass; may be traced.
            width: how many.
            like: arrays whose varying axes (under shard_map) the seeds take over.
        """
        offsets = (0, *accumulate(self.seeded.sizes))
        made = []
        for k, (aval, shape) in enumerate(zip(self.seeded.avals, self.seeded.shapes, strict=True)):
            columns = jnp.arange(self.seeded.sizes[k])
            rows = jnp.arange(width) + (start - offsets[k])
            ones = (rows[:, None] == columns[None, :]).astype(aval.dtype).reshape(width, *shape)
            tied = self.seeded.tied[k]
            if tied is not None:
                ones = jnp.broadcast_to(jnp.expand_dims(ones, tied + 1), (width, *aval.shape))
            made.append(ones + jnp.zeros_like(like[k]))
        return made

    def run(self, linear: Callable[..., Sequence[Any]], like: Sequence[Any]) -> list[list[Any]]:
        """Make every pass.

        Args:
            linear: the linear map, from one seed on the seeded side to one result on the landed side.
            like: arrays like the seeded ones.

        Returns:
            `blocks[s][r]`, for seeded array s and landed array r: of shape (tied axis, out, in), the axes of the
            seeded array still flat.
        """
        many = jax.vmap(linear) if self.vmapped else _one_by_one(linear)
        blocks: list[list[Any] | None] = [None] * len(self.seeded.avals)
        for leaves in self._groups():
            for leaf, row in zip(leaves, self._run_group(leaves, many, linear, like), strict=True):
                blocks[leaf] = row
        return [self._empty() if row is None else row for row in blocks]

    def _groups(self) -> Iterator[list[int]]:
        """Seeded arrays packed into runs of at most `width` passes; a larger array is a run of its own."""
        group: list[int] = []
        for k, size in enumerate(self.seeded.sizes):
            if group and sum(self.seeded.sizes[j] for j in group) + size > self.width:
                yield group
                group = []
            if size:
                group.append(k)
        if group:
            yield group

    def _run_group(
        self, leaves: list[int], many: Callable[..., Any], one: Callable[..., Any], like: Sequence[Any]
    ) -> list[list[Any]]:
        first = sum(self.seeded.sizes[: leaves[0]])
        total = sum(self.seeded.sizes[k] for k in leaves)

        def chunk(start: Any, width: int) -> list[Any]:
            seeds = self.tangents(first + start, width, like)
            if width == 1:
                results = [r[None] for r in one(*(s[0] for s in seeds))]
            else:
                results = many(*seeds)
            return [self._turned(r, tied) for r, tied in zip(results, self.landed.tied, strict=True)]

        if total <= self.width:
            results = chunk(0, total)
        elif self.looped:
            results = self._loop(chunk, total)
        else:
            pieces = [chunk(start, min(self.width, total - start)) for start in range(0, total, self.width)]
            axes = [self._axis(tied) for tied in self.landed.tied]
            results = [jnp.concatenate(parts, axis) for *parts, axis in zip(*pieces, axes, strict=True)]
        return self._split(results, leaves)

    def _loop(self, chunk: Callable[[Any, int], list[Any]], total: int) -> list[Any]:
        """Chunks written into J one after the other; the last one overlaps its neighbour where widths do not divide."""
        width, axes = self.width, [self._axis(tied) for tied in self.landed.tied]

        def buffer(piece: Any, axis: int) -> Any:
            shape = list(piece.shape)
            shape[axis] = total
            return zeros_like(piece, tuple(shape))  # under shard_map a loop's carry must vary as its result does

        def step(k: Any, buffers: list[Any]) -> list[Any]:
            start = jnp.minimum(k * width, total - width)
            return [
                jax.lax.dynamic_update_slice_in_dim(buffer, piece, start, axis % buffer.ndim)
                for buffer, piece, axis in zip(buffers, chunk(start, width), axes, strict=True)
            ]

        pieces = jax.eval_shape(lambda: chunk(0, width))
        return jax.lax.fori_loop(0, -(-total // width), step, [*map(buffer, pieces, axes)])

    def _axis(self, tied: int | None) -> int:
        """Where the axis of passes stands in a block."""
        return -1 if self.forward else int(tied is not None)

    def _turned(self, result: Any, tied: int | None) -> Any:
        """A result (passes, ...) with its axes in the order of a block: tied, out, in."""
        if tied is not None:
            result = jnp.moveaxis(result, tied + 1, 0)  # tied, passes, ...
            return jnp.moveaxis(result, 1, -1) if self.forward else result
        return jnp.moveaxis(result, 0, -1) if self.forward else result

    def _split(self, results: list[Any], leaves: list[int]) -> list[list[Any]]:
        """The results of a run, cut into one row of blocks for each seeded array of it."""
        if len(leaves) == 1:
            return [results]
        ends = list(accumulate(self.seeded.sizes[k] for k in leaves))
        parts = [
            jnp.split(r, ends[:-1], self._axis(tied)) for r, tied in zip(results, self.landed.tied, strict=True)
        ]
        return [list(row) for row in zip(*parts, strict=True)]

    def _empty(self) -> list[Any]:
        """Blocks of a seeded array without elements."""
        blocks = []
        for aval, shape, tied in zip(self.landed.avals, self.landed.shapes, self.landed.tied, strict=True):
            batch = () if tied is None else (aval.shape[tied],)
            blocks.append(jnp.zeros((*batch, *shape, 0) if self.forward else (*batch, 0, *shape), aval.dtype))
        return blocks


def zeros_like(aval: Any, shape: tuple[int, ...] | None = None) -> Any:
    """Zeros of an abstract value, varying over the same mesh axes."""
    zeros = jnp.zeros(aval.shape if shape is None else shape, aval.dtype)
    varying = varying_axes(aval)
    return jax.lax.pcast(zeros, tuple(sorted(varying)), to="varying") if varying else zeros


def _one_by_one(linear: Callable[..., Sequence[Any]]) -> Callable[..., list[Any]]:
    """`vmap` for what cannot be vmapped: a loop over single passes."""

    def many(*seeds: Any) -> list[Any]:
        return list(jax.lax.map(lambda seed: tuple(linear(*seed)), seeds))

    return many
