"""Program -> Structure: relations between its outputs and its inputs, composed equation by equation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..._primitives import row_of
from ..._trace import (
    Linear,
    LinearProgram,
    Program,
    as_program,
    differentiable,
    forward,
    implementation,
    inlined,
    is_variable,
    loop_of,
    program_of,
    pullbacks,
    subprograms,
)
from .._indices import Indices, Lookup
from ._kinds import Local, Shape
from ._rules import TIES
from ._ties import DENSE, Relation, compose, identity, join, line, shifted, transposed, within

# What a variable depends on: number of an input -> relation. An input that is not there does not matter to it.
Dependence = dict[int, Relation]


@dataclass(frozen=True)
class Notes:
    """What goes with an analysis.

    Attributes:
        unknown: the equations so far that no rule understands.
        conditions: whether results depend on what the condition of a loop reads. Derivatives do not.
    """

    unknown: list[Any]
    conditions: bool = False


@dataclass(frozen=True, eq=False)
class Structure:
    """How the outputs of a linear program depend on its tangents.

    Attributes:
        program: the linear program.
        relations: for each output, the inputs that it depends on, each with its ties.
        unknown: the equations that no rule understands; they are taken for dense.
        steps: the equations that something active goes through, in order, each with what it does to its operands.
        indices: what is known of index arrays.
    """

    program: Linear
    relations: tuple[Dependence, ...]
    unknown: tuple[Any, ...]
    steps: tuple[tuple[Any, Local], ...]
    indices: Indices
    _values: Indices
    _dependences: Mapping[Any, Dependence]

    def of(self, atom: Any) -> Dependence:
        """The dependence of any variable of the linear program."""
        return self._dependences.get(atom, {}) if is_variable(atom) else {}

    def lookup(self) -> Lookup:
        """Looks up what atoms hold, where that depends on no argument."""
        return Lookup(self._values)

    def part(self, program: Linear) -> Structure:
        """The structure of a segment of the program."""
        pairs = list(zip(program.residuals, self.program.residuals, strict=True))
        indices, values = (
            Indices(program.linear, {v: (known, r) for v, r in pairs}) for known in (self.indices, self._values)
        )
        return _structure(program, indices, values)


def structure(program: LinearProgram) -> Structure:
    """Find the ties between every output and every tangent of a linear program."""
    operands = program.primal.inputs
    indices = {v: x for v, x in zip(operands, program.indices, strict=False) if x is not None}
    numbers = {v: (k, x) for k, (v, x) in enumerate(zip(operands, program.numbers, strict=False)) if x is not None}
    made = program.primal.outputs[len(program.function.outputs) :]

    def known(numbers: dict[Any, Any]) -> Indices:
        primal = Indices(program.primal, None, indices, numbers)
        return Indices(program.linear, {v: (primal, r) for v, r in zip(program.residuals, made, strict=True)})

    return _structure(program, known({}), known(numbers))


def influence(program: Program, n_in: int, indices: Sequence[np.ndarray | None]) -> Structure:
    """The ties between the values of every output and of the last inputs of any program, linear or not.

    Args:
        program: the program.
        n_in: how many of its inputs are looked at.
        indices: what its inputs hold that are index arrays; None for the others.
    """
    program = inlined(program)
    known = Indices(program, values={v: x for v, x in zip(program.inputs, indices, strict=True) if x is not None})
    return _structure(Linear(program, n_in), known, known, conditions=True)


def _structure(program: Linear, indices: Indices, values: Indices, *, conditions: bool = False) -> Structure:
    start = {v: {k: identity(v.aval.shape)} for k, v in enumerate(program.tangents)}
    notes = Notes([], conditions)
    steps: list[tuple[Any, Local]] = []
    found = _analyzed(program.linear, start, indices, notes, steps)
    outputs = tuple(found.get(v, {}) if is_variable(v) else {} for v in program.linear.outputs)
    return Structure(program, outputs, tuple(notes.unknown), tuple(steps), indices, values, found)


def _analyzed(
    program: Program,
    start: dict[Any, Dependence],
    indices: Indices,
    notes: Notes,
    steps: list[tuple[Any, Local]] | None = None,
) -> dict[Any, Dependence]:
    """The dependence of every variable that depends on one of `start`; `steps` takes down what each equation does."""
    shapes = {j: v.aval.shape for v, dependence in start.items() for j in dependence}

    def through(equation: Any, operands: dict[int, Dependence]) -> list[Dependence | None]:
        local = local_ties(equation, set(operands), indices, notes)
        if steps is not None:
            steps.append((equation, local))
        return [followed(v.aval.shape, row, operands) for v, row in zip(equation.outvars, local, strict=True)]

    def followed(shape: Shape, row: Dependence, operands: dict[int, Dependence]) -> Dependence | None:
        total: Dependence = {}
        for k, dependence in operands.items():
            if k in row:
                _add(total, {j: compose(row[k], relation) for j, relation in dependence.items()})
        return {j: within(relation, shape, shapes[j]) for j, relation in total.items()} or None

    return forward(program, start, through)


def _add(total: Dependence, more: Dependence) -> None:
    """Add paths to a dependence: what two of them share must hold on both."""
    for j, relation in more.items():
        total[j] = join(total[j], relation) if j in total else relation


def local_ties(equation: Any, active: set[int], indices: Indices, notes: Notes) -> Local:
    """For each output of an equation, the active operands that it depends on, each with its ties."""
    row = row_of(equation)
    if row.kind is not None:
        rows = TIES[row.kind](equation, indices)
        if row.kind == "passed_on":
            return rows
        return [{k: row.get(k, DENSE) for k in active} for row in rows]
    inner = BODIES.get(row.body)
    rows = inner(equation, active, notes) if inner is not None else None
    if rows is None:
        made = implementation(equation)
        rows = None if made is None else _inside(made, sorted(active), notes)
    if rows is None:
        notes.unknown.append(equation)
        return [dict.fromkeys(active, DENSE) for _ in equation.outvars]
    return rows


# Equations with programs inside ------------------------------------------------------------------------------------


def _inside(program: Program, active: Sequence[int], notes: Notes) -> Local:
    """The outputs of a program by those of its inputs that are active."""
    program = inlined(program)
    start = {program.inputs[k]: {k: identity(program.inputs[k].aval.shape)} for k in active}
    found = _analyzed(program, start, Indices(program), notes)
    return [dict(found.get(v, {})) if is_variable(v) else {} for v in program.outputs]


def _call(equation: Any, active: set[int], notes: Notes) -> Local | None:
    """A program that is run as it stands: a rematerialized block, a function with a rule of its own."""
    programs = list(subprograms(equation))
    if len(programs) != 1:
        return None
    return _called(programs[0], equation, active, notes)


def _called(program: Program, equation: Any, active: set[int], notes: Notes) -> Local:
    """What a program does to an equation's operands, which are its last inputs: before them come its constants."""
    first = len(program.inputs) - len(equation.invars)
    rows = _inside(program, [first + k for k in sorted(active)], notes)
    return [{k - first: relation for k, relation in row.items()} for row in rows]


def _expanded(equation: Any, active: set[int], notes: Notes) -> Local | None:
    """A primitive that JAX 0.12 writes out only when it compiles, such as a search in a sorted array."""
    try:
        program, _, _ = program_of(equation.params["_prim"].expand, *(v.aval for v in equation.invars))
    except Exception:
        return None  # it cannot be written out here
    return _called(program, equation, active, notes)


def _cond(equation: Any, active: set[int], notes: Notes) -> Local | None:
    """Any of the branches may run: what holds in all of them; and which one does, where that is active."""
    total: Local = [{0: DENSE} if 0 in active else {} for _ in equation.outvars]
    for branch in subprograms(equation):
        for sum_, row in zip(total, _inside(branch, [k - 1 for k in sorted(active - {0})], notes), strict=True):
            _add(sum_, {k + 1: relation for k, relation in row.items()})
    return total


@dataclass(frozen=True)
class _Steps:
    """After any number of steps: carries by what the loop was given; and one step's outputs."""

    rows: Local
    step: Local


def _fixed_point(
    one: Callable[[Sequence[int], Notes], Local],
    first_carry: int,
    carries: Sequence[Shape],
    active: Sequence[int],
    notes: Notes,
) -> _Steps:
    """Carries after any number of steps, by the loop's operands, of which those from `first_carry` on are the carries.

    A carry starts as what it is given, and each step composes `one` with it: ties are only ever lost, so that
    this ends.
    """
    n_carry = len(carries)
    alive = set(active)
    noted = replace(notes, unknown=[])
    while True:  # a carry becomes active where a step writes something active to it
        step = one(sorted(alive), noted)
        more = {first_carry + c for c in range(n_carry) if step[c]} - alive
        if not more:
            break
        alive |= more
        noted.unknown.clear()
    notes.unknown.extend(noted.unknown)
    given = set(active)
    rows: Local = [
        {first_carry + c: identity(shape)} if first_carry + c in given else {} for c, shape in enumerate(carries)
    ]
    while True:
        new = [dict(row) for row in rows]
        for c in range(n_carry):
            _add(new[c], _after(step[c], rows, first_carry, n_carry, given))
        if new == rows:
            return _Steps(rows, step)
        rows = new


def _after(row: Dependence, carries: Local, first_carry: int, n_carry: int, given: set[int]) -> Dependence:
    """One step after `carries`."""
    total: Dependence = {}
    for k, relation in row.items():
        if first_carry <= k < first_carry + n_carry:
            _add(total, {j: compose(relation, inner) for j, inner in carries[k - first_carry].items()})
        elif k in given:
            _add(total, {k: relation})
    return total


def _loop(equation: Any, active: set[int], notes: Notes) -> Local | None:
    """A fixed point over the carries; slices of xs and ys have an axis less, along which steps follow each other.

    Of values, a step is made, or not, where a condition says so. One of several numbers, as vmap makes it, stops each
    place of the carries' leading axes by itself.
    """
    loop = loop_of(equation)
    if loop is None:
        return None
    skipped, first, n_carry = loop.skipped, loop.skipped + loop.carries.start, len(loop.carries)

    def step(alive: Sequence[int], notes: Notes) -> Local:
        stopped: Dependence = {}
        if loop.condition is not None and notes.conditions:
            read = {k if k < skipped else k - loop.carries.start: k for k in alive if k < skipped or k >= first}
            (by,) = _inside(loop.condition, sorted(read), notes)
            leading = identity(loop.condition.out_avals[0].shape)
            stopped = {read[k]: compose(leading, relation) for k, relation in by.items()}
        rows = _inside(loop.body, [k - skipped for k in alive if k >= skipped], notes)
        rows = [{k + skipped: relation for k, relation in row.items()} for row in rows]
        for row in rows:
            _add(row, stopped)
        return rows

    carries = [loop.body.inputs[k].aval.shape for k in loop.carries]
    steps = _fixed_point(step, first, carries, sorted(active), notes)
    sliced = {k + skipped for k in loop.sliced}
    local: Local = [{k: shifted(r, 0, 1) if k in sliced else r for k, r in row.items()} for row in steps.rows]
    for o in loop.stacked:
        through = {k: r for k, r in steps.step[o].items() if first <= k < first + n_carry}
        direct = {k: r for k, r in steps.step[o].items() if k not in through and k in active}
        row: Dependence = {}
        for k, relation in direct.items():
            # Step by step: y[t] by x[t].
            lifted = shifted(relation, 1, 1) | {line(0, 0)} if k in sliced else shifted(relation, 1, 0)
            _add(row, {k: lifted})
        before = _after(through, steps.rows, first, n_carry, active)
        _add(row, {k: shifted(r, 1, 1 if k in sliced else 0) for k, r in before.items()})
        local.append(row)
    return local


def _custom_lin(equation: Any, active: set[int], notes: Notes) -> Local | None:
    """Can only be pulled back: the program that does so, read from its results to its seeds."""
    count = equation.params["num_res"]
    if any(k < count for k in active):
        return None
    known = differentiable(equation)
    local: Local = [dict.fromkeys(active, DENSE) if k in known else {} for k in range(len(equation.outvars))]
    for places, pulled, _ in pullbacks(equation, count):
        for place, row in zip(places, _from_results(pulled, len(places), notes), strict=True):
            local[place] = {k: row[k - count] for k in active if k - count in row}
    return local


def _from_results(pulled: Program, n_results: int, notes: Notes) -> Local:
    """A linear map by the program of its transpose, whose last inputs are the map's results."""
    first = len(pulled.inputs) - n_results
    local: Local = [{} for _ in range(n_results)]
    for k, row in enumerate(_inside(pulled, range(first, len(pulled.inputs)), notes)):
        for seed, relation in row.items():
            local[seed - first][k] = transposed(relation)
    return local


def _linear_solve(equation: Any, active: set[int], notes: Notes) -> Local | None:
    """What its own solver does to its constants and the right-hand sides, and its transpose's to cotangents."""
    lengths, solvers = equation.params["const_lengths"], equation.params["jaxprs"]
    n_constants, before = sum(lengths), lengths.matvec + lengths.vecmat
    n_sides = len(equation.invars) - n_constants
    program = as_program(solvers.solve)
    if len(program.inputs) != lengths.solve + n_sides:
        return None
    own = [*range(before, before + lengths.solve), *range(n_constants, n_constants + n_sides)]
    rows = _inside(program, [k for k, operand in enumerate(own) if operand in active], notes)
    local: Local = [{own[k]: relation for k, relation in row.items()} for row in rows]
    if solvers.transpose_solve is not None:
        back = _from_results(as_program(solvers.transpose_solve), n_sides, notes)
        for row, more in zip(local, back, strict=True):
            _add(row, {k + n_constants: relation for k, relation in more.items() if k + n_constants in active})
    return local


BODIES: dict[str | None, Callable[[Any, set[int], Notes], Local | None]] = {
    "call": _call,
    "custom_rule": _call,
    "block": _call,
    "expansion": _expanded,
    "cond": _cond,
    "loop": _loop,
    "pullback": _custom_lin,
    "solve": _linear_solve,
}
