"""One call: what the user asked for, the trace of it, and the choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from .._analysis import Names, check_examples, structure
from .._arrays import is_concrete
from .._outputs import Gram, Rows, SideName
from .._planning import Choice, choose
from .._trace import (
    Ends,
    LinearProgram,
    Side,
    cast_varying,
    kept_linearize,
    linearize,
    our_settings,
    relaxed,
    relaxed_program,
    trace,
)
from .._tracebacks import Call, innermost
from ._arguments import Arguments, Rest, check_outputs, take_apart
from ._batch import batch_of, output_axes, sharing_hint
from ._layout import Layout, inert
from ._matrix import as_matrix
from ._options import Options
from ._placement import Placement
from ._returned import Returned


@dataclass(frozen=True, eq=False)
class Traced:
    """One call, traced: the linear program of it, and how to hand the results back in the user's trees."""

    arguments: Arguments
    layout: Layout
    program: LinearProgram
    xs: tuple[Any, ...]
    ends: Ends
    inert_axes: dict[int, int]
    aux: Any
    names: Names
    placement: Placement

    @classmethod
    def of(
        cls,
        f: Callable[..., Any],
        options: Options,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        as_plan: bool = False,
        weights: Sequence[Any] = (),
    ) -> Traced:
        """Trace `f(*args, **kwargs)` once, abstractly, and check its outputs.

        Arrays that what is wanted of J reads, `weights`, become the last operands.
        """
        holomorphic = options.request.holomorphic
        arguments = take_apart(args, options.argnums, holomorphic=holomorphic, allow_int=options.allow_int)
        # A plan leaves every array open; a call closes over all that is not differentiated, just as it came.
        others = Rest.of(arguments, kwargs)
        open_arrays, close = others.opened() if as_plan else ((), None)
        returned: list[Returned] = []

        def flat(extras: Sequence[Any], xs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
            rest = close(extras) if close else None
            out = f(*arguments.rebuild(xs, rest), **(rest.kwargs if rest else kwargs))
            described, ys, aux = Returned.of(out, options.has_aux)
            returned.append(described)
            return ys, aux

        def check(avals: Sequence[Any]) -> None:
            check_outputs(avals, returned[-1].paths, holomorphic=holomorphic)

        xs = arguments.leaves
        places = [*(others.places(arguments) if as_plan else ()), *arguments.differentiated_places]
        call = Call(f, len(args), tuple(kwargs), places)
        differentiate = linearize if as_plan else kept_linearize(getattr(innermost(f), "__code__", type(f)))
        program = trace(flat, xs, open_arrays, check, call, differentiate)
        cast = cast_varying(xs, program.out_avals)
        if cast is not None:
            xs = cast
            program = trace(flat, xs, open_arrays, check, call, differentiate)
        if as_plan:
            program = program.with_own_values()
        program = program.with_operands(weights) if weights else program
        result = returned[-1]
        typed, program = program, relaxed_program(program)
        ends, inert_axes = ends_of(arguments, program.in_avals, program.out_avals, result, options)
        placement = Placement.of(typed, ends.outputs.batch_axes, ends.inputs.batch_axes)
        names = Names(arguments.paths, result.paths)
        layout = Layout(arguments, isinstance(options.argnums, int), result.tree)
        aux = result.rebuild_aux
        return cls(arguments, layout, program, tuple(xs), ends, inert_axes, aux, names, placement)

    def choose(
        self,
        options: Options,
        device: Any,
        values: tuple[Sequence[Any], Sequence[Any]] | None = None,
        *,
        explain: bool = False,
    ) -> Choice:
        """The choice for this call on a device; `values` of operands and inputs make errors about a batch certain.

        Where it is to be explained, modes that are sure to lose are counted, too.
        """
        with our_settings():
            ties = structure(self.program)
            if options.batch is not None and not options.request.independent:
                check_examples(ties, self.ends, self.names, values)
            choice = choose(ties, self.ends, options.request, device)
            return choice.explained() if explain else choice

    @property
    def device(self) -> Any:
        """The device that the arguments are on; the default one where none of them says."""
        arrays = [x for x in (*self.xs, *self.program.operands) if isinstance(x, jax.Array) and is_concrete(x)]
        for x in sorted(arrays, key=lambda x: not x.committed):
            return min(x.devices(), key=lambda device: device.id)
        default = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
        return default if isinstance(default, jax.Device) else jax.devices(default)[0]

    @property
    def values(self) -> tuple[Sequence[Any], Sequence[Any]] | None:
        """Operands and inputs, where all of them have values now."""
        arrays = (*self.program.operands, *self.xs)
        if not all(isinstance(x, jax.Array | np.ndarray) and is_concrete(x) for x in arrays):
            return None
        return tuple(map(relaxed, self.program.operands)), tuple(map(relaxed, self.xs))

    def deliver(self, blocks: Rows, ys: list[Any], aux: list[Any], options: Options) -> tuple[Any, Any, Any]:
        """y, aux and J, or what of it is wanted, in the user's trees."""
        y = jax.tree.unflatten(self.layout.out_tree, ys) if len(ys) == len(self.ends.outputs.avals) else None
        quantity = options.request.quantity
        if options.request.format == "scipy" and (quantity is None or isinstance(quantity, Gram)):
            return y, self.aux(aux), as_matrix(blocks, self.ends if quantity is None else quantity.ends(self.ends))
        sides = ("out", "in") if quantity is None else quantity.sides
        made = self.layout.assemble(blocks, sides, self.zeros)
        return y, self.aux(aux), made if quantity is None else quantity.named(made)

    def zeros(self, places: Sequence[tuple[SideName, int]]) -> Any:
        """Zeros for what belongs to an integer leaf; see `inert`."""
        return inert(self.arguments, self.ends, self.inert_axes, places)


def ends_of(
    arguments: Arguments, ins: Sequence[Any], outs: Sequence[Any], result: Returned, options: Options
) -> tuple[Ends, dict[int, int]]:
    """Both sides of J with their batch axes, and the batch axes of integer leaves by their slots."""
    ins, outs = tuple(ins), tuple(outs)
    if options.batch is None:
        return Ends(Side(ins, (None,) * len(ins)), Side(outs, (None,) * len(outs))), {}
    in_axes, inert_axes, size = batch_of(arguments, options.batch.in_axes)
    out_axes = output_axes(result.tree, outs, result.paths, options.batch.out_axes, size, sharing_hint(arguments))
    return Ends(Side(ins, in_axes), Side(outs, out_axes)), inert_axes
