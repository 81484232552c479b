"""The words programs are made of: what a word is, and the constants that words bring with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@dataclass(frozen=True)
class Word:
    """A function of two values of any shape and dtype, of which it may ignore the second.

    Attributes:
        name: by which programs call it.
        run: the function, of a `Maker`, for all that is not computed from its arguments, and the two values.
        complex: whether it takes complex values; else it is given real ones.
        holomorphic: whether it is holomorphic in both.
        half: whether it takes half precision; else it is given single.
        only: the one mode in which JAX can differentiate it, if there is only one.
    """

    name: str
    run: Callable[[Maker, Array, Array], Array]
    complex: bool = False
    holomorphic: bool = False
    half: bool = True
    only: str | None = None


WORDS: dict[str, dict[str, Word]] = {}


def word(group: str, **kind: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add a word of the function's name to a group."""

    def named(function: Callable[..., Any]) -> Callable[..., Any]:
        add(group, function.__name__, function, **kind)
        return function

    return named


def add(group: str, name: str, run: Callable[..., Array], **kind: Any) -> None:
    assert all(name not in words for words in WORDS.values()), f"two words are called {name}"
    WORDS.setdefault(group, {})[name] = Word(name, run, **kind)


def unary(group: str, functions: Mapping[str, Callable[[Any], Any]], **kind: Any) -> None:
    """Add functions of one value."""
    for name, function in functions.items():
        add(group, name, lambda c, a, b, function=function: function(a), **kind)


def binary(group: str, functions: Mapping[str, Callable[[Any, Any], Any]], **kind: Any) -> None:
    """Add functions of two values of the same shape and dtype."""
    for name, function in functions.items():
        add(group, name, lambda c, a, b, function=function: function(a, fitted(b, a)), **kind)


def find(name: str) -> Word:
    return next(words[name] for words in WORDS.values() if name in words)


# Values in the form that a word needs -----------------------------------------------------------------------


def is_complex(a: Any) -> bool:
    return jnp.issubdtype(a.dtype, jnp.complexfloating)


def is_half(a: Any) -> bool:
    return a.dtype in (jnp.float16, jnp.bfloat16)


def as_real(a: Array) -> Array:
    return jnp.real(a) + jnp.imag(a) / 2 if is_complex(a) else a


def single(a: Array) -> Array:
    """At least single precision, which factorisations and transforms need."""
    return a.astype(jnp.float32) if is_half(a) else a


def at_least_1d(a: Array) -> Array:
    return a[None] if a.ndim == 0 else a


def as_matrix(a: Array) -> Array:
    a = at_least_1d(a)
    return a.reshape(a.shape[0], -1)


def fitted(b: Array, a: Array) -> Array:
    """b in the shape and dtype of a: cut or repeated."""
    b = b if is_complex(a) else as_real(b)
    return jnp.resize(b, a.shape).astype(a.dtype)


def unit(a: Array) -> Array:
    """Between -1 and 1."""
    return jnp.sin(a) * 0.9


def positive(a: Array) -> Array:
    """Between 0.3 and 2.1."""
    return jnp.sin(a) * 0.9 + 1.2


# Constants --------------------------------------------------------------------------------------------------


class Maker:
    """What a word needs that is not computed from its arguments: numbers, constants, an array of indices.

    Args:
        seed: of its random numbers.
        index: an integer argument of the program, not differentiated: what it holds is not known before it runs.
        complex: whether constants may be complex where values are real.
    """

    def __init__(self, seed: int, index: Any, complex: bool = False):
        self.rng = np.random.default_rng(seed)
        self.index = index
        self.complex = complex

    def number(self, low: int, high: int) -> int:
        """One of low ... high - 1."""
        return int(self.rng.integers(low, high))

    def one_of(self, *things: Any) -> Any:
        return things[self.number(0, len(things))]

    def axis(self, a: Array) -> int:
        return self.number(0, a.ndim)

    def indices(self, size: int, shape: tuple[int, ...]) -> Any:
        """Indices into an axis of that size: NumPy's, JAX's, made by f, or computed from an argument."""
        known = self.rng.integers(0, size, shape)
        return self.one_of(
            lambda: known,
            lambda: closed_over(known),
            lambda: (jnp.arange(known.size) * self.number(1, 4) % size).reshape(shape),
            lambda: jnp.resize(self.index, shape) % size,
        )()

    def constant(self, shape: tuple[int, ...], like: Array) -> Any:
        """An array of that shape: of any kind that f may make, write down, or close over."""
        dense = self.rng.standard_normal(shape)
        sparse = np.where(self.rng.random(shape) < 0.7, 0, dense)
        values = self.one_of(dense, sparse, sparse)
        if is_complex(like) or (self.complex and self.number(0, 2)):
            imaginary = self.one_of(1j * values, 1j * values, values + 1j * np.roll(values, 1))
            single_precision = like.dtype.itemsize == (8 if is_complex(like) else 4)
            values = imaginary.astype(np.complex64 if single_precision else np.complex128)
        elif self.number(0, 6):
            values = values.astype(like.dtype)
        whole = np.sign(values.real).astype(np.int32)
        count = int(np.prod(shape))
        made = jnp.where(jnp.arange(count) % 3 == 0, 0.7, 0).reshape(shape).astype(like.dtype)
        return self.one_of(
            lambda: values,
            lambda: values,
            lambda: closed_over(values),
            lambda: jnp.asarray(values),
            lambda: made * values.dtype.type(1j) if np.iscomplexobj(values) else made,
            lambda: whole,
        )()

    def constant_like(self, shape: tuple[int, ...], like: Array) -> Any:
        """An array of that shape, of the same dtype as another."""
        values = self.constant(shape, like)
        return (values if is_complex(like) else values.real).astype(like.dtype)


def closed_over(values: np.ndarray) -> Array:
    """An array of JAX's that was there before the trace."""
    with jax.ensure_compile_time_eval():
        return jnp.asarray(values)
