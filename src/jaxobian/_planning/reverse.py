"""Reverse mode: one cotangent for each element of the output is pulled back through the linear program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._trace import pullback
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
    program = problem.program

    def pull(residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        return pullback(lambda *t: program.push(residuals, t), program.in_avals)(*cotangents)

    held_bytes = problem.jacobian_bytes + problem.residual_bytes
    try:
        known_first = begun(problem, "rev", held_bytes=held_bytes)
        fits = known_first is not None and not problem.request.bounded and known_first.cost.peak_bytes <= problem.budget
        if known_first is not None and fits and begins_whole(known_first):
            return known_first  # it does what other passes do, but for a product
        counted = count_groups(problem, pull, program.residual_avals, forward=False)
    except Exception as error:
        return Impossible("rev", forbidden_reason(problem, "rev", error) or "")
    return better(problem, known_first, candidate(problem, "rev", counted, held_bytes=held_bytes))
