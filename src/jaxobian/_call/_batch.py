"""Where a batch stands: the batch axis of each differentiated leaf and of each output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from .._arrays import as_array, describe
from .._words import listed
from ._arguments import Arguments


@dataclass(frozen=True)
class Batch:
    """Batch axes as the user gave them, as `jax.vmap` takes them."""

    in_axes: Any
    out_axes: Any


def _is_none(node: Any) -> bool:
    return node is None


def batch_of(arguments: Arguments, in_axes: Any) -> tuple[tuple[int, ...], dict[int, int], int]:
    """The batch axis of each differentiated leaf, of each integer leaf by its slot, and the number of examples.

    Raises:
        ValueError: `in_axes` does not fit the arguments, a leaf has no such axis, or sizes differ.
    """
    if isinstance(in_axes, tuple | list):
        if len(in_axes) != len(arguments.args):
            raise ValueError(
                f"in_axes has {len(in_axes)} entries for {len(arguments.args)} positional arguments: expected one "
                "each, or a single int."
            )
        prefix = tuple(in_axes[p] for p in arguments.positions)
    else:
        prefix = (in_axes,) * len(arguments.positions)
    whole = jax.tree.unflatten(arguments.tree, range(len(arguments.slots)))
    axes = _broadcast(prefix, whole, "in_axes", "the differentiated arguments")
    found: list[int] = []
    inert: dict[int, int] = {}
    for k, (slot, axis) in enumerate(zip(arguments.slots, axes, strict=True)):
        if slot is None:
            inert[k] = axis_of(axis, as_array(arguments.inert[k]), "an integer leaf", "in_axes")
            continue
        leaf, path = arguments.leaves[slot], arguments.paths[slot]
        if axis is None:
            raise ValueError(
                f"in_axes={in_axes!r} says that {path} has no batch axis. Where all examples share an argument, "
                f"in_axes must be a tuple that says for every argument where its batch is: {_sharing(arguments)}."
            )
        found.append(axis_of(axis, leaf, path, "in_axes"))
    sizes = {leaf.shape[axis] for leaf, axis in zip(arguments.leaves, found, strict=True)}
    if len(sizes) > 1:
        shown = [
            f"{path} {describe(leaf)} along axis {axis}"
            for path, leaf, axis in zip(arguments.paths, arguments.leaves, found, strict=True)
        ]
        raise ValueError(
            f"batch sizes differ between differentiated arguments: {listed(shown)}. If all examples share them, as "
            f"parameters are, say so: {_sharing(arguments)}."
        )
    return tuple(found), inert, sizes.pop() if sizes else 0


def sharing_hint(arguments: Arguments) -> str:
    """What to do if examples share what is differentiated; nothing where no other argument could hold them."""
    if len(arguments.args) < 2 or not arguments.paths:
        return ""
    return f" If all examples share {arguments.paths[0]}, as parameters are, say so: {_sharing(arguments)}."


def _sharing(arguments: Arguments) -> str:
    """The `in_axes` by which all examples share what is differentiated: in_axes=(None, 0).

    Of several differentiated arguments, those whose own leaves have no size in common; the first where all have.
    """
    sizes: dict[int, set[int]] = {}
    for leaf, (position, _) in zip(arguments.leaves, arguments.differentiated_places, strict=True):
        sizes.setdefault(position, set()).add(leaf.shape[0] if leaf.shape else 0)
    positions = list(sizes)
    if len(positions) > 1 and len(arguments.args) == len(positions):
        positions = [p for p in positions if len(sizes[p]) > 1] or positions[:1]
    axes = ["None" if p in positions or arg is None else "0" for p, arg in enumerate(arguments.args)]
    return f"in_axes=({', '.join(axes)}{',' if len(axes) == 1 else ''})"


def output_axes(
    tree: Any, avals: Sequence[Any], paths: Sequence[str], out_axes: Any, size: int, hint: str = ""
) -> tuple[int, ...]:
    """The batch axis of each output leaf; `hint` is added to what is said where sizes differ.

    Raises:
        ValueError: `out_axes` does not fit the outputs, or an output has not `size` examples along its axis.
    """
    axes = _broadcast(out_axes, jax.tree.unflatten(tree, range(len(avals))), "out_axes", "f's outputs")
    found: list[int] = []
    for aval, path, axis in zip(avals, paths, axes, strict=True):
        name = f"the output {path}" if path else "the output"
        if axis is None:
            raise ValueError(f"out_axes says that {name} has no batch axis; every output of a batch must have one.")
        found.append(axis_of(axis, aval, name, "out_axes"))
        if aval.shape[found[-1]] != size:
            raise ValueError(
                f"{name} is {describe(aval)} and has {aval.shape[found[-1]]} entries along axis {axis}, "
                f"but the batch has {size} examples. f must map a batch to a batch; say with out_axes "
                "where its outputs carry the batch. If f takes one example, use batch_jacobian(jax.vmap(f)). For the "
                f"Jacobian of one example, pass a batch of one: batch_jacobian(f)(x[None])[0].{hint}"
            )
    return tuple(found)


def _broadcast(prefix: Any, whole: Any, name: str, what: str) -> list[Any]:
    """The axis of each leaf of `whole`; None where `prefix` says that there is none."""
    axes: list[Any] = []
    try:
        # A None in the prefix is an axis, a None in the tree itself no leaf.
        jax.tree.map(
            lambda axis, part: axes.extend([axis] * len(jax.tree.leaves(part))), prefix, whole, is_leaf=_is_none
        )
    except ValueError as error:
        raise ValueError(f"{name} must be an int or a tree prefix of {what}; got {prefix!r}.") from error
    return axes


def axis_of(axis: Any, leaf: Any, path: str, name: str) -> int:
    """An axis that the user named, counted from the first.

    Raises:
        ValueError: there is no such axis.
    """
    if not isinstance(axis, int) or isinstance(axis, bool):
        raise ValueError(f"{name} of {path} must be an int; got {axis!r}.")
    if not -len(leaf.shape) <= axis < len(leaf.shape):
        raise ValueError(f"{name} says that {path} has its batch along axis {axis}, but it is {describe(leaf)}.")
    return axis % len(leaf.shape)
