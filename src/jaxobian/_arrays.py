"""What is asked of an array, real or abstract."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_arraylike(leaf: Any) -> bool:
    """Whether JAX would take `leaf` as an array: arrays, NumPy values, Python numbers, shapes."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex) or (
        hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    )


def is_python_number(leaf: Any) -> bool:
    """Whether `leaf` is a plain Python number; NumPy's float64, which is a float, is not one."""
    return isinstance(leaf, bool | int | float | complex) and not isinstance(leaf, np.generic)


def is_inexact(aval: Any) -> bool:
    """Whether `aval` has a derivative: real or complex floating point."""
    return jnp.issubdtype(aval.dtype, jnp.inexact)


def is_complex(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jnp.complexfloating)


def varying_axes(aval: Any) -> frozenset[str]:
    """Mesh axes over which a value differs between devices, inside shard_map; empty elsewhere."""
    return getattr(getattr(aval, "manual_axis_type", None), "varying", frozenset())


def zeros_like(aval: Any, shape: tuple[int, ...] | None = None) -> Any:
    """Zeros of an abstract value, varying over the same mesh axes."""
    zeros = jnp.zeros(aval.shape if shape is None else shape, aval.dtype)
    varying = varying_axes(aval)
    return jax.lax.pcast(zeros, tuple(sorted(varying)), to="varying") if varying else zeros


def describe(aval: Any) -> str:
    """dtype and shape as JAX prints them: f32[64,10]."""
    short = aval.dtype.name
    for name, abbreviation in (("bfloat", "bf"), ("float", "f"), ("uint", "u"), ("int", "i"), ("complex", "c")):
        if short.startswith(name):
            short = abbreviation + short[len(name) :]
            break
    return f"{short}[{','.join(map(str, aval.shape))}]"


def in_words(value: Any) -> str:
    """What a value is: f32[3] of an array, the type of anything else."""
    if is_arraylike(value) and not is_python_number(value):
        return describe(abstract(as_array(value)))
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    shown = repr(value) if isinstance(value, str | int | float | complex) or value is None else ""
    return f"{shown} of type {type(value).__name__}" if shown else f"an object of type {type(value).__name__}"


def as_array(leaf: Any) -> Any:
    """`leaf` as JAX would see it; abstract values stay abstract."""
    concrete = isinstance(leaf, np.ndarray | np.generic | bool | int | float | complex)
    return jnp.asarray(leaf) if concrete else leaf


def abstract(leaf: Any) -> Any:
    """What JAX knows of an array while it traces: shape, dtype, weak type, sharding, varying axes."""
    return jax.typeof(leaf) if not isinstance(leaf, jax.ShapeDtypeStruct) else leaf


def is_concrete(leaf: Any) -> bool:
    """Whether an array has values now, rather than standing for some in a trace."""
    if not isinstance(leaf, jax.Array):
        return True
    try:
        leaf.is_deleted()
    except jax.errors.ConcretizationTypeError:
        return False
    return True


def block_dtype(out: Any, inp: Any) -> np.dtype:
    """The dtype of a block of J: the two dtypes promoted, whichever mode ran."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(out.dtype, inp.dtype)
