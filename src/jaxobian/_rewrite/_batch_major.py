"""Passes made together, each beside the example that it is of: (examples, passes, ...) from the seeds to J.

`jax.vmap` puts passes in front of the examples wherever a residual, which has none, meets a seed; J, whose examples
come first, is then one more copy of all that comes back. Here every equation is vmapped by itself, with the axis of
passes second. Where it stands changes nothing but the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from .._primitives import row_of
from .._trace import Program, inlined, is_variable, program_of


def supports_batch_major(program: Program) -> bool:
    """Whether passes through a linear program, and its transpose, are to stand beside their examples."""
    return all(row_of(equation).batch_major for equation in program.equations)


def batch_major(linear: Callable[..., Sequence[Any]], avals: Sequence[Any]) -> Callable[..., list[Any]]:
    """`linear`, of seeds of several passes each, the passes on axis 1 (or 0 of numbers) of seeds and results.

    Args:
        linear: a linear map of some seeds.
        avals: the seeds of one pass, abstractly.
    """

    def many(*seeds: Any) -> list[Any]:
        program, constants, _ = program_of(lambda *one: linear(*one), *avals)
        program = inlined(program)
        values = dict(zip(program.inputs, (*constants, *seeds), strict=True))
        wide = set(program.inputs[len(constants) :])
        for equation in program.equations:
            reads = list(dict.fromkeys(v for v in equation.invars if is_variable(v)))
            made = [v for v in equation.outvars if not isinstance(v, jex.DropVar)]
            run: Callable[..., Any] = Program(tuple(reads), tuple(made), (equation,))
            if any(v in wide for v in reads):
                axes = tuple(pass_axis(v.aval) if v in wide else None for v in reads)
                run = jax.vmap(run, axes, [pass_axis(v.aval) for v in made])
                wide.update(made)
            values.update(zip(made, run(*(values[v] for v in reads)), strict=True))
        width = seeds[0].shape[pass_axis(avals[0])]
        return [values[v] if is_variable(v) and v in wide else _repeated(v, values, width) for v in program.outputs]

    return many


def pass_axis(aval: Any) -> int:
    """Where passes stand in an array that one pass makes of the shape of `aval`: second."""
    return min(1, len(aval.shape))


def _repeated(atom: Any, values: dict[Any, Any], width: int) -> Any:
    """A result that no seed changes, for every pass."""
    value = values[atom] if is_variable(atom) else atom.val
    return jnp.repeat(jnp.expand_dims(value, pass_axis(atom.aval)), width, pass_axis(atom.aval))
