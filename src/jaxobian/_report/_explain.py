"""A choice in words: `str(plan)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .._analysis import Line
from .._arrays import describe
from .._cost import not_understood
from .._outputs import Gram
from .._planning import Candidate, Impossible, Problem
from .._trace import UNKNOWN_LINE, walk
from .._words import counted, human_bytes, human_flops, human_seconds, listed, pass_count, word

# Modes whose `Impossible` may mean that there is nothing to win.
_OPTIONAL = ("mixed", "colored", "network")
# Of a J of so many bytes a plan says what is there without it, where that takes so many times less.
_LARGE, _LESS = 50e6, 4
_GRAMS = {
    "out": ("J J^T (by parameters of a network its tangent kernel)", "..."),
    "in": ("J^T J (the Gauss-Newton matrix)", '..., side="in"'),
}


class Formed(NamedTuple):
    """What J itself takes, where something of it is asked for."""

    passes: int
    flops: float
    peak_bytes: float
    seconds: float


def explain(
    title: str,
    structure: str,
    problem: Problem,
    chosen: str,
    candidates: Sequence[Candidate | Impossible],
    measured: dict[str, float],
    examples: int | None = None,
    *,
    hint: str = "",
    forming: Formed | str | None = None,
) -> str:
    """`str(plan)`.

    Args:
        title: the first line.
        structure: what is known of J's structure.
        problem: what was asked for.
        chosen: the mode that runs.
        candidates: what was looked at.
        measured: seconds that candidates took, by mode, where they were timed.
        examples: how many examples each of these is made for, one beside the other.
        hint: what else might be wanted.
        forming: what J takes, where something of it is asked for; in words, why it cannot be formed.
    """
    (best,) = [c for c in candidates if isinstance(c, Candidate) and c.mode == chosen]
    rows = [("structure", [structure])]
    rows.append(("chosen", [_passes(best, examples or problem.batch), *_costs(best), _time(best, measured)]))
    told = [note for note in (_fewer(problem, best, candidates), best.note) if note]
    notes = [("", [note]) for note in told]
    notes += [("rewritten" if k == 0 else "", [line]) for k, line in enumerate(_rewrites(best))]
    shown = (c for c in candidates if c is not best and (isinstance(c, Candidate) or c.told))
    others = [_other(option, best, measured, problem.budget * (examples or 1)) for option in shown]
    if forming is not None:
        others.append(("forming J", _formed(forming, best)))
    if hint:
        notes.append(("hint", [hint]))
    unknown = dict.fromkeys(e.primitive.name for e in problem.structure.unknown)
    if unknown:
        notes.append(("unknown", [f"treated as dense: {', '.join(unknown)} (no structure rule)"]))
    guessed = not_understood(list(walk(problem.program.linear.equations)))
    if guessed:
        notes.append(("unknown cost", [", ".join(guessed)]))
    table = _aligned([rows[1], *others])
    first = len(told)
    return "\n".join(
        [title, *_aligned(rows[:1]), table[0], *_aligned(notes[:first]), *table[1:], *_aligned(notes[first:])]
    )


def _fewer(problem: Problem, chosen: Candidate, candidates: Sequence[Candidate | Impossible]) -> str:
    """Why forward or reverse runs where the other is predicted to take less time; nothing where it is not."""
    for other in candidates:
        if isinstance(other, Candidate) and {other.mode, chosen.mode} == {"fwd", "rev"}:
            faster = other.cost.seconds < chosen.cost.seconds <= problem.machine.slowest_alike(other.cost.seconds)
            if faster and chosen.passes < other.passes:
                return f"about as fast as {word(other.mode)}; fewer passes"
    return ""


def _rewrites(chosen: Candidate) -> list[str]:
    """What was replaced, by what, and where: 2 max-pool gradients -> a mask (model.py:22, model.py:24)."""
    lines = []
    for what, by in dict.fromkeys((what, by) for what, by, _ in chosen.rewrites):
        found = [place for one, other, place in chosen.rewrites if (one, other) == (what, by)]
        places = [place for place in dict.fromkeys(found) if place != UNKNOWN_LINE]
        count = what if len(found) == 1 else f"{len(found)} {what}s"
        where = f" ({', '.join(places)})" if places else ""
        lines.append(f"{count} -> {by}{where}")
    return lines


def describe_structure(
    problem: Problem,
    candidates: Sequence[Candidate | Impossible],
    *,
    asserted: bool = False,
    examples: int | None = None,
) -> str:
    """What is known of J's structure, and its size.

    Args:
        problem: what was asked for.
        candidates: what was looked at; colored mode knows how many elements can be nonzero, where it looked for them.
        asserted: whether the user says that examples are independent.
        examples: of how many examples each is such a problem, where they share an argument.
    """
    size, density = human_bytes(problem.jacobian_bytes), _density(problem, candidates)
    if examples is not None:
        whole = human_bytes(examples * problem.jacobian_bytes)
        return f"{_zeros(density)}, {whole} ({counted(examples, 'example')} x {size})"
    if problem.batch is not None:
        pairs = [(o, i) for o in problem.outputs.shapes for i in problem.inputs.shapes]
        (out, inp), batch = pairs[0], problem.batch
        shape = ",".join(map(str, (batch, *out, *inp)))
        shown = f"J is block-diagonal, [{shape}], " if len(pairs) == 1 else "J is block-diagonal, "
        word = " (independent=True)" if asserted else ""
        axis = problem.inputs.batch_axes[0]
        whole = human_bytes(problem.jacobian_bytes * batch)
        within = f"; blocks {_zeros(density)}" if density is not None and density < 1 else ""
        return f"{batch} independent examples along axis {axis}{word}: {shown}{size} (dense {whole}){within}"
    diagonal = _diagonal_axes(problem)
    if not diagonal or not problem.output.has_zeros:
        shared = [g for c in (True, False) for g in problem.groups(forward=c) if any(g.cells)]
        known = "some blocks are diagonal" if shared and density in (None, 1.0) else _zeros(density)
        return f"{known}, {size}" if problem.output.has_zeros else known
    rank = max(len(aval.shape) for aval in problem.inputs.avals)
    axes = sorted({axis for axis, _ in diagonal})
    if len(axes) == rank and all(a.shape == problem.inputs.avals[0].shape for a in problem.outputs.avals):
        return f"diagonal, {size}"
    axis, n = min(diagonal)
    words = f"axis {axes[0]}" if len(axes) == 1 else f"axes {', '.join(map(str, axes))}"
    return f"block-diagonal along {words}, {size}: batch_jacobian along axis {axis} would return {n}x less"


def _density(problem: Problem, candidates: Sequence[Candidate | Impossible]) -> float | None:
    """The fraction of J's elements, or of an example's, that can be nonzero; None where nobody looked."""
    for candidate in candidates:
        if candidate.nnz is not None:
            return candidate.nnz / max(1, problem.inputs.size * problem.outputs.size)
    return None


def _zeros(density: float | None) -> str:
    if density is None:
        return "sparsity not analyzed"
    if density >= 0.99:
        return "no zeros found" if density == 1 else "dense"
    return f"{'sparse, ' if density < 0.5 else ''}{100 * density:.2g} % can be nonzero"


def _diagonal_axes(problem: Problem) -> set[tuple[int, int]]:
    """Axes of every input, with their sizes, that are tied to the axis of the same number of every output."""
    found: set[tuple[int, int]] | None = None
    for out, dependence in zip(problem.outputs.avals, problem.structure.relations, strict=True):
        for j, relation in dependence.items():
            shape = problem.inputs.avals[j].shape
            mine = {
                (tie.inp, shape[tie.inp])
                for tie in relation
                if tie == Line(tie.inp, tie.inp, 1, 0) and out.shape[tie.inp] == shape[tie.inp]
            }
            found = mine if found is None else found & mine
    return found or set()


def _time(candidate: Candidate, measured: dict[str, float]) -> str:
    seconds = measured.get(candidate.mode)
    return f"predicted {human_seconds(candidate.seconds)}" if seconds is None else f"measured {human_seconds(seconds)}"


def _other(
    option: Candidate | Impossible, chosen: Candidate, measured: dict[str, float], budget: int
) -> tuple[str, list[str]]:
    """A row for a mode that was not taken."""
    if isinstance(option, Impossible):
        told = option.reason if option.mode in _OPTIONAL else f"impossible: {option.reason}"
        return word(option.mode), [told]
    if option.mode in measured:
        return word(option.mode), [pass_count(option.passes), *_costs(option), _time(option, measured)]
    compared = _compared(option.seconds, chosen)
    if option.peak_bytes > budget:
        compared += f", over the budget of {human_bytes(budget)}"
    if measured:
        compared = f"not measured: predicted {human_seconds(option.seconds)}"
    return word(option.mode), [pass_count(option.passes), *_costs(option), compared]


def _compared(seconds: float, chosen: Candidate) -> str:
    ratio = seconds / chosen.seconds
    return f"{ratio:,.0f}x slower" if ratio >= 10 else f"{ratio:.1f}x slower" if ratio >= 1.05 else "about as fast"


def _formed(forming: Formed | str, chosen: Candidate) -> list[str]:
    """The cells of J itself."""
    if isinstance(forming, str):
        return [forming]
    costs = [human_flops(forming.flops), f"peak {human_bytes(forming.peak_bytes)}"]
    return [pass_count(forming.passes), *costs, _compared(forming.seconds, chosen)]


def without_j(problem: Problem, examples: int | None = None) -> str:
    """What is there without J, where that is large.

    Args:
        problem: J's.
        examples: of how many examples each is such a problem, where they share an argument.
    """
    if problem.output.name != "dense" or (examples or 1) * problem.jacobian_bytes < _LARGE:
        return ""
    if problem.outputs.size == 1 and (examples or problem.batch):
        return "the squared norms of these gradients are there without them: J.squared_norms(...)"
    side = "out" if problem.outputs.size <= problem.inputs.size else "in"
    size, what, own = Gram(side).size(problem.ends, ()), *_GRAMS[side]
    if _LESS * size > problem.jacobian_bytes:
        return ""
    return f"{what}, {human_bytes((examples or 1) * size)}, is there without J: J.gram({own})"


def _aligned(rows: Sequence[tuple[str, list[str]]]) -> list[str]:
    """Rows with their cells in columns; a row of one cell may run on."""
    cells = [row for _, row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def columns(row: list[str]) -> str:
        return "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) if row[1:] else row[0]

    return [f"  {name:<12} {columns(row)}".rstrip() for name, row in rows]


def _passes(candidate: Candidate, examples: int | None) -> str:
    many = f" of {counted(examples, 'example')}" if examples else ""
    most = max((seeds.passes for seeds in candidate.seeds), default=0)
    chunked = f", chunk_size={candidate.chunk_size}" if candidate.chunk_size < most else ""
    return f"{word(candidate.mode)}, {pass_count(candidate.passes)}{many}{chunked}"


def _costs(candidate: Candidate) -> list[str]:
    return [human_flops(candidate.flops), f"peak {human_bytes(candidate.peak_bytes)}"]


def title_of(name: str, where: str, ins: Sequence[Any], outs: Sequence[Any], what: str) -> str:
    """The first line of a plan: jacobian of f (model.py:31): f32[784] -> f32[10]."""

    def side(avals: Sequence[Any]) -> str:
        return listed([describe(aval) for aval in avals])

    return f"{what} of {name}{f' ({where})' if where else ''}: {side(ins)} -> {side(outs)}"
