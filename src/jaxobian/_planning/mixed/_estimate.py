"""What passes through a segment take, roughly: enough to compare orders of multiplication."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..._cost import Machine, PassWork, pass_work
from ..._execute import Stored
from ..._primitives import row_of
from ..._trace import Linear
from ..._trace import walk as walk_equations
from .._known_first import known_first
from .._problem import Problem
from .._sweeps import one_pass


@dataclass(frozen=True, eq=False)
class Estimate:
    """What passes through a segment take, roughly: counted on a single pass.

    Attributes:
        machine: constants of the device.
        work: for each mode that is possible, the work of a pass.
        local: the seconds that the segment's Jacobian takes alone.
        reason: why a mode is impossible.
    """

    machine: Machine
    work: dict[str, PassWork]
    local: dict[str, float]
    reason: str

    @classmethod
    def of(cls, problem: Problem, only: str | None) -> Estimate:
        program, machine = problem.program, problem.machine
        work: dict[str, PassWork] = {}
        local: dict[str, float] = {}
        reason = ""
        if only != "rev" and all(e.primitive.name != "custom_lin" for e in walk_equations(program.linear.equations)):
            work["fwd"] = pass_work(program.linear, program.tangents, 1, one_hot=False)
        if "fwd" in work and _symmetric(program):
            work["rev"] = work["fwd"]
        elif only != "fwd":
            try:
                pulled = one_pass(Stored(program), program.out_avals, forward=False)
                work["rev"] = pass_work(pulled, pulled.inputs[len(program.residuals) :], 1, one_hot=False)
            except Exception as error:
                reason = str(error)
        for mode, each in work.items():
            forward = mode == "fwd"
            found = known_first(problem, forward=forward)
            if found is not None:  # nothing need be pushed through the first product
                seeds = found.rest.inputs[len(program.residuals) :]
                each = pass_work(found.rest, seeds, 1, one_hot=False)
            local[mode] = machine.time(each.chunk(problem.sides(forward=forward)[0].size))
        return cls(machine, work, local, reason)

    def passes(self, mode: str, number: int) -> float:
        """Seconds for so many passes."""
        return self.machine.time(self.work[mode].chunk(number)) if mode in self.work else math.inf


def _symmetric(program: Linear) -> bool:
    """Whether a pass back takes what a pass forward does."""
    return all(row_of(e).symmetric for e in program.linear.equations)
