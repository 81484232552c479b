"""A linear program and its parts: what lies between some of its variables and others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from .._arrays import is_complex, is_concrete, varying_axes
from ._program import Program, is_variable, program_of


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear program: residuals, tangents -> tangents, linear in the latter.

    Attributes:
        linear: the equations; the first inputs are the residuals.
        n_in: how many of its inputs are tangents.
    """

    linear: Program
    n_in: int

    @property
    def residuals(self) -> tuple[Any, ...]:
        return self.linear.inputs[: len(self.linear.inputs) - self.n_in]

    @property
    def residual_avals(self) -> tuple[Any, ...]:
        return tuple(v.aval for v in self.residuals)

    @property
    def tangents(self) -> tuple[Any, ...]:
        return self.linear.inputs[len(self.residuals) :]

    @property
    def in_avals(self) -> tuple[Any, ...]:
        return tuple(v.aval for v in self.tangents)

    @property
    def out_avals(self) -> tuple[Any, ...]:
        return self.linear.out_avals

    def push(self, residuals: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
        """One tangent through the linear program: J t."""
        return self.linear(*residuals, *tangents)

    def segment(self, inputs: Sequence[Any], outputs: Sequence[Any], frozen: Sequence[Any] = ()) -> Linear:
        """The part from some variables to others, by every path that passes none of `inputs` or `held` on its way.

        Args:
            inputs: variables that take tangents.
            outputs: variables whose tangents are asked for. What does not depend on `inputs` is zero.
            frozen: variables that are frozen: their tangents are zero.
        """
        cut, active = {*inputs, *frozen}, active_variables(self.linear, self.tangents)
        # An input that is frozen takes a tangent that nothing reads.
        names = {v: jex.Var(v.aval) if v in frozen else v for v in inputs}
        alive = {v for v in inputs if v not in frozen}

        def read(atom: Any) -> Any:
            return zero_literal(atom.aval) if is_variable(atom) and atom in active and atom not in alive else atom

        equations = []
        for equation in self.linear.equations:
            variables = [v for v in equation.invars if is_variable(v)]
            if any(v in active for v in variables):
                if not any(v in alive for v in variables):
                    continue  # linear in zeros
                # What is cut comes from outside; that the equation makes it, too, is of no interest.
                made = [jex.Var(v.aval) if v in cut else v for v in equation.outvars]
                alive.update(v for v in equation.outvars if v not in cut)
                equation = equation.replace(invars=[read(v) for v in equation.invars], outvars=made)
            equations.append(equation)
        inner = Program((*self.residuals, *names.values()), tuple(map(read, outputs)), tuple(equations))
        return Linear(inner.pruned(), len(names))

    def with_real_ends(self) -> Linear:
        """The same map between real arrays: a complex one is two, its real and its imaginary part."""
        if not any(map(is_complex, (*self.in_avals, *self.out_avals))):
            return self

        def push(residuals: Sequence[Any], parts: Sequence[Any]) -> list[Any]:
            return _parted(self.push(residuals, _joined(parts, self.in_avals)))

        avals = [aval for v in self.tangents for aval in real_avals(v.aval)]
        program, constants, _ = program_of(push, list(self.residual_avals), avals)
        return Linear(closed(program, constants), len(avals))


def real_avals(aval: Any) -> list[Any]:
    """A real array as it is; the real and the imaginary part of a complex one."""
    return [aval.update(dtype=jnp.finfo(aval.dtype).dtype)] * 2 if is_complex(aval) else [aval]


def _parted(values: Sequence[Any]) -> list[Any]:
    return [part for x in values for part in ((jnp.real(x), jnp.imag(x)) if is_complex(x) else (x,))]


def _joined(parts: Sequence[Any], avals: Sequence[Any]) -> list[Any]:
    rest = iter(parts)
    return [jax.lax.complex(next(rest), next(rest)) if is_complex(aval) else next(rest) for aval in avals]


def closed(program: Program, constants: Sequence[Any]) -> Program:
    """A program with its first inputs, whose values are known, as literals."""
    known = {v: jex.Literal(value, v.aval) for v, value in zip(program.inputs, constants, strict=False)}

    def read(atom: Any) -> Any:
        return known.get(atom, atom) if is_variable(atom) else atom

    equations = tuple(e.replace(invars=[read(v) for v in e.invars]) for e in program.equations)
    outputs = tuple(map(read, program.outputs))
    return Program(program.inputs[len(constants) :], outputs, equations)


def is_flag(value: Any) -> bool:
    """Whether a value is a single integer or boolean that is known now."""
    kind = jnp.result_type(value)
    counts = jnp.issubdtype(kind, np.integer) or jnp.issubdtype(kind, np.bool_)
    return counts and np.shape(value) == () and is_concrete(value)


def with_flags(program: Program, constants: Sequence[Any]) -> tuple[Program, tuple[Any, ...]]:
    """A program with those of its constants that are flags as literals, and the other constants.

    A custom rule may branch on them in Python, as the rule of equinox's checkpointed loops does.
    """
    inputs = program.inputs[: len(constants)]
    flags = {v: np.asarray(value) for v, value in zip(inputs, constants, strict=True) if is_flag(value)}
    others = tuple(v for v in inputs if v not in flags)
    program = replace(program, inputs=(*flags, *others, *program.inputs[len(constants) :]))
    kept = tuple(value for v, value in zip(inputs, constants, strict=True) if v not in flags)
    return (closed(program, list(flags.values())), kept) if flags else (program, kept)


def zero_literal(aval: Any) -> Any:
    """Zeros as an operand of an equation."""
    if varying_axes(aval):
        raise NotImplementedError("a zero that differs between devices has no literal")
    return jex.Literal(np.zeros(aval.shape, aval.dtype), aval)


def pullback(push: Callable[..., Any], in_avals: Sequence[Any]) -> Callable[..., list[Any]]:
    """The transpose of the linear function `push(*tangents)`: `pull(*cotangents)`."""

    def pull(*cotangents: Any) -> list[Any]:
        return list(jax.linear_transpose(lambda *t: tuple(push(*t)), *in_avals)(tuple(cotangents)))

    return pull


def active_variables(program: Program, tangents: Sequence[Any]) -> set[Any]:
    """The variables that depend on `tangents`: an equation with an active operand has active results."""
    active = set(tangents)
    for equation in program.equations:
        if any(is_variable(v) and v in active for v in equation.invars):
            active.update(equation.outvars)
    return active
