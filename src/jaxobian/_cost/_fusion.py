"""What XLA makes in one kernel: which variables never reach memory, and what it takes to make them anew."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

from .._primitives import row_of
from .._trace import Program, is_variable
from ._equations import is_elementwise, moves, operations, reduced, size

# What it takes to compare the number of a pass with that of an element, in operations; more if that has several axes.
_COMPARED, _INDEXED = 3.0, 6.0
# Operations that it takes to gather an element of what is computed where it is read.
LOOKED_UP = 4.0
# Nothing that is made again takes more operations than these: it would be stored.
_MOST = 40.0
# Reductions of so many elements read them from memory.
_LONG = 8
# An array of so many times fewer elements is read from the cache.
_SMALL = 4


def readers_of(program: Program) -> dict[Any, list[Any]]:
    """The equations that read each variable that an equation makes."""
    readers: dict[Any, list[Any]] = {v: [] for e in program.equations for v in e.outvars}
    for equation in program.equations:
        for v in equation.invars:
            if is_variable(v) and v in readers:
                readers[v].append(equation)
    return readers


class Fusion:
    """How XLA fuses the equations of a program.

    An elementwise equation is fused into the one that reads its result. One that several read is made again by each of
    them if it is made of nothing that would have to be read from memory: of much smaller arrays, or of one-hot vectors.

    Attributes:
        fused: variables that surely never reach memory.
        unstored: variables that most likely do not.
    """

    def __init__(self, program: Program, basis: Iterable[Any]) -> None:
        """Follow a program whose `basis` are one-hot vectors."""
        self._readers = readers_of(program)
        # Operations that it takes to make an element anew.
        self._again = {v: _INDEXED if len(v.aval.shape) > 1 else _COMPARED for v in basis}
        self._computed = set(self._again)  # one-hot vectors, and elementwise functions of them
        outputs = {v for v in program.outputs if is_variable(v)}
        self.fused: set[Any] = set()
        self.unstored: set[Any] = set()
        for equation in program.equations:
            self._follow(equation)
            for v in equation.outvars:
                if v not in outputs and self._is_fused(equation, v):
                    self.fused.add(v)
                if v not in outputs and (v in self.fused or self._is_made_again(equation, v)):
                    self.unstored.add(v)

    def is_looked_up(self, equation: Any) -> bool:
        """Whether an equation gathers from what is computed wherever it is read."""
        return row_of(equation).cost == "gather" and equation.invars[0] in self._computed

    @staticmethod
    def lands(equation: Any) -> bool:
        """Whether what an equation makes is written to its place at once, where it is a result."""
        return _is_loop(equation) and not _writes(equation)

    def is_read(self, equation: Any, made: Container[Any], read: Container[Any]) -> bool:
        """Whether the results of an equation are read from memory, or computed of what is.

        Args:
            equation: the equation.
            made: what passes make before it.
            read: what of that is read, or computed of what is.
        """
        stored = (v in read or (v in made and v not in self.unstored) for v in equation.invars if is_variable(v))
        return not _is_loop(equation) or any(stored)

    def again(self, equation: Any) -> float:
        """Operations that an equation takes to make anew what it reads, less those that are left to its readers."""
        if moves(equation):
            return 0.0
        reads = [v for v in equation.invars if is_variable(v) and v in self._again]
        over = max((size(v) for v in (reads if row_of(equation).cost == "reduction" else equation.outvars)), default=0)
        each = LOOKED_UP if row_of(equation).cost == "gather" else operations(equation)
        own = sum(each * size(v) for v in equation.outvars if v in self._again)
        return over * sum(self._again[v] for v in reads) - own

    def _follow(self, equation: Any) -> None:
        """What is computed of one-hot vectors by an equation that moves them, or works on each element."""
        reads = [v for v in equation.invars if is_variable(v)]
        if moves(equation) and any(v in self._again for v in reads):
            self._again.update(dict.fromkeys(equation.outvars, max(self._again.get(v, 0.0) for v in reads)))
        alone = moves(equation) or all(len(self._readers[v]) <= 1 for v in equation.outvars)
        if self.is_looked_up(equation) or (alone and is_elementwise(equation) and not self._computed.isdisjoint(reads)):
            self._computed.update(equation.outvars)

    def _is_fused(self, equation: Any, v: Any) -> bool:
        if _writes(equation) or not is_elementwise(equation):
            return False
        one = moves(equation) or len(self._readers[v]) <= 1
        return one and all(is_elementwise(r) or _is_short_reduction(r) for r in self._readers[v])

    def _is_made_again(self, equation: Any, v: Any) -> bool:
        readers = self._readers[v]
        if _writes(equation) or not _is_loop(equation) or not all(map(_reads_in_loop, readers)):
            return False
        if moves(equation) or len(readers) <= 1:
            return True
        reads = [u for u in equation.invars if is_variable(u)]
        small = all(u in self._again or _SMALL * size(u) <= size(v) for u in reads)
        found = self.is_looked_up(equation)
        if operations(equation) > 1 or (row_of(equation).cost == "gather" and not found) or not small:
            return False
        each = LOOKED_UP if found else operations(equation)
        self._again[v] = min(_MOST, each + sum(self._again.get(u, 0.0) for u in reads))
        return True


def _writes(equation: Any) -> bool:
    """Whether an equation joins arrays: kernels that make these on the way are slow, so that XLA writes the result."""
    if row_of(equation).kind == "pad":
        return size(equation.invars[0]) != size(equation.outvars[0])
    return row_of(equation).joins and len(equation.invars) > 1


def _is_loop(equation: Any) -> bool:
    """Whether XLA makes an equation in the kernel of what reads its result."""
    return is_elementwise(equation) or row_of(equation).cost == "gather"


def _reads_in_loop(equation: Any) -> bool:
    """Whether what an equation reads is made in its kernel."""
    return _is_loop(equation) or _is_short_reduction(equation)


def _is_short_reduction(equation: Any) -> bool:
    return row_of(equation).cost == "reduction" and reduced(equation) < _LONG
