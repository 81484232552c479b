"""What an equation forbids: found by trying it abstractly, told in the user's words."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

import jax
import jax.numpy as jnp

from .._primitives import row_of
from ._program import Program, is_variable, program_of, subprograms, walk
from ._segment import pullback
from ._source import in_library, user_frame

# What stands for the user's line where there is none.
UNKNOWN_LINE = "unknown line"


def source_line(equation: Any) -> str:
    """Where the user wrote `equation`: `model.py:31`, the first frame outside jax, flax and jaxobian."""
    frame = user_frame(equation.source_info.traceback)
    if frame is not None:
        return f"{os.path.basename(frame.file_name)}:{frame.line_num}"
    code = _backward_code(equation)  # a custom rule that only library code called
    return f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}" if code else UNKNOWN_LINE


def at_line(equation: Any) -> str:
    """In parts of sentences: where in the user's code, or nothing where a library alone has called it."""
    line = source_line(equation)
    return "" if line == UNKNOWN_LINE else f" at {line}"


def _backward_code(equation: Any) -> CodeType | None:
    """The user's backward rule of a custom_vjp function, where it is theirs and has a name."""
    return _user_code(getattr(equation.params.get("bwd"), "f", None), depth=4)


def _user_code(function: Any, depth: int) -> CodeType | None:
    """The code of a function of the user's, or of one that JAX's own (vmap's wrapper of a rule, say) closes over."""
    code = getattr(function, "__code__", None)
    if code is None or depth == 0:
        return None
    if not in_library(code.co_filename):
        return code
    inner = (getattr(cell.cell_contents, "f", cell.cell_contents) for cell in function.__closure__ or ())
    return next(filter(None, (_user_code(value, depth - 1) for value in inner)), None)


@dataclass(frozen=True)
class Obstruction:
    """An equation that forbids a mode, in the user's words."""

    what: str
    where: str
    why: str

    def __str__(self) -> str:
        where = "" if self.where == UNKNOWN_LINE else f" ({self.where})"
        return f"{self.what}{where} {self.why}"


def batched(run: Callable[..., Any], width: int | None) -> Callable[..., Any]:
    """`run(residuals, seeds)` on `width` seeds at once, made by broadcasting; on one where width is None."""
    if width is None:
        return run

    def many(residuals: Sequence[Any], seeds: Sequence[Any]) -> Any:
        wide = [jnp.broadcast_to(seed, (width, *seed.shape)) for seed in seeds]
        return jax.vmap(run, in_axes=(None, 0))(list(residuals), wide)

    return many


def obstructions(program: Program, active: set[Any], mode: str) -> list[tuple[Any, Obstruction]]:
    """The equations of `program` that cannot run in `mode`, one by one."""
    found = []
    for equation in program.equations:
        if not any(is_variable(v) and v in active for v in equation.invars):
            continue
        error = _failure(equation, active, mode)
        if error is not None:
            found.append((equation, _explain(equation, mode, error)))
    return found


def _failure(equation: Any, active: set[Any], mode: str) -> Exception | None:
    """The error that JAX raises for `equation` in `mode`, alone and unbatched."""
    variables = list(dict.fromkeys(v for v in equation.invars if is_variable(v)))
    constants = [v for v in variables if v not in active]
    tangents = [v for v in variables if v in active]
    # Integer results have tangents of no kind, which nothing can be pulled back from.
    results = [v for v in equation.outvars if v in active and v.aval.dtype != jax.dtypes.float0]
    if not tangents or not results:
        return None
    program = Program((*constants, *tangents), tuple(results), (equation,))
    tangent_avals = [v.aval for v in tangents]

    def push(residuals: Sequence[Any], seeds: Sequence[Any]) -> list[Any]:
        return program(*residuals, *seeds)

    def pull(residuals: Sequence[Any], seeds: Sequence[Any]) -> list[Any]:
        return pullback(lambda *t: program(*residuals, *t), tangent_avals)(*seeds)

    run, seeds = (push, tangents) if mode == "fwd" else (pull, results)
    try:
        traced, _, _ = program_of(run, [v.aval for v in constants], [v.aval for v in seeds])
    except Exception as error:
        return error
    # A custom_vjp's tangent map can be traced, and fails only where it is compiled.
    if any(e.primitive.name == "custom_lin" for e in walk(traced.equations)):
        return TypeError("a custom_vjp function has no forward mode")
    return None


def _explain(equation: Any, mode: str, error: Exception) -> Obstruction:
    culprits = list(_culprits(equation, mode)) or [equation]
    what = " and ".join(dict.fromkeys(_words(e) for e in culprits))
    if culprits[0] is not equation:
        what += f" inside {_words(equation)}"
    return Obstruction(what, source_line(culprits[0]), _reason(culprits[0], mode, error))


def _culprits(equation: Any, mode: str) -> Iterator[Any]:
    """The equations inside `equation` that are known for forbidding `mode`."""
    for program in subprograms(equation):
        for inner in program.equations:
            if mode == "fwd" and inner.primitive.name == "custom_lin":
                yield inner
            else:
                yield from _culprits(inner, mode)


def _words(equation: Any) -> str:
    if equation.primitive.name == "custom_lin":
        code = _backward_code(equation)
        rule = code.co_name if code else "<lambda>"
        return "a custom_vjp function" + ("" if rule == "<lambda>" else f" (backward rule {rule})")
    return row_of(equation).words or equation.primitive.name


def _reason(equation: Any, mode: str, error: Exception) -> str:
    name = equation.primitive.name
    if name == "custom_lin":
        return "has a rule for reverse mode only"
    if name == "while" and mode == "rev":
        return "runs a number of steps known only when it runs, so it has no reverse mode"
    if name == "custom_vmap_call" and mode == "rev":
        return "has no reverse mode, unless a custom_vjp function is wrapped around it"
    first = str(error).strip().splitlines()
    return f"cannot be {'pushed forward' if mode == 'fwd' else 'pulled back'}: {first[0] if first else error!r}"
