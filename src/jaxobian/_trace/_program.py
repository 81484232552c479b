"""A program as a flat list of equations, and the executables made of it: the one place that builds jaxprs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from .._primitives import row_of
from ._source import in_library, user_frame

# What bodies that JAX differentiates are to their equations.
_DIFFERENTIATED = ("call", "block", "cond", "loop")


@dataclass(frozen=True, eq=False)
class Program:
    """A straight line of equations: `inputs` -> `outputs`. Immutable; its variables are JAX's."""

    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    equations: tuple[Any, ...]

    @property
    def in_avals(self) -> tuple[Any, ...]:
        return tuple(v.aval for v in self.inputs)

    @property
    def out_avals(self) -> tuple[Any, ...]:
        return tuple(v.aval for v in self.outputs)

    def __call__(self, *args: Any) -> list[Any]:
        """Run the equations, under whatever transformation is at work."""
        effects = frozenset().union(*(e.effects for e in self.equations))
        jaxpr = jex.Jaxpr((), list(self.inputs), list(self.outputs), list(self.equations), effects, _no_debug_info())
        # A custom rule may index what it gets by what is traced, which NumPy's arrays do not allow.
        arrays = (jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in args)
        return list(jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr, ()))(*arrays))

    def read(self) -> set[Any]:
        """The variables that an equation reads or that are outputs."""
        atoms = (v for atoms in (self.outputs, *(e.invars for e in self.equations)) for v in atoms)
        return {v for v in atoms if is_variable(v)}

    def only(self, results: Sequence[int]) -> Program:
        """With some of its results."""
        return replace(self, outputs=tuple(self.outputs[k] for k in results)).pruned()

    def pruned(self) -> Program:
        """Without the equations that no output needs."""
        needed = {v for v in self.outputs if is_variable(v)}
        kept = []
        for equation in reversed(self.equations):
            if equation.effects or any(v in needed for v in equation.outvars):
                kept.append(equation)
                needed.update(v for v in equation.invars if is_variable(v))
        return replace(self, equations=tuple(reversed(kept)))


@cache
def _no_debug_info() -> Any:
    """Debug information that names nothing; JAX has no public way to make some but to trace."""
    return jax.make_jaxpr(lambda: ())().jaxpr.debug_info._replace(arg_names=None, result_paths=None)


def is_variable(atom: Any) -> bool:
    """Whether an operand of an equation is a variable rather than a literal."""
    return not isinstance(atom, jex.Literal)


def as_program(jaxpr: Any) -> Program:
    """A jaxpr, closed or not, from an equation's parameters; its constants become first inputs."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return Program((*jaxpr.constvars, *jaxpr.invars), tuple(jaxpr.outvars), tuple(jaxpr.eqns))


def subprograms(equation: Any) -> Iterator[Program]:
    """The programs inside an equation: bodies of loops, branches, rematerialized blocks."""
    for jaxpr in jex.jaxprs_in_params(equation.params):
        yield as_program(jaxpr)


def forward(
    program: Program, start: Mapping[Any, Any], through: Callable[[Any, dict[int, Any]], Sequence[Any]]
) -> dict[Any, Any]:
    """What is so of every variable, by what is so of some.

    Args:
        program: a flat program.
        start: what is so of some of its variables.
        through: an equation, and what is so of its operands, of those of which something is -> what of its results;
            None of which nothing is.
    """
    found = dict(start)
    for equation in program.equations:
        operands = {k: found[v] for k, v in enumerate(equation.invars) if is_variable(v) and v in found}
        if operands:
            results = zip(equation.outvars, through(equation, operands), strict=True)
            found.update((v, x) for v, x in results if x is not None)
    return found


@dataclass(frozen=True)
class Loop:
    """A scan or a while loop, step by step: (constants, carries, slices of xs) -> (carries, slices of ys).

    Attributes:
        body: a step.
        condition: what says whether another one is made, of the operands before the body's, and the carries.
        skipped: how many operands of the equation come before the body's.
        carries: the places of carries among the body's inputs; its first outputs are the next ones.
        sliced: the inputs of the body that are slices of the equation's operands.
        stacked: the outputs of the body that are slices of the equation's results.
        length: how many steps there are; infinite where only running it tells.
    """

    body: Program
    condition: Program | None
    skipped: int
    carries: range
    sliced: tuple[int, ...]
    stacked: tuple[int, ...]
    length: float


def loop_of(equation: Any) -> Loop | None:
    """The steps of a loop; None where its parameters are not laid out as they are known to be."""
    params, condition, skipped = equation.params, None, 0
    if "cond_jaxpr" in params:
        body, condition, skipped = (
            as_program(params["body_jaxpr"]),
            as_program(params["cond_jaxpr"]),
            params["cond_nconsts"],
        )
    else:
        (body,) = subprograms(equation)
    operands = equation.invars[skipped:]
    if len(body.inputs) != len(operands) or len(body.outputs) != len(equation.outvars):
        return None
    sliced, stacked = (
        tuple(k for k, (v, w) in enumerate(zip(inner, outer, strict=True)) if len(v.aval.shape) < len(w.aval.shape))
        for inner, outer in ((body.inputs, operands), (body.outputs, equation.outvars))
    )
    last = len(body.inputs) - len(sliced)
    carries = range(last - len(body.outputs) + len(stacked), last)
    if condition is not None and len(condition.inputs) != skipped + len(carries):
        return None
    return Loop(body, condition, skipped, carries, sliced, stacked, params.get("length", math.inf))


def reshape_order(equation: Any) -> tuple[int, ...]:
    """The order of the operand's axes in which a reshape, or the like of it, reads the elements."""
    order = equation.params.get("dimensions") if equation.primitive.name == "reshape" else None
    return tuple(range(len(equation.invars[0].aval.shape)) if order is None else map(int, order))


def walk(equations: Sequence[Any]) -> Iterator[Any]:
    """Every equation, those inside other equations too."""
    for equation in equations:
        yield equation
        for program in subprograms(equation):
            yield from walk(program.equations)


def has_rules(program: Program) -> bool:
    """Whether a function in it has a derivative of the user's own making."""

    def own(equation: Any) -> bool:
        if row_of(equation).body != "custom_rule":
            return False
        where = equation.params["call_jaxpr"].jaxpr.debug_info.func_src_info or ""  # "relu at functions.py:71"
        return not in_library(where.partition(" at ")[2])

    return any(map(own, walk(program.equations)))


def program_of(f: Callable[..., Any], /, *avals: Any, **named: Any) -> tuple[Program, tuple[Any, ...], Any]:
    """Trace `f` on abstract values, positional ones and by keyword.

    Returns:
        The flat program with f's closed-over arrays as its first inputs, their values, and the tree of f's output.
    """
    # A fresh function each time: JAX keeps traces by the function's identity, and what f closes over may change.
    fresh = functools.wraps(f, assigned=(), updated=())(lambda *args, **kwargs: f(*args, **kwargs))
    closed, shapes = jax.make_jaxpr(fresh, return_shape=True)(*avals, **named)
    return as_program(_with_names(closed)), tuple(closed.consts), jax.tree.structure(shapes)


def inlined(program: Program, *, checkpoints: bool = False) -> Program:
    """`program` with its nested `jit`s written out, each with variables of its own; what is checkpointed, if asked."""
    equations, outputs = _inline(program, {}, None, checkpoints)
    return replace(program, equations=tuple(equations), outputs=tuple(outputs))


def _inline(program: Program, names: dict[Any, Any], call: Any, checkpoints: bool) -> tuple[list[Any], list[Any]]:
    """The equations and outputs of `program`, which `call` calls (None: nothing does)."""

    def read(atom: Any) -> Any:
        return names.get(atom, atom) if is_variable(atom) else atom

    equations = []
    for equation in program.equations:
        equation = equation if call is None else _called(equation, call)
        operands = [read(v) for v in equation.invars]
        if _can_inline(equation) or (checkpoints and is_checkpoint(equation)):
            inner = next(subprograms(equation))
            given = dict(zip(inner.inputs, (*_constants(equation), *operands), strict=True))
            inner_equations, outs = _inline(inner, given, equation, checkpoints)
            equations += inner_equations
            names.update(zip(equation.outvars, outs, strict=True))
            continue
        outs = [v if isinstance(v, jex.DropVar) else jex.Var(v.aval) for v in equation.outvars]
        names.update(zip(equation.outvars, outs, strict=True))
        equations.append(_renamed(equation, operands, outs))
    return equations, [read(v) for v in program.outputs]


def _called(equation: Any, call: Any) -> Any:
    """An equation of a nested jit; where that is a library's own function, it stands where the user called it.

    JAX keeps the traces of nested jits, so that the frames of callers, if there are any, may be those of another call.
    """
    if user_frame(equation.source_info.traceback, within=call.params.get("name")) is not None:
        return equation
    where = equation.source_info.replace(traceback=call.source_info.traceback)
    return equation.replace(source_info=where)


def _renamed(equation: Any, operands: Sequence[Any], outs: Sequence[Any]) -> Any:
    return jex.new_jaxpr_eqn(
        list(operands), list(outs), equation.primitive, equation.params, equation.effects, equation.source_info,
        equation.ctx,
    )  # fmt: skip


def _with_names(param: Any) -> Any:
    """A parameter in which all bodies' arguments have names: JAX 0.10 fails to differentiate a while loop without."""
    if isinstance(param, tuple):
        named = tuple(map(_with_names, param))
        return named if any(a is not b for a, b in zip(named, param, strict=True)) else param
    jaxpr = getattr(param, "jaxpr", param)
    if not isinstance(jaxpr, jex.Jaxpr):
        return param
    equations, info = [_named_inside(e) for e in jaxpr.eqns], jaxpr.debug_info
    if info.arg_names is None:
        info = info._replace(arg_names=("",) * len(jaxpr.invars))
    elif all(e is old for e, old in zip(equations, jaxpr.eqns, strict=True)):
        return param
    named = jaxpr.replace(eqns=equations, debug_info=info)
    return named if param is jaxpr else param.replace(jaxpr=named)


def _named_inside(equation: Any) -> Any:
    if row_of(equation).body not in _DIFFERENTIATED:
        return equation
    params = {name: _with_names(value) for name, value in equation.params.items()}
    same = all(params[name] is value for name, value in equation.params.items())
    return equation if same else equation.replace(params=params)


def _constants(equation: Any) -> list[Any]:
    return [c for jaxpr in equation.params.values() for c in getattr(jaxpr, "consts", ())]


def is_checkpoint(equation: Any) -> bool:
    """Whether it is a block of `jax.checkpoint`, which is computed anew where it is pulled back."""
    return equation.primitive.name == "remat2"


def _can_inline(equation: Any) -> bool:
    """A nested jit that neither places its arrays nor hides constants."""
    if row_of(equation).body != "call" or _constants(equation):
        return False
    placements = (*equation.params.get("in_shardings", ()), *equation.params.get("out_shardings", ()))
    return all(type(p).__name__ == "UnspecifiedValue" for p in placements)
