"""The linear program as a graph: how it falls into segments that each allow a mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ._linear import LinearProgram, Program, active_variables, is_variable

OTHER = {"fwd": "rev", "rev": "fwd"}


@dataclass(frozen=True, eq=False)
class Segment:
    """A part of a linear program that runs in one mode.

    Attributes:
        mode: "fwd" or "rev".
        program: residuals of the whole program, tangents of `inputs` -> tangents of `outputs`.
        inputs: variables that it takes from earlier segments.
        outputs: variables that it makes for later segments or for the result.
    """

    mode: str
    program: Program
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]

    def push(self, residuals: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
        return self.program(*residuals, *tangents)


def segments(program: LinearProgram, forbidden: dict[str, set[int]], first: str) -> list[Segment]:
    """Cut a linear program into segments whose modes alternate, each as long as it can be.

    An equation joins the segment of its operands unless it forbids that segment's mode; then it waits for the next.

    Args:
        program: the linear program.
        forbidden: for each mode, the ids of the equations that cannot run in it; none forbids both.
        first: the mode of the first segment.
    """
    linear = program.linear
    active = active_variables(linear, program.tangents)
    modes = (first, OTHER[first])
    stage = dict.fromkeys(program.tangents, 0)
    members: list[list[Any]] = []
    for equation in linear.equations:
        operands = [v for v in equation.invars if is_variable(v) and v in active]
        if not operands:
            continue
        number = max(stage[v] for v in operands)
        if id(equation) in forbidden[modes[number % 2]]:
            number += 1
        stage.update(dict.fromkeys(equation.outvars, number))
        while len(members) <= number:
            members.append([])
        members[number].append(equation)
    constants = [e for e in linear.equations if not any(v in active for v in e.outvars)]
    made = [
        _segment(program, modes[k % 2], k, equations, constants, members, stage) for k, equations in enumerate(members)
    ]
    return [segment for segment in made if segment.outputs]


def _segment(
    program: LinearProgram,
    mode: str,
    number: int,
    equations: Sequence[Any],
    constants: Sequence[Any],
    members: Sequence[Sequence[Any]],
    stage: dict[Any, int],
) -> Segment:
    mine = {v for e in equations for v in e.outvars}
    read = dict.fromkeys(v for e in equations for v in e.invars if is_variable(v) and v in stage and v not in mine)
    later = {v for group in members[number + 1 :] for e in group for v in e.invars if is_variable(v)}
    later.update(v for v in program.linear.outputs if is_variable(v))
    made = tuple(v for e in equations for v in e.outvars if v in later)
    inputs = tuple(read)
    body = Program((*program.residuals, *inputs), made, (*constants, *equations)).pruned()
    return Segment(mode, body, inputs, made)
