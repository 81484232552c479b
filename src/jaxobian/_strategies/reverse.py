"""Reverse mode: one cotangent for each element of the output is pulled back through the linear program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._linear import active_variables, obstructions, pullback
from . import Blocks, Built, Candidate, Impossible, Problem, candidate, complex_reason, count_passes


def propose(problem: Problem) -> Candidate | Impossible:
    """J, a few rows at a time: J[i, :] = e_i^T J."""
    reason = complex_reason(problem, "rev")
    if reason:
        return Impossible("rev", reason)
    program = problem.program

    def pull(residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        return pullback(lambda *t: program.push(residuals, t), program.in_avals)(*cotangents)

    try:
        sweep = count_passes(pull, program.residual_avals, program.out_avals, problem.outputs.size)
    except Exception as error:
        found = obstructions(program.linear, active_variables(program.linear, program.tangents), "rev")
        return Impossible("rev", "; ".join(str(o) for _, o in found) or str(error))
    held = problem.jacobian_bytes + problem.residual_bytes
    return candidate(problem, "rev", sweep, held=held)


def build(problem: Problem, candidate: Candidate) -> Built:
    """A function from operands, x, y and residuals to the blocks of J."""
    program, (seeds,) = problem.program, candidate.seeds

    def blocks(operands: Sequence[Any], xs: Sequence[Any], ys: Sequence[Any], residuals: Sequence[Any]) -> Blocks:
        return seeds.run(pullback(lambda *t: program.push(residuals, t), program.in_avals), ys)

    return blocks
