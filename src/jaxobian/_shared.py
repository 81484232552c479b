"""Jacobians by what all examples share, such as parameters: one example at a time, mapped over the batch.

J[b, i, j] = dy[b]_i / dp_j. No two examples can share a pass here, for the shared argument mixes them: what comes back
would be the sum over the batch. Each example is therefore a batch of one, and `jax.vmap` runs all of them at once.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from ._arrays import abstract, as_array, describe, is_arraylike, is_inexact, is_python_number
from ._cache import check_independent
from ._call import Options, Traced
from ._call._batch import Batch
from ._errors import PlanMismatchError
from ._report._planned import check_given
from ._trace import has_rules, sharding_without
from ._tracebacks import stands_for
from ._values import ONE_AT_A_TIME, ByIdentity, Given, Values


def _is_none(node: Any) -> bool:
    return node is None


def shares(options: Options) -> bool:
    """Whether a differentiated argument, or a leaf of one, has no batch axis."""
    in_axes = options.batch.in_axes if options.batch else None
    if not isinstance(in_axes, tuple | list):
        return False
    argnums: Any = options.argnums
    numbers = [operator.index(n) for n in (argnums if isinstance(argnums, tuple | list) else (argnums,))]
    named = [in_axes[n] for n in numbers if -len(in_axes) <= n < len(in_axes)]
    return any(axis is None for axes in named for axis in jax.tree.leaves(axes, is_leaf=_is_none))


@dataclass(frozen=True)
class Examples:
    """A function of a batch, seen one example at a time.

    Attributes:
        f: the function of the batch.
        options: what was asked for, with the batch axes.
    """

    f: Callable[..., Any]
    options: Options

    @cached_property
    def _key(self) -> ByIdentity:
        """The function in keys; what cannot be held weakly stands for itself as long as we do."""
        try:
            return ByIdentity(self.f)
        except TypeError:
            return ByIdentity(self)

    @property
    def in_axes(self) -> tuple[Any, ...]:
        assert self.options.batch is not None
        return tuple(self.options.batch.in_axes)

    @property
    def out_axes(self) -> Any:
        assert self.options.batch is not None
        return self.options.batch.out_axes

    def alone(self, args: Sequence[Any]) -> Options:
        """The options for the Jacobian of one example, beside all others."""
        options = replace(self.options, batch=None, has_aux=False)
        return options.asking(independent=False, copies=max(1, self.size(args)))

    def one(self, /, *args: Any, **kwargs: Any) -> Any:
        """f of one example: a batch of one goes in, and its only result comes out."""
        alone = self._each(args, lambda leaf, axis: jnp.expand_dims(leaf, axis))
        try:
            out = self.f(*alone, **kwargs)
        except (TypeError, ValueError) as error:
            error.add_note(f"f was called with a batch of one. {ONE_AT_A_TIME}")
            raise
        y = out[0] if self.options.has_aux else out
        return jax.tree.map(self._squeezed, jax.tree.broadcast(self.out_axes, y, is_leaf=_is_none), y, is_leaf=_is_none)

    def aux(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """f's aux of the whole batch, if there is one."""
        return self.f(*args, **kwargs)[1] if self.options.has_aux else None

    @staticmethod
    def _squeezed(axis: int | None, leaf: Any) -> Any:
        shape = jnp.shape(leaf)
        if axis is None or not -len(shape) <= axis < len(shape) or shape[axis] != 1:
            raise ValueError(
                f"f returned {describe(leaf)} for one example: expected one entry along out_axes={axis}. "
                f"{ONE_AT_A_TIME}"
            )
        return jnp.squeeze(leaf, axis)

    def sliced(self, args: Sequence[Any]) -> tuple[Any, ...]:
        """The shapes of one example's arguments."""

        def without(leaf: Any, axis: int) -> Any:
            shape, dtype = list(jnp.shape(leaf)), jax.dtypes.canonicalize_dtype(jnp.result_type(leaf))
            del shape[axis]
            return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding_without(abstract(leaf), axis))

        return self._each(args, without)

    def _each(self, args: Sequence[Any], change: Callable[[Any, int], Any]) -> tuple[Any, ...]:
        """The arguments, those leaves changed that carry the batch."""
        leaves, tree = jax.tree.flatten(tuple(args), is_leaf=_is_none)
        pairs = zip(leaves, self._axes(args), strict=True)
        changed = [leaf if axis is None or leaf is None else change(leaf, axis) for leaf, axis in pairs]
        return jax.tree.unflatten(tree, changed)

    def size(self, args: Sequence[Any]) -> int:
        """How many examples there are; 1 where no argument says so."""
        pairs = zip(self._axes(args), jax.tree.leaves(tuple(args), is_leaf=_is_none), strict=True)
        shapes = [(jnp.shape(leaf), axis) for axis, leaf in pairs if axis is not None and leaf is not None]
        # An axis that is not there is for vmap to complain about.
        return next((shape[axis] for shape, axis in shapes if -len(shape) <= axis < len(shape)), 1)

    def _axes(self, args: Sequence[Any]) -> list[int | None]:
        """The axis of the batch in each leaf of the arguments, a None being one."""
        if len(self.in_axes) != len(args):
            raise ValueError(
                f"in_axes has {len(self.in_axes)} entries for {len(args)} positional arguments: expected one each."
            )
        axes = jax.tree.broadcast(self.in_axes, tuple(args), is_leaf=_is_none)
        return jax.tree.leaves(axes, is_leaf=_is_none)

    @property
    def of_differentiated(self) -> Any:
        """The axes of the differentiated arguments."""
        argnums: Any = self.options.argnums
        if isinstance(argnums, tuple | list):
            return tuple(self.in_axes[operator.index(n)] for n in argnums)
        return self.in_axes[operator.index(argnums)]

    def mapped(self, run: Callable[..., Any], out_axes: Any, axes: Any) -> Callable[..., Any]:
        """`run` of some weights and one example, over the batch; `axes` are those of the weights."""
        return jax.vmap(run, in_axes=(axes, *self.in_axes), out_axes=out_axes)

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise unless it is proved that a batch gives each example what a batch of that example alone gives it.

        Raises:
            BatchCouplingError: naming what couples them.
            ValueError: an array that is said to have no batch axis has an entry for each example, or f makes one, such
                as random numbers; or the size of the batch matters.
        """
        axes = self._axes(args)
        if self.options.request.independent:
            return
        keyed, tree = jax.tree_util.tree_flatten_with_path(args, is_leaf=_is_none)
        leaves, names = [leaf for _, leaf in keyed], [f"args{jax.tree_util.keystr(path)}" for path, _ in keyed]

        def taking(places: Sequence[int]) -> Callable[..., Any]:
            @stands_for(self.f, same_arguments=False)
            def whole(*arrays: Any) -> Any:
                filled = dict(zip(places, arrays, strict=True))
                return self.f(*jax.tree.unflatten(tree, [filled.get(k, x) for k, x in enumerate(leaves)]), **kwargs)

            return whole

        arrays = [k for k, leaf in enumerate(leaves) if is_arraylike(leaf) and not is_python_number(leaf)]
        given = [Given(as_array(leaves[k]), axes[k], names[k]) for k in arrays]
        keywords = [
            (f"the keyword argument `{path[0].key}`{jax.tree_util.keystr(path[1:])}", leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(kwargs)
        ]
        values = Values.of(taking(arrays), given, self.out_axes, has_aux=self.options.has_aux, keywords=keywords)
        values.check(self._key)
        real = [k for k, g in zip(arrays, given, strict=True) if g.axis is not None and is_inexact(g.array)]
        if real and has_rules(values.program):
            # Derivatives of the user's own making may couple what the values do not.
            batch = Batch(tuple(axes[k] for k in real), self.out_axes)
            options = replace(self.options, argnums=tuple(range(len(real))), batch=batch).asking(holomorphic=False)
            traced = Traced.of(taking(real), options, tuple(leaves[k] for k in real), {})
            check_independent(replace(traced, names=replace(traced.names, inputs=[names[k] for k in real])))


def first_of(weights: Any, axes: Any) -> Any:
    """The weights of the first example."""
    if weights is None:
        return None
    every = jax.tree.broadcast(axes, weights, is_leaf=_is_none)

    def first(leaf: Any, axis: int | None) -> Any:
        if axis is None:
            return leaf
        take = functools.partial(jnp.take, indices=0, axis=axis)
        return jax.eval_shape(take, leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else take(leaf)

    taken = [
        first(as_array(leaf), axis)
        for leaf, axis in zip(jax.tree.leaves(weights), jax.tree.leaves(every, is_leaf=_is_none), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(weights), taken)


@dataclass(frozen=True)
class MappedRun:
    """Runs the plan of one example over a batch of as many examples as it was made for."""

    examples: Examples
    run: Any
    size: int
    weights: Any = None
    weight_axes: Any = None

    def of(self, choice: Any) -> MappedRun:
        """The same for another choice."""
        return replace(self, run=self.run.of(choice))

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        try:
            self.examples.sliced(args)
        except ValueError as error:
            raise PlanMismatchError(str(error)) from error
        size = self.examples.size(args)
        if size != self.size:
            raise PlanMismatchError(
                f"the plan was made for {self.size} examples; {size} came. Make a plan for these arguments."
            )
        weights = kwargs.pop("weights", self.weights) if self.weights is not None else None
        check_given(weights)

        def one(weights: Any, *args: Any) -> Any:
            return self.run(*args, **kwargs, **({} if weights is None else {"weights": weights}))

        J = self.examples.mapped(one, 0, self.weight_axes)(weights, *args)
        return (J, self.examples.aux(args, kwargs)) if self.examples.options.has_aux else J
