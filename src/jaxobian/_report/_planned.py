"""Running a plan again: on values of the shapes that it was made for, and on nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from .._arrays import abstract, as_array, describe, is_arraylike, is_complex, is_concrete, is_python_number
from .._call import Options, Traced
from .._call._arguments import Arguments, Rest, take_apart
from .._errors import PlanMismatchError
from .._execute import Executable, compiled
from .._planning import Choice
from .._trace import cast_varying
from .._words import first_few


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """Runs a plan on other values of the same shapes, and refuses all else.

    Attributes:
        traced: the call that was planned.
        choice: of what runs.
        options: what was asked for.
        kwargs: of the call.
        result: makes what a call returns of J and aux.
        check: what is to be checked before the first run.
        weights: of a Gram matrix.
    """

    traced: Traced
    choice: Choice
    options: Options
    kwargs: dict[str, Any]
    result: Callable[[Any, Any], Any]
    check: Callable[[tuple[Any, ...], dict[str, Any]], None]
    weights: Any = None
    _jitted: dict[bool, Executable] = field(default_factory=dict)

    def of(self, choice: Choice) -> PlannedRun:
        """The same call by another choice."""
        return replace(self, choice=choice, _jitted={})

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        weights = self._weights(kwargs)
        _compare(self.traced.arguments, self.kwargs, args, kwargs)
        arguments = take_apart(
            args, self.options.argnums, holomorphic=self.options.request.holomorphic, allow_int=self.options.allow_int
        )
        open_arrays, _ = Rest.of(arguments, kwargs).opened()
        program, xs = self.traced.program, arguments.leaves
        xs = cast_varying(xs, program.out_avals) or xs
        open_arrays = (*open_arrays, *weights)
        constants = program.operands[: len(program.operands) - len(open_arrays)]
        mapped = not all(map(is_concrete, (*constants, *open_arrays, *xs)))  # where no loop can run on the host
        if not mapped:
            self.check(args, kwargs)
        if mapped not in self._jitted:
            execution, output, platform = (
                self.choice.execution,
                self.options.request.output,
                self.traced.device.platform,
            )
            self._jitted[mapped] = compiled(execution, output, False, platform, mapped=mapped)
        quantity = self.options.request.quantity
        sides = ("out", "in") if quantity is None else quantity.sides
        results = self.traced.placement.run(self._jitted[mapped], (*constants, *open_arrays), xs, sides)
        traced = replace(self.traced, arguments=arguments, layout=replace(self.traced.layout, arguments=arguments))
        _, aux, J = traced.deliver(*results, self.options)
        return self.result(J, aux)

    def _weights(self, kwargs: dict[str, Any]) -> list[Any]:
        """The arrays that a Gram matrix is weighted with: those of the call, or of the plan; others are refused."""
        if self.weights is None:
            return []
        weights = kwargs.pop("weights", self.weights)
        shapes = [jax.tree.map(lambda leaf: as_array(leaf).shape, tree) for tree in (self.weights, weights)]
        if shapes[0] != shapes[1]:
            raise PlanMismatchError(f"weights were planned as {shapes[0]} and came as {shapes[1]}.")
        check_given(weights)
        arrays = [as_array(leaf) for leaf in jax.tree.leaves(weights)]
        for array in filter(is_complex, arrays):
            raise PlanMismatchError(f"weights must be real; {describe(array)} came.")
        return arrays


def check_given(weights: Any) -> None:
    """Raise where a plan was made from the shapes of weights, as one that was pickled is, and none came."""
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(weights)):
        raise PlanMismatchError("the plan was made for shapes of weights: pass weights=... to the call.")


def _compare(planned: Arguments, kwargs: dict[str, Any], new_args: tuple[Any, ...], new_kwargs: dict[str, Any]) -> None:
    """Raise where a call differs from what a plan was made for.

    Raises:
        PlanMismatchError: naming the argument, what was planned and what came.
    """
    old, tree = jax.tree_util.tree_flatten_with_path((planned.args, kwargs))
    new, new_tree = jax.tree_util.tree_flatten_with_path((new_args, new_kwargs))
    advice = "Make a plan for these arguments: jacobian(f).plan(...)."
    if tree != new_tree:
        before, now = ([_name(path) for path, _ in leaves] for leaves in (old, new))
        missing, more = [n for n in before if n not in now], [n for n in now if n not in before]
        told = [f"{first_few(missing)} did not come"] * bool(missing)
        told += [f"{first_few(more)} came, not planned"] * bool(more)
        differ = " and ".join(told) or f"structures differ: {tree} was planned, {new_tree} came"
        raise PlanMismatchError(f"the plan was made for other arguments: {differ}. {advice}")
    for (path, before), (_, now) in zip(old, new, strict=True):
        name = _name(path)
        if isinstance(now, jax.ShapeDtypeStruct):
            raise PlanMismatchError(
                f"{name} came as a shape, {describe(now)}: a plan is made from it, but runs on arrays."
            )
        differentiated = path[0].idx == 0 and path[1].idx in planned.positions
        shown, shown_now = (_signature(leaf, differentiated) for leaf in (before, now))
        if shown != shown_now:
            raise PlanMismatchError(f"{name} was planned as {shown} and came as {shown_now}. {advice}")


def _name(path: Sequence[Any]) -> str:
    """What we call a leaf of a call: args[1]['w'], kwargs['s']."""
    return ("args" if path[0].idx == 0 else "kwargs") + jax.tree_util.keystr(tuple(path[1:]))


def _signature(leaf: Any, differentiated: bool) -> str:
    """What of an argument a plan depends on: of an array shape and dtype, of all else the value."""
    if is_arraylike(leaf) and (differentiated or not is_python_number(leaf)):
        return describe(abstract(as_array(leaf)))
    return f"the Python {type(leaf).__name__} {leaf!r}"
