"""Ties: their algebra, a numeric proof for the rule of each primitive, and where they must survive."""

# ruff: noqa: E501 - the table has a row an entry

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from oracles import allowed, assert_sound, assert_ties, dependences_of, structure_of

import jaxobian as jb
from jaxobian._analysis import Digit, Line
from jaxobian._analysis.ties._rules import reshaped
from jaxobian._analysis.ties._ties import compose, holds, join, simplified, transposed, within
from jaxobian._primitives import PRIMITIVES
from jaxobian._request import Format, Mode
from jaxobian._trace import program_of, walk
from jaxobian.testing import scenarios


def normal(*shape: int, seed: int = 0, dtype: Any = jnp.float32) -> Any:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def positive(*shape: int) -> Any:
    return jnp.asarray(np.random.default_rng(1).uniform(0.5, 1.5, shape), jnp.float32)


# The algebra ------------------------------------------------------------------------------------------------

SIZE = 12
TIES = [
    *(Line(0, 0, sign, offset) for sign, offset in [(1, 0), (1, 2), (1, -3), (1, 4), (-1, 11), (-1, 5)]),
    *(Digit(0, s, 0, t, n) for s in (1, 2, 3) for t in (1, 2, 3) for n in (0, 2, 3, 4, 6)),
]


def pairs(relation: Any) -> set[tuple[int, int]]:
    return {(i, k) for i in range(SIZE) for k in range(SIZE) if holds(relation, (i,), (k,))}


@pytest.mark.parametrize("first", TIES, ids=str)
def test_composition_and_join_claim_nothing_that_is_not_so(first: Any) -> None:
    left = pairs(frozenset([first]))
    for second in TIES:
        right = pairs(frozenset([second]))
        through = {(i, k) for i, m in left for n, k in right if m == n}
        assert through <= pairs(compose(frozenset([first]), frozenset([second])))
        assert left | right <= pairs(join(frozenset([first]), frozenset([second])))
        assert pairs(simplified([first, second])) == left & right
    assert {(k, i) for i, k in left} == pairs(transposed(frozenset([first])))


def test_allowed_is_holds() -> None:
    for tie in TIES:
        i, k = np.divmod(np.arange(SIZE**2), SIZE)
        expected = [holds(frozenset([tie]), (a,), (b,)) for a, b in zip(i, k, strict=True)]
        np.testing.assert_array_equal(allowed(frozenset([tie]), i[:, None], k[:, None]), expected)


SHAPES = [(12,), (3, 4), (4, 3), (2, 6), (2, 3, 2), (6, 1, 2), (2, 2, 3), (12, 1), (1, 3, 4)]


def _place(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(int, np.unravel_index(flat, shape)))


@pytest.mark.parametrize(("out", "inp"), list(itertools.product(SHAPES, SHAPES)))
def test_reshapes_keep_their_digits(out: tuple[int, ...], inp: tuple[int, ...]) -> None:
    relation = reshaped(out, inp)
    for flat in range(12):
        assert holds(relation, _place(flat, out), _place(flat, inp))
    # There and back again everything is tied, where every axis of the one is digits of the other.
    back = compose(reshaped(inp, out), relation)
    assert all(holds(back, _place(a, inp), _place(a, inp)) for a in range(12))
    if out == (12,):
        assert {Line(a, a, 1, 0) for a, n in enumerate(inp) if n > 1} <= within(back, inp, inp)


# A numeric proof for each rule ------------------------------------------------------------------------------
#
# name: (f, x, ties that must be found). J is dense and random where the primitive lets it be.

X, Y = normal(4, 6), normal(4, 6, seed=2)
IMAGE = normal(2, 4, 6, 6)
NHWC = ("NHWC", "HWIO", "NHWC")
MATRICES = normal(3, 4, 4) + 5 * jnp.eye(4)
LOWER = jnp.tril(MATRICES)


def conv(x: Any, k: Any, stride: int = 1, padding: Any = "SAME", **more: Any) -> Any:
    return lax.conv_general_dilated(x, k, (stride,) * 2, padding, **more)


def both(*axes: int) -> set[Line]:
    return {Line(a, a, 1, 0) for a in axes}


def loop(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """f after a number of steps that depends on x: only in such loops are nonlinear equations active."""
    return lambda x: lax.while_loop(lambda c: c[0] < jnp.sum(x) * 0 + 2, lambda c: (c[0] + 1, f(c[1])), (0.0, x))[1]


@jax.custom_vjp
def straight(x):
    return jnp.round(x)


straight.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (2 * g,))

RULED: dict[str, tuple[Callable[[Any], Any], Any, set[Any]]] = {
    "elementwise": (lambda x: jnp.sin(x) * x + Y, X, both(0, 1)),
    "silent broadcast": (lambda x: x * lax.broadcast(jnp.sum(x), ()), X, set()),
    "size-1 axes": (lambda x: lax.add(x, jnp.broadcast_to(jnp.mean(x, 1, keepdims=True), x.shape)), X, both(0)),
    "select": (lambda x: jnp.where(Y > 0, x, 2 * x[::-1]), X, both(1)),
    "clamp": (lambda x: lax.clamp(-0.5, x, 0.5) * x, X, both(0, 1)),
    "complex": (lambda x: jnp.abs(lax.complex(x, Y)) ** 2, X, both(0, 1)),
    "broadcast": (lambda x: jnp.broadcast_to(x[:, None], (4, 5, 6)) * normal(4, 5, 6), X, {Line(0, 0, 1, 0), Line(2, 1, 1, 0)}),
    "transpose": (lambda x: jnp.sin(x).T, X, {Line(0, 1, 1, 0), Line(1, 0, 1, 0)}),
    "reshape": (lambda x: x.reshape(2, 2, 3, 2), X, {Digit(0, 1, 0, 2, 0), Digit(1, 1, 0, 1, 2)}),
    "reshape and back": (lambda x: jnp.sin(x.reshape(24)).reshape(4, 6), X, both(0, 1)),
    "reshape in Fortran's order": (lambda x: jnp.sin(x).reshape((2, 2, 6), order="F"), X,
                                   {Digit(0, 1, 0, 1, 2), Digit(1, 1, 0, 2, 0), Line(2, 1, 1, 0)}),
    "squeeze": (lambda x: jnp.squeeze(x[:, None]), X, both(0, 1)),
    "reduce_sum": (lambda x: jnp.sum(x, 1), X, both(0)),
    "reduce_max": (loop(lambda x: x - jnp.max(x, 1, keepdims=True)), X, both(0)),
    "reduce_prod": (lambda x: jnp.prod(x, 0), X, {Line(0, 1, 1, 0)}),
    "generic reduce": (loop(lambda x: x * lax.reduce(x, 1.0, lambda a, b: a * jnp.cos(b), (1,))[:, None]), X, set()),
    "dot": (lambda x: x @ normal(6, 5), X, both(0)),
    "dot from the left": (lambda x: normal(5, 4) @ x, X, both(1)),
    "batched dot": (lambda x: jnp.einsum("bij,bjk->bik", normal(4, 3, 6), x[:, :, None] * normal(6, 2)), X, both(0)),
    "quadratic": (lambda x: jnp.einsum("bi,bj->bij", x, x), X, both(0)),
    "convolution": (lambda x: conv(x, normal(5, 4, 3, 3)), IMAGE, both(0)),
    "strided convolution": (lambda x: conv(x, normal(5, 4, 3, 3), 2, [(2, 1)] * 2, lhs_dilation=(2, 2)), IMAGE, both(0)),
    "1 x 1 convolution": (lambda x: conv(x, normal(5, 4, 1, 1)), IMAGE, both(0, 2, 3)),
    "grouped convolution": (lambda x: conv(x, normal(6, 2, 3, 3), feature_group_count=2), IMAGE,
                            {Line(0, 0, 1, 0), Digit(1, 3, 1, 2, 0)}),
    "depthwise convolution": (lambda x: conv(x, normal(4, 1, 3, 3), feature_group_count=4), IMAGE, both(0, 1)),
    "batch groups": (lambda x: conv(x, normal(6, 4, 3, 3), batch_group_count=2), normal(4, 4, 6, 6),
                     {Digit(0, 1, 0, 1, 2), Digit(1, 3, 0, 2, 0)}),
    "batch groups of one": (lambda x: conv(x, normal(6, 4, 3, 3), batch_group_count=2), IMAGE, {Digit(1, 3, 0, 1, 0)}),
    "by the kernel": (lambda k: conv(IMAGE, k), normal(5, 4, 3, 3), {Line(1, 0, 1, 0)}),
    "by a grouped kernel": (lambda k: conv(IMAGE, k, feature_group_count=2), normal(6, 2, 3, 3), {Line(1, 0, 1, 0)}),
    "by a kernel of batch groups": (lambda k: conv(IMAGE, k, batch_group_count=2), normal(6, 4, 3, 3), {Line(1, 0, 1, 0)}),
    "kernel's gradient": (lambda x: jax.grad(lambda k: jnp.sum(conv(x, k) ** 2))(normal(5, 4, 3, 3)), IMAGE, set()),
    "NHWC": (lambda x: conv(x, normal(3, 3, 6, 5), dimension_numbers=NHWC), IMAGE, both(0)),
    "slice": (lambda x: x[1:3, ::2], X, {Line(0, 0, 1, -1), Digit(1, 1, 1, 2, 0)}),
    "slice of a slice": (lambda x: x[1:][:, 1::2] * 2, X, {Line(0, 0, 1, -1)}),
    "far slice": (lambda x: x[4::2], normal(12), {Digit(0, 1, 0, 2, 2)}),
    "pad": (lambda x: jnp.pad(x, ((1, 0), (0, 2))), X, {Line(0, 0, 1, 1), Line(1, 1, 1, 0)}),
    "interior pad": (lambda x: lax.pad(x, 0.0, ((0, 0, 1), (3, 0, 2))), X, {Digit(0, 2, 0, 1, 0)}),
    "negative pad": (lambda x: lax.pad(x, 0.0, ((-1, 0, 0), (0, -2, 0))), X, {Line(0, 0, 1, -1), Line(1, 1, 1, 0)}),
    "negative interior pad": (lambda x: lax.pad(x, 0.0, ((-2, 1, 1), (-1, 0, 2))), X, set()),
    "concatenate": (lambda x: jnp.concatenate([x, jnp.sin(x)], 1), X, {Line(0, 0, 1, 0), Digit(1, 1, 1, 1, 6)}),
    "cut and joined": (lambda x: jnp.concatenate([jnp.sin(x[:3]), x[3:] ** 2]), X, both(0, 1)),
    "split": (lambda x: jnp.concatenate(jnp.split(jnp.sin(x), 2, 1), 1), X, both(0, 1)),
    "stack": (lambda x: jnp.stack([x, x**2]), X, {Line(1, 0, 1, 0), Line(2, 1, 1, 0)}),
    "rev": (lambda x: jnp.sin(x[::-1]), X, {Line(0, 0, -1, 3), Line(1, 1, 1, 0)}),
    "rev twice": (lambda x: jnp.sin(x[::-1])[::-1], X, both(0, 1)),
    "roll": (lambda x: jnp.roll(x, 1, 0), X, both(1)),
    "tile": (lambda x: jnp.tile(x, (2, 1)), X, {Digit(0, 1, 0, 1, 4), Line(1, 1, 1, 0)}),
    "repeat": (lambda x: jnp.repeat(x, 3, axis=0), X, {Line(1, 1, 1, 0)}),
    "cumsum": (lambda x: jnp.cumsum(x, 1), X, both(0)),
    "cumprod": (lambda x: jnp.cumprod(x, 0), X, both(1)),
    "cummax": (lambda x: lax.cummax(x, 1), X, both(0)),
    "cumlogsumexp": (lambda x: lax.cumlogsumexp(x, 1), X, both(0)),
    "reversed cumsum": (lambda x: lax.cumsum(x, 1, reverse=True), X, both(0)),
    "sort": (lambda x: jnp.sort(x, 1), X, both(0)),
    "sort along axis 0": (lambda x: jnp.sort(x, 0), X, both(1)),
    "sort inside a loop": (loop(lambda x: lax.sort(x * Y, dimension=1)), X, both(0)),
    "two sorted together": (lambda x: lax.sort((x, x * Y), dimension=1, num_keys=1)[1], X, both(0)),
    "top_k": (lambda x: lax.top_k(x, 3)[0], X, both(0)),
    "fft": (lambda x: jnp.abs(jnp.fft.fft(x)) ** 2, X, both(0)),
    "rfft2": (lambda x: jnp.abs(jnp.fft.rfft2(x)), IMAGE, both(0, 1)),
    "gather of rows": (lambda x: x[jnp.array([3, 1, 1])], X, both(1)),
    "gather of columns": (lambda x: x[:, jnp.array([3, 1, 1])], X, both(0)),
    "gather by its own position": (lambda x: x[jnp.arange(4), jnp.array([0, 5, 2, 2])], X, both(0)),
    "gather by position of some": (lambda x: x[jnp.arange(3), jnp.array([0, 5, 2])], X, both(0)),
    "gather by position, the other way": (lambda x: x[jnp.arange(4)[::-1], jnp.arange(4)], X, {Line(0, 1, 1, 0)}),
    "gather of a diagonal": (lambda x: x[jnp.arange(4), jnp.arange(4)], X, {Line(0, 0, 1, 0), Line(0, 1, 1, 0)}),
    "clipped gather": (lambda x: x.at[jnp.arange(6), jnp.arange(6)].get(mode="clip"), X, set()),
    "take_along_axis": (lambda x: jnp.take_along_axis(x, jnp.argsort(Y, 1), 1), X, both(0)),
    "gather under vmap": (lambda x: jax.vmap(lambda row, i: row[i])(x, jnp.array([[0, 1], [2, 2], [5, 3], [1, 0]])), X, both(0)),
    "scatter-add": (lambda x: jnp.zeros((4, 9)).at[:, jnp.array([1, 1, 3, 8, 0, 2])].add(x), X, both(0)),
    "scatter into": (lambda x: x.at[jnp.array([1, 1]), 2].add(3.0) * 2, X, both(0, 1)),
    "scatter set": (lambda x: x.at[jnp.array([1, 2])].set(jnp.sin(x[:2])), X, both(1)),
    "scatter-mul": (lambda x: x.at[1].multiply(3.0), X, both(0, 1)),
    "scatter by its own position": (lambda x: jnp.zeros((4, 7)).at[jnp.arange(4), jnp.array([6, 0, 0, 2])].add(x[:, 0]), X, both(0)),
    "scatter-sub": (lambda x: x.at[jnp.array([1, 2])].subtract(jnp.sin(x[:2])), X, both(1)),
    "largest, perhaps": (loop(lambda x: x * lax.approx_max_k(x, 6)[0]), X, both(0)),
    "scatter-max": (lambda x: jnp.full((4, 9), -9.0).at[:, jnp.array([1, 1, 3, 8, 0, 2])].max(x), X, set()),
    "dynamic_slice": (lambda x: lax.dynamic_slice(x, (0, 2), (4, 3)), X, both(0)),
    "dynamic_update_slice": (lambda x: lax.dynamic_update_slice(x, jnp.sin(x[:, :2]), (0, 3)), X, both(0)),
    "dynamic_slice under vmap": (lambda x: jax.vmap(lambda r, i: lax.dynamic_slice(r, (i,), (2,)))(x, jnp.arange(4)), X, both(0)),
    "max-pooling": (lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID"), IMAGE, both(0, 1)),
    "overlapping pooling": (lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 1, 3, 3), (1, 1, 2, 2), "SAME"), IMAGE, both(0, 1)),
    "gradient of max-pooling": (lambda x: jax.grad(lambda x: jnp.sum(lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID") ** 2))(x), IMAGE, both(0, 1)),
    "triangular solve": (lambda b: jax.scipy.linalg.solve_triangular(LOWER, b, lower=True), normal(3, 4, 5), both(0, 2)),
    "triangular solve of the right side": (
        lambda b: lax.linalg.triangular_solve(LOWER, b, left_side=False, lower=True), normal(3, 5, 4), both(0, 1)),
    "by the triangle": (lambda a: lax.linalg.triangular_solve(jnp.tril(a), normal(3, 4, 2), left_side=True, lower=True),
                        MATRICES, both(0)),
    "solve": (lambda b: jnp.linalg.solve(MATRICES, b), normal(3, 4, 5), both(0, 2)),
    "solve by the matrix": (lambda a: jnp.linalg.solve(a, normal(3, 4, 2)), MATRICES, both(0)),
    "inv": (jnp.linalg.inv, MATRICES, both(0)),
    "cholesky": (lambda a: jnp.linalg.cholesky(a @ jnp.swapaxes(a, 1, 2)), MATRICES, both(0)),
    "cholesky inside a loop": (loop(lambda a: jnp.linalg.cholesky(a @ jnp.swapaxes(a, 1, 2))), MATRICES, both(0)),
    "eigh": (lambda a: jnp.linalg.eigh(a @ jnp.swapaxes(a, 1, 2))[0], MATRICES, both(0)),
    "tridiagonal solve": (lambda b: lax.linalg.tridiagonal_solve(0.1 * positive(4), positive(4), 0.2 * positive(4), b), normal(4, 5), both(1)),
    "conjugate gradients": (lambda b: jax.vmap(lambda v: jax.scipy.sparse.linalg.cg(lambda y: 3 * y + jnp.roll(y, 1) + jnp.roll(y, -1), v)[0])(b), X, both(0)),
    "custom_vjp": (lambda x: straight(x) @ normal(6, 6), X, both(0)),
    "custom_jvp": (lambda x: jax.nn.relu(x) + jax.nn.silu(x), X, both(0, 1)),
    "checkpoint": (jax.checkpoint(lambda x: jnp.sin(jnp.sin(x) @ normal(6, 6))), X, both(0)),
    "nested jit": (jax.jit(lambda x: jax.jit(jnp.sinh)(x) * 2), X, both(0, 1)),
    "scan over a carry": (lambda x: lax.scan(lambda c, a: (jnp.sin(c) @ a, None), x, normal(3, 6, 6))[0], X, both(0)),
    "scan that collects": (lambda x: lax.scan(lambda c, a: (c * a, c), x, positive(3, 4, 6))[1], X, {Line(1, 0, 1, 0), Line(2, 1, 1, 0)}),
    "scan that collects its carry beside a table": (
        lambda x: lax.scan(lambda c, a: (c * a, c), x, positive(3, 6))[1], X, {Line(1, 0, 1, 0), Line(2, 1, 1, 0)}),
    "scan step by step": (lambda x: lax.scan(lambda c, a: (c + 1, a * jnp.sin(a)), 0.0, x)[1], X, both(0, 1)),
    "scan that sums up": (lambda x: lax.scan(lambda c, a: (c + a, c), jnp.zeros(6), x)[1], X, both(1)),
    "scan backwards": (lambda x: lax.scan(lambda c, a: (c, a * 2), 0.0, x, reverse=True)[1], X, both(0, 1)),
    "scan that swaps": (lambda x: lax.scan(lambda c, _: ((c[1], jnp.sin(c[0])), None), (x, x[::-1]), None, 3)[0], X, both(1)),
    "scan that mixes late": (lambda x: lax.scan(lambda c, _: ((c[1], jnp.roll(c[0], 1, 0)), None), (x, x), None, 3)[0], X, both(1)),
    "scan with a constant": (lambda x: lax.scan(lambda c, a: (c + a * x, x * a), jnp.zeros((4, 6)), jnp.arange(3.0))[1], X,
                             {Line(1, 0, 1, 0), Line(2, 1, 1, 0)}),
    "map": (lambda x: lax.map(lambda row: jnp.cumsum(row), x), X, both(0)),
    "while": (loop(lambda x: jnp.sin(x) @ normal(6, 6)), X, both(0)),
    "while that mixes": (loop(lambda x: x + jnp.roll(x, 1, 0)), X, both(1)),
    "cond": (lambda x: lax.cond(x[0, 0] > 0, lambda v: jnp.sin(v), lambda v: v[::-1], x), X, both(1)),
    "switch": (lambda x: lax.switch(1, [jnp.sin, jnp.cos, lambda v: v @ normal(6, 6)], x), X, both(0)),
    "vmapped cond": (lambda x: jax.vmap(lambda r: lax.cond(r[0] > 0, jnp.sin, jnp.cumsum, r))(x), X, both(0)),
    "einsum": (lambda x: jnp.einsum("bti,ij,btj->bt", x, normal(6, 6), x), normal(2, 3, 6), both(0, 1)),
    "softmax": (lambda x: jax.nn.softmax(x, 1), X, both(0)),
    "batch normalization in training": (lambda x: (x - x.mean(0)) / x.std(0), X, both(1)),
    "layer normalization": (lambda x: (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True), X, both(0)),
    "group normalization": (
        lambda x: (lambda g: ((g - g.mean(2, keepdims=True)) / g.std(2, keepdims=True)).reshape(4, 6))(x.reshape(4, 2, 3)),
        X, {Line(0, 0, 1, 0), Digit(1, 3, 1, 3, 0)}),
    "attention": (lambda x: jax.nn.softmax(jnp.einsum("btd,bsd->bts", x, x), -1) @ x, normal(3, 4, 5), both(0)),
    "pure_callback": (lambda x: x * 2 + jax.pure_callback(lambda a: a, jax.ShapeDtypeStruct((4, 6), jnp.float32), lax.stop_gradient(x)), X, both(0, 1)),
}  # fmt: skip


@functools.cache
def jacobian_of(name: str) -> list[list[np.ndarray]]:
    f, x, _ = RULED[name]
    for derive in (jax.jacrev, jax.jacfwd):
        try:
            return [[np.asarray(block)] for block in jax.tree.leaves(jax.jit(derive(f))(x))]
        except Exception as error:
            failure = error
    raise failure


@pytest.mark.parametrize("name", RULED)
def test_every_nonzero_is_where_ties_allow(name: str) -> None:
    f, x, expected = RULED[name]
    found = structure_of(f, x)
    assert_sound(found, jacobian_of(name))
    for dependence in found.relations:
        (relation,) = dependence.values()
        missing = {tie for tie in expected if simplified([*relation, tie]) != relation}
        assert not missing, f"{missing} not among {sorted(relation)}"


@pytest.mark.parametrize(
    ("name", "mode", "format"),
    [case for k, name in enumerate(RULED) for case in ((name, ("fwd", "rev")[k % 2], "dense"), (name, "auto", "bcoo"))],
)
def test_fewer_passes_give_the_same_jacobian(name: str, mode: Mode, format: Format) -> None:
    f, x, _ = RULED[name]
    expected = [row[0] for row in jacobian_of(name)]
    try:
        J = jb.jacobian(f, mode=mode, format=format)(x)
    except jb.ModeError:
        assert mode != "auto"
        return
    for block, right in zip(jax.tree.leaves(J, is_leaf=lambda b: hasattr(b, "nse")), expected, strict=True):
        if format == "bcoo":
            flat = np.ravel_multi_index(np.asarray(block.indices).T, block.shape)
            assert (np.diff(flat) > 0).all(), "sorted and unique"
            block = block.todense()
        scale = float(np.max(np.abs(right), initial=0))
        np.testing.assert_allclose(block, right, rtol=0, atol=3e-5 * scale)


# JAX's own derivative rules put these on the way of a tangent only inside loops, or never. The rule is of what depends
# on what, so that it can be proved without derivatives: by changing each element of x, and looking what changes.
NONLINEAR: dict[str, tuple[Callable[[Any], Any], Any, int]] = {
    "reduce_max": (lambda x: jnp.max(x, 1), X, 1),
    "reduce_min": (lambda x: jnp.min(x, 0), X, 1),
    "reduce_prod": (
        lambda x: lax.reduce_prod_p.bind(x, axes=(1,)) if hasattr(lax, "reduce_prod_p") else jnp.prod(x, 1),
        X,
        1,
    ),
    "reduce_and": (lambda x: jnp.all(x > 0, 1), X, 1),
    "reduce_or": (lambda x: jnp.any(x > 0, 1), X, 1),
    "argmax": (lambda x: jnp.argmax(x, 1), X, 1),
    "argmin": (lambda x: jnp.argmin(x, 1), X, 1),
    "reduce": (lambda x: lax.reduce(x, 1.0, lambda a, b: a * jnp.cos(b), (1,)), X, 1),
    "cumprod": (lambda x: lax.cumprod(x, 1), X, 1),
    "cummax": (lambda x: lax.cummax(x, 1), X, 1),
    "cummin": (lambda x: lax.cummin(x, 0), X, 1),
    "cumlogsumexp": (lambda x: lax.cumlogsumexp(x, 1), X, 1),
    "sort": (lambda x: lax.sort(x, dimension=1), X, 1),
    "top_k": (lambda x: lax.top_k(x, 3), X, 1),
    "optimization_barrier": (lambda x: lax.optimization_barrier((x, Y)), X, 2),
    "cholesky": (lambda a: jnp.linalg.cholesky(a @ jnp.swapaxes(a, 1, 2)), MATRICES, 1),
    "lu": (lax.linalg.lu, MATRICES, 1),
    "qr": (lambda a: lax.linalg.qr(a, full_matrices=False), MATRICES, 1),
    "geqrf": (lambda a: jnp.linalg.qr(a, mode="raw"), MATRICES, 1),
    "householder_product": (lambda a: lax.linalg.householder_product(a, positive(3, 2)), MATRICES, 1),
    "eigh": (lambda a: lax.linalg.eigh(a + jnp.swapaxes(a, 1, 2)), MATRICES, 1),
    "eig": (lax.linalg.eig, MATRICES, 1),
    "svd": (lambda a: lax.linalg.svd(a, full_matrices=False), MATRICES, 1),
    "schur": (lax.linalg.schur, MATRICES, 1),
    "reduce_window_max": (
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID"),
        IMAGE,
        2,
    ),
    "reduce_window_min": (
        lambda x: lax.reduce_window(x, jnp.inf, lax.min, (1, 1, 2, 1), (1, 1, 2, 1), "SAME"),
        IMAGE,
        3,
    ),
    "reduce_window": (
        lambda x: lax.reduce_window(x, 1.0, lambda a, b: a * jnp.cos(b), (1, 1, 2, 2), (1, 1, 1, 1), "SAME"),
        IMAGE,
        2,
    ),
    "scatter": (lambda x: x.at[jnp.array([1, 1]), 2].set(3.0), X, 2),
    "scatter-mul": (lambda x: x.at[jnp.array([1, 1])].multiply(2.0), X, 2),
    "scatter-mul of updates": (lambda x: Y.at[jnp.array([1, 3, 3, 0])].multiply(x), X, 1),
    "scatter-sub": (lambda x: Y.at[jnp.array([1, 3, 3, 0])].subtract(x), X, 1),
    "scatter-min": (lambda x: Y.at[jnp.array([1, 3, 3, 0])].min(x), X, 1),
    "scatter-max": (lambda x: x.at[jnp.array([1, 1]), 2].max(0.1), X, 2),
}


# The same in operands that are not real numbers, and in the conditions of loops and branches.
ROWS, COLUMNS = jnp.array([3, 1, 0, 1]), jnp.array([[0, 5], [2, 2], [4, 1], [3, 3]])
KEYS = jax.random.split(jax.random.key(0), 4)
WORDS = jax.random.key_data(KEYS)


def steps(x: Any, n: Any) -> Any:
    return lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, jnp.cumsum(c[1])), (0, x))[1]


# name: (f, x, how many ties must be found)
VALUES: dict[str, tuple[Callable[[Any], Any], Any, int]] = {
    "arithmetic": (lambda i: (i * 3 + 1) % 4 // 2 << 1, ROWS, 1),
    "bits": (lambda i: (lax.population_count(i), lax.clz(i), i >> 1, lax.shift_right_logical(i, 1), i ^ 3, ~i), ROWS, 1),
    "bits of another type": (lambda i: lax.bitcast_convert_type(i, jnp.float32), ROWS, 1),
    "compared": (lambda i: (i[:, None] == jnp.arange(4), i > 1), ROWS, 1),
    "one-hot": (lambda i: jax.nn.one_hot(i, 4), ROWS, 1),
    "which case": (lambda i: jnp.where((i > 1)[:, None], X, Y), ROWS, 1),
    "which of several": (lambda i: lax.select_n(jnp.broadcast_to(i[:, None], X.shape), X, Y, -X, -Y), ROWS, 1),
    "bounds": (lambda i: lax.clamp(jnp.zeros_like(i), i, jnp.full_like(i, 2)), ROWS, 1),
    "rows": (lambda i: X[i], ROWS, 1),
    "rows, wrapped": (lambda i: jnp.take(X, 5 * i, axis=0, mode="wrap"), ROWS, 1),
    "elements by their own position": (lambda i: X[jnp.arange(4), i], ROWS, 1),
    "take_along_axis": (lambda i: jnp.take_along_axis(X, i, 1), COLUMNS, 1),
    "take_along_axis, out of range": (lambda i: jnp.take_along_axis(X, i * 2, 1, mode="fill"), COLUMNS, 2),
    "windows": (lambda i: jax.vmap(lambda r, i: lax.dynamic_slice(r, (i,), (3,)))(X, i), ROWS, 1),
    "scattered anywhere": (lambda i: jnp.zeros((9, 6)).at[i].add(X), ROWS, 0),
    "scattered by their own position": (lambda i: jnp.zeros((4, 9)).at[jnp.arange(4), i].set(1.0), ROWS, 1),
    "scattered under vmap": (lambda i: jax.vmap(lambda i, x: jnp.zeros(7).at[i].set(x[:2]))(COLUMNS * 0 + i[:, None], X), ROWS, 1),
    "largest scattered": (lambda i: jax.vmap(lambda i, x: jnp.zeros(7).at[i].max(x))(i, X[:, 0]), ROWS, 1),
    "smallest scattered": (lambda i: jax.vmap(lambda i, x: jnp.zeros(7).at[i].min(x))(i, X[:, 0]), ROWS, 1),
    "written somewhere": (lambda i: jax.vmap(lambda r, i: lax.dynamic_update_slice(r, r[:2], (i,)))(X, i), ROWS, 1),
    "sliced for all": (lambda i: lax.dynamic_slice(X, (i[0], 0), (2, 6)), ROWS, 0),
    "sorted beside others": (lambda i: lax.sort((i, X[:, 0]), num_keys=1), ROWS, 0),
    "sorted in rows": (lambda i: jnp.argsort(i, 1), COLUMNS, 1),
    "largest": (lambda i: (jnp.argmax(i, 1), lax.top_k(i, 1), jnp.max(i, 1)), COLUMNS, 1),
    "approximately the largest": (lambda x: lax.approx_max_k(x, 2), X, 1),
    "parity": (lambda i: lax.reduce_xor(i, (1,)) if hasattr(lax, "reduce_xor") else i, COLUMNS, 1),
    "cumulated": (lambda i: jnp.cumsum(i, 1), COLUMNS, 1),
    "counted": (lambda i: jax.vmap(lambda i: jnp.bincount(i, length=6))(i), COLUMNS, 1),
    "searched for": (lambda i: jax.vmap(lambda i: jnp.searchsorted(jnp.arange(5), i))(i), COLUMNS, 1),
    "permutation of pivots": (lambda i: lax.linalg.lu_pivots_to_permutation(i, 6), jnp.minimum(COLUMNS, 3), 1),
    "keys": (lambda k: jax.vmap(lambda k: jax.random.normal(k, (3,)))(k), KEYS, 1),
    "keys of keys": (lambda k: jax.vmap(lambda k: jax.random.key_data(jax.random.split(jax.random.clone(k))))(k), KEYS, 1),
    "keys of numbers": (lambda i: jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(jax.random.key(i), i)))(i), ROWS, 1),
    "words of keys": (lambda w: jax.vmap(lambda w: jax.random.randint(w, (2,), 0, 9))(w), WORDS, 1),
    "Threefry itself": (lambda w: jax.random.bits(jax.random.wrap_key_data(w[0]), (5,)), WORDS, 0),
    "gamma of keys": (lambda k: jax.vmap(lambda k: jax.random.gamma(k, 2.0, (3,)))(k), KEYS, 1),
    "other keys": (
        lambda k: jax.vmap(lambda k: jax.random.bits(k, (2,)))(k), jax.random.split(jax.random.key(0, impl="rbg"), 4), 0),
    "steps of each": (lambda n: jax.vmap(steps)(X, n), ROWS, 1),
    "steps of each of each": (lambda n: jax.vmap(jax.vmap(steps))(normal(4, 2, 3), n), COLUMNS, 2),
    "steps of all": (lambda n: steps(X[0], n[0]), ROWS, 0),
    "steps by what they make": (
        lambda x: jax.vmap(lambda x: lax.while_loop(lambda c: jnp.sum(c) < 4, lambda c: jnp.abs(c) * 1.5 + 0.1, x))(x), X, 1),
    "steps by what all make": (
        lambda x: lax.while_loop(lambda c: jnp.sum(c) < 4, lambda c: jnp.abs(c) * 1.5 + 0.1, x), X, 0),
    "steps by a carry of another kind": (
        lambda n: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + c[1], c[1], c[2] * 1.5), (0, 1 + n[0], X))[2], ROWS, 0),
    "branch of each": (lambda i: jax.vmap(lambda i, x: lax.switch(i, [jnp.sin, jnp.cumsum, jnp.cos], x))(i, X), ROWS, 1),
    "branch of all": (lambda i: lax.switch(i[0], [jnp.sin, jnp.tanh, jnp.cos], X), ROWS, 0),
    "branches that read others": (lambda i: lax.cond(X[0, 0] > 9, lambda i: i[::-1], lambda i: i * 2, i), ROWS, 0),
    "scan": (lambda i: lax.scan(lambda c, k: (c + k, X[k] * c[:, None]), i, jnp.arange(3))[0], ROWS, 1),
    "solve by the matrix": (lambda a: jnp.linalg.solve(a, normal(3, 4)[..., None]), MATRICES, 1),
    "solver of one's own": (
        lambda x: jax.vmap(lambda x: lax.custom_linear_solve(lambda v: v * (1 + x**2), Y[0], lambda _, b: b / (1 + x**2), symmetric=True))(x), X, 1),
    "select and scatter": (lambda x: jax.vmap(jax.grad(lambda x: jnp.sum(lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 2, 2), (1, 2, 2), "VALID") ** 2)))(x), IMAGE, 1),
    "Hessenberg form": (lambda a: lax.linalg.hessenberg(a), MATRICES, 1),
    "tridiagonal form": (lambda a: lax.linalg.tridiagonal(a + jnp.swapaxes(a, 1, 2)), MATRICES, 1),
}  # fmt: skip


def others(x: Any) -> list[Any]:
    """What each element of x might be in its place."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return [jnp.broadcast_to(jax.random.key(9, impl=str(jax.random.key_impl(x))), x.shape)]
    if jnp.issubdtype(x.dtype, jnp.floating):
        return [x + 0.37]
    return [jnp.zeros_like(x), jnp.ones_like(x), jnp.full_like(x, 3)]


def changes(f: Callable[[Any], Any], x: Any) -> list[np.ndarray]:
    """Which elements of each output of f change with which element of x."""

    def bits(y: Any) -> Any:
        return jax.random.key_data(y) if jnp.issubdtype(y.dtype, jax.dtypes.prng_key) else y

    g = jax.jit(lambda x: [bits(y) for y in jax.tree.leaves(f(x))])
    before, found = [np.asarray(y) for y in g(x)], []
    for k in np.ndindex(x.shape):
        each = [g(x.at[k].set(other[k])) for other in others(x)]
        pairs = zip(zip(*each, strict=True), before, strict=True)
        found.append([np.any([~np.isclose(a, b, 0, 0, equal_nan=True) for a in after], 0) for after, b in pairs])
    return [np.stack(y, -1).reshape(*y[0].shape, *x.shape) for y in zip(*found, strict=True)]


def assert_changes(f: Callable[[Any], Any], x: Any, n_ties: int) -> None:
    blocks = [[block] for block in changes(f, x)]
    relations = dependences_of(lambda x: jax.tree.leaves(f(x)), x)
    assert_ties(relations, blocks, [block.ndim - x.ndim for (block,) in blocks])
    for dependence in relations:
        assert all(len(relation) >= n_ties for relation in dependence.values())


@pytest.mark.parametrize("name", NONLINEAR | VALUES)
def test_every_change_is_where_ties_allow(name: str) -> None:
    assert_changes(*(NONLINEAR | VALUES)[name])


@pytest.mark.parametrize("name", RULED)
def test_every_change_of_values_is_where_ties_allow(name: str) -> None:
    f, x, _ = RULED[name]
    assert_changes(f, x, 0)


def test_every_rule_is_proved() -> None:
    linear = [structure_of(f, x).program.linear.equations for f, x, _ in RULED.values()]
    functions = [program_of(f, x)[0].equations for f, x, _ in (NONLINEAR | VALUES).values()]
    seen = {e.primitive.name for equations in (*linear, *functions) for e in walk(equations)}
    unproved = {name for name, row in PRIMITIVES.items() if row.kind not in (None, "elementwise")} - seen
    # JAX spells some names in two ways, by version.
    unproved -= {name.replace("-", "_") for name in seen} | {name.replace("_", "-") for name in seen}
    assert unproved <= {"stack", "unstack", "tile"}  # which JAX 0.10.0 has not


# Passes -----------------------------------------------------------------------------------------------------

W = normal(6, 6)
PASSES = {
    "elementwise, any shape": (lambda x: jnp.sin(x), normal(3, 4, 5), 1),
    "reversed": (lambda x: jnp.sin(x[::-1]), normal(50), 1),
    "a batch": (lambda x: jnp.tanh(x @ normal(6, 2)), X, 2),
    "token by token": (lambda x: jnp.tanh(x @ W) @ W, normal(3, 4, 6), 6),
    "two batch axes, merged": (
        lambda x: jnp.tanh(x.reshape(12, 6) @ normal(6, 2)).reshape(3, 4, 2),
        normal(3, 4, 6),
        2,
    ),
    "a diagonal taken out": (lambda x: jnp.sin(x[jnp.arange(5), jnp.arange(5)]), normal(5, 5), 1),
    "constant": (lambda x: jnp.ones(3), X, 0),
    "half constant": (lambda x: (jnp.sin(x[0]), jnp.ones(3)), X, 1),
    "padded": (lambda x: jnp.pad(jnp.sin(x), (2, 3)), normal(7), 1),
    "cut": (lambda x: jnp.sin(x)[:280], normal(300), 1),
    "groups of features": (RULED["group normalization"][0], X, 3),
}


@pytest.mark.parametrize("name", PASSES)
def test_passes(name: str) -> None:
    f, x, passes = PASSES[name]
    plan = jb.jacobian(f).plan(x)
    assert min(c.passes for c in plan.candidates[:2] if isinstance(c, jb.Candidate)) == passes  # forward and reverse
    for mode in ("fwd", "rev"):
        J = jb.jacobian(f, mode=mode)(x)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), J, jax.jacrev(f)(x))


def test_inputs_without_the_tie_get_passes_of_their_own() -> None:
    f = lambda w, x: jnp.tanh(x @ w)
    w, x = normal(6, 3), normal(20, 6, seed=1)
    plan = jb.jacobian(f, (0, 1), mode="rev").plan(w, x)
    assert (
        plan.passes == 3 + 20
    )  # by x a pass for each feature; by w, of which a column makes a feature, for each example
    for a, b in zip(plan(w, x), jax.jacrev(f, (0, 1))(w, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_zeros_are_zeros_where_values_are_infinite() -> None:
    # Nothing is multiplied by a mask: inf * 0 would be NaN.
    f = lambda x: 1 / x
    x = jnp.array([0.0, 1.0, 2.0])
    for mode in ("fwd", "rev"):
        J = jb.jacobian(f, mode=mode)(x)
        np.testing.assert_array_equal(J, np.diag([-np.inf, -1, -0.25]))


@pytest.mark.parametrize("chunk_size", [1, 2, 5])
def test_chunks_of_tied_passes(chunk_size: int) -> None:
    f = lambda x: jnp.tanh(x @ W) @ W
    x = normal(5, 4, 6)
    for mode in ("fwd", "rev"):
        J = jb.jacobian(f, mode=mode, chunk_size=chunk_size)
        for run in (J, jax.jit(J)):
            np.testing.assert_allclose(run(x), jax.jacrev(f)(x), rtol=1e-4, atol=1e-5)


def test_a_sparse_block_is_never_dense() -> None:
    n = 200_000  # dense: 160 GB
    J = jb.jacobian(jnp.sin, format="bcoo", memory_budget="20MB")(jnp.linspace(0, 1, n))
    assert J.nse == n
    np.testing.assert_allclose(J.data, jnp.cos(jnp.linspace(0, 1, n)), rtol=1e-5)


@pytest.mark.parametrize("f", [jnp.round, lambda x: jnp.zeros(4), lambda x: (jnp.sin(x), jnp.ones(2))])
def test_a_sparse_block_may_have_no_entries(f: Any) -> None:
    x = normal(4)
    J = jb.jacobian(f, format="bcoo")(x)
    for block, expected in zip(
        jax.tree.leaves(J, is_leaf=lambda b: hasattr(b, "nse")), jax.tree.leaves(jax.jacrev(f)(x)), strict=True
    ):
        np.testing.assert_allclose(block.todense(), expected, rtol=1e-6)


def test_planning_does_not_grow_with_array_sizes() -> None:
    f = lambda x: jnp.tanh(x @ jnp.ones((8, 8)))[jnp.arange(x.shape[0]), 0]
    found = [structure_of(f, jax.ShapeDtypeStruct((n, 8), jnp.float32)) for n in (10, 100_000)]
    assert [sorted(d[0]) for d in (found[0].relations[0], found[1].relations[0])] == [[Line(0, 0, 1, 0)]] * 2


def test_what_has_no_rule_is_dense_and_named() -> None:
    f = lambda x: lax.ragged_dot(x, normal(1, 6, 5), jnp.array([4], jnp.int32))
    plan = jb.jacobian(f, mode="fwd").plan(X)
    assert plan.passes == X.size
    assert "ragged_dot" in str(plan)
    np.testing.assert_allclose(plan(X), jax.jacrev(lambda x: x @ normal(1, 6, 5)[0])(X), rtol=1e-5, atol=1e-6)


def test_the_plan_tells_the_structure() -> None:
    text = str(jb.jacobian(lambda x: jnp.tanh(x @ W)).plan(normal(64, 6)))
    assert "block-diagonal along axis 0" in text
    assert "batch_jacobian along axis 0 would return 64x less" in text
    assert "diagonal" in jb.jacobian(jnp.sin).plan(X).structure
    assert "can be nonzero" in jb.jacobian(lambda x: jnp.cumsum(x.ravel())).plan(X).structure
    assert math.prod(X.shape) == jb.jacobian(lambda x: jnp.cumsum(x.ravel()), mode="fwd").plan(X).passes


def test_a_batch_through_plain_jacobian_takes_the_passes_of_one_example() -> None:
    (lenet,) = [s for s in scenarios() if s.name == "lenet5_batch64"]
    f, args = lenet.make()
    plan = jb.jacobian(f, lenet.argnums).plan(*args)
    assert (plan.mode, plan.passes) == ("rev", 10)
    assert "batch_jacobian along axis 0 would return 64x less" in plan.structure
