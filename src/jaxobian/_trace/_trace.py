"""f, args -> LinearProgram: the one trace that planning and the run share.

    primal:  operands, x  ->  y, aux, residuals
    linear:  residuals, tangents of x  ->  tangents of y

Everything after this is a choice of the order in which to multiply the second one out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from .._arrays import abstract, is_concrete, varying_axes
from .._tracebacks import Call
from ._linearize import Linearized, linearize
from ._program import Program, inlined, is_variable, program_of, walk
from ._segment import Linear, active_variables, closed, pullback, with_flags

# A function, the values of its first inputs, which are not differentiated, and how many of its outputs are y.
Differentiate = Callable[[Program, Sequence[Any], int], Linearized]

# Larger arrays of indices are not looked at: planning must not grow with the sizes of arrays.
LARGEST_INDEX = 1_000_000


@dataclass(frozen=True, eq=False)
class LinearProgram(Linear):
    """A function's trace, and its derivative as a linear program.

    Attributes:
        linear: residuals, tangents of x -> tangents of y; nested jits inlined, dead equations dropped.
        n_in: how many x are.
        function: operands, x -> y, aux. The trace of f itself.
        primal: operands, x -> y, aux, residuals.
        operands: values of what the function closes over; abstract for a plan that was made from shapes.
        n_out: how many of the function's outputs are y.
        n_open: how many of the operands, the last ones, are arguments: what they hold is not known.
    """

    function: Program
    primal: Program
    operands: tuple[Any, ...]
    n_out: int
    n_open: int = 0

    @property
    def indices(self) -> tuple[np.ndarray | None, ...]:
        """What each operand holds that is an index array and no argument; None for the others."""
        closed = len(self.operands) - self.n_open
        return (*index_arrays(self.operands[:closed]), *(None for _ in range(self.n_open)))

    @property
    def numbers(self) -> tuple[np.ndarray | None, ...]:
        """What each operand holds that is NumPy's, of real numbers, and no argument; None for the others.

        JAX takes such an array for a part of f's text, as it takes one that f writes down. An array of JAX's may be
        weights, which change.
        """
        closed = len(self.operands) - self.n_open
        return tuple(np.asarray(x) if k < closed and _is_number(x) else None for k, x in enumerate(self.operands))

    @property
    def in_avals(self) -> tuple[Any, ...]:
        """The differentiated inputs."""
        return self.function.in_avals[len(self.operands) :]

    @property
    def out_avals(self) -> tuple[Any, ...]:
        """The outputs y."""
        return self.function.out_avals[: self.n_out]

    def without_values(self, *, numbers: bool = True) -> LinearProgram:
        """The same program with abstract operands: what may be kept without keeping the rest.

        Index arrays are kept, and `numbers` where that is true.
        """
        given = self.numbers if numbers else (None,) * len(self.operands)
        every = zip(self.indices, given, self.function.in_avals, strict=False)
        return replace(self, operands=tuple(next((x for x in (i, n) if x is not None), aval) for i, n, aval in every))

    def with_own_values(self) -> LinearProgram:
        """The same program with copies of NumPy's arrays, which may be written to."""
        return replace(self, operands=tuple(np.array(x) if isinstance(x, np.ndarray) else x for x in self.operands))

    def with_operands(self, arrays: Sequence[Any]) -> LinearProgram:
        """The same program with more operands, the last ones, which it does not read; what they hold is not known."""
        n = len(self.operands)
        new = program_of(lambda *xs: xs, *map(abstract, arrays))[0].inputs

        def widened(program: Program) -> Program:
            return replace(program, inputs=(*program.inputs[:n], *new, *program.inputs[n:]))

        return replace(
            self,
            function=widened(self.function),
            primal=widened(self.primal),
            operands=(*self.operands, *arrays),
            n_open=self.n_open + len(new),
        )

    def rewritten(self, primal: Program, linear: Program) -> LinearProgram:
        """The same function by other programs with the same inputs.

        What depends on no tangent is computed by the primal program, once, rather than by every pass.
        """
        active = active_variables(linear, self.tangents)
        n_own = len(self.function.outputs)
        names = dict(zip(self.residuals, primal.outputs[n_own:], strict=True))

        def read(atom: Any) -> Any:
            return names.get(atom, atom) if is_variable(atom) else atom

        passes = [e for e in linear.equations if any(v in active for v in e.outvars)]
        inert = (e for e in linear.equations if not any(v in active for v in e.outvars))
        once = [e.replace(invars=[read(v) for v in e.invars]) for e in inert]
        atoms = [a for atoms in (*(e.invars for e in passes), linear.outputs) for a in atoms]
        held = tuple(dict.fromkeys(a for a in atoms if is_variable(a) and a not in active))
        outputs = (*primal.outputs[:n_own], *map(read, held))
        primal = replace(primal, equations=(*primal.equations, *once), outputs=outputs).pruned()
        linear = replace(linear, inputs=(*held, *self.tangents), equations=tuple(passes))
        return replace(self, primal=primal, linear=linear)

    def evaluate(self, operands: Sequence[Any], xs: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """y, aux and residuals."""
        results = self.primal(*operands, *xs)
        n_aux = len(self.function.outputs) - self.n_out
        return results[: self.n_out], results[self.n_out : self.n_out + n_aux], results[self.n_out + n_aux :]


def trace(
    f: Callable[..., Any],
    xs: Sequence[Any],
    extras: Sequence[Any] = (),
    check: Callable[[Sequence[Any]], None] = lambda avals: None,
    call: Call | None = None,
    differentiate: Differentiate = linearize,
) -> LinearProgram:
    """Trace `f(extras, xs) -> (ys, aux)` once and linearize it in xs.

    Args:
        f: takes and returns flat sequences of arrays.
        xs: the differentiated arrays, concrete, traced or abstract.
        extras: more arrays that f takes, not differentiated.
        check: looks at the abstract ys before they are differentiated, and raises where they cannot be.
        call: the user's function and arguments, for JAX's errors to name.
        differentiate: makes the primal and the linear program.
    """
    n_extra = len(extras)
    avals = [abstract(leaf) for leaf in (*extras, *xs)]
    call = call or Call(f, len(avals), (), [(k, "") for k in range(len(avals))])
    counts = []

    @call.named
    def flat(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        leaves = call.arrays(args, kwargs)
        ys, aux = f(leaves[:n_extra], leaves[n_extra:])
        counts.append(len(ys))
        return (*ys, *aux)

    args, kwargs = call.arguments(avals)
    function, constants, _ = program_of(flat, *args, **kwargs)
    arrays = call.arrays(*jax.tree.unflatten(jax.tree.structure((args, kwargs)), function.inputs[len(constants) :]))
    function = replace(function, inputs=(*function.inputs[: len(constants)], *arrays))
    # Inlining names the arguments of loops; what nothing reads would only be in the way of telling programs apart.
    function, constants = with_flags(inlined(function).pruned(), constants)
    n_out = counts[-1]
    check(function.out_avals[:n_out])
    hoisted, function, primal, linear = differentiate(function, (*constants, *extras), n_out)
    return LinearProgram(linear, len(xs), function, primal, (*hoisted, *constants, *extras), n_out, n_extra)


def pullbacks(equation: Any, n_residuals: int) -> list[tuple[list[int], Program, tuple[Any, ...]]]:
    """An equation that is linear in all but its first operands, as programs that pull cotangents back through it.

    One for all results that have tangents; or, where a rule of the user's own does not allow all at once, as JAX 0.12
    does not where some are shared by a batch, one for each that it allows.

    Returns:
        The places of the results; the program: its constants, then residuals, then cotangents of those results ->
        cotangents of the other operands; and the values of its constants.
    """
    places = differentiable(equation)
    try:
        return [(places, *_transposed(equation, n_residuals, places))]
    except Exception as error:
        found = []
        for place in places if len(places) > 1 else ():
            try:
                found.append(([place], *_transposed(equation, n_residuals, [place])))
            except Exception:
                continue
        if not found:
            raise error from None
        return found


def _transposed(equation: Any, n_residuals: int, places: Sequence[int]) -> tuple[Program, tuple[Any, ...]]:
    # A residual that is a number stays one: a rule may branch on it.
    operands = [
        jex.Var(v.aval) if is_variable(v) or k >= n_residuals else v for k, v in enumerate(equation.invars)
    ]  # fmt: skip
    made = tuple(jex.Var(v.aval) for v in equation.outvars)
    outputs = tuple(made[k] for k in places)
    residuals = tuple(filter(is_variable, operands[:n_residuals]))
    tangents: tuple[Any, ...] = tuple(operands[n_residuals:])
    alone = Program((*residuals, *tangents), outputs, (equation.replace(invars=operands, outvars=list(made)),))

    given = [v for v in tangents if v.aval.dtype != jax.dtypes.float0]

    def pull(held: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        def push(*seeds: Any) -> list[Any]:
            values = dict(zip(given, seeds, strict=True))
            none = {v: np.zeros(v.aval.shape, v.aval.dtype) for v in tangents if v not in values}
            return alone(*held, *((values | none)[v] for v in tangents))

        found = dict(zip(given, pullback(push, [v.aval for v in given])(*cotangents), strict=True))
        return [found[v] if v in found else jnp.zeros(v.aval.shape) for v in tangents]

    program, constants, _ = program_of(pull, [v.aval for v in residuals], [v.aval for v in outputs])
    return program, constants


def implementation(equation: Any) -> Program | None:
    """What a primitive of another library is made of, where it is implemented by functions of JAX; else None."""
    primitive, params = equation.primitive, equation.params
    try:
        made, constants, _ = program_of(lambda *xs: primitive.impl(*xs, **params), *(v.aval for v in equation.invars))
    except Exception:
        return None
    # JAX's own are implemented by themselves.
    own = any(e.primitive.name == primitive.name for e in walk(made.equations))
    return None if own or len(made.outputs) != len(equation.outvars) else closed(made, constants)


def differentiable(equation: Any) -> list[int]:
    """The results of an equation that have tangents, by their places: those of integers have none."""
    return [k for k, v in enumerate(equation.outvars) if v.aval.dtype != jax.dtypes.float0]


def index_arrays(arrays: Sequence[Any]) -> tuple[np.ndarray | None, ...]:
    """What each array holds that is one of indices and has values now; None for the others."""
    return tuple(np.asarray(x) if _is_index(x) else None for x in arrays)


def _is_index(leaf: Any) -> bool:
    """Whether an array is one of integers or booleans whose values are known now, and not too many to be looked at."""
    if not isinstance(leaf, jax.Array | np.ndarray):
        return False
    if not any(jnp.issubdtype(leaf.dtype, kind) for kind in (np.integer, np.bool_)):
        return False
    return leaf.size <= LARGEST_INDEX and is_concrete(leaf)


def _is_number(leaf: Any) -> bool:
    """Whether an array is NumPy's, of real numbers, and not too large to be looked at."""
    return isinstance(leaf, np.ndarray) and jnp.issubdtype(leaf.dtype, np.floating) and leaf.size <= LARGEST_INDEX


def cast_varying(xs: Sequence[Any], out_avals: Sequence[Any]) -> tuple[Any, ...] | None:
    """`xs` varying over every mesh axis that an output varies over (under shard_map); None where they do already.

    A replicated input of a varying output has two derivatives: each device's own, and their sum. Ours is each
    device's own, whichever mode runs.
    """
    axes = frozenset().union(*map(varying_axes, out_avals))
    missing = [axes - varying_axes(abstract(x)) for x in xs]
    if not any(missing):
        return None
    return tuple(jax.lax.pcast(x, tuple(sorted(m)), to="varying") if m else x for x, m in zip(xs, missing, strict=True))
