"""check_jacobian: what it passes, what it catches, and how it says so."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxobian as jb
from jaxobian._arrays import is_concrete
from jaxobian.testing import _check, check_jacobian, scenarios

NAMED = {s.name: s for s in scenarios()}


def of(name: str):
    scenario = NAMED[name]
    f, args = scenario.make()
    return check_jacobian(f, *args, argnums=scenario.argnums, holomorphic=scenario.holomorphic)


@pytest.mark.parametrize(
    "name",
    [
        "scalar",
        "vector_to_scalar",
        "pytrees",
        "unused_input",
        "constant_output",
        "empty_input",
        "empty_output",
        "negative_argnums",
        "integer_argument",
        "python_float",
        "gather_by_value",
        "cholesky",
        "dropout",
        "half_to_single",
        "while_dynamic",
        "custom_vjp_clipped",
        "real_to_complex",
        "complex_to_real",
        "holomorphic",
        "complex_inside",
        "real_to_both",
        "both_to_real",
        "conv1d",
    ],
)
def test_agrees_on_right_functions(name: str) -> None:
    report = of(name)
    if name == "custom_vjp_clipped":  # its rule is not the derivative
        assert not report.ok
    else:
        report.raise_if_failed()
        assert report.ok
        assert report.entries == sum(block.size for block in jax.tree.leaves(NAMED[name].expected()))


def test_names_impossible_modes_and_compares_the_rest() -> None:
    report = of("while_dynamic")
    assert report.compared[:2] == ("auto", "fwd")
    assert "while" in report.impossible["rev"]
    assert "impossible  rev:" in str(report)


def test_rule_that_is_not_the_derivative() -> None:
    report = of("custom_vjp")
    assert report.differing == 4  # the diagonal
    assert report.entries == 16
    for difference in report.differences:
        values = difference.values
        assert values["auto"] == pytest.approx(1.5 * values["differences"], rel=1e-5)
        assert difference.index[0] == difference.index[1]
    assert "custom rule" in str(report)
    with pytest.raises(AssertionError, match="4 differ"):
        report.raise_if_failed()


def test_nan_in_one_mode_only() -> None:
    # The cotangent 0 times the slope inf of sqrt at 0.
    report = check_jacobian(lambda x: {"y": jnp.where(x > 0, jnp.sqrt(x), 0.0)}, jnp.array([1.0, 0.0]))
    assert not report.ok
    assert any(np.isnan(v).any() != np.isnan(v).all() for v in (list(d.values.values()) for d in report.differences))
    assert any("out['y'][1] / d args[0][1]" in str(d) for d in report.differences)
    assert "nan" in str(report)


def test_kink() -> None:
    (difference,) = check_jacobian(jax.nn.relu, jnp.array([0.0, 1.0])).differences
    assert difference.index == (0, 0)
    assert difference.values["differences"] == pytest.approx(0.5)


def test_not_holomorphic() -> None:
    report = check_jacobian(jnp.conj, jnp.array([1 + 2j]), holomorphic=True)
    assert report.differences[0].values["differences along i"] == pytest.approx(-1)


def test_aux_kwargs_and_static_arguments() -> None:
    def f(x, how, *, power):
        return getattr(jnp, how)(x) ** power, {"anything": x}

    report = check_jacobian(f, jnp.arange(1.0, 4.0), "sin", has_aux=True, power=3)
    assert report.ok
    assert report.entries == 9
    assert report.function == "f"


def test_integer_leaves_are_skipped_and_named() -> None:
    def f(x, k):
        return x["w"] ** k.astype(float), k

    report = check_jacobian(f, {"w": jnp.ones(2), "n": 3}, jnp.int32(3), argnums=(0, 1))
    assert report.ok
    assert len(report.skipped) == 3
    assert "args[0]['n'] (int), args[1] (int32), out[1] (int32)" in str(report)


@pytest.mark.parametrize("wrong", [("rev",), ("auto", "fwd", "rev", "mixed", "colored")])
def test_a_miscompiling_xla_is_named(wrong: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled is wrong, where the same operations, each for itself, are right."""

    def miscompiled(f, argnums, *, mode, holomorphic):
        right = jb.jacobian(f, argnums, mode=mode, holomorphic=holomorphic)

        def run(*xs):
            compiled = all(map(is_concrete, xs)) and mode in wrong
            return jax.tree.map(lambda block: block + 1.0 * compiled, right(*xs))

        return run

    monkeypatch.setattr(_check, "jacobian", miscompiled)
    report = check_jacobian(jnp.sin, jnp.array([0.3, 1.1]))
    assert report.miscompiled == tuple(f'mode="{mode}"' for mode in report.compared if mode in wrong)
    assert report.differing == 4
    assert report.differences[0].values["rev op by op"] == pytest.approx(report.differences[0].values["differences"])
    assert "miscompiles mode=" in str(report)
    assert "no fault of jaxobian" in str(report)
    assert "custom rule" not in str(report)


def test_jax_s_own_miscompiled_jacobians_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_check, "theirs", lambda *_: [("jax.jit(jax.jacrev(f))", [[np.ones((2, 2))]], [[np.eye(2)]])])
    kink = check_jacobian(jax.nn.relu, jnp.zeros(2))
    assert kink.miscompiled == ("jax.jit(jax.jacrev(f))",)


def test_noise_in_f_raises_no_alarm() -> None:
    # A value good to 1e-9 moves central differences by 1e-4.
    rough = lambda x: jnp.sin(x) + jax.lax.stop_gradient(1e-9 * jnp.sin(1e9 * x))
    assert check_jacobian(rough, jnp.arange(1.0, 4.0), rtol=1e-9).differing <= 1
    assert check_jacobian(rough, jnp.arange(1.0, 4.0), eps=1e-3).ok


def test_precision_falls_back() -> None:
    report = of("conv1d")
    assert report.precision.startswith("the arguments' own; in float64 f raises TypeError")
    assert report.rtol > 1e-4


def test_tolerances_are_the_users() -> None:
    wrong = jax.custom_jvp(jnp.sin)
    wrong.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), 1.01 * jnp.cos(primals[0]) * tangents[0]))
    assert not check_jacobian(wrong, jnp.ones(2)).ok
    assert check_jacobian(wrong, jnp.ones(2), rtol=0.02).ok
    assert check_jacobian(wrong, jnp.ones(2), atol=0.02).ok


def test_only_the_worst_are_shown() -> None:
    report = check_jacobian(jax.nn.relu, jnp.zeros(30))
    assert report.differing == 30
    assert "... and 10 more" in str(report)
    assert repr(report) == str(report)


def test_nothing_to_check() -> None:
    with pytest.raises(ValueError, match=r"argnums=0 .* got args\[0\] \(int32\)"):
        check_jacobian(lambda n: n * 1.0, jnp.int32(3))
    with pytest.raises(ValueError, match=r"got out \(bool\)"):
        check_jacobian(lambda x: x > 0, 3.0)


def test_no_mode_at_all() -> None:
    square = jax.custom_vjp(lambda x: x**2)
    square.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))
    with pytest.raises(jb.ModeError):
        check_jacobian(lambda x: jax.lax.while_loop(lambda v: v < 9, square, x), jnp.float32(2))


def test_x64_is_left_as_it_was() -> None:
    before = jnp.ones(()).dtype
    check_jacobian(jnp.sin, 1.0)
    assert jnp.ones(()).dtype == before
