"""Plans: what they say, that it is true, and that they run what they say."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import candidate, impossible

import jaxobian as jb
from jaxobian._cost import machine
from jaxobian._planning._choose import _single
from jaxobian._request import Mode

X = jnp.array([0.3, -1.2, 2.0])
TALL = jnp.linspace(-1, 1, 60).reshape(20, 3)


def shape(*dims: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(dims, dtype)


def dense(x):
    return jnp.tanh(TALL @ x)


# What a plan says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "passes"), [("fwd", 3), ("rev", 20)])
def test_attributes(mode: Mode, passes: int) -> None:
    plan = jb.jacobian(dense, mode=mode, chunk_size=2).plan(X)
    assert isinstance(plan, jb.Plan)
    assert plan.mode == mode
    assert plan.passes == passes  # whatever the chunking
    assert plan.chunk_size == 2
    # A pass through the product alone takes 2 * 3 * 20 operations, unless it starts past it; the rest is small.
    least = 20 if "starts from" in str(plan) else 120
    assert least * passes <= plan.flops <= 3 * 120 * passes
    assert plan.peak_bytes >= 4 * 3 * 20  # J
    assert plan.structure == "sparsity not analyzed, 240 B"
    assert [c.mode for c in plan.candidates] == ["fwd", "rev", "mixed", "colored"]
    for name, expected in (("fwd", 3), ("rev", 20)):
        one = candidate(plan, name)
        assert one.cost.seconds > 0
        assert one.cost.flops > 0
        assert one.passes == expected


def test_passes_do_not_depend_on_the_chunking() -> None:
    plans = [jb.jacobian(dense, mode="rev", chunk_size=n).plan(X) for n in (None, 1, 3, 7, 50)]
    assert {plan.passes for plan in plans} == {20}
    assert [plan.chunk_size for plan in plans[1:]] == [1, 3, 7, 20]


def test_a_plan_is_of_the_mode_that_runs() -> None:
    assert jb.jacobian(lambda x: jnp.tanh(jnp.ones((300, 2)) @ jnp.sin(x))).plan(shape(2)).mode == "fwd"
    assert jb.jacobian(lambda x: jnp.tanh(jnp.ones((2, 300)) @ jnp.sin(x))).plan(shape(300)).mode == "rev"


def network(*widths: int) -> Callable[[Any], Any]:
    def f(x: Any) -> Any:
        for n, m in itertools.pairwise(widths):
            x = jnp.tanh(x @ jnp.ones((n, m)))
        return x

    return f


@pytest.mark.parametrize(
    ("f", "x", "mode"),
    [
        (network(30, 20, 5), shape(30), "rev"),
        (network(5, 20, 30), shape(5), "fwd"),
        (lambda w: jnp.mean(jnp.tanh(jnp.ones((50, 24)) @ w)), shape(24), "rev"),
        (lambda v: jnp.mean(jnp.tanh(jnp.ones((50, 5)) @ (v / jnp.linalg.norm(v)))), shape(5), "rev"),
        (lambda y: jnp.polyfit(jnp.linspace(-1, 1, 9), y, 2), shape(9), "rev"),
    ],
    ids=["30 -> 5", "5 -> 30", "a loss", "a loss of few weights", "a fit"],
)
def test_the_dimensions_decide_where_the_model_cannot(f: Any, x: Any, mode: Mode) -> None:
    assert jb.jacobian(f).plan(x).mode == mode


@pytest.mark.parametrize(
    ("forward", "reverse", "chosen"),
    [
        ((30, 2e-5), (5, 2.8e-5), "rev"),  # within the model's error: fewer passes
        ((30, 2e-5), (5, 3.1e-5), "fwd"),
        ((30, 2e-3), (5, 2.8e-3), "fwd"),  # it errs less where there is more to do
        ((30, 2e-3), (5, 2.4e-3), "rev"),
        ((5, 2e-5), (30, 1.8e-5), "fwd"),
        ((20, 2e-5), (19, 2.05e-5), "favorite"),  # about as many passes, and as fast
        ((20, 2.05e-5), (19, 2e-5), "favorite"),
        ((20, 2.4e-5), (20, 2e-5), "rev"),
    ],
)
def test_fewer_passes_are_taken_within_the_error_of_the_model(
    forward: tuple[int, float], reverse: tuple[int, float], chosen: str
) -> None:
    def candidate(mode: Mode, passes: int, seconds: float) -> Any:
        return SimpleNamespace(mode=mode, passes=passes, cost=SimpleNamespace(seconds=seconds))

    singles: Any = {"fwd": candidate("fwd", *forward), "rev": candidate("rev", *reverse)}
    for favorite in singles:
        assert _single(singles, machine("cpu"), favorite).mode == chosen.replace("favorite", favorite)
    assert _single({"rev": singles["rev"]}, machine("cpu"), "fwd").mode == "rev"


@pytest.mark.parametrize(
    ("f", "mode"),
    [
        (lambda x: jnp.sin(x) * jnp.tanh(x), "fwd"),  # XLA would evaluate the cosine anew in every row
        (lambda x: jnp.linalg.solve(jnp.ones((60, 60)) + 9 * jnp.eye(60), jnp.tanh(x)), "rev"),
    ],
    ids=["elementwise", "solved"],
)
def test_of_modes_that_take_as_long_a_cpu_takes_reverse_unless_all_is_elementwise(f: Any, mode: Mode) -> None:
    plan = jb.jacobian(f).plan(jnp.ones(60))
    assert plan.mode == mode, plan


def test_fewer_passes_are_said_to_be_why() -> None:
    plan = jb.jacobian(dense, mode="fwd").plan(X)
    choice = plan.choice
    reverse = candidate(plan, "rev")
    fast = replace(reverse, cost=replace(reverse.cost, seconds=0.9 * choice.chosen.cost.seconds))
    told = replace(plan, candidates=(choice.chosen, fast)).explain()
    assert "about as fast as reverse; fewer passes" in told
    slow = replace(reverse, cost=replace(reverse.cost, seconds=2 * choice.chosen.cost.seconds))
    assert "fewer passes" not in replace(plan, candidates=(choice.chosen, slow)).explain()


def test_an_impossible_candidate_has_its_reason() -> None:
    plan = jb.jacobian(lambda x: jax.lax.while_loop(lambda c: c[0] < 9, lambda c: c * 2, x)).plan(X)
    reason = impossible(plan, "rev").reason
    assert "while_loop" in reason
    assert f"impossible: {reason}" in str(plan)


def test_the_text_names_the_function_its_line_and_its_shapes() -> None:
    line = dense.__code__.co_firstlineno
    title, *rest = str(jb.jacobian(dense, mode="fwd").plan(X)).splitlines()
    assert title == f"jacobian of dense (test_plan.py:{line}): f32[3] -> f32[20]"
    words = [row.split()[0] for row in rest if row.startswith("  ") and row[2] != " "]
    assert words == ["structure", "chosen", "reverse", "colored"]
    assert rest[1].split()[1:4] == ["forward,", "3", "passes"]


@pytest.mark.parametrize(("verb", "title"), [(jb.jacobian, "jacobian of "), (jb.hessian, "hessian of ")])
def test_the_text_says_what_it_is_of(verb: Any, title: str) -> None:
    first = str(verb(dense).plan(X)).splitlines()[0]
    assert first.startswith(f"{title}dense (test_plan.py:{dense.__code__.co_firstlineno})")


def test_the_text_of_a_tree_of_many_arrays_stays_on_its_line() -> None:
    tree = [jnp.ones(k + 1) for k in range(40)]
    title = str(jb.jacobian(lambda t: sum(jnp.sum(x) for x in t)).plan(tree)).splitlines()[0]
    assert "40 arrays" in title
    assert len(title) < 150


def test_the_text_has_passes_chunk_flops_and_memory() -> None:
    text = str(jb.jacobian(dense, mode="rev", chunk_size=7).plan(X))
    (chosen,) = [row for row in text.splitlines() if "chosen" in row]
    for part in ("reverse, 20 passes", "chunk_size=7", "FLOP", "peak", "predicted"):
        assert part in chosen
    (other,) = [row for row in text.splitlines() if "forward" in row]
    assert "3 passes" in other
    assert "FLOP" in other


def test_explain_str_and_html() -> None:
    plan = jb.jacobian(lambda x: x * 2).plan(X)
    assert str(plan) == plan.explain()
    page = plan._repr_html_()
    assert "&lt;lambda&gt;" in page
    assert "<lambda>" not in page


def test_guessed_primitives_are_named() -> None:
    f = lambda x: jax.lax.ragged_dot(x.reshape(1, 3), jnp.ones((1, 3, 2)), jnp.array([1], jnp.int32))
    assert "unknown cost ragged_dot" in str(jb.jacobian(f, mode="fwd").plan(X))
    assert "unknown" not in str(jb.jacobian(dense).plan(X))


# Made from shapes -------------------------------------------------------------------------------------------


def test_a_plan_from_shapes_is_the_plan_from_arrays() -> None:
    f = lambda p, scale, *, shift: jnp.tanh(p["w"] @ p["b"]) * scale + shift
    arrays = ({"w": TALL, "b": X}, 2.0 * jnp.ones(20)), {"shift": jnp.ones(20)}
    shapes = jax.tree.map(lambda a: shape(*a.shape), arrays)
    J = jb.jacobian(f)
    a, b = J.plan(*arrays[0], **arrays[1]), J.plan(*shapes[0], **shapes[1])
    assert str(a) == str(b)
    expected = jax.jacrev(f)(*arrays[0], **arrays[1])
    for plan in (a, b):
        got = plan(*arrays[0], **arrays[1])
        for name in ("w", "b"):
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-6)


def test_planning_runs_nothing() -> None:
    ran = []

    def f(x):
        jax.debug.callback(lambda _: ran.append(1), x)
        return jnp.sin(x)

    plan = jb.jacobian(f).plan(X)
    jax.effects_barrier()
    assert not ran
    np.testing.assert_allclose(plan(X), jnp.diag(jnp.cos(X)), rtol=1e-6)
    jax.effects_barrier()
    assert ran


def test_a_plan_may_be_made_inside_jit() -> None:
    @jax.jit
    def g(x):
        return jb.jacobian(dense).plan(x)(x)

    np.testing.assert_allclose(g(X), jax.jacrev(dense)(X), rtol=1e-5)


# Running one ------------------------------------------------------------------------------------------------


def test_a_plan_runs_on_other_values() -> None:
    f = lambda x, scale, how: getattr(jnp, how)(x) * scale
    plan = jb.jacobian(f).plan(X, jnp.ones(3), "sin")
    for scale in (1.0, 2.0, 3.0):
        # The second argument is not differentiated; its values are new all the same.
        J = plan(scale * X, scale * jnp.ones(3), "sin")
        np.testing.assert_allclose(J, jnp.diag(scale * jnp.cos(scale * X)), rtol=1e-5)


@pytest.mark.parametrize("transform", [jax.jit, lambda p: jax.jit(jax.jit(p))], ids=["jit", "jit of jit"])
def test_a_plan_is_reused_under_jit(transform: Any) -> None:
    plan = jb.jacobian(dense).plan(X)
    np.testing.assert_allclose(transform(plan)(2 * X), jax.jacrev(dense)(2 * X), rtol=1e-5)


def test_a_plan_composes() -> None:
    plan = jb.jacobian(dense).plan(X)
    batch = jnp.stack([X, 2 * X])
    np.testing.assert_allclose(jax.vmap(plan)(batch), jax.vmap(jax.jacrev(dense))(batch), rtol=1e-5)
    g, h = (jax.grad(lambda x, J=J: jnp.sum(J(x) ** 2)) for J in (plan, jax.jacrev(dense)))
    np.testing.assert_allclose(g(X), h(X), rtol=1e-4)


@pytest.mark.parametrize(
    ("planned", "came"),
    [
        (2.0, 3.0),
        (np.float64(2.0), np.float64(3.0)),
        (np.float32(2.0), np.float32(3.0)),
        (jnp.float32(2.0), 3.0),
    ],
    ids=["Python", "float64", "float32", "array, then Python"],
)
def test_a_plan_of_a_scalar_runs_on_other_scalars(planned: Any, came: Any) -> None:
    np.testing.assert_allclose(jb.jacobian(lambda a: a * a).plan(planned)(came), 6.0)


def test_numpy_scalars_that_are_not_differentiated_are_values_too() -> None:
    plan = jb.jacobian(lambda a, b: a * b).plan(X, np.float64(2.0))
    np.testing.assert_allclose(plan(X, np.float64(5.0)), 5 * jnp.eye(3))


def test_integer_leaves_are_values_too() -> None:
    f = lambda p: p["w"][p["i"]]
    J = jb.jacobian(f, allow_int=True)
    for planned in ({"w": X, "i": jnp.array([0, 1])}, {"w": shape(3), "i": shape(2, dtype=jnp.int32)}):
        got = J.plan(planned)({"w": X, "i": jnp.array([2, 0])})
        np.testing.assert_array_equal(got["w"], jnp.eye(3)[jnp.array([2, 0])])


OPTIONS: dict[str, tuple[Callable[[], jb.JacobianFunction], tuple[Any, ...]]] = {
    "argnums": (lambda: jb.jacobian(lambda a, b: a * b[0], (1, 0)), (X, (X, X))),
    "aux": (lambda: jb.jacobian(lambda a: (a**2, {"s": jnp.sum(a)}), has_aux=True), (X,)),
    "batch": (lambda: jb.batch_jacobian(lambda a: jnp.sin(a) * a[:, :1]), (TALL,)),
    "hessian": (lambda: jb.hessian(lambda a: jnp.prod(a) + jnp.sum(jnp.sin(a))), (X,)),
    "hessian with aux": (lambda: jb.hessian(lambda a: (jnp.prod(a), jnp.sin(a)), has_aux=True), (X,)),
    "sparse": (lambda: jb.jacobian(lambda a: jnp.sin(a), format="bcoo"), (X,)),
    "complex": (lambda: jb.jacobian(lambda a: a**2, holomorphic=True), (X + 1j,)),
    "Python leaves": (lambda: jb.jacobian(lambda p: p["a"] * p["b"]), ({"a": X, "b": 2.0},)),
    "None": (lambda: jb.jacobian(lambda p: p["a"] * 2.0), ({"a": X, "b": None},)),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_running_a_plan_is_calling_the_function(name: str) -> None:
    make, args = OPTIONS[name]
    J = make()
    actual, expected = J.plan(*args)(*args), J(*args)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), actual, expected)


# Refusing other arguments -----------------------------------------------------------------------------------

MISMATCHES: dict[str, tuple[tuple[Any, ...], dict[str, Any], str | None]] = {
    "shape": (({"w": TALL, "b": jnp.ones(4)}, "sin"), {"s": X}, r"args\[0\]\['b'\].*f32\[3\].*f32\[4\]"),
    "rank": (({"w": TALL, "b": X[0]}, "sin"), {"s": X}, r"args\[0\]\['b'\].*f32\[3\].*f32\[\]"),
    "dtype": (({"w": TALL.astype("float16"), "b": X}, "sin"), {"s": X}, r"\['w'\].*f32\[20,3\].*f16\[20,3\]"),
    "keyword": (({"w": TALL, "b": X}, "sin"), {"s": jnp.arange(3)}, r"kwargs\['s'\].*f32\[3\].*i32\[3\]"),
    "static value": (({"w": TALL, "b": X}, "cos"), {"s": X}, r"args\[1\].*'sin'.*'cos'"),
    "missing leaf": (({"w": TALL}, "sin"), {"s": X}, r"args\[0\]\['b'\] did not come\."),
    "extra leaf": (({"w": TALL, "b": X, "c": X}, "sin"), {"s": X}, r": args\[0\]\['c'\] came, not planned"),
    "list instead of dict": (([TALL, X], "sin"), {"s": X}, r"\['w'\] did not come and args\[0\]\[0\], .* came"),
    "missing argument": (({"w": TALL, "b": X},), {"s": X}, r": args\[1\] did not come"),
    "missing keyword": (({"w": TALL, "b": X}, "sin"), {}, r"kwargs\['s'\] did not come"),
    "other keyword": (({"w": TALL, "b": X}, "sin"), {"t": X}, r"\['s'\] did not come and kwargs\['t'\] came"),
    "None for an array": (({"w": TALL, "b": None}, "sin"), {"s": X}, r"args\[0\]\['b'\] did not come"),
    "an empty tuple more": (({"w": TALL, "b": X, "n": ()}, "sin"), {"s": X}, "structures differ: .*planned.*came"),
    "a shape": (({"w": TALL, "b": shape(3)}, "sin"), {"s": X}, r"args\[0\]\['b'\] came as a shape, f32\[3\]"),
}


@pytest.mark.parametrize("name", MISMATCHES)
@pytest.mark.parametrize("from_shapes", [False, True])
def test_other_arguments_are_refused_by_name(name: str, from_shapes: bool) -> None:
    f = lambda p, how, *, s: getattr(jnp, how)(p["w"] @ (p["b"] * s))
    args: Any = ({"w": TALL, "b": X}, "sin"), {"s": X}
    if from_shapes:
        args = ({"w": shape(20, 3), "b": shape(3)}, "sin"), {"s": shape(3)}
    plan = jb.jacobian(f).plan(*args[0], **args[1])
    plan({"w": TALL, "b": X}, "sin", s=X)
    came, keywords, message = MISMATCHES[name]
    with pytest.raises(jb.PlanMismatchError, match=message):
        plan(*came, **keywords)
    with pytest.raises(jb.PlanMismatchError, match=message):
        plan.tune(*came, **keywords)
    with pytest.raises(TypeError):  # what a JAX user would catch
        jax.jit(lambda: plan(*came, **keywords))()


def test_an_array_for_a_python_number_is_refused_where_the_number_was_static() -> None:
    plan = jb.jacobian(lambda x, n: x**n if n > 1 else x).plan(X, 2)
    with pytest.raises(jb.PlanMismatchError, match=r"args\[1\].*2.*3"):
        plan(X, 3)


# Passes that really run -------------------------------------------------------------------------------------
#
# Both functions are identities whose derivative writes down every (co)tangent that comes by. The first can
# only be pushed forward (a callback has no transpose), the second only be pulled back.


class Passes:
    def __init__(self) -> None:
        self.pushed: list[tuple[float, ...]] = []
        self.pulled: list[tuple[float, ...]] = []
        self.forward, self.reverse = self._forward(), self._reverse()

    @staticmethod
    def _watch(seen: list[tuple[float, ...]], t: Any) -> Any:
        size = t.size

        def write(batch: Any) -> Any:
            seen.extend(tuple(row) for row in np.asarray(batch).reshape(-1, size).tolist())
            return np.asarray(batch)

        return jax.pure_callback(write, jax.ShapeDtypeStruct(t.shape, t.dtype), t, vmap_method="expand_dims")

    def _forward(self) -> Callable[..., Any]:
        identity = jax.custom_jvp(lambda x: x)
        identity.defjvp(lambda x, t: (x[0], self._watch(self.pushed, t[0])))
        return identity

    def _reverse(self) -> Callable[..., Any]:
        identity = jax.custom_vjp(lambda x: x)
        identity.defvjp(lambda x: (x, None), lambda _, g: (self._watch(self.pulled, g),))
        return identity

    @property
    def number(self) -> int:
        return len(self.pushed) + len(self.pulled)

    @property
    def distinct(self) -> int:
        """The last chunk of a loop overlaps its neighbor: those passes come by twice, and count once."""
        return len(set(self.pushed)) + len(set(self.pulled))


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3, 5])
@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_as_many_passes_run_as_the_plan_says(mode: Mode, chunk_size: int | None) -> None:
    seen = Passes()
    watched = seen.forward if mode == "fwd" else seen.reverse
    # Watched where the passes start: the seeds themselves are seen.
    f = (lambda x: jnp.sin(watched(x)[:4])) if mode == "fwd" else (lambda x: watched(jnp.sin(x[:4])))
    x = jnp.linspace(-1, 1, 6)
    plan = jb.jacobian(f, chunk_size=chunk_size).plan(x)
    J = plan(x)
    jax.effects_barrier()
    assert plan.mode == mode
    assert seen.distinct == plan.passes == (6 if mode == "fwd" else 4)
    assert seen.number < plan.passes + -(-plan.passes // plan.chunk_size)
    seeds = seen.pushed if mode == "fwd" else seen.pulled
    assert set(seeds) == {tuple(row) for row in np.eye(plan.passes).tolist()}
    np.testing.assert_allclose(J, jax.jacrev(lambda x: jnp.sin(x[:4]))(x), rtol=1e-6, atol=1e-7)


def test_passes_over_several_leaves_and_through_a_call() -> None:
    seen = Passes()
    f = lambda p: {"y": seen.reverse(jnp.sin(p["a"])), "z": seen.reverse(p["a"][:2] * p["b"])}
    point = {"a": X, "b": jnp.ones(2)}
    J = jb.jacobian(f, chunk_size=2)
    J(point)
    jax.effects_barrier()
    plan = J.plan(point)
    # Each output passes one of the two watched identities, and zero cotangents come by the other.
    assert len({row for row in seen.pulled if any(row)}) <= plan.passes == 5


def test_many_chunks_run_every_pass_and_hardly_any_twice() -> None:
    seen = Passes()
    x = jnp.linspace(-1, 1, 41)
    jb.jacobian(lambda x: jnp.sin(seen.forward(x)), chunk_size=2)(x)
    jax.effects_barrier()
    assert set(seen.pushed) == {tuple(row) for row in np.eye(41).tolist()}
    assert len(seen.pushed) <= 42  # the last chunk of a loop overlaps its neighbor


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize("order", ["forward, then reverse", "reverse, then forward", "side by side", "sandwich"])
def test_mixed_passes_are_those_that_run(order: str, chunk_size: int | None) -> None:
    seen, also = Passes(), Passes()
    f, twin = {
        "forward, then reverse": (lambda x: seen.reverse(jnp.sin(seen.forward(x))), jnp.sin),
        "reverse, then forward": (lambda x: seen.forward(jnp.sin(seen.reverse(x))), jnp.sin),
        "side by side": (lambda x: seen.reverse(jnp.sin(x)) + seen.forward(x), lambda x: jnp.sin(x) + x),
        "sandwich": (lambda x: seen.reverse(seen.forward(also.reverse(jnp.sin(x)))), jnp.sin),
    }[order]
    plan = jb.jacobian(f, chunk_size=chunk_size).plan(X)
    J = plan(X)
    jax.effects_barrier()
    assert plan.mode == "mixed"
    assert "mixed" in str(plan)
    assert seen.distinct + also.distinct == plan.passes
    assert seen.number + also.number <= plan.passes + 3
    np.testing.assert_allclose(J, jax.jacrev(twin)(X), rtol=1e-6)


def test_a_batch_takes_the_passes_of_one_example() -> None:
    seen = Passes()
    batch = jnp.linspace(-1, 1, 60).reshape(20, 3)
    plan = jb.batch_jacobian(lambda x: seen.forward(jnp.sin(x)), independent=True).plan(batch)
    plan(batch)
    jax.effects_barrier()
    assert seen.number == plan.passes == 3


def test_plans_compose_like_the_calls_that_they_plan() -> None:
    W, x = jnp.ones((20, 20)) / 9, jnp.linspace(0, 1, 20)
    f = lambda x: jnp.tanh(W @ x) * x
    J = jb.jacobian(f, mode="fwd", chunk_size=1)
    plan, batch = J.plan(x), jnp.stack([x, 2 * x, -x])
    # No buffer is donated under vmap, and a loop stays a loop, however many passes there are.
    np.testing.assert_allclose(jax.vmap(plan)(batch), jax.vmap(jax.jacrev(f))(batch), rtol=1e-5, atol=1e-6)
    assert len(jax.make_jaxpr(plan)(x).eqns) <= len(jax.make_jaxpr(J)(x).eqns)
    np.testing.assert_allclose(plan(x), jax.jacrev(f)(x), rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_the_budget_says_so() -> None:
    def f(x: Any) -> Any:
        return jax.lax.scan(lambda c, _: (jnp.sin(c @ jnp.ones((30, 30))), None), x, None, length=300)[0]

    plan = jb.jacobian(f, memory_budget="40kB").plan(jnp.ones(30))
    (row,) = (line for line in str(plan).splitlines() if line.startswith("  reverse"))
    assert row.endswith(", over the budget of 40.0 kB")
    assert "budget" not in str(jb.jacobian(f).plan(jnp.ones(30)))


def test_a_plan_of_a_quantity_says_what_forming_j_takes() -> None:
    J = jb.batch_jacobian(lambda X: jnp.tanh(X @ jnp.ones((30, 30))) @ jnp.ones((30, 30)))
    plan, whole = J.trace.plan(jnp.ones((64, 30))), J.plan(jnp.ones((64, 30)))
    (row,) = [line for line in str(plan).splitlines() if line.startswith("  forming J ")]
    assert "30 passes" in row
    assert f"{whole.seconds / plan.seconds:.1f}x slower" in row
    assert "forming J" in str(plan.tune(jnp.ones((64, 30))))
    assert "forming J" not in str(whole)


def test_j_is_planned_once_and_when_it_is_told_alone() -> None:
    told = []
    plan = jb.jacobian(lambda x: jnp.cumsum(x) * x).trace.plan(jnp.ones(30))
    counted = replace(plan, _formed=functools.cache(lambda: told.append(plan) or plan))
    assert len(repr(counted).splitlines()) == 2
    assert not told
    assert str(counted) == str(counted)
    assert len(told) == 1


def test_a_plan_of_a_quantity_says_why_j_cannot_be_formed() -> None:
    plan = jb.jacobian(lambda x: jnp.cumsum(x) * x, memory_budget="1MB").trace.plan(jnp.ones(1000))
    (row,) = [line for line in str(plan).splitlines() if line.startswith("  forming J ")]
    assert row.endswith("J takes 4.0 MB; the budget is 1.0 MB")


@pytest.mark.parametrize(
    ("plan", "hint"),
    [
        (
            lambda: jb.jacobian(lambda W: jnp.tanh(jnp.ones((400, 200)) @ W) @ jnp.ones(300)).plan(
                jnp.ones((200, 300))
            ),
            "J J^T (by parameters of a network its tangent kernel), 640.0 kB, is there without J: J.gram(...)",
        ),
        (
            lambda: jb.jacobian(lambda x: jnp.tanh(jnp.ones((90_000, 200)) @ x)).plan(jnp.ones(200)),
            'J^T J (the Gauss-Newton matrix), 160.0 kB, is there without J: J.gram(..., side="in")',
        ),
        (
            lambda: jb.batch_jacobian(lambda W, X: jnp.tanh(X @ W).sum(1), 0, in_axes=(None, 0)).plan(
                jnp.ones((200, 300)), jnp.ones((400, 200))
            ),
            "the squared norms of these gradients are there without them: J.squared_norms(...)",
        ),
        (lambda: jb.jacobian(lambda x: jnp.tanh(jnp.ones((30, 200)) @ x)).plan(jnp.ones(200)), ""),
        (lambda: jb.jacobian(lambda x: jnp.sin(x)).plan(jnp.ones(20_000)), ""),
        (lambda: jb.hessian(lambda x: jnp.sum(jnp.tanh(jnp.ones((30, 9000)) @ x))).plan(jnp.ones(9000)), ""),
    ],
)
def test_a_plan_of_a_large_j_says_what_there_is_without_it(plan: Any, hint: str) -> None:
    found = [line.removeprefix("  hint").strip() for line in str(plan()).splitlines() if line.startswith("  hint")]
    assert found == [hint] * bool(hint)
