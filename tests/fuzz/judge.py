"""What a program's Jacobians are judged by: JAX, eager or hardly compiled; and whose fault a difference is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

from .program import Program

# By the coarsest of the dtypes that numbers went through, relative to the largest number of J.
TOLERANCES = {"float64": 1e-8, "float32": 2e-3, "float16": 5e-2, "bfloat16": 0.3}
# How JAX's own is compiled where it is not to be optimized.
PLAIN = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
NO_YNN = {"xla_cpu_experimental_ynn_fusion_type": ""}


def by_jax(program: Program, inputs: Sequence[Any], mode: str | None = None) -> Any:
    """J by JAX alone: in reverse mode, or where that cannot be, forward, with rules for one as rules for the other."""
    transform, f = jax.jacrev, program
    if mode == "fwd" or (mode is None and not reversible(program)):
        transform, f = jax.jacfwd, lambda *args: program(*args, pushable=True)
    J = transform(f, program.argnums, has_aux=program.has_aux, holomorphic=program.holomorphic)
    found = J(*program.args(inputs))
    return found[0] if program.has_aux else found


def by_jax_quickly(program: Program, inputs: Sequence[Any]) -> Any:
    """The same, compiled as a whole, with no fusion that is known to be wrong and hardly optimized: in a tenth of the
    time that it takes to compile each operation alone.
    """
    jacobian = jax.jit(lambda *xs: by_jax(program, xs)).lower(*inputs)
    try:
        return jacobian.compile(compiler_options=PLAIN | NO_YNN)(*inputs)
    except jax.errors.JaxRuntimeError:  # an XLA that has no such fusion
        return jacobian.compile(compiler_options=PLAIN)(*inputs)


def reversible(program: Program) -> bool:
    """Whether JAX can pull cotangents back through a program."""
    return program.kind != "real to complex" and not program.needs("fwd")


def modes_of_jax(program: Program) -> list[str]:
    pushed = program.kind != "complex to real"
    return ["rev"] * reversible(program) + ["fwd"] * pushed


def blocks_of(J: Any) -> list[np.ndarray]:
    """Its blocks, in the order of the outputs and then of the inputs; dense ones of sparse ones."""
    leaves = jax.tree.leaves(J, is_leaf=lambda leaf: isinstance(leaf, BCOO))
    return [np.asarray(leaf.todense() if isinstance(leaf, BCOO) else leaf) for leaf in leaves]


def wide(block: np.ndarray) -> np.ndarray:
    """In double precision, in which halves can be subtracted."""
    return block.astype(np.complex128 if np.iscomplexobj(block) else np.float64)


def finite(blocks: Sequence[np.ndarray]) -> bool:
    """Whether all numbers are, and none is so large that sums of them are rounded away."""
    return all(np.isfinite(block).all() and np.abs(wide(block)).max(initial=0) < 1e4 for block in blocks)


def difference(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest one, relative to the largest number of each block, or to one."""
    worst = 0.0
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape, f"a block of shape {a.shape} should be {b.shape}"
        scale = max(1.0, float(np.max(np.abs(wide(b)), initial=0)))
        with np.errstate(invalid="ignore"):
            apart = np.max(np.abs(wide(a) - wide(b)), initial=0) / scale
        worst = max(worst, float(apart) if np.isfinite(apart) else np.inf)
    return worst


def tolerance(program: Program) -> float:
    """By the coarsest dtype that a value has anywhere in a program."""
    jaxpr = jax.make_jaxpr(program)(*program.args())
    dtypes = {str(v.aval.dtype) for e in _walk(jaxpr) for v in e.outvars if hasattr(v.aval, "dtype")}
    names = {*dtypes, *program.dtypes}
    # It rounds tangents, too, which each mode meets elsewhere.
    names |= {"bfloat16" for e in _walk(jaxpr) if e.primitive.name == "reduce_precision"}
    names |= {{"complex64": "float32", "complex128": "float64"}.get(name, name) for name in names}
    return max(TOLERANCES.get(name, 0) for name in names)


def _walk(jaxpr: Any) -> Any:
    for equation in jaxpr.eqns:
        yield equation
        for inner in jex.jaxprs_in_params(equation.params):
            yield from _walk(getattr(inner, "jaxpr", inner))


# Whose fault it is --------------------------------------------------------------------------------------------


def fault(
    program: Program,
    ours: Callable[..., Any],
    args: Sequence[Any],
    batch: Callable[..., Any] | None,
    expected: Sequence[np.ndarray],
    most: float,
    made: Sequence[np.ndarray] | None = None,
) -> str:
    """Where a Jacobian of ours, or what is made of it, compiled, is not what JAX says: "kink", "xla" or "ours".

    Args:
        program: of which it is.
        ours: the transformation, before it is compiled.
        args: what it is called with.
        batch: JAX's own of a batch; None where there is a single example.
        expected: what JAX says, each operation compiled alone.
        most: how far numbers may be apart.
        made: what `ours` is to return, where that is not J.
    """
    inputs = program.inputs() if batch is None else args
    theirs = {mode: lambda *xs, mode=mode: by_jax(program, xs, mode) for mode in modes_of_jax(program)}
    theirs = theirs if batch is None else {"batch": batch}
    first = next(iter(theirs.values()))
    rng = np.random.default_rng(0)
    step = 1e-3 if most > 1e-2 else 1e-5 if most > 1e-5 else 1e-9
    for _ in range(4):  # where derivatives jump, rounding decides
        near = [x * (1 + jnp.asarray(step * rng.standard_normal(x.shape), x.dtype)) for x in inputs]
        if difference(blocks_of(first(*near)), expected) > most / 2:
            return "kink"
    for jacobian in theirs.values():  # JAX's own, as a whole and in parts
        if any(difference(blocks_of(run(*inputs)), expected) > most for run in (jax.jit(jacobian), jacobian)):
            return "xla"
    # Ours, each operation compiled alone.
    closed, shapes = jax.make_jaxpr(ours, return_shape=True)(*args)
    flat = jex.jaxpr_as_fun(closed)(*jax.tree.leaves(args))
    alone = jax.tree.unflatten(jax.tree.structure(shapes), flat)
    return "xla" if difference(blocks_of(alone), expected if made is None else made) <= most else "ours"
