"""Contracts with JAX: layouts of equations and behaviors that the code relies on.

Where one of these fails on a new JAX, the code that its comment names has to change.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

pytestmark = pytest.mark.contracts

X = jnp.array([0.3, -1.2, 2.0])


def equations(f: Any, *args: Any) -> list[Any]:
    return list(jax.make_jaxpr(f)(*args).jaxpr.eqns)


def everything(f: Any, *args: Any) -> list[Any]:
    """The equations of f's trace, those inside other equations too."""

    def walk(jaxpr: Any) -> Any:
        for equation in jaxpr.eqns:
            yield equation
            for body in jex.jaxprs_in_params(equation.params):
                yield from walk(body)

    return list(walk(jax.make_jaxpr(f)(*args).jaxpr))


def only(f: Any, *args: Any, name: str) -> Any:
    (found,) = [e for e in equations(f, *args) if e.primitive.name == name]
    return found


def linear_equations(f: Any, *xs: Any) -> list[Any]:
    """The equations of f's linear program."""
    _, push = jax.linearize(f, *xs)
    return equations(push, *xs)


@jax.custom_vjp
def pulled(x):
    return jnp.sin(x)


def three_cosines(x, g):
    return (3 * jnp.cos(x) * g,)


pulled.defvjp(lambda x: (jnp.sin(x), x), three_cosines)


# Tracing and linearizing (_trace/_trace.py, _program.py) ---------------------------------------------------


def test_linearize_returns_a_pytree_whose_leaves_are_the_residuals() -> None:
    def f(x):
        y, push = jax.linearize(lambda x: jnp.sin(x) * 2, x)
        leaves, tree = jax.tree.flatten(push)
        assert leaves
        assert all(isinstance(leaf, jax.Array) for leaf in leaves)
        # Put together from other leaves, it is the linear function at another point.
        other = jax.tree.unflatten(tree, [jnp.zeros_like(leaf) for leaf in leaves])
        return y, push(x), other(x)

    y, t, nothing = jax.jit(f)(X)
    np.testing.assert_allclose(y, 2 * jnp.sin(X), rtol=1e-6)
    np.testing.assert_allclose(t, 2 * jnp.cos(X) * X, rtol=1e-6)
    np.testing.assert_array_equal(nothing, jnp.zeros(3))


def test_linearize_with_aux_returns_it_last() -> None:
    y, push, aux = jax.linearize(lambda x: (x * 2, {"aux": x}), X, has_aux=True)
    np.testing.assert_array_equal(y, 2 * X)
    np.testing.assert_array_equal(push(X), 2 * X)
    np.testing.assert_array_equal(aux["aux"], X)


def test_make_jaxpr_returns_constants_beside_the_jaxpr_and_the_shapes() -> None:
    big = jnp.arange(5.0)
    closed, shape = jax.make_jaxpr(lambda x: {"y": x[0] * big}, return_shape=True)(X)
    assert len(closed.jaxpr.constvars) == len(closed.consts) == 1
    assert closed.consts[0] is big
    assert shape["y"].shape == (5,)


def test_a_function_made_of_equations_runs_under_transformations() -> None:
    jaxpr = jax.make_jaxpr(lambda x: jnp.sin(x) * x)(X).jaxpr
    made = jex.Jaxpr((), list(jaxpr.invars), list(jaxpr.outvars), list(jaxpr.eqns), jaxpr.effects, jaxpr.debug_info)
    run = jex.jaxpr_as_fun(jex.ClosedJaxpr(made, ()))
    np.testing.assert_allclose(run(X)[0], jnp.sin(X) * X, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(run)(X[None])[0][0], jnp.sin(X) * X, rtol=1e-6)
    assert jax.jvp(run, (X,), (X,))[1][0].shape == (3,)
    # Some equations alone, in another order of inputs and outputs.
    (sine, product) = jaxpr.eqns
    part = jex.Jaxpr((), list(product.invars), list(product.outvars), [product], set(), jaxpr.debug_info)
    np.testing.assert_allclose(jex.jaxpr_as_fun(jex.ClosedJaxpr(part, ()))(X, X)[0], X * X, rtol=1e-6)
    assert sine.outvars[0] in product.invars


def test_equations_can_be_made_anew() -> None:
    jaxpr = jax.make_jaxpr(jnp.sin)(X).jaxpr
    (old,) = jaxpr.eqns
    inp, out = jex.Var(old.invars[0].aval), jex.Var(old.outvars[0].aval)
    new = jex.new_jaxpr_eqn([inp], [out], old.primitive, old.params, old.effects, old.source_info, old.ctx)
    made = jex.Jaxpr((), [inp], [out], [new], set(), jaxpr.debug_info)
    np.testing.assert_allclose(jex.jaxpr_as_fun(jex.ClosedJaxpr(made, ()))(X)[0], jnp.sin(X), rtol=1e-6)


def test_literals_have_values_and_variables_do_not() -> None:
    (product,) = equations(lambda x: x * 2.0, X)
    variable, literal = product.invars
    assert isinstance(literal, jex.Literal)
    assert float(literal.val) == 2.0
    assert not isinstance(variable, jex.Literal)


@pytest.mark.parametrize(
    ("f", "count"),
    [
        (jax.jit(jnp.sin), 1),
        (lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, None, 2)[0], 1),
        (lambda x: jax.lax.while_loop(lambda c: c[0] < 3, lambda c: c * 2, x), 2),
        (lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), 2),
        (jax.checkpoint(jnp.sin), 1),
        (pulled, 1),
        (jax.nn.relu, 1),
    ],
    ids=["jit", "scan", "while", "cond", "checkpoint", "custom_vjp", "custom_jvp"],
)
def test_bodies_are_found_in_parameters(f: Any, count: int) -> None:
    equation = equations(f, X)[-1]
    assert len(list(jex.jaxprs_in_params(equation.params))) == count


def test_nested_jit_s_name_and_placements() -> None:
    equation = only(lambda x: jax.jit(jnp.sin)(x), X, name="jit")
    for side in ("in_shardings", "out_shardings"):
        assert all(type(s).__name__ == "UnspecifiedValue" for s in equation.params[side])
    inner = equation.params["jaxpr"]
    assert len(inner.jaxpr.invars) == len(equation.invars)
    assert inner.consts == () or list(inner.consts) == []


def test_placed_jit_says_so() -> None:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    equation = only(lambda x: jax.jit(lambda x: x * 2, out_shardings=place)(x), X, name="jit")
    assert any(type(s).__name__ != "UnspecifiedValue" for s in equation.params["out_shardings"])


def test_the_name_of_a_checkpoint() -> None:
    assert equations(jax.checkpoint(jnp.sin), X)[0].primitive.name in ("checkpoint", "remat2")
    linear = {e.primitive.name for e in linear_equations(jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))), X)}
    assert "remat2" in linear or "checkpoint" in linear


def test_equations_carry_frames_with_the_user_s_file_and_line() -> None:
    (sine,) = equations(lambda x: jnp.sin(x), X)
    frames = [(f.file_name, f.line_num) for f in sine.source_info.traceback.frames]
    assert any(name == __file__ and line > 0 for name, line in frames)


def test_tracers_refuse_to_say_whether_they_are_deleted() -> None:
    seen = []

    def note(x):
        with pytest.raises(jax.errors.ConcretizationTypeError):
            x.is_deleted()
        seen.append(isinstance(x, jax.Array))
        return x * 1.0

    for transform in (jax.jit, jax.vmap, jax.make_jaxpr):
        transform(note)(X)
    jax.jvp(note, (X,), (X,))
    assert seen
    assert all(seen)
    assert X.is_deleted() is False


def test_tangent_types() -> None:
    assert jax.typeof(X).to_tangent_aval().dtype == jnp.float32
    assert jax.typeof(jnp.arange(2)).to_tangent_aval().dtype == jax.dtypes.float0


def test_typeof_knows_weak_types() -> None:
    assert jax.typeof(jnp.asarray(2.0)).weak_type
    assert not jax.typeof(X).weak_type


# Custom rules (_trace/_modes.py, _identity.py) -------------------------------------------------------------


def test_a_custom_vjp_stands_as_custom_lin_residuals_first() -> None:
    (equation,) = [e for e in linear_equations(pulled, X) if e.primitive.name == "custom_lin"]
    count = equation.params["num_res"]
    assert 0 <= count < len(equation.invars)
    residuals, tangents = equation.invars[:count], equation.invars[count:]
    assert len(residuals) >= 1
    assert [v.aval.shape for v in tangents] == [(3,)]
    assert equation.params["bwd"].__name__ == "three_cosines"


def test_custom_lin_can_be_transposed_and_nothing_else() -> None:
    _, push = jax.linearize(pulled, X)
    (pulled_back,) = jax.linear_transpose(push, X)(jnp.ones(3))
    np.testing.assert_allclose(pulled_back, 3 * jnp.cos(X), rtol=1e-6)
    traced = jax.make_jaxpr(push)(X)  # tracing it is no proof that it can be pushed:
    with pytest.raises((TypeError, NotImplementedError, ValueError)):
        jax.jit(jex.jaxpr_as_fun(traced)).lower(X).compile()


def test_custom_rules_hold_the_function_as_call_jaxpr() -> None:
    for f, name in ((pulled, "custom_vjp_call"), (jax.nn.relu, "custom_jvp_call")):
        found = equations(lambda x, f=f: f(x), X)
        while found[-1].primitive.name == "jit":
            found = list(found[-1].params["jaxpr"].jaxpr.eqns)
        assert found[-1].primitive.name == name
        assert len(found[-1].params["call_jaxpr"].jaxpr.outvars) == 1


def test_a_dynamic_loop_cannot_be_reversed() -> None:
    _, push = jax.linearize(lambda x: jax.lax.while_loop(lambda c: c[0] < 3, lambda c: c * 2, x), X)
    with pytest.raises((ValueError, NotImplementedError, TypeError)):
        jax.linear_transpose(push, X)(X)


def test_linear_transpose_takes_equations_that_are_not_linear_in_residuals() -> None:
    # A linear program may compute something of its residuals on the way.
    residual = X

    def push(t):
        return jnp.exp(jnp.sin(residual)) * t

    jaxpr = jax.make_jaxpr(lambda r, t: jnp.exp(jnp.sin(r)) * t)(X, X)
    (g,) = jax.linear_transpose(lambda t: jex.jaxpr_as_fun(jaxpr)(X, t)[0], X)(jnp.ones(3))
    np.testing.assert_allclose(g, jnp.exp(jnp.sin(X)), rtol=1e-6)
    (g,) = jax.linear_transpose(push, X)(jnp.ones(3))
    np.testing.assert_allclose(g, jnp.exp(jnp.sin(X)), rtol=1e-6)


def test_linear_transpose_takes_shapes_and_returns_a_tuple() -> None:
    result = jax.linear_transpose(lambda a, b: (a + 2 * b,), X, jax.typeof(X))((X,))
    assert isinstance(result, tuple)
    np.testing.assert_array_equal(result[1], 2 * X)


# Costs (_cost/) ---------------------------------------------------------------------------------------------


def test_the_layout_of_a_product() -> None:
    f = lambda a, b: jax.lax.dot_general(a, b, (((2,), (1,)), ((0,), (0,))))
    equation = only(f, jnp.ones((5, 2, 3)), jnp.ones((5, 3, 4)), name="dot_general")
    (left, right), (left_batch, right_batch) = equation.params["dimension_numbers"]
    shapes = [v.aval.shape for v in equation.invars]
    depth = [shapes[0][d] for d in left]
    assert depth == [shapes[1][d] for d in right] == [3]
    assert [shapes[0][d] for d in left_batch] == [shapes[1][d] for d in right_batch] == [5]


def test_the_layout_of_a_convolution() -> None:
    x, k, layout = jnp.ones((2, 9, 9, 4)), jnp.ones((3, 3, 2, 6)), ("NHWC", "HWIO", "NHWC")
    f = lambda x, k: jax.lax.conv_general_dilated(
        x, k, (2, 2), "SAME", lhs_dilation=(1, 1), dimension_numbers=layout, feature_group_count=2
    )
    equation = only(f, x, k, name="conv_general_dilated")
    out, inp, *space = equation.params["dimension_numbers"].rhs_spec
    kernel = equation.invars[1].aval.shape
    assert [kernel[d] for d in (out, inp, *space)] == [6, 2, 3, 3]
    assert tuple(equation.params["lhs_dilation"]) == (1, 1)


def test_the_layout_of_a_scan() -> None:
    equation = only(lambda x: jax.lax.scan(lambda c, a: (c * a, c), x[0], x), X, name="scan")
    assert equation.params["length"] == 3
    (body,) = jex.jaxprs_in_params(equation.params)
    assert len(body.outvars) == len(equation.outvars)


@pytest.mark.parametrize(
    ("f", "name", "operand"),
    [
        (lambda x: x[jnp.array([0, 2])], "gather", 0),
        (lambda x: x.at[jnp.array([0, 2])].add(1.0), "scatter-add", 2),  # operand 2: the updates
        (lambda x: jnp.sum(x), "reduce_sum", 0),
        (lambda x: jnp.cumsum(x), "cumsum", 0),
        (lambda x: jax.lax.dynamic_update_slice(x, x[:2], (0,)), "dynamic_update_slice", 1),
        (lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (2,), (1,), "VALID"), "reduce_window_sum", 0),
        (lambda x: jnp.sort(x), "sort", 0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names_of_primitives_that_are_counted(f: Any, name: str, operand: int) -> None:
    found = [e for e in everything(f, X) if e.primitive.name in (name, name.replace("-", "_"))]
    assert found
    assert found[0].invars[operand].aval.shape[:1] in [(3,), (2,)]


def test_the_layout_of_an_fft() -> None:
    (equation,) = [e for e in everything(jnp.fft.fft, X) if e.primitive.name == "fft"]
    assert tuple(equation.params["fft_lengths"]) == (3,)


def test_pooling_windows() -> None:
    f = lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = jnp.ones((1, 4, 4, 1))
    equation = only(f, x, name="reduce_window_max")
    assert tuple(equation.params["window_dimensions"]) == (1, 2, 2, 1)
    _, pull = jax.vjp(f, x)
    names = {e.primitive.name for e in equations(pull, jnp.ones((1, 2, 2, 1)))}
    assert names & {"select_and_scatter_add", "jit"}


# Sharding (_arrays.py, _trace.py) ---------------------------------------------------------------------------


def test_varying_axes_inside_shard_map() -> None:
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
    seen = {}

    def local(x, w):
        for name, value in (("x", x), ("w", w), ("cast", jax.lax.pcast(w, ("d",), to="varying"))):
            seen[name] = getattr(getattr(jax.typeof(value), "manual_axis_type", None), "varying", None)
        return x * w

    P = jax.sharding.PartitionSpec
    jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d")))(X, X)
    assert seen == {"x": {"d"}, "w": frozenset(), "cast": {"d"}}
    assert not getattr(getattr(jax.typeof(X), "manual_axis_type", None), "varying", None)  # outside: none


def explicit(x: Any) -> Any:
    """An array on a mesh of one device with an Explicit axis."""
    mesh = jax.make_mesh((1,), ("d",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:1])
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec("d")))


def test_an_explicit_mesh_is_in_the_types_of_arrays() -> None:
    x = explicit(X)
    mesh = jax.typeof(x).sharding.mesh
    assert isinstance(mesh, AbstractMesh)
    assert mesh.axis_types == (AxisType.Explicit,)
    assert mesh.update_axis_types({"d": AxisType.Auto}).axis_types == (AxisType.Auto,)
    assert jax.typeof(X).sharding.mesh == AbstractMesh((), ())
    assert AbstractMesh((), ()).empty


def test_reshard_is_an_equation_that_changes_types_alone() -> None:
    x = explicit(X)
    mesh = jax.typeof(x).sharding.mesh
    auto = NamedSharding(mesh.update_axis_types({"d": AxisType.Auto}), PartitionSpec(*[None] * X.ndim))
    equation = only(lambda x: jax.sharding.reshard(x, auto), x, name="reshard")
    assert equation.outvars[0].aval.sharding.mesh == auto.mesh
    assert len(equation.invars) == len(equation.outvars) == 1


def test_an_equation_takes_a_context_and_knows_its_own() -> None:
    x = explicit(X)
    with jax.sharding.use_abstract_mesh(jax.typeof(x).sharding.mesh):
        equation = only(jnp.sin, x, name="sin")
    with equation.ctx.manager:
        assert jax.sharding.get_abstract_mesh() == jax.typeof(x).sharding.mesh
    other = only(jnp.sin, X, name="sin")
    assert equation.replace(ctx=other.ctx).ctx == other.ctx != equation.ctx


def test_a_mesh_with_devices_can_be_put_aside_outside_of_traces() -> None:
    x = explicit(X)
    with jax.set_mesh(x.sharding.mesh):
        assert jax.sharding.get_mesh() == x.sharding.mesh
        with jax.set_mesh(None):
            assert jax.sharding.get_mesh().empty
            assert jax.sharding.get_abstract_mesh().empty
        with pytest.raises(ValueError, match="outside of"):
            jax.jit(lambda x: (jax.sharding.get_mesh(), x)[1])(x)


def test_changing_axis_types_copies_nothing() -> None:
    x = explicit(X)
    mesh = Mesh(x.sharding.mesh.devices, ("d",), axis_types=(AxisType.Auto,))
    there = jax.device_put(x, NamedSharding(mesh, x.sharding.spec))
    assert there.unsafe_buffer_pointer() == x.unsafe_buffer_pointer()


def test_an_optimization_barrier_keeps_the_argument_of_a_jit() -> None:
    kept = jax.jit(lambda x: jax.lax.optimization_barrier((jnp.ones(3), x))[0]).lower(X).as_text()
    dropped = jax.jit(lambda x: jnp.ones(3)).lower(X).as_text()
    assert "%arg0" in kept
    assert "%arg0" not in dropped


# Loops and donation (_execute/_schedules.py) --------------------------------------------------------------------


def test_a_donated_buffer_is_gone_and_its_place_reused() -> None:
    step = jax.jit(lambda b, k: jax.lax.dynamic_update_slice_in_dim(b, jnp.ones(2), k, 0), donate_argnums=0)
    buffer = jnp.zeros(6)
    made = step(buffer, 2)
    assert buffer.is_deleted()
    np.testing.assert_array_equal(made, [0, 0, 1, 1, 0, 0])


def test_a_loop_of_known_length_is_a_scan_that_can_be_reversed() -> None:
    f = lambda x: jax.lax.fori_loop(0, 20, lambda k, b: b.at[k % 3].mul(2.0), x)
    assert jax.grad(lambda x: jnp.sum(f(x)))(X).shape == (3,)


def test_map_runs_what_cannot_be_vmapped() -> None:
    call = lambda t: jax.pure_callback(lambda a: a, jax.ShapeDtypeStruct((3,), jnp.float32), t)
    with pytest.raises(NotImplementedError):
        jax.vmap(call)(X[None])
    np.testing.assert_array_equal(jax.lax.map(call, jnp.stack([X, 2 * X])), jnp.stack([X, 2 * X]))


def test_jacrev_s_integer_blocks() -> None:
    # The oracle of allow_int: zeros of the integer's dtype.
    J = jax.jacrev(lambda p: p["w"] * p["i"], allow_int=True)({"w": X, "i": jnp.arange(3)})
    assert J["i"].dtype == jnp.int32
    assert J["i"].shape == (3, 3)
    assert not J["i"].any()
