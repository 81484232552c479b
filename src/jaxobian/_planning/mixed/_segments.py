"""A program cut at some of its variables: the segments between, each a problem of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..._analysis import Cut, has_line
from ..._trace import Ends, Linear, Side, is_variable, real_avals
from .._problem import Problem
from ._examples import example_axis


class NoCutError(Exception):
    """There is no mixed plan; the message says why."""


class NoBottleneckError(NoCutError):
    """The program is nowhere narrower than its ends."""


@dataclass(frozen=True, eq=False)
class Links:
    """A problem's program as a chain: what stands at each cut, and the segments between any two."""

    problem: Problem
    ends: tuple[Cut, ...]
    sides: tuple[Side, ...]

    @classmethod
    def of(cls, problem: Problem, cuts: Sequence[Cut]) -> Links:
        program = problem.program
        ends = (program.tangents, *cuts, program.linear.outputs)
        between = (side_at(problem, cut) for cut in cuts)
        sides = (in_parts(problem, problem.inputs), *between, in_parts(problem, problem.outputs))
        return cls(problem, ends, sides)

    def segment(self, first: int, last: int) -> Problem:
        """Segments first, ..., last as one problem."""
        whole = self.problem
        part = whole.program.segment(self.ends[first], self.ends[last + 1])
        return restricted(whole, part, self.sides[first], self.sides[last + 1])


def side_at(problem: Problem, cut: Cut) -> Side:
    """The arrays that a Jacobian ends at where it ends at a cut."""
    batch_axes: list[int | None] = [None] * len(cut)
    if problem.batch is not None:
        batch_axes = [example_axis(problem, problem.structure.of(v), v.aval.shape) for v in cut]
        if None in batch_axes:
            raise NoCutError(f"the cut at {_shape(cut[batch_axes.index(None)])} mixes examples")
    return in_parts(problem, Side(tuple(v.aval for v in cut), tuple(batch_axes)))


def in_parts(problem: Problem, side: Side) -> Side:
    """The side with complex arrays in two parts: a map between those need not be C-linear."""
    if problem.request.holomorphic:
        return side
    pairs = [(part, axis) for aval, axis in zip(side.avals, side.batch_axes, strict=True) for part in real_avals(aval)]
    return Side(tuple(part for part, _ in pairs), tuple(axis for _, axis in pairs))


def restricted(problem: Problem, program: Linear, inputs: Side, outputs: Side) -> Problem:
    """The problem of a segment."""
    part = problem.part(program if problem.request.holomorphic else program.with_real_ends(), Ends(inputs, outputs))
    for batch_axis, dependence in zip(outputs.batch_axes, part.structure.relations, strict=True):
        if problem.batch and not all(
            has_line(relation, batch_axis, inputs.batch_axes[j]) for j, relation in dependence.items()
        ):
            raise NoCutError("examples are mixed between the narrowest cut and the outputs")
    return part


def _shape(variable: Any) -> str:
    return f"{variable.aval.str_short()}" if is_variable(variable) else str(variable)
