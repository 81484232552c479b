"""Seeds: every pass lands in its place. The oracle is a random matrix, whose blocks are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxobian as jb
from jaxobian._execute import swept
from jaxobian._outputs import Kept, _scatter
from jaxobian._planning import _sweeps
from jaxobian._request import Mode
from jaxobian._seeds import Seeds, _seeds
from jaxobian._trace import Side
from jaxobian.testing import Scenario, scenarios


def side(*shapes: tuple[int, ...], batch_axes: tuple[int | None, ...] = (), dtype: Any = "float32") -> Side:
    avals = tuple(jax.ShapeDtypeStruct(s, dtype) for s in shapes)
    return Side(avals, batch_axes or (None,) * len(shapes))


def random_map(seeded: Side, result: Side, *, forward: bool) -> tuple[Callable[..., list[Any]], list[list[np.ndarray]]]:
    """A linear map and its blocks [seeded][result], each (tied, out, in), the axes of the seeded side flat.

    Every example along a tied axis has a matrix of its own; a map without tied axes has one.
    """
    tied_axes = [*zip(seeded.avals, seeded.batch_axes, strict=True), *zip(result.avals, result.batch_axes, strict=True)]
    (batch,) = {aval.shape[batch_axis] for aval, batch_axis in tied_axes if batch_axis is not None} or {1}
    matrices = np.random.default_rng(0).normal(size=(batch, result.size, seeded.size)).astype(np.float32)

    def rows(values: Sequence[Any], of: Side) -> Any:
        """(batch, elements), with the tied axis in front and everything else flat."""
        parts = []
        for x, batch_axis, size in zip(values, of.batch_axes, of.sizes, strict=True):
            x = x[None] if batch_axis is None else jnp.moveaxis(x, batch_axis, 0)
            parts.append(x.reshape(batch, size))
        return jnp.concatenate(parts, 1)

    def linear(*values: Any) -> list[Any]:
        out = jnp.einsum("bij,bj->bi", matrices, rows(values, seeded))
        pieces = jnp.split(out, list(accumulate(result.sizes))[:-1], axis=1)
        made = []
        for piece, aval, shape, batch_axis in zip(pieces, result.avals, result.shapes, result.batch_axes, strict=True):
            x = piece.reshape(batch, *shape)
            made.append(x[0].reshape(aval.shape) if batch_axis is None else jnp.moveaxis(x, 0, batch_axis))
        return made

    blocks = []
    columns = np.split(matrices, list(accumulate(seeded.sizes))[:-1], axis=2)
    for part in columns:
        row = np.split(part, list(accumulate(result.sizes))[:-1], axis=1)
        made = []
        for block, shape, batch_axis in zip(row, result.shapes, result.batch_axes, strict=True):
            lead = () if batch_axis is None else (batch,)
            if forward:  # out axes, then the flat in axis
                made.append(block.reshape(*lead, *shape, part.shape[2]))
            else:  # the seeded side is the output: its flat axis first
                made.append(block.swapaxes(1, 2).reshape(*lead, part.shape[2], *shape))
        blocks.append(made)
    return linear, blocks


SIDES: dict[str, tuple[Side, Side]] = {
    "vectors": (side((5,)), side((3,))),
    "scalars": (side(()), side(())),
    "matrices": (side((2, 3)), side((3, 1))),
    "several leaves": (side((2,), (), (2, 2)), side((3,), (2,))),
    "an empty leaf between": (side((2,), (0, 3), (3,)), side((3,), (2, 0))),
    "all empty": (side((0,)), side((2,))),
    "tied, in front": (side((4, 5), batch_axes=(0,)), side((4, 3), batch_axes=(0,))),
    "tied, elsewhere": (side((3, 4, 2), batch_axes=(1,)), side((2, 3, 4), batch_axes=(2,))),
    "tied leaves": (side((4, 2), (3, 4), (4,), batch_axes=(0, 1, 0)), side((4,), (2, 4), batch_axes=(0, 1))),
    "no examples": (side((0, 3), batch_axes=(0,)), side((0, 2), batch_axes=(0,))),
}


@pytest.mark.parametrize("forward", [True, False], ids=["forward", "reverse"])
@pytest.mark.parametrize("looped", [True, False], ids=["looped", "unrolled"])
@pytest.mark.parametrize("vmapped", [True, False], ids=["vmapped", "one by one"])
@pytest.mark.parametrize("name", SIDES)
def test_every_width_gives_the_matrix(name: str, vmapped: bool, looped: bool, forward: bool) -> None:
    seeded, result = SIDES[name]
    linear, expected = random_map(seeded, result, forward=forward)
    like = [jnp.ones(a.shape, a.dtype) for a in seeded.avals]
    widths = (1, 3, 50) if vmapped else (1, 2)
    for width in widths:
        seeds = Seeds(seeded, result, forward, width, vmapped, looped)
        assert seeds.passes == seeded.size
        with jax.disable_jit(not looped):  # nothing to compile where nothing loops
            blocks = seeds.blocks(swept(seeds, linear, like, Kept(seeds)))
        for row, expected_row in zip(blocks, expected, strict=True):
            for block, expected_block in zip(row, expected_row, strict=True):
                assert block.shape == expected_block.shape
                np.testing.assert_allclose(block, expected_block, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 10, 100])
def test_runs_cover_every_pass_once(width: int) -> None:
    seeded = side((2,), (0,), (1,), (7,), (2, 2), ())
    runs = Seeds(seeded, side((1,)), True, width).runs()
    passes = [p for run in runs for p in range(run.first, run.first + run.total)]
    assert passes == list(range(seeded.size))
    assert [k for run in runs for k in run.leaves] == [0, 2, 3, 4, 5]
    for run in runs:
        assert run.width <= width
        assert run.total <= width or len(run.leaves) == 1
        assert (run.chunks - 1) * run.width < run.total <= run.chunks * run.width


def test_small_leaves_share_a_run() -> None:
    # A model has many small leaves (biases): one run each would waste the width.
    runs = Seeds(side(*[(3,)] * 10), side((1,)), True, 32).runs()
    assert [run.total for run in runs] == [30]


def test_sides() -> None:
    s = side((4, 2, 3), (2, 4), batch_axes=(0, 1))
    assert s.shapes == ((2, 3), (2,))
    assert s.sizes == (6, 2)
    assert s.size == 8
    assert side((), (0, 3)).sizes == (1, 0)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.complex64])
def test_seeds_have_the_dtype_of_what_they_seed(dtype: Any) -> None:
    seeded = side((3,), dtype=dtype)
    seen = []

    def linear(x: Any) -> list[Any]:
        seen.append(x.dtype)
        return [x]

    seeds = Seeds(seeded, seeded, True, 2)
    ((block,),) = seeds.blocks(swept(seeds, linear, [jnp.ones(3, dtype)], Kept(seeds)))
    assert set(seen) == {jnp.dtype(dtype)}
    np.testing.assert_array_equal(block, np.eye(3))


def test_what_is_seeded_may_be_infinite() -> None:
    # Seeds take over the varying axes of what they are like, never its values.
    seeded = side((3,))
    like = [jnp.array([jnp.inf, jnp.nan, 0.0])]
    seeds = Seeds(seeded, seeded, True, 3)
    ((block,),) = seeds.blocks(swept(seeds, lambda x: [x], like, Kept(seeds)))
    np.testing.assert_array_equal(block, np.eye(3))


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_long_loops_over_packed_leaves(mode: Mode) -> None:
    # Outside a trace long loops run on the host, step by step, into donated buffers.
    tree = {"a": jnp.ones(2), "b": jnp.ones(2), "c": jnp.linspace(0, 1, 70)}
    f = lambda p: {"u": p["a"] * 2, "v": p["b"] * p["a"], "w": jnp.sin(p["c"]) * p["a"][0]}
    J = jb.jacobian(f, mode=mode, chunk_size=4)
    for _ in range(2):
        actual, expected = J(tree), jax.jacrev(f)(tree)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, expected)


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_long_loops_leave_arguments_and_values_alone(mode: Mode) -> None:
    # Buffers are donated; what the caller holds is not.
    w, x = jnp.eye(60) * 2, jnp.linspace(0, 1, 60)
    J = jb.jacobian(lambda x: (w @ x, x), mode=mode, chunk_size=2)
    for _ in range(2):
        (y, same), (A, B) = J.with_value(x)
        np.testing.assert_array_equal(A, w)
        np.testing.assert_array_equal(B, jnp.eye(60))
        np.testing.assert_allclose(y, 2 * x)
        np.testing.assert_array_equal(same, x)


@pytest.mark.parametrize("mode", ["fwd", "rev"])
@pytest.mark.parametrize(("inp", "out"), [(jnp.float16, jnp.float32), (jnp.float32, jnp.float16)])
def test_long_loops_in_two_precisions(inp: Any, out: Any, mode: Mode) -> None:
    x = jnp.linspace(0, 1, 40, dtype=inp)
    f = lambda x: (x * x).astype(out)
    J = jb.jacobian(f, mode=mode, chunk_size=2)(x)
    assert J.dtype == jnp.float32
    np.testing.assert_allclose(J, 2 * np.diag(x).astype(np.float32), rtol=1e-3)


# Results that several elements share -------------------------------------------------------------------------


def call_price(spot: jax.Array, sigma: jax.Array) -> jax.Array:
    d = jnp.log(spot) / sigma + 0.5 * sigma
    return spot * jax.scipy.stats.norm.cdf(d) - jax.scipy.stats.norm.cdf(d - sigma)


def test_expensive_results_are_written_down_before_they_are_spread() -> None:
    # XLA would make the elementwise end of a pass anew for each of J's elements.
    spot, sigma = jnp.linspace(0.5, 2, 200), jnp.linspace(0.1, 0.5, 200)
    J = jb.jacobian(call_price, (0, 1), mode="rev")
    assert [seeds.scattered for seeds in J.plan(spot, sigma).choice.chosen.seeds] == [True]
    actual, expected = J(spot, sigma), jax.jacrev(call_price, (0, 1))(spot, sigma)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, expected)


def test_zeros_stay_zeros_beside_results_that_are_not_finite() -> None:
    spot, sigma = jnp.ones(40).at[:3].set(jnp.array([jnp.nan, jnp.inf, 0.0])), jnp.full(40, 0.2)
    J = jb.jacobian(call_price, 0, mode="rev")
    assert J.plan(spot, sigma).choice.chosen.seeds[0].scattered
    block = np.asarray(J(spot, sigma))
    assert np.isnan(block[0, 0])
    np.testing.assert_array_equal(block[~np.eye(40, dtype=bool)], 0)


def test_zeros_of_several_blocks_are_not_copied() -> None:
    # XLA makes equal arrays once, and copies what it writes into: that would write J twice.
    spot, sigma = jnp.linspace(0.5, 2, 300), jnp.linspace(0.1, 0.5, 300)
    for J in (jb.jacobian(call_price, (0, 1), mode="rev"), jb.jacobian(call_price, (0, 1), mode="colored")):
        text = jax.jit(J).lower(spot, sigma).compile().as_text()
        assert text is not None
        assert text.count("f32[90000]{0} fusion") >= 4
        assert "f32[90000]{0} copy" not in text


WITH_TIES = {
    "elementwise_images", "reductions", "bundle_adjustment", "complex_recurrence", "mlp_batch16_dense", "group_norm",
    "pass_through", "half_to_single", "complex_to_real", "loop_map",
}  # fmt: skip
TIED = [(scenario, mode) for scenario in scenarios() if scenario.name in WITH_TIES for mode in scenario.modes]


@pytest.mark.parametrize("transform", [lambda J: J, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(("scenario", "mode"), TIED, ids=[f"{scenario.name}-{mode}" for scenario, mode in TIED])
def test_results_put_in_place_one_by_one(
    scenario: Scenario, mode: Mode, transform: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    f, args = scenario.make()
    J = jb.jacobian if not scenario.batched else jb.batch_jacobian
    expected = J(f, scenario.argnums, mode=mode)(*args)
    jb.clear_cache()
    monkeypatch.setattr(_sweeps, "_placed", lambda problem, seeds, sweep: replace(sweep, scattered=True))
    one_by_one = J(f, scenario.argnums, mode=mode)
    assert all(seeds.scattered for seeds in one_by_one.plan(*args).choice.chosen.seeds)
    actual = transform(one_by_one)(*args)
    jb.clear_cache()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5), actual, expected)


def test_entries_of_sparse_blocks_are_not_spread() -> None:
    spot, sigma = jnp.linspace(0.5, 2, 200), jnp.linspace(0.1, 0.5, 200)
    plans = [jb.jacobian(call_price, mode="rev", format=format).plan(spot, sigma) for format in ("dense", "bcoo")]
    assert [plan.choice.chosen.seeds[0].scattered for plan in plans] == [True, False]


LARGE = [
    *((name, "auto") for name in ("book_by_spot_and_volatility", "brusselator_small", "helmholtz", "unet")),
    *((name, "rev") for name in ("book_by_spot_and_volatility", "brusselator_small", "arrowhead")),
    *((name, "colored") for name in ("book_by_spot_and_volatility", "brusselator_small", "rosenbrock_gradient")),
]


@pytest.mark.parametrize(("name", "mode"), LARGE)
def test_blocks_of_more_elements_than_an_index_can_count(
    name: str, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    # JAX counts in 32 bits: past 2**31 elements a flat index would wrap around, and nobody would see it.
    (scenario,) = [s for s in scenarios() if s.name == name]
    f, args = scenario.make()
    expected = jax.jacrev(f, scenario.argnums)(*args)
    jb.clear_cache()
    monkeypatch.setattr(_scatter, "MOST_INDEXED", 10)
    monkeypatch.setattr(_seeds, "MOST_INDEXED", 10)
    actual = jb.jacobian(f, scenario.argnums, mode=mode)(*args)
    jb.clear_cache()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), actual, expected)
