"""The functions that return Jacobians: call -> trace -> plan -> execute -> deliver."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from ._arrays import as_array, in_words, is_concrete
from ._bound import BoundFunction
from ._cache import kept
from ._call import Options, Traced
from ._call._arguments import flax_advice, is_flax_module
from ._call._plain import plain
from ._call._quantities import settled
from ._call._surroundings import surroundings
from ._compiler import warn_of
from ._execute import traceable, values_alone
from ._outputs import Gram, Quantity, Trace
from ._quantities import Quantities
from ._report import Plan, Source, make_plan
from ._report._explain import describe_structure, title_of
from ._report._planned import PlannedRun
from ._shared import Examples, MappedRun, first_of
from ._trace import walk
from ._tracebacks import entry, innermost, stands_for
from ._words import counted


class JacobianFunction(Quantities):
    """A function that returns the Jacobian of f. Made by `jacobian`; keeps f's name and documentation.

    As an attribute of a class it is a method, as what `jax.jacfwd` returns is.
    """

    def __init__(self, f: Callable[..., Any], options: Options):
        check_callable(f)
        functools.update_wrapper(self, f, updated=())  # f may have attributes of the same names as ours
        self._f = f
        self._options = options
        self._made_from = f, options
        self._weights: Any = None

    def __repr__(self) -> str:
        return f"jaxobian.{self._verb}({_name(self._made_from[0])})"

    def __reduce__(self) -> Any:
        return type(self), self._made_from

    def __get__(self, bound_to: Any, owner: Any = None) -> Any:
        return self if bound_to is None else BoundFunction(self, bound_to)

    @property
    def _verb(self) -> str:
        """The public function that made this."""
        return "jacobian" if self._options.batch is None else "batch_jacobian"

    def asking(self, quantity: Quantity, weights: Any = None) -> JacobianFunction:
        """The same function, of something of J."""
        made = copy.copy(self)
        made._options, made._weights = self._options.asking(quantity=quantity), weights
        return made

    @property
    def _of_gradient(self) -> bool:
        """Whether what is differentiated is itself a gradient."""
        return False

    @property
    def _what(self) -> str:
        """What is returned, in words."""
        quantity = self._options.request.quantity
        return self._verb if quantity is None else f"{quantity.name} of {self._verb}"

    @entry
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """J at the arguments; with `has_aux`, `(J, aux)`."""
        _, aux, J = self._compute(args, kwargs, value=False)
        return self._result(J, aux)

    def _result(self, J: Any, aux: Any) -> Any:
        return (J, aux) if self._options.has_aux else J

    @entry
    def with_value(self, /, *args: Any, **kwargs: Any) -> Any:
        """f's value and J: `(y, J)`; with `has_aux`, `((y, aux), J)`."""
        y, aux, J = self._compute(args, kwargs, value=True)
        return ((y, aux), J) if self._options.has_aux else (y, J)

    @entry
    def plan(self, /, *args: Any, **kwargs: Any) -> Plan:
        """What a call with these arguments would run, and why; nothing runs.

        Args:
            *args: as for f: arrays, or `jax.ShapeDtypeStruct` in their place.
            **kwargs: as for f.

        Returns:
            A `Plan`: print it, read its numbers, or call it on values of the same shapes.
        """
        traced = Traced.of(self._f, self._options, args, kwargs, as_plan=True, weights=self._weight_leaves())
        if not traced.xs:
            raise ValueError("there is nothing to plan: no differentiated argument has a leaf with a derivative.")
        options = self._settled(traced)
        choice = traced.choose(options, traced.device, traced.values, explain=True)
        run = PlannedRun(traced, choice, options, kwargs, self._result, self._weights)
        f = self._made_from[0]
        title = title_of(_name(f), _where(f), traced.program.in_avals, self._out_avals(traced), self._what)
        structure = describe_structure(choice.problem, choice.candidates, asserted=self._options.request.independent)
        return make_plan(title, structure, choice, run, Source(self, args, kwargs))

    def _compute(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, value: bool, mapped: bool = False
    ) -> tuple[Any, Any, Any]:
        """y where asked for, aux, J."""
        if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
            return plain(self._f, self._options, args, kwargs, self._weights, hessian=self._of_gradient)
        traced = Traced.of(self._f, self._options, args, kwargs, weights=self._weight_leaves())
        warn_of(traced.device)
        options = self._settled(traced)
        operands, xs = traced.program.operands, traced.xs
        around = surroundings((*operands, *xs))
        options = options.asking(copies=max(options.request.copies, around.copies))
        if not xs:  # nothing to differentiate: empty trees, or integers alone
            run = values_alone(traced.program, traced.ends, options.request.output)
        elif around.traced and not mapped:
            choice = traced.choose(options, traced.device)
            run = traceable(choice.execution, options.request.output, value)
        else:
            # Under vmap or grad of values, too, what is compiled is kept; but no loop can run on the host.
            mapped = mapped or not all(map(is_concrete, (*operands, *xs)))
            run = kept(traced, options, value, mapped=mapped)
        quantity = options.request.quantity
        sides = ("out", "in") if quantity is None else quantity.sides
        return traced.deliver(*traced.placement.run(run, operands, xs, sides), options)

    def _weight_leaves(self) -> list[Any]:
        return [as_array(leaf) for leaf in jax.tree.leaves(self._weights)]

    def _settled(self, traced: Traced) -> Options:
        """The options, once a call has been traced."""
        quantity = self._options.request.quantity
        if quantity is None:
            return self._options
        return self._options.asking(
            quantity=settled(
                quantity, traced.layout, traced.ends, traced.names, self._weights, hessian=self._of_gradient
            )
        )

    def _out_avals(self, traced: Traced) -> Sequence[Any]:
        """What f returns."""
        return traced.program.out_avals


class SharedFunction(JacobianFunction):
    """Jacobians of every example by what all examples share. Made by `batch_jacobian` where an `in_axes` is None."""

    def __init__(self, f: Callable[..., Any], options: Options):
        super().__init__(f, options)
        if options.request.format != "dense":
            raise ValueError(
                f'format="{options.request.format}" is not supported with in_axes=None for a differentiated argument; '
                'use "dense".'
            )
        self._examples = Examples(f, options)

    @entry
    def plan(self, /, *args: Any, **kwargs: Any) -> Plan:
        """What a call with these arguments would run for each example, and why; see `JacobianFunction.plan`."""
        self._examples.check(args, kwargs)
        axes = self._weight_axes
        plan = self._one(args, first_of(self._weights, axes)).plan(*self._examples.sliced(args), **kwargs)
        number = self._examples.size(args)
        where = f" ({place})" if (place := _where(self._f)) else ""
        ends = plan.title.partition(": ")[2]
        title = f"{self._what} of {_name(self._f)}{where}: {ends}, for each of {counted(number, 'example')}"
        structure = describe_structure(plan.choice.problem, plan.choice.candidates, examples=number)
        run = MappedRun(self._examples, plan._run, number, self._weights, axes)
        checked = SharedFunction(self._f, self._options.asking(independent=True))
        return make_plan(title, structure, plan.choice, run, Source(checked, args, kwargs), number)

    def _compute(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, value: bool, mapped: bool = False
    ) -> tuple[Any, Any, Any]:
        self._examples.check(args, kwargs)
        every = args

        def one(weights: Any, *args: Any) -> tuple[Any, Any]:
            y, _, J = self._one(every, weights)._compute(args, kwargs, value=value, mapped=True)
            return y, J

        out_axes = self._examples.out_axes if value else 0, 0
        y, J = self._examples.mapped(one, out_axes, self._weight_axes)(self._weights, *args)
        return y, self._examples.aux(args, kwargs), J

    def _one(self, args: Sequence[Any], weights: Any = None) -> JacobianFunction:
        """The Jacobian of one example of these, or what is asked of it."""
        one = stands_for(self._f)(lambda *args, **kwargs: self._examples.one(*args, **kwargs))
        made = JacobianFunction(one, self._examples.alone(args))
        made._weights = weights
        return made

    def asking(self, quantity: Quantity, weights: Any = None) -> JacobianFunction:
        made = super().asking(quantity, weights)
        assert isinstance(made, SharedFunction)
        made._examples = replace(self._examples, options=made._options)
        return made

    @property
    def _weight_axes(self) -> Any:
        """Where the weights of a Gram matrix have their examples: where the side has that is summed over."""
        quantity = self._options.request.quantity
        if self._weights is None or not isinstance(quantity, Gram):
            return None
        return self._examples.of_differentiated if quantity.side == "out" else self._examples.out_axes


class _Gradient(JacobianFunction):
    """The inner Jacobian of a Hessian; notes whether f has equations that may make the Hessian unsymmetric.

    Derivatives of the user's own making may, and indices out of range, which JAX clamps one way and drops the other.
    """

    has_rules = True
    returned: Sequence[Any] = ()  # by f, as abstract values

    def _settled(self, traced: Traced) -> Options:
        # A rule for vmap is none for derivatives; a Jacobian inside f asks one how many copies of it there are.
        names = {e.primitive.name for e in walk(traced.program.function.equations)} - {"custom_vmap_call"}
        self.has_rules = any(name.startswith(("custom_", "gather", "scatter")) for name in names)
        return self._options


class HessianFunction(JacobianFunction):
    """A function that returns the Hessian of f. Made by `hessian`."""

    @property
    def _verb(self) -> str:
        return "hessian"

    def __init__(self, f: Callable[..., Any], options: Options):
        inner = _Gradient(f, options.asking(mode="auto", prefer_reverse=True, format="dense", chunk_size=None))
        self._gradient = inner

        @stands_for(f)
        def gradient(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
            value, J = inner.with_value(*args, **kwargs)
            inner.returned = list(map(jax.typeof, jax.tree.leaves(value[0] if options.has_aux else value)))
            return jax.tree.map(_as_inexact, J), value

        super().__init__(gradient, replace(options, has_aux=True))
        functools.update_wrapper(self, f, updated=())
        self._made_from = f, options
        self._has_aux = options.has_aux

    @property
    def _of_gradient(self) -> bool:
        return True

    def _settled(self, traced: Traced) -> Options:
        return super()._settled(traced).asking(symmetric=not self._gradient.has_rules)

    def _out_avals(self, traced: Traced) -> Sequence[Any]:
        return self._gradient.returned

    @entry
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """H at the arguments; with `has_aux`, `(H, aux)`."""
        return super().__call__(*args, **kwargs)

    def _result(self, J: Any, aux: Any) -> Any:
        J = self._like_value(J, aux)
        return (J, aux[1]) if self._has_aux else J  # our aux is f's value, and with it f's own aux

    def _like_value(self, J: Any, value: Any) -> Any:
        """Traces, one for each output of f, in the tree of its output."""
        if not isinstance(self._options.request.quantity, Trace):
            return J
        tree = jax.tree.structure(value[0] if self._has_aux else value)
        return jax.tree.unflatten(tree, J if isinstance(J, list) else [J])

    @entry
    def with_value(self, /, *args: Any, **kwargs: Any) -> Any:
        """f's value and H: `(y, H)`; with `has_aux`, `((y, aux), H)`."""
        _, value, H = self._compute(args, kwargs, value=False)
        return value, self._like_value(H, value)


def _as_inexact(block: Any) -> Any:
    """A block by an integer leaf, which is zero, as one that can be differentiated again."""
    return block if jnp.issubdtype(block.dtype, jnp.inexact) else jnp.zeros(block.shape)


def check_callable(f: Any) -> None:
    if is_flax_module(f):
        raise TypeError(
            f"expected a pure function, got a model object of type {type(f).__name__}. Use\n"
            f"{flax_advice(f)}\n"
            "    jacobian(apply, argnums=1)(params, x)   # with respect to x; argnums=0: to the parameters"
        )
    if not callable(f):
        raise TypeError(f"expected a function, got {in_words(f)}.")


def _name(f: Any) -> str:
    while isinstance(f, functools.partial):
        f = f.func
    return getattr(f, "__name__", None) or type(f).__name__


def _where(f: Any) -> str:
    try:
        code = innermost(f).__code__
    except AttributeError:
        return ""
    if code.co_filename.startswith(os.path.dirname(__file__)):
        return ""  # a function that we made, such as a Flax model's apply
    return f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}"
