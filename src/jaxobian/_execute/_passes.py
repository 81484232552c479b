"""The passes of some seeds through a linear map: chunk by chunk, in a loop or written out one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._arrays import abstract
from .._outputs import Chunk, Reduction, Results
from .._rewrite import batch_major, compact, pass_axis, weights_first
from .._seeds import Run, Seeds

LinearMap = Callable[..., Sequence[Any]]


def swept(seeds: Seeds, linear: LinearMap, like: Sequence[Any], reduction: Reduction) -> Results:
    """Make every pass, inside a trace.

    Args:
        seeds: which passes, and how they are chunked.
        linear: the linear map, from one seed on the seeded side to one result on the result side.
        like: arrays like the seeded ones; where rows are at hand, those.
        reduction: what becomes of the results.
    """

    def all_of(run: Run) -> list[Any]:
        make = _loop if seeds.looped and run.chunks > 1 else _unrolled
        return make(seeds, run, linear, like, reduction)

    return [all_of(run) for run in seeds.runs()]


def step(
    seeds: Seeds, run: Run, k: Any, left: Sequence[Any], linear: LinearMap, like: Sequence[Any], reduction: Reduction
) -> list[Any]:
    """What is left of a run up to chunk k; the last one overlaps its neighbor where widths do not divide."""
    start = jnp.minimum(k * run.width, run.total - run.width)
    parts = _piece(seeds, run, start, run.width, _own(seeds, linear), like)
    return reduction.add(left, Chunk(run, start, run.width, k * run.width if run.total % run.width else None), parts)


def nothing_yet(seeds: Seeds, run: Run, linear: LinearMap, like: Sequence[Any], reduction: Reduction) -> list[Any]:
    """Zeros for what a run leaves."""
    parts = jax.eval_shape(lambda: _piece(seeds, run, 0, run.width, _own(seeds, linear), like))
    return reduction.start(run, parts)


def _loop(seeds: Seeds, run: Run, linear: LinearMap, like: Sequence[Any], reduction: Reduction) -> list[Any]:
    def body(k: Any, left: list[Any]) -> list[Any]:
        return step(seeds, run, k, left, linear, like, reduction)

    return jax.lax.fori_loop(0, run.chunks, body, nothing_yet(seeds, run, linear, like, reduction))


def _unrolled(seeds: Seeds, run: Run, linear: LinearMap, like: Sequence[Any], reduction: Reduction) -> list[Any]:
    linear = _own(seeds, linear)
    if run.chunks > 1:
        linear = jax.jit(linear)  # traced, and transposed, for the first chunk alone
    pieces = [
        _piece(seeds, run, start, min(run.width, run.total - start), linear, like)
        for start in range(0, run.total, run.width)
    ]
    return reduction.joined(run, pieces)


def _own(seeds: Seeds, linear: LinearMap) -> LinearMap:
    """The map to the result arrays of the group alone, from seeds as they are made."""

    def selected(*tangents: Any) -> list[Any]:
        results = linear(*tangents)
        return [results[k] for k in seeds.numbers]

    return compact(selected, seeds.seeded.avals, seeds.invariant_axes) if seeds.hoisted else selected


def _piece(seeds: Seeds, run: Run, start: Any, width: int, linear: LinearMap, like: Sequence[Any]) -> list[Any]:
    """Passes start, ..., start + width - 1 of a run: for each result array one with the passes in front."""
    made = seeds.made(run.first + start, width, like)
    if width == 1:
        results = [result[None] for result in linear(*(seed[0] for seed in made))]
    elif seeds.vmapped:
        results = _together(seeds, linear, made)
    else:
        results = jax.lax.map(lambda seed: tuple(linear(*seed)), tuple(made))
    return list(results)


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
