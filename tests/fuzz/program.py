"""Random programs: what they are made of is drawn from a seed, so that a number says which program it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from . import control
from .words import WORDS, Maker, as_real, find, single

# How often a group is drawn from.
_GROUPS = {
    "elementwise": 20, "special": 3, "networks": 3, "moves": 14, "indexing": 13, "sorting": 4, "reductions": 12,
    "products": 10, "convolutions": 4, "transforms": 4, "factorisations": 5, "solves": 4, "loops": 9, "branches": 4,
    "calls": 9, "rules": 6,
}  # fmt: skip
_OF_ROWS = {"rows": 10, "elementwise": 5, "networks": 1, "indexing": 1, "reductions": 2, "calls": 1}
_MANY_ROWS = (1, 2, 33, 64, 97, 120, 200)
# name: how often, dtypes of the inputs, whether 64-bit numbers are there, whether values may be complex.
_KINDS = {
    "real": (42, ("float64", "float32"), True, False),
    "single": (14, ("float32",), False, False),
    "half": (14, ("float16", "bfloat16", "float32"), True, False),
    "real to complex": (14, ("float64", "float32"), True, True),
    "complex to real": (8, ("complex128", "complex64", "float64"), True, True),
    "holomorphic": (8, ("complex128", "complex64"), True, True),
}
_LARGEST, _LARGEST_OF_ROWS = 24, 500


@dataclass(frozen=True)
class Step:
    """A word, how far back its operands are, and the seed of what it brings along."""

    word: str
    first: int
    second: int
    seed: int


@dataclass(frozen=True)
class Program:
    """A random function of one or two arrays, in a tree, and an array of integers, to a tree of one or two arrays.

    Attributes:
        seed: the number it was drawn from.
        kind: what its numbers are, a key of `_KINDS`.
        shapes, dtypes: of its inputs.
        steps: what it does.
        outputs: how many values before the last one each output is.
        packed: how its inputs and its outputs are packed: "alone", "args", "dict", "nested".
        has_aux: whether it returns more, which is not differentiated.
    """

    seed: int
    kind: str
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    packed: tuple[str, str]
    has_aux: bool

    # What it computes ---------------------------------------------------------------------------------------

    def values(self, inputs: Sequence[Array], index: Any, pushable: bool = False) -> list[Array]:
        """Its outputs; where `pushable`, by rules that can be pushed in place of those that cannot."""
        may_be_complex = _KINDS[self.kind][3]
        values = list(inputs)
        for step in self.steps:
            word = find(step.word)
            a, b = (values[-1 - i % len(values)] for i in (step.first, step.second))
            if not word.half:
                a, b = single(a), single(b)
            if not word.complex or not may_be_complex:
                a, b = as_real(a), as_real(b)
            run = control.PUSHABLE.get(step.word, word.run) if pushable else word.run
            # Of an array of no elements there is little to ask, and much that is an error.
            value = run(Maker(step.seed, index, may_be_complex), a, b) if a.size and b.size else a
            values.append(value if value.size <= self.largest else value.reshape(-1)[: self.largest])
        kept = [values[-1 - i % len(values)] for i in self.outputs]
        if self.kind == "real to complex":
            return kept
        if self.kind == "holomorphic":
            return [y.astype(jnp.result_type(y.dtype, jnp.complex64)) for y in kept]
        return [as_real(y) for y in kept]

    def __call__(self, *args: Any, pushable: bool = False) -> Any:
        outputs = self.values(jax.tree.leaves(args[:-1]), args[-1], pushable)
        y = _packed(outputs, self.packed[1])
        return (y, {"count": sum(jnp.sum(v != 0) for v in outputs), "y": y}) if self.has_aux else y

    # What it is called with ---------------------------------------------------------------------------------

    @property
    def largest(self) -> int:
        return _LARGEST_OF_ROWS if max(map(np.prod, self.shapes)) > _LARGEST else _LARGEST

    def inputs(self, example: int = 0) -> list[Any]:
        """Arrays away from zero, others for each example."""
        rng = np.random.default_rng((self.seed, example))

        def drawn(shape: tuple[int, ...]) -> Any:
            return rng.uniform(0.2, 1.2, shape) * rng.choice([-1, 1], shape)

        made = []
        for shape, dtype in zip(self.shapes, map(jnp.dtype, self.dtypes), strict=True):
            values = drawn(shape) + 1j * drawn(shape) if jnp.issubdtype(dtype, np.complexfloating) else drawn(shape)
            made.append(jnp.asarray(values, dtype))
        return made

    @property
    def index(self) -> Array:
        return jnp.asarray(np.random.default_rng(self.seed).integers(0, 50, 4), jnp.int32)

    def args(self, inputs: Sequence[Any] | None = None) -> tuple[Any, ...]:
        """All its arguments, the differentiated ones first."""
        packed = _packed(self.inputs() if inputs is None else inputs, self.packed[0])
        return (*(packed if self.packed[0] == "args" else (packed,)), self.index)

    @property
    def argnums(self) -> int | tuple[int, ...]:
        return tuple(range(len(self.shapes))) if self.packed[0] == "args" else 0

    @property
    def holomorphic(self) -> bool:
        return self.kind == "holomorphic"

    @contextlib.contextmanager
    def numbers(self) -> Iterator[None]:
        """With 64-bit numbers, or without."""
        with jax.enable_x64(_KINDS[self.kind][2]):
            yield

    # What forbids a mode ------------------------------------------------------------------------------------

    def needs(self, mode: str) -> bool:
        """Whether some word of it can be differentiated in that mode alone."""
        return any(find(step.word).only == mode for step in self.steps)

    def shorter(self) -> Iterator[Program]:
        """The same with something left out."""
        for k in reversed(range(len(self.steps))):
            yield replace(self, steps=(*self.steps[:k], *self.steps[k + 1 :]))
        if self.has_aux:
            yield replace(self, has_aux=False)
        if len(self.outputs) > 1:
            yield replace(self, outputs=self.outputs[:1])
        if len(self.shapes) > 1:
            yield replace(self, shapes=self.shapes[:1], dtypes=self.dtypes[:1])
        if self.packed != ("alone", "alone") and len(self.outputs) == len(self.shapes) == 1:
            yield replace(self, packed=("alone", "alone"))


def _packed(leaves: Sequence[Any], how: str) -> Any:
    if how == "dict":
        return {f"x{k}": leaf for k, leaf in enumerate(leaves)}
    if how == "nested":
        return [leaves[0], {"more": tuple(leaves[1:])}]
    return leaves[0] if how == "alone" and len(leaves) == 1 else tuple(leaves)


def program(seed: int) -> Program:
    """The random program of that number."""
    rng = np.random.default_rng(seed)

    def one_of(weights: dict[str, int]) -> str:
        total = sum(weights.values())
        return str(rng.choice(list(weights), p=[w / total for w in weights.values()]))

    kind = one_of({name: how_often for name, (how_often, *_) in _KINDS.items()})
    _, dtypes, _, may_be_complex = _KINDS[kind]
    of_rows = not may_be_complex and rng.random() < 0.2
    count = int(rng.integers(1, 3))
    shapes = [tuple(map(int, rng.integers(1, 5, rng.integers(0, 4)))) for _ in range(count)]
    if of_rows:
        shapes = [(int(rng.choice(_MANY_ROWS)), int(rng.integers(1, 4))) for _ in range(count)]
        count = 1 if sum(map(np.prod, shapes)) > _LARGEST_OF_ROWS else count
    groups = _OF_ROWS if of_rows else _GROUPS
    words = {g: [n for n, w in WORDS[g].items() if w.holomorphic or kind != "holomorphic"] for g in groups}
    if kind == "complex to real":  # which JAX cannot push
        words = {g: [n for n in names if find(n).only != "fwd"] for g, names in words.items()}
    groups = {g: often for g, often in groups.items() if words[g]}
    steps = []
    for _ in range(int(rng.integers(2, 7))):
        first, second = (int(n) - 1 for n in rng.geometric([0.7, 0.3]))
        steps.append(Step(str(rng.choice(words[one_of(groups)])), first, second, int(rng.integers(0, 2**31))))
    return Program(
        seed,
        kind,
        tuple(shapes[:count]),
        tuple(map(str, rng.choice(dtypes, count))),
        tuple(steps),
        (0, *map(int, rng.integers(0, 4, rng.integers(0, 2)))),
        (str(rng.choice(["alone", "args", "dict", "nested"])), str(rng.choice(["alone", "args", "dict", "nested"]))),
        bool(rng.random() < 0.2),
    )
