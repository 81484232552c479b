"""How far from x a program is a sum of products: terms, variable by variable, and where passes have to go on."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from ..._analysis import structure
from ..._primitives import row_of
from ..._trace import LinearProgram, Program, active_variables, is_variable, program_of, repeats
from .._problem import Problem
from ._equations import JOINING, PLACING, extended, several
from ._terms import Letters, Source, Term, added

# Ways from an input to a variable, more of which are not told apart.
_MOST_TERMS = 4
# Factors of a term, after more of which passes go on.
_MOST_FACTORS = 64

# For each input that a variable depends on, the terms of their derivative.
Terms = dict[int, list[Term]]


@dataclass(frozen=True, eq=False)
class Tracked:
    """What is known of some variables.

    Attributes:
        terms: of each.
        frontier: those from which passes go on to y; none where y is known.
    """

    letters: Letters
    terms: dict[Any, Terms]
    frontier: tuple[Any, ...]


def with_broadcasts(problem: Problem) -> Problem:
    """The same question of a program that repeats tangents by equations of their own, where others do it on the way.

    A bias of shape (1, n) that is added to (examples, n) has its examples there, and not before.
    """
    linear = problem.program.linear
    equations = repeated(linear.equations, active_variables(linear, problem.program.tangents))
    if len(equations) == len(linear.equations):
        return problem
    return with_linear(problem, replace(linear, equations=tuple(equations)))


def with_residuals_once(problem: Problem) -> Problem:
    """The same question of a program that reads one of residuals that are equal.

    A derivative of a derivative has some twice: the first one's, and what they are made of differentiated again.
    """
    program = problem.program
    if not isinstance(program, LinearProgram):
        return problem
    same = repeats(program.primal)
    residuals = program.primal.outputs[len(program.function.outputs) :]
    first: dict[Any, Any] = {}
    read: dict[Any, Any] = {}
    for v, residual in zip(residuals, program.residuals, strict=True):
        if is_variable(v):
            read[residual] = first.setdefault(same.get(v, v), residual)
    if all(a is b for a, b in read.items()):
        return problem
    equations = [
        e.replace(invars=[read.get(v, v) if is_variable(v) else v for v in e.invars]) for e in program.linear.equations
    ]
    return with_linear(problem, replace(program.linear, equations=tuple(equations)))


def with_linear(problem: Problem, linear: Program) -> Problem:
    """The same question of a linear program written otherwise."""
    program = problem.program
    if isinstance(program, LinearProgram):
        program = replace(program, linear=linear)
        return replace(problem, program=program, structure=structure(program))
    program = replace(program, linear=linear)
    return replace(problem, program=program, structure=problem.structure.part(program))


def repeated(equations: Sequence[Any], active: Container[Any]) -> list[Any]:
    """Equations, and before those that repeat one of the active variables on the way others that do."""
    found = []
    for equation in equations:
        invars = list(equation.invars)
        for k, v in enumerate(invars) if row_of(equation).kind == "elementwise" else ():
            shape = equation.outvars[0].aval.shape
            if is_variable(v) and v in active and v.aval.shape != shape:
                made, invars[k] = _repeated(v, shape)
                found += made
        same = all(a is b for a, b in zip(invars, equation.invars, strict=True))
        found.append(equation if same else equation.replace(invars=invars))
    return found


def _repeated(v: Any, shape: tuple[int, ...]) -> tuple[list[Any], Any]:
    """Equations that repeat a variable, and the variable that they make."""
    made, _, _ = program_of(
        lambda x: jax.lax.broadcast_in_dim(x, shape, tuple(range(x.ndim)) if x.ndim else ()), v.aval
    )
    names = {made.inputs[0]: v}
    renamed = [e.replace(invars=[names.get(a, a) if is_variable(a) else a for a in e.invars]) for e in made.equations]
    return renamed, made.outputs[0]


def tracked(problem: Problem, *, first: bool) -> Tracked:
    """Terms from x on.

    Args:
        problem: what is asked for.
        first: stop where x has met something else; or go on for as long as equations are understood.
    """
    letters, linear, tangents = Letters(), problem.program.linear, problem.program.tangents
    active = active_variables(linear, tangents)
    terms: dict[Any, Terms] = {}
    for i, v in enumerate(tangents):
        axes = letters.axes(v.aval.shape)
        terms[v] = {i: [Term((), axes, axes)]}
    joined, frontier = set[Any](), dict[Any, None]()
    for equation in linear.equations:
        ours = [k for k, v in enumerate(equation.invars) if is_variable(v) and v in active]
        if not ours:
            continue
        known = [k for k in ours if equation.invars[k] in terms]
        met = any(equation.invars[k] in joined for k in ours)
        goes_on = len(known) == len(ours) and not (first and met and _joins(equation, ours))
        made = _through(equation, ours, terms, letters) if goes_on else None
        if made is None:
            frontier.update((equation.invars[k], None) for k in known)
            continue
        terms[equation.outvars[0]] = made
        if met or _joins(equation, ours):
            joined.add(equation.outvars[0])
    if frontier:
        frontier.update((v, None) for v in linear.outputs if is_variable(v) and v in terms)
    return Tracked(letters, terms, tuple(frontier))


def _through(equation: Any, ours: list[int], terms: dict[Any, Terms], letters: Letters) -> Terms | None:
    """The terms of an equation's result."""
    if not several(equation, ours):
        return None
    made: Terms = {}
    for k in ours:
        for i, some in terms[equation.invars[k]].items():
            for term in some:
                new = extended(equation, k, term, letters)
                if new is None:
                    return None
                made.setdefault(i, []).append(new)
    if len(ours) > 1:
        made = {i: added(some, letters) for i, some in made.items()}
    few = all(len(some) <= _MOST_TERMS for some in made.values())
    return made if few and all(len(term.factors) <= _MOST_FACTORS for some in made.values() for term in some) else None


def _joins(equation: Any, ours: list[int]) -> bool:
    """Whether a tangent meets something else that has axes, or is repeated along some."""
    if equation.primitive.name in PLACING:
        return False
    grows = all(_size(equation.outvars[0]) > _size(equation.invars[k]) for k in ours)
    others = [v for k, v in enumerate(equation.invars) if k not in ours]
    return grows or (equation.primitive.name in JOINING and any(_size(v) > 1 for v in others))


def _size(atom: Any) -> int:
    size = 1
    for n in atom.aval.shape:
        size *= n
    return size


def joined_to(
    term: Term, block: Source, y: tuple[int, ...], axes: tuple[int | None, int | None], letters: Letters
) -> Term:
    """The term of an output, by that of a variable z and the block dy/dz.

    Args:
        term: of z.
        block: dy/dz, of shape (*lead, *y, *z), their batches apart.
        y: the shape of y.
        axes: the batch axes of y and of z, where examples are kept apart.
        letters: to take from.
    """
    out_axis, own_axis = axes
    own = list(letters.axes(y))
    lead = ()
    if out_axis is not None and own_axis is not None:
        own[out_axis] = term.own[own_axis]
        lead = (own[out_axis],)
    outs = [digits for k, digits in enumerate(own) if k != out_axis]
    zs = [digits for k, digits in enumerate(term.own) if k != own_axis]
    return replace(term.times(block, (*lead, *outs, *zs)), own=tuple(own))
