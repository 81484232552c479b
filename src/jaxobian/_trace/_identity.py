"""When two programs are the same: the key under which a compiled function is kept between calls."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.extend.core as jex
import numpy as np

from .._primitives import row_of
from ._program import Program, as_program, is_variable, subprograms
from ._source import in_library
from ._trace import LinearProgram, pullbacks

# Functions inside functions are looked into so far: JAX's own wrappers are two or three deep.
_DEPTH = 6


class _ById:
    """An object as a key by identity; keeps it alive, so that the identity stays its own."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and self.value is other.value


def identity(program: LinearProgram) -> Hashable:
    """A key that two linear programs share only if they compute the same thing from the same kinds of arrays.

    What index arrays hold is part of it, for plans are made by it.
    """
    return (
        program_key(program.primal),
        program_key(program.linear),
        program.n_out,
        program.n_in,
        values_key(program.indices),
    )


def values_key(arrays: Iterable[np.ndarray | None]) -> Hashable:
    """A key that arrays share only if they hold the same."""
    return tuple(None if x is None else _value_key(x) for x in arrays)


# Derivatives that are kept are looked up ever again.
_keys: WeakKeyDictionary[Program, Hashable] = WeakKeyDictionary()


def program_key(program: Program) -> Hashable:
    """A key that two programs share only if they compute the same thing from the same kinds of arrays."""
    if program not in _keys:
        _keys[program] = _key_of(program)
    return _keys[program]


def _key_of(program: Program) -> Hashable:
    numbers: dict[Any, int] = {}

    def name(variable: Any) -> int:
        return numbers.setdefault(variable, len(numbers))

    def atom(a: Any) -> Hashable:
        return name(a) if is_variable(a) else (a.aval, _value_key(a.val))

    inputs = tuple((name(v), v.aval) for v in program.inputs)
    equations = tuple(
        (
            e.primitive,
            tuple(atom(a) for a in e.invars),
            _params_key(e),
            tuple((name(v), v.aval) for v in e.outvars),
            _value_key(e.ctx.__dict__ if hasattr(e.ctx, "__dict__") else e.ctx),
        )
        for e in program.equations
    )
    return inputs, equations, tuple(atom(a) for a in program.outputs)


def repeats(program: Program) -> dict[Any, Any]:
    """The variables that an equation makes which an earlier one has made, and that one's."""
    made: dict[Hashable, Any] = {}
    same: dict[Any, Any] = {}
    for equation in program.equations:
        # Of two draws without a key each has numbers of its own.
        draws = equation.primitive.name == "rng_uniform"
        if draws or equation.effects or any(True for _ in subprograms(equation)):
            continue
        operands = tuple(same.get(a, a) if is_variable(a) else (a.aval, _value_key(a.val)) for a in equation.invars)
        key = (equation.primitive, operands, _value_key(equation.params), tuple(v.aval for v in equation.outvars))
        first = made.setdefault(key, equation)
        if first is not equation:
            same.update(zip(equation.outvars, first.outvars, strict=True))
    return same


def _params_key(equation: Any) -> Hashable:
    """An equation's parameters; a custom rule is keyed by what is left of it to run.

    JAX wraps the functions of custom rules anew in every trace, so by identity they would never match. The primal
    program only ever runs the function, never its rule; the linear program only ever runs the transpose.
    """
    match row_of(equation).body:
        case "custom_rule":
            return _value_key(equation.params["call_jaxpr"])
        case "pullback":
            return _backward_key(equation)
        case _:
            return _value_key(equation.params)


def _backward_key(equation: Any) -> Hashable:
    found = pullbacks(equation, equation.params["num_res"])
    return tuple((tuple(at), program_key(program), tuple(map(_value_key, held))) for at, program, held in found)


def _value_key(value: Any, depth: int = _DEPTH) -> Hashable:
    """A parameter as a key: by value where that is safe, else by identity."""
    if isinstance(value, jex.ClosedJaxpr | jex.Jaxpr):
        return program_key(as_program(value)), tuple(_value_key(c, depth) for c in getattr(value, "consts", ()))
    if isinstance(value, dict):
        return tuple((k, _value_key(v, depth)) for k, v in sorted(value.items(), key=lambda item: str(item[0])))
    if isinstance(value, tuple | list):
        return type(value), tuple(_value_key(v, depth) for v in value)
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        return value.shape, value.dtype, value.tobytes()
    if isinstance(value, bool | int | float | complex):
        return type(value), repr(value)  # -0.0 is not 0.0, True is not 1
    if isinstance(value, FunctionType):
        return _function_key(value, depth)
    if type(value).__name__ == "ClosedRule":  # JAX's wrapper of a rule for vmap, which holds nothing else
        return _value_key(getattr(value, "__wrapped__", None), depth)
    if isinstance(value, jax.Array) or callable(value):
        return _ById(value)
    try:
        hash(value)
    except TypeError:
        return _ById(value)
    return type(value), value


def _function_key(function: FunctionType, depth: int) -> Hashable:
    """A function by its code and by what it closes over: functions made anew by the same code are the same.

    JAX wraps rules and callbacks anew in every trace, and users write lambdas in loops.
    """
    if depth == 0:
        return _ById(function)
    try:
        closure = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:  # a cell that is not filled yet
        return _ById(function)
    held = (*closure, *(function.__defaults__ or ()))
    named = (function.__kwdefaults__ or {}) | function.__dict__
    key = _value_key if in_library(function.__code__.co_filename) else _held_key
    values = tuple(key(value, depth - 1) for value in held)
    return (
        function.__code__,
        _ById(function.__globals__),
        values,
        tuple((k, key(named[k], depth - 1)) for k in sorted(named)),
    )


def _held_key(value: Any, depth: int) -> Hashable:
    """What a user's function holds, as a key: it may write to it, or read it when it has changed."""
    if isinstance(value, list | dict | set | bytearray | np.ndarray):
        return _ById(value)
    if isinstance(value, tuple):
        return type(value), tuple(_held_key(v, depth) for v in value)
    return _value_key(value, depth)
