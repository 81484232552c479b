"""Running an execution: inside a trace as one function, outside it compiled, long loops over chunks on the host."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .._compiler import compiler_options
from .._outputs import Output, Results, Rows
from .._seeds import UNROLLED_CHUNKS, Run
from .._trace import Ends, Linear, LinearProgram, walk
from ._execution import Execution, Residuals
from ._passes import nothing_yet, step, swept

Computed = tuple[Rows, list[Any], list[Any]]
Executable = Callable[[Sequence[Any], Sequence[Any]], Computed]


def traceable(execution: Execution, output: Output, value: bool) -> Executable:
    """One traceable function: operands, x -> what is wanted of J, y where asked for, aux."""

    def run(operands: Sequence[Any], xs: Sequence[Any]) -> Computed:
        bound = output.bound(_weights(output, operands))
        ys, aux, residuals = _evaluated(execution, operands, xs)
        results: list[Results] = []
        for stage in execution.stages:
            linear, like = stage.linear(residuals.read), stage.like(residuals, results)
            results.append(swept(stage.seeds, linear, like, stage.reduction(bound)))
        return execution.wanted(results, bound, residuals.read), ys if value else [], aux

    return run


def _weights(output: Output, operands: Sequence[Any]) -> Sequence[Any]:
    """The operands that the output reads."""
    return operands[len(operands) - output.n_weights :]


def values_alone(program: LinearProgram, ends: Ends, output: Output) -> Executable:
    """The same where there is nothing to differentiate: J has no columns."""

    def run(operands: Sequence[Any], xs: Sequence[Any]) -> Computed:
        ys, aux, _ = program.evaluate(operands, xs)
        return output.bound(_weights(output, operands)).of_blocks(ends, [[] for _ in ys]), ys, aux

    return run


def compiled(execution: Execution, output: Output, value: bool, platform: str, *, mapped: bool = False) -> Executable:
    """The same, compiled for a platform; long loops over chunks run on the host, but where vmap makes many of the call.

    XLA runs the body of a loop on one core of a CPU. A host loop over one compiled step, into which J is donated, keeps
    them all busy and needs no second J.
    """
    jit = partial(jax.jit, compiler_options=compiler_options(platform))
    runs = [run for stage in execution.stages if stage.seeds.looped for run in stage.seeds.runs()]
    if max((run.chunks for run in runs), default=0) > UNROLLED_CHUNKS and not mapped:
        return _on_host(execution, output, value, jit)
    return jit(traceable(execution, output, value))


def _evaluated(
    execution: Execution, operands: Sequence[Any], xs: Sequence[Any]
) -> tuple[list[Any], list[Any], Residuals]:
    """y, aux, and what the passes read."""
    program = execution.program
    assert isinstance(program, LinearProgram), "only a whole program can be evaluated"
    ys, aux, residuals = program.evaluate(operands, xs)
    return ys, aux, execution.residuals(operands, xs, ys, residuals)


def _on_host(execution: Execution, output: Output, value: bool, jit: Callable[..., Any]) -> Executable:
    """Stage after stage, chunk after chunk, each compiled once."""
    stages = execution.stages
    prepare = _forwarding(partial(_evaluated, execution), jit)
    # A run of one array becomes its block as it is; one of several is split, which needs new memory.
    donated = [[execution.in_place(output) and len(run.leaves) == 1 for run in s.seeds.runs()] for s in stages]

    def finish(given_up: Sequence[Any], others: Sequence[Any], weights: Sequence[Any], read: Sequence[Any]) -> Rows:
        first, second = iter(given_up), iter(others)
        results = [[next(first) if one else next(second) for one in ones] for ones in donated]
        return execution.wanted(results, output.bound(weights), read)

    def like(number: int, residuals: Residuals, results: Sequence[Results]) -> Sequence[Any]:
        return stages[number].like(residuals, results)

    def start(number: int, run: Run, read: Any, like: Sequence[Any]) -> list[Any]:
        stage = stages[number]
        return nothing_yet(stage.seeds, run, stage.linear(read), like, stage.reduction(output))

    def chunk(
        number: int, run: Run, k: Any, left: list[Any], read: Any, like: Sequence[Any], weights: Sequence[Any]
    ) -> list[Any]:
        stage = stages[number]
        return step(stage.seeds, run, k, left, stage.linear(read), like, stage.reduction(output.bound(weights)))

    finish = jit(finish, donate_argnums=0)
    rows, start = jit(like, static_argnums=0), jit(start, static_argnums=(0, 1))
    chunk = jit(chunk, static_argnums=(0, 1), donate_argnums=3)
    # A callback that uses JAX itself would wait forever behind the steps that were queued after its own.
    settled = jax.block_until_ready if _calls_back(execution.program) else lambda computed: computed

    def run_all(operands: Sequence[Any], xs: Sequence[Any]) -> Computed:
        ys, aux, residuals = settled(prepare(operands, xs))
        weights = list(_weights(output, operands))
        results: list[Results] = []
        for number, stage in enumerate(stages):
            # What seeds are made like is there; rows are computed, once.
            begin = stage.like(residuals, results) if stage.rows is None else rows(number, residuals, results)
            brought = []
            for run in stage.seeds.runs():
                left = start(number, run, residuals.read, begin)
                for k in range(run.chunks):
                    left = settled(chunk(number, run, jnp.asarray(k), left, residuals.read, begin, weights))
                brought.append(left)
            results.append(brought)
        pairs = list(zip(itertools.chain(*donated), itertools.chain(*results), strict=True))
        wanted = finish([x for one, x in pairs if one], [x for one, x in pairs if not one], weights, residuals.read)
        return wanted, ys if value else [], aux

    return run_all


def _calls_back(program: Linear) -> bool:
    """Whether Python may run on the host; what a rule for reverse mode does is not looked into."""
    programs = (program.primal, program.linear) if isinstance(program, LinearProgram) else (program.linear,)
    names = {e.primitive.name for each in programs for e in walk(each.equations)}
    return any(name.endswith("callback") or name == "custom_lin" for name in names)


def _forwarding(prepare: Callable[..., Any], jit: Callable[..., Any]) -> Callable[..., Any]:
    """`prepare` compiled, without a copy of what it returns twice, or of the arguments that it hands on.

    Weights are residuals as they stand, and y is what cotangents are made like.
    """
    known: list[tuple[Any, list[int]]] = []

    @jit
    def computed(*args: Any) -> list[Any]:
        given = jax.tree.leaves(args)
        leaves, tree = jax.tree.flatten(prepare(*args))
        every = list(given)
        places = []
        for leaf in leaves:
            place = next((k for k, x in enumerate(every) if x is leaf), len(every))
            every += [leaf] if place == len(every) else []
            places.append(place)
        known.append((tree, places))
        return every[len(given) :]

    def run(*args: Any) -> Any:
        every = [*jax.tree.leaves(args), *computed(*args)]
        tree, places = known[-1]
        return jax.tree.unflatten(tree, [every[place] for place in places])

    return run
