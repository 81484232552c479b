"""J by JAX's own functions, operation by operation: what runs under `jax.disable_jit`, where f may look at values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .._analysis import Names
from .._arrays import as_array, block_dtype, is_concrete, is_inexact
from .._errors import BatchCouplingError
from .._lazy import jax_sparse
from .._outputs import DenseBlock, Gram, Quantity
from .._trace import our_settings
from ._arguments import resolve_argnums, take_apart
from ._layout import Layout, inert
from ._matrix import as_matrix
from ._options import Options
from ._quantities import settled
from ._returned import Returned
from ._traced import ends_of


def plain(
    f: Callable[..., Any],
    options: Options,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    weights: Any = None,
    *,
    hessian: bool = False,
) -> tuple[Any, Any, Any]:
    """y, aux and J, or what is wanted of it.

    By `jax.jacfwd` where forward mode is asked for or reverse mode is impossible, else by `jax.jacrev`. J of a batch is
    cut out of all of J, so that what couples its examples is seen.

    Raises:
        BatchCouplingError: an example influences another at these values.
    """

    def g(*args: Any) -> tuple[Any, Any]:
        out = f(*args, **kwargs)
        y, aux = out if options.has_aux else (out, None)
        return y, (y, aux)

    chosen: dict[str, Any] = {"argnums": options.argnums, "has_aux": True, "holomorphic": options.request.holomorphic}
    forward = lambda: jax.jacfwd(g, **chosen)(*args)  # noqa: E731
    reverse = lambda: jax.jacrev(g, allow_int=options.allow_int, **chosen)(*args)  # noqa: E731
    if options.request.mode in ("fwd", "rev"):
        J, (y, aux) = forward() if options.request.mode == "fwd" else reverse()
    else:
        try:
            J, (y, aux) = reverse()
        except (TypeError, ValueError, NotImplementedError) as error:
            try:
                J, (y, aux) = forward()
            except Exception:
                raise error from None
    positions = resolve_argnums(options.argnums, len(args))
    x: Any = tuple(args[p] for p in positions)
    x = x[0] if isinstance(options.argnums, int) else x
    out_axes = _axes(options.batch.out_axes if options.batch else None, y)
    in_axes = _axes(_of_differentiated(options, positions), x)

    def delivered(out: Any, out_axis: Any, blocks: Any) -> Any:
        return jax.tree.map(lambda x, axis, block: _block(out, x, block, out_axis, axis, options), x, in_axes, blocks)

    J = jax.tree.map(delivered, y, out_axes, J)
    if options.request.quantity is None and options.request.format != "scipy":
        return y, aux, J
    return y, aux, _reduced(options.request.quantity, options, args, y, J, weights, hessian=hessian)


def _reduced(
    quantity: Quantity | None, options: Options, args: tuple[Any, ...], y: Any, J: Any, weights: Any, *, hessian: bool
) -> Any:
    """What is wanted of J, or J as one matrix, made of its blocks."""
    request = options.request
    arguments = take_apart(args, options.argnums, holomorphic=request.holomorphic, allow_int=options.allow_int)
    returned, ys, _ = Returned.of(y, has_aux=False)
    ends, inert_axes = ends_of(arguments, arguments.leaves, ys, returned, options)
    layout = Layout(arguments, isinstance(options.argnums, int), returned.tree)
    leaves, slots = jax.tree.leaves(J), arguments.slots
    blocks = [[leaves[o * len(slots) + k] for k, slot in enumerate(slots) if slot is not None] for o in range(len(ys))]
    if quantity is None:
        return as_matrix(blocks, ends)
    quantity = settled(quantity, layout, ends, Names(arguments.paths, returned.paths), weights, hessian=hessian)
    of_dense = [[DenseBlock(block) for block in row] for row in blocks]
    with our_settings():
        rows = quantity.bound([as_array(leaf) for leaf in jax.tree.leaves(weights)]).of_blocks(ends, of_dense)
    if options.request.format == "scipy" and isinstance(quantity, Gram):
        return as_matrix(rows, quantity.ends(ends))
    return quantity.named(layout.assemble(rows, quantity.sides, partial(inert, arguments, ends, inert_axes)))


# An axis that is not there, which in a tree of axes must be a leaf.
_NO_AXIS = "no axis"


def _axes(prefix: Any, tree: Any) -> Any:
    """The axis of each leaf of a tree."""
    spelled = jax.tree.map(lambda axis: _NO_AXIS if axis is None else axis, prefix, is_leaf=lambda node: node is None)
    return jax.tree.broadcast(spelled, tree)


def _of_differentiated(options: Options, positions: tuple[int, ...]) -> Any:
    """What `in_axes` says of the differentiated arguments."""
    in_axes = options.batch.in_axes if options.batch else None
    if isinstance(in_axes, tuple | list):
        chosen = tuple(in_axes[p] for p in positions)
        return chosen[0] if isinstance(options.argnums, int) else chosen
    return in_axes


def _block(out: Any, x: Any, block: Any, out_axis: Any, in_axis: Any, options: Options) -> Any:
    """A block of J in the dtype and the format that every mode gives."""
    y, x = as_array(out), as_array(x)
    if is_inexact(x):
        block = block.astype(block_dtype(y, x))
    if out_axis != _NO_AXIS and in_axis != _NO_AXIS:
        block = _examples(block, out_axis % y.ndim, y.ndim + in_axis % x.ndim, options.request.independent)
    as_bcoo = options.request.format == "bcoo" and options.request.quantity is None
    return jax_sparse.BCOO.fromdense(block) if as_bcoo else block


def _examples(block: Any, out_axis: int, in_axis: int, independent: bool) -> Any:
    """The blocks of the examples, without those between examples, which are zero."""
    moved = jnp.moveaxis(block, (out_axis, in_axis), (0, 1))
    if independent:
        return moved.sum(1)  # as where all examples share a pass
    between = jnp.any((moved != 0).reshape(*moved.shape[:2], -1), -1) & ~jnp.eye(len(moved), dtype=bool)
    if is_concrete(between) and between.any():
        there, here = (int(k[0]) for k in jnp.nonzero(between, size=1))
        raise BatchCouplingError(
            f"the examples of the batch are coupled: example {there} of the output changes with example {here} of the "
            "input. For the whole of J, blocks between examples included, use jacobian."
        )
    return jnp.moveaxis(jnp.diagonal(moved, axis1=0, axis2=1), -1, 0)
