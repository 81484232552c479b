"""Which (co)tangents to push, how many at once, and where the results land.

Seeds live on one side of a linear map (its inputs in forward mode, its outputs in reverse); what comes out on the
other side fills the blocks of J. Seeding the standard basis takes a pass an element. Where an axis is tied (a batch
whose examples never mix) one pass seeds every element along it at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp

from ._layout import zeros_like

LinearMap = Callable[..., Sequence[Any]]

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
class Run:
    """Passes first, ..., first + total - 1: those of some neighbouring seeded arrays.

    Attributes:
        leaves: the seeded arrays.
        first: number of the first pass.
        total: how many passes there are.
        width: how many are made at once.
    """

    leaves: tuple[int, ...]
    first: int
    total: int
    width: int

    @property
    def chunks(self) -> int:
        return -(-self.total // self.width)


def even(total: int, width: int) -> int:
    """The least width that takes no more chunks than `width` does: the last chunk then overlaps as little as can be."""
    return -(-total // -(-total // width))


@dataclass(frozen=True)
class Seeds:
    """The passes through a linear map: what is seeded, and how what comes back fills the blocks of J.

    Attributes:
        seeded: the side on which seeds are put.
        landed: the side on which results arrive.
        forward: whether the seeded side is the input: its axes are then the last ones of a block.
        width: passes made at once.
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

    def runs(self) -> list[Run]:
        """Seeded arrays packed into runs of at most `width` passes; a larger array is a run of its own."""
        sizes, offsets = self.seeded.sizes, (0, *accumulate(self.seeded.sizes))
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

    def sweep(self, linear: LinearMap, like: Sequence[Any]) -> list[list[Any]]:
        """Make every pass.

        Args:
            linear: the linear map, from one seed on the seeded side to one result on the landed side.
            like: arrays like the seeded ones.

        Returns:
            `blocks[s][r]`, for seeded array s and landed array r: of shape (tied axis, out, in), the axes of the
            seeded array still flat.
        """
        results = [
            self._loop(run, linear, like) if self.looped and run.chunks > 1 else self._unrolled(run, linear, like)
            for run in self.runs()
        ]
        return self.blocks(results)

    def blocks(self, results: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """`blocks[s][r]` from what each run returned."""
        rows: dict[int, list[Any]] = {}
        for run, landed in zip(self.runs(), results, strict=True):
            ends = list(accumulate(self.seeded.sizes[k] for k in run.leaves))[:-1]
            parts = [jnp.split(x, ends, axis) if ends else [x] for x, axis in zip(landed, self._axes, strict=True)]
            rows.update((leaf, [part[k] for part in parts]) for k, leaf in enumerate(run.leaves))
        return [rows[k] if k in rows else self._empty() for k in range(len(self.seeded.avals))]

    def piece(self, run: Run, start: Any, width: int, linear: LinearMap, like: Sequence[Any]) -> list[Any]:
        """Passes start, ..., start + width - 1 of a run: an array for each landed one, in the order of a block."""
        seeds = self._basis(run.first + start, width, like)
        if width == 1:
            results = [result[None] for result in linear(*(seed[0] for seed in seeds))]
        elif self.vmapped:
            results = jax.vmap(linear)(*seeds)
        else:
            results = jax.lax.map(lambda seed: tuple(linear(*seed)), tuple(seeds))
        return [self._turned(result, tied) for result, tied in zip(results, self.landed.tied, strict=True)]

    def step(self, run: Run, k: Any, buffers: Sequence[Any], linear: LinearMap, like: Sequence[Any]) -> list[Any]:
        """Chunk k of a run written into `buffers`; the last one overlaps its neighbour where widths do not divide."""
        start = jnp.minimum(k * run.width, run.total - run.width)
        return [
            jax.lax.dynamic_update_slice_in_dim(buffer, part, start, axis % buffer.ndim)
            for buffer, part, axis in zip(
                buffers, self.piece(run, start, run.width, linear, like), self._axes, strict=True
            )
        ]

    def buffers(self, run: Run, linear: LinearMap, like: Sequence[Any]) -> list[Any]:
        """Zeros for what a run returns."""
        made = []
        for part, axis in zip(
            jax.eval_shape(lambda: self.piece(run, 0, run.width, linear, like)), self._axes, strict=True
        ):
            shape = list(part.shape)
            shape[axis] = run.total
            made.append(zeros_like(part, tuple(shape)))  # under shard_map a loop's carry must vary as its result does
        return made

    def _loop(self, run: Run, linear: LinearMap, like: Sequence[Any]) -> list[Any]:
        def body(k: Any, buffers: list[Any]) -> list[Any]:
            return self.step(run, k, buffers, linear, like)

        return jax.lax.fori_loop(0, run.chunks, body, self.buffers(run, linear, like))

    def _unrolled(self, run: Run, linear: LinearMap, like: Sequence[Any]) -> list[Any]:
        pieces = [
            self.piece(run, start, min(run.width, run.total - start), linear, like)
            for start in range(0, run.total, run.width)
        ]
        if len(pieces) == 1:
            return pieces[0]
        return [jnp.concatenate(parts, axis) for *parts, axis in zip(*pieces, self._axes, strict=True)]

    def _basis(self, start: Any, width: int, like: Sequence[Any]) -> list[Any]:
        """Basis vectors start, ..., start + width - 1 as arrays (width, *shape), one for each seeded array."""
        made, offset = [], 0
        for aval, shape, size, tied, x in zip(
            self.seeded.avals, self.seeded.shapes, self.seeded.sizes, self.seeded.tied, like, strict=True
        ):
            rows = jnp.arange(width) + (start - offset)
            ones = (rows[:, None] == jnp.arange(size)[None, :]).astype(aval.dtype).reshape(width, *shape)
            if tied is not None:
                ones = jnp.broadcast_to(jnp.expand_dims(ones, tied + 1), (width, *aval.shape))
            # The zero takes over x's varying axes under shard_map.
            made.append(ones + jnp.zeros_like(x))
            offset += size
        return made

    @property
    def _axes(self) -> list[int]:
        """Where the axis of passes stands in the block of each landed array."""
        return [-1 if self.forward else int(tied is not None) for tied in self.landed.tied]

    def _turned(self, result: Any, tied: int | None) -> Any:
        """A result (passes, ...) with its axes in the order of a block: tied, out, in."""
        if tied is not None:
            result = jnp.moveaxis(result, tied + 1, 0)  # tied, passes, ...
            return jnp.moveaxis(result, 1, -1) if self.forward else result
        return jnp.moveaxis(result, 0, -1) if self.forward else result

    def _empty(self) -> list[Any]:
        """Blocks of a seeded array without elements."""
        blocks = []
        for aval, shape, tied in zip(self.landed.avals, self.landed.shapes, self.landed.tied, strict=True):
            batch = () if tied is None else (aval.shape[tied],)
            blocks.append(jnp.zeros((*batch, *shape, 0) if self.forward else (*batch, 0, *shape), aval.dtype))
        return blocks
