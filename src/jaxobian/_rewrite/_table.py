"""Which family offers to replace an equation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._convolution import convolution
from ._offer import Makers, Offer
from ._outer import outer
from ._pooling import gathered, scattered, summed

_Family = Callable[[Any, set[int], str, Makers], list[Offer]]

_FAMILIES: dict[str, _Family] = {
    "dot_general": outer,
    "conv_general_dilated": convolution,
    "select_and_gather_add": gathered,
    "select_and_scatter_add": scattered,
    "reduce_window_sum": summed,
}


def offers(equation: Any, active: set[int], mode: str, makers: Makers) -> list[Offer]:
    """Other ways to compute an equation.

    Args:
        equation: of a linear program, or of a primal one.
        active: the operands in which it is linear; none in a primal program.
        mode: "fwd" or "rev": how passes go through it.
        makers: what makes its active operands.
    """
    family = _FAMILIES.get(equation.primitive.name)
    return family(equation, active, mode, makers) if family else []
