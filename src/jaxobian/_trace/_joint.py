"""Equations of a trace of `jax.jvp` that make both results and tangents, written as two: one for each program.

    y, dy = g(x, dx)      becomes      y, _ = g(x, 0)      and      _, dy = g(x, dx)

The second makes y anew in every pass, as `jax.jacfwd` does; it can be pushed forward and not pulled back.
"""

from __future__ import annotations

from typing import Any

import jax.extend.core as jex

from ._program import Program, as_program, is_variable, subprograms
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
    name, programs = equation.primitive.name, list(subprograms(equation))
    every = set(range(len(equation.outvars)))
    if name == "scan":
        (body,) = programs
        stacked = [len(v.aval.shape) < len(o.aval.shape) for v, o in zip(body.outputs, equation.outvars, strict=True)]
        sliced = [len(v.aval.shape) < len(o.aval.shape) for v, o in zip(body.inputs, equation.invars, strict=True)]
        n_carry = len(stacked) - sum(stacked)
        return _after_steps(body, places, len(sliced) - sum(sliced) - n_carry, n_carry)
    if name == "while":
        first = equation.params["cond_nconsts"]
        if min(places) < first:
            return every
        body = as_program(equation.params["body_jaxpr"])
        n_carry = len(equation.outvars)
        return _after_steps(body, {k - first for k in places}, len(body.inputs) - n_carry, n_carry)
    if name == "cond":
        return every if 0 in places else set().union(*(_through(p, {k - 1 for k in places}) for p in programs))
    if len(programs) == 1 and len(programs[0].inputs) == len(equation.invars):
        return _through(programs[0], places)
    return every


def _after_steps(body: Program, places: set[int], first_carry: int, n_carry: int) -> set[int]:
    """The results of a loop: what reaches a carry once is in it from then on."""
    while True:
        found = _through(body, places)
        more = {first_carry + k for k in found if k < n_carry} | places
        if more == places:
            return found
        places = more


def _through(program: Program, places: set[int]) -> set[int]:
    """The outputs of a program that depend on its inputs at some places."""
    active = {v for k, v in enumerate(program.inputs) if k in places}
    for equation in program.equations:
        reads = {k for k, v in enumerate(equation.invars) if is_variable(v) and v in active}
        if reads:
            active.update(v for k, v in enumerate(equation.outvars) if k in _reached(equation, reads))
    return {k for k, v in enumerate(program.outputs) if is_variable(v) and v in active}
