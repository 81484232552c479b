"""Rewrites equal what they replace, and so do their transposes; plans say what was replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

import jaxobian as jb
from jaxobian._request import Mode
from jaxobian._rewrite import Around, offers, rewritten, skinny_matmuls, weights_first
from jaxobian._rewrite._convolution import _Convolution
from jaxobian._trace import active_variables, program_of, trace
from jaxobian.testing._networks import avg_pool, conv, max_pool
from jaxobian.testing._scenario import normal, uniform, weights


def linear_maps(f: Callable[..., Any], x: Array, mode: Mode) -> tuple[Callable[[Array], Any], Callable[[Array], Any]]:
    """f's derivative at x as JAX has it, and with every offer taken up."""
    program = trace(lambda _, xs: (jax.tree.leaves(f(*xs)), []), (x,))
    active = active_variables(program.linear, program.tangents)
    taken = {}
    for place, equation in enumerate(program.linear.equations):
        ours = {k for k, v in enumerate(equation.invars) if not hasattr(v, "val") and v in active}
        found = offers(equation, ours, mode, Around.of(program.linear, active)) if ours else []
        if found:
            taken[place] = found[0]
    assert taken, "there is nothing to replace"
    faster = program.rewritten(program.primal, rewritten(program.linear, taken))
    _, _, residuals = program.evaluate(program.operands, (x,))
    _, _, others = faster.evaluate(faster.operands, (x,))
    return lambda t: program.push(residuals, (t,))[0], lambda t: faster.push(others, (t,))[0]


def assert_equal_both_ways(
    f: Callable[..., Any], x: Array, tolerance: float = 1e-12, modes: Sequence[Mode] = ("fwd", "rev")
) -> None:
    for mode in modes:
        plain, faster = linear_maps(f, x, mode)
        if mode == "fwd":
            seed: Any = normal(*x.shape, seed=5).astype(x.dtype)
            expected, actual = jax.jit(plain)(seed), jax.jit(faster)(seed)
        else:
            aval = jax.eval_shape(plain, x)
            seed = normal(*aval.shape, seed=6).astype(aval.dtype)
            expected, actual = (jax.jit(lambda s, g=g: jax.linear_transpose(g, x)(s)[0])(seed) for g in (plain, faster))
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


# Pooling ----------------------------------------------------------------------------------------------------

WINDOWS = [
    ((2, 2), (2, 2), "VALID"),
    ((2, 2), (2, 2), "SAME"),
    ((3, 3), (2, 2), "SAME"),
    ((3, 2), (1, 2), "VALID"),
    ((2, 2), (3, 3), "VALID"),
    ((3, 3), (3, 3), ((1, 2), (2, 0))),
]
VALUES = {
    "random": lambda x: x,
    "ties": jnp.round,
    "flat": jnp.zeros_like,
    "nan": lambda x: jnp.where(x > 1.2, jnp.nan, x),
    "infinite": lambda x: jnp.where(jnp.abs(x) > 1.2, jnp.sign(x) * jnp.inf, x),
    "all -inf": lambda x: jnp.full_like(x, -jnp.inf),
}


def pooled(kind: str, sizes: tuple[int, ...], strides: tuple[int, ...], padding: Any) -> Callable[[Array], Array]:
    start, step = {"max": (-jnp.inf, lax.max), "min": (jnp.inf, lax.min), "sum": (0.0, lax.add)}[kind]
    if not isinstance(padding, str):
        padding = ((0, 0), *padding, (0, 0))
    return lambda x: lax.reduce_window(x, np.asarray(start, x.dtype), step, (1, *sizes, 1), (1, *strides, 1), padding)


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize(("sizes", "strides", "padding"), WINDOWS)
@pytest.mark.parametrize("kind", ["max", "min"])
def test_the_winner_is_jax_s_winner(kind, sizes, strides, padding, values) -> None:
    x = VALUES[values](normal(2, 7, 6, 3))
    f = pooled(kind, sizes, strides, padding)
    # JAX's forward mode takes nothing of a window that is all -inf, and searches larger windows in another order.
    alike = values == "random" or (sizes == (2, 2) and values in ("ties", "flat"))
    assert_equal_both_ways(f, x, 1e-6, modes=("fwd", "rev") if alike else ("rev",))


@pytest.mark.parametrize(("sizes", "strides", "padding"), WINDOWS)
def test_sums_over_windows(sizes, strides, padding) -> None:
    assert_equal_both_ways(pooled("sum", sizes, strides, padding), normal(2, 7, 6, 3), 1e-5)


@pytest.mark.parametrize("rank", [1, 3])
def test_windows_of_other_ranks(rank: int) -> None:
    x = normal(2, *(6, 4, 5)[:rank], 2)
    assert_equal_both_ways(pooled("max", (2, 2, 3)[:rank], (2, 1, 2)[:rank], "VALID"), x, 1e-6)


def test_no_windows_are_left_alone() -> None:
    x = normal(20, 1, 1, 3)
    assert jb.jacobian(max_pool)(x).shape == (20, 0, 0, 3, 20, 1, 1, 3)


def test_the_gradient_of_pooling_is_differentiated_again() -> None:
    f = pooled("max", (2, 2), (2, 2), "SAME")
    assert_equal_both_ways(jax.grad(lambda x: jnp.sum(jnp.sin(f(x)))), normal(1, 5, 4, 2), 1e-5)


def test_a_relu_before_a_pool_is_looked_up_at_the_winner() -> None:
    images = jnp.round(2 * normal(16, 12, 12, 4)) / 2  # ties, and zeros at relu's kink
    mix = weights(6 * 6 * 4, 5, seed=1)
    f = lambda x: max_pool(jax.nn.relu(x)).reshape(len(x), -1) @ mix
    for mode in ("fwd", "rev"):
        J = jb.batch_jacobian(f, mode=mode)
        assert mode == "fwd" or "max-pool gradient -> mask of the winners" in str(J.plan(images))
        expected = jax.vmap(jax.jacrev(lambda x: f(x[None])[0]))(images)
        np.testing.assert_allclose(J(images), expected, rtol=1e-5, atol=1e-6)


# Convolutions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((0, 3), (2, 1)), ((-1, 2), (0, -1))])
@pytest.mark.parametrize(("dilation", "spread"), [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_tiles_equal_the_convolution(stride, padding, dilation, spread, x64) -> None:
    padding = ((1, 1), (0, 1)) if spread > 1 and isinstance(padding, str) else padding
    kernel = weights(3, 2, 3, 4, seed=1).astype(jnp.float64)
    assert_equal_both_ways(
        lambda x: lax.conv_general_dilated(
            x, kernel, (stride, 1), padding, (spread, 1), (dilation, 1), dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        normal(2, 9, 8, 3).astype(jnp.float64),
    )


@pytest.mark.parametrize("layout", [("NCHW", "OIHW", "NCHW"), ("NHWC", "HWIO", "NCHW"), ("CWNH", "IHOW", "HNWC")])
def test_tiles_in_other_layouts(layout, x64) -> None:
    numbers = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, layout)
    x = normal(2, 3, 7, 9).astype(jnp.float64).transpose(np.argsort(numbers.lhs_spec))
    kernel = weights(4, 3, 3, 2, seed=1).astype(jnp.float64).transpose(np.argsort(numbers.rhs_spec))
    f = lambda x: lax.conv_general_dilated(x, kernel, (1, 2), "SAME", dimension_numbers=layout)
    assert_equal_both_ways(f, x)
    g = lambda k: lax.conv_general_dilated(x, k, (1, 2), "SAME", dimension_numbers=layout)
    assert_equal_both_ways(g, kernel)


def test_a_convolution_along_a_line(x64) -> None:
    kernel = weights(5, 2, 3, seed=1).astype(jnp.float64)
    f = lambda x, k: lax.conv_general_dilated(x, k, (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
    x = normal(2, 11, 2).astype(jnp.float64)
    assert_equal_both_ways(lambda x: f(x, kernel), x)
    assert_equal_both_ways(lambda k: f(x, k), kernel)


@pytest.mark.parametrize(
    ("windows", "padding"),
    [((2, 2), "SAME"), ((4, 2), "VALID"), ((3, 3), "SAME"), ((8, 8), "VALID"), ((2, 2), ((1, 1), (0, 0)))],
)
@pytest.mark.parametrize("activation", [jax.nn.relu, lambda x: x])
def test_tiles_that_are_pooled_next(windows, padding, activation, x64, monkeypatch) -> None:
    monkeypatch.setattr(_Convolution, "best_tile", lambda self: self.out)  # one that has whole windows in it
    kernel = weights(3, 2, 3, 4, seed=1).astype(jnp.float64)

    def f(x: Array) -> Array:
        y = lax.conv_general_dilated(x, kernel, (1, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return pooled("max", windows, windows, padding)(activation(y))

    assert_equal_both_ways(f, normal(2, 8, 16, 3).astype(jnp.float64))


def test_tiles_that_are_pooled_next_in_other_layouts(x64, monkeypatch) -> None:
    monkeypatch.setattr(_Convolution, "best_tile", lambda self: self.out)
    kernel = weights(4, 3, 3, 3, seed=1).astype(jnp.float64)
    image = lambda x: lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
    pool = lambda x: lax.reduce_window(x, -np.inf, lax.max, (1, 1, 2, 4), (1, 1, 2, 4), "VALID")
    assert_equal_both_ways(lambda x: pool(jax.nn.relu(image(x))), normal(2, 3, 8, 8).astype(jnp.float64))
    across = lambda x: lax.reduce_window(image(x), -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    assert_equal_both_ways(across, normal(2, 3, 8, 8).astype(jnp.float64))
    line = lambda x: lax.conv_general_dilated(x, kernel[:, :, 0], (1,), "SAME", dimension_numbers=("NCW", "OIW", "NWC"))
    pooled_line = lambda x: lax.reduce_window(line(x), -np.inf, lax.max, (1, 4, 1), (1, 4, 1), "VALID")
    assert_equal_both_ways(pooled_line, normal(2, 3, 16).astype(jnp.float64))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("dilation", "spread"), [(1, 1), (2, 1), (1, 2)])
def test_patches_equal_the_convolution_by_its_kernel(stride, dilation, spread, x64) -> None:
    x = normal(2, 9, 8, 3).astype(jnp.float64)
    assert_equal_both_ways(
        lambda k: lax.conv_general_dilated(
            x, k, (stride, 1), ((1, 1), (0, 1)), (spread, 1), (dilation, 1), dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        normal(3, 2, 3, 4).astype(jnp.float64),
    )


def test_grouped_and_empty_convolutions_are_left_alone() -> None:
    x, kernel = normal(2, 8, 8, 4), weights(3, 3, 1, 4, seed=1)
    grouped = lambda x: lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4
    )
    for f, a in ((grouped, x), (lambda x: conv(x, weights(3, 3, 4, 2, seed=1)), normal(0, 8, 8, 4))):
        with pytest.raises(AssertionError, match="nothing to replace"):
            linear_maps(f, a, "rev")
        np.testing.assert_allclose(jb.jacobian(f)(a), jax.jacrev(f)(a), rtol=1e-5, atol=1e-6)


# Outer products ---------------------------------------------------------------------------------------------


def row(*shape: int) -> Array:
    return normal(*shape).astype(jnp.float64)


@pytest.mark.parametrize(
    ("f", "shape"),
    [
        (lambda w: row(5) @ w, (5, 4)),
        (lambda w: w @ row(5), (4, 5)),
        (lambda w: row(1, 5) @ w, (5, 4)),
        (lambda w: jnp.einsum("jk,ki->ji", w, row(5, 1)), (4, 5)),
        (lambda w: jnp.einsum("k,akb->ab", row(5), w), (3, 5, 4)),
        (lambda w: jnp.einsum("lk,akbl->ab", row(6, 5), w), (3, 5, 4, 6)),
        (lambda w: jnp.einsum("nk,bkn->nb", row(3, 5), w), (4, 5, 3)),
        (lambda w: jnp.einsum("bkn,kn->nb", w, row(5, 3)), (4, 5, 3)),
        (lambda w: jnp.einsum("kn,kn->n", w, row(5, 3)), (5, 3)),
        (lambda w: jnp.einsum("k,k->", w, row(5)), (5,)),
    ],
)
def test_outer_products(f: Callable[[Array], Array], shape: tuple[int, ...], x64) -> None:
    w = normal(*shape, seed=3).astype(jnp.float64)
    assert_equal_both_ways(f, w, modes=("rev",))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_outer_products_in_other_precisions(dtype: Any) -> None:
    h, w = normal(5).astype(dtype), normal(5, 4, seed=1).astype(dtype)
    assert_equal_both_ways(lambda w: h @ w, w, tolerance=1e-6, modes=("rev",))


@pytest.mark.parametrize(
    "f",
    [
        lambda w: normal(2, 5) @ w,
        lambda w: w * normal(5, 4),
        lambda w: normal(5).astype(jnp.float16) @ w,
        lambda w: lax.dot(normal(5).astype(jnp.float16), w.astype(jnp.float16), preferred_element_type=jnp.float32),
    ],
)
def test_other_products_with_a_matrix_are_left_alone(f: Callable[[Array], Array]) -> None:
    with pytest.raises(AssertionError, match="nothing to replace"):
        linear_maps(f, normal(5, 4), "rev")


def test_parameters_of_dense_layers() -> None:
    layers, x = [normal(30, 20, seed=1), normal(20, 10, seed=2)], normal(6, 30)

    def apply(layers: Any, x: Array) -> Array:
        for w in layers:
            x = jnp.tanh(x @ w)
        return x

    J = jb.batch_jacobian(apply, in_axes=(None, 0))
    assert "weight gradients -> elementwise outer product" in str(J.plan(layers, x))
    expected = jax.vmap(jax.jacrev(lambda layers, x: apply(layers, x[None])[0]), (None, 0))(layers, x)
    for actual, block in zip(J(layers, x), expected, strict=True):
        np.testing.assert_allclose(actual, block, rtol=1e-4, atol=1e-6)
    assert "outer product" not in str(jb.batch_jacobian(apply, in_axes=(None, 0), rewrite=False).plan(layers, x))


# Whole functions --------------------------------------------------------------------------------------------


def network(images: Array) -> Array:
    h = max_pool(jax.nn.relu(conv(images, weights(5, 5, 1, 6, seed=1))))
    h = avg_pool(jnp.tanh(conv(h, weights(3, 3, 6, 8, seed=2), padding="VALID")))
    return h.reshape(len(images), -1) @ weights(8 * 5 * 5, 4, seed=3)


@pytest.mark.parametrize("mode", ["fwd", "rev"])
@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("jitted", [True, False])
def test_networks(mode: Mode, chunk_size: int | None, jitted: bool) -> None:
    images = uniform(8, 24, 24, 1)
    J = jb.batch_jacobian(network, mode=mode, chunk_size=chunk_size)
    assert mode == "fwd" or J.plan(images).choice.chosen.rewrites
    actual = (jax.jit(J) if jitted else J)(images)
    expected = jax.vmap(jax.jacrev(lambda image: network(image[None])[0]))(images)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_the_plan_says_what_was_replaced_and_rewrite_false_leaves_all_as_it_is() -> None:
    images = uniform(8, 24, 24, 1)
    plan = jb.batch_jacobian(network).plan(images)
    said = [line for line in str(plan).splitlines() if "->" in line and "f32" not in line]
    assert any("max-pool gradient -> mask of the winners" in line for line in said)
    assert said[0].split()[0] == "rewritten"
    plain = jb.batch_jacobian(network, rewrite=False).plan(images)
    assert not plain.choice.chosen.rewrites
    assert "rewritten" not in str(plain)
    np.testing.assert_allclose(plan(images), plain(images), rtol=1e-5, atol=1e-6)


def test_parts_of_a_mixed_plan_are_rewritten_too() -> None:
    def f(x: Array) -> Array:
        h = max_pool(jax.nn.relu(conv(x.reshape(1, 32, 32, 1), weights(3, 3, 1, 8, seed=1))))
        z = jnp.tanh(h.reshape(-1) @ weights(2048, 16, seed=2))
        return jnp.tanh(z @ weights(16, 1000, seed=3))

    x = normal(1024)
    plan = jb.jacobian(f, mode="mixed").plan(x)
    assert any("max-pool" in what for what, _, _ in plan.choice.chosen.rewrites)
    np.testing.assert_allclose(plan(x), jax.jacrev(f)(x), rtol=1e-4, atol=1e-6)


def test_rewritten_functions_compose() -> None:
    x = normal(10, 10, 1)
    f = lambda x: max_pool(jax.nn.relu(conv(x[None], weights(3, 3, 1, 4, seed=1)))).reshape(-1)[:7]
    expected = jax.jacfwd(jax.jacrev(lambda x: jnp.sin(f(x))))(x)
    actual = jb.jacobian(jb.jacobian(lambda x: jnp.sin(f(x)), mode="rev"))(x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    many = jnp.stack([x, 2 * x - 1])
    np.testing.assert_allclose(jax.vmap(jb.jacobian(f))(many), jax.vmap(jax.jacrev(f))(many), rtol=1e-5, atol=1e-6)


# Products ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [2, 3, 4, 5, 8, 10, 17, 64])
def test_products_of_few_rows(rows: int) -> None:
    constant, seeds = normal(256, 300, seed=1), normal(rows, 300, seed=2)
    linear = lambda t: [lax.dot_general(t, constant, (((0,), (1,)), ((), ())))]
    program, constants, _ = program_of(jax.vmap(linear), seeds)
    assert len(skinny_matmuls(program, program.inputs[len(constants) :])) == 1
    (actual,) = jax.jit(weights_first(jax.vmap(linear)))(seeds)
    np.testing.assert_allclose(actual, jax.jit(jax.vmap(linear))(seeds)[0], rtol=1e-5, atol=1e-4)


def test_products_over_several_axes() -> None:
    constant, seeds = normal(32, 20, 16, seed=1), normal(5, 4, 16, 20, seed=2)
    numbers = (((2, 1), (1, 2)), ((), ()))
    linear = lambda t: [lax.dot_general(t, constant, numbers)]
    program, constants, _ = program_of(jax.vmap(linear), seeds)
    assert len(skinny_matmuls(program, program.inputs[len(constants) :])) == 0  # not large enough for twenty rows
    constant = normal(256, 20, 16, seed=1)
    program, constants, _ = program_of(jax.vmap(linear), seeds)
    assert len(skinny_matmuls(program, program.inputs[len(constants) :])) == 1
    np.testing.assert_allclose(
        weights_first(jax.vmap(linear))(seeds)[0], jax.vmap(linear)(seeds)[0], rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize(
    "linear",
    [
        lambda t: t @ normal(300, 256),  # its constant lies as the kernel reads it
        lambda t: normal(256, 300) @ t,
        lambda t: t @ normal(10, 300).T,  # a small one
        lambda t: t.astype(jnp.bfloat16) @ normal(256, 300).astype(jnp.bfloat16).T,
        lambda t: jnp.sin(t),
    ],
)
def test_other_products_are_left_alone(linear: Callable[[Array], Array]) -> None:
    program, constants, _ = program_of(jax.vmap(linear), normal(5, 300))
    assert not skinny_matmuls(program, program.inputs[len(constants) :])


def classifier(x: Array) -> Array:
    h = jnp.tanh(x @ weights(300, 256, seed=1))
    return jnp.tanh(h @ weights(256, 256, seed=2)) @ weights(256, 7, seed=3)


@pytest.mark.parametrize("jitted", [True, False])
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_classifiers(jitted: bool, chunk_size: int | None) -> None:
    x = normal(300)
    J = jb.jacobian(classifier, chunk_size=chunk_size)
    plan = J.plan(x)
    assert any("skinny matmul" in what for what, _, _ in plan.choice.chosen.rewrites)
    assert "skinny matmuls -> weights first" in str(plan)
    assert "optimization_barrier" in str(jax.make_jaxpr(J)(x))  # what the plan says is what runs
    assert not jb.jacobian(classifier, rewrite=False).plan(x).choice.chosen.rewrites
    np.testing.assert_allclose((jax.jit(J) if jitted else J)(x), jax.jacrev(classifier)(x), rtol=1e-4, atol=1e-5)


def test_classifiers_compose() -> None:
    x, t = normal(300), normal(300, seed=1)
    f = lambda x: jnp.sin(jb.jacobian(classifier)(x)).sum(0)
    g = lambda x: jnp.sin(jax.jacrev(classifier)(x)).sum(0)
    for actual, expected in zip(jax.jvp(f, (x,), (t,)), jax.jvp(g, (x,), (t,)), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(jax.vjp(f, x)[1](t)[0], jax.vjp(g, x)[1](t)[0], rtol=1e-3, atol=1e-4)
    xs = normal(3, 300)
    actual, expected = jax.vmap(jb.jacobian(classifier))(xs), jax.vmap(jax.jacrev(classifier))(xs)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [None, 1, "yes"])
def test_rewrite_is_true_or_false(bad: Any) -> None:
    with pytest.raises(ValueError, match="rewrite must be True or False"):
        jb.jacobian(jnp.sin, rewrite=bad)
