"""Executions: what a strategy proposes runs, in every schedule, and a new strategy is one value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxobian as jb
from jaxobian._cost import Cost, Work, machine
from jaxobian._execute import Residuals, Stage, _schedules
from jaxobian._outputs import OUTPUTS, Block, Whole
from jaxobian._planning import STRATEGIES, Candidate, Impossible, Problem, Strategy, _choose, _rewritten, _sweeps
from jaxobian._primitives import PRIMITIVES, Primitive
from jaxobian._request import Format
from jaxobian._rewrite import Rewrite, _table
from jaxobian._trace import is_variable
from jaxobian.testing import Scenario, scenarios

NAMES = {
    "autoencoder", "complex_bottleneck", "brusselator_small", "arrowhead", "rosenbrock_gradient", "unet", "pytrees",
    "elementwise_images", "custom_vjp_then_while", "residual_bottlenecks", "complex_recurrence", "lennard_jones_8",
}  # fmt: skip
SMALL = [s for s in scenarios() if s.name in NAMES and not s.batched]
CASES = [(s, mode) for s in SMALL for mode in ("fwd", "rev", "mixed", "colored")]


@pytest.fixture
def only_loops(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Chunks always run in a loop, and every loop on the host; which linear maps did."""
    ran: list[Any] = []
    step = _schedules.step

    def noted(seeds: Any, *args: Any) -> Any:
        ran.append(seeds)
        return step(seeds, *args)

    monkeypatch.setattr(_sweeps, "UNROLLED_CHUNKS", 0)
    monkeypatch.setattr(_schedules, "UNROLLED_CHUNKS", 0)
    monkeypatch.setattr(_schedules, "step", noted)
    jb.clear_cache()
    yield ran
    jb.clear_cache()


def same(actual: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), actual, expected)


@pytest.mark.parametrize(("scenario", "mode"), CASES, ids=[f"{s.name}-{mode}" for s, mode in CASES])
def test_loops_on_the_host(scenario: Scenario, mode: Any, only_loops: list[Any]) -> None:
    f, args = scenario.make()
    J = jb.jacobian(f, scenario.argnums, mode=mode, chunk_size=3, holomorphic=scenario.holomorphic)
    try:
        actual = J(*args)
    except jb.ModeError:
        pytest.skip("impossible in this mode")
    assert only_loops or max(seeds.passes for seeds in J.plan(*args).choice.chosen.seeds) <= 3
    same(actual, scenario.expected())


def cut_in_two(x: Any) -> Any:
    W = jnp.asarray(np.random.default_rng(0).normal(size=(60, 40)) / 8, jnp.float32)
    return jnp.tanh(jnp.sin(x @ W) @ W.T)


def test_rows_at_hand_go_on_in_chunks_on_the_host(only_loops: list[Any]) -> None:
    # The first factor's columns are what the second stage begins with.
    x = jnp.linspace(-1, 1, 60)
    J = jb.jacobian(cut_in_two, mode="mixed", chunk_size=7)
    assert "pulled back to" in str(J.plan(x))
    same(J(x), jax.jacrev(cut_in_two)(x))
    assert len(set(only_loops)) > 1


def test_colors_in_both_directions_on_the_host(only_loops: list[Any]) -> None:
    f = lambda x: jnp.concatenate([x**2 + x[0] ** 3, jnp.sum(x**3)[None]])
    x = jnp.linspace(0.5, 1.5, 40)
    J = jb.jacobian(f, mode="colored", chunk_size=1, format="bcoo")
    same(J(x).todense(), jax.jacrev(f)(x))
    assert len(set(only_loops)) == 2


# A strategy of one's own --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AlwaysTwo:
    """Of a function that doubles its argument."""

    problem: Problem
    used_numbers: frozenset[int] = frozenset()

    @property
    def program(self) -> Any:
        return self.problem.program

    @property
    def stages(self) -> tuple[Stage, ...]:
        return ()

    def residuals(self, operands: Any, xs: Any, ys: Any, residuals: Any) -> Residuals:
        return Residuals(residuals)

    def wanted(self, results: Any, output: Any, read: Any = ()) -> Any:
        return output.of_blocks(self.problem.ends, [[_Twice(self.problem.inputs.size)]])

    def added(self, results: Any, others: Any) -> Any:
        raise NotImplementedError

    def in_place(self, output: Any) -> bool:
        return False


@dataclass(frozen=True)
class _Twice:
    n: int
    has_known_zeros: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        return self.n, self.n

    def dense(self) -> Any:
        return 2 * jnp.eye(self.n)

    def entries(self) -> tuple[Any, np.ndarray]:
        return jnp.full(self.n, 2.0), np.arange(self.n) * (self.n + 1)


def two(seconds: float) -> Callable[..., Candidate | Impossible]:
    def propose(problem: Problem, earlier: Any) -> Candidate | Impossible:
        assert set(earlier) == {"fwd", "rev", "mixed", "colored"}
        if problem.inputs.size != problem.outputs.size:
            return Impossible("two", "f does not double its argument")
        cost = Cost(Work(), 0.0, problem.jacobian_bytes, seconds)
        return Candidate("two", AlwaysTwo(problem), cost, "knows f")

    return propose


@pytest.mark.parametrize("seconds", [1e-9, 1.0])
@pytest.mark.parametrize("format", ["dense", "bcoo"])
def test_a_strategy_is_one_value(seconds: float, format: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    jb.clear_cache()
    monkeypatch.setattr(_choose, "STRATEGIES", (*STRATEGIES, Strategy("two", two(seconds))))
    J, x = jb.jacobian(lambda x: x * 2, format=format), jnp.arange(4.0)
    plan = J.plan(x)
    assert (plan.mode == "two") == (seconds < 1e-3)
    assert ("  chosen       two, 0 passes" in str(plan)) == (seconds < 1e-3) != ("  two   " in str(plan))
    for actual in (J(x), jax.jit(J)(x), plan(x)):
        np.testing.assert_array_equal(actual.todense() if format == "bcoo" else actual, 2 * np.eye(4))
    jb.clear_cache()


def test_a_strategy_that_is_impossible_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    jb.clear_cache()
    monkeypatch.setattr(_choose, "STRATEGIES", (*STRATEGIES, Strategy("two", two(1e-9))))
    assert "two          impossible: f does not double" in str(jb.jacobian(jnp.sum).plan(jnp.arange(4.0)))
    jb.clear_cache()


# An output, a rewrite and a device of one's own ---------------------------------------------------------------------


@dataclass(frozen=True)
class Largest(Whole):
    """The largest element of each block, by absolute value."""

    name: str = "largest"
    has_zeros: bool = True

    def size(self, ends: Any, relations: Any) -> int:
        return 8 * len(ends.outputs.avals) * len(ends.inputs.avals)

    def entries_size(self, ends: Any, entries: int) -> int:
        return self.size(ends, ())

    def block(self, block: Block) -> Any:
        data, _ = block.entries()
        return jnp.max(jnp.abs(data))


@pytest.mark.parametrize("mode", ["fwd", "rev", "mixed", "colored"])
def test_an_output_is_one_value(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OUTPUTS, "largest", Largest())
    near, far = lambda x: {"near": x[1:] * x[:-1], "far": cut_in_two(x)}, cut_in_two
    f = far if mode == "mixed" else near
    x = jnp.linspace(-1, 2, 60)
    J = jb.jacobian(f, mode=mode, format="largest")  # pyright: ignore[reportArgumentType]
    expected = jax.tree.map(lambda block: jnp.max(jnp.abs(block)), jax.jacrev(f)(x))
    same(J(x), expected)
    same(jax.jit(J)(x), expected)


def test_the_formats_that_a_type_checker_knows_are_those_there_are() -> None:
    assert get_args(Format) == tuple(OUTPUTS)


def test_a_primitive_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    # With a row, rows of x keep apart, and it is pushed through without a look at what JAX makes of it.
    f, x = lambda x: jnp.cumsum(x, 1), jnp.ones((4, 3))
    row = Primitive(kind="cumulative", linear="all", cost="cumulative")
    assert PRIMITIVES["cumsum"] == row
    for known in (False, True):
        monkeypatch.delitem(PRIMITIVES, "cumsum")
        if known:
            monkeypatch.setitem(PRIMITIVES, "cumsum", row)
        jb.clear_cache()
        plan = jb.jacobian(f).plan(x)
        assert plan.choice.chosen.passes == (3 if known else 12)
        assert ("cumsum" in str(plan)) != known
        same(plan(x), jax.jacrev(f)(x))
        monkeypatch.undo()
    jb.clear_cache()


def test_a_rewrite_is_a_family_that_a_device_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(equation: Any, active: set[int], mode: str, around: Any) -> list[Rewrite]:
        run = lambda x: [x + x]
        two = not is_variable(equation.invars[1]) and equation.invars[1].val == 2
        return [Rewrite(run, "doubling", "an addition", (equation.invars[0],))] if two else []

    cheap = replace(machine("cpu"), seconds=machine("cpu").seconds | {"arithmetic": 0.0}, rewrites=("doubling",))
    dear = replace(cheap, rewrites=())
    monkeypatch.setitem(_table._FAMILIES, "mul", ("doubling", doubled))
    monkeypatch.setattr(_rewritten, "CLEAR_WIN", 0.0)
    f, x = lambda x: jnp.sin(x) * 2.0, jnp.linspace(0, 1, 5)
    for device, taken in ((cheap, True), (dear, False)):
        monkeypatch.setattr(_choose, "machine", lambda platform, device=device: device)
        jb.clear_cache()
        plan = jb.jacobian(f, mode="fwd").plan(x)
        assert ("-> an addition" in str(plan)) == taken
        same(plan(x), jax.jacrev(f)(x))
    jb.clear_cache()
