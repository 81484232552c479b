"""What f returned: trees, and the arrays in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from .._arrays import as_array, in_words, is_arraylike


@dataclass(frozen=True)
class Returned:
    """The trees of what f returned; its arrays belong to the trace and are not kept."""

    paths: list[str]
    tree: Any
    rebuild_aux: Callable[[Sequence[Any]], Any]

    @classmethod
    def of(cls, out: Any, has_aux: bool) -> tuple[Returned, list[Any], list[Any]]:
        """The trees, y's leaves and aux's arrays."""
        aux = None
        if has_aux:
            if not (isinstance(out, tuple | list) and len(out) == 2):
                raise TypeError(f"with has_aux=True, f must return a pair (y, aux); it returned {in_words(out)}.")
            out, aux = out
        keyed, tree = jax.tree_util.tree_flatten_with_path(out)
        leaves, aux_tree = jax.tree.flatten(aux)
        # Arrays are results of the program; anything else (a name, a Python number) is handed back as it is.
        is_array = [isinstance(leaf, jax.Array) for leaf in leaves]
        constants = [None if array else leaf for leaf, array in zip(leaves, is_array, strict=True)]

        def rebuild_aux(arrays: Sequence[Any]) -> Any:
            values = iter(arrays)
            filled = [next(values) if array else c for c, array in zip(constants, is_array, strict=True)]
            return jax.tree.unflatten(aux_tree, filled)

        ys = [_output(leaf, jax.tree_util.keystr(path)) for path, leaf in keyed]
        arrays = [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]
        return cls([jax.tree_util.keystr(path) for path, _ in keyed], tree, rebuild_aux), ys, arrays


def _output(leaf: Any, path: str) -> Any:
    if not is_arraylike(leaf):
        raise TypeError(
            f"the output{' ' + path if path else ''} is {in_words(leaf)}: expected arrays. Return it "
            "beside the output and pass has_aux=True."
        )
    return as_array(leaf)
