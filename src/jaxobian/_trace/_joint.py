"""Equations of a trace of `jax.jvp` that make both results and tangents, written as two: one for each program.

    y, dy = g(x, dx)      becomes      y, _ = g(x, 0)      and      _, dy = g(x, dx)

The second makes y anew in every pass, as `jax.jacfwd` does; it can be pushed forward and not pulled back.
"""

from __future__ import annotations

from typing import Any

import jax.extend.core as jex

from .._primitives import row_of
from ._program import Loop, Program, forward, is_variable, loop_of, subprograms
from ._segment import zero_literal


def both_apart(program: Program, seeds: tuple[Any, ...]) -> Program:
    """The program with an equation of each kind in place of those that make both."""
    active, equations = set(seeds), []
    for equation in program.equations:
        places = {k for k, v in enumerate(equation.invars) if is_variable(v) and v in active}
        reached = _reached(equation, places) if places else set()
        if places and len(reached) < len(equation.outvars):
            # A loop of integers may be handed tangents all the same, which nothing comes of.
            still = [zero_literal(v.aval) if k in places else v for k, v in enumerate(equation.invars)]
            equations.append(equation.replace(invars=still, outvars=_only(equation, reached, inside=False)))
            equation = equation.replace(outvars=_only(equation, reached, inside=True))
        if reached or not places:
            equations.append(equation)
        active.update(v for k, v in enumerate(equation.outvars) if k in reached)
    return Program(program.inputs, program.outputs, tuple(equations))


def _only(equation: Any, places: set[int], *, inside: bool) -> list[Any]:
    """The results at some places, or those at the others; variables that nothing reads in place of the rest."""
    return [v if (k in places) == inside else jex.Var(v.aval) for k, v in enumerate(equation.outvars)]


def _reached(equation: Any, places: set[int]) -> set[int]:
    """The results of an equation that depend on its operands at some places; all of them where it is not known."""
    body, programs = row_of(equation).body, list(subprograms(equation))
    every = set(range(len(equation.outvars)))
    if body == "loop":
        loop = loop_of(equation)
        if loop is None or min(places) < loop.skipped:
            return every
        return _after_steps(loop, {k - loop.skipped for k in places})
    if body == "cond":
        return every if 0 in places else set().union(*(_through(p, {k - 1 for k in places}) for p in programs))
    if len(programs) == 1 and len(programs[0].inputs) == len(equation.invars):
        return _through(programs[0], places)
    return every


def _after_steps(loop: Loop, places: set[int]) -> set[int]:
    """The results of a loop: what reaches a carry once is in it from then on."""
    while True:
        found = _through(loop.body, places)
        more = {k for out, k in enumerate(loop.carries) if out in found} | places
        if more == places:
            return found
        places = more


def _through(program: Program, places: set[int]) -> set[int]:
    """The outputs of a program that depend on its inputs at some places."""

    def through(equation: Any, operands: dict[int, Any]) -> list[Any]:
        reached = _reached(equation, set(operands))
        return [True if k in reached else None for k in range(len(equation.outvars))]

    active = forward(program, {v: True for k, v in enumerate(program.inputs) if k in places}, through)
    return {k for k, v in enumerate(program.outputs) if is_variable(v) and v in active}
