"""What is made of J without forming it: of every scenario, in every mode and several chunkings, against JAX's J."""

from __future__ import annotations

import inspect
import math
import pickle
import subprocess
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_near, assert_same, diagonal_of, gram_of, matrices_of, norms_of, slow_after

import jaxobian as jb
from jaxobian._request import Mode
from jaxobian.testing import Scenario, scenarios
from jaxobian.testing._scenario import normal, weights

ORDINARY = [s for s in scenarios() if "large" not in s.tags]
# Some of each kind; the others are slow.
QUICK = {
    "scalar", "pytrees", "constant_output", "empty_input", "cumulative", "complex_inside", "dense_5_10_2_batch",
    "holomorphic", "gather", "half_to_single", "pass_through",
}  # fmt: skip
# A Gram matrix of more elements, or of more products, is left to smaller scenarios.
MOST, MOST_PRODUCTS = 10**6, 2 * 10**9
OVERS, SIDES = ("in", "out", "all"), ("out", "in")

Shapes = list[tuple[int, ...]]


def tolerance(*trees: Any) -> float:
    """By the coarsest dtype among the leaves, relative to the largest number that is summed."""
    widest = {"float16": 4e-3, "bfloat16": 3e-2, "float64": 1e-11, "complex128": 1e-11}
    return max((widest.get(str(jnp.result_type(leaf)), 1e-4) for leaf in jax.tree.leaves(trees)), default=1e-4)


def wanted(J: Any, outs: Shapes, ins: Shapes, lead: tuple[int, ...], square: bool) -> dict[str, Callable[..., Any]]:
    """Of what J is the Jacobian: all that is defined, and small enough."""
    found: dict[str, Callable[..., Any]] = {
        f"norms {over}": lambda *args, over=over: J.squared_norms(*args, over=over) for over in OVERS
    }
    m, n, batch = sum(map(math.prod, outs)), sum(map(math.prod, ins)), math.prod(lead)
    for side, ours, other in (("out", m, n), ("in", n, m)):
        if batch * ours**2 <= MOST and batch * ours**2 * other <= MOST_PRODUCTS:
            found[f"gram {side}"] = lambda *args, side=side: J.gram(*args, side=side)
    return found | ({"diagonal": J.diagonal, "trace": J.trace} if square else {})


def assert_quantities(
    found: dict[str, Any], J: Any, outs: Shapes, ins: Shapes, lead: tuple[int, ...] = (), rtol: float = 1e-4
) -> None:
    """Each quantity is what NumPy makes of J's blocks; of sums that cancel, to the size of what is summed."""
    matrices = matrices_of(J, outs, ins, lead)
    sizes = [[np.abs(block) for block in row] for row in matrices]
    for name, value in found.items():
        kind, _, which = name.partition(" ")
        if kind == "norms":
            expected = norms_of(matrices, which)
            assert_near(value, expected, expected, rtol)
        elif kind == "gram":
            flat = [[b for row in gram_of(blocks, which) for b in row] for blocks in (matrices, sizes)]
            assert_near(value, *flat, rtol=rtol)
        elif kind == "diagonal":
            assert_near(value, diagonal_of(matrices), [row[k] for k, row in enumerate(sizes)], rtol)
        else:
            traces = [sum(d.sum(-1) for d in diagonal_of(blocks)) for blocks in (matrices, sizes)]
            assert_near(value, *([np.asarray(t)] for t in traces), rtol=rtol)


# Every scenario ---------------------------------------------------------------------------------------------


def ends_of(scenario: Scenario, f: Any, args: Sequence[Any]) -> tuple[Any, Any, Shapes, Shapes, tuple[int, ...]]:
    """x and y, abstract, and the shapes of one example of each leaf."""
    x = tuple(args[i] for i in scenario.differentiated)
    x = x[0] if isinstance(scenario.argnums, int) else x
    x = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), x)
    y = jax.eval_shape(f, *args)
    own = 1 if scenario.batched else 0
    outs, ins = ([leaf.shape[own:] for leaf in jax.tree.leaves(side)] for side in (y, x))
    return x, y, outs, ins, jax.tree.leaves(y)[0].shape[:own]


@pytest.mark.parametrize(
    "scenario",
    [pytest.param(s, id=s.name, marks=() if s.name in QUICK else pytest.mark.slow) for s in ORDINARY],
)
def test_of_every_scenario(scenario: Scenario) -> None:
    f, args = scenario.make()
    x, y, outs, ins, lead = ends_of(scenario, f, args)
    verb = jb.batch_jacobian if scenario.batched else jb.jacobian
    J = verb(f, scenario.argnums, holomorphic=scenario.holomorphic)
    square = jax.tree.structure(x) == jax.tree.structure(y) and outs == ins
    functions = wanted(J, outs, ins, lead, square)
    found = jax.jit(lambda *args: {name: of(*args) for name, of in functions.items()})(*args)
    assert_quantities(found, jax.device_get(scenario.expected()), outs, ins, lead, tolerance(x, y))
    if not square:
        with pytest.raises(ValueError, match="trace is defined where"):
            J.trace(*args)


# Modes, chunks and kinds of functions -----------------------------------------------------------------------

X, SQUARE, BATCH = normal(6), normal(3, 4, seed=1), normal(4, 6, seed=2)
W, IN, OUT = weights(6, 6, seed=3), weights(20, 2, seed=4), weights(2, 20, seed=5)
T = {"a": normal(3, seed=6), "b": normal(2, 2, seed=7)}

# A function, its arguments, and what it is differentiated by and how.
Case = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def coupled(t: Any) -> Any:
    return {"a": jnp.sin(t["a"]) * t["b"].sum(), "b": t["b"] @ t["b"].T + t["a"][0]}


CASES: dict[str, Case] = {
    "elementwise": (lambda x: jnp.sin(x) * x, (SQUARE,), {}),
    "tied along an axis": (lambda x: jnp.cumsum(jnp.tanh(x), 1), (SQUARE,), {}),
    "tied along the other": (lambda x: jnp.cumsum(jnp.tanh(x), 0), (SQUARE,), {}),
    "tied to another axis": (lambda x: x.T**2, (normal(3, 3),), {}),
    "rolled": (lambda x: jnp.roll(x, 2) ** 2, (X,), {}),
    "tied by digits": (lambda x: jnp.tanh(x.reshape(2, 3)).T.reshape(6) + x, (X,), {}),
    "digits of one axis": (lambda x: jnp.repeat(x.reshape(2, 3).sum(1), 3) * 2 + x**2, (X,), {}),
    "dense": (lambda x: jnp.tanh(W @ x), (X,), {}),
    "dense and elementwise": (lambda t: {"a": t["a"] ** 2, "b": t["b"] * t["b"].sum()}, (T,), {}),
    "banded": (lambda x: jnp.pad(x[1:] * x[:-1], (0, 1)) + x**2, (normal(20),), {}),
    "a constant part": (lambda x: 2 * jnp.roll(x, 1) - 3 * x + x**2, (normal(20),), {}),
    "narrow": (lambda x: jnp.tanh(jnp.tanh(x @ IN) @ OUT), (normal(20),), {}),
    "narrow and past it": (lambda x: jnp.tanh(jnp.tanh(x @ IN) @ OUT) + x**2, (normal(20),), {}),
    "trees": (coupled, (T,), {}),
    "several arguments": (lambda x, t: (x * t["a"].sum(), t["a"] * x[0]), (X, T), {"argnums": (1, 0)}),
    "tuples": (lambda x, y: (x * y.sum(), y**2 + x[:4]), (X, X[:4]), {"argnums": (0, 1)}),
    "not square": (lambda x: {"m": jnp.outer(x[:2], jnp.sin(x)), "s": jnp.sum(x**3)}, (X,), {}),
    "a number": (lambda x: jnp.sin(x) * x, (jnp.float32(0.7),), {}),
    "from a number": (lambda x: jnp.stack([x, x**2, jnp.sin(x)]), (0.7,), {}),
    "nothing depends on anything": (lambda x: jnp.ones(6), (X,), {}),
    "no elements": (lambda x: x**2, (jnp.zeros((0, 2)),), {}),
    "no outputs": (lambda x: jnp.outer(x, x)[:0], (X,), {}),
    "no inputs": (lambda x: x.sum() * jnp.ones(3), (jnp.zeros((0, 2)),), {}),
    "no elements beside some": (lambda t: {"a": t["a"] * 2, "b": t["b"] ** 2}, ({"a": jnp.zeros(0), "b": X},), {}),
    "a batch": (lambda x: jnp.tanh(x @ W) * x, (BATCH,), {"batch": {}}),
    "a batch, elementwise": (lambda x: jnp.tanh(x) * x, (BATCH,), {"batch": {}}),
    "a batch of images": (lambda x: jnp.cumsum(x**2, 2), (normal(2, 2, 3),), {"batch": {}}),
    "a batch of trees": (lambda t: jax.vmap(coupled)(t), (jax.tree.map(lambda x: jnp.stack([x, 2 * x]), T),),
                         {"batch": {}}),
    "a batch of numbers": (lambda x: jnp.sin(x), (X,), {"batch": {}}),
    "a batch of none": (lambda x: jnp.tanh(x @ W) * x, (BATCH[:0],), {"batch": {}}),
    "a narrow batch": (lambda x: jnp.tanh(jnp.tanh(x @ IN) @ OUT), (normal(2, 20),), {"batch": {}}),
    "a banded batch": (lambda x: jnp.roll(x, 1, 1) * x + x**2, (normal(2, 20),), {"batch": {}}),
    "a batch, dense": (lambda x: jnp.tanh(x @ W) * x, (BATCH,), {}),
    "gradients of examples": (lambda w: jnp.tanh(BATCH @ w).sum(1), (W,), {}),
    "network of examples": (lambda w: jnp.tanh(jnp.tanh(BATCH @ w) @ w[:, :2]), (W,), {}),
    "holomorphic": (lambda z: jnp.sin(z) * z[0], (X + 1j * X[::-1],), {"holomorphic": True}),
    "real to complex": (lambda x: (1 + 2j) * x**2 + x[0], (X,), {}),
    "complex to real": (lambda z: jnp.abs(z) ** 2 * z[0].real, (X + 1j * X[::-1],), {}),
    "complex inside": (lambda x: jnp.real(jnp.fft.ifft(jnp.fft.fft(x) * jnp.fft.fft(X))) * x, (X,), {}),
    "half": (lambda x: jnp.sin(x) * x.sum(), (X.astype(jnp.float16),), {}),
    "brain": (lambda x: jnp.sin(x) * x.sum(), (X.astype(jnp.bfloat16),), {}),
    "half to single": (lambda x: (jnp.sin(x) * x.sum()).astype(jnp.float32), (X.astype(jnp.float16),), {}),
    "two dtypes": (lambda x, y: (x.astype(jnp.float32) * y, y * x.sum()), (X.astype(jnp.float16), X),
                   {"argnums": (0, 1)}),
    "a loop": (lambda x: jax.lax.fori_loop(0, 3, lambda _, c: jnp.sin(c) * c[0], x), (X,), {}),
    "sorted": (lambda x: jnp.sort(x) * x, (X,), {}),
}  # fmt: skip
MODES: tuple[Mode, ...] = ("auto", "fwd", "rev", "mixed", "colored")


def made(case: Case, **options: Any) -> tuple[Any, tuple[Any, ...], Any]:
    """J of a case, of its arguments, and what JAX says that it is."""
    f, args, how = case
    argnums, holomorphic = how.get("argnums", 0), how.get("holomorphic", False)
    verb = jb.jacobian if "batch" not in how else jb.batch_jacobian
    by_jax = jax.jacfwd if f is CASES["real to complex"][0] else jax.jacrev
    theirs = by_jax(f, argnums, holomorphic=holomorphic)
    if "batch" in how:
        one = lambda x: jax.tree.map(lambda y: y[0], f(jax.tree.map(lambda leaf: leaf[None], x)))
        theirs = jax.vmap(jax.jacrev(one))
    return verb(f, argnums, holomorphic=holomorphic, **options), args, theirs


def assert_case(name: str, jit: bool = True, **options: Any) -> None:
    """Every quantity of a case, all compiled together or each by itself."""
    case = CASES[name]
    J, args, theirs = made(case, **options)
    f, _, how = case
    argnums = how.get("argnums", 0)
    x = args[argnums] if isinstance(argnums, int) else tuple(args[k] for k in argnums)
    y = jax.eval_shape(f, *args)
    own = 1 if "batch" in how else 0
    outs, ins = ([jnp.shape(leaf)[own:] for leaf in jax.tree.leaves(side)] for side in (y, x))
    lead = jax.tree.leaves(y)[0].shape[:own]
    square = jax.tree.structure(x) == jax.tree.structure(y) and outs == ins
    functions = wanted(J, outs, ins, lead, square)
    every = lambda *args: {name: of(*args) for name, of in functions.items()}
    found = (jax.jit(every) if jit else every)(*args)
    assert_quantities(found, jax.jit(theirs)(*args), outs, ins, lead, tolerance(x, y))
    _assert_layout(found, x, y, outs, ins, lead)


def _assert_layout(found: dict[str, Any], x: Any, y: Any, outs: Shapes, ins: Shapes, lead: tuple[int, ...]) -> None:
    """Trees, shapes and dtypes."""
    tree, shapes = {"in": jax.tree.structure(y), "out": jax.tree.structure(x)}, {"in": outs, "out": ins}
    for over in ("in", "out"):
        assert jax.tree.structure(found[f"norms {over}"]) == tree[over]
        leaves = jax.tree.leaves(found[f"norms {over}"])
        assert [leaf.shape for leaf in leaves] == [(*lead, *shape) for shape in shapes[over]]
        assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves)
    assert found["norms all"].shape == lead
    for side, other in (("out", "in"), ("in", "out")):
        if f"gram {side}" in found:
            assert jax.tree.structure(found[f"gram {side}"]) == tree[other].compose(tree[other])
            pairs = [(*lead, *a, *b) for a in shapes[other] for b in shapes[other]]
            assert [leaf.shape for leaf in jax.tree.leaves(found[f"gram {side}"])] == pairs
    if "trace" in found:
        assert jax.tree.structure(found["diagonal"]) == jax.tree.structure(y)
        assert [d.shape for d in jax.tree.leaves(found["diagonal"])] == [leaf.shape for leaf in jax.tree.leaves(y)]
        assert found["trace"].shape == lead
        dtypes = [
            jnp.promote_types(a.dtype, jnp.result_type(b)) for a, b in zip(*map(jax.tree.leaves, (y, x)), strict=True)
        ]
        assert [d.dtype for d in jax.tree.leaves(found["diagonal"])] == dtypes
        assert found["trace"].dtype == jnp.result_type(*dtypes)


def _modes() -> list[Any]:
    """Each case in each mode, in chunks that divide the passes or do not; a few of them quick."""
    found = []
    for number, name in enumerate(CASES):
        for k, mode in enumerate(MODES):
            chunk = (None, 2, 1, 5)[(number + k) % 4]
            marks = () if k == 0 and number % 5 == 0 else pytest.mark.slow
            found.append(pytest.param(name, mode, chunk, id=f"{name}-{mode}-{chunk}", marks=marks))
    return found


@pytest.mark.parametrize(("name", "mode", "chunk_size"), _modes())
def test_in_every_mode(name: str, mode: Mode, chunk_size: int | None) -> None:
    try:
        assert_case(name, mode=mode, chunk_size=chunk_size)
    except jb.ModeError:
        assert mode in ("mixed", "colored") or "complex" in name


@pytest.mark.parametrize(
    "name", slow_after(1, ["rolled", "several arguments", "a batch", "tied by digits", "half", "holomorphic"])
)
def test_eagerly(name: str) -> None:
    assert_case(name, jit=False)


@pytest.mark.parametrize("name", slow_after(1, ["dense and elementwise", "a banded batch", "complex inside", "tuples"]))
def test_in_double_precision(name: str, x64: None) -> None:
    f, args, how = CASES[name]
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), args)
    J, theirs = made((f, wide, how), chunk_size=3)[::2]
    J, theirs = typing.cast(Any, J), typing.cast(Any, theirs)
    found = jax.jit(lambda *args: (J.squared_norms(*args, over="all"), J.trace(*args)))(*wide)
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(found))
    y = jax.eval_shape(f, *wide)
    own = 1 if "batch" in how else 0
    shapes = [leaf.shape[own:] for leaf in jax.tree.leaves(y)]
    lead = jax.tree.leaves(y)[0].shape[:own]
    # W, IN and OUT are of single precision, and are in both.
    named: dict[str, Any] = dict(zip(("norms all", "trace"), found, strict=True))
    assert_quantities(named, jax.jit(theirs)(*wide), shapes, shapes, lead, 1e-10)


# Thirty-five passes: with chunks of two, of which the last overlaps, they run in a loop, on the host where it may.
LONG = normal(35)


def mixing(x: Any) -> Any:
    return jnp.sin(x) * jnp.sum(x[:9] ** 2) + x


@pytest.mark.parametrize("mode", slow_after(0, ["fwd", "rev"]))
@pytest.mark.parametrize("chunk_size", slow_after(0, [1, 2, 34]))
@pytest.mark.parametrize("jit", slow_after(0, [False, True]))
def test_in_loops_over_chunks(mode: Mode, chunk_size: int, jit: bool) -> None:
    J = jb.jacobian(mixing, mode=mode, chunk_size=chunk_size)
    shape = [LONG.shape]
    functions = wanted(J, shape, shape, (), True)
    weight = jnp.arange(35.0)
    functions["weighted"] = lambda x: J.gram(x, weights=weight)
    every = lambda x: {name: of(x) for name, of in functions.items()}
    found = (jax.jit(every) if jit else every)(LONG)
    expected = np.asarray(jax.jacrev(mixing)(LONG))
    weighted = found.pop("weighted")
    assert_quantities(found, expected, shape, shape)
    assert_same(weighted, jnp.asarray(expected * weight @ expected.T), 1e-4)


def test_within_a_small_budget() -> None:
    f = lambda x: jnp.tanh(x) * jnp.sum(x)
    x = normal(300)
    J = jb.jacobian(f, memory_budget="100 kB")  # J has 360 kB
    for quantity in (J.trace, J.squared_norms):
        assert quantity.plan(x).peak_bytes < 100_000
    expected = np.asarray(jax.jacrev(f)(x), np.float64)
    np.testing.assert_allclose(J.trace(x), expected.trace(), rtol=1e-4)
    np.testing.assert_allclose(J.squared_norms(x), (expected**2).sum(1), rtol=1e-4)
    with pytest.raises(jb.MemoryBudgetError):
        jb.jacobian(f, memory_budget="100 kB").gram(x)  # that has as many elements


# Per-example gradients --------------------------------------------------------------------------------------

PARAMS = {"w": weights(6, 3, seed=8), "b": normal(3, seed=9)}


def apply(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["w"] + params["b"])


def loss(params: Any, x: Any) -> Any:
    return jnp.sum(apply(params, x) ** 2, -1)


def of_one(f: Callable[..., Any]) -> Callable[..., Any]:
    return jax.vmap(jax.jacrev(lambda params, x: f(params, x[None])[0]), (None, 0))


@pytest.mark.parametrize("f", slow_after(1, [loss, apply], ids=lambda f: f.__name__))
def test_by_what_examples_share(f: Callable[..., Any]) -> None:
    J = jb.batch_jacobian(f, in_axes=(None, 0))
    outs, ins = [f(PARAMS, BATCH).shape[1:]], [leaf.shape for leaf in jax.tree.leaves(PARAMS)]
    functions = wanted(J, outs, ins, (4,), False)
    found = jax.jit(lambda *args: {name: of(*args) for name, of in functions.items()})(PARAMS, BATCH)
    assert_quantities(found, of_one(f)(PARAMS, BATCH), outs, ins, (4,))
    assert found["norms in"].shape == f(PARAMS, BATCH).shape
    assert found["norms out"]["w"].shape == (4, 6, 3)
    assert found["gram in"]["w"]["b"].shape == (4, 6, 3, 3)


def test_each_example_s_own_weights() -> None:
    own = jnp.arange(12.0).reshape(4, 3)
    J = jb.batch_jacobian(apply, in_axes=(None, 0))
    found = J.gram(PARAMS, BATCH, side="in", weights=own)
    plan = J.gram.plan(PARAMS, BATCH, side="in", weights=own)
    (row,) = matrices_of(of_one(apply)(PARAMS, BATCH), [(3,)], [(3,), (6, 3)], (4,))
    flat = [b for r in gram_of([row], "in", [np.asarray(own)]) for b in r]
    assert_near(found, flat, flat, 1e-4)
    assert_near(plan(PARAMS, BATCH), flat, flat, 1e-4)
    assert_near(plan(PARAMS, BATCH, weights=2 * own), [2 * b for b in flat], flat, 1e-4)


# Hessians ---------------------------------------------------------------------------------------------------

HESSIANS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], Any]] = {
    "a number": (lambda x: jnp.sum(x**3) * x[0], (X,), 0),
    "outputs": (lambda x: {"a": jnp.sum(x**3) * x[0], "b": x[:2] ** 2 * x[2]}, (X,), 0),
    "arguments": (lambda x, y: jnp.sum(x**2) * jnp.sum(y**3) * x[0], (X, X[:4]), (0, 1)),
    "outputs and arguments": (lambda x, y: [x[:2] * jnp.sum(y**3) * x[0], y[0] ** 3], (X, X[:4]), (1, 0)),
    "trees": (lambda t: {"k": jnp.sum(t["a"] ** 3) * t["b"][0, 0] ** 2, "v": t["a"] ** 2}, (T,), 0),
    "a list of one": (lambda x: [jnp.sum(x**3) * x[0]], (X,), 0),
}


@pytest.mark.parametrize("name", slow_after(1, HESSIANS))
def test_of_hessians(name: str) -> None:
    f, args, argnums = HESSIANS[name]
    H = jb.hessian(f, argnums)
    found = jax.jit(lambda *args: {"diagonal": H.diagonal(*args), "trace": H.trace(*args)})(*args)
    y, J = jax.eval_shape(f, *args), jax.jacrev(f, argnums)(*args)
    assert jax.tree.structure(found["trace"]) == jax.tree.structure(y)
    assert jax.tree.structure(found["diagonal"]) == jax.tree.structure(J)
    x = [args[k] for k in ((argnums,) if isinstance(argnums, int) else argnums)]
    outs, ins = ([leaf.shape for leaf in jax.tree.leaves(side)] for side in (y, x))
    blocks = iter(map(np.asarray, jax.tree.leaves(jax.jit(jax.jacfwd(jax.jacrev(f, argnums), argnums))(*args))))
    diagonals = iter(map(np.asarray, jax.tree.leaves(found["diagonal"])))
    for out, trace in zip(outs, jax.tree.leaves(found["trace"]), strict=True):
        total: Any = 0
        for i, a in enumerate(ins):
            for j, b in enumerate(ins):
                block = next(blocks).reshape(*out, math.prod(a), math.prod(b))
                if i == j:
                    expected, diagonal = np.diagonal(block, axis1=-2, axis2=-1), next(diagonals)
                    assert diagonal.shape == (*out, *a)
                    np.testing.assert_allclose(diagonal.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)
                    total = total + expected.sum(-1)
        assert trace.shape == out
        np.testing.assert_allclose(trace, total, rtol=1e-4, atol=1e-4)


def test_other_quantities_of_a_hessian() -> None:
    f = HESSIANS["outputs"][0]
    H, shapes = jb.hessian(f), ([(6,), (2, 6)], [(6,)])
    found = jax.jit(lambda x: {"norms in": H.squared_norms(x), "norms all": H.squared_norms(x, over="all")})(X)
    assert_quantities(found, jax.hessian(f)(X), *shapes)
    assert found["norms in"]["b"].shape == (2, 6)  # like f's gradient, of which H is the Jacobian


# Integers, aux ----------------------------------------------------------------------------------------------


def test_integer_leaves() -> None:
    f = lambda t: {"n": t["x"] * 2, "x": t["x"] ** 2 * t["n"].sum()}
    t = {"n": jnp.arange(6), "x": X}
    J = jb.jacobian(f, allow_int=True)
    diagonal, gram, norms = J.diagonal(t), J.gram(t, side="in"), J.squared_norms(t, over="out")
    np.testing.assert_allclose(diagonal["x"], 30 * X, rtol=1e-5)
    assert not diagonal["n"].any()
    np.testing.assert_allclose(J.trace(t), np.sum(30 * X), rtol=1e-5)
    np.testing.assert_allclose(gram["x"]["x"], np.diag(4 + (30 * np.asarray(X)) ** 2), rtol=1e-5)
    assert gram["n"]["x"].shape == gram["n"]["n"].shape == (6, 6)
    assert not gram["n"]["x"].any()
    np.testing.assert_allclose(norms["x"], 4 + (30 * X) ** 2, rtol=1e-5)
    assert not norms["n"].any()
    assert norms["n"].shape == (6,)
    only = jb.jacobian(lambda n: 1.0 * n.sum() * jnp.ones(2), allow_int=True)
    np.testing.assert_array_equal(only.squared_norms(jnp.arange(3)), jnp.zeros(2))
    np.testing.assert_array_equal(only.gram(jnp.arange(3)), jnp.zeros((2, 2)))


@pytest.mark.parametrize("name", ["diagonal", "trace", "squared_norms", "gram"])
def test_with_aux_and_with_value(name: str) -> None:
    f = lambda x: (jnp.sin(x), {"mean": x.mean(), "name": "aux"})
    J, bare = jb.jacobian(f, has_aux=True), jb.jacobian(jnp.sin)
    expected = np.asarray(getattr(bare, name)(X))
    found, aux = getattr(J, name)(X)
    np.testing.assert_allclose(found, expected)
    (y, aux_too), again = getattr(J, name).with_value(X)
    np.testing.assert_allclose(again, expected)
    np.testing.assert_allclose(y, jnp.sin(X), rtol=1e-6)
    y, again = getattr(bare, name).with_value(X)
    np.testing.assert_allclose(y, jnp.sin(X), rtol=1e-6)
    np.testing.assert_allclose(again, expected)
    assert aux["name"] == aux_too["name"] == "aux"
    planned, _ = getattr(J, name).plan(X)(X)
    np.testing.assert_allclose(planned, expected)


# Composed ---------------------------------------------------------------------------------------------------


def field(x: Any) -> Any:
    return jnp.sin(x) * jnp.sum(x**2) + x**3


def trace_by_jax(x: Any) -> Any:
    return jnp.trace(jax.jacrev(field)(x))


def test_grad_through_a_trace() -> None:
    assert_same(jax.grad(jb.jacobian(field).trace)(X), jax.grad(trace_by_jax)(X), 1e-4)


def test_grad_through_weights() -> None:
    net = lambda x: jnp.tanh(W[:2] @ x)
    found = jax.grad(lambda w: jnp.sum(jb.jacobian(net).gram(X, weights=w)))(jnp.ones(6))
    J = np.asarray(jax.jacrev(net)(X))
    np.testing.assert_allclose(found, J.sum(0) ** 2, rtol=1e-4)


def test_jacobian_and_hessian_of_a_trace() -> None:
    trace = jb.jacobian(field).trace
    assert_same(jb.jacobian(trace)(X), jax.jacrev(trace_by_jax)(X), 1e-4)
    assert_same(jb.hessian(trace).trace(X), jnp.trace(jax.hessian(trace_by_jax)(X)), 1e-4)


def test_vmap_of_a_diagonal_and_of_norms() -> None:
    J = jb.jacobian(field)
    found = jax.vmap(lambda x: (J.diagonal(x), J.squared_norms(x, over="out")))(BATCH)
    each = np.asarray(jax.vmap(jax.jacrev(field))(BATCH))
    np.testing.assert_allclose(found[0], np.diagonal(each, axis1=1, axis2=2), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], (each**2).sum(1), rtol=1e-4)


def test_in_jit_and_in_scan() -> None:
    J = jb.jacobian(field)
    expected = np.asarray(jax.jacrev(field)(X)) ** 2
    norms = jax.jit(J.squared_norms, static_argnames="over")
    np.testing.assert_allclose(norms(X), expected.sum(1), rtol=1e-4)
    np.testing.assert_allclose(norms(X, over="out"), expected.sum(0), rtol=1e-4)
    _, traces = jax.lax.scan(lambda x, _: (x, J.trace(x)), X, None, length=2)
    np.testing.assert_allclose(traces, [trace_by_jax(X)] * 2, rtol=1e-4)
    gram = jax.jit(J.gram, static_argnames="side")(X, side="in", weights=jnp.ones(6))
    np.testing.assert_allclose(gram, J.gram(X, side="in"), rtol=1e-5)


# Functions and plans ----------------------------------------------------------------------------------------


class Model:
    def __init__(self, k: float):
        self.k = k

    def f(self, x: Any, *, power: int = 2) -> Any:
        return self.k * x**power

    J = jb.jacobian(f, 1)
    norms = jb.jacobian(f, 1).squared_norms


def test_methods() -> None:
    model = Model(3.0)
    np.testing.assert_allclose(model.J.diagonal(X), 6 * X, rtol=1e-5)
    np.testing.assert_allclose(model.J.trace(X, power=1), 18)
    np.testing.assert_allclose(model.norms(X, over="all"), np.sum(36 * X**2), rtol=1e-5)
    np.testing.assert_allclose(Model.norms(model, X), 36 * X**2, rtol=1e-5)
    np.testing.assert_allclose(model.J.gram.plan(X, side="in")(X), np.diag(36 * X**2), rtol=1e-5)
    np.testing.assert_allclose(model.J.trace.with_value(X)[0], 3 * X**2, rtol=1e-5)
    assert repr(Model.J.trace) == "jaxobian.jacobian(f).trace"
    assert "jaxobian.jacobian(f).trace" in repr(model.J.trace)


@pytest.mark.parametrize("side", ["out", "in"])
def test_a_gram_matrix_of_complex_trees_is_hermitian(side: Any) -> None:
    z = {"a": X[:2] * (1 + 2j), "b": X[2:5] * (2 - 1j)}
    f = lambda z: {"u": z["a"] * z["b"][:2], "v": jnp.sin(z["b"]) * z["a"].sum()}
    gram = jb.jacobian(f, holomorphic=True).gram(z, side=side)
    J = [jnp.concatenate([*row.values()], 1) for row in jax.jacfwd(f, holomorphic=True)(z).values()]
    J = jnp.concatenate(J)
    expected = J @ J.conj().T if side == "out" else J.conj().T @ J
    found = jnp.concatenate([jnp.concatenate([*row.values()], 1) for row in gram.values()])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_transformations_of_j_after_its_functions_were_read() -> None:
    J = jb.jacobian(lambda x: jnp.tanh(x) * x.sum())
    expected, x = J(X), X
    assert J.trace is J.trace
    assert J.trace(x).shape == J.gram(x).shape[:0]
    assert jax.eval_shape(J, x).shape == (6, 6)
    traced = jax.jit(J).trace(x)
    np.testing.assert_array_equal(traced.lower().compile()(x), expected)


def test_signatures() -> None:
    J = jb.jacobian(Model.f, 1)
    assert str(inspect.signature(J.trace)) == str(inspect.signature(Model.f))
    assert list(inspect.signature(J.squared_norms).parameters) == ["self", "x", "power", "over"]
    assert list(inspect.signature(jb.jacobian(lambda x, **rest: x).gram).parameters) == ["x", "side", "weights", "rest"]
    assert list(inspect.signature(Model(1.0).norms).parameters) == ["x", "power", "over"]


def test_functions_and_plans_are_pickled() -> None:
    for quantity, kwargs in (
        (jb.jacobian(field).trace, {}),
        (jb.jacobian(field).squared_norms, {"over": "out"}),
        (jb.jacobian(field).gram, {"side": "in", "weights": np.arange(6.0)}),
        (Model(2.0).J.diagonal, {}),
    ):
        expected = np.asarray(quantity(X, **kwargs))
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(quantity))(X, **kwargs), expected)
        plan = quantity.plan(X, **kwargs)
        again = pickle.loads(pickle.dumps(plan))
        assert str(again) == str(plan)
        weights = {k: v for k, v in kwargs.items() if k == "weights"}  # of which the shapes alone are pickled
        np.testing.assert_allclose(again(X, **weights), expected, rtol=1e-6)
        if weights:
            with pytest.raises(jb.PlanMismatchError, match="pass weights="):
                again(X)


def test_a_plan_made_from_shapes_is_given_weights() -> None:
    shapes = lambda w: jax.ShapeDtypeStruct(w.shape, w.dtype)
    shared = jb.batch_jacobian(apply, in_axes=(None, 0))
    calls = ((jb.jacobian(field).gram, (X,), X**2), (shared.gram, (PARAMS, BATCH), jnp.arange(12.0).reshape(4, 3)))
    for gram, args, w in calls:
        plan = gram.plan(*args, side="in", weights=shapes(w))
        expected = jax.tree.leaves(gram(*args, side="in", weights=w))
        for ours, theirs in zip(jax.tree.leaves(plan(*args, weights=w)), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        with pytest.raises(jb.PlanMismatchError, match="pass weights="):
            plan(*args)


def test_a_plan_takes_other_weights_of_the_same_shape() -> None:
    f = lambda x: jnp.tanh(W[:2] @ x)
    gram = jb.jacobian(f).gram
    plan, J = gram.plan(X, weights=jnp.ones(6)), np.asarray(jax.jacrev(f)(X))
    np.testing.assert_allclose(plan(X), J @ J.T, rtol=1e-4)
    np.testing.assert_allclose(plan(X, weights=jnp.arange(6.0)), J * np.arange(6) @ J.T, rtol=1e-4)
    with pytest.raises(jb.PlanMismatchError, match=r"weights were planned as \(6,\) and came as \(5,\)"):
        plan(X, weights=jnp.ones(5))
    with pytest.raises(jb.PlanMismatchError, match=r"weights must be real; c64\[6\] came"):
        plan(X, weights=jnp.ones(6) * 1j)
    with pytest.raises(jb.PlanMismatchError, match="came, not planned"):
        gram.plan(X)(X, weights=jnp.ones(6))


def test_passes() -> None:
    J = jb.jacobian(lambda x: jnp.tanh(x) * x)
    for quantity in (J.diagonal, J.trace, J.squared_norms):
        assert quantity.plan(normal(50)).passes == 1
    one, many = jb.jacobian(field), jb.batch_jacobian(jax.vmap(field))
    for mode in ("fwd", "rev"):
        one, many = jb.jacobian(field, mode=mode), jb.batch_jacobian(jax.vmap(field), mode=mode)
        assert many.trace.plan(BATCH).passes == one.trace.plan(X).passes == 6
    assert jb.hessian(lambda x: jnp.sum(x**3)).trace.plan(X).passes == 1
    assert jb.batch_jacobian(loss, in_axes=(None, 0)).squared_norms.plan(PARAMS, BATCH).passes == 1


# What is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jb.jacobian(lambda x: x[:2]).diagonal(X),
         r"diagonal is defined where .* f's output is f32\[2\], args\[0\] is f32\[6\]\. .*squared_norms .* and gram"),
        (lambda: jb.jacobian(lambda t: {"a": t["a"], "b": t["b"][:1]}).trace(T),
         r"trace is defined where .* f's output\['b'\] is f32\[1,2\], args\[0\]\['b'\] is f32\[2,2\]"),
        (lambda: jb.jacobian(lambda x: {"a": x}).trace.plan(X), r"leaf for leaf: x is PyTreeDef\(\*\), and f returns"),
        (lambda: jb.batch_jacobian(lambda x: x[:, :3]).trace(BATCH), r"is f32\[4,3\], args\[0\] is f32\[4,6\]"),
        (lambda: jb.jacobian(field).squared_norms(X, over="rows"), r"over must be \"in\" .* got 'rows'"),
        (lambda: jb.jacobian(field).gram(X, side="left"), r"side must be \"out\" .* got 'left'"),
        (lambda: jb.jacobian(field).gram(X, weights=jnp.ones(5)),
         r"shapes of the differentiated argument: expected \(6,\) for args\[0\], got f32\[5\]"),
        (lambda: jb.jacobian(lambda x: x[:2]).gram(X, side="in", weights=X),
         r"shapes of f's output: expected \(2,\) for f's output, got f32\[6\]"),
        (lambda: jb.jacobian(field).gram(X, weights=1j * X), r"weights must be real .* got c64\[6\]"),
        (lambda: jb.jacobian(field).gram(X, weights=[X]), "leaf for leaf: expected .* got PyTreeDef"),
    ],
)  # fmt: skip
def test_what_is_not_defined_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_coupled_examples_are_refused() -> None:
    with pytest.raises(jb.BatchCouplingError, match="example 1 of the output changes with example 0"):
        jb.batch_jacobian(lambda x: x - x.mean(0)).trace(BATCH)


# Memory -----------------------------------------------------------------------------------------------------

LARGE = """
import jax.numpy as jnp, jaxobian as jb
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
x = jnp.linspace(0.0, 1.0, 20_000)
low = jnp.cos(jnp.arange(60_000.0)).reshape(3, -1)
fs = (lambda x: jnp.tanh(x) * jnp.sum(x), lambda x: low.T @ jnp.sin(low @ x))
jb.jacobian(fs[0]).trace(x[:50])
before = peak()
for f in fs:
    print(float(jb.jacobian(f).trace(x)), peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from Linux")
def test_a_trace_takes_little_memory() -> None:
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True, timeout=600)
    for line, expected in zip(done.stdout.splitlines(), _large_traces(), strict=True):
        value, more = map(float, line.split())
        assert value == pytest.approx(expected, rel=1e-3)
        assert more < 100, "MB; J has 1600"


def _large_traces() -> list[float]:
    x = np.linspace(0, 1, 20_000)
    low = np.cos(np.arange(60_000.0)).reshape(3, -1)
    return [
        float(np.sum((1 - np.tanh(x) ** 2) * x.sum() + np.tanh(x))),
        float(np.sum(np.cos(low @ x) * (low**2).sum(1))),
    ]
