"""What the user asked for beside f."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .._request import DEFAULT, Request
from ._arguments import Argnums, check_argnums
from ._batch import Batch


@dataclass(frozen=True)
class Options:
    """How f is called and how results are handed back; and what is asked of J."""

    argnums: Argnums = 0
    has_aux: bool = False
    allow_int: bool = False
    batch: Batch | None = None
    request: Request = DEFAULT

    def __post_init__(self) -> None:
        check_argnums(self.argnums)
        if self.batch is not None and self.request.format == "scipy":
            raise ValueError(
                'format="scipy" is one matrix, and a batch has one for each example: use format="bcoo", or '
                'jacobian(f, format="scipy") for all of J, with zeros between examples.'
            )

    def asking(self, **changes: Any) -> Options:
        """The same with something else asked of J."""
        return replace(self, request=replace(self.request, **changes))
