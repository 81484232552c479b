"""Packages that take long to import and that not every call needs: each is imported when it is first used."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any


class _Lazy(ModuleType):
    """A module that is imported when an attribute of it is first asked for."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(importlib.import_module(self.__name__), name)
        setattr(self, name, found)  # asked for once
        return found


if TYPE_CHECKING:
    from jax.experimental import sparse as jax_sparse
    from scipy import sparse as sparse
    from scipy.sparse import csgraph as csgraph
else:
    jax_sparse = _Lazy("jax.experimental.sparse")
    sparse = _Lazy("scipy.sparse")
    csgraph = _Lazy("scipy.sparse.csgraph")
