"""Costs: operations are counted as by hand, and obviously different programs are ranked the obvious way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse
from oracles import candidate

import jaxobian as jb
from jaxobian._cost import ASSUMED_STEPS, KINDS, Work, count, machine, nbytes, not_understood, pass_work, repeated
from jaxobian._planning import _choose
from jaxobian._trace import Program, program_of
from jaxobian.testing._scenario import conv, normal


def shape(*dims: int, dtype: Any = jnp.float32) -> Any:
    return jax.ShapeDtypeStruct(dims, dtype)


def work(f: Callable[..., Any], *args: Any) -> Work:
    program, _, _ = program_of(f, *args)
    return count(program)


SPARSE = sparse.BCOO((jnp.ones(4), jnp.array([[0, 0], [1, 2], [4, 1], [4, 2]])), shape=(5, 3))
A, B = shape(8, 16), shape(16, 32)
V = shape(100)


# Counts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "args", "kind", "amount"),
    [
        (jnp.dot, (A, B), "dot", 2 * 8 * 16 * 32),
        (jax.vmap(jnp.dot), (shape(5, 8, 16), shape(5, 16, 32)), "dot", 5 * 2 * 8 * 16 * 32),
        (jnp.dot, (V, V), "dot", 200),
        (jnp.outer, (V, V), "arithmetic", 100 * 100),
        (lambda a: jnp.dot(a, a), (shape(16, 16, dtype=jnp.complex64),), "dot", 8 * 16 * 16 * 16),
        (lambda x: x + x, (V,), "arithmetic", 100),
        (lambda x: x[jnp.array([3, 4, 5])], (V,), "gather", 3),
        (lambda x: x.at[jnp.array([3, 4, 5])].add(1.0), (V,), "scatter", 3),
        (lambda x: x.at[jnp.array([3, 4, 5])].subtract(1.0), (V,), "scatter", 3),
        (lambda x: jax.lax.top_k(x, 2)[0], (shape(64),), "scatter", 2.5 * 64 * 6),
        (jnp.sum, (shape(10, 10),), "reduce", 100),
        (lambda x: jnp.sum(x, 1), (shape(10, 10),), "reduce", 100),
        (lambda x: jnp.sum(x, 1), (shape(10, 1),), "reduce", 0),
        (lambda x: jnp.linalg.cholesky(x, symmetrize_input=False), (shape(9, 9),), "solve", 9**3 / 3),
        (lambda a, b: jax.lax.linalg.triangular_solve(a, b, left_side=True), (shape(9, 9), shape(9, 4)), "solve", 324),
        (lambda x: jnp.fft.fft(x), (shape(5, 16, dtype=jnp.complex64),), "solve", 5 * 16 * 4),
        (lambda m: SPARSE @ m, (shape(3, 2),), "gather", 4 * 2),
    ],
)
def test_counts_by_hand(f: Callable[..., Any], args: tuple[Any, ...], kind: str, amount: float) -> None:
    assert getattr(work(f, *args), kind) == amount


def convolution(x: Any, k: Any, stride: int = 1, groups: int = 1, padding: str = "SAME") -> Any:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, k, (stride, stride), padding, dimension_numbers=layout, feature_group_count=groups
    )


def test_convolutions() -> None:
    # 2 flops for each output element and each weight that it reads.
    x, k = shape(2, 9, 9, 4), shape(3, 3, 4, 6)
    assert work(convolution, x, k).conv == 2 * (2 * 9 * 9 * 6) * (3 * 3 * 4)
    assert work(lambda x, k: convolution(x, k, stride=3), x, k).conv == 2 * (2 * 3 * 3 * 6) * (3 * 3 * 4)
    grouped = work(lambda x, k: convolution(x, k, groups=2), x, shape(3, 3, 2, 6))
    assert grouped.conv == 2 * (2 * 81 * 6) * (9 * 2)


def test_a_transposed_convolution_costs_what_the_convolution_does() -> None:
    # Between the elements of a dilated operand lie zeros, which take no time.
    x, k = jnp.ones((1, 12, 12, 4)), jnp.ones((3, 3, 4, 6))
    f = lambda x: convolution(x, k, stride=3, padding="VALID")
    y = shape(*f(x).shape)
    back = work(lambda g: jax.linear_transpose(f, x)(g)[0], y).conv
    assert back == pytest.approx(work(f, shape(1, 12, 12, 4)).conv, rel=0.05)


def test_scans_count_every_step() -> None:
    step = lambda c, _: (c @ jnp.ones((16, 16)), None)
    f = lambda x: jax.lax.scan(step, x, None, 50)[0]
    assert work(f, shape(8, 16)).dot == 50 * 2 * 8 * 16 * 16
    nested = lambda x: jax.lax.scan(lambda c, _: (f(c), None), x, None, 3)[0]
    assert work(nested, shape(8, 16)).dot == 3 * 50 * 2 * 8 * 16 * 16


def test_a_dynamic_loop_counts_some_steps() -> None:
    f = lambda x: jax.lax.while_loop(lambda c: c[0, 0] < 3, lambda c: c @ jnp.ones((16, 16)), x)
    assert work(f, shape(8, 16)).dot == ASSUMED_STEPS * 2 * 8 * 16 * 16


def test_a_cond_counts_its_dearer_branch() -> None:
    f = lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ jnp.ones((16, 16)), lambda x: x, x)
    assert work(f, shape(8, 16)).dot == 2 * 8 * 16 * 16


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, lambda f: jax.jit(jax.jit(f))])
def test_what_stands_inside_counts(wrap: Any) -> None:
    assert work(wrap(jnp.dot), A, B).dot == work(jnp.dot, A, B).dot


def test_vmap_counts_every_example() -> None:
    assert work(jax.vmap(jnp.dot), shape(7, 8, 16), shape(7, 16, 32)).dot == 7 * work(jnp.dot, A, B).dot


def test_work_is_additive() -> None:
    f, g = lambda x: jnp.sin(x @ jnp.ones((16, 16))), lambda x: jnp.cumsum(x) * 2
    once, twice = work(f, A), work(lambda x: f(f(x)), A)
    assert twice.dot == 2 * once.dot
    assert twice.arithmetic == 2 * once.arithmetic
    a, b = work(f, A), work(g, V)
    assert [*(a + b)] == [x + y for x, y in zip(a, b, strict=True)]
    assert [*(a * 3)] == [3 * x for x in a]
    assert [*a.larger(b)] == [max(x, y) for x, y in zip(a, b, strict=True)]
    assert len(KINDS) == len(a)


def test_flops_count_arithmetic_but_no_traffic() -> None:
    assert work(jnp.dot, A, B).flops == 2 * 8 * 16 * 32
    assert work(lambda x: x.T, A).flops == 0
    assert Work(bytes=1e9, gather=1e9, scatter=1e9, equations=5).flops == 0


def test_bytes_of_arrays() -> None:
    assert nbytes(shape(3, 4)) == 48
    assert nbytes(shape(3, dtype=jnp.float16)) == 6
    assert nbytes(shape(0, 4)) == 0
    assert nbytes(jax.typeof(jax.random.key(0))) >= 0
    assert nbytes(object()) == 0


# Passes -----------------------------------------------------------------------------------------------------


def passes(f: Callable[..., Any], seed: Any, width: int) -> Any:
    wide = shape(width, *seed.shape)
    program, _, _ = program_of(jax.vmap(f), wide)
    return pass_work(program, program.inputs[len(program.inputs) - 1 :], width)


@pytest.mark.parametrize("f", [lambda t: jnp.ones((32, 16)) @ t, lambda t: jnp.sum(t) * t, jnp.cumsum])
def test_a_pass_costs_the_same_whatever_the_width_it_is_counted_at(f: Callable[..., Any]) -> None:
    a, b = passes(f, shape(16), 4), passes(f, shape(16), 12)
    assert a.each.flops == pytest.approx(b.each.flops)
    assert a.intermediates == pytest.approx(b.intermediates)


def test_what_does_not_depend_on_the_seeds_is_done_once_a_chunk() -> None:
    w = jnp.ones((16, 16))
    f = lambda t: (w @ w) @ t
    counted = passes(f, shape(16), 4)
    assert counted.fixed.dot == 2 * 16 * 16 * 16
    assert counted.each.dot == 2 * 16 * 16
    assert counted.chunk(10).dot == counted.fixed.dot + 10 * counted.each.dot


def test_intermediates_grow_with_what_is_kept() -> None:
    def chain(layers: int) -> Any:
        def f(t):
            for _ in range(layers):
                t = jnp.ones((16, 16)) @ t
            return t

        return passes(f, shape(16), 4).intermediates

    assert chain(8) > 2 * chain(2) > 0


def test_what_is_held_at_once() -> None:
    """Each array is let go after it is read last; what is fused is never there, and results are not on the way."""

    def chain(t: Any) -> Any:
        for n, m in ((10, 30), (30, 20), (20, 5)):
            t = t @ jnp.ones((n, m))
        return t

    assert passes(chain, shape(10), 4).together == 4 * (30 + 20)
    fused = lambda t: jnp.sin(t @ jnp.ones((10, 30))) * 2 @ jnp.ones((30, 5))
    assert passes(fused, shape(10), 4).together == passes(lambda t: chain(t), shape(10), 4).together - 4 * 20 + 4 * 30
    twice = lambda t: (lambda h: (h @ jnp.ones((30, 20)) @ jnp.ones((20, 30)) + h)[:3].sum())(t @ jnp.ones((10, 30)))
    assert passes(twice, shape(10), 4).together == 4 * (30 + 20 + 30)  # h waits for the short sum
    long = lambda t: (lambda h: (h @ jnp.ones((30, 20)) @ jnp.ones((20, 30)) + h).sum())(t @ jnp.ones((10, 30)))
    assert passes(long, shape(10), 4).together == 4 * (30 + 30 + 30)  # a long one reads what it sums from memory


def test_what_is_made_again_wherever_it_is_read() -> None:
    """One-hot vectors are compared by each equation that reads them; differences of all pairs are taken by each."""

    def again(f: Callable[..., Any], n: int = 10) -> float:
        return passes(f, shape(n), 4).each.again

    once = again(lambda t: t * jnp.arange(10.0))
    assert once > 0
    assert again(lambda t: t * jnp.arange(10.0) + t[::-1] * 2) > once
    pairs = lambda t: t[:, None] - t[None]
    squared, both = lambda t: pairs(t) ** 2 * 3, lambda t: pairs(t) * jnp.ones((10, 10)) + pairs(t) ** 2
    assert again(squared) > 10 * once
    assert again(lambda t: (lambda d: jnp.sin(d) + d)(pairs(t))) > again(lambda t: jnp.sin(pairs(t)))
    assert again(both) > again(squared)
    assert passes(lambda t: t * 2, shape(10), 4).each.flops == 10  # they are no arithmetic of the user's


def test_long_reductions_read_what_they_sum_from_memory() -> None:
    each = {n: passes(lambda t: (t * 2).reshape(-1, n).sum(1), shape(240), 4).each.bytes for n in (3, 80)}  # noqa: B023
    assert each[80] > 2 * 4 * 240 > each[3]


def test_updates_next_to_each_other_are_scattered_together() -> None:
    apart = work(lambda x: jnp.zeros(9).at[jnp.array([3, 4])].add(x), shape(2)).scatter
    assert apart == 2
    assert work(lambda x: jnp.zeros((9, 6)).at[jnp.array([3, 4])].add(x), shape(2, 6)).scatter == apart


def test_loops_take_what_their_steps_read_and_write() -> None:
    step = lambda c, x: (jnp.sin(c), None)
    plain = work(lambda x: jax.lax.scan(step, x, None, 20)[0], shape(5)).equations
    stacked = work(lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), c), x, None, 20), shape(5)).equations
    assert 20 <= plain < stacked


def test_what_is_computed_anew_by_every_pass_that_reads_it() -> None:
    def anew(f: Callable[..., Any], of: Callable[[Program], Any]) -> float:
        program, _, _ = program_of(f, shape(100))
        return repeated(program, of(program)).arithmetic

    last = lambda p: p.outputs[-1:]
    assert anew(lambda x: (x, jnp.exp(x)), last) == 100 * 10
    assert anew(lambda x: (x, jnp.exp(2 * x)), last) == 100 * (10 + 1)
    assert anew(lambda x: (x, jnp.cos(x)), last) == 100 * 100
    y = jnp.tanh
    assert anew(lambda x: (y(x) @ jnp.ones((100, 3)), 1 - y(x) * y(x)), last) == 100 * (10 + 10 + 2)
    kept = lambda x: (lambda t: (t @ jnp.ones((100, 3)), 1 - t * t))(y(x))
    assert anew(kept, last) == 100 * 2  # the product keeps tanh(x)
    assert anew(lambda x: (lambda t: (t, 1 - t * t))(y(x)), last) == 100 * 2  # and so does the user
    assert anew(lambda x: (x, jnp.ones((100, 100)) @ x), last) == 0


# Seconds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_computations_side_by_side_share_a_machine(platform: str) -> None:
    alone, shared = machine(platform), machine(platform).shared(16)
    assert machine(platform).shared(1) == alone
    assert (shared.cache_bytes, shared.arena_bytes) == (alone.cache_bytes / 16, alone.arena_bytes / 16)
    assert shared.time(Work(dot=1e9)) == alone.time(Work(dot=1e9))
    assert shared.time(Work(equations=16)) == pytest.approx(alone.time(Work(equations=1)))


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_every_kind_of_work_takes_time(platform: str) -> None:
    constants = machine(platform)
    assert constants.measured
    for kind in KINDS:
        one, two = constants.time(Work(**{kind: 1e6})), constants.time(Work(**{kind: 2e6}))
        assert one >= 0
        assert two == pytest.approx(2 * one)
    assert constants.time(Work(dot=1e9)) > 0
    assert constants.fuses_primal == (platform == "cpu")


def test_an_unknown_device_is_taken_for_a_gpu() -> None:
    assert machine("abacus").seconds == machine("gpu").seconds


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_where_nobody_measured_only_what_removes_work_is_rewritten(platform: str) -> None:
    constants = machine(platform)
    removing, reordering = {"batch_major", "hoisting", "outer", "pooling"}, {"convolution", "skinny"}
    measured = not constants.measured.startswith("not yet")
    assert set(constants.rewrites) == (removing | reordering if measured else removing)


def test_convolutions_are_left_alone_on_a_device_that_nobody_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    f = lambda x: conv(x, normal(3, 3, 1, 2)).reshape(-1)[:40]
    x = normal(1, 12, 12, 1)
    assert "tiles" in str(jb.jacobian(f, mode="rev").plan(x))
    monkeypatch.setattr(_choose, "machine", lambda platform: machine("gpu"))
    plan = jb.jacobian(f, mode="rev").plan(x)
    assert "tiles" not in str(plan)
    np.testing.assert_allclose(plan(x), jax.jacrev(f)(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("dear", "cheap"),
    [
        (lambda x: x @ jnp.ones((1000, 1000)) @ jnp.ones((1000, 1000)), lambda x: x @ jnp.ones((1000, 1000))),
        (lambda x: jnp.tanh(x @ jnp.ones((1000, 1000))), lambda x: jnp.tanh(x)),
        (lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, None, 500)[0], lambda x: jnp.sin(x)),
        (lambda x: jnp.zeros((500, 1000)).at[jnp.arange(500)].add(x), lambda x: x + 1),
        (lambda x: jnp.linalg.inv(x[0] + jnp.ones((1000, 1000))), lambda x: x * 2),
    ],
    ids=["two products", "a product", "a long scan", "a scatter", "a solve"],
)
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_obviously_dearer_programs_are_dearer(dear: Any, cheap: Any, platform: str) -> None:
    times = [machine(platform).time(work(f, shape(1, 1000))) for f in (dear, cheap)]
    assert times[0] > 1.5 * times[1]


def mode(f: Callable[..., Any], *args: Any) -> str:
    return jb.jacobian(f).plan(*args).mode


def test_obvious_choices() -> None:
    w = jnp.ones((400, 400))
    wide = lambda x: jnp.sum(jnp.tanh(w @ jnp.tanh(w @ x)))
    tall = lambda x: jnp.tanh(w @ jnp.tanh(w @ (jnp.ones((400, 1)) @ x)))
    assert mode(wide, shape(400)) == "rev"
    assert mode(tall, shape(1)) == "fwd"


def test_sizes_alone_do_not_decide() -> None:
    # Equal numbers of inputs and outputs. A chain of elementwise equations is as cheap either way; on CPU
    # forward is preferred there. A gather is a serial scatter when it is pulled back.
    if jax.devices()[0].platform != "cpu":
        pytest.skip("the constants of a CPU")
    k = np.random.default_rng(0).integers(0, 300, 300)
    plan = jb.jacobian(lambda x: jnp.sin(x)[k] * jnp.cos(x)[k[::-1]]).plan(shape(300))
    assert candidate(plan, "fwd").cost.seconds < candidate(plan, "rev").cost.seconds


# What is not understood -------------------------------------------------------------------------------------


def test_what_is_a_guess_is_named_once() -> None:
    program, _, _ = program_of(lambda a, b: a @ b + jnp.sin(a)[:, :1] - jnp.sum(b), A, B)
    assert not_understood(program.equations) == []
    f = lambda x: jax.lax.ragged_dot(x, jnp.ones((1, 3, 2)), jnp.array([1], jnp.int32))
    unknown, _, _ = program_of(lambda x: f(x) + f(x), shape(1, 3))
    listed = not_understood([*program.equations, *unknown.equations])
    assert len(listed) == len(set(listed))
    assert all("ragged_dot" in name for name in listed)


def test_an_empty_program_costs_nothing() -> None:
    assert count(Program((), (), ())) == Work()
