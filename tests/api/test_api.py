"""The public functions: layout, arguments, dtypes, odd inputs, errors. JAX's own Jacobians are the oracle."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_same

import jaxobian as jb
from jaxobian._request import Mode

MODES = ("auto", "fwd", "rev")
X = jnp.array([0.3, -1.2, 2.0])
Y = jnp.array([1.5, 0.5, -0.7])
M = jnp.arange(6.0).reshape(2, 3) / 5


class Point(NamedTuple):
    x: Any
    y: Any


# Layout -----------------------------------------------------------------------------------------------------


LAYOUTS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], Any]] = {
    "vector to vector": (jnp.sin, (X,), 0),
    "matrix to matrix": (lambda a: a.T @ a, (M,), 0),
    "scalar to scalar": (lambda a: a**3, (jnp.array(2.0),), 0),
    "scalar to vector": (lambda a: a * X, (jnp.array(2.0),), 0),
    "vector to scalar": (lambda a: jnp.sum(a**2), (X,), 0),
    "dict to tuple": (lambda p: (p["w"] @ p["b"], jnp.sum(p["w"])), ({"w": M, "b": X},), 0),
    "nested lists": (lambda p: [{"out": p[0] * p[1][0]}, [p[1][1]]], ([X, [Y, M]],), 0),
    "named tuple": (lambda p: Point(p.y * 2.0, p.x @ p.y), (Point(X, Y),), 0),
    "None leaves": (lambda p: {"y": p["w"] * 2.0, "nothing": None}, ({"w": X, "no": None},), 0),
    "second argument": (lambda a, b: a * jnp.cos(b), (X, Y), 1),
    "last argument": (lambda a, b: a * jnp.cos(b), (X, Y), -1),
    "first of two, counted backwards": (lambda a, b: a * jnp.cos(b), (X, Y), -2),
    "tuple of one": (lambda a, b: a * jnp.cos(b), (X, Y), (1,)),
    "list of argnums": (lambda a, b: a * jnp.cos(b), (X, Y), [0, 1]),
    "two, swapped": (lambda a, b: a * jnp.cos(b), (X, Y), (1, 0)),
    "two, one from the end": (lambda a, b, c: a * b + c[0], (X, Y, M), (0, -1)),
    "trees in two arguments": (lambda p, q: {"s": p["a"] * q[0]}, ({"a": X}, (Y, M)), (0, 1)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_is_jax_s(name: str, mode: Mode) -> None:
    f, args, argnums = LAYOUTS[name]
    assert_same(jb.jacobian(f, argnums, mode=mode)(*args), jax.jacrev(f, argnums)(*args))


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("mode", MODES)
def test_chunk_size_never_changes_the_answer(mode: Mode, chunk_size: int) -> None:
    f, args, _ = LAYOUTS["trees in two arguments"]
    J = jb.jacobian(f, (0, 1), mode=mode, chunk_size=chunk_size)(*args)
    assert_same(J, jax.jacrev(f, (0, 1))(*args))


@pytest.mark.parametrize("mode", MODES)
def test_many_chunks(mode: Mode) -> None:
    # More than are written out one after the other, and the last one does not divide.
    x = jnp.linspace(-1, 1, 53)
    f = lambda a: jnp.sin(a) * a[::-1]
    assert_same(jb.jacobian(f, mode=mode, chunk_size=3)(x), jax.jacrev(f)(x))


def test_sparse_format_is_the_dense_answer_of_the_right_shape() -> None:
    f = lambda p: {"y": p["w"] @ p["b"], "s": jnp.sum(p["b"])}
    point = {"w": M, "b": X}
    sparse, dense = jb.jacobian(f, format="bcoo")(point), jax.jacrev(f)(point)
    for out in dense:
        for inp in point:
            block = sparse[out][inp]
            assert (block.shape, block.n_batch, block.n_dense) == (dense[out][inp].shape, 0, 0)
            assert block.indices_sorted
            assert block.unique_indices
            indices = [tuple(row) for row in block.indices.tolist()]
            assert indices == sorted(set(indices))
            np.testing.assert_allclose(block.todense(), dense[out][inp], rtol=1e-6)


@pytest.mark.parametrize("x", [1.0, jnp.zeros(0), X, M], ids=["scalar", "empty", "vector", "matrix"])
def test_sparse_format_of_any_rank(x: Any) -> None:
    f = lambda a: jnp.sin(a)
    assert_same(jb.jacobian(f, format="bcoo")(x).todense(), jb.jacobian(f)(x))


def test_sparse_blocks_reshape_to_a_matrix() -> None:
    f = lambda a: jnp.sin(a) * a[::-1]
    block = jb.jacobian(f, format="bcoo")(M)
    np.testing.assert_allclose(block.reshape(6, 6).todense(), jax.jacrev(f)(M).reshape(6, 6), rtol=1e-6)


# Values, aux, keyword arguments -----------------------------------------------------------------------------


def test_with_value_returns_f_s_value_and_its_jacobian() -> None:
    f = lambda p: {"y": jnp.sin(p["a"]), "z": p["b"]}
    point = {"a": X, "b": Y}
    value, J = jb.jacobian(f).with_value(point)
    assert_same(value, f(point))
    assert_same(J, jax.jacrev(f)(point))


def test_value_and_jacobian_is_with_value() -> None:
    f = lambda a, b: a * b
    value, J = jb.value_and_jacobian(f, (0, 1), mode="rev")(X, Y)
    assert_same(value, X * Y)
    assert_same(J, jax.jacrev(f, (0, 1))(X, Y))


def test_value_of_an_empty_tree_is_the_empty_tree() -> None:
    value, J = jb.jacobian(lambda a: {}).with_value(X)
    assert value == {}
    assert J == {}


@pytest.mark.parametrize("mode", MODES)
def test_aux_comes_back_untouched(mode: Mode) -> None:
    def f(a):
        aux = {"name": "kept", "n": 3, "none": None, "array": np.ones(2)}
        return a * 2.0, {**aux, "int": jnp.sum(a > 0), "sin": jnp.sin(a)}

    J, aux = jb.jacobian(f, has_aux=True, mode=mode)(X)
    (value, same), K = jb.jacobian(f, has_aux=True, mode=mode).with_value(X)
    assert_same([J, K, value], [2 * jnp.eye(3), 2 * jnp.eye(3), 2 * X])
    for got in (aux, same):
        assert got["name"] == "kept"
        assert got["n"] == 3
        assert got["none"] is None
        np.testing.assert_array_equal(got["array"], np.ones(2))
        assert_same([got["int"], got["sin"]], [jnp.sum(X > 0), jnp.sin(X)])


def test_aux_may_be_a_random_key() -> None:
    _, key = jb.jacobian(lambda a: (a, jax.random.key(7)), has_aux=True)(X)
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(jax.random.key(7)))


def test_aux_without_a_pair_is_refused() -> None:
    with pytest.raises(TypeError, match="pair"):
        jb.jacobian(lambda a: a, has_aux=True)(X)


def test_keyword_arguments_pass_through() -> None:
    f = lambda a, *, scale, power=1: scale * a**power
    J = jb.jacobian(f)(X, scale=Y, power=3)
    assert_same(J, jax.jacrev(f)(X, scale=Y, power=3))


def test_keyword_arguments_may_have_any_name() -> None:
    # Also those that the package might use itself.
    f = lambda a, self=1.0, f=1.0, args=1.0, options=1.0: a * self * f * args * options
    expected = jax.jacrev(lambda a: a * 2.0)(X)
    for name in ("f", "args", "options"):
        assert_same(jb.jacobian(f)(X, **{name: 2.0}), expected)


STATIC: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "string": (lambda a, how: {"sin": jnp.sin, "cos": jnp.cos}[how](a), ("cos",)),
    "callable": (lambda a, how: how(a), (jnp.cos,)),
    "int in control flow": (lambda a, n: a**2 if n > 1 else a, (2,)),
    "int as a loop's length": (lambda a, n: functools.reduce(lambda s, _: jnp.sin(s), range(n), a), (3,)),
    "bool": (lambda a, flag: jnp.sin(a) if flag else a, (True,)),
    "tuple as a shape": (lambda a, shape: jnp.broadcast_to(a, shape), ((2, 3),)),
    "dtype": (lambda a, dtype: a.astype(dtype), (jnp.float16,)),
    "NumPy indices": (lambda a, k: a[k], (np.array([2, 0]),)),
    "any object": (lambda a, o: a * o.real, (complex(2, 1),)),
    "None": (lambda a, b: a if b is None else a * b, (None,)),
    "set": (lambda a, names: a * len(names), ({"p", "q"},)),
}


@pytest.mark.parametrize("name", STATIC)
def test_what_is_not_differentiated_may_be_anything(name: str) -> None:
    f, rest = STATIC[name]
    for _ in range(2):  # the second call finds what the first one kept
        J = jb.jacobian(f)(X, *rest)
        with jax.numpy_dtype_promotion("standard"):
            expected = jax.jacrev(f)(X, *rest)
        np.testing.assert_allclose(J, expected, rtol=1e-3 if J.dtype == jnp.float16 else 1e-6)


@pytest.mark.parametrize("as_keyword", [False, True])
def test_a_dict_that_is_not_differentiated_keeps_its_order(as_keyword: bool) -> None:
    # A model's layers, in the order in which they run.
    def f(a, layers):
        for kind, w in layers.items():
            a = w * jnp.sin(a) if kind == "z" else a + w
        return a

    layers = {"z": 2.0, "b": 1.0, "a": 3.0}
    keywords = {"layers": layers} if as_keyword else {}
    args = (X,) if as_keyword else (X, layers)
    first = lambda a, layers: a * next(iter(layers.values()))
    assert_same(jb.jacobian(f)(*args, **keywords), jax.jacrev(f)(*args, **keywords))
    assert_same(jb.jacobian(first)(*args, **keywords), jax.jacrev(first)(*args, **keywords))


def test_static_arguments_select_the_function_anew_in_each_call() -> None:
    f = lambda a, n, how: how(a) ** n
    J = jb.jacobian(f)
    for n, how in [(1, jnp.sin), (2, jnp.sin), (2, jnp.cos), (1, jnp.sin)]:
        assert_same(J(X, n, how), jax.jacrev(f)(X, n, how))


# What an eager call may and may not remember ----------------------------------------------------------------


def test_a_closed_over_array_may_be_rebound_between_calls() -> None:
    scale = jnp.array([1.0, 2.0, 3.0])
    J = jb.jacobian(lambda a: a * scale)
    assert_same(J(X), jnp.diag(scale))
    scale = jnp.array([4.0, 5.0, 6.0])
    assert_same(J(X), jnp.diag(scale))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["plain", "jit", "checkpoint"])
def test_a_closed_over_numpy_array_may_be_changed_in_place(wrap: Callable[..., Any]) -> None:
    scale = np.array([1.0, 2.0, 3.0], np.float32)

    def f(a):
        return wrap(lambda b: b * scale)(a)  # wrapped anew in each call: jax.jit itself remembers

    J = jb.jacobian(f)
    assert_same(J(X), jnp.diag(jnp.array([1.0, 2.0, 3.0])))
    scale[:] = 7.0
    assert_same(J(X), 7 * jnp.eye(3))


def test_a_closed_over_scalar_may_be_rebound_between_calls() -> None:
    power = 2
    J = jb.jacobian(lambda a: a**power)
    assert_same(J(X), jnp.diag(2 * X))
    power = 3
    assert_same(J(X), jnp.diag(3 * X**2))


def test_global_state_is_read_anew_in_each_call() -> None:
    state = {"branch": "sin"}
    J = jb.jacobian(lambda a: getattr(jnp, state["branch"])(a))
    assert_same(J(X), jnp.diag(jnp.cos(X)))
    state["branch"] = "cos"
    assert_same(J(X), jnp.diag(-jnp.sin(X)))


COUNTED = {
    "call": lambda f: jb.jacobian(f)(X),
    "forward": lambda f: jb.jacobian(f, mode="fwd")(X),
    "chunked": lambda f: jb.jacobian(f, chunk_size=1)(X),
    "with_value": lambda f: jb.jacobian(f).with_value(X),
    "plan": lambda f: jb.jacobian(f).plan(X),
    "under jit": lambda f: jax.jit(jb.jacobian(f))(X),
    "batch": lambda f: jb.batch_jacobian(f)(X),
    "hessian": lambda f: jb.hessian(f)(X),
    "jacobian of jacobian": lambda f: jb.jacobian(jb.jacobian(f))(X),
}


@pytest.mark.parametrize("what", COUNTED)
def test_f_is_traced_at_most_twice(what: str) -> None:
    calls = []

    def f(a):
        calls.append(a)
        return jnp.sin(a)

    for n in (1, 2):  # traced anew in each call, a constant number of times
        calls.clear()
        COUNTED[what](f)
        assert 1 <= len(calls) <= 2, f"call {n}"


def test_running_a_plan_does_not_trace_f_again() -> None:
    calls = []

    def f(a):
        calls.append(a)
        return jnp.sin(a)

    plan = jb.jacobian(f).plan(X)
    traced = len(calls)
    plan(X)
    plan(Y)
    assert len(calls) == traced


# Odd inputs -------------------------------------------------------------------------------------------------


ODD: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "Python float": (lambda a: a * a, (3.0,)),
    "Python floats in a list": (lambda p: p[0] * p[1], ([3.0, 4.0],)),
    "Python complex": (lambda a: jnp.abs(a), (3.0 + 4.0j,)),
    "NumPy array": (lambda a: a * a, (np.array([1.0, 2.0], np.float32),)),
    "NumPy float64 array": (lambda a: a * a, (np.array([1.0, 2.0]),)),
    "NumPy scalar": (lambda a: a * a, (np.float32(3.0),)),
    "NumPy float64 scalar": (lambda a: a * a, (np.float64(3.0),)),
    "0-d array": (lambda a: jnp.stack([a, a**2]), (jnp.array(3.0),)),
    "empty input": (lambda a: a * 2.0, (jnp.zeros(0),)),
    "empty matrix to a vector": (lambda a: jnp.ones(2) * jnp.sum(a), (jnp.zeros((0, 3)),)),
    "empty output": (lambda a: a[:0], (X,)),
    "one empty leaf of two": (lambda p: p["a"] * jnp.sum(p["b"]), ({"a": jnp.ones(2), "b": jnp.zeros(0)},)),
    "one empty output of two": (lambda a: {"none": a[:0], "some": a[:1]}, (X,)),
    "unused leaf": (lambda p: p["a"] * 2.0, ({"a": X, "b": Y},)),
    "unused input": (lambda a: jnp.sin(Y), (X,)),
    "one constant output": (lambda a: {"c": jnp.ones(2), "y": a}, (X,)),
    "Python float output": (lambda a: 1.0, (X,)),
    "NumPy output": (lambda a: np.ones(2, np.float32), (X,)),
    "one Python output": (lambda a: [a, 2.0], (X,)),
    "closed-over output": (lambda a: Y, (X,)),
    "repeated operand": (lambda a: a * a, (X,)),
    "repeated operand of a product": (lambda a: a @ a.T, (M,)),
    "repeated output": (lambda a: (a, a, jnp.sin(a)), (X,)),
    "pass-through": (lambda a: a, (X,)),
    "pass-through of a tree": (lambda p: p, ({"a": X, "b": Y},)),
    "swapped": (lambda p: (p[1], p[0]), ((X, Y),)),
    "zero gradient": (lambda a: jnp.round(a), (X,)),
    "stop_gradient": (lambda a: a * jax.lax.stop_gradient(a), (X,)),
    "through an integer": (lambda a: a * jnp.argmax(a), (X,)),
    "cast there and back": (lambda a: a.astype(jnp.int32).astype(jnp.float32) + a, (X,)),
    "sum of an axis of size one": (lambda a: jnp.sum(a[:, None], axis=1), (X,)),
    "size-one array": (lambda a: a * X, (jnp.ones(1),)),
    "same array twice in a tree": (lambda p: p[0] * p[1], ((X, X),)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ODD)
def test_odd_inputs(name: str, mode: Mode) -> None:
    f, args = ODD[name]
    if mode == "fwd" and "complex" in name:
        pytest.skip("complex inputs run in reverse")
    J = jb.jacobian(f, mode=mode)(*args)
    assert_same(J, jax.jacrev(f)(*args))


def test_numpy_constants_inside_every_kind_of_function() -> None:
    k = np.array([1.0, 2.0, 3.0], np.float32)
    functions = [
        jax.jit(lambda a: a * k),
        jax.jit(jax.jit(lambda a: jnp.sin(a * k))),
        jax.checkpoint(lambda a: jnp.sin(a * k)),
        lambda a: jax.lax.scan(lambda c, _: (jnp.sin(c * k), None), a, None, length=2)[0],
        lambda a: jax.lax.cond(a[0] > 0, lambda c: c * k, lambda c: c + k, a),
        lambda a: jax.lax.fori_loop(0, 2, lambda _, c: c * k, a),
        jax.vmap(lambda s: jnp.sum(s * k)),
    ]
    for f in functions:
        for _ in range(2):
            assert_same(jb.jacobian(f)(X), jax.jacrev(f)(X))


# Integers and keys ------------------------------------------------------------------------------------------


INERT = {
    "integers beside floats": (lambda p: p["w"][p["i"]], {"w": X, "i": jnp.array([2, 0])}),
    "Python int": (lambda p: p["w"] ** p["n"], {"w": X, "n": 2}),
    "integers alone": (lambda i: i * X, jnp.arange(3)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", INERT)
def test_integer_leaves_are_as_jacrev_s(name: str, mode: Mode) -> None:
    f, point = INERT[name]
    J = jb.jacobian(f, allow_int=True, mode=mode)(point)
    assert_same(J, jax.jacrev(f, allow_int=True)(point))


@pytest.mark.parametrize("mode", MODES)
def test_bool_and_key_leaves_may_stay_with_allow_int(mode: Mode) -> None:
    # jacrev itself fails here; the floating-point leaf is what matters.
    f = lambda p: jnp.where(p["mask"], p["w"], 0.0) * jax.random.normal(p["key"], (3,))
    key, mask = jax.random.key(3), jnp.array([True, False, True])
    J = jb.jacobian(f, allow_int=True, mode=mode)({"w": X, "key": key, "mask": mask})
    assert_same(J["w"], jnp.diag(mask * jax.random.normal(key, (3,))))
    assert {name: block.shape for name, block in J.items()} == {"w": (3, 3), "key": (3,), "mask": (3, 3)}


def test_keys_and_integers_in_other_arguments_need_nothing() -> None:
    f = lambda a, key, k: (a * jax.random.normal(key, (3,)))[k]
    args = (X, jax.random.key(3), jnp.array([1, 1]))
    assert_same(jb.jacobian(f)(*args), jax.jacrev(f)(*args))


@pytest.mark.parametrize("mode", MODES)
def test_integer_inputs_are_refused_by_name(mode: Mode) -> None:
    f = lambda a, p: a * p["w"] * p["layers"][1]["i"]
    p = {"w": X, "layers": [X, {"i": jnp.arange(3)}]}
    with pytest.raises(TypeError, match=r"args\[1\]\['layers'\]\[1\]\['i'\].*i32\[3\].*allow_int"):
        jb.jacobian(f, 1, mode=mode)(X, p)


@pytest.mark.parametrize(
    ("out", "shown"),
    [(lambda a: jnp.argmax(a), r"i32\[\]"), (lambda a: a > 0, r"bool\[3\]"), (lambda a: 3, r"i32\[\]")],
)
@pytest.mark.parametrize("mode", MODES)
def test_integer_outputs_are_refused_by_name(out: Callable[..., Any], shown: str, mode: Mode) -> None:
    with pytest.raises(TypeError, match=rf"\['y'\]\[1\].*{shown}.*has_aux"):
        jb.jacobian(lambda a: {"x": a, "y": (a, out(a))}, mode=mode)(X)
    with pytest.raises(TypeError, match=rf"{shown}.*has_aux"):
        jb.jacobian(out, mode=mode)(X)


def test_integer_outputs_are_refused_with_allow_int_too() -> None:
    with pytest.raises(TypeError, match="has_aux"):
        jb.jacobian(lambda p: p["i"] + 1, allow_int=True)({"w": X, "i": jnp.arange(3)})


def test_outputs_that_are_not_arrays_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"\['name'\].*str"):
        jb.jacobian(lambda a: {"y": a, "name": "no array"})(X)


@pytest.mark.parametrize("leaf", ["text", object(), jnp.sin], ids=["str", "object", "function"])
def test_inputs_that_are_not_arrays_are_refused_by_name(leaf: Any) -> None:
    with pytest.raises(TypeError, match=rf"args\[0\]\['b'\].*{type(leaf).__name__}"):
        jb.jacobian(lambda p: p["a"])({"a": X, "b": leaf})


# dtypes -----------------------------------------------------------------------------------------------------

FLOATS = (jnp.float16, jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize("promotion", ["standard", "strict"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("out", FLOATS)
@pytest.mark.parametrize("inp", FLOATS)
def test_a_leaf_has_the_promoted_dtype_whichever_mode_ran(inp: Any, out: Any, mode: Mode, promotion: str) -> None:
    f = lambda a: (a * a).astype(out)
    with jax.numpy_dtype_promotion(promotion):
        J = jb.jacobian(f, mode=mode)(jnp.array([1.0, 2.0, 0.5], inp))
    assert J.dtype == jnp.promote_types(inp, out)
    np.testing.assert_array_equal(J.astype(jnp.float32), np.diag([2.0, 4.0, 1.0]))


@pytest.mark.parametrize("mode", MODES)
def test_each_leaf_has_its_own_dtype(mode: Mode) -> None:
    point = {"h": jnp.ones(2, jnp.float16), "s": jnp.ones(2, jnp.float32)}
    f = lambda p: (p["h"] * 2, p["s"] + p["h"].astype(jnp.float32))
    J = jb.jacobian(f, mode=mode)(point)
    assert jax.tree.map(lambda block: block.dtype.name, J) == (
        {"h": "float16", "s": "float32"},
        {"h": "float32", "s": "float32"},
    )


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "mixed"])
def test_a_block_that_is_zero_has_its_dtype_too(mode: Mode) -> None:
    J = jb.jacobian(lambda x: jnp.ones(2, jnp.float16), mode=mode)(jnp.ones(3))
    assert J.dtype == jnp.float32
    assert not J.any()


@pytest.mark.parametrize("mode", MODES)
def test_double_precision(mode: Mode) -> None:
    with jax.enable_x64(True):
        x = jnp.array([0.1, 0.2], jnp.float64)
        f = lambda a: jnp.stack([jnp.sin(a[0]) * a[1], a[1] ** 3])
        J, single = jb.jacobian(f, mode=mode)(x), jb.jacobian(f, mode=mode)(x.astype(jnp.float32))
        assert (J.dtype, single.dtype) == (jnp.float64, jnp.float32)
        np.testing.assert_allclose(J, jax.jacrev(f)(x), rtol=1e-14)
    assert jb.jacobian(f, mode=mode)(X[:2]).dtype == jnp.float32


# Complex numbers --------------------------------------------------------------------------------------------

Z = jnp.array([1 + 2j, 0.5 - 1j, -0.3j])


def test_real_to_complex_runs_forward_with_jax_s_convention() -> None:
    f = lambda a: jnp.exp(1j * a) * a[::-1]
    J = jb.jacobian(f)
    assert J.plan(X).mode == "fwd"
    assert_same(J(X), jax.jacfwd(f)(X))


def test_complex_to_real_runs_in_reverse_with_jax_s_convention() -> None:
    f = lambda z: jnp.abs(z) ** 2 + jnp.real(z[::-1] ** 2)
    J = jb.jacobian(f)
    assert J.plan(Z).mode == "rev"
    assert_same(J(Z), jax.jacrev(f)(Z))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_holomorphic(mode: Mode, chunk_size: int | None) -> None:
    f = lambda z: jnp.exp(z) * z[::-1]
    J = jb.jacobian(f, holomorphic=True, mode=mode, chunk_size=chunk_size)(Z)
    assert_same(J, jax.jacrev(f, holomorphic=True)(Z))


def test_complex_inside_a_real_function_is_nobody_s_business() -> None:
    f = lambda a: jnp.abs(jnp.fft.fft(a)) ** 2
    for mode in MODES:
        assert_same(jb.jacobian(f, mode=mode)(X), jax.jacrev(f)(X), 1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_complex_to_complex_wants_the_word(mode: Mode) -> None:
    with pytest.raises((TypeError, ValueError), match="holomorphic=True"):
        jb.jacobian(lambda z: z**2, mode=mode)(Z)


@pytest.mark.parametrize(
    ("f", "x", "mode"), [(lambda a: a * 1j, X, "rev"), (lambda z: jnp.real(z), Z, "fwd")], ids=["rev", "fwd"]
)
def test_a_forced_mode_that_complex_numbers_forbid_says_why(f: Any, x: Any, mode: Mode) -> None:
    with pytest.raises(jb.ModeError, match=r"real (in|out)puts"):
        jb.jacobian(f, mode=mode)(x)


def test_holomorphic_with_real_inputs_is_refused() -> None:
    with pytest.raises(TypeError, match="complex"):
        jb.jacobian(lambda a: a * 1j, holomorphic=True)(X)


def test_real_and_complex_leaves_together() -> None:
    mixed_in = lambda p: p[0] * jnp.real(p[1])
    assert_same(jb.jacobian(mixed_in)((X, Z)), jax.jacrev(mixed_in)((X, Z)))
    mixed_out = lambda a: (a**2, a * 1j)
    assert_same(jb.jacobian(mixed_out)(X), jax.jacfwd(mixed_out)(X))


# Options and errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [jb.jacobian, jb.batch_jacobian, jb.hessian, jb.value_and_jacobian])
@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"mode": "forwards"}, "'forwards'"),
        ({"mode": "rev-first"}, "'rev-first'"),
        ({"mode": None}, "None"),
        ({"format": "csr"}, "'csr'"),
        ({"chunk_size": 0}, "0"),
        ({"chunk_size": -3}, "-3"),
        ({"chunk_size": 2.5}, "2.5"),
        ({"chunk_size": True}, "True"),
        ({"memory_budget": "plenty"}, "'plenty'"),
        ({"memory_budget": 0}, "0"),
        ({"memory_budget": -1}, "-1"),
    ],
    ids=str,
)
def test_bad_options_are_value_errors_that_show_what_came(transform: Any, options: Any, shown: str) -> None:
    with pytest.raises(ValueError, match=shown):
        transform(jnp.sin, **options)


@pytest.mark.parametrize("argnums", [3, -4, (0, 3), (-4,)])
def test_argnums_out_of_range(argnums: Any) -> None:
    f = lambda a, b, c: a * b * c
    with pytest.raises(ValueError, match=r"argnums.*3 positional"):
        jb.jacobian(f, argnums)(X, X, X)
    with pytest.raises(ValueError, match="argnums"):  # as JAX
        jax.jacrev(f, argnums)(X, X, X)


@pytest.mark.parametrize("argnums", ["x", 1.0, None, (0, "x")])
def test_argnums_that_are_no_ints(argnums: Any) -> None:
    with pytest.raises(TypeError, match="argnums"):
        jb.jacobian(jnp.sin, argnums)(X)


def test_argnums_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        jb.jacobian(lambda a, b: a * b, (0, -2))(X, Y)


def test_differentiated_arguments_are_positional() -> None:
    with pytest.raises(ValueError, match="positional"):
        jb.jacobian(lambda a: a)(a=X)


def test_not_a_function() -> None:
    with pytest.raises(TypeError, match=r"function.*3"):
        jb.jacobian(3)  # pyright: ignore[reportArgumentType]


def test_errors_of_f_itself_come_through() -> None:
    def f(a):
        raise KeyError("mine")

    for call in (jb.jacobian(f), jb.jacobian(f).with_value, jb.jacobian(f).plan, jb.hessian(f)):
        with pytest.raises(KeyError, match="mine"):
            call(X)


@pytest.mark.parametrize(
    ("error", "base"),
    [(jb.ModeError, ValueError), (jb.MemoryBudgetError, MemoryError), (jb.PlanMismatchError, TypeError)],
)
def test_errors_are_exported_and_derive_from_built_in_ones(error: type, base: type) -> None:
    assert issubclass(error, base)


# The callable object ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [jb.jacobian, jb.batch_jacobian, jb.hessian])
def test_name_and_documentation_are_f_s(transform: Any) -> None:
    def energy(x):
        """The energy of x."""
        return jnp.sum(x**2)

    J = transform(energy)
    assert J.__name__ == "energy"
    assert J.__doc__ == "The energy of x."
    assert J.__wrapped__ is energy
    assert "energy" in repr(J)


class Callable_:
    """A callable object whose attributes have the same names as ours."""

    def __init__(self) -> None:
        self._f = self._options = self._has_aux = self.power = 3

    def __call__(self, x):
        return jnp.sum(x**self.power)


CALLABLES = {
    "object": Callable_(),
    "bound method": Callable_().__call__,
    "partial": functools.partial(lambda a, b: jnp.sum(a**b), b=3),
    "jit": jax.jit(lambda a: jnp.sum(a**3)),
    "ufunc": jnp.square,
}


@pytest.mark.parametrize("name", CALLABLES)
def test_f_may_be_any_callable(name: str) -> None:
    f = CALLABLES[name]
    assert_same(jb.jacobian(f)(X), jax.jacrev(f)(X))
    assert_same(jb.hessian(f)(X), jax.hessian(f)(X))
    assert isinstance(str(jb.jacobian(f).plan(X)), str)
    assert isinstance(repr(jb.jacobian(f)), str)


def test_modules_that_are_pure_functions_are_welcome() -> None:
    # Equinox calls its base class Module, too; such a module is a pytree and a pure function.
    class Module:
        pass

    class Affine(Module):
        def __call__(self, x):
            return 2.0 * x

    assert_same(jb.jacobian(Affine())(X), 2 * jnp.eye(3))


def test_one_object_serves_arguments_of_any_shape() -> None:
    J = jb.jacobian(lambda a: jnp.sin(a))
    for x in (X, M, jnp.float32(1.0), {"a": X}["a"][:2], X):
        assert_same(J(x), jax.jacrev(jnp.sin)(x))
