"""The passes of some seeds through a linear map: chunk by chunk, in a loop or written out one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._arrays import abstract, zeros_like
from .._rewrite import batch_major, compact, pass_axis, weights_first
from .._seeds import Run, Seeds

LinearMap = Callable[..., Sequence[Any]]
# What the passes of some seeds bring back: for each run the result arrays, passes on an axis of their own.
Results = list[list[Any]]


def swept(seeds: Seeds, linear: LinearMap, like: Sequence[Any]) -> Results:
    """Make every pass, inside a trace.

    Args:
        seeds: which passes, and how they are chunked.
        linear: the linear map, from one seed on the seeded side to one result on the result side.
        like: arrays like the seeded ones; where rows are at hand, those.
    """
    return [
        _loop(seeds, run, linear, like) if seeds.looped and run.chunks > 1 else _unrolled(seeds, run, linear, like)
        for run in seeds.runs()
    ]


def step(seeds: Seeds, run: Run, k: Any, buffers: Sequence[Any], linear: LinearMap, like: Sequence[Any]) -> list[Any]:
    """Chunk k of a run written into `buffers`; the last one overlaps its neighbor where widths do not divide."""
    start = jnp.minimum(k * run.width, run.total - run.width)
    parts = _piece(seeds, run, start, run.width, _own(seeds, linear), like)
    return [
        jax.lax.dynamic_update_slice_in_dim(buffer, part, start, axis % buffer.ndim)
        for buffer, part, axis in zip(buffers, parts, seeds.axes, strict=True)
    ]


def empty_buffers(seeds: Seeds, run: Run, linear: LinearMap, like: Sequence[Any]) -> list[Any]:
    """Zeros for what a run returns."""
    made = []
    parts = jax.eval_shape(lambda: _piece(seeds, run, 0, run.width, _own(seeds, linear), like))
    for part, axis in zip(parts, seeds.axes, strict=True):
        shape = list(part.shape)
        shape[axis] = run.total
        made.append(zeros_like(part, tuple(shape)))  # under shard_map a loop's carry must vary as its result does
    return made


def _loop(seeds: Seeds, run: Run, linear: LinearMap, like: Sequence[Any]) -> list[Any]:
    def body(k: Any, buffers: list[Any]) -> list[Any]:
        return step(seeds, run, k, buffers, linear, like)

    return jax.lax.fori_loop(0, run.chunks, body, empty_buffers(seeds, run, linear, like))


def _unrolled(seeds: Seeds, run: Run, linear: LinearMap, like: Sequence[Any]) -> list[Any]:
    linear = _own(seeds, linear)
    if run.chunks > 1:
        linear = jax.jit(linear)  # traced, and transposed, for the first chunk alone
    pieces = [
        _piece(seeds, run, start, min(run.width, run.total - start), linear, like)
        for start in range(0, run.total, run.width)
    ]
    if len(pieces) == 1:
        return pieces[0]
    return [jnp.concatenate(parts, axis) for *parts, axis in zip(*pieces, seeds.axes, strict=True)]


def _own(seeds: Seeds, linear: LinearMap) -> LinearMap:
    """The map to the result arrays of the group alone, from seeds as they are made."""

    def selected(*tangents: Any) -> list[Any]:
        results = linear(*tangents)
        return [results[k] for k in seeds.numbers]

    return compact(selected, seeds.seeded.avals, seeds.invariant_axes) if seeds.hoisted else selected


def _piece(seeds: Seeds, run: Run, start: Any, width: int, linear: LinearMap, like: Sequence[Any]) -> list[Any]:
    """Passes start, ..., start + width - 1 of a run: an array for each result one, in the order of a block."""
    made = seeds.made(run.first + start, width, like)
    if width == 1:
        results = [result[None] for result in linear(*(seed[0] for seed in made))]
    elif seeds.vmapped:
        results = _together(seeds, linear, made)
    else:
        results = jax.lax.map(lambda seed: tuple(linear(*seed)), tuple(made))
    return seeds.turned(results)


def _together(seeds: Seeds, linear: LinearMap, made: Sequence[Any]) -> Sequence[Any]:
    """Several passes as one: seeds and results have them in front."""
    passes = jax.vmap(linear)
    if seeds.batch_major:
        avals = [aval.update(shape=aval.shape[1:]) for aval in map(abstract, made)]
        places = [pass_axis(aval) for aval in avals]
        made = [jnp.moveaxis(seed, 0, place) for seed, place in zip(made, places, strict=True)]
        passes = batch_major(linear, avals)
    results = (weights_first(passes) if seeds.weights_first else passes)(*made)
    return [jnp.moveaxis(x, min(1, x.ndim - 1), 0) for x in results] if seeds.batch_major else results
