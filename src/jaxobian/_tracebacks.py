"""Errors inside f: they name f and its line, and few of our frames stand between it and whoever called us."""

from __future__ import annotations

import functools
import inspect
import os
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
# Functions of people's own live here, too: these are looked at as any other code is.
_NOT_OURS = (os.path.join(_HERE, "testing") + os.sep, os.path.join(_HERE, "demo.py"))

C = TypeVar("C", bound=Callable[..., Any])


def innermost(f: Any) -> Any:
    """The function that the user wrote: without `functools.partial` and decorators around it."""
    while isinstance(f, functools.partial) or "__wrapped__" in getattr(f, "__dict__", ()):
        f = f.func if isinstance(f, functools.partial) else f.__wrapped__
    f = inspect.unwrap(f)  # what JAX compiles has no dictionary
    return f if hasattr(f, "__code__") or inspect.isclass(f) else getattr(f, "__call__", f)  # noqa: B004


def stands_for(f: Callable[..., Any], *, same_arguments: bool = True) -> Callable[[C], C]:
    """A decorator for a function of ours that calls `f`: JAX's errors name `f` and its line in place of it.

    Args:
        f: the user's function.
        same_arguments: whether ours takes the arguments of `f`, so that their names are its own.
    """

    def named(ours: C) -> C:
        theirs: Any = ours
        try:
            theirs.__signature__ = inspect.signature(f if same_arguments else ours)
        except (TypeError, ValueError):  # a builtin that has none
            theirs.__signature__ = inspect.signature(lambda *args, **kwargs: None)
        theirs.__wrapped__ = innermost(f)
        return ours

    return named


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class _Argument:
    """The arrays of an argument of f, each under its path within it."""

    paths: tuple[str, ...]
    arrays: tuple[Any, ...]

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        return tuple(zip(self.paths, self.arrays, strict=True)), self.paths

    @classmethod
    def tree_unflatten(cls, paths: tuple[str, ...], arrays: Sequence[Any]) -> _Argument:
        return cls(paths, tuple(arrays))


@dataclass(frozen=True)
class Call:
    """A call of the user's function, as far as JAX's errors are to name it.

    Attributes:
        f: the function.
        n_args: how many positional arguments it is given.
        keywords: the keyword arguments that it is given.
        places: of each array, the position or keyword of its argument, and its path in there.
    """

    f: Callable[..., Any]
    n_args: int
    keywords: tuple[str, ...]
    places: Sequence[tuple[int | str, str]]

    @property
    def named(self) -> Callable[[C], C]:
        """A decorator for a function of ours with the arguments of `f`."""
        return stands_for(self.f)

    def arguments(self, arrays: Sequence[Any]) -> tuple[list[_Argument], dict[str, _Argument]]:
        """The arrays as positional and as keyword arguments; one that holds none of them is empty."""

        def argument(name: int | str) -> _Argument:
            found = [(path, x) for (where, path), x in zip(self.places, arrays, strict=True) if where == name]
            return _Argument(tuple(path for path, _ in found), tuple(x for _, x in found))

        return [argument(k) for k in range(self.n_args)], {name: argument(name) for name in self.keywords}

    def arrays(self, args: Sequence[_Argument], kwargs: Mapping[str, _Argument]) -> list[Any]:
        """The arrays that `arguments` was given."""
        left = {name: iter(each.arrays) for name, each in (*enumerate(args), *kwargs.items())}
        return [next(left[name]) for name, _ in self.places]


def entry(call: C) -> C:
    """A decorator for what users call: an error comes with this call's frame and without those inside the library.

    Of the library's frames only the one where the error arose is left, if it arose there. As with JAX's own,
    `jax.config.update("jax_traceback_filtering", "off")` leaves all in place.
    """

    @functools.wraps(call)
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            if getattr(jax.config, "jax_traceback_filtering", None) != "off":
                error.__traceback__ = _shortened(error.__traceback__)
            raise

    return called  # type: ignore[return-value]


def _shortened(traceback: types.TracebackType | None) -> types.TracebackType | None:
    """The traceback from the call of an `entry` on, without library frames between that and the last one."""
    frames = []
    while traceback is not None:
        frames.append(traceback)
        traceback = traceback.tb_next
    _, first, *others = frames if len(frames) > 1 else [None, *frames]  # ours, then what it calls
    kept = [first] + [tb for tb in others if tb is others[-1] or not _is_ours(tb.tb_frame.f_code.co_filename)]
    following = None
    for tb in reversed(kept):
        following = types.TracebackType(following, tb.tb_frame, tb.tb_lasti, tb.tb_lineno)
    return following


def _is_ours(file: str) -> bool:
    return file.startswith(_HERE) and not file.startswith(_NOT_OURS)
