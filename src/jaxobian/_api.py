"""jacobian, batch_jacobian, hessian: the pipeline from a function and its arguments to J."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from ._batch import Batch
from ._bound import BoundFunction
from ._cache import kept
from ._call import Format, Mode, Options, Traced
from ._compiler import warn_of
from ._copies import surroundings
from ._execute import traceable, values_alone
from ._explain import describe_structure, title_of
from ._layout import Argnums, flax_advice, in_words, is_concrete, is_flax_module
from ._linear import our_settings, walk
from ._plain import plain
from ._planned import PlannedRun
from ._report import Plan, Source, make_plan
from ._shared import Examples, MappedRun, shares
from ._strategies import pattern
from ._structure import Pattern, structure
from ._tracebacks import entry, innermost, stands_for
from ._words import counted

# Public functions -------------------------------------------------------------------------------------------------


def jacobian(
    f: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    mode: Mode = "auto",
    format: Format = "dense",
    chunk_size: int | None = None,
    memory_budget: int | float | str | None = None,
    rewrite: bool = True,
) -> JacobianFunction:
    """The Jacobian of `f`, in the mode that is predicted to be fastest for it.

    J[i, j] = dy_i / dx_j for y = f(x). The first five parameters are those of `jax.jacfwd` and `jax.jacrev`.

    Args:
        f: a function of arrays, or pytrees of them, to an array or a pytree of them.
        argnums: which positional argument, or arguments, to differentiate with respect to.
        has_aux: f returns a pair (y, aux); aux is not differentiated and returned beside J.
        holomorphic: f is promised to be holomorphic, complex to complex.
        allow_int: let integer arguments pass; their blocks of J are zeros of their own dtype, as `jax.jacrev`'s.
        mode: "auto", or to force one: "fwd" or "forward" (a JVP for each input), "rev" or "reverse" (a VJP for each
            output), "mixed" (f is cut at its bottlenecks, and each part takes its own mode), or "colored" (columns or
            rows of a sparse J that do not overlap share a JVP or VJP; entries that do not depend on x take none).
        format: "dense", or "bcoo" for `jax.experimental.sparse.BCOO` leaves.
        chunk_size: how many passes (JVPs or VJPs) run at once; None lets memory and speed decide. The answer does not
            depend on it.
        memory_budget: bytes that may be allocated, as a number or as text such as "4GB"; None means half of what
            the device has free. Copies that `jax.vmap` makes of the call share it.
        rewrite: replace slow linear operations, such as max-pooling's gradient, by faster equivalents; values may
            differ in the last digits, and where f's derivatives are infinite or NaN, more of J may be NaN.

    Returns:
        A function with f's arguments that returns J: f's output tree outside, the argument's tree inside, each leaf
        of shape `out.shape + in.shape` (or `(J, aux)` with `has_aux`). Its methods: `with_value(*args)` returns
        y too, `plan(*args)` what would run and why.

    Raises:
        ValueError: an option is none of those above.
        ModeError: on a call, where the forced mode, or every mode, is impossible.
        MemoryBudgetError: on a call, where J does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxobian as jb
        >>> J = jb.jacobian(lambda x: jnp.stack([x[0] * x[1], x[1] ** 2]))
        >>> print(J(jnp.array([3.0, 2.0])))
        [[2. 3.]
         [0. 4.]]

    Source:
        Griewank and Walther, Evaluating Derivatives (2nd edition, 2008): forward and reverse accumulation in chapter 3,
        going beyond them in chapters 9 and 10.
    """
    return JacobianFunction(
        f, Options(argnums, mode, has_aux, holomorphic, allow_int, format, chunk_size, memory_budget, rewrite)
    )


def value_and_jacobian(
    f: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    mode: Mode = "auto",
    format: Format = "dense",
    chunk_size: int | None = None,
    memory_budget: int | float | str | None = None,
    rewrite: bool = True,
) -> Callable[..., tuple[Any, Any]]:
    """A function that returns f's value and its Jacobian, f traced once; short for `jacobian(f, ...).with_value`.

    (y, J) with J[i, j] = dy_i / dx_j.

    Args:
        f: as for `jacobian`.
        argnums: as for `jacobian`.
        has_aux: as for `jacobian`.
        holomorphic: as for `jacobian`.
        allow_int: as for `jacobian`.
        mode: as for `jacobian`.
        format: as for `jacobian`.
        chunk_size: as for `jacobian`.
        memory_budget: as for `jacobian`.
        rewrite: as for `jacobian`.

    Returns:
        A function with f's arguments that returns `(y, J)`, or `((y, aux), J)` with `has_aux`.

    Raises:
        ValueError: as for `jacobian`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxobian as jb
        >>> y, J = jb.value_and_jacobian(jnp.square)(jnp.array([1.0, 3.0]))
        >>> print(y, J.diagonal())
        [1. 9.] [2. 6.]
    """
    return jacobian(
        f, argnums, has_aux, holomorphic, allow_int,
        mode=mode, format=format, chunk_size=chunk_size, memory_budget=memory_budget, rewrite=rewrite,
    ).with_value  # fmt: skip


def batch_jacobian(
    f: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    in_axes: Any = 0,
    out_axes: Any = 0,
    mode: Mode = "auto",
    format: Format = "dense",
    chunk_size: int | None = None,
    memory_budget: int | float | str | None = None,
    rewrite: bool = True,
    independent: bool = False,
) -> JacobianFunction:
    """The Jacobian of every example of a batch, for a function that maps a batch to a batch.

    J[b, i, j] = dy[b]_i / dx[b]_j. All examples share a pass, so a batch takes as many passes as one example. f is
    called with the whole batch; that no example influences another is verified, or an error names what couples them.

    Args:
        f: a function of a batch to a batch, such as a model's `apply`.
        argnums: which positional argument, or arguments, to differentiate with respect to.
        has_aux: as for `jacobian`.
        holomorphic: as for `jacobian`.
        allow_int: as for `jacobian`.
        in_axes: the batch axis of the differentiated arguments, as for `jax.vmap`; ignored for other arguments.
            None for a differentiated argument that all examples share, such as parameters: `in_axes=(None, 0)` for
            `apply(params, x)`. It must then say for every argument where its batch is, and f must take a batch of any
            size and give each example what it gives a batch of that example alone (no division by the batch size).
        out_axes: the batch axis of f's outputs, as for `jax.vmap`.
        mode: as for `jacobian`.
        format: as for `jacobian`; "bcoo" is not supported with `in_axes=None` for a differentiated argument.
        chunk_size: as for `jacobian`.
        memory_budget: as for `jacobian`.
        rewrite: as for `jacobian`.
        independent: you assert that no example influences another, where that cannot be verified, as by parameters of
            examples that are integers. If it is wrong, so is J: each block is then the sum over the batch.

    Returns:
        A function as `jacobian` returns it, with leaves of shape `(B, *out, *in)` for B examples.

    Raises:
        ValueError: an argument or an output has no such batch axis, or batch sizes differ.
        BatchCouplingError: on a call, where examples influence each other, or where that they do not could not be
            verified; it names the operation and its line.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxobian as jb
        >>> W = jnp.ones((3, 2))
        >>> jb.batch_jacobian(lambda x: jnp.tanh(x @ W))(jnp.zeros((64, 3))).shape
        (64, 2, 3)
    """
    options = Options(
        argnums, mode, has_aux, holomorphic, allow_int, format, chunk_size, memory_budget, rewrite,
        Batch(in_axes, out_axes), independent,
    )
    return SharedFunction(f, options) if shares(options) else JacobianFunction(f, options)


def hessian(
    f: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    mode: Mode = "auto",
    format: Format = "dense",
    chunk_size: int | None = None,
    memory_budget: int | float | str | None = None,
    rewrite: bool = True,
) -> JacobianFunction:
    """The Hessian of `f`: the Jacobian of its Jacobian, the inner one in reverse mode where that is possible.

    H[i, j, k] = d2 y_i / dx_j dx_k.

    Args:
        f: as for `jacobian`; usually with one output.
        argnums: as for `jacobian`.
        has_aux: as for `jacobian`.
        holomorphic: as for `jacobian`.
        allow_int: as for `jacobian`.
        mode: the mode of the outer Jacobian.
        format: as for `jacobian`.
        chunk_size: as for `jacobian`, of the outer Jacobian.
        memory_budget: as for `jacobian`.
        rewrite: as for `jacobian`.

    Returns:
        A function as `jacobian` returns it, laid out as `jax.hessian`: leaves `out.shape + in.shape + in.shape`. Its
        `with_value` returns f's value beside H.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxobian as jb
        >>> print(jb.hessian(lambda x: x[0] ** 2 * x[1])(jnp.array([1.0, 3.0])))
        [[6. 2.]
         [2. 0.]]
    """
    outer = Options(argnums, mode, has_aux, holomorphic, allow_int, format, chunk_size, memory_budget, rewrite)
    return HessianFunction(f, outer)


@entry
def sparsity(f: Callable[..., Any], *args: Any, argnums: Argnums = 0, **kwargs: Any) -> Pattern:
    """Which elements of f's Jacobian can be nonzero, for any values of arguments of these shapes.

    The pattern is conservative: what it leaves out is zero. It may hold more than is nonzero at one x: what depends on
    values (an index, a condition) may be any value, and unknown primitives count as dense. Index arrays and NumPy
    arrays that f closes over are a part of f; JAX arrays of real numbers are not, for weights change.

    Args:
        f: as for `jacobian`.
        *args: as for f: arrays, or `jax.ShapeDtypeStruct` in their place.
        argnums: as for `jacobian`.
        **kwargs: as for f.

    Returns:
        A `Pattern` of shape (elements of the outputs, elements of the differentiated arguments), each leaf after leaf
        in the order of `jax.tree.leaves` and row-major within a leaf, with `.nnz`, `.to_scipy()` and `.spy()`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxobian as jb
        >>> pattern = jb.sparsity(lambda x: x[1:] - x[:-1], jnp.zeros(4))
        >>> pattern
        Pattern(3 x 4, 6 nonzeros)
        >>> print(pattern.todense().astype(int))
        [[1 1 0 0]
         [0 1 1 0]
         [0 0 1 1]]
    """
    _check_callable(f)
    traced = Traced.of(f, Options(argnums, allow_int=True), args, kwargs, as_plan=True)
    with our_settings():
        return pattern(structure(traced.program), traced.ends)


# The callable object ----------------------------------------------------------------------------------------------


class JacobianFunction:
    """A function that returns the Jacobian of f. Made by `jacobian`; keeps f's name and documentation.

    As an attribute of a class it is a method, as what `jax.jacfwd` returns is.
    """

    def __init__(self, f: Callable[..., Any], options: Options):
        _check_callable(f)
        functools.update_wrapper(self, f, updated=())  # f may have attributes of the same names as ours
        self._f = f
        self._options = options
        self._made_from = f, options

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
        traced = Traced.of(self._f, self._options, args, kwargs, as_plan=True)
        if not traced.xs:
            raise ValueError("there is nothing to plan: no differentiated argument has a leaf with a derivative.")
        choice = traced.choose(self._settled(traced), traced.device, traced.values)
        run = PlannedRun(traced, choice, self._options, kwargs, self._result)
        f, program = self._made_from[0], traced.program
        title = title_of(_name(f), _where(f), program.in_avals, program.out_avals, self._verb)
        structure = describe_structure(choice.problem, choice.candidates, asserted=self._options.independent)
        return make_plan(title, structure, choice, run, Source(self, args, kwargs))

    def _compute(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, value: bool, mapped: bool = False
    ) -> tuple[Any, Any, Any]:
        """y where asked for, aux, J."""
        if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
            return plain(self._f, self._options, args, kwargs)
        traced = Traced.of(self._f, self._options, args, kwargs)
        warn_of(traced.device)
        options = self._settled(traced)
        operands, xs = traced.program.operands, traced.xs
        around = surroundings((*operands, *xs))
        options = replace(options, copies=max(options.copies, around.copies))
        if not xs:  # nothing to differentiate: empty trees, or integers alone
            run = values_alone(traced.program)
        elif around.traced and not mapped:
            choice = traced.choose(options, traced.device)
            run = traceable(choice.execution, options.output, value)
        else:
            # Under vmap or grad of values, too, what is compiled is kept; but no loop can run on the host.
            mapped = mapped or not all(map(is_concrete, (*operands, *xs)))
            run = kept(traced, options, value, mapped=mapped)
        return traced.deliver(*traced.placement.run(run, operands, xs), options)

    def _settled(self, traced: Traced) -> Options:
        """The options, once a call has been traced."""
        return self._options


class SharedFunction(JacobianFunction):
    """Jacobians of every example by what all examples share. Made by `batch_jacobian` where an `in_axes` is None."""

    def __init__(self, f: Callable[..., Any], options: Options):
        super().__init__(f, options)
        if options.format != "dense":
            raise ValueError(
                f'format="{options.format}" is not supported with in_axes=None for a differentiated argument; '
                'use "dense".'
            )
        self._examples = Examples(f, options)

    @entry
    def plan(self, /, *args: Any, **kwargs: Any) -> Plan:
        """What a call with these arguments would run for each example, and why; see `JacobianFunction.plan`."""
        self._examples.check(args, kwargs)
        plan = self._one(args).plan(*self._examples.sliced(args), **kwargs)
        number = self._examples.size(args)
        where = f" ({place})" if (place := _where(self._f)) else ""
        ends = plan.title.partition(": ")[2]
        title = f"{self._verb} of {_name(self._f)}{where}: {ends}, for each of {counted(number, 'example')}"
        structure = describe_structure(plan.choice.problem, plan.choice.candidates, examples=number)
        run = MappedRun(self._examples, plan._run, number)
        checked = SharedFunction(self._f, replace(self._options, independent=True))
        return make_plan(title, structure, plan.choice, run, Source(checked, args, kwargs), number)

    def _compute(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, value: bool, mapped: bool = False
    ) -> tuple[Any, Any, Any]:
        self._examples.check(args, kwargs)
        rest: list[Any] = []
        jacobian = self._one(args)

        def one(*args: Any) -> tuple[Any, Any, Any]:
            y, aux, J = jacobian._compute(args, kwargs, value=value, mapped=True)
            arrays, others = _arrays(aux)
            rest.append(others)
            return y, arrays, J

        y, arrays, J = self._examples.mapped(one, (self._examples.out_axes if value else 0, 0, 0))(*args)
        return y, rest[-1](arrays), J

    def _one(self, args: Sequence[Any]) -> JacobianFunction:
        """The Jacobian of one example of these."""
        one = stands_for(self._f)(lambda *args, **kwargs: self._examples.one(*args, **kwargs))
        return JacobianFunction(one, self._examples.alone(args))


def _arrays(tree: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The arrays of a tree, and how to put others in their place; anything else stays as it is."""
    leaves, structure = jax.tree.flatten(tree)
    is_array = [isinstance(leaf, jax.Array) for leaf in leaves]

    def put(arrays: list[Any]) -> Any:
        rest = iter(arrays)
        filled = [next(rest) if array else leaf for leaf, array in zip(leaves, is_array, strict=True)]
        return jax.tree.unflatten(structure, filled)

    return [leaf for leaf, array in zip(leaves, is_array, strict=True) if array], put


class _Gradient(JacobianFunction):
    """The inner Jacobian of a Hessian; notes whether f has equations that may make the Hessian unsymmetric.

    Derivatives of the user's own making may, and indices out of range, which JAX clamps one way and drops the other.
    """

    has_rules = True

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
        inner = _Gradient(f, replace(options, mode="auto", prefer_reverse=True, format="dense", chunk_size=None))
        self._gradient = inner

        @stands_for(f)
        def gradient(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
            value, J = inner.with_value(*args, **kwargs)
            return jax.tree.map(_as_inexact, J), value

        super().__init__(gradient, replace(options, has_aux=True))
        functools.update_wrapper(self, f, updated=())
        self._made_from = f, options
        self._has_aux = options.has_aux

    def _settled(self, traced: Traced) -> Options:
        return replace(self._options, symmetric=not self._gradient.has_rules)

    @entry
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """H at the arguments; with `has_aux`, `(H, aux)`."""
        return super().__call__(*args, **kwargs)

    def _result(self, J: Any, aux: Any) -> Any:
        return (J, aux[1]) if self._has_aux else J  # our aux is f's value, and with it f's own aux

    @entry
    def with_value(self, /, *args: Any, **kwargs: Any) -> Any:
        """f's value and H: `(y, H)`; with `has_aux`, `((y, aux), H)`."""
        _, value, H = self._compute(args, kwargs, value=False)
        return value, H


def _as_inexact(block: Any) -> Any:
    """A block by an integer leaf, which is zero, as one that can be differentiated again."""
    return block if jnp.issubdtype(block.dtype, jnp.inexact) else jnp.zeros(block.shape)


def _check_callable(f: Any) -> None:
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
