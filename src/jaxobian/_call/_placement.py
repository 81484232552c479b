"""Where results belong on a mesh with Explicit axes: the shardings in the types of y and of J."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.custom_batching import custom_vmap
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .._arrays import is_concrete
from .._outputs import SideName
from .._trace import LinearProgram, active_variables, is_variable, mesh_around, mesh_of, our_settings, relaxed
from ._surroundings import surroundings

Arrays = Sequence[Any]
Results = tuple[list[list[Any]], list[Any], list[Any]]
Spec = tuple[Any, ...]  # for each axis of an array the mesh axes that it is divided among: a name, several, or None


@dataclass(frozen=True)
class Placement:
    """How the results of a call are sharded over a mesh with Explicit axes, if there is one.

    Attributes:
        outputs, aux: y and the arrays beside it, as f returned them.
        out_tied, in_tied: batch axes of outputs and inputs.
        constant: whether no array on the mesh has a part in J.
    """

    outputs: tuple[Spec, ...]
    aux: tuple[Spec, ...]
    out_tied: tuple[int | None, ...]
    in_tied: tuple[int | None, ...]
    constant: bool

    @classmethod
    def of(cls, program: LinearProgram, out_tied: Sequence[int | None], in_tied: Sequence[int | None]) -> Placement:
        """The placement of a call, by its trace with shardings in its types."""
        results = tuple(map(_spec, program.function.out_avals))
        placed = [v for v in program.primal.inputs if mesh_of(v.aval) is not None]
        residuals = filter(is_variable, program.primal.outputs[len(results) :])
        constant = bool(placed) and active_variables(program.primal, placed).isdisjoint(residuals)
        return cls(results[: program.n_out], results[program.n_out :], tuple(out_tied), tuple(in_tied), constant)

    def run(
        self,
        run: Callable[[Arrays, Arrays], Results],
        operands: Arrays,
        xs: Arrays,
        sides: Sequence[SideName] = ("out", "in"),
    ) -> Results:
        """What `run`, which knows no Explicit axes, makes of arrays that may be on a mesh with some.

        An axis of J is sharded as that of y or of x that it comes from; a mesh axis of both stays with y's. Of what
        else is wanted of J, `sides` says where its axes come from.
        """
        placed = [x for x in (*operands, *xs) if mesh_of(jax.typeof(x)) is not None]
        mesh = mesh_around() or (mesh_of(jax.typeof(placed[0])) if placed else None)
        if mesh is None:
            with our_settings():
                return run(operands, xs)
        types, devices = [_spec(jax.typeof(x)) for x in xs], _devices(placed)

        def on_auto_axes(operands: Arrays, xs: Arrays, placed: Arrays) -> Results:
            blocks, ys, aux = _relaxed_run(run, tuple(operands), tuple(xs))
            with our_settings():
                if self.constant and not all(map(is_concrete, placed)):
                    # A jit that needs none of its arguments would not be run on their devices.
                    blocks, _ = jax.lax.optimization_barrier((blocks, relaxed(placed[0])))

            def typed(x: Any, spec: Spec) -> Any:
                return _typed(x, PartitionSpec(*spec), mesh, devices)

            def block(x: Any, *numbers: int) -> Any:
                if isinstance(x, jax.Array):
                    return typed(x, self._spec_of(x.ndim, tuple(zip(sides, numbers, strict=False)), types))
                return jax.tree.map(lambda x: typed(x, ()), x)  # BCOO

            J = [[block(x, o, i) for i, x in enumerate(row)] for o, row in enumerate(blocks)]
            return J, list(map(typed, ys, self.outputs)), list(map(typed, aux, self.aux))

        # Where a part of the mesh is Manual, JAX changes types within a jit alone.
        manual = AxisType.Manual in mesh.axis_types
        return (jax.jit(on_auto_axes) if manual else on_auto_axes)(operands, xs, placed)

    def _spec_of(self, rank: int, places: Sequence[tuple[SideName, int]], types: Sequence[Spec]) -> Spec:
        """How a block of J is sharded: the batch, then the other axes of y and of x; no mesh axis twice."""
        batch, own = [], []
        for side, number in places:
            spec = self.outputs[number] if side == "out" else types[number]
            tied = (self.out_tied if side == "out" else self.in_tied)[number]
            batch += [] if tied is None else [spec[tied]]
            own += [s for k, s in enumerate(spec) if k != tied]
        entries = (*([next((s for s in batch if s), None)] if batch else []), *own)
        entries = (*entries, *[None] * (rank - len(entries)))
        seen: set[str] = set()
        kept = []
        for entry in entries:
            names = entry if isinstance(entry, tuple) else (entry,)
            kept.append(tuple(n for n in names if n is not None and n not in seen) or None)
            seen.update(kept[-1] or ())
        return tuple(kept)


def _relaxed_run(run: Callable[[Arrays, Arrays], Results], operands: Arrays, xs: Arrays) -> Results:
    """`run` of the arrays on Auto axes.

    A vmap along an Explicit axis writes that axis into the reshapes that JAX's transposes make, which Auto axes forbid.
    It is then done again on Auto axes, by a rule for vmap; what has one can be differentiated forward only.
    """

    def on_auto_axes(operands: Arrays, xs: Arrays) -> Results:
        with our_settings():
            return run(tuple(map(relaxed, operands)), tuple(map(relaxed, xs)))

    try:
        return on_auto_axes(operands, xs)
    except ValueError as error:
        if not surroundings((*operands, *xs)).mapped:
            raise
        try:
            return _mapped_on_auto_axes(on_auto_axes)(operands, xs)
        except ValueError:
            raise error from None


def _mapped_on_auto_axes(run: Callable[[Arrays, Arrays], Results]) -> Callable[[Arrays, Arrays], Results]:
    made = custom_vmap(run)

    @made.def_vmap
    def rule(size: int, batched: Any, operands: Arrays, xs: Arrays) -> tuple[Results, Any]:
        axes = tuple(tuple(0 if each else None for each in side) for side in batched)

        def whole(operands: Arrays, xs: Arrays) -> Results:
            with our_settings():
                arrays = tuple(map(relaxed, operands)), tuple(map(relaxed, xs))
                return jax.vmap(run, axes, axis_size=size)(*arrays)

        results = _mapped_on_auto_axes(whole)(operands, xs)
        return results, jax.tree.map(lambda _: True, results)

    return made


def _spec(aval: Any) -> Spec:
    return (None,) * len(aval.shape) if mesh_of(aval) is None else tuple(aval.sharding.spec)


def _devices(placed: Arrays) -> Any:
    """The mesh with the devices that arrays with values are on, or that is set; None where neither is known."""
    for x in filter(is_concrete, placed):
        return x.sharding.mesh
    try:
        mesh = jax.sharding.get_mesh()
    except ValueError:  # in a trace
        return None
    return None if mesh.empty else mesh


def _typed(x: Any, spec: PartitionSpec, mesh: Any, devices: Any) -> Any:
    """An array on Auto axes, or on none, on a mesh with Explicit ones."""
    if not is_concrete(x):
        return jax.sharding.reshard(x, NamedSharding(mesh, spec))
    if devices is None and isinstance(x.sharding, NamedSharding):  # made of arrays that a vmap around us holds
        devices = Mesh(np.asarray(x.sharding.mesh.devices), mesh.axis_names, axis_types=mesh.axis_types)
    return x if devices is None else jax.device_put(x, NamedSharding(devices, spec))
