"""The functions that return Jacobians: call -> trace -> plan -> execute -> deliver."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax

from ._analysis import Pattern, structure
from ._arrays import as_array, in_words, is_complex
from ._bound import BoundFunction
from ._cache import computed
from ._call import Options, Traced
from ._call._arguments import flax_advice, is_flax_module
from ._call._declared import check_products, check_shape
from ._call._matrix import as_matrix
from ._call._plain import plain
from ._call._quantities import settled
from ._compiler import warn_of
from ._errors import SparsityError
from ._operator import LinearizedJacobian, as_scipy, linearized
from ._outputs import Gram, Quantity, Rows
from ._planning import pattern
from ._quantities import Quantities
from ._report import Plan, Source, make_plan
from ._report._explain import describe_structure, title_of, without_j
from ._report._planned import PlannedRun
from ._shared import Examples, MappedRun, first_of
from ._trace import our_settings
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
        self._has_aux = options.has_aux  # whether the user's function returns aux
        self._weights: Any = None
        self._unchecked = [True] * (options.request.sparsity is not None)  # until the first call

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

    @property
    def format(self) -> str:
        """How J is returned."""
        return self._options.request.format

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
        run = PlannedRun(traced, choice, options, kwargs, self._result, self._check_first, self._weights)
        f = self._made_from[0]
        title = title_of(_name(f), _where(f), traced.program.in_avals, self._out_avals(traced), self._what)
        structure = describe_structure(choice.problem, choice.candidates, asserted=self._options.request.independent)
        hint = "" if self._of_gradient else without_j(choice.problem)
        return make_plan(title, structure, choice, run, Source(self, args, kwargs), hint=hint)

    @entry
    def at(self, /, *args: Any, **kwargs: Any) -> LinearizedJacobian:
        """J at the arguments as an operator: f is linearized there, once, and J is not formed.

        `op.mv(v)`, or `op @ v`, is J v; `op.rmv(u)` is u J; `op.to_scipy()` and `op.to_lineax()` are for solvers.

        Args:
            *args: as for f.
            **kwargs: as for f.

        Returns:
            A `LinearizedJacobian`.

        Raises:
            ValueError: nothing is differentiated, or what is has no batch axis where examples are asked for.
            BatchCouplingError: as `batch_jacobian` raises it.

        Example:
            >>> import jax.numpy as jnp
            >>> import jaxobian as jb
            >>> op = jb.jacobian(jnp.square).at(jnp.array([1.0, 2.0]))
            >>> print(op.value, op @ jnp.ones(2))
            [1. 4.] [2. 4.]
        """
        with jax.disable_jit(False):  # f is traced, whatever else is run operation by operation
            traced = Traced.of(self._f, self._options, args, kwargs)
            warn_of(traced.device)
            return self._operator(traced, self._settled(traced))

    def _operator(self, traced: Traced, options: Options) -> LinearizedJacobian:
        """J as an operator, of a call that has been traced."""
        code = getattr(innermost(self._f), "__code__", type(self._f))
        return linearized(traced, options, code, has_aux=self._has_aux, hessian=self._of_gradient)

    @entry
    def sparsity(self, /, *args: Any, **kwargs: Any) -> Pattern:
        """Which elements of J can be nonzero, for any values of arguments of these shapes; of a batch, of each example.

        Args:
            *args: as for f: arrays, or `jax.ShapeDtypeStruct` in their place.
            **kwargs: as for f.

        Returns:
            A `Pattern`, as the function `sparsity` finds it; the one that was passed as `sparsity`, if one was.

        Example:
            >>> import jax.numpy as jnp
            >>> import jaxobian as jb
            >>> jb.hessian(lambda x: jnp.sum((x[1:] - x[:-1]) ** 4)).sparsity(jnp.zeros(4))
            Pattern(4 x 4, 10 nonzeros)
        """
        traced = Traced.of(self._f, self._options, args, kwargs, as_plan=True)
        declared = self._options.request.sparsity
        if declared is not None:
            check_shape(declared, traced.ends)
            return declared
        with our_settings():
            return pattern(structure(traced.program), traced.ends)

    def _compute(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, value: bool, mapped: bool = False
    ) -> tuple[Any, Any, Any]:
        """y where asked for, aux, J."""
        if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
            return plain(self._f, self._options, args, kwargs, self._weights, hessian=self._of_gradient)
        traced = Traced.of(self._f, self._options, args, kwargs, weights=self._weight_leaves())
        warn_of(traced.device)
        options = self._settled(traced)
        blocks, ys, aux = computed(traced, options, value, mapped=mapped)
        if self._unchecked and traced.values is not None:
            self._check_sparsity(traced, options, blocks, args, kwargs)
        return traced.deliver(blocks, ys, aux, options)

    def _check_first(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What a call would check, where there was none yet."""
        if self._unchecked:
            self._compute(args, kwargs, value=False)

    def _check_sparsity(
        self, traced: Traced, options: Options, blocks: Rows, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Compare J, made by the pattern that was passed, with J times a random vector, once."""
        if options.request.quantity is not None or options.request.format == "dense":  # that may be made without it
            one = copy.copy(self)  # shares what is not yet checked
            one._options, one._weights = self._options.asking(quantity=None, format="bcoo"), None
            one._compute(args, kwargs, value=False)
            return
        self._unchecked.clear()
        if any(map(is_complex, traced.ends.inputs.avals)) and not options.request.holomorphic:
            return  # J is not linear then
        operator, J = as_scipy(self._operator(traced, options)), as_matrix(blocks, traced.ends)
        try:
            check_products(operator.matvec, lambda u: operator.rmatvec(u.conj()).conj(), J, traced.ends, traced.names)
        except SparsityError:
            self._unchecked.append(True)
            raise

    def _weight_leaves(self) -> list[Any]:
        return [as_array(leaf) for leaf in jax.tree.leaves(self._weights)]

    def _settled(self, traced: Traced) -> Options:
        """The options, once a call has been traced."""
        if self._options.request.sparsity is not None:
            check_shape(self._options.request.sparsity, traced.ends)
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

    _made_of_one = JacobianFunction

    def __init__(self, f: Callable[..., Any], options: Options):
        super().__init__(f, options)
        if options.request.format != "dense":
            raise ValueError(
                f'format="{options.request.format}" is not supported with in_axes=None for a differentiated argument; '
                'use "dense".'
            )
        if options.request.sparsity is not None:
            raise ValueError("sparsity is not supported with in_axes=None for a differentiated argument.")
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
        checked = type(self)(self._f, self._options.asking(independent=True))
        hint = "" if self._of_gradient else without_j(plan.choice.problem, number)
        return make_plan(title, structure, plan.choice, run, Source(checked, args, kwargs), number, hint)

    def _compute(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, value: bool, mapped: bool = False
    ) -> tuple[Any, Any, Any]:
        self._examples.check(args, kwargs)
        every = args

        def one(weights: Any, *args: Any) -> tuple[Any, Any]:
            return self._of_one(self._one(every, weights), args, kwargs, value=value)

        out_axes = self._examples.out_axes if value else 0, 0
        y, J = self._examples.mapped(one, out_axes, self._weight_axes)(self._weights, *args)
        return y, self._examples.aux(args, kwargs), J

    @entry
    def at(self, /, *args: Any, **kwargs: Any) -> LinearizedJacobian:
        """There is none: J's examples share what is differentiated."""
        alone = self._verb.removeprefix("batch_")
        raise ValueError(
            f"{self._verb}(f, in_axes={self._examples.in_axes!r}).at is not there: examples share what is "
            f"differentiated, so that the operator on all of them is another: use {alone}(f, argnums).at."
        )

    @entry
    def sparsity(self, /, *args: Any, **kwargs: Any) -> Pattern:
        """Which elements of each example's J can be nonzero; see `JacobianFunction.sparsity`."""
        self._examples.check(args, kwargs)
        return self._one(args).sparsity(*self._examples.sliced(args), **kwargs)

    def _of_one(self, one: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, value: bool) -> tuple[Any, Any]:
        """y of one example, where asked for, and J."""
        y, _, J = one._compute(args, kwargs, value=value, mapped=True)
        return y, J

    def _one(self, args: Sequence[Any], weights: Any = None) -> JacobianFunction:
        """The Jacobian of one example of these, or what is asked of it."""
        one = stands_for(self._f)(lambda *args, **kwargs: self._examples.one(*args, **kwargs))
        made = self._made_of_one(one, self._examples.alone(args))
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
