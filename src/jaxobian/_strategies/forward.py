"""Forward mode: one tangent for each element of the input is pushed through the linear program.

Two builds. The linear program reads residuals that the primal program stored once. Over a long loop those outweigh
everything else; `jvp` then computes them anew beside the tangents, and stores none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from .._linear import active_variables, obstructions
from . import Blocks, Built, Candidate, Impossible, Problem, candidate, complex_reason, count_passes


def propose(problem: Problem) -> Candidate | Impossible:
    """J, a few columns at a time: J[:, j] = J e_j."""
    reason = complex_reason(problem, "fwd")
    if reason:
        return Impossible("fwd", reason)
    program = problem.program
    try:
        sweep = count_passes(program.push, program.residual_avals, program.in_avals, problem.inputs.size)
    except Exception as error:
        found = obstructions(program.linear, active_variables(program.linear, program.tangents), "fwd")
        return Impossible("fwd", "; ".join(str(o) for _, o in found) or str(error))
    if not sweep.vmapped:
        found = obstructions(program.linear, active_variables(program.linear, program.tangents), "fwd")
        if found:
            return Impossible("fwd", "; ".join(str(o) for _, o in found))
    linear = candidate(problem, "fwd", sweep, held=problem.jacobian_bytes + problem.residual_bytes)
    passes = linear.cost.peak_bytes - problem.jacobian_bytes - problem.residual_bytes
    if problem.residual_bytes > max(passes, problem.jacobian_bytes) or linear.cost.peak_bytes > problem.budget:
        return _recomputing(problem, sweep.passes) or linear
    return linear


def _recomputing(problem: Problem, passes: int) -> Candidate | None:
    """The build that stores no residuals, where the function allows it."""
    program = problem.program
    try:
        sweep = count_passes(_jvp(problem), program.function.in_avals, program.in_avals, passes)
    except Exception:
        return None
    return candidate(
        problem, "fwd", sweep, held=problem.jacobian_bytes, variant="jvp", note="recomputes residuals instead of storing them"
    )


def _jvp(problem: Problem) -> Callable[[Sequence[Any], Sequence[Any]], list[Any]]:
    program = problem.program
    n_operands = len(program.operands)

    def push(primals: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
        def f(*xs: Any) -> list[Any]:
            return program.function(*primals[:n_operands], *xs)[: program.n_out]

        return jax.jvp(f, tuple(primals[n_operands:]), tuple(tangents))[1]

    return push


def build(problem: Problem, candidate: Candidate) -> Built:
    """A function from operands, x, y and residuals to the blocks of J."""
    program, (seeds,) = problem.program, candidate.seeds

    def blocks(operands: Sequence[Any], xs: Sequence[Any], ys: Sequence[Any], residuals: Sequence[Any]) -> Blocks:
        if candidate.variant == "jvp":
            by_input = seeds.run(lambda *t: _jvp(problem)([*operands, *xs], t), xs)
        else:
            by_input = seeds.run(lambda *t: program.push(residuals, t), xs)
        return [list(row) for row in zip(*by_input, strict=True)]

    return blocks
