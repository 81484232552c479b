"""Free Jacobians: the Jacobian of `x @ W` by x is W, so that nothing need be pushed through it.

Where passes would begin with the identity at a contraction with a constant, they begin with the constant's rows. In
forward mode that is a contraction which alone reads x; in reverse mode one that makes y.

    J = (dy/dz) W    for z = x @ W          J = W (dz/dx)    for y = z @ W
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._arrays import varying_axes
from .._cost import Work, nbytes
from .._execute import LinearMap, Swept
from .._seeds import Group
from .._trace import UNKNOWN_LINE, Program, active_variables, is_variable, pullback, source_line
from ._problem import Candidate, Problem
from ._sweeps import candidate, passing, traced


@dataclass(frozen=True, eq=False)
class KnownFirst:
    """A contraction with a constant at which the passes of a problem begin.

    Attributes:
        rest: residuals, tangents -> tangents: the linear program without the contraction. Its tangents are those of
            z (forward), or its results are those of z (reverse).
        constant: residuals -> the constant.
        order: the constant's axes: those of the colors, then those of the other side of the contraction.
        shape: of the rows: colors, then z with 1 in place of axes that all colors share.
        z: what the rows are seeds of, as an abstract value.
        where: the user's line.
        in_avals: of x.
    """

    rest: Program
    constant: Program
    order: tuple[int, ...]
    shape: tuple[int, ...]
    z: Any
    where: str
    in_avals: tuple[Any, ...]
    recomputes: bool = False

    @property
    def whole(self) -> bool:
        """Whether the rows are seeds as they are, and need not be repeated for all that a pass seeds alike."""
        return self.shape[1:] == tuple(self.z.shape)

    def rows(self, read: Sequence[Any]) -> Any:
        """What one pass for each color begins with."""
        (constant,) = self.constant(*read)
        return constant.transpose(self.order).reshape(self.shape).astype(self.z.dtype)

    def linear(self, read: Sequence[Any], *, forward: bool) -> LinearMap:
        """One pass from z on: to the tangents of y, or back to the cotangents of x."""

        def push(*tangents: Any) -> list[Any]:
            return self.rest(*read, *tangents)

        return push if forward else pullback(push, self.in_avals)


def better(problem: Problem, *candidates: Candidate | None) -> Candidate:
    """The one that keeps to the budget, and of several that do the fastest: rows at hand take memory."""
    found = [c for c in candidates if c is not None]
    return min(found, key=lambda c: (c.cost.peak_bytes > problem.budget, c.cost.seconds))


def begun(problem: Problem, mode: str, *, held_bytes: int) -> Candidate | None:
    """The candidate that begins with a constant's rows, and so does all that others do but for a product."""
    forward = mode == "fwd"
    found = known_first(problem, forward=forward)
    if found is None:
        return None
    (group,) = problem.groups(forward=forward)

    passes = problem.passes(forward=forward)
    made = traced(passing(found, forward=forward), problem.program.residual_avals, [found.z], passes)
    counted = made.counted(passes, forward=forward, one_hot=False, results=group.results)
    size = math.prod(found.shape) * found.z.dtype.itemsize
    repeated = 0 if found.whole else passes * nbytes(found.z)
    where = "" if found.where == UNKNOWN_LINE else f" at {found.where}"
    note = f"starts from the weights of the matmul{where}, which are its Jacobian, instead of the identity"
    return candidate(
        problem,
        mode,
        [(group, counted)],
        held_bytes=held_bytes + size,
        build=found,
        note=note,
        initial=(tuple(found.z.shape),),
        before=Work(bytes=2.0 * (size + repeated)),
    )


def begins_whole(candidate: Candidate) -> bool:
    """Whether a candidate begins with rows that are seeds as they are."""
    execution = candidate.execution
    return isinstance(execution, Swept) and isinstance(execution.build, KnownFirst) and execution.build.whole


def known_first(problem: Problem, *, forward: bool) -> KnownFirst | None:
    """The contraction at which the passes can begin, if there is one."""
    seeded, _ = problem.sides(forward=forward)
    groups = problem.groups(forward=forward)
    if len(seeded.avals) != 1 or len(groups) != 1 or groups[0].seeded != {0}:
        return None
    linear = problem.program.linear
    end = problem.program.tangents[0] if forward else linear.outputs[0]
    if not is_variable(end) or linear.outputs.count(end) > int(not forward):
        return None
    found = [e for e in linear.equations if end in (e.invars if forward else e.outvars)]
    if len(found) != 1 or found[0].primitive.name != "dot_general":
        return None
    (equation,) = found
    active = active_variables(linear, problem.program.tangents)
    ours = [k for k, v in enumerate(equation.invars) if is_variable(v) and v in active]
    if len(ours) != 1:
        return None
    alone = _Contraction.of(equation, ours[0])
    layout = alone.layout(groups[0], seeded.batch_axes[0], forward=forward)
    if layout is None:
        return None
    order, shape = layout
    z = equation.outvars[0] if forward else equation.invars[ours[0]]
    if varying_axes(z.aval):  # under shard_map the rows would have to vary as z does
        return None
    others = tuple(e for e in linear.equations if e is not equation)
    if forward:
        rest = Program((*problem.program.residuals, z), linear.outputs, others)
    else:
        rest = replace(linear, outputs=(z,)).pruned()
    constant = Program(problem.program.residuals, (equation.invars[1 - ours[0]],), linear.equations)
    inert = tuple(e for e in linear.equations if not any(v in active for v in e.outvars))
    constant = replace(constant, equations=inert).pruned()
    avals = tuple(problem.program.in_avals)
    return KnownFirst(rest.pruned(), constant, order, shape, z.aval, source_line(equation), avals)


@dataclass(frozen=True)
class _Contraction:
    """A dot_general with a constant: where the axes of its parts stand.

    Attributes:
        x, w: shapes of the tangent operand and of the constant.
        batch, contract, free: for each kind of axis, pairs or numbers of the operands' axes.
        first: whether the tangent is the first operand: its free axes then come first in the result.
    """

    x: tuple[int, ...]
    w: tuple[int, ...]
    batch: tuple[tuple[int, int], ...]
    contract: tuple[tuple[int, int], ...]
    free_x: tuple[int, ...]
    free_w: tuple[int, ...]
    first: bool

    @classmethod
    def of(cls, equation: Any, ours: int) -> _Contraction:
        contract, batch = equation.params["dimension_numbers"]
        x, w = (tuple(equation.invars[k].aval.shape) for k in (ours, 1 - ours))
        both = [zip(axes[ours], axes[1 - ours], strict=True) for axes in (batch, contract)]
        pairs = [tuple((int(a), int(b)) for a, b in axes) for axes in both]
        free = [
            tuple(a for a in range(len(shape)) if all(a != pair[side] for kind in pairs for pair in kind))
            for side, shape in enumerate((x, w))
        ]
        return cls(x, w, pairs[0], pairs[1], free[0], free[1], ours == 0)

    def layout(
        self, group: Group, example_axis: int | None, *, forward: bool
    ) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """How the constant becomes rows: the order of its axes, and the rows' shape; None where it does not.

        Colors must run over the axes that the constant alone knows: in forward mode those contracted, in reverse
        mode its free ones. All other axes must be shared by a pass as a whole.
        """
        batch = sorted(self.batch)
        if forward:
            colored = sorted(self.contract)
            shared = [a for a, _ in batch] + list(self.free_x)
            seeded = self.x
            colors = [a for a, _ in colored]
            order = (*(b for _, b in colored), *(b for _, b in self.batch), *self.free_w)
            kept_x, kept_w = (1,) * len(self.free_x), tuple(self.w[a] for a in self.free_w)
            z = (*(self.x[a] for a, _ in self.batch), *((*kept_x, *kept_w) if self.first else (*kept_w, *kept_x)))
        else:
            # The result's axes: batch, then the free ones of the first operand, then of the second.
            n = len(self.batch)
            at_x = n + (0 if self.first else len(self.free_w))
            at_w = n + (len(self.free_x) if self.first else 0)
            colors = [at_w + k for k in range(len(self.free_w))]
            shared = [*range(n), *(at_x + k for k in range(len(self.free_x)))]
            sizes = dict(enumerate(self.x[a] for a, _ in self.batch))
            sizes |= {at_x + k: self.x[a] for k, a in enumerate(self.free_x)}
            sizes |= {at_w + k: self.w[a] for k, a in enumerate(self.free_w)}
            seeded = tuple(sizes[k] for k in range(len(sizes)))
            constant_axis = dict((*self.batch, *self.contract))
            order = (*self.free_w, *(constant_axis[a] for a in range(len(self.x)) if a in constant_axis))
            z = tuple(1 if a in self.free_x else size for a, size in enumerate(self.x))
        whole = {cell.axis for cell in group.cells[0] if (cell.stride, cell.base) == (1, seeded[cell.axis])}
        cut = {cell.axis for cell in group.cells[0]}
        if cut & set(colors) or example_axis in colors:
            return None
        if any(seeded[a] > 1 and a not in whole and a != example_axis for a in shared):
            return None
        return order, (math.prod(seeded[a] for a in colors), *z)
