"""jacobian, batch_jacobian, hessian: the pipeline from a function and its arguments to J."""

from __future__ import annotations

import functools
import inspect
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._batch import Batch, batch_of, output_axes
from ._budget import budget, parse_bytes
from ._coupling import Names, check_examples
from ._errors import PlanMismatchError
from ._explain import describe_structure, title_of
from ._layout import (
    Argnums,
    Arguments,
    Layout,
    Rest,
    abstract,
    as_array,
    check_argnums,
    check_outputs,
    describe,
    is_arraylike,
    is_flax_module,
    is_python_number,
    take_apart,
)
from ._linear import LinearProgram, cast_varying, identity, is_concrete, trace
from ._plan import MODES, Choice, Plan, choose, make_plan
from ._run import Executable, compiled, executable
from ._seeds import Side
from ._structure import structure

FORMATS = ("dense", "bcoo")
# Compiled functions kept between eager calls; the one unused for longest goes first.
KEPT = 128


@dataclass(frozen=True)
class Options:
    """What the user asked for beside f."""

    argnums: Argnums = 0
    mode: str = "auto"
    has_aux: bool = False
    holomorphic: bool = False
    allow_int: bool = False
    format: str = "dense"
    chunk_size: int | None = None
    memory_budget: int | float | str | None = None
    batch: Batch | None = None
    independent: bool = False
    prefer_reverse: bool = False

    def __post_init__(self) -> None:
        check_argnums(self.argnums)
        if self.mode == "colored":
            raise NotImplementedError('mode="colored" is to come; use "auto", "fwd", "rev" or "mixed".')
        if self.mode not in MODES:
            raise ValueError(f'mode must be "auto", "fwd", "rev" or "mixed"; got {self.mode!r}.')
        if self.format not in FORMATS:
            raise ValueError(f'format must be "dense" or "bcoo"; got {self.format!r}.')
        size = self.chunk_size
        if size is not None and (isinstance(size, bool) or not isinstance(size, int | np.integer)):
            raise ValueError(f"chunk_size must be a positive int or None; got {size!r}.")
        if size is not None and size <= 0:
            raise ValueError(f"chunk_size must be positive, the number of passes run at once; got {size}.")
        if self.memory_budget is not None:
            parse_bytes(self.memory_budget)


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
) -> JacobianFunction:
    """The Jacobian of `f`, in the mode that is fastest for it.

    J[i, j] = dy_i / dx_j for y = f(x).

    Args:
        f: a function of arrays, or pytrees of them, to an array or a pytree of them.
        argnums: which positional argument, or arguments, to differentiate with respect to.
        mode: "auto", or to force one: "fwd" (a tangent for each input), "rev" (a cotangent for each output), or "mixed"
            (f is cut where it is narrow, and each part takes its own mode).
        has_aux: f returns a pair (y, aux); aux is not differentiated and returned beside J.
        holomorphic: f is promised to be holomorphic, complex to complex.
        allow_int: let integer arguments pass; their blocks of J are zeros of their own dtype, as `jax.jacrev`'s.
        format: "dense", or "bcoo" for `jax.experimental.sparse.BCOO` leaves.
        chunk_size: passes run at once; None lets memory and speed decide. The answer does not depend on it.
        memory_budget: bytes that may be allocated, as a number or as text such as "4GB"; None means half of what
            the device has free.

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
        f, Options(argnums, mode, has_aux, holomorphic, allow_int, format, chunk_size, memory_budget)
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
    independent: bool = False,
) -> JacobianFunction:
    """The Jacobian of every example of a batch, for a function that maps a batch to a batch.

    J[b, i, j] = dy[b]_i / dx[b]_j. All examples share a pass, so a batch takes as many passes as one example. f is
    called with the whole batch; that it mixes no examples is proved, or an error names what mixes them.

    Args:
        f: a function of a batch to a batch, such as a model's `apply`.
        argnums: which positional argument, or arguments, to differentiate with respect to.
        in_axes: the batch axis of the differentiated arguments, as for `jax.vmap`; what it says of the other
            arguments is not looked at.
        out_axes: the batch axis of f's outputs, as for `jax.vmap`.
        mode: as for `jacobian`.
        has_aux: as for `jacobian`.
        holomorphic: as for `jacobian`.
        allow_int: as for `jacobian`.
        format: as for `jacobian`.
        chunk_size: as for `jacobian`.
        memory_budget: as for `jacobian`.
        independent: your word that no example influences another, where that cannot be proved. If it is wrong, so is
            J: each block is then the sum over the batch.

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
        argnums, mode, has_aux, holomorphic, allow_int, format, chunk_size, memory_budget, Batch(in_axes, out_axes),
        independent,
    )
    return JacobianFunction(f, options)


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
    outer = Options(argnums, mode, has_aux, holomorphic, allow_int, format, chunk_size, memory_budget)
    return HessianFunction(f, outer)


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
        choice = traced.choose(self._options, traced.values)
        run = _PlannedRun(traced, choice, self._options, kwargs, self._result)
        title = title_of(_name(self._f), _where(self._f), traced.program.in_avals, traced.program.out_avals, self._what)
        structure = describe_structure(choice.problem, on_word=self._options.independent)
        return make_plan(title, structure, choice, run)

    def _compute(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, value: bool) -> tuple[Any, Any, Any]:
        """y where asked for, aux, J."""
        traced = Traced.of(self._f, self._options, args, kwargs)
        operands, xs = traced.program.operands, traced.xs
        if not xs:  # nothing to differentiate: empty trees, or integers alone
            ys, aux, _ = traced.program.evaluate(operands, xs)
            results = ([[] for _ in ys], ys, aux)
        elif all(map(is_concrete, (*operands, *xs))):
            results = _compiled(traced, self._options, value)(operands, xs)
        else:
            results = executable(traced.choose(self._options), value, self._options.format)(operands, xs)
        return traced.deliver(*results, self._options)


class HessianFunction(JacobianFunction):
    """A function that returns the Hessian of f. Made by `hessian`."""

    _what = "hessian"

    def __init__(self, f: Callable[..., Any], options: Options):
        inner = JacobianFunction(f, replace(options, mode="auto", prefer_reverse=True, format="dense", chunk_size=None))

        @functools.wraps(f)
        def gradient(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
            value, J = inner.with_value(*args, **kwargs)
            return jax.tree.map(_as_inexact, J), value

        super().__init__(gradient, replace(options, has_aux=True))
        functools.update_wrapper(self, f, updated=())
        self._has_aux = options.has_aux

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


# Tracing a call ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Traced:
    """One call, traced: the linear program of it, and how to hand the results back in the user's trees."""

    arguments: Arguments
    layout: Layout
    program: LinearProgram
    xs: tuple[Any, ...]
    inputs: Side
    outputs: Side
    inert_axes: dict[int, int]
    aux: Any
    names: Names

    @classmethod
    def of(
        cls,
        f: Callable[..., Any],
        options: Options,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        as_plan: bool = False,
    ) -> Traced:
        """Trace `f(*args, **kwargs)` once, abstractly, and check its outputs."""
        arguments = take_apart(args, options.argnums, holomorphic=options.holomorphic, allow_int=options.allow_int)
        # A plan leaves every array open; a call closes over all that is not differentiated, just as it came.
        open_arrays, close = Rest.of(arguments, kwargs).opened() if as_plan else ((), None)
        returned: list[Returned] = []

        def flat(extras: Sequence[Any], xs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
            rest = close(extras) if close else None
            out = f(*arguments.rebuild(xs, rest), **(rest.kwargs if rest else kwargs))
            described, ys, aux = Returned.of(out, options.has_aux)
            returned.append(described)
            return ys, aux

        def check(avals: Sequence[Any]) -> None:
            check_outputs(avals, returned[-1].paths, holomorphic=options.holomorphic)

        xs = arguments.leaves
        program = trace(flat, xs, open_arrays, check)
        cast = cast_varying(xs, program.out_avals)
        if cast is not None:
            xs = cast
            program = trace(flat, xs, open_arrays, check)
        result = returned[-1]
        inputs, outputs, inert_axes = _sides(arguments, program, result, options)
        names = Names(arguments.paths, result.paths)
        layout = Layout(arguments, isinstance(options.argnums, int), result.tree)
        return cls(arguments, layout, program, tuple(xs), inputs, outputs, inert_axes, result.rebuild_aux, names)

    def choose(self, options: Options, values: tuple[Sequence[Any], Sequence[Any]] | None = None) -> Choice:
        """The choice for this call; `values` of operands and inputs make the error about a batch more certain."""
        ties = structure(self.program)
        if options.batch is not None and not options.independent:
            check_examples(ties, self.inputs, self.outputs, self.names, values)
        return choose(
            ties,
            self.inputs,
            self.outputs,
            mode=options.mode,
            prefer_reverse=options.prefer_reverse,
            holomorphic=options.holomorphic,
            chunk_size=options.chunk_size,
            budget=budget(options.memory_budget),
            platform=jax.devices()[0].platform,
            format=options.format,
        )

    @property
    def values(self) -> tuple[Sequence[Any], Sequence[Any]] | None:
        """Operands and inputs, where all of them have values now."""
        arrays = (*self.program.operands, *self.xs)
        known = all(isinstance(x, jax.Array | np.ndarray) and is_concrete(x) for x in arrays)
        return (self.program.operands, self.xs) if known else None

    def deliver(self, blocks: list[list[Any]], ys: list[Any], aux: list[Any], options: Options) -> tuple[Any, Any, Any]:
        """y, aux and J in the user's trees."""
        y = jax.tree.unflatten(self.layout.out_tree, ys) if len(ys) == len(self.outputs.avals) else None
        return y, self.aux(aux), self.layout.assemble(blocks, self._inert_block)

    def _inert_block(self, out: int, slot: int) -> Any:
        """The block of an integer leaf, as `jax.jacrev` gives it: zeros of its own dtype."""
        array = as_array(self.arguments.inert[slot])
        batched, tied = self.inert_axes.get(slot), self.outputs.tied[out]
        batch = () if tied is None else (self.outputs.avals[out].shape[tied],)
        own = tuple(n for axis, n in enumerate(array.shape) if axis != batched)
        shape = (*batch, *self.outputs.shapes[out], *own)
        if jnp.issubdtype(array.dtype, jax.dtypes.extended):  # a random key
            return np.zeros(shape, jax.dtypes.float0)
        return jnp.zeros(shape, array.dtype)


def _sides(
    arguments: Arguments, program: LinearProgram, result: Returned, options: Options
) -> tuple[Side, Side, dict[int, int]]:
    """Both sides of J with their batch axes, and the batch axes of integer leaves by their slots."""
    ins, outs = program.in_avals, program.out_avals
    if options.batch is None:
        return Side(ins, (None,) * len(ins)), Side(outs, (None,) * len(outs)), {}
    in_axes, inert_axes, size = batch_of(arguments, options.batch.in_axes)
    out_axes = output_axes(result.tree, outs, result.paths, options.batch.out_axes, size)
    return Side(ins, in_axes), Side(outs, out_axes), inert_axes


@dataclass(frozen=True)
class Returned:
    """The trees of what f returned; its arrays belong to the trace and are not kept."""

    paths: list[str]
    tree: Any
    rebuild_aux: Callable[[Sequence[Any]], Any]

    @classmethod
    def of(cls, out: Any, has_aux: bool) -> tuple[Returned, list[Any], list[Any]]:
        """The trees, y's leaves and aux's arrays."""
        aux = None
        if has_aux:
            if not (isinstance(out, tuple | list) and len(out) == 2):
                raise TypeError(f"with has_aux=True, f must return a pair (y, aux); it returned {type(out).__name__}.")
            out, aux = out
        keyed, tree = jax.tree_util.tree_flatten_with_path(out)
        leaves, aux_tree = jax.tree.flatten(aux)
        # Arrays are results of the program; anything else (a name, a Python number) is handed back as it is.
        is_array = [isinstance(leaf, jax.Array) for leaf in leaves]
        constants = [None if array else leaf for leaf, array in zip(leaves, is_array, strict=True)]

        def rebuild_aux(arrays: Sequence[Any]) -> Any:
            values = iter(arrays)
            filled = [next(values) if array else c for c, array in zip(constants, is_array, strict=True)]
            return jax.tree.unflatten(aux_tree, filled)

        ys = [_output(leaf, jax.tree_util.keystr(path)) for path, leaf in keyed]
        arrays = [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]
        return cls([jax.tree_util.keystr(path) for path, _ in keyed], tree, rebuild_aux), ys, arrays


def _output(leaf: Any, path: str) -> Any:
    if not is_arraylike(leaf):
        raise TypeError(
            f"the output{' ' + path if path else ''} is of type {type(leaf).__name__}: expected arrays. Return it "
            "beside the output and pass has_aux=True."
        )
    return as_array(leaf)


# Running ----------------------------------------------------------------------------------------------------------


_kept: OrderedDict[Hashable, Executable] = OrderedDict()


def _compiled(traced: Traced, options: Options, value: bool) -> Executable:
    """The compiled function for a trace; one that computes the same from the same kinds of arrays is used again."""
    asked = (
        options.mode,
        options.format,
        options.prefer_reverse,
        options.holomorphic,
        options.independent,
        options.chunk_size,
        str(options.memory_budget),
        value,
    )
    key = (identity(traced.program), traced.inputs.tied, traced.outputs.tied, asked, jax.devices()[0])
    found = _kept.get(key)
    if found is None:
        closed = replace(traced, program=traced.program.without_values())
        found = compiled(closed.choose(options, traced.values), value, options.format)
        _kept[key] = found
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    return found


@dataclass(frozen=True, eq=False)
class _PlannedRun:
    """Runs a plan on other values of the same shapes, and refuses all else."""

    traced: Traced
    choice: Choice
    options: Options
    kwargs: dict[str, Any]
    result: Callable[[Any, Any], Any]
    _jitted: list[Executable] = field(default_factory=list)

    def of(self, choice: Choice) -> _PlannedRun:
        """The same call by another choice."""
        return replace(self, choice=choice, _jitted=[])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        _compare(self.traced.arguments, self.kwargs, args, kwargs)
        arguments = take_apart(
            args, self.options.argnums, holomorphic=self.options.holomorphic, allow_int=self.options.allow_int
        )
        open_arrays, _ = Rest.of(arguments, kwargs).opened()
        program, xs = self.traced.program, arguments.leaves
        xs = cast_varying(xs, program.out_avals) or xs
        constants = program.operands[: len(program.operands) - len(open_arrays)]
        if not self._jitted:
            self._jitted.append(compiled(self.choice, False, self.options.format))
        results = self._jitted[0]((*constants, *open_arrays), xs)
        traced = replace(self.traced, arguments=arguments, layout=replace(self.traced.layout, arguments=arguments))
        _, aux, J = traced.deliver(*results, self.options)
        return self.result(J, aux)


def _compare(planned: Arguments, kwargs: dict[str, Any], new_args: tuple[Any, ...], new_kwargs: dict[str, Any]) -> None:
    """Raise where a call differs from what a plan was made for.

    Raises:
        PlanMismatchError: naming the argument, what was planned and what came.
    """
    old, tree = jax.tree_util.tree_flatten_with_path((planned.args, kwargs))
    new, new_tree = jax.tree_util.tree_flatten_with_path((new_args, new_kwargs))
    advice = "Make a plan for these arguments: jacobian(f).plan(...)."
    if tree != new_tree:
        raise PlanMismatchError(f"the plan was made for arguments of the structure {tree}; {new_tree} came. {advice}")
    for (path, before), (_, now) in zip(old, new, strict=True):
        name = ("args" if path[0].idx == 0 else "kwargs") + jax.tree_util.keystr(path[1:])
        differentiated = path[0].idx == 0 and path[1].idx in planned.positions
        shown, shown_now = (_signature(leaf, differentiated) for leaf in (before, now))
        if shown != shown_now:
            raise PlanMismatchError(f"{name} was planned as {shown} and came as {shown_now}. {advice}")


def _signature(leaf: Any, differentiated: bool) -> str:
    """What of an argument a plan depends on: of an array shape and dtype, of all else the value."""
    if is_arraylike(leaf) and (differentiated or not is_python_number(leaf)):
        return describe(abstract(as_array(leaf)))
    return f"the Python {type(leaf).__name__} {leaf!r}"
