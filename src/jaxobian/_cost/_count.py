"""What a program costs: operations counted equation by equation, and what passes through it add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from .._primitives import row_of
from .._trace import Program, inlined, is_variable, subprograms
from ._equations import equation_work, is_elementwise, nbytes, size
from ._fusion import LOOKED_UP, Fusion, readers_of
from ._machine import Work

# What the kernel takes that a fused chain of equations becomes; several are often fused in one.
_KERNEL = 0.5


def count(program: Program) -> Work:
    """Operations of `program`, each equation once, loops with their lengths."""
    if program not in _COUNTED:
        _COUNTED[program] = pass_work(inlined(program), program.inputs, 1, one_hot=False).chunk(1)
    return _COUNTED[program]


# Every candidate asks for the work of the same primal program.
_COUNTED: WeakKeyDictionary[Program, Work] = WeakKeyDictionary()


@dataclass(frozen=True)
class PassWork:
    """The work of one chunk of passes through a linear program, as a function of how many run at once.

    Attributes:
        fixed: work that a chunk does whatever its width, such as reading weights.
        each: work that every pass adds.
        intermediates: bytes that every pass makes on its way: what it holds at most, however little is let go.
        together: bytes that a pass holds where each array is let go after it is read last.
        transposed_elements: elements of results that are read from memory, or computed of what is: to transpose those
            is to read across them. What is computed of one-hot vectors alone is computed in any order.
    """

    fixed: Work
    each: Work
    intermediates: float
    together: float
    transposed_elements: float

    def chunk(self, width: int) -> Work:
        return self.fixed + self.each * width


def pass_work(
    program: Program, seeds: Sequence[Any], width: int, *, one_hot: bool = True, lands: bool = False
) -> PassWork:
    """Count a program that runs `width` passes at once.

    Args:
        program: a flat program, for instance a vmapped linear one.
        seeds: those of its inputs that carry the passes.
        width: how many passes they carry.
        one_hot: whether they are vectors of the standard basis, which are computed wherever they are read.
        lands: whether results go to their place in J, whose writing is counted apart.
    """
    outputs = {v for v in program.outputs if is_variable(v)} if lands else set()
    active, fusion = set(seeds), Fusion(program, seeds if one_hot else ())
    fixed, each, alive = Work(), Work(), 0.0
    made, read = set[Any](), set[Any]()
    for equation in program.equations:
        stored = [v for v in equation.outvars if v not in fusion.unstored]
        if fusion.lands(equation):
            stored = [v for v in stored if v not in outputs]
        work = equation_work(equation, count)
        if fusion.is_looked_up(equation):
            work = work._replace(gather=0.0, arithmetic=LOOKED_UP * work.gather)
        work += Work(bytes=2.0 * sum(nbytes(v.aval) for v in stored), again=fusion.again(equation))
        if stored and is_elementwise(equation):
            work += Work(equations=_KERNEL)
        if any(is_variable(v) and v in active for v in equation.invars):
            if fusion.is_read(equation, made, read):
                read.update(equation.outvars)
            active.update(equation.outvars)
            made.update(equation.outvars)
            each += work._replace(equations=0.0, library=0.0)
            alive += sum(nbytes(v.aval) for v in equation.outvars if v not in fusion.fused) + _inside(equation)
            given = (
                0
                if is_elementwise(equation)
                else sum(nbytes(v.aval) for v in equation.invars if is_variable(v) and v not in active)
            )
            fixed += Work(bytes=float(given), equations=work.equations, library=work.library)
        else:
            fixed += work
    together = _together(program, active, fusion.fused)
    transposed_elements = sum(size(v) for v in program.outputs if is_variable(v) and v in read)
    return PassWork(fixed, each * (1.0 / width), alive / width, together / width, transposed_elements / width)


def _together(program: Program, active: set[Any], fused: set[Any]) -> float:
    """The most bytes of active variables that are held at once, outputs apart; fused ones are not held."""
    last: dict[Any, int] = {}  # the equation that reads a variable last, through those that are fused into it
    for place, equation in reversed(list(enumerate(program.equations))):
        outs = [v for v in equation.outvars if v in fused]
        end = max((last.get(v, place) for v in outs), default=place)
        for v in equation.invars:
            if is_variable(v):
                last[v] = max(last.get(v, 0), end)
    held, most, dying = 0.0, 0.0, dict[int, float]()
    outputs = {v for v in program.outputs if is_variable(v)}
    for place, equation in enumerate(program.equations):
        made = [v for v in equation.outvars if v in active and v not in fused and v not in outputs and v in last]
        held += sum(nbytes(v.aval) for v in made)
        for v in made:
            dying[last[v]] = dying.get(last[v], 0.0) + nbytes(v.aval)
        inside = _inside(equation) if any(v in active for v in equation.outvars) else 0.0
        most = max(most, held + inside)
        held -= dying.get(place, 0.0)
    return most


def _inside(equation: Any) -> float:
    """Bytes alive inside an equation while it runs: one step of a loop's body, a convolution's reordered operands."""
    if row_of(equation).cost == "convolution":
        return float(2 * nbytes(equation.invars[0].aval) + nbytes(equation.outvars[0].aval))
    return float(sum(nbytes(v.aval) for p in subprograms(equation) for e in p.equations for v in e.outvars))


def repeated(program: Program, outputs: Sequence[Any]) -> Work:
    """Elementwise equations that nothing but some outputs of `program` needs.

    XLA fuses them with what reads those outputs, and computes them as often as it reads.
    """
    readers, ends = readers_of(program), {v for v in outputs if is_variable(v)}
    others = {v for v in program.outputs if is_variable(v)} - ends
    chain, work = set[int](), Work()

    def alone(v: Any) -> bool:
        return v not in others and (v in ends or bool(readers[v])) and all(id(e) in chain for e in readers[v])

    for equation in reversed(program.equations):
        if is_elementwise(equation) and all(map(alone, equation.outvars)):
            chain.add(id(equation))
            work += Work(arithmetic=equation_work(equation, count).arithmetic)
    return work
