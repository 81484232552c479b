"""function -> its primal program, which makes y and residuals, and its linear program, which takes these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax

from .._arrays import abstract, varying_axes, zeros_like
from .._primitives import row_of
from ._joint import both_apart
from ._program import Program, inlined, is_variable, program_of, subprograms, walk
from ._segment import active_variables, is_flag, with_flags, zero_literal

# Constants that came to light on the way (a jit's, an output's), then three programs that take them as further first
# inputs: the function, the primal program, and the linear program.
Linearized = tuple[tuple[Any, ...], Program, Program, Program]

# Of these bodies nothing is left once they are differentiated, or they only say how two numbers are made one.
_UNFOLDED = ("call", "custom_rule", "combining")


def linearize(function: Program, operands: Sequence[Any], n_out: int) -> Linearized:
    """The primal and the linear program of `function`, differentiated in all but its first inputs, the `operands`.

    Where no equation does the work of both, they are told apart in the trace of `jax.jvp`, which takes less
    time than `jax.linearize`; that one takes apart loops, branches and all that is not known here, too. What it cannot
    take apart, as a `custom_vmap` function, is run whole by both programs.
    """
    n_operands = len(operands)
    told = _told_apart(function, n_operands, n_out)
    if told is not None:
        return told
    try:
        return _by_jax(function, n_operands, n_out)
    except Exception as error:
        try:
            told = _told_apart(function, n_operands, n_out, jointly=True)
        except Exception:
            raise error from None
        if told is None:
            raise
        return told


def _told_apart(function: Program, n_operands: int, n_out: int, *, jointly: bool = False) -> Linearized | None:
    """The two programs from one trace; None where they cannot be told apart.

    Args:
        function: operands, x -> y, aux.
        n_operands: how many operands there are.
        n_out: how many of the results are y.
        jointly: whether an equation that makes results and their tangents may stand in both programs.
    """
    if not jointly and any(map(_has_body, walk(function.equations))):
        return None
    tangents = [aval.to_tangent_aval() for aval in function.in_avals[n_operands:]]
    if any(aval.dtype == jax.dtypes.float0 for aval in tangents):
        return None
    n_in = len(tangents)

    def pushed(*leaves: Any) -> Any:
        operands, xs, ts = leaves[:n_operands], leaves[n_operands : len(leaves) - n_in], leaves[len(leaves) - n_in :]

        def differentiated(*xs: Any) -> tuple[Any, Any]:
            results = function(*operands, *xs)
            return results[:n_out], results[n_out:]

        return jax.jvp(differentiated, xs, ts, has_aux=True)

    traced, constants, _ = program_of(pushed, *function.in_avals, *tangents)
    traced = inlined(traced)
    seeds = traced.inputs[len(traced.inputs) - n_in :]
    if jointly:
        traced = both_apart(traced, seeds)
    active = active_variables(traced, seeds)
    outs = traced.outputs
    ys, ts, aux = outs[:n_out], outs[n_out : 2 * n_out], outs[2 * n_out :]
    known = not any(v in active for v in (*ys, *aux) if is_variable(v))
    passes = tuple(e for e in traced.equations if any(v in active for v in e.outvars))
    # What only looks at tangents, as a print in a rule, belongs to neither program: which are pushed is ours to choose.
    others = tuple(
        e for e in traced.equations if not any(is_variable(v) and v in active for v in (*e.invars, *e.outvars))
    )
    linear = jointly or all(_is_linear(e, active) for e in passes)
    if not known or not linear or any(varying_axes(v.aval) for v in ts):
        return None
    # A tangent that depends on no tangent is zero.
    ts = tuple(v if is_variable(v) and v in active else zero_literal(v.aval) for v in ts)
    linear = Program(seeds, ts, passes).pruned()
    read = (v for e in linear.equations for v in e.invars)
    residuals = tuple(dict.fromkeys(v for v in read if is_variable(v) and v not in active))
    inputs = traced.inputs[: len(traced.inputs) - n_in]
    hoisted = inputs[: len(constants)]
    return (
        tuple(constants),
        replace(function, inputs=(*hoisted, *function.inputs)),
        Program(inputs, (*ys, *aux, *residuals), others).pruned(),
        Program((*residuals, *seeds), ts, linear.equations),
    )


def _has_body(equation: Any) -> bool:
    return row_of(equation).body not in _UNFOLDED and any(True for _ in subprograms(equation))


def _is_linear(equation: Any, active: set[Any]) -> bool:
    """Whether an equation is known to be linear in its active operands together, and to make nothing but tangents."""
    places = {k for k, v in enumerate(equation.invars) if is_variable(v) and v in active}
    match row_of(equation).linear:
        case "all":
            return True
        case "one":
            return len(places) == 1
        case "cases":
            return 0 not in places
        case "tangents":
            return min(places) >= equation.params["num_res"]
        case alone:
            return places <= {*alone}


def _by_jax(function: Program, n_operands: int, n_out: int) -> Linearized:
    """The two programs by `jax.linearize`."""

    def linearized(*leaves: Any) -> tuple[Any, ...]:
        def differentiated(*xs: Any) -> tuple[Any, Any]:
            results = function(*leaves[:n_operands], *xs)
            return results[:n_out], results[n_out:]

        return jax.linearize(differentiated, *leaves[n_operands:], has_aux=True)

    traced, constants, tree = program_of(linearized, *function.in_avals)
    # jax.linearize returns the linear function as a pytree whose leaves are the residuals.
    _, push, aux = jax.tree.unflatten(tree, traced.out_avals)
    residuals, push_tree = jax.tree.flatten(push)
    n_residuals, n_aux = len(residuals), len(jax.tree.leaves(aux))
    traced, constants = with_flags(traced, constants)
    outputs = traced.outputs[n_out : n_out + n_residuals]
    flags = {k: v.val for k, v in enumerate(outputs) if not is_variable(v) and is_flag(v.val)}

    zero: set[int] = set()

    def linear(*leaves: Any) -> Any:
        held = [flags.get(k, leaf) for k, leaf in enumerate(leaves[:n_residuals])]
        outs = jax.tree.unflatten(push_tree, held)(*leaves[n_residuals:])
        return [zeros_like(abstract(out)) if k in zero else out for k, out in enumerate(outs)]

    tangent_avals = [aval.to_tangent_aval() for aval in function.in_avals[n_operands:]]
    pushed, more, _ = program_of(linear, *residuals, *tangent_avals)
    # A tangent that depends on no tangent is zero; jax.linearize (0.10) hands it over as a value of a trace long ended.
    zero.update(k for k, v in enumerate(pushed.outputs) if is_variable(v) and v in pushed.inputs[: len(more)])
    if zero:
        pushed, more, _ = program_of(linear, *residuals, *tangent_avals)
    # The linear program's own constants are residuals too, which the primal program hands through.
    own = pushed.inputs[: len(more)]
    r_vars = (*own, *traced.outputs[n_out : n_out + n_residuals])
    pushed = _without_integers(inlined(pushed)).pruned()
    used = pushed.read()
    kept = [k for k in range(len(r_vars)) if pushed.inputs[k] in used]
    linear_inputs = (*(pushed.inputs[k] for k in kept), *pushed.inputs[len(r_vars) :])
    outputs = (*traced.outputs[:n_out], *traced.outputs[len(traced.outputs) - n_aux :], *(r_vars[k] for k in kept))
    hoisted = (*own, *traced.inputs[: len(constants)])
    return (
        (*more, *constants),
        replace(function, inputs=(*hoisted, *function.inputs)),
        replace(traced, inputs=(*own, *traced.inputs), outputs=outputs),
        replace(pushed, inputs=linear_inputs),
    )


def _without_integers(linear: Program) -> Program:
    """A linear program that reads no tangent of an integer: those are of no kind, and nothing depends on them."""
    made = {v for e in linear.equations for v in e.outvars if v.aval.dtype == jax.dtypes.float0}

    def read(atom: Any) -> Any:
        return zero_literal(atom.aval) if is_variable(atom) and atom in made else atom

    return replace(linear, equations=tuple(e.replace(invars=list(map(read, e.invars))) for e in linear.equations))
