"""Where a linear program is narrow: few elements that every path, or every path that mixes elements, goes through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..._trace import Linear, active_variables, is_variable
from ..ties._axes import Structure
from ..ties._ties import Digit, Relation, compose, join, within
from ._flow import Graph, minimum_cuts

# Variables that separate inputs from outputs, in the order of the program.
Cut = tuple[Any, ...]
# How many elements of a variable must be told apart: all but those along a batch axis; None where it cannot be cut.
Weigh = Callable[[Any], int | None]

# Cuts of equal width differ in where they leave a product with a constant, which may save passing through it; of a long
# plateau some are looked at.
_PLATEAU = 5
# Cuts that are looked at altogether. The dynamic program over them grows with the third power.
_MOST = 12


def chain(program: Linear, weigh: Weigh, bound: int) -> tuple[list[Cut], int]:
    """Nested cuts of a program, from its inputs to its outputs.

    First those of the least width, then, between them and the ends, those narrower than the wider neighbor.

    Args:
        program: the program.
        weigh: the width of a variable.
        bound: where no cut is narrower than this there are none.

    Returns:
        The cuts, and the width of the narrowest; or none, and the bound.
    """
    width, found = narrowest(program, weigh, bound)
    if not found:
        return [], width
    found = _thinned(found)
    before = _between(program, program.tangents, found[0], weigh)
    after = _between(program, found[-1], program.linear.outputs, weigh)
    room = max(0, _MOST - len(found))
    return [*before[: room // 2], *found, *after[: room - room // 2]], width


def _between(program: Linear, first: Cut, last: Cut, weigh: Weigh) -> list[Cut]:
    """The source-side and the sink-side cut between two others, if they are narrower than the wider of those."""
    part = program.segment(first, last)
    wider = max(_width(first, weigh), _width(last, weigh))
    closed = {v for v in (*first, *last) if is_variable(v)}
    _, found = narrowest(part, lambda v: None if v in closed else weigh(v), wider)
    return found[:1] + found[1:][-1:]


def narrowest(program: Linear, weigh: Weigh, bound: int) -> tuple[int, list[Cut]]:
    """The cuts of the least width between the tangents of a program and its outputs, if that is below `bound`."""
    active = active_variables(program.linear, program.tangents)
    graph = Graph()
    number = {v: graph.add(weigh(v)) for v in program.tangents}
    for equation in program.linear.equations:
        operands = _active(equation.invars, active)
        if not operands:
            continue
        hub = graph.add(None)  # all results of an equation may depend on all its operands
        number.update({v: graph.add(weigh(v)) for v in equation.outvars})
        graph.edges += [(number[v], hub) for v in operands]
        graph.edges += [(hub, number[v]) for v in equation.outvars]
    names = {k: v for v, k in number.items()}
    width, cuts = minimum_cuts(
        graph,
        [number[v] for v in program.tangents],
        [number[v] for v in _active(program.linear.outputs, active)],
        bound,
    )
    return width, [tuple(names[k] for k in sorted(cut)) for cut in cuts if cut]


def path_splits(structure: Structure, weigh: Weigh, batch: Sequence[int | None], bound: int) -> tuple[int, list[Cut]]:
    """Variables Z such that all paths from the inputs to the outputs that avoid Z keep elements apart.

    J = dy/dx with Z held + (dy/dZ) (dZ/dx), where the first term then takes a single pass. Z is a minimum cut in two
    copies of the graph, for paths that keep elements apart so far and for paths that have mixed some.

    Args:
        structure: of the program, whose equations it has looked at one by one.
        weigh: the width of a variable.
        batch: the axis of each input that a pass tells nothing apart along.
        bound: sets as wide as this or wider are of no interest.
    """
    program = structure.program
    active = active_variables(program.linear, program.tangents)
    shapes = [v.aval.shape for v in program.tangents]
    graph = Graph()
    apart = {v: graph.add(weigh(v)) for v in program.tangents}
    mixed: dict[Any, int] = {}
    names = {k: v for v, k in apart.items()}
    kept: dict[Any, dict[int, Relation]] = {v: dict(structure.of(v)) for v in program.tangents}

    def place(copy: dict[Any, int], v: Any) -> int:
        if v not in copy:
            copy[v] = graph.add(weigh(v))
            names[copy[v]] = v
        return copy[v]

    for equation, rows in structure.steps:
        hub = graph.add(None)
        for w, row in zip(equation.outvars, rows, strict=True):
            entered = False
            for k, v in enumerate(equation.invars):
                if k not in row or not is_variable(v):
                    continue
                if v in mixed:
                    graph.edges.append((mixed[v], hub))
                    entered = True
                if v not in apart:
                    continue
                through = {
                    j: within(compose(row[k], relation), w.aval.shape, shapes[j]) for j, relation in kept[v].items()
                }
                total = {**kept.get(w, {})}
                for j, relation in through.items():
                    total[j] = join(total[j], relation) if j in total else relation
                if all(_tells_all_apart(relation, shapes[j], batch[j]) for j, relation in total.items()):
                    graph.edges.append((apart[v], place(apart, w)))
                    kept[w] = total
                else:
                    graph.edges.append((apart[v], place(mixed, w)))
            if entered:
                graph.edges.append((hub, place(mixed, w)))
    ends = [mixed[v] for v in _active(program.linear.outputs, active) if v in mixed]
    if not ends:
        return 0, []
    width, cuts = minimum_cuts(graph, [apart[v] for v in program.tangents], ends, bound)
    order = {v: k for k, v in enumerate((*program.tangents, *(w for e, _ in structure.steps for w in e.outvars)))}
    found = [tuple(sorted({names[k] for k in cut}, key=order.__getitem__)) for cut in cuts if cut]
    return width, _thinned(found)


def narrow_places(program: Linear, weigh: Weigh, bound: int) -> list[Cut]:
    """Single variables narrower than `bound` that outputs depend on; of each width the middle one, the narrowest first.

    Where skip connections lead past such a variable, the paths around it may still keep most elements apart.
    """
    active = active_variables(program.linear, program.tangents)
    by_width: dict[int, list[Any]] = {}
    for equation in program.linear.equations:
        for v in _active(equation.outvars, active):
            width = weigh(v)
            if width is not None and 1 < width < bound:
                by_width.setdefault(width, []).append(v)
    return [(same[len(same) // 2],) for _, same in sorted(by_width.items())]


def _tells_all_apart(relation: Relation, shape: Sequence[int], batch: int | None) -> bool:
    """Whether a result knows by its own position which element of the input it depends on."""
    return all(_covered(relation, axis, n) for axis, n in enumerate(shape) if n > 1 and axis != batch)


def _covered(relation: Relation, axis: int, size: int) -> bool:
    known = 1
    for tie in sorted((t for t in relation if t.inp == axis), key=lambda t: getattr(t, "in_stride", 1)):
        if not isinstance(tie, Digit):
            return True
        if tie.in_stride == known:
            known = size if tie.base == 0 else known * tie.base
    return known >= size


def _active(atoms: Iterable[Any], active: set[Any]) -> list[Any]:
    return [v for v in dict.fromkeys(filter(is_variable, atoms)) if v in active]


def _width(variables: Iterable[Any], weigh: Weigh) -> int:
    return sum(weigh(v) or 0 for v in dict.fromkeys(filter(is_variable, variables)))


def _thinned(cuts: list[Cut]) -> list[Cut]:
    """The first, the last, and some between them."""
    if len(cuts) <= _PLATEAU:
        return cuts
    return [cuts[round(k * (len(cuts) - 1) / (_PLATEAU - 1))] for k in range(_PLATEAU)]
