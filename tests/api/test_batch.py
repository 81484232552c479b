"""`batch_jacobian`: every example's own Jacobian, f called with the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_same

import jaxobian as jb
from jaxobian._request import Mode

MODES = ("auto", "fwd", "rev")
B = 5
X = jnp.linspace(-1, 1, B * 3).reshape(B, 3)
W = jnp.array([[0.5, 1.0], [1.5, -0.5], [0.2, -0.7]])


def one(x):
    """One example: (3,) -> (2,)."""
    return jnp.tanh(x @ W) * jnp.sum(x)


def batch(x):
    """The same, written for a batch, axis 0 to axis 0."""
    return jnp.tanh(x @ W) * jnp.sum(x, axis=-1, keepdims=True)


def each(f: Callable[..., Any], argnums: Any = 0, in_axes: Any = 0) -> Callable[..., Any]:
    """The oracle: jacrev of one example, vmapped."""
    return jax.vmap(jax.jacrev(f, argnums), in_axes)


# Values and layout ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_every_example_has_its_own_jacobian(mode: Mode, chunk_size: int | None) -> None:
    J = jb.batch_jacobian(batch, mode=mode, chunk_size=chunk_size)(X)
    assert J.shape == (B, 2, 3)
    assert_same(J, each(one)(X))


AXES: dict[str, tuple[Any, Any]] = {  # in_axes, out_axes
    "first": (0, 0),
    "last in": (1, 0),
    "last out": (0, 1),
    "negative": (-1, -1),
    "negative, first": (-2, -2),
    "tuple of one": ((1,), 0),
    "list": ([1], 0),
}


@pytest.mark.parametrize("mode", ["fwd", "rev"])
@pytest.mark.parametrize("name", AXES)
def test_axes(name: str, mode: Mode) -> None:
    in_axes, out_axes = AXES[name]
    axis_in = in_axes[0] if isinstance(in_axes, tuple | list) else in_axes
    f = lambda x: jnp.moveaxis(batch(jnp.moveaxis(x, axis_in, 0)), 0, out_axes)
    J = jb.batch_jacobian(f, in_axes=in_axes, out_axes=out_axes, mode=mode)
    # The batch axis of J is always the first.
    assert_same(J(jnp.moveaxis(X, 0, axis_in)), each(one)(X))


@pytest.mark.parametrize("mode", ["fwd", "rev"])
@pytest.mark.parametrize(("axis_in", "axis_out"), [(0, 1), (1, 0), (2, 2), (-1, 1), (1, -1)])
def test_axes_in_the_middle(axis_in: int, axis_out: int, mode: Mode) -> None:
    image = jnp.linspace(-1, 1, B * 6).reshape(B, 2, 3)
    g = lambda x: jnp.sin(x @ x.T)[:, :, None] * x[0]  # (2, 3) -> (2, 2, 3)
    f = lambda x: jnp.moveaxis(jax.vmap(g)(jnp.moveaxis(x, axis_in, 0)), 0, axis_out)
    J = jb.batch_jacobian(f, in_axes=axis_in, out_axes=axis_out, mode=mode)(jnp.moveaxis(image, 0, axis_in))
    assert_same(J, each(g)(image))


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_trees_of_axes(mode: Mode) -> None:
    # One example: a (3,), b (2, 2) -> y (3,), z (), with the batch at a different place in each.
    def g(p):
        return {"y": jnp.sin(p["a"]) * p["b"][0, 1], "z": (jnp.sum(p["b"]) * p["a"][0],)}

    def f(p):
        out = jax.vmap(g, in_axes=({"a": 1, "b": 2},))(p)
        return {"y": out["y"].T, "z": out["z"]}

    a, b = X, jnp.linspace(0, 1, B * 4).reshape(B, 2, 2)
    J = jb.batch_jacobian(f, in_axes=({"a": 1, "b": -1},), out_axes={"y": -1, "z": 0}, mode=mode)
    assert_same(J({"a": a.T, "b": jnp.moveaxis(b, 0, 2)}), each(g)({"a": a, "b": b}))


def test_a_prefix_of_a_tree_will_do() -> None:
    g = lambda p, q: p["a"] * jnp.sin(p["b"]) * q
    p = {"a": X.T, "b": 2 * X.T}
    f = lambda p, q: jax.vmap(g, in_axes=(1, 0))(p, q)
    J = jb.batch_jacobian(f, (0, 1), in_axes=(1, 0))
    expected = each(g, (0, 1))({"a": X, "b": 2 * X}, X)
    assert_same(J(p, X), expected)


def test_none_leaves_in_a_tree_of_axes() -> None:
    f = lambda p: {"y": p["a"] * 2.0, "no": None}
    J = jb.batch_jacobian(f)({"a": X, "no": None})
    assert_same(J, {"y": {"a": 2 * jnp.stack([jnp.eye(3)] * B), "no": None}, "no": None})


def test_scalars_of_each_example() -> None:
    f = lambda x: x**3
    x = X[:, 0]
    assert_same(jb.batch_jacobian(f)(x), 3 * x**2)
    # and vectors to scalars, scalars to vectors:
    assert_same(jb.batch_jacobian(lambda x: jnp.sum(x**2, 1))(X), 2 * X)
    assert_same(jb.batch_jacobian(lambda x: x[:, None] * W[:, 0])(x), jnp.stack([W[:, 0]] * B))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [0, 1, 2])
def test_small_batches(size: int, mode: Mode) -> None:
    J = jb.batch_jacobian(batch, mode=mode)(X[:size])
    assert_same(J, each(one)(X)[:size])


def test_one_example_is_a_batch_of_one() -> None:
    assert_same(jb.batch_jacobian(batch)(X[0][None])[0], jax.jacrev(one)(X[0]))


# Arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_axes", [0, (None, 0), ("anything", 0), (7, 0), [None, 0]])
def test_what_in_axes_says_of_constants_does_not_matter(in_axes: Any) -> None:
    f = lambda params, x: jnp.tanh(x @ params["w"])
    J = jb.batch_jacobian(f, 1, in_axes=in_axes)({"w": W}, X)
    assert_same(J, each(lambda x: jnp.tanh(x @ W))(X))


def test_constants_of_any_kind() -> None:
    f = lambda x, how, scale, none: getattr(jnp, how)(x) * scale
    J = jb.batch_jacobian(f)(X, "sin", np.float32(2.0), None)
    assert_same(J, each(lambda x: 2 * jnp.sin(x))(X))


def test_keyword_arguments_are_not_mapped() -> None:
    f = lambda x, *, w: jnp.tanh(x @ w)
    assert_same(jb.batch_jacobian(f)(X, w=W), each(lambda x: jnp.tanh(x @ W))(X))


def test_several_arguments() -> None:
    g = lambda x, y: {"d": jnp.sin(x) * y[0], "s": jnp.sum(x * y)}
    for argnums in (0, 1, -1, (0, 1), (1, 0)):
        assert_same(jb.batch_jacobian(jax.vmap(g), argnums)(X, 2 * X), each(g, argnums, (0, 0))(X, 2 * X))


def test_one_differentiated_argument_and_its_constants_batched_elsewhere() -> None:
    g = lambda x, y: jnp.sin(x) * y
    f = lambda x, y: jnp.sin(x) * y.T
    assert_same(jb.batch_jacobian(f, in_axes=(0, 1))(X, X.T), each(g, 0, (0, 0))(X, X))


def test_value_aux_and_sparse_format() -> None:
    f = lambda x: (batch(x), {"sum": jnp.sum(x), "name": "kept"})
    (y, aux), J = jb.batch_jacobian(f, has_aux=True).with_value(X)
    assert aux["name"] == "kept"
    assert_same([y, aux["sum"], J], [batch(X), jnp.sum(X), each(one)(X)])
    sparse = jb.batch_jacobian(batch, format="bcoo")(X)
    assert sparse.shape == (B, 2, 3)
    assert_same(sparse.todense(), each(one)(X))


def test_complex_and_integer_leaves() -> None:
    z = X + 0.5j
    expected = jax.vmap(jax.jacrev(jnp.square, holomorphic=True))(z)
    assert_same(jb.batch_jacobian(jnp.square, holomorphic=True)(z), expected)
    assert_same(jb.batch_jacobian(lambda x: x * (1 + 2j))(X), jax.vmap(jax.jacfwd(lambda x: x * (1 + 2j)))(X))
    p = {"w": X, "i": jnp.arange(B)}
    J = jb.batch_jacobian(lambda p: p["w"] * p["i"][:, None], allow_int=True)(p)
    assert_same(J["w"], jnp.arange(B)[:, None, None] * jnp.eye(3))


@pytest.mark.parametrize("mode", MODES)
def test_a_loop_of_chunks(mode: Mode) -> None:
    x = jnp.linspace(-1, 1, B * 40).reshape(B, 40)
    g = lambda x: jnp.sin(x) * x[::-1]
    J = jb.batch_jacobian(jax.vmap(g), mode=mode, chunk_size=1)(x)
    assert_same(J, each(g)(x))


def test_one_mode_functions() -> None:
    pushed = lambda x: jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * 1.5), (0, x))[1]
    f = lambda x: pushed(jnp.sin(x))
    assert jb.batch_jacobian(f).plan(X).mode == "fwd"
    assert_same(jb.batch_jacobian(f)(X), jax.vmap(jax.jacfwd(f))(X))

    @jax.custom_vjp
    def tripled(x):
        return jnp.sin(x)

    tripled.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (3 * jnp.cos(x) * g,))
    assert jb.batch_jacobian(tripled).plan(X).mode == "rev"
    assert_same(jb.batch_jacobian(tripled)(X), each(tripled)(X))
    both, twin = lambda x: pushed(tripled(x)), lambda x: 1.5**3 * 3 * jnp.sin(x)
    plan = jb.batch_jacobian(both).plan(X)
    assert plan.mode == "mixed"
    assert_same(plan(X), each(twin)(X))


# Passes and memory ------------------------------------------------------------------------------------------


def equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in jex.jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize("mode", ["fwd", "rev"])
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_b_by_b_blocks_are_never_built(mode: Mode, chunk_size: int | None) -> None:
    many = jnp.ones((101, 3))  # prime: a product that contains it twice is no accident
    compute = jb.batch_jacobian(lambda x: jnp.tanh(x @ W), mode=mode, chunk_size=chunk_size)
    jaxpr = jax.make_jaxpr(compute)(many).jaxpr
    sizes = [v.aval.size for e in equations(jaxpr) for v in e.outvars]
    assert sizes
    assert all(size % 101**2 for size in sizes if size)
    # What is alive never exceeds a few times J, which is 101 * 2 * 3.
    assert max(sizes) <= 4 * 101 * 2 * 3


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_a_batch_takes_the_passes_of_one_example(mode: Mode) -> None:
    plans = [jb.batch_jacobian(batch, mode=mode).plan(jnp.ones((size, 3))) for size in (1, 7, 64)]
    assert {plan.passes for plan in plans} == {3 if mode == "fwd" else 2}
    assert jb.jacobian(one, mode=mode).plan(X[0]).passes == plans[0].passes
    assert "64 examples" in str(plans[-1])


def test_f_is_called_with_the_whole_batch() -> None:
    shapes = []

    def f(x):
        shapes.append(x.shape)
        return jnp.sin(x)

    jb.batch_jacobian(f)(X)
    assert set(shapes) == {(B, 3)}


def test_the_plan_says_whose_word_independence_is() -> None:
    plan = jb.batch_jacobian(batch).plan(X)
    assert f"{B} independent examples along axis 0: J is block-diagonal" in plan.structure
    assert "independent=True" not in plan.structure
    assert "independent=True" in jb.batch_jacobian(batch, independent=True).plan(X).structure
    np.testing.assert_allclose(plan(2 * X), each(one)(2 * X), rtol=1e-5, atol=1e-6)


# Mistakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "axes", "message"),
    [
        (lambda x: jnp.sum(x), {}, r"f32\[\]"),
        (lambda x: jnp.sum(x, 0), {}, r"f32\[3\].*3 entries.*5 examples.*x\[None\]"),
        (lambda x: {"y": x.T}, {}, r"\['y'\].*f32\[3,5\].*3 entries.*5 examples"),
        (lambda x: x, {"out_axes": 1}, r"3 entries.*axis 1.*5 examples"),
        (lambda x: x, {"out_axes": 2}, r"axis 2.*f32\[5,3\]"),
        (lambda x: x, {"out_axes": None}, r"out_axes.*no batch axis"),
        (lambda x: x, {"out_axes": "x"}, r"out_axes.*'x'"),
        (lambda x: x, {"out_axes": (0, 0)}, r"out_axes"),
        (lambda x: x, {"in_axes": 2}, r"args\[0\].*axis 2.*f32\[5,3\]"),
        (lambda x: x, {"in_axes": -3}, r"args\[0\].*axis -3.*f32\[5,3\]"),
        (lambda x: x, {"in_axes": 1.5}, r"in_axes.*1\.5"),
        (lambda x: x, {"in_axes": (0, 0)}, r"in_axes.*2 entries for 1"),
        (lambda x: x, {"in_axes": ({"a": 0},)}, r"in_axes"),
    ],
)
def test_mistakes_about_axes(f: Callable[..., Any], axes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jb.batch_jacobian(f, **axes)(X)
    with pytest.raises(ValueError, match=message):
        jb.batch_jacobian(f, **axes).plan(jax.ShapeDtypeStruct(X.shape, X.dtype))


def test_batch_sizes_that_differ() -> None:
    with pytest.raises(ValueError, match=r"args\[0\]\['a'\] f32\[5,3\].*args\[0\]\['b'\] f32\[4,3\]"):
        jb.batch_jacobian(lambda p: p["a"])({"a": X, "b": X[:4]})


def test_a_scalar_argument_has_no_batch_axis() -> None:
    with pytest.raises(ValueError, match=r"args\[0\].*f32\[\]"):
        jb.batch_jacobian(lambda x: x)(2.0)


# Examples that mix ------------------------------------------------------------------------------------------

SQUARE = jnp.asarray(np.random.default_rng(3).standard_normal((6, 6)), jnp.float32)

MIXING: dict[str, tuple[Callable[..., Any], str]] = {
    "batch normalization": (lambda x: x - x.mean(0), "reduce_sum"),
    "reversed": (lambda x: jnp.sin(x[::-1]), "rev"),
    "cumulative": (lambda x: jnp.cumsum(jnp.sin(x), axis=0), "cumsum"),
    "attention over the batch": (lambda x: jax.nn.softmax(x @ x.T) @ x, "dot_general"),
    "shuffled": (lambda x: x[jnp.array([1, 0, 2, 3, 5, 4])], "gather"),
    "shifted": (lambda x: jnp.roll(x, 1, 0), "slice"),
    "late": (
        lambda x: {"a": x, "b": jnp.tanh(x) @ SQUARE + jnp.max(x)},
        "reduce_max|mul|div|gather|dot_general|reduce_sum",
    ),
}


@pytest.mark.parametrize("name", MIXING)
def test_examples_that_mix_are_refused_with_a_witness(name: str) -> None:
    f, primitive = MIXING[name]
    line = f.__code__.co_firstlineno
    J = jb.batch_jacobian(f)
    for call in (J, J.plan, J.with_value):
        with pytest.raises(
            jb.BatchCouplingError, match=rf"coupled by ({primitive}) at test_batch.py:{line}.*example \d"
        ):
            call(SQUARE)
    with pytest.raises(ValueError, match=rf"({primitive}) at test_batch.py:{line}.*independent=True"):
        jax.jit(J)(SQUARE)  # no values, no witness
    with pytest.raises(ValueError, match=r"could not be proved"):
        J.plan(jax.ShapeDtypeStruct((6, 6), jnp.float32))


@jax.custom_vjp
def only_in_reverse(x):
    return x[::-1]


only_in_reverse.defvjp(lambda x: (x[::-1], None), lambda _, g: (g[::-1],))


def test_a_witness_is_found_in_reverse_where_forward_is_impossible() -> None:
    with pytest.raises(jb.BatchCouplingError, match=r"coupled by"):
        jb.batch_jacobian(only_in_reverse)(SQUARE)


def test_the_output_that_mixes_is_named() -> None:
    with pytest.raises(jb.BatchCouplingError, match=r"the output \['b'\].*args\[1\]"):
        jb.batch_jacobian(lambda w, x: {"a": x, "b": x - x.mean(0)}, 1)(1.0, SQUARE)


PROVED: dict[str, Callable[..., Any]] = {
    "by its own position": lambda x: x[jnp.arange(6), jnp.array([0, 5, 2, 2, 1, 1])],
    "by labels that are arguments": lambda x, y: x[jnp.arange(6), y],
    "take_along_axis": lambda x, y: jnp.take_along_axis(x, y[:, None], 1),
    "reversed twice": lambda x: jnp.sin(x[::-1])[::-1],
    "cut and joined": lambda x: jnp.concatenate([jnp.sin(x[:2]), x[2:] ** 2]),
    "merged and split": lambda x: jnp.sin(x.reshape(36)).reshape(6, 6) @ SQUARE,
    "constant": lambda x: jnp.ones((6, 2)),
    "under vmap": lambda x: jax.vmap(lambda r: jnp.linalg.solve(SQUARE + 9 * jnp.eye(6) + jnp.outer(r, r), r))(x),
    "stacked": lambda x: jnp.stack([x, x**2], 1),
    "some at a time": lambda x: jax.lax.map(lambda r: jnp.tanh(SQUARE @ r), x, batch_size=2),
    "some at a time, the rest apart": lambda x: jax.lax.map(lambda r: jnp.tanh(SQUARE @ r), x, batch_size=4),
}


@pytest.mark.parametrize("name", PROVED)
def test_examples_that_do_not_mix_are_proved_not_to(name: str) -> None:
    f = PROVED[name]
    args = (SQUARE, jnp.array([0, 5, 2, 2, 1, 1]))[: f.__code__.co_argcount]
    whole = jax.jacrev(f)(*args)
    b = jnp.arange(6)
    expected = jnp.moveaxis(whole, -2, 1)[b, b]
    for transform in (lambda J: J, jax.jit):
        np.testing.assert_allclose(transform(jb.batch_jacobian(f))(*args), expected, rtol=1e-4, atol=1e-5)


def test_one_s_word_is_enough() -> None:
    order = jnp.argsort(jnp.arange(6.0))  # the identity, but who knows
    f = lambda x, order: jnp.sin(x)[order]
    with pytest.raises(jb.BatchCouplingError, match=r"could not be proved.*gather.*independent=True"):
        jax.jit(jb.batch_jacobian(f))(SQUARE, order)
    J = jax.jit(jb.batch_jacobian(f, independent=True))(SQUARE, order)
    np.testing.assert_allclose(J, jax.vmap(lambda r: jnp.diag(jnp.cos(r)))(SQUARE), rtol=1e-6)


def test_an_index_whose_values_are_known_is_looked_at() -> None:
    order = jnp.arange(6)
    f = lambda x: jnp.sin(x)[order]
    expected = jax.vmap(lambda r: jnp.diag(jnp.cos(r)))(SQUARE)
    np.testing.assert_allclose(jb.batch_jacobian(f)(SQUARE), expected, rtol=1e-6)
    order = order[::-1]
    with pytest.raises(jb.BatchCouplingError, match="gather"):
        jb.batch_jacobian(f)(SQUARE)


def test_a_batch_of_one_never_mixes() -> None:
    f = lambda x: x[::-1] - x.mean(0)
    np.testing.assert_allclose(jb.batch_jacobian(f)(SQUARE[:1]), np.zeros((1, 6, 6)), atol=1e-7)


def test_passes_within_an_example() -> None:
    # Elementwise in each example: one pass for all examples and all elements.
    plan = jb.batch_jacobian(lambda x: jnp.sin(x)).plan(jnp.ones((8, 3, 5)))
    assert plan.passes == 1
    J = jb.batch_jacobian(lambda x: jnp.sin(x), out_axes=1, in_axes=1)
    x = SQUARE.reshape(3, 2, 6)
    expected = jax.vmap(jax.jacrev(jnp.sin), 1)(x)
    np.testing.assert_allclose(J(x), expected, rtol=1e-6)
    B = jb.batch_jacobian(lambda x: jnp.sin(x), out_axes=1, in_axes=1, format="bcoo")(x)
    assert B.nse == x.size
    np.testing.assert_allclose(B.todense(), expected, rtol=1e-6)
