"""Forward mode: one tangent for each element of the input is pushed through the linear program.

Two builds. The linear program reads residuals that the primal program stored once. Those of a loop may outweigh
everything else; `jvp` then computes them anew beside the tangents, and stores none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from .._linear import LinearProgram
from .._seeds import LinearMap
from ._free import Free, begun, better, prepared
from ._problem import Candidate, Impossible, Problem, Values, complex_reason, forbidden_reason
from ._rewritten import with_rewrites
from ._sweeps import candidate, count_groups

_LOOPS = ("scan", "while")


def propose(problem: Problem) -> Candidate | Impossible:
    """J, a few columns at a time: J[:, j] = J e_j."""
    return with_rewrites(problem, "fwd", _propose)


def _propose(problem: Problem) -> Candidate | Impossible:
    reason = complex_reason(problem, "fwd")
    if reason:
        return Impossible("fwd", reason)
    program = problem.program
    try:
        counted = count_groups(problem, program.push, program.residual_avals, forward=True)
    except Exception as error:
        return Impossible("fwd", forbidden_reason(problem, "fwd", error) or "")
    # custom_lin can be traced one pass at a time, and fails only where it is compiled.
    vmapped = all(sweep.vmapped for _, sweep in counted)
    forbidden = None if vmapped else forbidden_reason(problem, "fwd")
    if forbidden:
        return Impossible("fwd", forbidden)
    linear = candidate(problem, "fwd", counted, held=problem.jacobian_bytes + problem.residual_bytes)
    passes = linear.cost.peak_bytes - problem.jacobian_bytes - problem.residual_bytes
    if problem.residual_bytes > max(passes, problem.jacobian_bytes) or linear.cost.peak_bytes > problem.budget:
        return _recomputing(problem) or linear
    # A loop that stores no residuals is often faster, too.
    again = _recomputing(problem) if any(e.primitive.name in _LOOPS for e in program.linear.equations) else None
    return better(problem, begun(problem, "fwd", held=problem.jacobian_bytes + problem.residual_bytes), again, linear)


def _recomputing(problem: Problem) -> Candidate | None:
    """The build that stores no residuals, where the function allows it."""
    program = problem.program
    if not isinstance(program, LinearProgram):
        return None  # a segment has no function of its own
    try:
        counted = count_groups(problem, _jvp(program), program.function.in_avals, forward=True)
    except Exception:
        return None
    note = "recomputes residuals instead of storing them"
    return candidate(
        problem,
        "fwd",
        counted,
        held=problem.jacobian_bytes,
        variant="jvp",
        note=note,
        before=problem.primal_work * -1.0,  # it is a part of what was counted
    )


def _jvp(program: LinearProgram) -> Callable[[Sequence[Any], Sequence[Any]], list[Any]]:
    n_operands = len(program.operands)

    def push(primals: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
        def f(*xs: Any) -> list[Any]:
            return program.function(*primals[:n_operands], *xs)[: program.n_out]

        return jax.jvp(f, tuple(primals[n_operands:]), tuple(tangents))[1]

    return push


def prepare(problem: Problem, candidate: Candidate, values: Values) -> Any:
    """What the passes read: the residuals, with rows to begin with; or where those are computed anew the arguments."""
    if candidate.variant == "jvp":
        return [*values.operands, *values.xs]
    return prepared(candidate, values.residuals)


def linear(problem: Problem, candidate: Candidate, held: Any) -> LinearMap:
    """One pass: a tangent of x to the tangents of y."""
    if isinstance(candidate.variant, Free):
        residuals, _ = held
        return candidate.variant.linear(residuals, problem.program.in_avals, forward=True)
    program = candidate.program or problem.program
    push = program.push
    if isinstance(program, LinearProgram) and candidate.variant == "jvp":
        push = _jvp(program)
    return lambda *tangents: push(held, tangents)
