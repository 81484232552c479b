"""Which family offers to replace an equation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._convolution import convolution
from ._outer import outer
from ._pooling import gathered, scattered, summed
from ._rewrite import Around, Rewrite

_Family = Callable[[Any, set[int], str, Around], list[Rewrite]]

_FAMILIES: dict[str, _Family] = {
    "dot_general": outer,
    "conv_general_dilated": convolution,
    "select_and_gather_add": gathered,
    "select_and_scatter_add": scattered,
    "reduce_window_sum": summed,
}


def offers(equation: Any, active: set[int], mode: str, around: Around) -> list[Rewrite]:
    """Other ways to compute an equation.

    Args:
        equation: of a linear program, or of a primal one.
        active: the operands in which it is linear; none in a primal program.
        mode: "fwd" or "rev": how passes go through it.
        around: what makes its active operands, and reads its results.
    """
    family = _FAMILIES.get(equation.primitive.name)
    return family(equation, active, mode, around) if family else []
