"""What is asked for, and what a strategy answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from .._analysis import Structure
from .._arrays import is_complex
from .._cost import Cost, Machine, Work, count, nbytes, repeated
from .._execute import Execution
from .._outputs import OUTPUTS, Output
from .._request import Request
from .._rewrite import supports_batch_major
from .._seeds import Group, Seeds, groups
from .._trace import Ends, Linear, LinearProgram, Side, active_variables, is_variable, obstructions
from .._words import human_bytes, human_flops, human_seconds, pass_count, word

NO_WORK = Work()


@dataclass(frozen=True)
class Problem:
    """What is asked for.

    Attributes:
        program: the traced and linearized function, or a segment of one.
        structure: its ties.
        ends: both sides of J, with their batch axes.
        request: what the user asks for.
        output: what is wanted of J, or of the segment's Jacobian.
        budget: bytes that may be allocated.
        machine: constants of the device.
        traces: what was traced for this plan so far, for all its parts.
    """

    program: Linear
    structure: Structure
    ends: Ends
    request: Request
    output: Output
    budget: int
    machine: Machine
    traces: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def inputs(self) -> Side:
        """The side of x."""
        return self.ends.inputs

    @property
    def outputs(self) -> Side:
        """The side of y."""
        return self.ends.outputs

    @property
    def batch(self) -> int | None:
        """Examples along the batch axes."""
        return self.ends.batch

    @cached_property
    def batch_major(self) -> bool:
        """Whether passes are to stand beside their examples, which come first on both sides."""
        first = {*self.inputs.batch_axes, *self.outputs.batch_axes} == {0}
        return first and self.rewrites("batch_major") and supports_batch_major(self.program.linear)

    def sides(self, *, forward: bool) -> tuple[Side, Side]:
        """The side on which seeds are put, and the one on which results land."""
        return self.ends.sides(forward=forward)

    def groups(self, *, forward: bool) -> list[Group]:
        """Which result arrays share passes, and which elements share one."""
        seeded, result = self.sides(forward=forward)
        return groups(self.structure.relations, seeded, result, forward=forward)

    def passes(self, *, forward: bool) -> int:
        """(Co)tangents that a single mode pushes or pulls."""
        seeded, result = self.sides(forward=forward)
        return sum(Seeds(seeded, result, forward, 1, group=g).passes for g in self.groups(forward=forward))

    def part(self, program: Linear, ends: Ends) -> Problem:
        """The same question about a segment of the program, whose Jacobian is to be dense."""
        request = replace(self.request, mode="auto", symmetric=False, sparsity=None)
        structure = self.structure.part(program)
        return replace(self, program=program, structure=structure, ends=ends, request=request, output=OUTPUTS["dense"])

    def rewrites(self, family: str) -> bool:
        """Whether the user allows rewrites, and those of a family are worth it on the device."""
        return self.request.rewrite and family in self.machine.rewrites

    def wants(self, mode: str) -> bool:
        """Whether the user wants a mode, whatever it takes."""
        return self.request.mode == mode

    @cached_property
    def output_bytes(self) -> int:
        """Size of what is wanted of J, in bytes."""
        return self.output.size(self.ends, self.structure.relations)

    @cached_property
    def jacobian_bytes(self) -> int:
        """Size of J, in bytes."""
        return self.output_bytes if self.output.whole else OUTPUTS["dense"].size(self.ends, self.structure.relations)

    @cached_property
    def primal_work(self) -> Work:
        """Evaluating y and the residuals, which is done once for all segments."""
        return count(self.program.primal) if isinstance(self.program, LinearProgram) else NO_WORK

    def repeated_work(self, *, forward: bool) -> Work:
        """What evaluates residuals anew in every pass where nothing keeps XLA from it."""
        return self._repeated_forward if forward else self._repeated_reverse

    @cached_property
    def _repeated_forward(self) -> Work:
        return self._repeated(self.program.tangents)

    @cached_property
    def _repeated_reverse(self) -> Work:
        return self._repeated(self.program.linear.outputs)

    def _repeated(self, seeded: Sequence[Any]) -> Work:
        """The work of the residuals that more reads than products with one-hot vectors, which need one element."""
        if not isinstance(self.program, LinearProgram):
            return NO_WORK
        seeds, read = set(filter(is_variable, seeded)), set[Any]()
        for e in self.program.linear.equations:
            if e.primitive.name != "mul" or seeds.isdisjoint(filter(is_variable, (*e.invars, *e.outvars))):
                read.update(filter(is_variable, e.invars))
        pairs = zip(self._residuals, self.program.residuals, strict=True)
        return repeated(self.program.primal, [made for made, residual in pairs if residual in read])

    @property
    def _residuals(self) -> tuple[Any, ...]:
        assert isinstance(self.program, LinearProgram)
        return self.program.primal.outputs[len(self.program.function.outputs) :]

    @property
    def residual_bytes(self) -> int:
        """What the linear program reads besides its seeds, arguments and closed-over arrays not counted."""
        if not isinstance(self.program, LinearProgram):
            return 0
        given = {*self.program.primal.inputs}
        residuals = dict.fromkeys(filter(is_variable, self._residuals))
        return sum(nbytes(v.aval) for v in residuals if v not in given)


@dataclass(frozen=True, repr=False)
class Candidate:
    """One way to compute J, and what it is predicted to take. Found in `Plan.candidates`.

    Attributes:
        mode: "fwd", "rev", "mixed" or "colored".
        passes: how many JVPs and VJPs it takes, summed over the parts of f.
        flops: predicted arithmetic of all passes, in floating-point operations.
        peak_bytes: predicted high-water mark of what is allocated while J is computed, J included.
        seconds: predicted time.
        note: what there is to know about it, in words.
    """

    # What runs, for the library itself.
    mode: str
    execution: Execution
    cost: Cost
    note: str = ""
    rewrites: tuple[tuple[str, str, str], ...] = ()  # what was replaced: in words, by what, and the user's lines
    nnz: int | None = None  # how many elements of J, or of an example's, can be nonzero, where zeros were looked for

    def __repr__(self) -> str:
        costs = f"{human_flops(self.flops)}, peak {human_bytes(self.peak_bytes)}, {human_seconds(self.seconds)}"
        return f"Candidate({word(self.mode)}: {pass_count(self.passes)}, {costs})"

    @property
    def flops(self) -> float:
        """Predicted arithmetic of all passes."""
        return self.cost.flops

    @property
    def peak_bytes(self) -> int:
        """Predicted high-water mark."""
        return self.cost.peak_bytes

    @property
    def seconds(self) -> float:
        """Predicted time."""
        return self.cost.seconds

    @cached_property
    def seeds(self) -> tuple[Seeds, ...]:
        """The passes of each stage."""
        return tuple(stage.seeds for stage in self.execution.stages)

    @property
    def passes(self) -> int:
        """JVPs and VJPs, summed over segments."""
        return sum(seeds.passes for seeds in self.seeds)

    @property
    def chunk_size(self) -> int:
        """Passes run at once."""
        return max((seeds.width for seeds in self.seeds), default=1)

    def times(self, copies: int) -> Candidate:
        """So many of it side by side, each with its own J."""
        cost = self.cost
        cost = replace(
            cost, flops=copies * cost.flops, peak_bytes=copies * cost.peak_bytes, seconds=copies * cost.seconds
        )
        return replace(self, cost=cost)


@dataclass(frozen=True, repr=False)
class Impossible:
    """A mode that cannot compute J, or that cannot win, and why. Found in `Plan.candidates`.

    Attributes:
        mode: "fwd", "rev", "mixed" or "colored".
        reason: why, in words.
        told: whether a plan's text has it; that there is no bottleneck goes without saying.
        nnz: how many elements of J, or of an example's, can be nonzero; None where zeros were not looked for.
    """

    mode: str
    reason: str
    told: bool = True
    nnz: int | None = None
    # That it was not counted, for the library itself.
    passed_over: bool = False

    def __repr__(self) -> str:
        return f"Impossible({word(self.mode)}: {self.reason})"

    def times(self, copies: int) -> Impossible:
        """The same, of so many side by side."""
        return self


# What strategies asked before proposed, by mode.
Proposals = Mapping[str, Candidate | Impossible]
NOTHING: Proposals = MappingProxyType({})


def complex_reason(problem: Problem, mode: str) -> str | None:
    """Why `mode` would give the wrong answer for complex numbers, or None."""
    if problem.request.holomorphic:
        return None
    seeded, result = problem.sides(forward=mode == "fwd")
    if any(is_complex(aval) for aval in seeded.avals):
        words = "forward mode needs real inputs" if mode == "fwd" else "reverse mode needs real outputs"
        both = all(is_complex(aval) for aval in (*seeded.avals, *result.avals))
        return words + ("; for a holomorphic function pass holomorphic=True" if both else "")
    return None


def forbidden_reason(problem: Problem, mode: str, error: Exception | None = None) -> str | None:
    """The equations that forbid `mode`, in the user's words; the error itself where none does alone."""
    linear, tangents = problem.program.linear, problem.program.tangents
    found = obstructions(linear, active_variables(linear, tangents), mode)
    return "; ".join(dict.fromkeys(str(o) for _, o in found)) or (str(error) if error else None)
