"""Reverse mode: one cotangent for each element of the output is pulled back through the linear program."""

from __future__ import annotations

from .._execute import Stored
from ._known_first import begins_whole, begun, better
from ._problem import NOTHING, Candidate, Impossible, Problem, Proposals, complex_reason, forbidden_reason
from ._rewritten import with_rewrites
from ._sweeps import candidate, count_groups


def propose(problem: Problem, earlier: Proposals = NOTHING) -> Candidate | Impossible:
    """J, a few rows at a time: J[i, :] = e_i^T J."""
    return with_rewrites(problem, "rev", _propose)


def _propose(problem: Problem) -> Candidate | Impossible:
    reason = complex_reason(problem, "rev")
    if reason:
        return Impossible("rev", reason)
    held_bytes = problem.output_bytes + problem.residual_bytes
    try:
        known_first = begun(problem, "rev", held_bytes=held_bytes)
        fits = known_first is not None and not problem.request.bounded and known_first.cost.peak_bytes <= problem.budget
        if known_first is not None and fits and begins_whole(known_first):
            return known_first  # it does what other passes do, but for a product
        counted = count_groups(problem, Stored(problem.program), forward=False)
    except Exception as error:
        return Impossible("rev", forbidden_reason(problem, "rev", error) or "")
    return better(problem, known_first, candidate(problem, "rev", counted, held_bytes=held_bytes))
