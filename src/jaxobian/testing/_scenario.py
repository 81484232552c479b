"""What a scenario is, and the small vocabulary (random arrays, layers) that scenarios are written in."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Make = Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]
Map = Callable[[Array], Array]


@dataclass(frozen=True)
class Scenario:
    """A named function with inputs: one entry of the list that tests and benchmarks share.

    Attributes:
        name: unique; a valid Python identifier.
        make: builds `(f, args)` afresh, always the same ones. Nothing is allocated before it is called.
        argnums: the arguments to differentiate by, as in `jax.jacrev`.
        modes: the modes in which JAX itself can differentiate f, out of `"fwd"` and `"rev"`.
        batched: f maps a batch to a batch along axis 0 of the differentiated arguments and of every output.
        holomorphic: complex to complex, differentiated as such.
        reference: where JAX can do neither mode: builds a function with the same Jacobian that it can push.
        tags: `"bench"`: sized to be timed; `"large"`: too large for an ordinary test; `"complex"`;
            `"size_rule_wrong"`: to take `jax.jacfwd` when there are no more inputs than outputs, else
            `jax.jacrev`, is the slower choice.
        doc: one line.
    """

    name: str
    make: Make
    argnums: int | tuple[int, ...] = 0
    modes: tuple[str, ...] = ("fwd", "rev")
    batched: bool = False
    holomorphic: bool = False
    reference: Callable[[], Callable[..., Any]] | None = None
    tags: frozenset[str] = frozenset()
    doc: str = ""

    def __str__(self) -> str:
        return self.name

    @property
    def differentiated(self) -> tuple[int, ...]:
        """`argnums` as a tuple."""
        return (self.argnums,) if isinstance(self.argnums, int) else self.argnums

    def one(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """What the batched function `f` does to a single example."""

        def f_one(*args: Any) -> Any:
            batch = list(args)
            for i in self.differentiated:
                batch[i] = jax.tree.map(lambda x: x[None], args[i])
            return jax.tree.map(lambda y: y[0], f(*batch))

        return f_one

    def by_jax(self, f: Callable[..., Any], mode: str) -> Callable[..., Any]:
        """The Jacobian of f as a JAX user would write it: `jacfwd` or `jacrev`, for batches under `vmap`.

        Args:
            f: what `make()` returned (or `reference()`).
            mode: `"fwd"` or `"rev"`.

        Returns:
            A function of the scenario's arguments.
        """
        transform = {"fwd": jax.jacfwd, "rev": jax.jacrev}[mode]
        if not self.batched:
            return transform(f, self.argnums, holomorphic=self.holomorphic)
        of_one = transform(self.one(f), self.argnums, holomorphic=self.holomorphic)

        def by_vmap(*args: Any) -> Any:
            in_axes = tuple(0 if i in self.differentiated else None for i in range(len(args)))
            return jax.vmap(of_one, in_axes)(*args)

        return by_vmap

    def expected(self) -> Any:
        """The right answer, from JAX: reverse where it works, else forward, else forward on the reference."""
        f, args = self.make()
        if self.reference is not None:
            f = self.reference()
        return jax.jit(self.by_jax(f, "rev" if "rev" in self.modes else "fwd"))(*args)


def scenario(*tags: str, **fields: Any) -> Callable[[Make], Scenario]:
    """Make a Scenario of a function: its name, its docstring's first line, and the fields given."""

    def name_it(make: Make) -> Scenario:
        doc = (make.__doc__ or "").strip().partition("\n")[0]
        return Scenario(make.__name__, make, tags=frozenset(tags), doc=doc, **fields)

    return name_it


def normal(*shape: int, seed: int = 0, dtype: Any = jnp.float32) -> Array:
    """Standard normal numbers, the same on every run and every version of JAX."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def uniform(*shape: int, low: float = 0.5, high: float = 1.5, seed: int = 0) -> Array:
    """Uniform numbers in [low, high), by default away from zero."""
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, shape), jnp.float32)


def integers(high: int, *shape: int, seed: int = 0) -> Array:
    """Uniform int32 in [0, high)."""
    return jnp.asarray(np.random.default_rng(seed).integers(high, size=shape), jnp.int32)


def weights(*shape: int, seed: int = 0) -> Array:
    """Normal numbers over the square root of the fan-in (all axes but the last)."""
    return normal(*shape, seed=seed) / np.sqrt(np.prod(shape[:-1])).astype(np.float32)


def mlp(*widths: int, activation: Map = jnp.tanh, seed: int = 0) -> Map:
    """Dense layers of the widths given, `activation` between them, the last one linear."""
    layers = init_mlp(*widths, seed=seed)
    return lambda x: apply_mlp(layers, x, activation)


def init_mlp(*widths: int, seed: int = 0) -> list[dict[str, Array]]:
    """Parameters of an MLP as a pytree: a list of layers, each with `w` and `b`."""
    layers = enumerate(itertools.pairwise(widths), seed)
    return [{"w": weights(n, m, seed=i), "b": 0.1 * normal(m, seed=i)} for i, (n, m) in layers]


def apply_mlp(layers: list[dict[str, Array]], x: Array, activation: Map = jnp.tanh) -> Array:
    """Apply `init_mlp`'s parameters to x, whose last axis is the features."""
    for layer in layers[:-1]:
        x = activation(x @ layer["w"] + layer["b"])
    return x @ layers[-1]["w"] + layers[-1]["b"]


def conv(x: Array, kernel: Array, stride: int = 1, padding: str = "SAME") -> Array:
    """2-D convolution of NHWC images with an HWIO kernel."""
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=layout)


def max_pool(x: Array, size: int = 2) -> Array:
    """Max-pooling of NHWC images over disjoint windows."""
    window = (1, size, size, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def avg_pool(x: Array, size: int = 2) -> Array:
    """Average pooling of NHWC images over disjoint windows."""
    window = (1, size, size, 1)
    return lax.reduce_window(x, 0.0, lax.add, window, window, "VALID") / size**2


def upsample(x: Array) -> Array:
    """NHWC images, each pixel repeated 2 x 2."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
