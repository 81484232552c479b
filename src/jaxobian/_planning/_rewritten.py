"""Faster equals of slow equations, where the cost model says that they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .._arrays import varying_axes
from .._cost import PassWork, pass_work
from .._rewrite import Around, Rewrite, linear_in, offers, rewritten, side_by_side
from .._trace import LinearProgram, Program, active_variables, batched, is_variable, pullback, source_line
from ._problem import Candidate, Impossible, Problem
from ._sweeps import CLEAR_WIN, ROWS

_Propose = Callable[[Problem], Candidate | Impossible]
_Run = Callable[..., Sequence[Any]]
_Words = tuple[tuple[str, str, str], ...]
# So many times the passes of the other mode are too many, whatever a pass takes.
_HOPELESS = 50


def with_rewrites(problem: Problem, mode: str, propose: _Propose) -> Candidate | Impossible:
    """What `propose` makes of the program with its slow equations replaced, where that keeps to the budget."""
    if not problem.request.rewrite or _hopeless(problem, mode):
        return propose(problem)
    program, linear = problem.program, _in_passes(problem, mode)
    words, primal = _primal(problem)
    if not linear and not words:
        return propose(problem)
    written = rewritten(program.linear, linear)
    if isinstance(program, LinearProgram):
        program = program.rewritten(primal, written)
    else:
        program = replace(program, linear=written)
    faster = propose(replace(problem, program=program))
    if isinstance(faster, Impossible):
        return faster
    if faster.cost.peak_bytes > problem.budget:
        plain = propose(problem)
        if isinstance(plain, Impossible) or plain.cost.peak_bytes < faster.cost.peak_bytes:
            return plain
    return replace(faster, rewrites=(*_words(problem.program.linear, linear), *words, *faster.rewrites))


def _words(program: Program, taken: Mapping[int, Rewrite]) -> _Words:
    return tuple((offer.what, offer.by, source_line(program.equations[k])) for k, offer in taken.items())


def _hopeless(problem: Problem, mode: str) -> bool:
    """Whether the other mode takes so few passes that this one is not worth a closer look."""
    return problem.passes(forward=mode == "fwd") > _HOPELESS * problem.passes(forward=mode != "fwd")


def _in_passes(problem: Problem, mode: str) -> dict[int, Rewrite]:
    """Offers worth taking in the linear program, by the place of their equation."""
    linear, tangents = problem.program.linear, problem.program.tangents
    passes = problem.passes(forward=mode == "fwd")
    return _worthwhile(problem, linear, active_variables(linear, tangents), mode, passes)


def _primal(problem: Problem) -> tuple[_Words, Any]:
    """The primal program with its slow equations replaced, whatever the mode, and what was; a segment has none."""
    if not isinstance(problem.program, LinearProgram):
        return (), None
    primal = problem.program.primal
    if primal not in problem.traces:
        taken = _worthwhile(problem, primal, set(), "fwd", 1)
        problem.traces[primal] = _words(primal, taken), rewritten(primal, taken)
    return problem.traces[primal]


def _worthwhile(problem: Problem, program: Program, active: set[Any], mode: str, passes: int) -> dict[int, Rewrite]:
    """The best offer for each equation that has one, where it is predicted to win clearly."""
    found, around = dict[int, tuple[Any, list[Rewrite]]](), Around.of(program, active)
    for place, equation in enumerate(program.equations):
        ours = linear_in(equation, active)
        # Under shard_map the constants of an offer would have to vary as its operands do.
        if (active and not ours) or any(varying_axes(v.aval) for v in equation.invars):
            continue
        ways = [_as_it_is(equation), *offers(equation, ours, mode, around, problem.machine.rewrites)]
        if len(ways) > 1:
            # Deep networks repeat their layers, and segments those of the whole.
            shapes = tuple(tuple(v.aval for v in way.operands) for way in ways)
            found[place] = (equation.primitive, str(equation.params), shapes, frozenset(ours), mode), ways
    new = {key: place for place, (key, _) in found.items() if key not in problem.traces}
    asked = [(way, program.equations[place].outvars) for place in new.values() for way in found[place][1]]
    try:
        counted = iter(_counted(asked, active, mode) if asked else ())
    except Exception:
        return {}  # an equation of which JAX cannot make several passes at once
    problem.traces.update((key, [next(counted) for _ in found[place][1]]) for key, place in new.items())
    taken = {}
    for place, (key, ways) in found.items():
        slow, *times = [problem.machine.time(work.chunk(passes)) for work in problem.traces[key]]
        if CLEAR_WIN * min(times) <= slow:
            taken[place] = ways[1 + times.index(min(times))]
    return taken


def _as_it_is(equation: Any) -> Rewrite:
    """An equation as an offer to compute itself."""

    def run(*operands: Any) -> list[Any]:
        results = equation.primitive.bind(*operands, **equation.params)
        return list(results) if equation.primitive.multiple_results else [results]

    return Rewrite(run, "", "", tuple(equation.invars))


def _counted(asked: Sequence[tuple[Rewrite, Sequence[Any]]], active: set[Any], mode: str) -> list[PassWork]:
    """The work of passes through equations, each computed in some way and with some results: all traced in one go."""
    width = ROWS if active else None
    passes = [_one_pass(way, results, active, mode) for way, results in asked]
    programs, _ = side_by_side([(batched(run, width), *avals) for run, *avals in passes])
    counted = []
    for program, (_, _, seeds) in zip(programs, passes, strict=True):
        made = program.inputs[len(program.inputs) - len(seeds) :]
        counted.append(pass_work(program, made, width or 1, one_hot=False, lands=bool(active)))
    return counted


def _one_pass(way: Rewrite, results: Sequence[Any], active: set[Any], mode: str) -> tuple[_Run, list[Any], list[Any]]:
    """One pass through an equation: a function of residuals and seeds, and those. Where nothing is active, none are."""
    avals = [v.aval for v in way.operands]
    ours = [k for k, v in enumerate(way.operands) if is_variable(v) and v in active]
    others = [k for k in range(len(avals)) if k not in ours]

    def push(residuals: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
        operands = dict(zip((*others, *ours), (*residuals, *tangents), strict=True))
        return list(way.run(*(operands[k] for k in sorted(operands))))

    def pull(residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        return pullback(lambda *t: push(residuals, t), [avals[k] for k in ours])(*cotangents)

    residuals, tangents = [avals[k] for k in others], [avals[k] for k in ours]
    return (push, residuals, tangents) if mode == "fwd" else (pull, residuals, [v.aval for v in results])
