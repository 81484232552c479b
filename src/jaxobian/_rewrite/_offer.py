"""An offer to compute an equation in another way, and programs in which offers are taken up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._linear import Program, closed, inlined, is_variable, program_of

# By variable: the equation that makes it and the operands in which that is linear, where only one other reads it.
Makers = Mapping[Any, tuple[Any, set[int]]]


@dataclass(frozen=True, eq=False)
class Offer:
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


def rewritten(program: Program, taken: Mapping[int, Offer]) -> Program:
    """`program` with some equations replaced.

    Args:
        program: a flat program.
        taken: offers by the place of their equation.
    """
    names: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return names.get(atom, atom) if is_variable(atom) else atom

    equations = []
    for place, equation in enumerate(program.equations):
        offer = taken.get(place)
        if offer is None:
            equations.append(equation.replace(invars=[read(v) for v in equation.invars]))
            continue
        written, results = _written(offer, equation, [read(v) for v in offer.operands])
        equations += written
        names.update(zip(equation.outvars, results, strict=True))
    return replace(program, equations=tuple(equations), outputs=tuple(map(read, program.outputs))).pruned()


def _written(offer: Offer, equation: Any, operands: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The equations that an offer consists of, which stand where `equation` stood in the user's code; its results."""
    program, constants, _ = program_of(offer.run, *(v.aval for v in offer.operands))
    program = closed(inlined(program), constants).pruned()
    names = dict(zip(program.inputs, operands, strict=True))

    def read(atom: Any) -> Any:
        return names.get(atom, atom) if is_variable(atom) else atom

    where = equation.source_info
    return (
        [e.replace(invars=[read(v) for v in e.invars], source_info=where) for e in program.equations],
        [read(v) for v in program.outputs],
    )

