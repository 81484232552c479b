"""Errors inside f name f, its line and its arguments, and hardly a frame stands between it and the call."""

from __future__ import annotations

import functools
import os
import traceback

import jax
import jax.numpy as jnp
import pytest

import jaxobian as jb

HERE = os.path.basename(__file__)
X = jnp.ones(3)


def fails(x):
    raise RuntimeError("of the user's own")


def frames(call) -> list[str]:
    """The files of the traceback of what `call` raises, from the call on."""
    with pytest.raises(RuntimeError, match="of the user's own") as caught:
        call()
    files = [os.path.basename(frame.filename) for frame in traceback.extract_tb(caught.value.__traceback__)]
    return files[files.index(HERE) + 1 :]


@jax.custom_jvp
def rule(x):
    return x


rule.defjvp(lambda primals, tangents: fails(primals[0]))

CALLS = {
    "a call": lambda: jb.jacobian(fails)(X),
    "its value": lambda: jb.jacobian(fails).with_value(X),
    "a plan": lambda: jb.jacobian(fails).plan(X),
    "a pattern": lambda: jb.sparsity(fails, X),
    "a batch": lambda: jb.batch_jacobian(fails)(X),
    "a shared argument": lambda: jb.batch_jacobian(lambda p, x: fails(x), 0, in_axes=(None, 0))(X, X),
    "a Hessian": lambda: jb.hessian(fails)(X),
    "a Hessian's value": lambda: jb.hessian(fails).with_value(X),
    "a Jacobian of a Jacobian": lambda: jb.jacobian(jb.jacobian(fails))(X),
    "a rule of the user's": lambda: jb.jacobian(rule)(X),
    "under jit": lambda: jax.jit(jb.jacobian(fails))(X),
    "under vmap": lambda: jax.vmap(jb.jacobian(fails))(X),
    "what is jitted itself": lambda: jb.jacobian(jax.jit(fails))(X),
}


@pytest.mark.parametrize("name", CALLS)
def test_at_most_two_frames_stand_between_a_call_and_f(name: str) -> None:
    found = frames(CALLS[name])
    assert found[-1] == HERE
    assert len([file for file in found if file != HERE]) <= 2


def test_all_frames_are_there_where_jax_is_asked_for_its_own() -> None:
    before = jax.config.jax_traceback_filtering  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_traceback_filtering", "off")
    try:
        found = frames(CALLS["a call"])
    finally:
        jax.config.update("jax_traceback_filtering", before)
    assert "_trace.py" in found


def test_the_frame_that_raises_is_left_where_it_is_ours() -> None:
    with pytest.raises(TypeError, match="has no derivative") as caught:
        jb.jacobian(lambda x: x > 0)(X)
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "check_outputs"


# What the user called, and the name that it gives the argument which the branch is on.


def branches(x, scale=2.0):
    return x if x.sum() > 0 else scale * x


def on_weights(params, x, *, flag=True):
    return x if params["w"][0].sum() > 0 else -x


def second(a, b):
    return b if b.sum() > 0 else a


class Model:
    def method(self, x):
        return x if x.sum() > 0 else -x

    __call__ = method


@functools.wraps(branches)
def decorated(*args, **more):
    return branches(*args, **more)


BRANCHES = {
    "one argument": (branches, 0, (X,), {}, "branches", "x"),
    "not the first": (second, 1, (X, X), {}, "second", "b"),
    "several": (second, (0, 1), (X, X), {}, "second", "b"),
    "a tree": (on_weights, 0, ({"b": X, "w": [X]}, X), {}, "on_weights", "params['w'][0]"),
    "a keyword": (on_weights, 0, ({"w": [X]}, X), {"flag": False}, "on_weights", "params['w'][0]"),
    "any number": (lambda *xs: xs[1] if xs[1].sum() > 0 else xs[0], 1, (X, X), {}, "<lambda>", "xs[1]"),
    "a method": (Model().method, 0, (X,), {}, "method", "x"),
    "a callable object": (Model(), 0, (X,), {}, "method", "x"),
    "a part of its arguments": (functools.partial(branches, scale=3.0), 0, (X,), {}, "branches", "x"),
    "its first argument given": (functools.partial(second, X), 0, (X,), {}, "second", "b"),
    "decorated": (
        decorated,
        0,
        (X,),
        {},
        "branches",
        "x",
    ),
}


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize("how", ["call", "plan", "hessian"])
def test_a_branch_on_a_value_names_f_and_its_argument(name: str, how: str) -> None:
    f, argnums, args, kwargs, function, argument = BRANCHES[name]
    make = jb.hessian if how == "hessian" else jb.jacobian
    J = make(f, argnums)
    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        (J.plan if how == "plan" else J)(*args, **kwargs)
    assert f"tracing the function {function} at {__file__}" in str(caught.value)
    assert f"depends on the value of the argument {argument}." in str(caught.value)


def test_a_plan_names_arguments_that_are_not_differentiated() -> None:
    def f(x, flags, *, on):
        return x if (flags["a"] if on is None else on) else -x

    J = jb.jacobian(f)
    flags = {"a": jnp.array(True), "b": 1.0}
    for on, named in ((None, "flags['a']"), (jnp.array(True), "on")):
        with pytest.raises(jax.errors.TracerBoolConversionError, match="tracing the function f at") as caught:
            J.plan(X, flags, on=on)
        assert f"the argument {named}." in str(caught.value)
    assert J(X, flags, on=None).shape == (3, 3)


def test_a_plan_names_integers_inside_what_is_differentiated() -> None:
    def f(x):
        return x["a"] if x["n"] > 0 else -x["a"]

    J = jb.jacobian(f, allow_int=True)
    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        J.plan({"a": X, "n": jnp.array(1)})
    assert "the argument x['n']." in str(caught.value)


@pytest.mark.parametrize("name", ["f", "self", "args", "kwargs", "fun", "avals", "call"])
def test_a_keyword_argument_may_have_any_name(name: str) -> None:
    def f(x, **scales):
        return scales[name] * x

    assert jb.jacobian(f)(X, **{name: 2.0})[0, 0] == 2
    assert jb.jacobian(f).plan(X, **{name: X})(X, **{name: X})[0, 0] == 1
