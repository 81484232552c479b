"""The arguments of a call taken apart: leaves that are differentiated, and all the rest."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from .._arrays import as_array, describe, in_words, is_arraylike, is_complex, is_inexact, is_python_number

Argnums = int | Sequence[int]


def is_flax_module(value: Any) -> bool:
    """Whether `value` is a Linen or NNX model. Flax need not be installed."""
    return any(base.__name__ == "Module" and base.__module__.startswith("flax.") for base in type(value).__mro__)


def flax_advice(model: Any) -> str:
    """How a Flax model becomes a function."""
    linen = any(base.__module__.startswith("flax.linen") for base in type(model).__mro__)
    given = "model, variables" if linen else "model"
    end = "   # variables = model.init(key, x)" if linen else ""
    return f"    import jaxobian.flax\n    apply, params = jaxobian.flax.functional({given}){end}"


def resolve_argnums(argnums: Argnums, number: int) -> tuple[int, ...]:
    """`argnums` as non-negative positions; the same complaints as `jax.jacrev`."""
    positions = (argnums,) if isinstance(argnums, int) else tuple(operator.index(i) for i in argnums)
    highest = max((p if p >= 0 else -p - 1 for p in positions), default=-1)
    if highest >= number:
        raise ValueError(
            f"differentiating with respect to argnums={argnums!r} requires at least {highest + 1} positional "
            f"arguments to be passed by the caller, but got only {number} positional arguments."
        )
    resolved = tuple(p % number for p in positions)
    if len(set(resolved)) != len(resolved):
        raise ValueError(f"argnums={argnums!r} names an argument twice; name each once.")
    return resolved


def check_argnums(argnums: Any) -> None:
    """Raise for `argnums` that are neither an int nor a sequence of ints, as JAX does."""
    try:
        operator.index(argnums)
    except TypeError:
        try:
            [operator.index(i) for i in argnums]
        except TypeError:
            raise TypeError(
                f"argnums must be an int or a tuple of ints; got {argnums!r} of type {type(argnums).__name__}."
            ) from None


@dataclass(frozen=True)
class Arguments:
    """A call's arguments, taken apart into differentiated leaves and all the rest.

    `leaves` are the differentiated leaves that have a derivative; `rebuild` puts others in their place.
    `slots` says for every leaf of the differentiated arguments which of `leaves` it is, or None where it is
    an integer that `allow_int` let in; `places` has its argument's position and its path in there.
    """

    leaves: tuple[Any, ...]
    places: tuple[tuple[int, str], ...]
    tree: Any
    slots: tuple[int | None, ...]
    inert: tuple[Any, ...]
    positions: tuple[int, ...]
    args: tuple[Any, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """The leaves' names."""
        return tuple(map(_path, self.differentiated_places))

    @property
    def differentiated_places(self) -> list[tuple[int, str]]:
        """The places of `leaves`."""
        return [place for place, slot in zip(self.places, self.slots, strict=True) if slot is not None]

    def rebuild(self, leaves: Sequence[Any], rest: Rest | None = None) -> tuple[Any, ...]:
        """The positional arguments with `leaves` in place of the differentiated ones.

        The others are those of the call, untouched, or `rest`.
        """
        inert = self.inert if rest is None else rest.inert
        everything = [inert[k] if slot is None else leaves[slot] for k, slot in enumerate(self.slots)]
        args = list(self.args if rest is None else rest.args)
        for position, value in zip(self.positions, jax.tree.unflatten(self.tree, everything), strict=True):
            args[position] = value
        return tuple(args)


@dataclass(frozen=True)
class Rest:
    """Everything in a call that is not differentiated.

    A pytree of three fields: the positional arguments (None in place of the differentiated ones), the integer leaves
    inside those, and the keyword arguments.
    """

    args: tuple[Any, ...]
    inert: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, arguments: Arguments, kwargs: dict[str, Any]) -> Rest:
        others = tuple(None if k in arguments.positions else arg for k, arg in enumerate(arguments.args))
        return cls(others, arguments.inert, kwargs)

    def opened(self) -> tuple[tuple[Any, ...], Callable[[Sequence[Any]], Rest]]:
        """Its arrays, and a function that puts others in their place; all else stays as it is."""
        leaves, tree = jax.tree.flatten((self.args, self.inert, self.kwargs))
        is_open = list(map(_is_open, leaves))

        def close(arrays: Sequence[Any]) -> Rest:
            values = iter(arrays)
            filled = [next(values) if o else leaf for leaf, o in zip(leaves, is_open, strict=True)]
            return Rest(*jax.tree.unflatten(tree, filled))

        return tuple(as_array(leaf) for leaf, o in zip(leaves, is_open, strict=True) if o), close

    def places(self, arguments: Arguments) -> list[tuple[int | str, str]]:
        """Of each of its arrays, the position or keyword of its argument, and its path in there."""
        found: list[tuple[int | str, str]] = []
        for (part, name, *path), leaf in jax.tree_util.tree_flatten_with_path((self.args, self.inert, self.kwargs))[0]:
            if _is_open(leaf):
                key = name.key if part.idx == 2 else name.idx
                found.append(arguments.places[key] if part.idx == 1 else (key, jax.tree_util.keystr(tuple(path))))
        return found


def _is_open(leaf: Any) -> bool:
    """Whether a plan leaves a value open that is not differentiated: arrays, not Python's numbers."""
    return is_arraylike(leaf) and not is_python_number(leaf)


def take_apart(args: tuple[Any, ...], argnums: Argnums, *, holomorphic: bool, allow_int: bool) -> Arguments:
    """Find the differentiated leaves of a call.

    Raises:
        TypeError: a leaf has no derivative; the message has its path.
        ValueError: `argnums` names an argument that is not there.
    """
    positions = resolve_argnums(argnums, len(args))
    differentiated = tuple(args[p] for p in positions)
    keyed, tree = jax.tree_util.tree_flatten_with_path(differentiated)
    leaves, places, slots, inert = [], [], [], []
    for path, leaf in keyed:
        index = path[0].idx  # the outermost tree is the tuple of differentiated arguments
        places.append((positions[index], jax.tree_util.keystr(path[1:])))
        array = _differentiable(leaf, _path(places[-1]), holomorphic=holomorphic, allow_int=allow_int)
        slots.append(None if array is None else len(leaves))
        inert.append(leaf if array is None else None)
        if array is not None:
            leaves.append(array)
    return Arguments(tuple(leaves), tuple(places), tree, tuple(slots), tuple(inert), positions, args)


def _path(place: tuple[int, str]) -> str:
    """What we call a leaf: args[1]['w']."""
    return f"args[{place[0]}]{place[1]}"


def _differentiable(leaf: Any, name: str, *, holomorphic: bool, allow_int: bool) -> Any:
    """`leaf` as an array with a derivative, or None where `allow_int` lets it pass without one."""
    if not is_arraylike(leaf):
        if is_flax_module(leaf):
            raise TypeError(
                f"cannot differentiate with respect to {name}, a model object of type {type(leaf).__name__}. Use\n"
                f"{flax_advice(leaf)}\n"
                "and take the Jacobian of apply."
            )
        raise TypeError(
            f"cannot differentiate with respect to {name}: expected real or complex arrays, got {in_words(leaf)}. "
            "Leave it out of argnums."
        )
    array = as_array(leaf)
    if is_inexact(array):
        if holomorphic and not is_complex(array):
            raise TypeError(
                f"holomorphic=True requires complex inputs; {name} is {describe(array)}. Leave holomorphic out, or "
                "cast the argument to complex."
            )
        return array
    if allow_int:
        return None
    raise TypeError(
        f"cannot differentiate with respect to {name}, which is {describe(array)}: expected real or complex "
        "floating point. Cast it to float, leave it out of argnums, or pass allow_int=True."
    )


def check_outputs(outs: Sequence[Any], paths: Sequence[str], *, holomorphic: bool) -> None:
    """Raise TypeError where an output has no derivative.

    Raises:
        TypeError: an output is integer or bool; the message has its path and points to has_aux.
    """
    for out, path in zip(outs, paths, strict=True):
        if holomorphic and is_inexact(out) and not is_complex(out):
            raise TypeError(
                f"holomorphic=True requires complex outputs; the output{' ' + path if path else ''} is "
                f"{describe(out)}. Leave holomorphic out."
            )
        if not is_inexact(out):
            raise TypeError(
                f"the output{' ' + path if path else ''} is {describe(out)}, which has no derivative: expected real or "
                "complex floating point. Cast it to float, or return it beside the output and pass has_aux=True."
            )
