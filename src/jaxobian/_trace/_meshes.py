"""Types on meshes with Explicit axes, where an array's sharding is a part of its type; and programs without them.

f is traced, and differentiated, on the types that it is called with. All of ours runs on Auto axes, where shardings are
the compiler's affair and a type is a shape and a dtype: there, seeds and J are as they are without a mesh.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import jax
import jax.extend.core as jex
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from .._arrays import is_concrete
from ._program import Program, is_variable, program_of, walk
from ._trace import LinearProgram

NO_MESH = AbstractMesh((), ())
# Their rules are functions of the user's, which may say how what they make is sharded: they stay as they are.
_WHOLE = ("custom_", "shard_map", "pallas_call")
# Parameters by which an equation says how its result is sharded; None leaves it open.
_RESULT = ("sharding", "out_sharding")


def mesh_of(aval: Any) -> Any:
    """The mesh in the type of an array, where it has Explicit axes; else None."""
    mesh = getattr(getattr(aval, "sharding", None), "mesh", None)
    return mesh if _is_explicit(mesh) else None


def mesh_around() -> Any:
    """The mesh that is set around us, where it has Explicit axes; else None."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if _is_explicit(mesh) else None


@contextmanager
def our_settings() -> Iterator[None]:
    """What holds for all that we trace and run, whatever users set for their own functions.

    No mesh with Explicit axes is around it, and the ranks of arrays may differ.
    """
    with _without_explicit_axes(), jax.numpy_rank_promotion("allow"):
        yield


def _without_explicit_axes() -> AbstractContextManager[Any]:
    """The mesh that is set around us put aside where it has Explicit axes; its Manual ones, under shard_map, remain."""
    mesh = mesh_around()
    if mesh is None:
        return nullcontext()
    try:
        jax.sharding.get_mesh()
    except ValueError:  # in a trace, where a mesh with devices cannot be put aside, nor does it matter
        return jax.sharding.use_abstract_mesh(_relaxed_mesh(mesh))
    return jax.set_mesh(None)


def relaxed(x: Any) -> Any:
    """An array where it is, on Auto axes in place of Explicit ones; anything else as it is."""
    mesh = mesh_of(jax.typeof(x)) if isinstance(x, jax.Array) else None
    if mesh is None:
        return x
    if is_concrete(x):
        return jax.device_put(x, _auto_sharding(x.sharding))  # copies nothing
    return _resharded(x, _unknown(_auto(mesh), x))


def sharding_without(aval: Any, axis: int) -> Any:
    """The sharding in the type of an array, for the array without one of its axes; None where the type has none."""
    if mesh_of(aval) is None:
        return None
    entries = _entries(aval)
    del entries[axis]
    return NamedSharding(aval.sharding.mesh, PartitionSpec(*entries))


def resized(aval: Any, axis: int, size: int) -> Any:
    """The type of an array with another size along an axis, which is then not divided among devices."""
    shape = tuple(size if k == axis else n for k, n in enumerate(aval.shape))
    if mesh_of(aval) is None:
        return aval.update(shape=shape)
    entries = _entries(aval)
    entries[axis] = None
    return aval.update(shape=shape, sharding=NamedSharding(aval.sharding.mesh, PartitionSpec(*entries)))


def _entries(aval: Any) -> list[Any]:
    """How each axis of an array is divided, by its type."""
    return [*aval.sharding.spec, *[None] * len(aval.shape)][: len(aval.shape)]


def relaxed_program(program: LinearProgram) -> LinearProgram:
    """A linear program on Auto axes in place of Explicit ones; the operands stay as they are."""
    every = (program.function, program.primal, program.linear)
    if mesh_around() is None and not any(map(_has_explicit_axes, every)):
        return program
    function, primal, linear = map(_Relaxation().program, every)
    return replace(program, function=function, primal=primal, linear=linear)


def _has_explicit_axes(program: Program) -> bool:
    made = (v for e in walk(program.equations) for v in e.outvars)
    return any(mesh_of(v.aval) is not None for v in (*program.inputs, *made))


def _is_explicit(mesh: Any) -> bool:
    return AxisType.Explicit in getattr(mesh, "axis_types", ())


def _auto(mesh: Any) -> Any:
    """A mesh, with devices or without, with Auto axes in place of its Explicit ones."""
    types = tuple(AxisType.Auto if t == AxisType.Explicit else t for t in mesh.axis_types)
    if isinstance(mesh, AbstractMesh):
        return mesh.update_axis_types(dict(zip(mesh.axis_names, types, strict=True)))
    return Mesh(mesh.devices, mesh.axis_names, axis_types=types)


def _auto_sharding(sharding: Any) -> Any:
    return NamedSharding(_auto(sharding.mesh), sharding.spec, memory_kind=sharding.memory_kind)


def _relaxed_mesh(mesh: Any) -> Any:
    """What is set around us in place of a mesh with Explicit axes: its Manual axes, under shard_map, or no mesh."""
    return _auto(mesh) if AxisType.Manual in mesh.axis_types else NO_MESH


def _unknown(mesh: Any, aval: Any) -> Any:
    """The sharding in the type of an array on Auto axes, which says nothing."""
    return NamedSharding(mesh, PartitionSpec(*[None] * len(aval.shape)))


def _relaxed_aval(aval: Any) -> Any:
    mesh = mesh_of(aval)
    return aval if mesh is None else aval.update(sharding=_unknown(_relaxed_mesh(mesh), aval))


def _resharded(x: Any, sharding: Any) -> Any:
    with jax.sharding.use_abstract_mesh(sharding.mesh.abstract_mesh):
        return jax.sharding.reshard(x, sharding)


class _Relaxation:
    """Programs written anew, with variables of their own, without shardings in types and parameters."""

    def __init__(self) -> None:
        self._names: dict[Any, Any] = {}
        self._contexts: dict[Any, Any] = {}

    def program(self, program: Program) -> Program:
        inputs = tuple(map(self._made, program.inputs))
        equations = self._equations(program.equations)
        return Program(inputs, tuple(map(self._read, program.outputs)), tuple(equations))

    def _jaxpr(self, jaxpr: Any) -> Any:
        inner = Program((*jaxpr.constvars, *jaxpr.invars), tuple(jaxpr.outvars), tuple(jaxpr.eqns))
        made = self.program(inner)
        n = len(jaxpr.constvars)
        made = jaxpr.replace(
            constvars=list(made.inputs[:n]), invars=list(made.inputs[n:]), outvars=list(made.outputs),
            eqns=list(made.equations),
        )  # fmt: skip
        consts = getattr(jaxpr, "consts", ())
        return made.replace(consts=list(map(relaxed, consts))) if consts else made

    def _made(self, variable: Any) -> Any:
        """A variable that an equation makes, or an input."""
        if isinstance(variable, jex.DropVar):
            return variable
        return self._names.setdefault(variable, jex.Var(_relaxed_aval(variable.aval)))

    def _read(self, atom: Any) -> Any:
        if is_variable(atom):
            return self._names.get(atom, atom)
        return jex.Literal(relaxed(atom.val), _relaxed_aval(atom.aval))

    def _equations(self, equations: Sequence[Any]) -> list[Any]:
        made: list[Any] = []
        for equation in equations:
            if equation.primitive.name == "reshard":
                self._names[equation.outvars[0]] = self._read(equation.invars[0])
            elif _is_whole(equation):
                made += self._between(equation)
            else:
                invars, outvars = list(map(self._read, equation.invars)), list(map(self._made, equation.outvars))
                params = {k: self._param(k, v, equation) for k, v in equation.params.items()}
                context = self._context(equation.ctx)
                made.append(equation.replace(invars=invars, outvars=outvars, params=params, ctx=context))
        return made

    def _between(self, equation: Any) -> list[Any]:
        """An equation as it stands, its operands given their types before it and its results relaxed behind it."""
        before, after, invars, outvars = [], [], [], []
        for atom in equation.invars:
            explicit = is_variable(atom) and mesh_of(atom.aval) is not None
            cast = _cast(self._read(atom), jex.Var(atom.aval), atom.aval.sharding) if explicit else None
            before += [cast] if cast else []
            invars.append(cast.outvars[0] if cast else self._read(atom) if is_variable(atom) else atom)
        for variable in equation.outvars:
            mesh = mesh_of(variable.aval)
            typed = variable if isinstance(variable, jex.DropVar) else jex.Var(variable.aval)
            outvars.append(typed if mesh is not None else self._made(variable))
            if mesh is not None and typed is not variable:
                after.append(_cast(typed, self._made(variable), _unknown(_auto(mesh), variable.aval)))
        return [*before, equation.replace(invars=invars, outvars=outvars), *after]

    def _param(self, name: str, value: Any, equation: Any) -> Any:
        if isinstance(value, jex.ClosedJaxpr) and value.jaxpr is not value:  # JAX before 0.12 has two classes
            return value.replace(jaxpr=self._jaxpr(value.jaxpr), consts=list(map(relaxed, value.consts)))
        if isinstance(value, jex.ClosedJaxpr | jex.Jaxpr):
            return self._jaxpr(value)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self._param(name, v, equation) for v in value))
        if isinstance(value, tuple | list):
            return type(value)(self._param(name, v, equation) for v in value)
        if isinstance(value, NamedSharding) and _is_explicit(value.mesh):
            constraint = equation.primitive.name in ("sharding_constraint", "device_put")
            return None if name in _RESULT and not constraint else _auto_sharding(value)
        return _relaxed_mesh(value) if isinstance(value, AbstractMesh) and _is_explicit(value) else value

    def _context(self, context: Any) -> Any:
        if context not in self._contexts:
            self._contexts[context] = _relaxed_context(context)
        return self._contexts[context]


def _is_whole(equation: Any) -> bool:
    return equation.primitive.name.startswith(_WHOLE) or any(map(callable, equation.params.values()))


def _cast(source: Any, target: Any, sharding: Any) -> Any:
    """The equation that gives an array another sharding."""
    with jax.sharding.use_abstract_mesh(NO_MESH):
        program, _, _ = program_of(lambda x: _resharded(x, sharding), source.aval)
    return program.equations[0].replace(invars=[source], outvars=[target])


def _relaxed_context(context: Any) -> Any:
    """What was set around an equation, without Explicit axes."""
    with context.manager:
        mesh = mesh_around()
        if mesh is None:
            return context
        with jax.sharding.use_abstract_mesh(_relaxed_mesh(mesh)):
            program, _, _ = program_of(jax.lax.neg, 0.0)
    return program.equations[0].ctx
