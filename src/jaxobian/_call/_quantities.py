"""What is wanted of J, once a call is traced: which arrays belong together, and whether they can."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax

from .._analysis import Names
from .._arrays import as_array, describe, is_complex
from .._outputs import Diagonal, Gram, Quantity, Slogdet, Trace
from .._trace import Ends
from ._layout import Layout


def settled(
    quantity: Quantity, layout: Layout, ends: Ends, names: Names, weights: Any = None, *, hessian: bool = False
) -> Quantity:
    """The quantity with the arrays that it is made of.

    Args:
        quantity: as the user asks for it.
        layout: the user's trees.
        ends: both sides of J.
        names: of the arrays on them.
        weights: the user's, whose leaves are the last operands; None where there are none.
        hessian: whether J is that of a gradient, whose leaves repeat those of x for each output of f.

    Raises:
        ValueError: it is not defined for these arguments.
    """
    match quantity:
        case Diagonal() | Trace():
            slots = layout.arguments.slots
            if not hessian:
                _check_square(quantity.name, layout, ends, names)
            outputs = len(ends.outputs.avals)
            paired = tuple(slots[k % len(slots)] for k in range(outputs)) if slots else (None,) * outputs
            if isinstance(quantity, Diagonal):
                return replace(quantity, paired=paired)
            return replace(quantity, paired=paired, group=tuple(k // max(1, len(slots)) for k in range(outputs)))
        case Slogdet():
            _check_size(layout, ends)
            return quantity
        case Gram() if weights is not None:
            return replace(quantity, **_weighted(quantity, layout, ends, names, weights))
        case _:
            return quantity


def _check_square(name: str, layout: Layout, ends: Ends, names: Names) -> None:
    """Raise where y is not like x, leaf by leaf."""
    arguments, wanted = layout.arguments, layout.in_tree
    also = "What also exists where J is not square: squared_norms (of its rows or columns) and gram (J J^T, or J^T J)."
    if layout.out_tree != wanted:
        raise ValueError(
            f"{name} is defined where f returns what it is differentiated by, leaf for leaf: x is {wanted}, and f "
            f"returns {layout.out_tree}. {also}"
        )
    for k, slot in enumerate(arguments.slots):
        shape = as_array(arguments.inert[k]).shape if slot is None else ends.inputs.shapes[slot]
        if slot is not None and ends.outputs.shapes[k] != shape:
            y, x = ends.outputs.avals[k], ends.inputs.avals[slot]
            raise ValueError(
                f"{name} is defined where each leaf of f's output has the shape of the one it is differentiated by: "
                f"f's output{names.outputs[k]} is {describe(y)}, {names.inputs[slot]} is {describe(x)}. {also}"
            )


def _check_size(layout: Layout, ends: Ends) -> None:
    """Raise where y has not as many elements as x."""
    m, n = ends.outputs.size, ends.inputs.size
    if m != n:
        each = " of each example" if ends.lead else ""
        raise ValueError(
            f"slogdet is defined where f returns as many elements as it is differentiated by{each}: f returns {m:,}, "
            f"x has {n:,}. What also exists where J is not square: gram (J J^T, or J^T J), whose determinant is the "
            "square of the volume that f stretches."
        )


def _weighted(quantity: Gram, layout: Layout, ends: Ends, names: Names, weights: Any) -> dict[str, Any]:
    """Which of the weights belongs to which array of the side that is summed over."""
    by_inputs = quantity.side == "out"
    side = "the differentiated argument" if by_inputs else "f's output"
    tree = layout.in_tree if by_inputs else layout.out_tree
    leaves, own = jax.tree.flatten(weights)
    if own != tree:
        raise ValueError(f"weights must be like {side}, leaf for leaf: expected {tree}, got {own}.")
    slots = layout.arguments.slots if by_inputs else range(len(leaves))
    avals = (ends.inputs if by_inputs else ends.outputs).avals
    named = names.inputs if by_inputs else names.outputs
    places = []
    for k, (leaf, slot) in enumerate(zip(leaves, slots, strict=True)):
        if slot is None:
            continue
        array = as_array(leaf)
        if tuple(array.shape) != tuple(avals[slot].shape) or is_complex(array):
            raise ValueError(
                f"weights must be real and of the shapes of {side}: expected {avals[slot].shape} for "
                f"{'' if by_inputs else side}{named[slot]}, got {describe(array)}."
            )
        places.append(k)
    return {"places": tuple(places), "n_weights": len(leaves)}
