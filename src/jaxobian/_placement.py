"""Where results belong on a mesh with Explicit axes: the shardings in the types of y and of J."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from ._linear import LinearProgram, explicit_mesh, is_concrete, mesh_of, relaxed_mesh

Spec = tuple[Any, ...]  # for each axis of an array the mesh axes that it is divided among: a name, several, or None


@dataclass(frozen=True)
class Placement:
    """The mesh of a call, and how its arrays are sharded over it.

    Attributes:
        mesh: with Explicit axes; None where there is none, and nothing is to be done.
        devices: the same mesh with its devices, where arrays have values now.
        inputs: of each differentiated array.
        outputs: of each y.
        aux: of each array beside them.
    """

    mesh: Any = None
    devices: Any = None
    inputs: tuple[Spec, ...] = ()
    outputs: tuple[Spec, ...] = ()
    aux: tuple[Spec, ...] = ()

    @classmethod
    def of(cls, program: LinearProgram, xs: Sequence[Any]) -> Placement:
        """The placement of a call by its trace, as it was before it was relaxed."""
        mesh = explicit_mesh(program)
        if mesh is None:
            return cls()
        results = list(map(_spec, program.function.out_avals))
        inputs = tuple(map(_spec, program.in_avals))
        outputs, aux = tuple(results[: program.n_out]), tuple(results[program.n_out :])
        return cls(mesh, _devices((*xs, *program.operands)), inputs, outputs, aux)

    def around(self) -> AbstractContextManager[Any]:
        """What is to be set around all that we trace and run."""
        if self.mesh is None:
            return nullcontext()
        return jax.sharding.use_abstract_mesh(relaxed_mesh(self.mesh))

    def results(
        self,
        blocks: Sequence[Sequence[Any]],
        ys: Sequence[Any],
        aux: Sequence[Any],
        out_tied: Sequence[int | None],
        in_tied: Sequence[int | None],
    ) -> tuple[list[list[Any]], list[Any], list[Any]]:
        """J's blocks, y and aux, on Explicit axes again.

        An axis of J is sharded as that of y or of x that it comes from; a mesh axis of both stays with y's.
        """
        placed = []
        for row, y, out in zip(blocks, self.outputs, out_tied, strict=True):
            specs = [_block_spec(y, out, x, inp) for x, inp in zip(self.inputs, in_tied, strict=True)]
            placed.append([self._block(block, spec) for block, spec in zip(row, specs, strict=False)])
        return placed, list(map(self._array, ys, self.outputs)), list(map(self._array, aux, self.aux))

    def _block(self, block: Any, spec: Spec) -> Any:
        if isinstance(block, jax.Array):
            return self._array(block, spec)
        return jax.tree.map(lambda x: self._array(x, (None,) * x.ndim), block)  # BCOO

    def _array(self, x: Any, spec: Spec) -> Any:
        if self.devices is not None and is_concrete(x):
            return jax.device_put(x, NamedSharding(self.devices, PartitionSpec(*spec)))
        return jax.sharding.reshard(x, NamedSharding(self.mesh, PartitionSpec(*spec)))


def _block_spec(y: Spec, out: int | None, x: Spec, inp: int | None) -> Spec:
    """How a block of J is sharded: the batch, whose axes are `out` and `inp`, then the other axes of y and of x."""
    batch = () if out is None or inp is None else (y[out] or x[inp],)
    own = (s for k, s in enumerate(y) if k != out)
    return _once((*batch, *own, *(s for k, s in enumerate(x) if k != inp)))


def _spec(aval: Any) -> Spec:
    if mesh_of(aval) is None:
        return (None,) * len(aval.shape)
    return tuple(aval.sharding.spec)


def _once(spec: Spec) -> Spec:
    """A spec in which no mesh axis is named twice."""
    seen: set[str] = set()
    kept: list[Any] = []
    for entry in spec:
        names = tuple(n for n in (entry if isinstance(entry, tuple) else (entry,)) if n is not None and n not in seen)
        seen.update(names)
        kept.append(names or None)
    return tuple(kept)


def _devices(arrays: Sequence[Any]) -> Any:
    """The mesh with devices that arrays are on; the one that is set where they are on none."""
    for x in arrays:
        if isinstance(x, jax.Array) and is_concrete(x) and mesh_of(jax.typeof(x)) is not None:
            return x.sharding.mesh
    return None
