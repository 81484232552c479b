"""What users read: reprs, plans and errors in their own words; copies, pickles, methods, signatures."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import pydoc
import re
import sys
from typing import Any, cast, get_type_hints

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_same, candidate

import jaxobian as jb
from jaxobian._request import Mode

X = jnp.linspace(-1.0, 1.0, 3)
BATCH = jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)
W = jnp.linspace(0.0, 1.0, 6).reshape(3, 2)


def f(x, scale=2.0):
    return jnp.sin(x) * x.sum() * scale


def apply(params, x):
    return jnp.tanh(x @ params["w"]) + params["b"]


PARAMS = {"w": W, "b": jnp.zeros(2)}


# Reprs and titles -------------------------------------------------------------------------------------------


def test_the_repr_of_a_plan_is_its_first_two_lines() -> None:
    plan = jb.jacobian(f).plan(X)
    assert repr(plan).splitlines() == str(plan).splitlines()[:2]
    assert len(repr(plan)) < 200


def test_candidates_are_public_and_short() -> None:
    seen = set()
    for one in jb.jacobian(f).plan(X).candidates:
        seen.add(type(one))
        assert isinstance(one, jb.Candidate | jb.Impossible)
        assert len(repr(one)) < 150
        assert "\n" not in repr(one)
    assert seen == {jb.Candidate, jb.Impossible}
    forward = candidate(jb.jacobian(f, mode="fwd").plan(X), "fwd")
    assert repr(forward).startswith("Candidate(forward: 3 passes, ")
    shown = (forward.mode, forward.passes, forward.note)
    assert shown == ("fwd", 3, "")
    assert min(forward.flops, forward.peak_bytes, forward.seconds) > 0


TITLES = {
    "jacobian": (lambda: jb.jacobian(f), (X,), "jacobian", "f"),
    "hessian": (lambda: jb.hessian(f), (X,), "hessian", "f"),
    "a batch": (lambda: jb.batch_jacobian(apply, 1), (PARAMS, BATCH), "batch_jacobian", "apply"),
    "shared": (lambda: jb.batch_jacobian(apply, in_axes=(None, 0)), (PARAMS, BATCH), "batch_jacobian", "apply"),
    "a part": (lambda: jb.jacobian(functools.partial(f, scale=3.0)), (X,), "jacobian", "f"),
}


@pytest.mark.parametrize("name", TITLES)
def test_titles_and_reprs_name_the_verb_and_the_function(name: str) -> None:
    make, args, verb, function = TITLES[name]
    J = make()
    line = {"f": f, "apply": apply}[function].__code__.co_firstlineno
    assert repr(J) == f"jaxobian.{verb}({function})"
    assert str(J.plan(*args)).startswith(f"{verb} of {function} (test_words.py:{line}): f32[")


def test_help_lists_the_functions_and_no_private_modules() -> None:
    text = pydoc.render_doc(jb, renderer=vars(pydoc)["plaintext"])
    for name in ("jacobian", "batch_jacobian", "hessian", "sparsity", "value_and_jacobian"):
        assert f"    {name}(" in text
    public = {n for n, v in vars(jb).items() if not n.startswith("_") and not inspect.ismodule(v)}
    assert set(jb.__all__) == public


# Copies and pickles -----------------------------------------------------------------------------------------

PICKLES = {
    "forward": (lambda: jb.jacobian(f), (X,)),
    "one option": (lambda: jb.jacobian(f, mode="rev", chunk_size=2), (X,)),
    "aux": (lambda: jb.jacobian(with_aux, has_aux=True), (X,)),
    "a tree": (lambda: jb.jacobian(apply), (PARAMS, X)),
    "a batch": (lambda: jb.batch_jacobian(apply, 1), (PARAMS, BATCH)),
    "shared": (lambda: jb.batch_jacobian(apply, in_axes=(None, 0)), (PARAMS, BATCH)),
    "hessian": (lambda: jb.hessian(f), (X,)),
    "sparse": (lambda: jb.jacobian(square, format="bcoo"), (X,)),
    "a Python number": (lambda: jb.jacobian(f), (X, 3.0)),
    "a key": (lambda: jb.jacobian(noisy), (X, jax.random.key(0))),
    "a method": (lambda: Model(3.0).J, (X,)),
}


def with_aux(x):
    return f(x), {"mean": x.mean()}


def noisy(x, key):
    return x * jax.random.normal(key, x.shape)


def square(x):
    return x**2


class Model:
    def __init__(self, k: float):
        self.k = k

    def f(self, x):
        return self.k * x**2

    J = jb.jacobian(f, 1)
    theirs = jax.jacfwd(f, 1)
    H = jb.hessian(f, 1)

    @functools.partial(jb.jacobian, argnums=1)
    def decorated(self, x):
        """Thrice the cube."""
        return self.k * x**3


@pytest.mark.parametrize("name", PICKLES)
def test_functions_and_plans_are_pickled(name: str) -> None:
    make, args = PICKLES[name]
    J = make()
    J_again = pickle.loads(pickle.dumps(J))
    assert type(J_again) is type(J)
    plan = J.plan(*args)
    again = pickle.loads(pickle.dumps(plan))
    assert str(again) == str(plan)
    expected = J(*args)
    for run in (J_again, again):
        assert_same(run(*args), expected)


@pytest.mark.parametrize("name", PICKLES)
def test_functions_and_plans_are_copied(name: str) -> None:
    make, args = PICKLES[name]
    J = make()
    expected = J(*args)
    for copied in (copy.copy, copy.deepcopy):
        assert_same(copied(J)(*args), expected)
        plan = J.plan(*args)
        assert copied(plan) is plan  # nothing in it changes


def test_what_was_tuned_stays_so_when_it_is_pickled() -> None:
    plan = jb.jacobian(f).plan(X)
    other = next(c for c in plan.candidates if isinstance(c, jb.Candidate) and c.mode != plan.mode)
    tuned = plan._of(other)
    again = pickle.loads(pickle.dumps(tuned))
    assert again.mode == other.mode != plan.mode
    tuned = plan.tune(X)
    again = pickle.loads(pickle.dumps(tuned))
    assert (again.mode, again.measured, again.seconds) == (tuned.mode, tuned.measured, tuned.seconds)


def test_lambdas_are_pickled_by_cloudpickle() -> None:
    c = jnp.ones(3)
    plan = jb.jacobian(lambda x: c * jnp.cos(x)).plan(X)
    assert_same(cloudpickle.loads(cloudpickle.dumps(plan))(X), plan(X))
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(plan)


def test_patterns_are_pickled_and_copied() -> None:
    pattern = jb.sparsity(lambda x: x[1:] - x[:-1], X)
    for again in (pickle.loads(pickle.dumps(pattern)), copy.deepcopy(pattern)):
        np.testing.assert_array_equal(again.todense(), pattern.todense())


# Methods ----------------------------------------------------------------------------------------------------


def test_it_binds_as_jacfwd_s_result_does() -> None:
    m = Model(3.0)
    for bound in (m.J, m.theirs, functools.partial(Model.J, m), functools.partial(Model.theirs, m)):
        assert_same(bound(X), jnp.diag(6 * X))
    assert_same(m.decorated(X), jnp.diag(9 * X**2))
    assert m.decorated.__doc__ == "Thrice the cube."
    assert Model.J is Model.__dict__["J"]
    assert m.J == m.J
    assert str(inspect.signature(m.J)) == "(x)"
    assert repr(m.J).startswith("<bound jaxobian.jacobian(f) of <")


def test_what_is_bound_has_the_same_methods() -> None:
    m = Model(3.0)
    y, J = m.J.with_value(X)
    assert_same((y, J), (3 * X**2, jnp.diag(6 * X)))
    plan = m.J.plan(X)
    assert_same(plan(2 * X), jnp.diag(12 * X))
    assert_same(plan.tune(X)(X), jnp.diag(6 * X))
    assert_same(m.H(X), jax.hessian(m.f)(X))
    assert_same(jax.jit(m.J)(X), jnp.diag(6 * X))
    with pytest.raises(jb.PlanMismatchError):
        plan(BATCH)


@pytest.mark.parametrize("name", ["diagonal", "trace", "squared_norms", "gram", "slogdet"])
def test_what_is_bound_has_the_same_quantities(name: str) -> None:
    m = Model(3.0)
    assert_same(getattr(m.J, name)(X), getattr(jb.jacobian(m.f), name)(X))


# Signatures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ours", [jb.jacobian, jb.batch_jacobian, jb.hessian, jb.value_and_jacobian])
def test_jax_s_parameters_come_first_and_in_its_order(ours: Any) -> None:
    theirs = list(inspect.signature(jax.jacrev).parameters.values())[1:]
    mine = list(inspect.signature(ours).parameters.values())[1 : 1 + len(theirs)]
    assert [(p.name, p.default) for p in mine] == [(p.name, p.default) for p in theirs]
    assert all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in mine)


def test_has_aux_by_position() -> None:
    assert_same(jb.jacobian(with_aux, 0, True)(X), jax.jacfwd(with_aux, 0, True)(X))
    assert_same(jb.hessian(with_aux, 0, True)(X), jax.hessian(with_aux, 0, True)(X))
    assert_same(jb.jacobian(square, 0, False, True)(X + 1j), jax.jacrev(square, 0, False, True)(X + 1j))
    index = lambda p: p["x"][p["i"]]
    point = {"x": X, "i": jnp.array([0, 2])}
    got, expected = jb.jacobian(index, 0, False, False, True)(point), jax.jacrev(index, 0, False, False, True)(point)
    assert_same(got["x"], expected["x"])


def test_value_and_jacobian_has_the_options_of_jacobian() -> None:
    ours, theirs = (inspect.signature(g).parameters for g in (jb.value_and_jacobian, jb.jacobian))
    assert list(ours.values()) == list(theirs.values())
    with pytest.raises(TypeError, match="chunk"):
        cast(Any, jb.value_and_jacobian)(f, chunk=3)
    hints = get_type_hints(jb.jacobian, vars(sys.modules["jaxobian._api"]))
    assert "fwd" in hints["mode"].__args__
    assert "bcoo" in hints["format"].__args__


@pytest.mark.parametrize(
    ("word", "mode"), [("forward", "fwd"), ("reverse", "rev"), ("coloured", "colored"), ("colored", "colored")]
)
def test_the_words_that_plans_print_are_modes(word: Mode, mode: Mode) -> None:
    for make in (jb.jacobian, jb.hessian):
        plan = make(f, mode=word).plan(X)
        assert plan.mode == mode
        assert str(plan) == str(make(f, mode=mode).plan(X))
        assert "colour" not in str(plan)


# Plans ------------------------------------------------------------------------------------------------------


def test_seconds_are_predicted_until_they_are_measured() -> None:
    plan = jb.jacobian(f).plan(X)
    assert plan.seconds == candidate(plan, plan.mode).seconds
    assert "predicted" in str(plan)
    tuned = plan.tune(X)
    assert tuned.seconds == tuned.measured[tuned.mode]
    assert "predicted" not in str(tuned).splitlines()[2]
    assert "measured" in str(tuned).splitlines()[2]


def test_where_examples_share_an_argument_the_numbers_are_those_of_the_call() -> None:
    J = jb.batch_jacobian(apply, in_axes=(None, 0), mode="rev")
    plans = {n: J.plan(PARAMS, jnp.ones((n, 3))) for n in (1, 8)}
    assert plans[8].passes == plans[1].passes == 1
    assert plans[8].flops == 8 * plans[1].flops
    assert plans[8].peak_bytes >= 4 * 8 * 2 * 8  # J
    assert plans[8].peak_bytes == 8 * plans[1].peak_bytes
    assert "1 pass of 8 examples" in str(plans[8])
    assert "8 examples x 64 B" in plans[8].structure
    assert plans[8].seconds == candidate(plans[8], "rev").seconds
    tuned = plans[8].tune(PARAMS, jnp.ones((8, 3)))
    assert tuned.flops in {c.flops for c in plans[8].candidates if isinstance(c, jb.Candidate)}
    with pytest.raises(jb.PlanMismatchError, match="for 8 examples; 3 came"):
        plans[8](PARAMS, jnp.ones((3, 3)))


def flow(x):
    """A coupling layer: a quarter of J and its diagonal."""
    a, b = x[:20], x[20:]
    return jnp.concatenate([a, b * jnp.exp(jnp.tanh(jnp.outer(jnp.arange(20.0), a)).sum(1))])


STRUCTURES = {
    "nobody looked": (lambda x: jnp.tanh(W.T @ x), X, "sparsity not analyzed, 24 B"),
    "a pattern that was not taken": (flow, jnp.ones(40), "26 % can be nonzero"),
    "no zeros": (lambda x: jnp.tanh(jnp.ones((30, 40)) @ jnp.tanh(x)), jnp.ones(40), "no zeros found, 4.8 kB"),
    "diagonal": (jnp.sin, X, "diagonal, 36 B"),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_dense_is_claimed_of_nothing_that_was_not_looked_at(name: str) -> None:
    g, x, words = STRUCTURES[name]
    plan = jb.jacobian(g, mode="fwd").plan(x)
    assert words in plan.structure
    assert "dense" not in plan.structure


def test_blocks_of_a_batch_have_their_density() -> None:
    plan = jb.batch_jacobian(jax.vmap(flow)).plan(jnp.ones((5, 40)))
    assert "26 % can be nonzero" in plan.structure


def test_a_mode_that_was_skipped_says_how_to_force_it() -> None:
    text = str(jb.jacobian(f).plan(X))
    assert 'skipped: 3 passes are few enough (mode="colored" forces it)' in text
    one = str(jb.jacobian(lambda x: f(x).sum()).plan(X))
    assert 'skipped: 1 pass is few enough (mode="colored" forces it)' in one
    bcoo = str(jb.jacobian(f, format="bcoo").plan(X))
    assert 'skipped for format="bcoo": its product is dense (mode="mixed" forces it)' in bcoo
    for mode in ("colored", "mixed"):
        assert jb.jacobian(flow, mode=mode).plan(jnp.ones(40)).mode == mode


def test_mixed_mode_is_told_of_only_where_there_is_something_to_tell() -> None:
    assert "mixed" not in str(jb.jacobian(lambda x: jnp.tanh(W.T @ x)).plan(X))
    narrow = lambda x: jnp.tanh(jnp.ones((30, 16)) @ jnp.tanh(jnp.ones((16, 20)) @ jnp.tanh(x)))
    assert "16 wide, hardly narrower than its 20 inputs" in str(jb.jacobian(narrow).plan(jnp.ones(20)))


def test_sizes_are_the_user_s() -> None:
    rows = lambda x: jnp.tanh(x @ jnp.ones((30, 30)))
    with pytest.raises(jb.ModeError, match=r"its 30 inputs per example \(f32\[20,30\]\)"):
        jb.jacobian(rows, mode="mixed").plan(jnp.ones((20, 30)))


# Errors -----------------------------------------------------------------------------------------------------


def words_of(call: Any, kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("call", "advice"),
    [
        (lambda: jb.batch_jacobian(apply, 0)(PARAMS, BATCH), "in_axes=(None, 0)"),
        (lambda: jb.batch_jacobian(apply, (0, 1))(PARAMS, BATCH), "in_axes=(None, 0)"),
        (lambda: jb.batch_jacobian(apply, 0, in_axes=None)(PARAMS, BATCH), "in_axes=(None, 0)"),
        (lambda: jb.batch_jacobian(lambda x, p: apply(p, x), 1)(BATCH, PARAMS), "in_axes=(0, None)"),
        (lambda: jb.batch_jacobian(lambda w, x: x @ w, 0)(W, BATCH), "in_axes=(None, 0)"),
        (lambda: jb.batch_jacobian(lambda p, x, n: apply(p, x), 0)(PARAMS, BATCH, None), "in_axes=(None, 0, None)"),
    ],
)
def test_a_shared_argument_leads_to_in_axes(call: Any, advice: str) -> None:
    assert advice in words_of(call, ValueError)


def test_what_is_advised_works() -> None:
    expected = jax.vmap(jax.jacrev(apply), (None, 0))(PARAMS, BATCH)
    assert_same(jb.batch_jacobian(apply, 0, in_axes=(None, 0))(PARAMS, BATCH), expected)


def test_of_many_leaves_only_three_are_listed() -> None:
    many = {f"w{k}": jnp.ones((k + 1, 2)) for k in range(9)}
    text = words_of(lambda: jb.batch_jacobian(lambda p, x: x, 0)(many, BATCH), ValueError)
    assert "9 arrays (args[0]['w0'] f32[1,2] along axis 0, " in text
    assert "w3" not in text


def test_budgets_are_those_of_the_call() -> None:
    J = jb.batch_jacobian(apply, in_axes=(None, 0), memory_budget=1024)
    text = words_of(lambda: J.plan(PARAMS, jnp.ones((32, 3))), jb.MemoryBudgetError)
    assert text.startswith("J takes 2.0 kB (32 examples x 64 B); the budget is 1.0 kB.")
    assert "Take fewer examples at a time" in text


def test_what_never_forms_j_is_named() -> None:
    text = words_of(lambda: jb.jacobian(f, memory_budget=8)(X), jb.MemoryBudgetError)
    v, u = jnp.ones(3), jnp.arange(3.0)
    expected = jax.jacfwd(f)(X)
    for code, value in {
        "J.at(x).mv(v)": expected @ v,
        "J.at(x).rmv(u)": u @ expected,
        "J.squared_norms": jnp.sum(expected**2, 1),
        "J.gram": expected @ expected.T,
    }.items():
        assert code in text
        got = eval(code, {"J": jb.jacobian(f), "x": X, "u": u, "v": v})
        assert_same(got(X) if callable(got) else got, value)


def test_what_is_too_large_is_named() -> None:
    text = words_of(lambda: jb.jacobian(f, memory_budget=8).gram(X), jb.MemoryBudgetError)
    assert text.startswith("the gram of J takes 36 B; the budget is 8 B.")


def test_half_a_byte_is_no_budget() -> None:
    assert re.search("at least 1.*0.5", words_of(lambda: jb.jacobian(f, memory_budget=0.5), ValueError))


@pytest.mark.parametrize(
    ("returned", "shown"),
    [(lambda x: x, "f32[3]"), (lambda x: (x,), "a tuple of 1"), (lambda x: {"y": x}, "an object of type dict")],
)
def test_without_an_aux_what_came_is_shown_as_jax_shows_it(returned: Any, shown: str) -> None:
    text = words_of(lambda: jb.jacobian(returned, has_aux=True)(X), TypeError)
    assert f"it returned {shown}." in text
    assert "Tracer" not in text


def test_models_are_sent_to_functional_with_what_it_needs() -> None:
    nn, nnx = pytest.importorskip("flax.linen"), pytest.importorskip("flax.nnx")
    linen, other = nn.Dense(2), nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    for model, call in ((linen, "functional(model, variables)"), (other, "functional(model)")):
        assert call in words_of(lambda model=model: jb.jacobian(model), TypeError)
    assert "functional(model, variables)" in words_of(lambda: jb.jacobian(lambda m: m)(linen), TypeError)


def test_what_is_forced_in_vain_says_what_works() -> None:
    @jax.custom_vjp
    def g(x):
        return x

    g.defvjp(lambda x: (x, None), lambda _, t: (t,))
    text = words_of(lambda: jb.jacobian(g, mode="forward")(X), jb.ModeError)
    assert text.endswith('Reverse mode works: mode="rev", or "auto".')


@pytest.mark.parametrize("f", [lambda x: x / jnp.linalg.norm(x), lambda x: jnp.ones((3, 4)) @ x, jnp.cumsum])
def test_of_a_function_of_one_example_it_is_said_how_it_takes_a_batch(f: Any) -> None:
    x = jnp.linspace(0.5, 2, 20).reshape(5, 4)
    with pytest.raises(ValueError, match=r"If f takes one example, use batch_jacobian\(jax\.vmap\(f\)\)") as raised:
        jb.batch_jacobian(f)(x[:4] if f is not jnp.cumsum else x)
    np.testing.assert_allclose(jb.batch_jacobian(jax.vmap(f))(x), jax.vmap(jax.jacrev(f))(x), rtol=1e-5, atol=1e-6)
    assert "Batch normalization" not in str(raised.value) or "reduce_sum" in str(raised.value)
