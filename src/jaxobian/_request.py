"""What is asked of J: the planner's question, and with the program the key of what is kept between calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ._analysis import Pattern
from ._budget import parse_bytes
from ._outputs import OUTPUTS, Output, Quantity
from ._words import SYNONYMS

Mode = Literal["auto", "fwd", "forward", "rev", "reverse", "mixed", "colored", "coloured"]
Format = Literal["dense", "bcoo", "scipy"]
# Each by the one name that plans give it.
MODES: tuple[Mode, ...] = ("auto", "fwd", "rev", "mixed", "colored")


@dataclass(frozen=True)
class Request:
    """What is asked of J, checked once; two that are equal ask for the same.

    Attributes:
        mode: "auto", or the mode that the user wants.
        holomorphic: complex to complex, C-linear.
        format: how J is returned.
        sparsity: where J can be nonzero, where the user says so.
        chunk_size: passes at once, where the user says so.
        memory_budget: bytes that may be allocated, where the user says so.
        rewrite: whether equations may be replaced by faster equals.
        independent: whether the user says that the examples of a batch are.
        prefer_reverse: take reverse where it is possible, whatever it costs.
        symmetric: whether J is known to be.
        copies: computations that run side by side, as examples do under vmap.
        quantity: what of J is wanted; None for J itself.
    """

    mode: str = "auto"
    holomorphic: bool = False
    format: str = "dense"
    chunk_size: int | None = None
    memory_budget: int | float | str | None = None
    rewrite: bool = True
    independent: bool = False
    prefer_reverse: bool = False
    symmetric: bool = False
    copies: int = 1
    quantity: Quantity | None = None
    sparsity: Pattern | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.rewrite, bool):
            raise ValueError(f"rewrite must be True or False; got {self.rewrite!r}.")
        if isinstance(self.mode, str):
            object.__setattr__(self, "mode", SYNONYMS.get(self.mode, self.mode))
        if self.mode not in MODES:
            raise ValueError(
                f'mode must be "auto", "fwd" ("forward"), "rev" ("reverse"), "mixed" or "colored"; got {self.mode!r}.'
            )
        if not isinstance(self.format, str) or self.format not in OUTPUTS:
            raise ValueError(f'format must be "dense", "bcoo" or "scipy"; got {self.format!r}.')
        size = self.chunk_size
        if size is not None and (isinstance(size, bool) or not isinstance(size, int | np.integer)):
            raise ValueError(f"chunk_size must be a positive int or None; got {size!r}.")
        if size is not None and size <= 0:
            raise ValueError(f"chunk_size must be positive, the number of passes run at once; got {size}.")
        if self.memory_budget is not None:
            parse_bytes(self.memory_budget)
        if self.sparsity is not None and self.mode not in ("auto", "colored"):
            raise ValueError(
                f'sparsity is what colors are found by: mode must be "colored" or "auto" with it; got {self.mode!r}.'
            )

    @property
    def output(self) -> Output:
        """What is wanted of J."""
        return OUTPUTS[self.format] if self.quantity is None else self.quantity

    @property
    def bounded(self) -> bool:
        """Whether the budget is the user's word, which even their chunk_size must obey."""
        return self.memory_budget is not None


DEFAULT = Request()
