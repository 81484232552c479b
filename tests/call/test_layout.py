"""Taking a call apart and putting J together."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxobian._arrays import as_array, block_dtype, describe, is_arraylike, is_python_number
from jaxobian._call._arguments import Rest, resolve_argnums, take_apart
from jaxobian._call._layout import Layout

X = jnp.arange(3.0)
OF_J = ("out", "in")


def apart(args: Any, argnums: Any, **options: Any) -> Any:
    return take_apart(args, argnums, **{"holomorphic": False, "allow_int": False, **options})


@pytest.mark.parametrize(
    ("argnums", "number", "expected"),
    [(0, 1, (0,)), (-1, 3, (2,)), ((0, 2), 3, (0, 2)), ((-1, 0), 3, (2, 0)), ([1], 2, (1,)), ((), 2, ())],
)
def test_argnums(argnums: Any, number: int, expected: tuple[int, ...]) -> None:
    assert resolve_argnums(argnums, number) == expected


@pytest.mark.parametrize("argnums", [2, -3, (0, 2), (0, -3)])
def test_argnums_out_of_range(argnums: Any) -> None:
    with pytest.raises(ValueError, match="2 positional arguments"):
        resolve_argnums(argnums, 2)


def test_leaves_and_their_names() -> None:
    args = ("static", {"w": X, "b": [X, 2.0]}, X)
    taken = apart(args, (2, 1))
    assert taken.paths == ("args[2]", "args[1]['b'][0]", "args[1]['b'][1]", "args[1]['w']")
    assert taken.positions == (2, 1)
    assert all(isinstance(leaf, jax.Array) for leaf in taken.leaves)


def test_rebuilding_puts_leaves_in_their_places() -> None:
    args = ("static", {"w": X, "i": jnp.arange(2), "no": None}, X)
    taken = apart(args, (1, 2), allow_int=True)
    static, tree, last = taken.rebuild(["new w", "new x"])
    assert static == "static"
    assert tree["w"] == "new w"
    assert last == "new x"
    assert tree["no"] is None
    np.testing.assert_array_equal(tree["i"], jnp.arange(2))
    assert list(args[1]) == ["w", "i", "no"]  # the caller's own is untouched


def test_custom_containers_survive() -> None:
    tree = OrderedDict(z=X, a=2 * X)
    (rebuilt,) = apart((tree,), 0).rebuild([1, 2])
    assert isinstance(rebuilt, OrderedDict)
    assert list(rebuilt.items()) == [("z", 1), ("a", 2)]


def test_rest_opens_arrays_alone() -> None:
    taken = apart((X, "name", 3, np.float64(2.0), jnp.ones(2)), 0)
    arrays, close = Rest.of(taken, {"k": np.zeros(2), "s": len}).opened()
    assert [np.shape(a) for a in arrays] == [(), (2,), (2,)]
    rest = close(["a", "b", "c"])
    assert rest.args == (None, "name", 3, "a", "b")
    assert rest.kwargs == {"k": "c", "s": len}


def test_blocks_become_trees() -> None:
    taken = apart(({"w": X, "b": X}, X), (0, 1))
    out_tree = jax.tree.structure({"y": 0, "z": (0,)})
    blocks = [[f"{out}/{path}" for path in taken.paths] for out in "yz"]
    J = Layout(taken, False, out_tree).assemble(blocks, OF_J, list)
    assert J["y"] == ({"b": "y/args[0]['b']", "w": "y/args[0]['w']"}, "y/args[1]")
    assert J["z"][0][1] == "z/args[1]"
    bare = Layout(apart((X,), 0), True, jax.tree.structure(0)).assemble([["block"]], OF_J, list)
    assert bare == "block"


def test_integer_leaves_have_blocks_of_their_own() -> None:
    taken = apart(({"w": X, "i": jnp.arange(2)},), 0, allow_int=True)
    assert taken.slots == (None, 0)
    layout = Layout(taken, True, jax.tree.structure((0, 0)))
    J = layout.assemble([["a"], ["b"]], OF_J, tuple)
    assert J == ({"i": (("out", 0), ("in", 0)), "w": "a"}, {"i": (("out", 1), ("in", 0)), "w": "b"})


def test_what_is_of_one_side_or_of_one_twice_has_its_trees() -> None:
    taken = apart(({"w": X, "i": jnp.arange(2)},), 0, allow_int=True)
    layout = Layout(taken, True, jax.tree.structure((0, 0)))
    assert layout.assemble([["a"], ["b"]], ("out",), tuple) == ("a", "b")
    assert layout.assemble([["a"]], ("in",), tuple) == {"i": (("in", 0),), "w": "a"}
    assert layout.assemble([["aa", "ab"], ["ba", "bb"]], ("out", "out"), tuple) == (("aa", "ab"), ("ba", "bb"))
    both = layout.assemble([["ww"]], ("in", "in"), tuple)
    assert both["w"] == {"i": (("in", 1), ("in", 0)), "w": "ww"}
    assert both["i"] == {"i": (("in", 0), ("in", 0)), "w": (("in", 0), ("in", 1))}
    assert layout.assemble([["a"]], (), tuple) == "a"
    assert layout.assemble([["a"], ["b"]], (), tuple) == ["a", "b"]


@pytest.mark.parametrize(
    ("leaf", "is_array", "is_number"),
    [
        (1.0, True, True),
        (1, True, True),
        (True, True, True),
        (1j, True, True),
        (np.float64(1.0), True, False),
        (np.float32(1.0), True, False),
        (np.ones(2), True, False),
        (jnp.ones(2), True, False),
        (jax.ShapeDtypeStruct((2,), jnp.float32), True, False),
        (jax.random.key(0), True, False),
        ("text", False, False),
        (None, False, False),
        ([1.0], False, False),
        (len, False, False),
        (jnp.float32, False, False),
    ],
    ids=str,
)
def test_what_counts_as_an_array(leaf: Any, is_array: bool, is_number: bool) -> None:
    assert is_arraylike(leaf) == is_array
    assert is_python_number(leaf) == is_number


@pytest.mark.parametrize(
    ("dtype", "short"),
    [
        ("float32", "f32"),
        ("float16", "f16"),
        ("bfloat16", "bf16"),
        ("int32", "i32"),
        ("uint8", "u8"),
        ("bool", "bool"),
        ("complex64", "c64"),
    ],
)
def test_shapes_are_described_as_jax_prints_them(dtype: str, short: str) -> None:
    assert describe(jax.ShapeDtypeStruct((), dtype)) == f"{short}[]"
    assert describe(jax.ShapeDtypeStruct((64, 10), dtype)) == f"{short}[64,10]"
    shown = str(jax.make_jaxpr(lambda x: x)(jax.ShapeDtypeStruct((64, 10), dtype)))
    assert f"{short}[64,10]" in shown


def test_keys_can_be_described() -> None:
    assert describe(jax.random.key(0)).startswith("key")


@pytest.mark.parametrize("promotion", ["standard", "strict"])
@pytest.mark.parametrize(
    ("out", "inp", "expected"),
    [
        ("float16", "float32", "float32"),
        ("bfloat16", "float16", "float32"),
        ("complex64", "float32", "complex64"),
        ("float32", "float32", "float32"),
    ],
)
def test_the_dtype_of_a_block(out: str, inp: str, expected: str, promotion: str) -> None:
    with jax.numpy_dtype_promotion(promotion):
        a, b = jax.ShapeDtypeStruct((), out), jax.ShapeDtypeStruct((), inp)
        assert block_dtype(a, b) == block_dtype(b, a) == expected


def test_concrete_values_become_arrays_and_abstract_ones_stay() -> None:
    assert isinstance(as_array(np.ones(2)), jax.Array)
    assert isinstance(as_array(2.0), jax.Array)
    shape, seen = jax.ShapeDtypeStruct((2,), jnp.float32), []
    assert as_array(shape) is shape
    jax.make_jaxpr(lambda traced: seen.append((traced, as_array(traced))))(X)
    assert seen[0][0] is seen[0][1]


def test_python_numbers_stay_weakly_typed() -> None:
    # So that a Python float differentiated beside float16 arrays leaves them float16, as in JAX.
    assert as_array(2.0).aval.weak_type
