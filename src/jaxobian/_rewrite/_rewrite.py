"""An offer to compute an equation in another way, and programs in which offers are taken up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import jax

from .._trace import Program, closed, inlined, is_variable, program_of


@dataclass(frozen=True, eq=False)
class Around:
    """The equations beside an equation, by the variables between them that are read once.

    Attributes:
        makers: the one that makes it, and the operands in which that is linear.
        readers: the one that reads it.
    """

    makers: Mapping[Any, tuple[Any, set[int]]]
    readers: Mapping[Any, Any]

    @classmethod
    def of(cls, program: Program, active: set[Any]) -> Around:
        """What makes and what reads the active variables that a single equation of a program reads."""
        counts = Counter(v for e in program.equations for v in e.invars if is_variable(v))
        counts.update(v for v in program.outputs if is_variable(v))
        once = {v for v, count in counts.items() if count == 1 and v in active}
        makers = {v: (e, linear_in(e, active)) for e in program.equations for v in e.outvars if v in once}
        return cls(makers, {v: e for e in program.equations for v in e.invars if is_variable(v) and v in once})


def linear_in(equation: Any, active: set[Any]) -> set[int]:
    """The operands of an equation that are active."""
    return {k for k, v in enumerate(equation.invars) if is_variable(v) and v in active}


@dataclass(frozen=True, eq=False)
class Rewrite:
    """Another way to compute an equation.

    Attributes:
        run: its operands -> the equation's results, equal to rounding; linear in those that are active.
        what: what is replaced, in the user's words.
        by: what it is replaced with.
        operands: what `run` takes; those of the equation, or of one that made an operand and is replaced with it.
    """

    run: Callable[..., Sequence[Any]]
    what: str
    by: str
    operands: tuple[Any, ...]


def rewritten(program: Program, taken: Mapping[int, Rewrite]) -> Program:
    """`program` with some equations replaced.

    Args:
        program: a flat program.
        taken: offers by the place of their equation.
    """
    if not taken:
        return program
    names: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return names.get(atom, atom) if is_variable(atom) else atom

    programs, constants = side_by_side([(offer.run, *(v.aval for v in offer.operands)) for offer in taken.values()])
    faster = dict(zip(taken, (closed(made, constants) for made in programs), strict=True))
    equations = []
    for place, equation in enumerate(program.equations):
        offer = taken.get(place)
        if offer is None:
            equations.append(equation.replace(invars=[read(v) for v in equation.invars]))
            continue
        made, results = written(faster[place], equation.source_info, [read(v) for v in offer.operands])
        equations += made
        names.update(zip(equation.outvars, results, strict=True))
    return replace(program, equations=tuple(equations), outputs=tuple(map(read, program.outputs))).pruned()


def written(program: Program, where: Any, operands: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The equations of a program, with names of the operands and places of its own, and its results.

    Args:
        program: operands -> results.
        where: what the equations have for a place in the user's code; None for where they stand.
        operands: the operands, variables or literals.
    """
    names = dict(zip(program.inputs, operands, strict=True))

    def read(atom: Any) -> Any:
        return names.get(atom, atom) if is_variable(atom) else atom

    equations = []
    for e in program.equations:
        source_info = e.source_info if where is None else where
        equations.append(e.replace(invars=[read(v) for v in e.invars], source_info=source_info))
    return equations, [read(v) for v in program.outputs]


def side_by_side(calls: Sequence[tuple[Any, ...]]) -> tuple[list[Program], tuple[Any, ...]]:
    """Functions as flat programs, all traced in one go.

    Args:
        calls: each a function and what it takes, abstractly.

    Returns:
        The programs, whose first inputs are all that the functions close over; and the values of that.
    """

    def every(given: Sequence[Any]) -> list[Any]:
        return [list(run(*own)) for (run, *_), own in zip(calls, given, strict=True)]

    program, constants, tree = program_of(every, [own for _, *own in calls])
    program = inlined(program)
    held, inputs = program.inputs[: len(constants)], iter(program.inputs[len(constants) :])
    outputs, programs = iter(program.outputs), []
    for (_, *own), made in zip(calls, tree.children(), strict=True):
        ours = (*held, *islice(inputs, len(jax.tree.leaves(own))))
        programs.append(replace(program, inputs=ours, outputs=tuple(islice(outputs, made.num_leaves))).pruned())
    return programs, constants
