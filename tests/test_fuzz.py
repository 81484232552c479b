"""Random programs against `jax.jacrev`, in x64.

By default the same 60 on every run. `JAXOBIAN_FUZZ=2000` draws that many new ones and writes what came of
them to benchmarks/results/fuzz.json; with `JAXOBIAN_FUZZ_VALUES=0` it looks at their ties and patterns alone,
which takes a third of the time.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from jax import Array, lax
from oracles import assert_sound, structure_of

import jaxobian as jb

ASKED = os.environ.get("JAXOBIAN_FUZZ")
EXAMPLES = int(ASKED or 40)
VALUES = os.environ.get("JAXOBIAN_FUZZ_VALUES") != "0"
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "fuzz.json"
TOLERANCE = 1e-9
FORCED = ("fwd", "rev", "mixed", "colored")
MAX_SIZE = 30

Rng = np.random.Generator
OPS: dict[str, Callable[[Rng, Array, Array], Array]] = {}


# The words programs are made of -----------------------------------------------------------------------------
# Each takes a generator for its constants and two values of any shape, and may ignore the second.


def op(function: Callable[[Rng, Array, Array], Array]) -> Callable[[Rng, Array, Array], Array]:
    OPS[function.__name__] = function
    return function


def ops(**functions: Callable[[Array], Array]) -> None:
    for name, function in functions.items():
        OPS[name] = lambda rng, a, b, function=function: function(a)


def axis_of(rng: Rng, a: Array) -> int:
    return int(rng.integers(a.ndim))


def at_least_1d(a: Array) -> Array:
    return a[None] if a.ndim == 0 else a


def fitted(b: Array, a: Array) -> Array:
    """b in the shape of a: cut or repeated."""
    return jnp.resize(b, a.shape)


ops(
    sin=jnp.sin,
    tanh=jnp.tanh,
    square=lambda a: a * a,
    bell=lambda a: jnp.exp(-a * a),
    quotient=lambda a: a / (1 + a**2),
    root=lambda a: jnp.sqrt(1 + a * a),
    relu=jax.nn.relu,
    gelu=jax.nn.gelu,
    absolute=jnp.abs,
    clip=lambda a: jnp.clip(a, -0.7, 0.7),
    where=lambda a: jnp.where(a > 0.1, jnp.sin(a), 2 * a),
    straight_through=lambda a: a + lax.stop_gradient(jnp.round(a) - a),
    rounded=lambda a: a * jnp.floor(3 * a).astype(int),
    constant=lambda a: jnp.arange(3.0),
    flatten=lambda a: a.reshape(-1),
    outer=lambda a: jnp.outer(a.reshape(-1)[:5], a.reshape(-1)[-4:]),
    two_columns=lambda a: a.reshape(2, -1) if a.size % 2 == 0 else a.reshape(1, -1),
    nested_jit=lambda a: jax.jit(lambda v: jnp.sin(v) * jax.jit(jnp.cos)(v))(a),
    remat=lambda a: jax.checkpoint(lambda v: jnp.tanh(jnp.sin(v) * v))(a),
    gradient=lambda a: jax.grad(lambda v: jnp.sum(jnp.sin(v) * v**2))(a),
    tangent=lambda a: jax.jvp(jnp.tanh, (a,), (a,))[1],
    softmax=lambda a: jax.nn.softmax(at_least_1d(a)),
    through_complex=lambda a: (jnp.exp(1j * a) ** 2).real,
    fourier=lambda a: jnp.abs(jnp.fft.fft(at_least_1d(a)) + 3),
    fori_loop=lambda a: lax.fori_loop(0, 3, lambda i, v: jnp.sin(v) * (i + 1), a),
    integer_while=lambda a: a * lax.while_loop(lambda i: i < 4, lambda i: i + 1, 0),
    cond=lambda a: lax.cond(jnp.sum(a) > 0.3, jnp.sin, lambda v: v * 2, a),
    switch=lambda a: lax.switch(2, [jnp.sin, jnp.cos, lambda v: v * v], a),
    vmap_inside=lambda a: jax.vmap(lambda row: jnp.sum(row) * row)(at_least_1d(a)),
    loop_map=lambda a: lax.map(lambda row: jnp.sum(row) * row, at_least_1d(a)),
    best=lambda a: jax.nn.one_hot(jnp.argmax(a), a.size, dtype=a.dtype) * a.reshape(-1),
)


@op
def add(rng, a, b):
    return a + fitted(b, a)


@op
def subtract_mean(rng, a, b):
    return a - jnp.mean(a)


@op
def multiply(rng, a, b):
    return a * fitted(b, a)


@op
def maximum(rng, a, b):
    return jnp.maximum(a, fitted(b, a))


@op
def select(rng, a, b):
    return jnp.where(rng.random(a.shape) < 0.5, a, fitted(b, a))


@op
def broadcast_product(rng, a, b):
    return a.reshape(-1)[:5, None] * b.reshape(-1)[None, :5]


@op
def scale_by_scalar(rng, a, b):
    return a * jnp.sum(b)


@op
def scale_axis(rng, a, b):
    a = at_least_1d(a)
    return a * rng.standard_normal(a.shape[-1])


@op
def dense(rng, a, b):
    a = at_least_1d(a)
    return a @ rng.standard_normal((a.shape[-1], int(rng.integers(1, 5))))


@op
def contract_axis(rng, a, b):
    a = at_least_1d(a)
    axis = axis_of(rng, a)
    return jnp.tensordot(rng.standard_normal((2, a.shape[axis])), a, axes=(1, axis))


@op
def matmul(rng, a, b):
    a = at_least_1d(a)
    return a @ jnp.resize(b, (a.shape[-1], 3))


@op
def batched_dot(rng, a, b):
    a = at_least_1d(a).reshape(len(at_least_1d(a)), -1)
    return jnp.einsum("bi,bj->bij", a[:3, :3], fitted(b, a)[:3, :3])


@op
def reduction(rng, a, b):
    a = at_least_1d(a)
    reduce = [jnp.sum, jnp.mean, jnp.max, jnp.min, jnp.prod, jnp.var, jax.scipy.special.logsumexp][
        rng.integers(7)
    ]
    return reduce(a, axis=axis_of(rng, a), keepdims=bool(rng.integers(2)))


@op
def norm(rng, a, b):
    return jnp.sqrt(0.1 + jnp.sum(a * a, axis=-1 if a.ndim else None))


@op
def cumulative(rng, a, b):
    a = at_least_1d(a)
    scan = [lax.cumsum, lax.cumprod, lax.cummax, lax.cumlogsumexp][rng.integers(4)]
    return scan(a, axis=axis_of(rng, a), reverse=bool(rng.integers(2)))


@op
def transpose(rng, a, b):
    return jnp.transpose(a, rng.permutation(a.ndim))


@op
def split_axis(rng, a, b):
    a = at_least_1d(a)
    return a.reshape(*a.shape[:-1], 2, -1) if a.shape[-1] % 2 == 0 else a[..., None]


@op
def merge_axes(rng, a, b):
    return a.reshape(-1, *a.shape[2:]) if a.ndim > 1 else a


@op
def squeeze(rng, a, b):
    return jnp.squeeze(a)


@op
def flip(rng, a, b):
    a = at_least_1d(a)
    return jnp.flip(a, axis_of(rng, a))


@op
def roll(rng, a, b):
    a = at_least_1d(a)
    return jnp.roll(a, int(rng.integers(-2, 3)), axis_of(rng, a))


@op
def slices(rng, a, b):
    a = at_least_1d(a)
    axis = axis_of(rng, a)
    start, stride = int(rng.integers(2)), int(rng.integers(1, 3))
    return lax.slice_in_dim(a, min(start, a.shape[axis]), a.shape[axis], stride, axis)


@op
def dynamic_slice(rng, a, b):
    a = at_least_1d(a)
    start = jnp.int32(rng.integers(3)) + jnp.sum(b > 0).astype(jnp.int32) % 2
    return lax.dynamic_slice_in_dim(a, start, (a.shape[0] + 1) // 2)


@op
def dynamic_update(rng, a, b):
    a = at_least_1d(a)
    return lax.dynamic_update_slice_in_dim(
        a, fitted(b, a)[: (a.shape[0] + 1) // 2], jnp.int32(rng.integers(2)), 0
    )


@op
def pad(rng, a, b):
    a = at_least_1d(a)
    widths = [(*map(int, rng.integers(-1 if size > 2 else 0, 2, 2)), 0) for size in a.shape]
    return lax.pad(a, jnp.asarray(0.5, a.dtype), widths)


@op
def concatenate(rng, a, b):
    return jnp.concatenate([a.reshape(-1), b.reshape(-1)])


@op
def stack(rng, a, b):
    return jnp.stack([a, fitted(b, a)], axis=int(rng.integers(a.ndim + 1)))


@op
def tile(rng, a, b):
    return jnp.tile(a, 2)


@op
def gather(rng, a, b):
    a = at_least_1d(a)
    return jnp.take(a, rng.integers(0, a.shape[0], int(rng.integers(1, 5))), axis=0)


@op
def gather_where_it_says(rng, a, b):
    a = at_least_1d(a)
    return jnp.take_along_axis(a, jnp.argsort(fitted(b, a), axis=-1), axis=-1)


@op
def gather_pairs(rng, a, b):
    a = a.reshape(-1)
    return a[rng.integers(0, a.size, (3, 2))]


@op
def scatter_add(rng, a, b):
    a = at_least_1d(a)
    return jnp.zeros((3, *a.shape[1:])).at[rng.integers(0, 3, a.shape[0])].add(a)


@op
def scatter_set(rng, a, b):
    a = at_least_1d(a)
    return a.at[int(rng.integers(a.shape[0]))].set(jnp.sum(b))


@op
def sort(rng, a, b):
    a = at_least_1d(a)
    return jnp.sort(a, axis=axis_of(rng, a))


@op
def top_k(rng, a, b):
    a = at_least_1d(a)
    return lax.top_k(a, min(2, a.shape[-1]))[0]


@op
def scan(rng, a, b):
    a = at_least_1d(a)
    w = float(rng.standard_normal())

    def step(carry, row):
        carry = jnp.tanh(w * carry + row)
        return carry, carry * row

    last, rows = lax.scan(step, jnp.zeros(a.shape[1:]), a, reverse=bool(rng.integers(2)))
    return rows if rng.integers(2) else last


@op
def scan_with_constant(rng, a, b):
    weight = jnp.sum(b)
    return lax.scan(lambda c, i: (jnp.sin(c) * weight + i, None), a, jnp.arange(3.0))[0]


@op
def associative_scan(rng, a, b):
    a = at_least_1d(a)
    combine = lambda u, v: (u[0] * v[0], u[1] * v[0] + v[1])
    return lax.associative_scan(combine, (jnp.cos(a), a))[1]


@op
def windows(rng, a, b):
    a = a.reshape(-1)
    init, combine = [(0.0, lax.add), (-jnp.inf, lax.max)][rng.integers(2)]
    return lax.reduce_window(a, init, combine, (2,), (int(rng.integers(1, 3)),), "SAME")


@op
def convolution(rng, a, b):
    kernel = rng.standard_normal((2, 1, 3))
    return lax.conv_general_dilated(a.reshape(1, 1, -1), kernel.transpose(2, 1, 0), (1,), "SAME")[0]


@op
def solve(rng, a, b):
    matrix = rng.standard_normal((3, 3)) + 4 * np.eye(3)
    return jnp.linalg.solve(matrix, jnp.resize(a, (3,)))


@op
def cholesky(rng, a, b):
    root = jnp.resize(a, (3, 3))
    return jnp.linalg.cholesky(root @ root.T + 3 * jnp.eye(3))


@op
def custom_jvp(rng, a, b):
    return _custom_jvp(a)


@op
def custom_vjp(rng, a, b):
    return _custom_vjp(a)


@op
def dynamic_while(rng, a, b):
    return lax.while_loop(lambda v: jnp.sum(v**2) < 30, lambda v: 1.5 * v + 0.2 + 0.1 * jnp.sin(v), a)


# Rules that are not the derivative: they are to be obeyed.
_custom_jvp = jax.custom_jvp(lambda a: a**2)
_custom_jvp.defjvp(lambda primals, tangents: (primals[0] ** 2, 3 * primals[0] * tangents[0]))
_custom_vjp = jax.custom_vjp(lambda a: a**2)
_custom_vjp.defvjp(lambda a: (a**2, a), lambda a, g: (3 * a * g,))

# What JAX cannot push, or cannot pull.
_ONE_WAY = ("custom_vjp", "dynamic_while")


# Programs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    op: str
    first: int  # operands count back from the latest value
    second: int
    seed: int


@dataclass(frozen=True)
class Program:
    """A random function of one or two arrays to one or two."""

    shapes: tuple[tuple[int, ...], ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    def __call__(self, *inputs: Array, pushable: bool = False) -> tuple[Array, ...]:
        values = list(inputs)
        for step in self.steps:
            a, b = (values[-1 - i % len(values)] for i in (step.first, step.second))
            word = "custom_jvp" if pushable and step.op == "custom_vjp" else step.op
            # Of an array of no elements there is little to ask, and much that is an error.
            value = OPS[word](np.random.default_rng(step.seed), a, b) if a.size and b.size else a
            values.append(value if value.size <= MAX_SIZE else value.reshape(-1)[:MAX_SIZE])
        return tuple(values[-1 - i % len(values)] for i in self.outputs)

    def inputs(self) -> tuple[Array, ...]:
        rng = np.random.default_rng(len(self.steps))

        def away_from_zero(shape: tuple[int, ...]) -> Array:
            return jnp.asarray(rng.uniform(0.2, 1.2, shape) * rng.choice([-1, 1], shape))

        return tuple(map(away_from_zero, self.shapes))

    @property
    def words(self) -> set[str]:
        return {step.op for step in self.steps}

    def expected(self, *inputs: Array) -> Any:
        """By JAX: reverse, or where it cannot, forward, with rules for reverse given as rules for forward."""
        argnums = tuple(range(len(inputs)))
        if "dynamic_while" not in self.words:
            return jax.jit(jax.jacrev(self, argnums))(*inputs)
        return jax.jit(jax.jacfwd(lambda *xs: self(*xs, pushable=True), argnums))(*inputs)


# What forbids a mode comes up more often than the rest.
WORDS = (*OPS, *_ONE_WAY, *_ONE_WAY)


def program(seed: int, length: int) -> Program:
    """The first `length` steps of the random program of that number.

    Hypothesis draws only the two numbers, and shrinks the length: drawing every step by itself, it spent its
    time on programs such as sin(sin(sin(x))).
    """
    rng = np.random.default_rng(seed)
    shapes = tuple(tuple(map(int, rng.integers(1, 5, rng.integers(4)))) for _ in range(rng.integers(1, 3)))
    outputs = tuple(map(int, rng.integers(0, 4, rng.integers(1, 3))))
    draws = [(str(rng.choice(WORDS)), *map(int, rng.geometric([0.7, 0.3]) - 1), i) for i in range(length)]
    return Program(shapes, tuple(Step(*draw) for draw in draws), (0, *outputs[1:]))


programs = st.builds(program, st.integers(0, 2**32 - 1), st.integers(3, 12))


# The test ---------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    programs: int = 0
    not_finite: int = 0
    structures: int = 0
    jacobians: int = 0
    chosen: Counter[str] = field(default_factory=Counter)
    forced: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    nonzeros: int = 0
    in_patterns: int = 0
    miscompiled: int = 0
    largest_difference: float = 0.0

    def __str__(self) -> str:
        def told(counts: Counter[str]) -> str:
            return ", ".join(f"{mode} {count}" for mode, count in sorted(counts.items()))

        return (
            f"fuzz: {self.programs} random programs of {len(self.words)} kinds of operation, "
            f"{self.jacobians} Jacobians (auto chose {told(self.chosen)}; forced were {told(self.forced)}), "
            f"{self.not_finite} programs not finite, {self.miscompiled} miscompiled by XLA, "
            f"{self.nonzeros} nonzeros in patterns of {self.in_patterns}, "
            f"largest relative difference {self.largest_difference:.1e}"
        )

    def write(self, path: Path) -> None:
        record = {
            "programs": self.programs,
            "not_finite": self.not_finite,
            "miscompiled_by_xla": self.miscompiled,
            "ties_and_patterns": self.structures,
            "nonzeros": self.nonzeros,
            "elements_in_patterns": self.in_patterns,
            "jacobians": self.jacobians,
            "chosen": dict(sorted(self.chosen.items())),
            "forced": dict(sorted(self.forced.items())),
            "largest_relative_difference": self.largest_difference,
            "operations": dict(sorted(self.words.items())),
            "versions": {
                "python": platform.python_version(),
                "jax": jax.__version__,
                "jaxlib": jaxlib.__version__,
            },
            "date": datetime.date.today().isoformat(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n")


def _is_row(node: Any) -> bool:
    """The blocks of an output by each input."""
    return isinstance(node, tuple) and all(isinstance(block, np.ndarray) for block in node)


def assert_pattern_holds(pattern: jb.Pattern, blocks: list[Any], sizes: list[int]) -> tuple[int, int]:
    """Count the nonzeros, and the elements of the pattern, which holds them all."""
    rows = [np.concatenate([b.reshape(-1, n) for b, n in zip(row, sizes, strict=True)], 1) for row in blocks]
    true = np.concatenate(rows) != 0
    assert pattern.shape == true.shape
    assert not (true & ~pattern.todense()).any(), "a nonzero is missing"
    return int(true.sum()), pattern.nnz


def relative_difference(actual: Any, expected: Any) -> float:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    worst = 0.0
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        scale = max(1.0, float(np.max(np.abs(b), initial=0)))
        worst = max(worst, float(np.max(np.abs(a - b), initial=0)) / scale)
    return worst


def miscompiled(program: Program, xs: Sequence[Array]) -> bool:
    """Whether JAX's own passes, compiled one after the other in one function, differ from the same not compiled so.

    XLA (0.10 to 0.12, CPU) updates a slice of an array in place by a slice of the same array that overlaps it.
    """
    argnums = tuple(range(len(xs)))
    sizes = [x.size for x in xs]

    def columns(*xs: Array) -> list[Any]:
        _, push = jax.linearize(lambda *xs: program(*xs, pushable=True), *xs)
        found = []
        for k in argnums:
            for e in np.eye(sizes[k]):
                seeds = [jnp.zeros_like(x) if j != k else jnp.asarray(e.reshape(x.shape)) for j, x in enumerate(xs)]
                found.append(push(*seeds))
        return found

    compiled, plain = jax.jit(columns)(*xs), columns(*xs)
    pairs = zip(jax.tree.leaves(compiled), jax.tree.leaves(plain), strict=True)
    return any(float(np.max(np.abs(a - b), initial=0)) > TOLERANCE for a, b in pairs)


def test_random_programs(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()

    @settings(
        max_examples=EXAMPLES,
        derandomize=ASKED is None,
        database=None,
        deadline=None,
        print_blob=True,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(programs, st.sampled_from(FORCED), st.sampled_from([None, 1, 2, 3, 5]), st.booleans())
    def check(program: Program, forced: str, chunk_size: int | None, jitted: bool) -> None:
        xs = program.inputs()
        argnums = tuple(range(len(xs)))
        tally.programs += 1
        tally.words.update(program.words)
        if tally.programs % 100 == 0:
            jax.clear_caches()  # or what was compiled is kept, and looked through ever again
            if ASKED:
                tally.write(RESULTS)
                with capsys.disabled():
                    print(tally.programs, end=" ", flush=True)
        expected = jax.device_get(program.expected(*xs))
        if not all(np.isfinite(block).all() for block in jax.tree.leaves(expected)):
            tally.not_finite += 1
            return
        blocks = [row if isinstance(row, tuple) else (row,) for row in jax.tree.leaves(expected, is_leaf=_is_row)]
        assert_sound(structure_of(program, *xs), blocks)
        pattern = jb.sparsity(program, *xs, argnums=argnums)
        nonzeros, in_pattern = assert_pattern_holds(pattern, blocks, [x.size for x in xs])
        tally.nonzeros += nonzeros
        tally.in_patterns += in_pattern
        tally.structures += 1
        if not VALUES:
            return
        auto = jb.jacobian(program, argnums, chunk_size=chunk_size)
        tally.chosen[auto.plan(*xs).mode] += 1
        for transform in (auto, jb.jacobian(program, argnums, mode=forced, chunk_size=chunk_size)):
            try:
                actual = (jax.jit(transform) if jitted else transform)(*xs)
            except jb.ModeError:
                assert transform is not auto, "some mode, or sequence of modes, works"
                assert forced == "mixed" or program.words & set(_ONE_WAY), "JAX can do either mode"
                continue
            tally.forced[forced] += transform is not auto
            difference = relative_difference(jax.device_get(actual), expected)
            if difference > TOLERANCE and miscompiled(program, xs):
                tally.miscompiled += 1
                return
            tally.jacobians += 1
            tally.largest_difference = max(tally.largest_difference, difference)
            assert difference <= TOLERANCE

    with jax.enable_x64(True):
        check()
    with capsys.disabled():
        print(f"\n{tally}")
    if ASKED:
        tally.write(RESULTS)
