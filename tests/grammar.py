"""Which primitives JAX has, and which of them the words of the fuzz give."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.extend.core as jex
import jax.extend.core.primitives as primitives
import jax.numpy as jnp
import numpy as np
from fuzz.words import WORDS, Maker, Word, as_real, single
from jax import lax

# Public primitives that no word gives, and why.
NO_DERIVATIVE = """
    after_all axis_index create_token clz population_count mulhi empty2 nextafter reduce_and reduce_xor
    rng_bit_generator rng_uniform select_and_scatter eq_to le_to lt_to threefry2x32 xor shift_left random_fold_in
    random_split hessenberg schur tridiagonal householder_product ormqr cholesky_update symmetric_product
    lu_pivots_to_permutation
""".split()
COLLECTIVES = "all_gather all_to_all pmax pmin ppermute psum ragged_all_to_all".split()  # under a mesh alone
NO_JACOBIAN = "reduce_window".split()  # pushed forward one tangent at a time, but neither vmapped nor pulled back
OF_REFERENCES = "get swap".split()  # which f cannot return
OF_JAX_ITSELF = """
    call closed_call eval_jaxpr custom_lin dce_sink stage sharding_constraint
""".split()
EXCEPTIONS = {*NO_DERIVATIVE, *COLLECTIVES, *NO_JACOBIAN, *OF_REFERENCES, *OF_JAX_ITSELF}

INDEX = jnp.arange(4, dtype=jnp.int32)


def public_primitives() -> set[str]:
    modules = (lax, lax.linalg, primitives)
    found = (getattr(module, name) for module in modules for name in dir(module) if name.endswith("_p"))
    return {primitive.name for primitive in found if isinstance(primitive, jex.Primitive)}


def walk(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in jex.jaxprs_in_params(equation.params):
            yield from walk(getattr(inner, "jaxpr", inner))


def traced(word: Word, dtype: str, seed: int) -> Any:
    """A word, with its derivative in the mode that it has."""
    drawn = np.random.default_rng(seed).uniform(0.2, 1.2, (2, 3))
    a, b = jnp.asarray(drawn, dtype), jnp.asarray(drawn[0, :2] - 0.7, dtype)
    a, b = (a, b) if word.half else (single(a), single(b))
    a, b = (a, b) if word.complex else (as_real(a), as_real(b))
    run = functools.partial(word.run, Maker(seed, INDEX, dtype.startswith("complex")))
    if word.only == "rev":

        def pulled(a: Any, b: Any) -> Any:
            y, pull = jax.vjp(run, a, b)
            return y, pull(y)

        return jax.make_jaxpr(pulled)(a, b)
    return jax.make_jaxpr(lambda a, b: (run(a, b), jax.jvp(run, (a, b), (a, b))))(a, b)


def dtypes_of(word: Word) -> list[str]:
    return ["float32", *["bfloat16"] * word.half, *["complex64"] * word.complex]


@functools.cache
def given() -> dict[str, str]:
    """Every primitive that a word gives: name -> word."""
    found: dict[str, str] = {}
    for words in WORDS.values():
        for name, word in words.items():
            for seed in range(3):
                for equation in walk(traced(word, dtypes_of(word)[seed % len(dtypes_of(word))], seed)):
                    found.setdefault(equation.primitive.name, name)
    return found
