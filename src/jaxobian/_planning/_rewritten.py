"""Faster equals of slow equations, where the cost model says that they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from .._arrays import varying_axes
from .._cost import count
from .._rewrite import Around, Rewrite, linear_in, offers, rewritten
from .._trace import LinearProgram, Program, active_variables, is_variable, program_of, pullback, source_line
from ._problem import Candidate, Impossible, Problem
from ._sweeps import CLEAR_WIN, count_passes

_Propose = Callable[[Problem], Candidate | Impossible]
_Run = Callable[..., Sequence[Any]]
# So many times the passes of the other mode are too many, whatever a pass takes.
_HOPELESS = 50


def with_rewrites(problem: Problem, mode: str, propose: _Propose) -> Candidate | Impossible:
    """What `propose` makes of the program with its slow equations replaced, where that keeps to the budget."""
    worth = problem.request.rewrite and not _hopeless(problem, mode)
    linear, primal = (_in_passes(problem, mode), _in_primal(problem)) if worth else ({}, {})
    if not linear and not primal:
        return propose(problem)
    program = problem.program
    written = rewritten(program.linear, linear)
    if isinstance(program, LinearProgram):
        program = program.rewritten(rewritten(program.primal, primal), written)
    else:
        program = replace(program, linear=written)
    faster = propose(replace(problem, program=program))
    if isinstance(faster, Impossible):
        return faster
    if faster.cost.peak_bytes > problem.budget:
        plain = propose(problem)
        if isinstance(plain, Impossible) or plain.cost.peak_bytes < faster.cost.peak_bytes:
            return plain
    taken = [(problem.program.linear.equations[k], offer) for k, offer in linear.items()]
    if isinstance(problem.program, LinearProgram):
        taken += [(problem.program.primal.equations[k], offer) for k, offer in primal.items()]
    words = tuple((offer.what, offer.by, source_line(equation)) for equation, offer in taken)
    return replace(faster, rewrites=(*words, *faster.rewrites))


def _hopeless(problem: Problem, mode: str) -> bool:
    """Whether the other mode takes so few passes that this one is not worth a closer look."""
    return problem.passes(forward=mode == "fwd") > _HOPELESS * problem.passes(forward=mode != "fwd")


def _in_passes(problem: Problem, mode: str) -> dict[int, Rewrite]:
    """Offers worth taking in the linear program, by the place of their equation."""
    forward, active = mode == "fwd", active_variables(problem.program.linear, problem.program.tangents)
    passes = problem.passes(forward=forward)

    def seconds(run: _Run, operands: Sequence[Any], results: Sequence[Any]) -> float:
        ours = [k for k, v in enumerate(operands) if is_variable(v) and v in active]
        others = [k for k in range(len(operands)) if k not in ours]
        one = _one_pass(run, ours, others, [operands[k].aval for k in ours], forward=forward)
        seeds = [operands[k].aval for k in ours] if forward else [v.aval for v in results]
        pass_cost = count_passes(one, [operands[k].aval for k in others], seeds, passes, forward=forward, one_hot=False)
        return problem.machine.time(pass_cost.work.chunk(passes))

    return _worthwhile(problem, problem.program.linear, active, mode, seconds)


def _in_primal(problem: Problem) -> dict[int, Rewrite]:
    """Offers worth taking in the primal program."""
    if not isinstance(problem.program, LinearProgram):
        return {}

    def seconds(run: _Run, operands: Sequence[Any], results: Sequence[Any]) -> float:
        program = run if isinstance(run, Program) else program_of(run, *(v.aval for v in operands))[0]
        return problem.machine.time(count(program.pruned()))

    return _worthwhile(problem, problem.program.primal, set(), "fwd", seconds)


def _worthwhile(
    problem: Problem,
    program: Program,
    active: set[Any],
    mode: str,
    seconds: Callable[[_Run, Sequence[Any], Sequence[Any]], float],
) -> dict[int, Rewrite]:
    """The best offer for each equation that has one, where it is predicted to win clearly."""
    taken, seen, around = {}, dict[Any, int | None](), Around.of(program, active)
    for place, equation in enumerate(program.equations):
        ours = linear_in(equation, active)
        # Under shard_map the constants of an offer would have to vary as its operands do.
        varies = any(varying_axes(v.aval) for v in equation.invars)
        found = (
            offers(equation, ours, mode, around, problem.machine.rewrites)
            if (ours or not active) and not varies
            else []
        )
        if not found:
            continue
        # Deep networks repeat their layers.
        shapes = tuple(tuple(v.aval for v in offer.operands) for offer in found)
        key = (equation.primitive, str(equation.params), shapes, frozenset(ours))
        if key not in seen:
            times = [seconds(offer.program, offer.operands, equation.outvars) for offer in found]
            best = min(range(len(found)), key=times.__getitem__)
            slow = seconds(_alone(equation), equation.invars, equation.outvars)
            seen[key] = best if CLEAR_WIN * times[best] <= slow else None
        best = seen[key]
        if best is not None:
            taken[place] = found[best]
    return taken


def _alone(equation: Any) -> _Run:
    """An equation as a function of its operands."""

    def run(*operands: Any) -> list[Any]:
        results = equation.primitive.bind(*operands, **equation.params)
        return list(results) if equation.primitive.multiple_results else [results]

    return run


def _one_pass(
    run: _Run, ours: Sequence[int], others: Sequence[int], avals: Sequence[Any], *, forward: bool
) -> Callable[..., list[Any]]:
    """One pass through an equation: residuals, seeds -> results."""

    def push(residuals: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
        operands = dict(zip((*others, *ours), (*residuals, *tangents), strict=True))
        return list(run(*(operands[k] for k in sorted(operands))))

    def pull(residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        return pullback(lambda *t: push(residuals, t), avals)(*cotangents)

    return push if forward else pull
