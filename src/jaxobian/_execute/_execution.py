"""How a candidate computes J: the passes that it makes, stage by stage, and the blocks that it makes of them.

Every mode is a list of stages. A stage makes the passes of some seeds through one linear map; what it brings back may
be what later stages begin with. `_schedules` runs the stages of any execution, in a trace or on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from .._arrays import zeros_like
from .._outputs import Output, Reduction, Results, Rows
from .._seeds import Seeds
from .._trace import Linear
from ._passes import LinearMap

Blocks = list[list[Any]]


class Residuals(NamedTuple):
    """What the primal program leaves for the passes.

    Attributes:
        read: what passes read: residuals, or what they are computed from.
        xs, ys: what seeds are made like, where they are; else they are made like abstract values.
    """

    read: Sequence[Any]
    xs: Sequence[Any] | None = None
    ys: Sequence[Any] | None = None


@dataclass(frozen=True, eq=False)
class Stage:
    """Passes through one linear map.

    Attributes:
        seeds: which passes, and how they are chunked.
        linear: what passes read -> the linear map.
        rows: what passes read, results of earlier stages -> the rows that passes begin with; None where they begin with
            the standard basis, or with colors.
        reduction: what is wanted of J -> what becomes of the results of passes.
    """

    seeds: Seeds
    linear: Callable[[Sequence[Any]], LinearMap]
    reduction: Callable[[Output], Reduction]
    rows: Callable[[Sequence[Any], Sequence[Results]], Sequence[Any]] | None = None

    def like(self, residuals: Residuals, results: Sequence[Results]) -> Sequence[Any]:
        """What seeds are made like; the rows that they are, where passes begin with some."""
        if self.rows is not None:
            return self.rows(residuals.read, results)
        given = residuals.xs if self.seeds.forward else residuals.ys
        return given if given is not None else [zeros_like(aval) for aval in self.seeds.seeded.avals]


class Execution(Protocol):
    """How J is computed.

    Attributes:
        program: whose primal program is evaluated first.
        stages: the passes, in the order in which they are made.
        used_numbers: the operands whose numbers, as NumPy arrays that f closes over hold them, are a part of what runs.
    """

    @property
    def program(self) -> Linear: ...
    @property
    def stages(self) -> tuple[Stage, ...]: ...
    @property
    def used_numbers(self) -> frozenset[int]: ...

    def residuals(
        self, operands: Sequence[Any], xs: Sequence[Any], ys: Sequence[Any], residuals: Sequence[Any]
    ) -> Residuals:
        """What the passes read."""
        ...

    def wanted(self, results: Sequence[Results], output: Output, read: Sequence[Any] = ()) -> Rows:
        """What is wanted of J, from what each stage left, and perhaps from what passes read."""
        ...

    def added(self, results: Sequence[Results], others: Blocks) -> Blocks:
        """Other dense blocks of the same ends (None where one is zero), with these added."""
        ...

    def in_place(self, output: Output) -> bool:
        """Whether results may be given up for J, which has their shape."""
        ...
