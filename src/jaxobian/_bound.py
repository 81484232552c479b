"""Jacobians of methods: a function of the class, bound to one of its objects, as Python binds functions."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

from ._analysis import Pattern
from ._planning import Choice
from ._report import Plan, Run, Source
from ._tracebacks import entry


class BoundFunction:
    """A `JacobianFunction` that is an attribute of a class, bound to an object, which is its first argument."""

    def __init__(self, function: Any, bound_to: Any):
        functools.update_wrapper(self, function, updated=())
        self.__wrapped__ = functools.partial(function, bound_to)  # what its signature is
        self._function, self._bound_to = function, bound_to

    def __repr__(self) -> str:
        return f"<bound {self._function!r} of {self._bound_to!r}>"

    def __reduce__(self) -> Any:
        return BoundFunction, (self._function, self._bound_to)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BoundFunction):
            return NotImplemented
        return self._function is other._function and self._bound_to is other._bound_to

    def __hash__(self) -> int:
        return hash((id(self._function), id(self._bound_to)))

    @entry
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """J at the arguments; with `has_aux`, `(J, aux)`."""
        return self._function(self._bound_to, *args, **kwargs)

    @entry
    def with_value(self, /, *args: Any, **kwargs: Any) -> Any:
        """f's value and J: `(y, J)`; with `has_aux`, `((y, aux), J)`."""
        return self._function.with_value(self._bound_to, *args, **kwargs)

    @entry
    def at(self, /, *args: Any, **kwargs: Any) -> Any:
        """J at the arguments as an operator. See `JacobianFunction.at`."""
        return self._function.at(self._bound_to, *args, **kwargs)

    @entry
    def sparsity(self, /, *args: Any, **kwargs: Any) -> Pattern:
        """Which elements of J can be nonzero. See `JacobianFunction.sparsity`."""
        return self._function.sparsity(self._bound_to, *args, **kwargs)

    @property
    def diagonal(self) -> BoundFunction:
        """Bound, too. See `JacobianFunction.diagonal`."""
        return BoundFunction(self._function.diagonal, self._bound_to)

    @property
    def trace(self) -> BoundFunction:
        """Bound, too. See `JacobianFunction.trace`."""
        return BoundFunction(self._function.trace, self._bound_to)

    @property
    def squared_norms(self) -> BoundFunction:
        """Bound, too. See `JacobianFunction.squared_norms`."""
        return BoundFunction(self._function.squared_norms, self._bound_to)

    @property
    def gram(self) -> BoundFunction:
        """Bound, too. See `JacobianFunction.gram`."""
        return BoundFunction(self._function.gram, self._bound_to)

    @property
    def slogdet(self) -> BoundFunction:
        """Bound, too. See `JacobianFunction.slogdet`."""
        return BoundFunction(self._function.slogdet, self._bound_to)

    @entry
    def plan(self, /, *args: Any, **kwargs: Any) -> Plan:
        """What a call with these arguments would run, and why; nothing runs. See `JacobianFunction.plan`."""
        plan = self._function.plan(self._bound_to, *args, **kwargs)
        return replace(plan, _run=_BoundRun(plan._run, self._bound_to), _source=Source(self, args, kwargs))


@dataclass(frozen=True)
class _BoundRun:
    """Runs a plan with an object as first argument."""

    run: Run
    bound_to: Any

    def of(self, choice: Choice) -> _BoundRun:
        """The same for another choice."""
        return replace(self, run=self.run.of(choice))

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.run(self.bound_to, *args, **kwargs)
