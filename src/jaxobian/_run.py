"""Running a choice: inside a trace as one function, outside it compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ._layout import block_dtype
from ._plan import Choice
from ._seeds import UNROLLED_CHUNKS, Run

Results = tuple[list[list[Any]], list[Any], list[Any]]
Executable = Callable[[Sequence[Any], Sequence[Any]], Results]


def executable(choice: Choice, value: bool) -> Executable:
    """One traceable function: operands, x -> blocks of J as the user gets them, y where asked for, aux."""

    def run(operands: Sequence[Any], xs: Sequence[Any]) -> Results:
        ys, aux, held = choice.prepare(operands, xs)
        like = xs if choice.seeds.forward else ys
        return _finished(choice, choice.seeds.sweep(choice.linear(held), like)), ys if value else [], aux

    return run


def compiled(choice: Choice, value: bool) -> Executable:
    """The same, compiled; long loops over chunks run on the host.

    XLA runs the body of a loop on one core of a CPU. A host loop over one compiled step, into which J is donated, keeps
    them all busy and needs no second J.
    """
    if max((run.chunks for run in choice.seeds.runs()), default=0) > UNROLLED_CHUNKS and choice.seeds.looped:
        return _host_loop(choice, value)
    return jax.jit(executable(choice, value))


def _host_loop(choice: Choice, value: bool) -> Executable:
    seeds = choice.seeds
    prepare = _forwarding(choice.prepare)
    # A run of one array becomes its block as it is; one of several is split, which needs new memory.
    whole = [len(run.leaves) == 1 for run in seeds.runs()]

    def finish(donated: Sequence[Any], others: Sequence[Any]) -> list[list[Any]]:
        first, second = iter(donated), iter(others)
        return _finished(choice, seeds.blocks([next(first) if one else next(second) for one in whole]))

    finish_jit = jax.jit(finish, donate_argnums=0)

    def start(run: Run, held: Any, like: Sequence[Any]) -> list[Any]:
        return seeds.buffers(run, choice.linear(held), like)

    def step(run: Run, k: Any, buffers: list[Any], held: Any, like: Sequence[Any]) -> list[Any]:
        return seeds.step(run, k, buffers, choice.linear(held), like)

    start_jit = jax.jit(start, static_argnums=0)
    step_jit = jax.jit(step, static_argnums=0, donate_argnums=2)

    def run_all(operands: Sequence[Any], xs: Sequence[Any]) -> Results:
        ys, aux, held = prepare(operands, xs)
        like = xs if seeds.forward else ys
        results: dict[bool, list[Any]] = {True: [], False: []}
        for run, one in zip(seeds.runs(), whole, strict=True):
            buffers = start_jit(run, held, like)
            for k in range(run.chunks):
                buffers = step_jit(run, jnp.asarray(k), buffers, held, like)
            results[one].append(buffers)
        return finish_jit(results[True], results[False]), ys if value else [], aux

    return run_all


def _forwarding(prepare: Callable[..., Any]) -> Callable[..., Any]:
    """`prepare` compiled, without a copy of the arguments that it hands on (weights are residuals as they stand)."""
    known: list[tuple[Any, list[int | None]]] = []

    @jax.jit
    def computed(*args: Any) -> list[Any]:
        given = jax.tree.leaves(args)
        leaves, tree = jax.tree.flatten(prepare(*args))
        sources = [next((k for k, x in enumerate(given) if x is leaf), None) for leaf in leaves]
        known.append((tree, sources))
        return [leaf for leaf, source in zip(leaves, sources, strict=True) if source is None]

    def run(*args: Any) -> Any:
        new, given = iter(computed(*args)), jax.tree.leaves(args)
        tree, sources = known[-1]
        return jax.tree.unflatten(tree, [next(new) if source is None else given[source] for source in sources])

    return run


def _finished(choice: Choice, rows: list[list[Any]]) -> list[list[Any]]:
    """blocks[out][in] in their final shape and dtype."""
    problem = choice.problem
    outputs, inputs = problem.outputs, problem.inputs
    if choice.seeds.forward:
        rows = [list(row) for row in zip(*rows, strict=True)]
    batch = () if problem.batch is None else (problem.batch,)
    return [
        [
            block.reshape(*batch, *out_shape, *in_shape).astype(block_dtype(out, inp))
            for block, in_shape, inp in zip(row, inputs.shapes, inputs.avals, strict=True)
        ]
        for row, out_shape, out in zip(rows, outputs.shapes, outputs.avals, strict=True)
    ]
