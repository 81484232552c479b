"""What is wanted of J, once a call is traced: which arrays belong together, and whether they can."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax

from .._arrays import as_array, describe, is_complex
from .._outputs import Diagonal, Gram, Quantity, Trace
from ._traced import Traced


def settled(quantity: Quantity, traced: Traced, weights: Any, *, hessian: bool) -> Quantity:
    """The quantity with the arrays that it is made of.

    Args:
        quantity: as the user asks for it.
        traced: the call.
        weights: the user's, whose leaves are the last operands; None where there are none.
        hessian: whether J is that of a gradient, whose leaves repeat those of x for each output of f.

    Raises:
        ValueError: it is not defined for these arguments.
    """
    match quantity:
        case Diagonal() | Trace():
            slots = traced.arguments.slots
            if not hessian:
                _check_square(quantity.name, traced)
            outputs = len(traced.ends.outputs.avals)
            paired = tuple(slots[k % len(slots)] for k in range(outputs)) if slots else (None,) * outputs
            if isinstance(quantity, Diagonal):
                return replace(quantity, paired=paired)
            return replace(quantity, paired=paired, group=tuple(k // max(1, len(slots)) for k in range(outputs)))
        case Gram() if weights is not None:
            return replace(quantity, **_weighted(quantity, traced, weights))
        case _:
            return quantity


def _check_square(name: str, traced: Traced) -> None:
    """Raise where y is not like x, leaf by leaf."""
    layout, ends, arguments = traced.layout, traced.ends, traced.arguments
    wanted = arguments.tree.children()[0] if layout.bare else arguments.tree
    also = "What also exists where J is not square: squared_norms (of its rows or columns) and gram (J J^T, or J^T J)."
    if layout.out_tree != wanted:
        raise ValueError(
            f"{name} is defined where f returns what it is differentiated by, leaf for leaf: x is {wanted}, and f "
            f"returns {layout.out_tree}. {also}"
        )
    for k, slot in enumerate(arguments.slots):
        shape = as_array(arguments.inert[k]).shape if slot is None else ends.inputs.shapes[slot]
        if slot is not None and ends.outputs.shapes[k] != shape:
            y, x = traced.program.out_avals[k], traced.program.in_avals[slot]
            names = traced.names.outputs[k] or "f's output", traced.names.inputs[slot]
            raise ValueError(
                f"{name} is defined where each leaf of f's output has the shape of the one it is differentiated by: "
                f"{names[0]} is {describe(y)}, {names[1]} is {describe(x)}. {also}"
            )


def _weighted(quantity: Gram, traced: Traced, weights: Any) -> dict[str, Any]:
    """Which of the weights belongs to which array of the side that is summed over."""
    by_inputs = quantity.side == "out"
    arguments, layout = traced.arguments, traced.layout
    side = "the differentiated argument" if by_inputs else "f's output"
    tree = layout.out_tree
    if by_inputs:
        tree = arguments.tree.children()[0] if layout.bare else arguments.tree
    leaves, own = jax.tree.flatten(weights)
    if own != tree:
        raise ValueError(f"weights must be like {side}, leaf for leaf: expected {tree}, got {own}.")
    slots = arguments.slots if by_inputs else range(len(leaves))
    avals = traced.program.in_avals if by_inputs else traced.program.out_avals
    names = traced.names.inputs if by_inputs else traced.names.outputs
    places = []
    for k, (leaf, slot) in enumerate(zip(leaves, slots, strict=True)):
        if slot is None:
            continue
        array = as_array(leaf)
        if tuple(array.shape) != tuple(avals[slot].shape) or is_complex(array):
            raise ValueError(
                f"weights must be real and of the shapes of {side}: expected {avals[slot].shape} for "
                f"{names[slot] or side}, got {describe(array)}."
            )
        places.append(k)
    return {"places": tuple(places), "n_weights": len(leaves)}
