"""Forward mode: one tangent for each element of the input is pushed through the linear program.

Two builds. The linear program reads residuals that the primal program stored once. Those of a loop may outweigh
everything else; `jvp` then computes them anew beside the tangents, and stores none.
"""

from __future__ import annotations

from .._execute import Recomputed, Stored
from .._primitives import row_of
from .._trace import LinearProgram
from ._known_first import begun, better
from ._problem import NOTHING, Candidate, Impossible, Problem, Proposals, complex_reason, forbidden_reason
from ._rewritten import with_rewrites
from ._sweeps import candidate, count_groups


def propose(problem: Problem, earlier: Proposals = NOTHING) -> Candidate | Impossible:
    """J, a few columns at a time: J[:, j] = J e_j."""
    return with_rewrites(problem, "fwd", _propose)


def _propose(problem: Problem) -> Candidate | Impossible:
    reason = complex_reason(problem, "fwd")
    if reason:
        return Impossible("fwd", reason)
    program = problem.program
    try:
        counted = count_groups(problem, Stored(program), forward=True)
    except Exception as error:
        return Impossible("fwd", forbidden_reason(problem, "fwd", error) or "")
    # custom_lin can be traced one pass at a time, and fails only where it is compiled.
    vmapped = all(pass_cost.vmapped for _, pass_cost in counted)
    forbidden = None if vmapped else forbidden_reason(problem, "fwd")
    if forbidden:
        return Impossible("fwd", forbidden)
    linear = candidate(problem, "fwd", counted, held_bytes=problem.output_bytes + problem.residual_bytes)
    passes = linear.cost.peak_bytes - problem.output_bytes - problem.residual_bytes
    if problem.residual_bytes > max(passes, problem.output_bytes) or linear.cost.peak_bytes > problem.budget:
        return _recomputing(problem) or linear
    # A loop that stores no residuals is often faster, too.
    again = _recomputing(problem) if any(row_of(e).body == "loop" for e in program.linear.equations) else None
    return better(
        problem, begun(problem, "fwd", held_bytes=problem.output_bytes + problem.residual_bytes), again, linear
    )


def _recomputing(problem: Problem) -> Candidate | None:
    """The build that stores no residuals, where the function allows it."""
    program = problem.program
    if not isinstance(program, LinearProgram):
        return None  # a segment has no function of its own
    build = Recomputed(program)
    try:
        counted = count_groups(problem, build, forward=True)
    except Exception:
        return None
    note = "recomputes residuals instead of storing them"
    return candidate(
        problem,
        "fwd",
        counted,
        held_bytes=problem.output_bytes,
        build=build,
        note=note,
        before=problem.primal_work * -1.0,  # it is a part of what was counted
    )
