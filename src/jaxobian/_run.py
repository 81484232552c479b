"""Running a choice: inside a trace as one function, outside it compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ._compiler import compiler_options
from ._linear import LinearProgram
from ._plan import Choice
from ._seeds import UNROLLED_CHUNKS, Run, Seeds

Results = tuple[list[list[Any]], list[Any], list[Any]]
Executable = Callable[[Sequence[Any], Sequence[Any]], Results]


def executable(choice: Choice, value: bool, format: str = "dense") -> Executable:
    """One traceable function: operands, x -> blocks of J as the user gets them, y where asked for, aux."""

    def run(operands: Sequence[Any], xs: Sequence[Any]) -> Results:
        ys, aux, held = choice.prepare(operands, xs)
        return choice.blocks(held, xs, ys, format), ys if value else [], aux

    return run


def values_alone(program: LinearProgram) -> Executable:
    """The same where there is nothing to differentiate: no blocks, y, aux."""

    def run(operands: Sequence[Any], xs: Sequence[Any]) -> Results:
        ys, aux, _ = program.evaluate(operands, xs)
        return [[] for _ in ys], ys, aux

    return run


def compiled(choice: Choice, value: bool, format: str, platform: str, *, mapped: bool = False) -> Executable:
    """The same, compiled for a platform; long loops over chunks run on the host, but where vmap makes many of the call.

    XLA runs the body of a loop on one core of a CPU. A host loop over one compiled step, into which J is donated, keeps
    them all busy and needs no second J.
    """
    runs = [run for seeds in choice.groups if seeds.looped for run in seeds.runs()]
    if max((run.chunks for run in runs), default=0) > UNROLLED_CHUNKS and not mapped:
        return _host_loop(choice, value, format, platform)
    return jax.jit(executable(choice, value, format), compiler_options=compiler_options(platform))


def _host_loop(choice: Choice, value: bool, format: str, platform: str) -> Executable:
    jit = partial(jax.jit, compiler_options=compiler_options(platform))
    prepare = _forwarding(choice.prepare, jit)
    # A run of one array becomes its block as it is; one of several is split, which needs new memory.
    whole = [[len(run.leaves) == 1 for run in seeds.runs()] for seeds in choice.groups]

    def finish(donated: Sequence[Any], others: Sequence[Any]) -> list[list[Any]]:
        first, second = iter(donated), iter(others)
        results = [[next(first) if one else next(second) for one in ones] for ones in whole]
        return choice.filled(results, format)

    # What is spread out or collected into an index has another shape than what it is made of.
    in_place = format == "dense" and not any(any(seeds.group.cells) for seeds in choice.groups if seeds.group)
    finish_jit = jit(finish, donate_argnums=0 if in_place else ())

    def start(seeds: Seeds, run: Run, held: Any, like: Sequence[Any]) -> list[Any]:
        return seeds.buffers(run, choice.linear(held), like)

    def step(seeds: Seeds, run: Run, k: Any, buffers: list[Any], held: Any, like: Sequence[Any]) -> list[Any]:
        return seeds.step(run, k, buffers, choice.linear(held), like)

    start_jit = jit(start, static_argnums=(0, 1))
    step_jit = jit(step, static_argnums=(0, 1), donate_argnums=3)

    def run_all(operands: Sequence[Any], xs: Sequence[Any]) -> Results:
        ys, aux, held = prepare(operands, xs)
        results: dict[bool, list[Any]] = {True: [], False: []}
        like = choice.like(held, xs, ys)
        for seeds, ones in zip(choice.groups, whole, strict=True):
            for run, one in zip(seeds.runs(), ones, strict=True):
                buffers = start_jit(seeds, run, held, like)
                for k in range(run.chunks):
                    buffers = step_jit(seeds, run, jnp.asarray(k), buffers, held, like)
                results[one].append(buffers)
        return finish_jit(results[True], results[False]), ys if value else [], aux

    return run_all


def _forwarding(prepare: Callable[..., Any], jit: Callable[..., Any]) -> Callable[..., Any]:
    """`prepare` compiled, without a copy of the arguments that it hands on (weights are residuals as they stand)."""
    known: list[tuple[Any, list[int | None]]] = []

    @jit
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
