"""What is known of index arrays and of numbers: those that a program computes from no argument can be evaluated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from .._primitives import row_of
from .._trace import LARGEST_INDEX, Program, inlined, is_variable, subprograms
from ._constants import evaluation

# A value, or None, and the places of the numbers by which it is known.
Known = tuple[np.ndarray | None, frozenset[int]]


class Indices:
    """Looks up what the variables of a program hold, as far as that does not depend on its inputs.

    Args:
        program: the program.
        sources: inputs of it that another program makes, with who knows that one.
        values: what inputs hold.
        numbers: what inputs hold that may hold something else the next time, each with its place.
    """

    def __init__(
        self,
        program: Program,
        sources: Mapping[Any, tuple[Indices, Any]] | None = None,
        values: Mapping[Any, np.ndarray] | None = None,
        numbers: Mapping[Any, tuple[int, np.ndarray]] | None = None,
    ):
        self._makers = {v: e for e in program.equations for v in e.outvars}
        self._sources = sources or {}
        self._numbers = numbers or {}
        self._known: dict[Any, Known] = {v: (x, frozenset()) for v, x in (values or {}).items()}

    def own_position(self, atom: Any, column: int) -> int | None:
        """The axis along which index vectors' entry `column` is its own position: 0, 1, 2, ...

        None where there is none, or none that is known.
        """
        value = self.constant(atom)
        if value is not None:
            entries = value[..., column]
            for axis, n in enumerate(entries.shape):
                position = np.arange(n).reshape(n, *(1,) * (entries.ndim - axis - 1))
                if n > 1 and np.array_equal(entries, np.broadcast_to(position, entries.shape)):
                    return axis
            return None
        if atom in self._sources:
            outer, there = self._sources[atom]
            return outer.own_position(there, column)
        piece, there = self.piece(atom, column)
        return None if piece is atom else self.own_position(piece, there)

    def piece(self, atom: Any, column: int) -> tuple[Any, int]:
        """The first of an atom's pieces that holds entry `column` of its vectors, and which entry of that it is."""
        maker = self._makers.get(atom) if is_variable(atom) else None
        if maker is not None and maker.primitive.name == "convert_element_type":
            return maker.invars[0], column
        if (
            maker is not None
            and maker.primitive.name == "concatenate"
            and maker.params["dimension"] == len(atom.aval.shape) - 1
        ):
            for piece in maker.invars:
                if column < piece.aval.shape[-1]:
                    return piece, column
                column -= piece.aval.shape[-1]
        return atom, column

    def constant(self, atom: Any) -> np.ndarray | None:
        """The value of an atom that depends on no input of a program."""
        return self.looked_up(atom)[0]

    def looked_up(self, atom: Any) -> Known:
        """The same, and the places of the numbers that say what it is, or that it is not known."""
        if not is_variable(atom):
            return np.asarray(atom.val), frozenset()
        if atom not in self._known:
            self._known[atom] = self._found(atom)
        return self._known[atom]

    def _found(self, atom: Any) -> Known:
        if atom in self._sources:
            outer, there = self._sources[atom]
            return outer.looked_up(there)
        if atom in self._numbers:
            place, value = self._numbers[atom]
            return value, frozenset((place,))
        maker = self._makers.get(atom)
        if maker is None or maker.effects or any(math.prod(v.aval.shape) > LARGEST_INDEX for v in maker.outvars):
            return None, frozenset()
        if maker.primitive.name == "integer_pow" and maker.params["y"] == 0:
            return np.ones(atom.aval.shape, atom.aval.dtype), frozenset()  # in second derivatives of squares
        found = {v: self.looked_up(v) for v in maker.invars if is_variable(v)}
        used = frozenset[int]().union(*(places for _, places in found.values()))
        values = {v: value for v, (value, _) in found.items() if value is not None}
        return (_evaluated(maker, atom, values) if len(values) == len(found) else None), used


def _evaluated(maker: Any, atom: Any, operands: dict[Any, np.ndarray]) -> np.ndarray | None:
    """A result of an equation by what its operands hold."""
    values = [operands[v] if is_variable(v) else np.asarray(v.val) for v in maker.invars]
    try:
        kind = row_of(maker).values
        if kind is not None:
            with np.errstate(all="ignore"):
                return np.asarray(evaluation(kind)(maker, values), atom.aval.dtype)
        called = list(subprograms(maker)) if row_of(maker).body == "call" else []
        if called:
            inner = inlined(called[0])
            known = dict(zip(inner.inputs, values, strict=True))
            return Indices(inner, values=known).constant(inner.outputs[list(maker.outvars).index(atom)])
        with jax.ensure_compile_time_eval():
            (value,) = Program(tuple(operands), (atom,), (maker,))(*operands.values())
        return np.asarray(value)
    except Warning:
        raise  # where warnings are errors: something is lost on the way, such as an imaginary part
    except Exception:
        return None  # what cannot be evaluated here is not known


class Lookup:
    """Looks up what atoms hold, and takes down the places of all numbers that it was told by."""

    def __init__(self, values: Indices):
        self._values, self.used = values, frozenset[int]()

    def __call__(self, atom: Any) -> np.ndarray | None:
        value, used = self._values.looked_up(atom)
        self.used |= used
        return value
