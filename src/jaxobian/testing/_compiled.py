"""Whether XLA computes what it is told: a Jacobian compiled as a whole, and with each operation compiled alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from .._arrays import abstract
from .._trace import program_of


def op_by_op(transform: Callable[..., Any], inputs: Sequence[Any]) -> Any:
    """What a transformation gives where each of its operations is compiled alone."""
    program, constants, tree = program_of(transform, *map(abstract, inputs))
    return jax.tree.unflatten(tree, program(*constants, *inputs))


def theirs(f: Any, argnums: Sequence[int], holomorphic: bool) -> Iterator[tuple[str, Any, Any]]:
    """JAX's own Jacobians, as far as they exist: how they are called, compiled as a whole, and op by op."""
    for name, transform in (("jacfwd", jax.jacfwd), ("jacrev", jax.jacrev)):
        jacobian = transform(f, argnums, holomorphic=holomorphic)
        try:
            compiled = jax.jit(jacobian)(*f.inputs)
        except (TypeError, ValueError, NotImplementedError):  # a mode that f has not
            continue
        yield f"jax.jit(jax.{name}(f))", compiled, jacobian(*f.inputs)
