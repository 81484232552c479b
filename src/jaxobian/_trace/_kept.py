"""Derivatives of functions that are called again and again: an eager call traces f anew, and differentiates it once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import numpy as np

from .._arrays import is_concrete
from .._primitives import row_of
from ._identity import program_key
from ._linearize import Linearized, linearize
from ._program import Program, as_program, is_variable
from ._source import in_jax
from ._trace import Differentiate

# Functions whose derivatives are kept; the one unused for longest goes first.
KEPT = 128
# What rules of primitives look at beside their operands.
_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_numpy_dtype_promotion", "jax_numpy_rank_promotion")
# Bodies that are JAX's own to differentiate; what other functions do when they are traced, only they know.
_JAX_S = (None, "call", "block", "cond", "loop", "solve", "combining")
# So are JAX's functions with a custom rule that take nothing but arrays, by their names.
_JAX_RULES = ("relu", "relu6", "logaddexp", "xlogy", "_xlogx", "log1mexp")

_kept: OrderedDict[Hashable, Linearized] = OrderedDict()
_lock = threading.Lock()


def forget() -> None:
    """Forget all of them."""
    with _lock:
        _kept.clear()


def kept_linearize(code: Hashable) -> Differentiate:
    """`linearize`, or what it made of the same program before.

    Args:
        code: of the function, so that errors name its own lines.
    """

    def kept(function: Program, operands: Sequence[Any], n_out: int) -> Linearized:
        # Tracers are not to be kept, and a rule of the user's may read what has changed since.
        if not all(map(is_concrete, operands)) or not _is_closed(function):
            return linearize(function, operands, n_out)
        settings = tuple(getattr(jax.config, name) for name in _SETTINGS)
        rules = tuple(filter(None, map(_rule, _every(function))))
        key = (code, settings, len(operands), n_out, rules, program_key(function))
        with _lock:
            if key in _kept:
                _kept.move_to_end(key)
                return _kept[key]
        made = linearize(function, operands, n_out)
        if not made[0]:  # arrays that it holds are not ours to keep
            with _lock:
                _kept[key] = made
                while len(_kept) > KEPT:
                    _kept.popitem(last=False)
        return made

    return kept


def _is_closed(program: Program) -> bool:
    """Whether a program says all there is to know: nothing in it is a function, or an array that may be written to."""
    return all(map(_says_all, _every(program)))


def _every(program: Program) -> Iterator[Any]:
    """All equations, with those of the programs inside them, but for functions whose rules are JAX's."""
    for equation in program.equations:
        yield equation
        for jaxpr in () if _rule(equation) else jex.jaxprs_in_params(equation.params):
            yield from _every(as_program(jaxpr))


def _rule(equation: Any) -> str | None:
    """The name of a function of JAX's that has a custom rule, None for all else."""
    if equation.primitive.name != "custom_jvp_call":
        return None
    name, _, place = (equation.params["call_jaxpr"].jaxpr.debug_info.func_src_info or "").partition(" at ")
    return name if name in _JAX_RULES and in_jax(place) else None


def _says_all(equation: Any) -> bool:
    row = row_of(equation)
    if _rule(equation):
        return True
    known = (row.kind or row.cost or row.body or row.linear) and row.body in _JAX_S
    written = any(not is_variable(v) and isinstance(v.val, np.ndarray) and v.val.ndim for v in equation.invars)
    return bool(known) and not written and not _holds(equation.params)


def _holds(value: Any) -> bool:
    """Whether a parameter holds a function, or arrays."""
    if isinstance(value, dict):
        return any(map(_holds, value.values()))
    if isinstance(value, tuple | list):
        return any(map(_holds, value))
    if isinstance(value, jex.ClosedJaxpr):
        return bool(value.consts)
    if isinstance(value, type | jex.Jaxpr | jax.sharding.Mesh | jax.sharding.AbstractMesh):
        return False
    return isinstance(value, np.ndarray | jax.Array) or callable(value)
