"""Where the user wrote an equation: the first frame of its traceback outside JAX, Flax and this package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax

_HERE = str(Path(__file__).resolve().parent.parent) + os.sep
_STANDARD = str(Path(os.__file__).resolve().parent) + os.sep
_JAX = str(Path(jax.__file__).resolve().parent) + os.sep
# A path inside an installed library: not the user's own file.
_LIBRARIES = tuple(f"{os.sep}site-packages{os.sep}{name}{os.sep}" for name in ("jax", "flax", "jaxobian"))


def in_library(file: str) -> bool:
    """Whether a file belongs to JAX, Flax, this package, or Python: contextlib stands between einsum and its user."""
    if file.startswith(_STANDARD) and f"{os.sep}site-packages{os.sep}" not in file:
        return True
    return file.startswith((_HERE, _JAX, "<frozen")) or any(library in file for library in _LIBRARIES)


def in_jax(file: str) -> bool:
    """Whether a file is JAX's."""
    return file.startswith(_JAX)


def user_frame(traceback: Any, within: str | None = None) -> Any:
    """The innermost frame of the user's own code, or None.

    Args:
        traceback: of an equation; None where it has none.
        within: name of a function; frames of its callers do not count.
    """
    for frame in traceback.frames if traceback else ():
        if not in_library(frame.file_name):
            return frame
        if within is not None and frame.function_name.rpartition(".")[2] == within:
            return None
    return None
