"""jacobian, batch_jacobian, hessian: the pipeline from a function and its arguments to J."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from ._batch import Batch
from ._cache import kept
from ._call import Options, Traced
from ._compiler import warn_of
from ._copies import surroundings
from ._explain import describe_structure, title_of
from ._layout import Argnums, is_concrete, is_flax_module
from ._linear import walk, without_explicit_axes
from ._plain import plain
from ._plan import Plan, make_plan
from ._planned import PlannedRun
from ._run import executable, values_alone
from ._shared import Examples, MappedRun, shares
from ._strategies import pattern
from ._structure import Pattern, structure

# Public functions -------------------------------------------------------------------------------------------------


def jacobian(
    f: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    mode: str = "auto",
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    format: str = "dense",
    chunk_size: int | None = None,
    memory_budget: int | float | str | None = None,
    rewrite: bool = True,
) -> JacobianFunction:
    """The Jacobian of `f`, in the mode that is fastest for it.

    J[i, j] = dy_i / dx_j for y = f(x).

    Args:
        f: a function of arrays, or pytrees of them, to an array or a pytree of them.
        argnums: which positional argument, or arguments, to differentiate with respect to.
        mode: "auto", or to force one: "fwd" (a tangent for each input), "rev" (a cotangent for each output), "mixed"
            (f is cut where it is narrow, and each part takes its own mode), or "colored" (elements of a sparse J that
            cannot meet share a pass, and those that are the same for every x take none).
        has_aux: f returns a pair (y, aux); aux is not differentiated and returned beside J.
        holomorphic: f is promised to be holomorphic, complex to complex.
        allow_int: let integer arguments pass; their blocks of J are zeros of their own dtype, as `jax.jacrev`'s.
        format: "dense", or "bcoo" for `jax.experimental.sparse.BCOO` leaves.
        chunk_size: passes run at once; None lets memory and speed decide. The answer does not depend on it.
        memory_budget: bytes that may be allocated, as a number or as text such as "4GB"; None means half of what
            the device has free. Copies that `jax.vmap` makes of the call share it.
        rewrite: let slow linear operations, such as max-pooling's gradient, be replaced by faster equals; values may
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


def value_and_jacobian(f: Callable[..., Any], argnums: Argnums = 0, **options: Any) -> Callable[..., Any]:
    """A function that returns f's value and its Jacobian, f traced once; short for `jacobian(f, ...).with_value`.

    (y, J) with J[i, j] = dy_i / dx_j.

    Args:
        f: as for `jacobian`.
        argnums: as for `jacobian`.
        **options: as for `jacobian`.

    Returns:
        A function with f's arguments that returns `(y, J)`, or `((y, aux), J)` with `has_aux`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxobian as jb
        >>> y, J = jb.value_and_jacobian(jnp.square)(jnp.array([1.0, 3.0]))
        >>> print(y, J.diagonal())
        [1. 9.] [2. 6.]
    """
    return jacobian(f, argnums, **options).with_value


def batch_jacobian(
    f: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    in_axes: Any = 0,
    out_axes: Any = 0,
    mode: str = "auto",
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    format: str = "dense",
    chunk_size: int | None = None,
    memory_budget: int | float | str | None = None,
    rewrite: bool = True,
    independent: bool = False,
) -> JacobianFunction:
    """The Jacobian of every example of a batch, for a function that maps a batch to a batch.

    J[b, i, j] = dy[b]_i / dx[b]_j. All examples share a pass, so a batch takes as many passes as one example. f is
    called with the whole batch; that it mixes no examples is proved, or an error names what mixes them.

    Args:
        f: a function of a batch to a batch, such as a model's `apply`.
        argnums: which positional argument, or arguments, to differentiate with respect to.
        in_axes: the batch axis of the differentiated arguments, as for `jax.vmap`; what it says of the other
            arguments is not looked at. None for a differentiated argument that all examples share, such as parameters:
            then it must say for every argument where its batch is, and f must take a batch of any size and give each
            example what it gives a batch of that example alone (no division by the size of the batch).
        out_axes: the batch axis of f's outputs, as for `jax.vmap`.
        mode: as for `jacobian`.
        has_aux: as for `jacobian`.
        holomorphic: as for `jacobian`.
        allow_int: as for `jacobian`.
        format: as for `jacobian`; "dense" alone where examples share an argument.
        chunk_size: as for `jacobian`.
        memory_budget: as for `jacobian`.
        rewrite: as for `jacobian`.
        independent: your word that no example influences another, where that cannot be proved, as by parameters of
            examples that are integers. If it is wrong, so is J: each block is then the sum over the batch.

    Returns:
        A function as `jacobian` returns it, with leaves of shape `(B, *out, *in)` for B examples.

    Raises:
        ValueError: an argument or an output has no such batch axis, or batch sizes differ.
        BatchCouplingError: on a call, where examples influence each other, or that they do not could not be proved;
            it names the operation and its line.

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
    *,
    mode: str = "auto",
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    format: str = "dense",
    chunk_size: int | None = None,
    memory_budget: int | float | str | None = None,
    rewrite: bool = True,
) -> JacobianFunction:
    """The Hessian of `f`: the Jacobian of its Jacobian, the inner one in reverse mode where that is possible.

    H[i, j, k] = d2 y_i / dx_j dx_k.

    Args:
        f: as for `jacobian`; usually with one output.
        argnums: as for `jacobian`.
        mode: the mode of the outer Jacobian.
        has_aux: as for `jacobian`.
        holomorphic: as for `jacobian`.
        allow_int: as for `jacobian`.
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


def sparsity(f: Callable[..., Any], *args: Any, argnums: Argnums = 0, **kwargs: Any) -> Pattern:
    """Which elements of f's Jacobian can be nonzero, for any values of arguments of these shapes.

    The pattern is sound: what it leaves out is zero. It may hold more than is nonzero at one place: what depends on
    values (an index, a condition) is taken for any value, and what is not understood for dense. Index arrays and
    NumPy's matrices that f closes over are a part of f; JAX's arrays of real numbers are not, for weights change.

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
    with without_explicit_axes():
        return pattern(structure(traced.program), traced.inputs, traced.outputs)


# The callable object ----------------------------------------------------------------------------------------------


class JacobianFunction:
    """A function that returns the Jacobian of f. Made by `jacobian`; keeps f's name and documentation."""

    _what = "jacobian"

    def __init__(self, f: Callable[..., Any], options: Options):
        _check_callable(f)
        functools.update_wrapper(self, f, updated=())  # f may have attributes of the same names as ours
        self._f = f
        self._options = options

    def __repr__(self) -> str:
        return f"jaxobian.{self._what}({_name(self._f)})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """J at the arguments; with `has_aux`, `(J, aux)`."""
        _, aux, J = self._compute(args, kwargs, value=False)
        return self._result(J, aux)

    def _result(self, J: Any, aux: Any) -> Any:
        return (J, aux) if self._options.has_aux else J

    def with_value(self, *args: Any, **kwargs: Any) -> Any:
        """f's value and J: `(y, J)`; with `has_aux`, `((y, aux), J)`."""
        y, aux, J = self._compute(args, kwargs, value=True)
        return ((y, aux), J) if self._options.has_aux else (y, J)

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
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
        title = title_of(_name(self._f), _where(self._f), traced.program.in_avals, traced.program.out_avals, self._what)
        structure = describe_structure(choice.problem, choice.chosen, on_word=self._options.independent)
        return make_plan(title, structure, choice, run)

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
            run = executable(traced.choose(options, traced.device), value, options.format)
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
            raise ValueError('format="bcoo" is not to be had where examples share an argument: use "dense".')
        self._examples = Examples(f, options)

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """What a call with these arguments would run for each example, and why; see `JacobianFunction.plan`."""
        self._examples.check(args, kwargs)
        plan = self._one(args).plan(*self._examples.sliced(args), **kwargs)
        where = f" ({place})" if (place := _where(self._f)) else ""
        ends = plan.title.partition(": ")[2]
        title = f"each example of jacobian of {_name(self._f)}{where}: {ends}"
        return replace(plan, title=title, _run=MappedRun(self._examples, plan))

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
        return JacobianFunction(self._examples.one, self._examples.alone(args))


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

    _what = "hessian"

    def __init__(self, f: Callable[..., Any], options: Options):
        inner = _Gradient(f, replace(options, mode="auto", prefer_reverse=True, format="dense", chunk_size=None))
        self._gradient = inner

        @functools.wraps(f)
        def gradient(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
            value, J = inner.with_value(*args, **kwargs)
            return jax.tree.map(_as_inexact, J), value

        super().__init__(gradient, replace(options, has_aux=True))
        functools.update_wrapper(self, f, updated=())
        self._has_aux = options.has_aux

    def _settled(self, traced: Traced) -> Options:
        return replace(self._options, symmetric=not self._gradient.has_rules)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """H at the arguments; with `has_aux`, `(H, aux)`."""
        return super().__call__(*args, **kwargs)

    def _result(self, J: Any, aux: Any) -> Any:
        return (J, aux[1]) if self._has_aux else J  # our aux is f's value, and with it f's own aux

    def with_value(self, *args: Any, **kwargs: Any) -> Any:
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
            "    import jaxobian.flax\n"
            "    apply, params = jaxobian.flax.functional(model)\n"
            "    jacobian(apply, argnums=1)(params, x)   # by the input; argnums=0 by the parameters"
        )
    if not callable(f):
        raise TypeError(f"expected a function, got {f!r} of type {type(f).__name__}.")


def _name(f: Any) -> str:
    return getattr(f, "__name__", None) or type(f).__name__


def _where(f: Any) -> str:
    try:
        code = inspect.unwrap(f).__code__
    except AttributeError:
        return ""
    if code.co_filename.startswith(os.path.dirname(__file__)):
        return ""  # a function that we made, such as a Flax model's apply
    return f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}"
