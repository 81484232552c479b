"""Vectors like x or like y: trees of arrays as they come, checked, and as they are handed back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import abstract, as_array, describe, in_words, is_arraylike, is_complex, is_python_number, varying_axes
from .._call import Traced


@dataclass(frozen=True, eq=False)
class Vectors:
    """What vectors on one side of J are like.

    Attributes:
        word: what the side is called in words.
        tree: the tree of a vector.
        avals: its arrays, those without a derivative left out.
        slots: for each leaf of the tree which of `avals` it is; None for integers.
        inert: for each leaf its shape and dtype where it is an integer, else None.
        names: what the arrays are called.
    """

    word: str
    tree: Any
    avals: tuple[Any, ...]
    slots: tuple[int | None, ...]
    inert: tuple[Any, ...]
    names: tuple[str, ...]

    @classmethod
    def like_x(cls, traced: Traced) -> Vectors:
        """Vectors like what f is differentiated by."""
        arguments = traced.arguments
        tree = arguments.tree.children()[0] if traced.layout.bare else arguments.tree
        names = tuple(traced.names.inputs)
        return cls("x", tree, traced.program.in_avals, arguments.slots, arguments.inert, names)

    @classmethod
    def like_y(cls, traced: Traced) -> Vectors:
        """Vectors like what f returns."""
        avals = traced.program.out_avals
        names = tuple(f"f's output{' ' if name else ''}{name}" for name in traced.names.outputs)
        return cls("y", traced.layout.out_tree, avals, tuple(range(len(avals))), (None,) * len(avals), names)

    @property
    def sizes(self) -> list[int]:
        """How many elements each array has."""
        return [math.prod(aval.shape) for aval in self.avals]

    @property
    def size(self) -> int:
        """How many elements there are."""
        return sum(self.sizes)

    @property
    def is_complex(self) -> bool:
        return any(map(is_complex, self.avals))

    @property
    def structure(self) -> Any:
        """The tree with shapes and dtypes."""
        shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in self.avals]
        return self.as_tree(shapes, ())

    def arrays(self, vector: Any, letter: str, *, many: bool) -> list[Any]:
        """The arrays of a vector, or of several, which are along the first axis of each.

        Args:
            vector: a tree like x or y.
            letter: what it is called.
            many: whether each leaf has a leading axis.

        Raises:
            TypeError: another tree, or a leaf of another dtype.
            ValueError: a leaf of another shape.
        """
        keyed, tree = jax.tree_util.tree_flatten_with_path(vector)
        if tree != self.tree:
            raise TypeError(f"{letter} must be like {self.word}, leaf for leaf: expected {self.tree}, got {tree}.")
        found: list[Any] = [None] * len(self.avals)
        lead: tuple[int, ...] | None = None if many else ()
        for (path, leaf), slot, inert in zip(keyed, self.slots, self.inert, strict=True):
            name = letter + jax.tree_util.keystr(path)
            if slot is None:
                _check_inert(leaf, inert, name, many=many)
                continue
            aval = self.avals[slot]
            array = _checked(leaf, aval, name, self.names[slot], lead)
            lead = array.shape[: array.ndim - len(aval.shape)]
            found[slot] = _varying(array, aval)
        return found

    def as_tree(self, arrays: Sequence[Any], lead: tuple[int, ...]) -> Any:
        """Arrays in the tree, with zeros of no dtype in the place of integers, as `jax.vjp` gives them."""

        def leaf(slot: int | None, inert: Any) -> Any:
            return np.zeros((*lead, *np.shape(inert)), jax.dtypes.float0) if slot is None else arrays[slot]

        return jax.tree.unflatten(self.tree, list(map(leaf, self.slots, self.inert)))

    def split(self, flat: np.ndarray) -> list[np.ndarray]:
        """Flat vectors along the last axis of a NumPy array as one array for each leaf."""
        ends = np.cumsum(self.sizes)[:-1]
        pieces = zip(np.split(flat, ends, -1), self.avals, strict=True)
        return [piece.reshape((*flat.shape[:-1], *aval.shape)).astype(aval.dtype) for piece, aval in pieces]

    def joined(self, tree: Any, lead: tuple[int, ...]) -> np.ndarray:
        """A tree as flat vectors of NumPy's, after its leading axes."""
        pairs = zip(jax.tree.leaves(tree), self.slots, strict=True)
        flat = [np.asarray(x).reshape(*lead, -1) for x, slot in pairs if slot is not None]
        return np.concatenate(flat, -1)


def _check_inert(leaf: Any, inert: Any, name: str, *, many: bool) -> None:
    """Raise where a leaf cannot stand for an integer's: its shape is not the integer's. What it holds is not read."""
    shape = np.shape(leaf)
    if not many and shape != np.shape(inert):
        raise ValueError(
            f"{name} has shape {shape}; it stands for an integer of shape {np.shape(inert)}, which has no derivative: "
            "pass zeros of that shape, of any dtype."
        )


def _checked(leaf: Any, aval: Any, name: str, like: str, lead: tuple[int, ...] | None) -> Any:
    """A leaf as an array; `lead` are its leading axes, None where there is one of any size."""
    if not is_arraylike(leaf):
        raise TypeError(f"{name} must be {describe(aval)}, as {like} is; got {in_words(leaf)}.")
    array = jnp.asarray(leaf, aval.dtype) if is_python_number(leaf) else as_array(leaf)
    if array.dtype != aval.dtype:
        raise TypeError(
            f"{name} is {describe(abstract(array))}: expected dtype {aval.dtype}, as {like} has. Cast it: "
            f"{name}.astype({aval.dtype})."
        )
    first = array.shape[: array.ndim - len(aval.shape)] if lead is None else lead
    if array.shape != (*first, *aval.shape) or len(first) != (1 if lead is None else len(lead)):
        wanted = describe(aval) if lead == () else f"{describe(aval)} after a leading axis"
        size = f" of {lead[0]}, as the leaves before it have" if lead else ""
        hint = "" if lead == () else " A single vector goes to mv, or rmv."
        hint = " Several vectors, along a leading axis of every leaf, go to mm, or rmm." if lead == () else hint
        raise ValueError(f"{name} is {describe(abstract(array))}: expected {wanted}{size}, as {like} is.{hint}")
    return array


def _varying(array: Any, aval: Any) -> Any:
    """An array that differs between devices, under shard_map, where the one that it is like does."""
    missing = varying_axes(aval) - varying_axes(abstract(array))
    return jax.lax.pcast(array, tuple(sorted(missing)), to="varying") if missing else array
