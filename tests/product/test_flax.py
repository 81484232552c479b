"""`jaxobian.flax.functional`: values beside `jax.jacrev` by hand, purity, and what it says of mistakes."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze
from oracles import assert_same

import jaxobian as jb
from jaxobian.flax import functional

KEY = jax.random.key(7)
SWITCHES = ["train", "training", "deterministic", "use_running_average"]


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


# ---------------------------------------------------------------------------------------- layers, by hand


class Layer(NamedTuple):
    """One layer in both families; `mode` is what a caller of the Linen layer passes by hand."""

    linen: nn.Module
    nnx: Callable[[nnx.Rngs], nnx.Module]
    x: jax.Array
    mode: dict[str, Any]
    train: bool = False


LAYERS = {
    "dense": Layer(nn.Dense(3), lambda r: nnx.Linear(4, 3, rngs=r), normal(0, 2, 4), {}),
    "conv": Layer(nn.Conv(2, (3, 3)), lambda r: nnx.Conv(1, 2, (3, 3), rngs=r), normal(1, 1, 4, 4, 1), {}),
    "batch norm": Layer(
        nn.BatchNorm(), lambda r: nnx.BatchNorm(4, rngs=r), normal(2, 3, 4), {"use_running_average": True}
    ),
    "batch norm in training": Layer(
        nn.BatchNorm(),
        lambda r: nnx.BatchNorm(4, rngs=r),
        normal(2, 3, 4),
        {"use_running_average": False},
        train=True,
    ),
    "layer norm": Layer(nn.LayerNorm(), lambda r: nnx.LayerNorm(4, rngs=r), normal(3, 2, 4), {}),
    "attention": Layer(
        nn.MultiHeadDotProductAttention(2, dropout_rate=0.5),
        lambda r: nnx.MultiHeadAttention(2, 4, dropout_rate=0.5, decode=False, rngs=r),
        normal(4, 3, 4),
        {"deterministic": True},
    ),
    "embed": Layer(nn.Embed(5, 3), lambda r: nnx.Embed(5, 3, rngs=r), jnp.array([4, 0, 4]), {}),
    "dropout off": Layer(nn.Dropout(0.5), lambda r: nnx.Dropout(0.5, rngs=r), normal(5, 2, 4), {"deterministic": True}),
    "dropout on": Layer(
        nn.Dropout(0.5),
        lambda r: nnx.Dropout(0.5, rngs=r),
        normal(5, 2, 4),
        {"deterministic": False},
        train=True,
    ),
}


def linen_pair(layer: Layer) -> tuple[Any, Any, Any]:
    """`apply`, `params`, and the same function written out with `Module.apply`."""
    variables = jax.jit(lambda: layer.linen.init({"params": KEY, "dropout": KEY}, layer.x, **layer.mode))()
    variables = {"params": {}, **jax.tree.map(lambda v: v + 0.1, variables)}  # statistics other than 0 and 1

    def by_hand(params: Any, x: Any) -> Any:
        everything = {**variables, "params": params}
        rngs = {"dropout": KEY}
        return layer.linen.apply(everything, x, rngs=rngs, mutable=["batch_stats"], **layer.mode)[0]

    return *functional(layer.linen, variables, train=layer.train, rngs={"dropout": KEY}), by_hand


def nnx_pair(layer: Layer) -> tuple[Any, Any, Any]:
    """`apply`, `params`, and the same function written out with `nnx.split` and `nnx.merge`."""
    model = layer.nnx(nnx.Rngs(0))
    if isinstance(model, nnx.BatchNorm):
        model(2 * layer.x + 1)  # statistics other than 0 and 1
    apply, params = functional(model, train=layer.train, rngs={"dropout": KEY})

    (model.train if layer.train else model.eval)()
    graphdef, state = nnx.split(model)

    def by_hand(params: Any, x: Any) -> Any:
        merged = nnx.merge(graphdef, state, copy=True)
        nnx.update(merged, params)
        return merged(x, rngs=nnx.Rngs(dropout=KEY)) if isinstance(merged, nnx.Dropout) else merged(x)

    return apply, params, by_hand


PAIRS = {"linen": linen_pair, "nnx": nnx_pair}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize("family", PAIRS)
def test_jacobians_equal_those_written_by_hand(family: str, layer: Layer) -> None:
    apply, params, by_hand = PAIRS[family](layer)
    assert_same(jax.jit(apply)(params, layer.x), jax.jit(by_hand)(params, layer.x))
    for argnum, argument in enumerate((params, layer.x)):
        leaves = jax.tree.leaves(argument)
        if not leaves or leaves[0].dtype == jnp.int32:
            continue  # Dropout has no parameters, Embed looks up integers
        expected = jax.jit(jax.jacrev(by_hand, argnum))(params, layer.x)
        assert_same(jax.jit(jax.jacrev(apply, argnum))(params, layer.x), expected)
        assert_same(jb.jacobian(apply, argnum)(params, layer.x), expected)


# ------------------------------------------------------------------------------------------------- models


class LinenNet(nn.Module):
    """Convolution, normalization, dropout, a head; told the mode as most Linen code is."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.encode(x, train)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(3, name="head")(x)

    @nn.compact
    def encode(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(2, (3, 3), name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return jnp.tanh(x).reshape(len(x), -1)


class NNXNet(nnx.Module):
    """The same in NNX, with parts that have no derivative: an integer, a key, nothing at all."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(1, 2, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(32, 3, rngs=rngs)
        self.steps = nnx.Param(jnp.arange(3))
        self.key = nnx.Param(jax.random.key(0))
        self.absent = nnx.Param(None)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.dropout(self.encode(x)))

    def encode(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(self.norm(self.conv(x))).reshape(len(x), -1)


IMAGES = normal(6, 5, 4, 4, 1)
FAMILIES = ["linen", "nnx"]


@functools.cache
def net(family: str) -> tuple[Any, ...]:
    """A model, and its variables if it is Linen's: the first arguments of `functional`."""
    if family == "nnx":
        return (NNXNet(nnx.Rngs(0)),)
    return LinenNet(), jax.jit(functools.partial(LinenNet().init, train=False))(KEY, IMAGES)


@pytest.mark.parametrize("family", FAMILIES)
def test_params_are_a_plain_dict_of_floats(family: str) -> None:
    _, params = functional(*net(family))
    assert type(params) is dict
    assert {name: set(layer) for name, layer in params.items()} == {
        "conv": {"kernel", "bias"},
        "norm": {"scale", "bias"},
        "head": {"kernel", "bias"},
    }
    assert all(type(layer) is dict for layer in params.values())
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_apply_is_pure(family: str, train: bool) -> None:
    apply, params = functional(*net(family), train=train, rngs={"dropout": KEY})
    first = apply(params, IMAGES)
    np.testing.assert_array_equal(apply(params, IMAGES), first)
    np.testing.assert_allclose(jax.jit(apply)(params, IMAGES), first, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(apply(params, IMAGES), first)
    other, _ = functional(*net(family), train=not train, rngs={"dropout": KEY})
    assert np.any(first != other(params, IMAGES))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_layer(family: str, train: bool) -> None:
    apply, params = functional(*net(family), train=train, rngs={"dropout": KEY})

    def by_head(head: Any, x: Any) -> Any:
        return apply({**params, "head": head}, x)

    expected = jax.jit(jax.jacrev(apply))(params, IMAGES)["head"]
    assert_same(jb.jacobian(by_head)(params["head"], IMAGES), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_jacobian(family: str) -> None:
    apply, params = functional(*net(family))
    expected = jax.jit(jax.vmap(jax.jacrev(lambda x: apply(params, x[None])[0])))(IMAGES)
    assert_same(jb.batch_jacobian(apply, 1)(params, IMAGES), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_transformations(family: str) -> None:
    apply, params = functional(*net(family), train=True, rngs=KEY)
    stacked = jnp.stack([IMAGES, 2 * IMAGES])
    each = jnp.stack([jax.jit(apply)(params, x) for x in stacked])
    np.testing.assert_allclose(jax.vmap(apply, (None, 0))(params, stacked), each, rtol=1e-4, atol=1e-5)
    scanned = jax.lax.map(functools.partial(apply, params), stacked)
    np.testing.assert_allclose(scanned, each, rtol=1e-4, atol=1e-5)
    rematerialized = jax.jit(jax.jacrev(jax.checkpoint(apply), 1))(params, IMAGES)
    assert_same(rematerialized, jax.jit(jax.jacfwd(apply, 1))(params, IMAGES))


@pytest.mark.parametrize("family", FAMILIES)
def test_functional_inside_a_trace(family: str) -> None:
    model = net(family)

    @jax.jit
    def run(x: jax.Array) -> jax.Array:
        apply, params = functional(*model)
        return jax.jacrev(apply, 1)(params, x)

    apply, params = functional(*model)
    assert_same(run(IMAGES[:1]), jax.jit(jax.jacrev(apply, 1))(params, IMAGES[:1]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["name", "unbound", "bound", "function"])
def test_method(family: str, kind: str) -> None:
    model, *variables = net(family)
    apply, params = functional(
        model,
        *variables,
        method={
            "name": "encode",
            "unbound": type(model).encode,
            "bound": model.encode,
            "function": lambda module, *args, **kwargs: module.encode(*args, **kwargs),
        }[kind],
        train=True,
    )
    # The signature of this function does not tell what the method takes.
    switches = {"train": True} if family == "linen" and kind == "function" else {}
    expected = functional(model, *variables, method="encode", train=True)[0](params, IMAGES)
    assert expected.shape == (5, 32)
    np.testing.assert_array_equal(apply(params, IMAGES, **switches), expected)


def test_method_of_a_submodule() -> None:
    class Outer(nn.Module):
        def setup(self) -> None:
            self.inner = nn.Dense(2)

        def __call__(self, x: jax.Array) -> jax.Array:
            return 3 * self.inner(x)

    x = normal(0, 4)
    variables = Outer().init(KEY, x)
    whole, params = functional(Outer(), variables)
    inner, _ = functional(Outer(), variables, method="inner")
    np.testing.assert_allclose(whole(params, x), 3 * inner(params, x), rtol=1e-6)


# --------------------------------------------------------------------------------------------------- mode


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("base", [nn.Module, nnx.Module])
def test_mode_is_passed_where_the_method_has_it(base: type, switch: str, train: bool) -> None:
    source = f"def __call__(self, x, {switch}): return x * {switch}"
    model: Any = type("Model", (base,), _defined(source))()
    apply, params = functional(model, *([{"params": {}}] if base is nn.Module else []), train=train)
    expected = float(train if switch in ("train", "training") else not train)
    assert apply(params, jnp.ones(())) == expected
    assert apply(params, jnp.ones(()), **{switch: 5.0}) == 5.0
    assert apply(params, jnp.ones(()), 5.0) == 5.0


def _defined(source: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__module__": __name__}
    exec(source, namespace)
    return {name: namespace[name] for name in ("__module__", "__call__")}


@pytest.mark.parametrize("fixed", [False, True])
def test_what_a_linen_module_fixes_stands(fixed: bool) -> None:
    apply, params = functional(nn.Dropout(0.5, deterministic=fixed), {"params": {}}, rngs={"dropout": KEY})
    assert bool(jnp.all(apply(params, jnp.ones(64)) == 1)) == fixed


def test_missing_statistics_are_not_made_up() -> None:
    model, variables = net("linen")
    apply, params = functional(model, {"params": variables["params"]})
    with pytest.raises(Exception, match="batch_stats"):
        apply(params, IMAGES)


# ------------------------------------------------------------------------------------------- random state


class Noisy(nnx.Module):
    """Two dropouts of the same shape, another stream, and a stream that the caller brings."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Dropout(0.5, rngs=rngs)
        self.third = nnx.Dropout(0.5, rng_collection="other", rngs=rngs)
        self.fourth = nnx.Dropout(0.5)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs) -> tuple[jax.Array, ...]:
        return self.first(x), self.second(x), self.third(x), self.fourth(x, rngs=rngs)


@pytest.mark.parametrize("rngs", [KEY, {"default": KEY}, nnx.Rngs(3), nnx.Rngs(dropout=3, other=4)])
def test_every_layer_has_its_own_mask(rngs: Any) -> None:
    apply, params = functional(Noisy(nnx.Rngs(0, other=1)), train=True, rngs=rngs)
    masks = apply(params, jnp.ones(64))
    for i, mask in enumerate(masks):
        assert 0 < jnp.sum(mask == 0) < 64
        assert all(jnp.any(mask != other) for other in masks[:i])
    for mask, again in zip(masks, apply(params, jnp.ones(64)), strict=True):
        np.testing.assert_array_equal(mask, again)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rngs", [KEY, jax.random.PRNGKey(3), {"dropout": KEY}, nnx.Rngs(3)])
def test_rngs(family: str, rngs: Any) -> None:
    apply, params = functional(*net(family), train=True, rngs=rngs)
    np.testing.assert_array_equal(apply(params, IMAGES), apply(params, IMAGES))
    again, _ = functional(*net(family), train=True, rngs=rngs)
    np.testing.assert_array_equal(apply(params, IMAGES), again(params, IMAGES))
    other, _ = functional(*net(family), train=True, rngs=jax.random.key(99))
    assert jnp.any(apply(params, IMAGES) != other(params, IMAGES))
    if isinstance(rngs, nnx.Rngs):
        assert rngs.default.count[...] == 0


def test_nnx_streams_start_from_the_keys_as_if_reseeded() -> None:
    model = NNXNet(nnx.Rngs(0))
    apply, params = functional(model, train=True, rngs={"dropout": KEY})
    nnx.reseed(model, dropout=KEY)
    model.train()
    np.testing.assert_allclose(apply(params, IMAGES), model(IMAGES), rtol=1e-5, atol=1e-6)


def test_nnx_starts_from_its_own_random_state() -> None:
    model = NNXNet(nnx.Rngs(0))
    apply, params = functional(model, train=True)
    model.train()
    np.testing.assert_allclose(apply(params, IMAGES), model(IMAGES), rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------------------- the user's object


@pytest.mark.parametrize("train", [False, True])
def test_nnx_model_is_left_as_it_was(train: bool) -> None:
    model = NNXNet(nnx.Rngs(0))
    model.dropout.deterministic = not train  # the opposite of what functional sets on its copy
    kernel, (graphdef, before) = model.head.kernel, nnx.split(model)
    before = jax.tree.map(jnp.copy, nnx.to_pure_dict(before))

    apply, params = functional(model, train=train, rngs={"dropout": KEY})
    jb.jacobian(apply, 1)(params, IMAGES[:1])
    jax.jit(apply)(params, IMAGES)

    assert nnx.graphdef(model) == graphdef
    assert model.head.kernel is kernel
    assert model.dropout.deterministic is not train
    after = nnx.to_pure_dict(nnx.state(model))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), before, after))
    model.train()
    model(IMAGES)  # still the user's: no variable belongs to a trace that has ended


def test_training_the_model_does_not_change_apply() -> None:
    model = NNXNet(nnx.Rngs(0))
    apply, params = functional(model)
    before = apply(params, IMAGES)
    model(3 * IMAGES + 1)
    model.head.kernel[...] = 0 * model.head.kernel[...]
    np.testing.assert_array_equal(apply(params, IMAGES), before)


def test_linen_variables_are_left_as_they_were() -> None:
    model, variables = net("linen")
    frozen = freeze(variables)
    apply, params = functional(model, frozen, train=True, rngs=KEY)
    assert type(params["head"]) is dict
    apply(params, IMAGES)
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, frozen, freeze(variables)))


# -------------------------------------------------------------------------------------- kinds of parameters


class Tied(nnx.Module):
    """A kernel used twice, layers in a list."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(3, 3, rngs=rngs) for _ in range(11)])
        self.last = nnx.Linear(3, 3, rngs=rngs)
        self.last.kernel = self.layers[0].kernel

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return self.last(x)


def test_shared_parameters_and_lists() -> None:
    apply, params = functional(Tied(nnx.Rngs(0)))
    kernel = "kernel" in params["last"]
    assert kernel != ("kernel" in params["layers"][0])  # there once

    def by_hand(params: Any, x: jax.Array) -> jax.Array:
        shared = params["last" if kernel else "layers"]
        shared = shared["kernel"] if kernel else shared[0]["kernel"]
        for i in range(11):
            layer = {"kernel": shared, **params["layers"][i]}
            x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
        return x @ shared + params["last"]["bias"]

    x = normal(0, 3)
    for argnum in (0, 1):
        expected = jax.jit(jax.jacrev(by_hand, argnum))(params, x)
        assert_same(jb.jacobian(apply, argnum)(params, x), expected)


class Boxed(nn.Module):
    """A partitioned float parameter and an integer one."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel: Any = self.param("kernel", nn.with_partitioning(nn.initializers.ones, (None, "data")), (3, 2))
        index = self.param("index", lambda key: jnp.array([1, 0]))
        return (x @ kernel)[index]


def test_linen_integers_and_metadata_stay_out() -> None:
    x = normal(0, 3)
    apply, params = functional(Boxed(), Boxed().init(KEY, x))
    assert set(params) == {"kernel"}
    assert isinstance(params["kernel"], jax.Array)
    assert_same(jb.jacobian(apply, 1)(params, x), jnp.ones((2, 3)))


def test_complex_parameters() -> None:
    model = nn.Dense(2, param_dtype=jnp.complex64)
    x = normal(0, 3) + 1j * normal(1, 3)
    apply, params = functional(model, model.init(KEY, x))
    expected = jax.jacrev(apply, holomorphic=True)(params, x)
    assert_same(jb.jacobian(apply, holomorphic=True)(params, x), expected)


# ------------------------------------------------------------------------------------------------- errors

DENSE, OTHER = nn.Dense(2), nn.Dense(3)
DENSE_VARIABLES = DENSE.init(KEY, jnp.ones(3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: functional(DENSE), TypeError, "`variables` are missing: Dense is a Linen module"),
        (lambda: functional(DENSE, DENSE_VARIABLES["params"]), ValueError, r'"params".*\["bias", "kernel"\]'),
        (lambda: functional(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), {"params": {}}), TypeError, "holds its own"),
        (lambda: functional(cast(Any, nn.Dense), DENSE_VARIABLES), TypeError, "`model` is the class Dense"),
        (lambda: functional(cast(Any, jnp.sin)), TypeError, "expected an instance of flax.linen.Module or flax.nnx"),
        (
            lambda: functional(DENSE, DENSE_VARIABLES, method=OTHER.__call__),
            ValueError,
            "bound to a Dense other",
        ),
    ],
)
def test_wrong_models(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message.replace('"', "['\"]")):
        call()


@pytest.mark.parametrize("family", FAMILIES)
def test_wrong_params(family: str) -> None:
    apply, params = functional(*net(family))
    head = params["head"]
    lacking = {**params, "head": {"bias": head["bias"]}}
    with pytest.raises(ValueError, match=r"params\['head'\]\['kernel'\] is missing"):
        apply(lacking, IMAGES)
    with pytest.raises(ValueError, match=r"params\['tail'\]\['kernel'\] is not a parameter"):
        apply({**params, "tail": head}, IMAGES)
    with pytest.raises(ValueError, match=r"params\['head'\]\['bias'\] has shape \(4,\) instead of \(3,\)"):
        jb.jacobian(apply)({**params, "head": {**head, "bias": jnp.ones(4)}}, IMAGES)
    everything = {"params": params, "batch_stats": {}}
    with pytest.raises(ValueError, match=r"all of the model's variables.*variables\[\"params\"\]"):
        apply(everything, IMAGES)
    with pytest.raises(ValueError, match=r"(\S+ is missing; ){3}and \d+ more\. Expected") as caught:
        apply({}, IMAGES)
    assert len(str(caught.value)) < 400
    with pytest.raises(TypeError, match=r"an array .*5,4,4,1.* expected the nested dict"):
        apply(IMAGES, params)


def test_without_flax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flax", None)
    monkeypatch.delitem(sys.modules, "jaxobian.flax")
    with pytest.raises(ImportError, match=r'pip install "jaxobian\[flax\]"'):
        importlib.import_module("jaxobian.flax")


# --------------------------------------------------------------------------------------------- mixed examples


@pytest.mark.parametrize("family", ["linen", "nnx"])
def test_batch_normalization_in_training_is_named(family: str) -> None:
    class LinenNet(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool):
            return nn.BatchNorm(use_running_average=not train, name="norm")(nn.Dense(3)(x))

    class NNXNet(nnx.Module):
        def __init__(self, rngs):
            self.dense, self.norm = nnx.Linear(4, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs)

        def __call__(self, x):
            return self.norm(self.dense(x))

    x = normal(0, 6, 4)
    if family == "linen":
        model = LinenNet()
        args: tuple[Any, ...] = (model, model.init(jax.random.key(0), x, train=False))
    else:
        args = (NNXNet(nnx.Rngs(0)),)
    apply, params = functional(*args, train=True)
    where = "norm.*" if family == "linen" else ""
    message = rf"coupled by reduce_sum at test_flax.py:\d+.*{where}evaluation mode"
    with pytest.raises(jb.BatchCouplingError, match=message):
        jb.batch_jacobian(apply, 1)(params, x)
    apply, params = functional(*args)  # in evaluation mode they do not mix
    expected = jax.vmap(jax.jacrev(lambda row: apply(params, row[None])[0]))(x)
    np.testing.assert_allclose(jb.batch_jacobian(apply, 1)(params, x), expected, rtol=1e-4, atol=1e-6)
