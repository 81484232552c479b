"""What of a linearized function is the same for all arrays of the same kinds: the static part of an operator."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax

from .._analysis import Line, Relation, rows_of, structure
from .._arrays import abstract, as_array, is_concrete
from .._cache import remembered
from .._call import Options, Traced
from .._call._surroundings import surroundings
from .._compiler import compiler_options
from .._errors import ModeError
from .._planning._patterns import example_pattern
from .._trace import (
    Ends,
    LinearProgram,
    Side,
    active_variables,
    identity,
    is_variable,
    obstructions,
    our_settings,
    program_key,
    pullback,
    values_key,
    walk,
)
from ._vectors import Vectors

# Nonzeros of all variables together that are followed for a tag, and elements of both sides.
_EFFORT = 12_000_000


@dataclass(frozen=True)
class Held:
    """The arrays of a linearized function.

    Attributes:
        operands: what f closes over, and all its arguments that are not differentiated.
        xs, ys: what it is differentiated by, and what it returns.
        residuals: what the linear program reads of the primal one, but for those arrays.
    """

    operands: tuple[Any, ...]
    xs: tuple[Any, ...]
    ys: tuple[Any, ...]
    residuals: tuple[Any, ...]


jax.tree_util.register_dataclass(Held, ["operands", "xs", "ys", "residuals"], [])


@dataclass(frozen=True, eq=False)
class Linearization:
    """A linearized function without its arrays. Two are equal that compute the same from the same kinds of arrays.

    Attributes:
        traced: the call, its arrays abstract.
        options: what was asked for.
        has_aux: whether the user's function returns aux.
        hessian: whether f is a gradient.
        key: what two that are equal share.
    """

    traced: Traced
    options: Options
    has_aux: bool
    hessian: bool
    key: Hashable
    _jitted: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, traced: Traced, options: Options, code: Hashable, *, has_aux: bool, hessian: bool) -> Linearization:
        """That of a call; the same object for calls that share a key, as long as it is kept.

        Args:
            traced: the call.
            options: what was asked for.
            code: of f, so that errors name its own lines.
            has_aux: whether the user's function returns aux.
            hessian: whether f is a gradient.
        """
        bare = _without_arrays(traced)
        arguments, layout = bare.arguments, bare.layout
        inert = tuple(None if x is None else (x.shape, x.dtype) for x in arguments.inert)
        sides = (bare.ends.inputs, bare.ends.outputs)
        key = (
            program_key(bare.program.primal),
            program_key(bare.program.linear),
            (bare.program.n_in, bare.program.n_out),
            (arguments.tree, arguments.places, arguments.slots, arguments.positions, inert),
            (layout.bare, layout.out_tree, tuple(bare.inert_axes.items())),
            tuple(side.batch_axes for side in sides),
            (options.request, code, has_aux, hessian),
        )
        return remembered((key, "linearized"), lambda: cls(bare, options, has_aux, hessian, key))

    @cached_property
    def _hash(self) -> int:
        return hash(self.key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Linearization):
            return NotImplemented
        return self is other or (self._hash == other._hash and self.key == other.key)

    @property
    def program(self) -> LinearProgram:
        return self.traced.program

    @cached_property
    def like_x(self) -> Vectors:
        return Vectors.like_x(self.traced)

    @cached_property
    def like_y(self) -> Vectors:
        return Vectors.like_y(self.traced)

    # What is evaluated, and what is read ----------------------------------------------------------------------

    @cached_property
    def _residuals(self) -> tuple[Any, ...]:
        """What the primal program returns for the linear one."""
        return self.program.primal.outputs[len(self.program.function.outputs) :]

    @cached_property
    def _computed(self) -> list[int]:
        """The residuals that are not handed in, nor y, each once."""
        program = self.program
        seen: set[Any] = {*program.primal.inputs, *filter(is_variable, program.primal.outputs[: program.n_out])}
        found = []
        for k, atom in enumerate(self._residuals):
            if not is_variable(atom) or atom not in seen:
                found.append(k)
            if is_variable(atom):
                seen.add(atom)
        return found

    def evaluate(self, operands: Sequence[Any], xs: Sequence[Any]) -> tuple[Held, list[Any]]:
        """f, once; and aux."""
        ys, aux, residuals = self._run("evaluate", self._evaluate, operands, xs)
        return Held(tuple(operands), tuple(xs), tuple(ys), tuple(residuals)), aux

    def _evaluate(self, operands: Sequence[Any], xs: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        ys, aux, residuals = self.program.evaluate(operands, xs)
        return ys, aux, [residuals[k] for k in self._computed]

    def _read(self, held: Held) -> list[Any]:
        """The residuals, in the order in which the linear program reads them."""
        program = self.program
        known = dict(zip(program.primal.inputs, (*held.operands, *held.xs), strict=True))
        outs = zip(program.primal.outputs[: program.n_out], held.ys, strict=True)
        known |= {atom: y for atom, y in outs if is_variable(atom) and atom not in known}
        for k, x in zip(self._computed, held.residuals, strict=True):
            known[self._residuals[k] if is_variable(self._residuals[k]) else k] = x
        return [known[atom if is_variable(atom) else k] for k, atom in enumerate(self._residuals)]

    # Products -------------------------------------------------------------------------------------------------

    def product(self, held: Held, seeds: Sequence[Any], *, forward: bool, many: bool) -> list[Any]:
        """J times tangents of x, or cotangents of y times J; many of them along a leading axis.

        Raises:
            ModeError: the linear program cannot be run in this direction.
        """
        self._allow(forward)
        run = self._push if forward else self._pull
        run = jax.vmap(run, in_axes=(None, 0)) if many else run
        try:
            return self._run((forward, many), run, self._read(held), list(seeds))
        except Exception as error:
            reason = self._forbidden(forward)
            if reason is None:
                raise
            raise self._mode_error(forward, reason) from error

    def _push(self, residuals: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
        return self.program.push(residuals, tangents)

    def _pull(self, residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        pull = pullback(lambda *tangents: self.program.push(residuals, tangents), self.program.in_avals)
        return pull(*cotangents)

    def _allow(self, forward: bool) -> None:
        """Raise where forward mode is impossible, which JAX would tell only once it compiles."""
        reason = self._forbidden(forward) if forward and self._has_backward_rules else None
        if reason is not None:
            raise self._mode_error(forward, reason)

    @cached_property
    def _has_backward_rules(self) -> bool:
        return any(e.primitive.name == "custom_lin" for e in walk(self.program.linear.equations))

    def _forbidden(self, forward: bool) -> str | None:
        """The equations that forbid a direction, in the user's words; None where none does alone."""
        linear, mode = self.program.linear, "fwd" if forward else "rev"
        if mode not in self._jitted:
            with our_settings():
                found = obstructions(linear, active_variables(linear, self.program.tangents), mode)
            self._jitted[mode] = "; ".join(dict.fromkeys(str(o) for _, o in found)) or None
        return self._jitted[mode]

    def _mode_error(self, forward: bool, reason: str) -> ModeError:
        product, mode = ("J v (mv, mm)", "forward") if forward else ("u J (rmv, rmm)", "reverse")
        other = "u J (rmv, rmm)" if forward else "J v (mv, mm)"
        instead = "" if self._forbidden(not forward) else f" {other} works here."
        return ModeError(f"{product} needs {mode} mode, which is impossible here: {reason}.{instead}")

    def _run(self, name: Hashable, run: Callable[..., Any], *arrays: Sequence[Any]) -> Any:
        """A function of arrays: compiled where their values are known, a part of the trace where they are not."""
        every = [x for each in arrays for x in each]
        with our_settings():
            if not all(map(is_concrete, every)) and surroundings(every).traced:
                return run(*arrays)
            platform = self._platform(every)
            if (name, platform) not in self._jitted:
                self._jitted[name, platform] = jax.jit(run, compiler_options=compiler_options(platform))
            return self._jitted[name, platform](*map(list, arrays))

    def _platform(self, arrays: Sequence[Any]) -> str:
        found = next((x for x in arrays if isinstance(x, jax.Array) and is_concrete(x)), None)
        return self.traced.device.platform if found is None else next(iter(found.devices())).platform

    # J itself -------------------------------------------------------------------------------------------------

    def called(self, held: Held, *, batched: bool = True) -> Traced:
        """The call with its arrays; without its batch axes where J of the whole batch is wanted."""
        program = replace(self.program, operands=held.operands)
        ends = self.traced.ends if batched else _unbatched(self.traced.ends)
        return replace(self.traced, program=program, xs=held.xs, ends=ends)

    @property
    def is_symmetric(self) -> bool:
        """Whether J is known to be, where y is like x: the Hessian of a function with one real output."""
        ends = self.traced.ends
        same_order = ends.inputs.batch_axes == ends.outputs.batch_axes
        return self.options.request.symmetric and same_order and not self.like_x.is_complex

    def pattern_offsets(self, held: Held) -> tuple[int, int] | None:
        """The lowest and the highest column less row of what of J can be nonzero; None where no zeros are known."""
        traced = self.called(held, batched=False)
        key = identity(traced.program), values_key(traced.program.numbers), "offsets"
        with our_settings():
            return remembered(key, lambda: _offsets(traced))


def _without_arrays(traced: Traced) -> Traced:
    """A call with abstract arrays in place of all that it was called with."""
    program, arguments = traced.program, traced.arguments
    arguments = replace(
        arguments,
        leaves=tuple(map(abstract, arguments.leaves)),
        inert=tuple(None if x is None else _shape(x) for x in arguments.inert),
        args=(),
    )
    avals = program.function.in_avals[: len(program.operands)]
    program, layout = replace(program, operands=avals), replace(traced.layout, arguments=arguments)
    return replace(traced, arguments=arguments, layout=layout, program=program, xs=program.in_avals, aux=_no_aux)


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    array = as_array(leaf)
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _no_aux(arrays: Sequence[Any]) -> None:
    return None


def _unbatched(ends: Ends) -> Ends:
    """Both sides of J without batch axes: all of a block-diagonal J, zeros included."""
    inputs, outputs = (Side(side.avals, (None,) * len(side.avals)) for side in (ends.inputs, ends.outputs))
    return Ends(inputs, outputs)


def _offsets(traced: Traced) -> tuple[int, int] | None:
    ties, ends = structure(traced.program), traced.ends
    if _is_diagonal(ties.relations, ends):
        return 0, 0
    if ends.inputs.size + ends.outputs.size > _EFFORT:
        return None
    matrix, _, _ = example_pattern(ties, ends, _EFFORT)
    if matrix is None:
        return None
    offsets = matrix.indices - rows_of(matrix)
    return (int(offsets.min()), int(offsets.max())) if matrix.nnz else (0, 0)


def _is_diagonal(relations: Sequence[dict[int, Relation]], ends: Ends) -> bool:
    """Whether ties alone prove that each array of y depends on that of x in its place, element on element."""
    if ends.inputs.shapes != ends.outputs.shapes:
        return False
    return all(
        row.keys() <= {k} and all(Line(axis, axis, 1, 0) in relation for axis, n in enumerate(shape) if n > 1)
        for k, (row, shape) in enumerate(zip(relations, ends.outputs.shapes, strict=True))
        for relation in row.values()
    )
