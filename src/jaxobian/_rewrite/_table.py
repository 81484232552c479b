"""Which family offers to replace an equation."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from ._convolution import convolution
from ._outer import outer
from ._pooling import gathered, scattered, summed
from ._rewrite import Around, Rewrite

_Family = Callable[[Any, set[int], str, Around], list[Rewrite]]

# For a primitive the family's name, as devices call it, and what it offers.
_FAMILIES: dict[str, tuple[str, _Family]] = {
    "dot_general": ("outer", outer),
    "conv_general_dilated": ("convolution", convolution),
    "select_and_gather_add": ("pooling", gathered),
    "select_and_scatter_add": ("pooling", scattered),
    "reduce_window_sum": ("pooling", summed),
}


def offers(
    equation: Any, active: set[int], mode: str, around: Around, families: Collection[str] | None = None
) -> list[Rewrite]:
    """Other ways to compute an equation.

    Args:
        equation: of a linear program, or of a primal one.
        active: the operands in which it is linear; none in a primal program.
        mode: "fwd" or "rev": how passes go through it.
        around: what makes its active operands, and reads its results.
        families: that are worth it on a device; by default all.
    """
    name, family = _FAMILIES.get(equation.primitive.name, ("", None))
    return family(equation, active, mode, around) if family and (families is None or name in families) else []
