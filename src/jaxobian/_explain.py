"""A choice in words: `str(plan)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._cost import not_understood
from ._errors import human_bytes
from ._layout import describe
from ._linear import UNKNOWN_LINE, walk
from ._strategies import Candidate, Colored, Impossible, Problem
from ._structure import Line

WORDS = {"fwd": "forward", "rev": "reverse", "mixed": "mixed", "colored": "coloured"}


def explain(
    title: str,
    structure: str,
    problem: Problem,
    chosen: Candidate,
    candidates: Sequence[Candidate | Impossible],
    measured: dict[str, float],
) -> str:
    """`str(plan)`.

    Args:
        title: the first line.
        structure: what is known of J's structure.
        problem: what was asked for.
        chosen: what runs.
        candidates: what was looked at.
        measured: seconds that candidates took, by mode, where they were timed.
    """
    rows = [("structure", [structure])]
    rows.append(("chosen", [_passes(chosen, problem), *_costs(chosen), _time(chosen, measured)]))
    told = [note for note in (_fewer(problem, chosen, candidates), chosen.note) if note]
    notes = [("", [note]) for note in told]
    notes += [("rewritten" if k == 0 else "", [line]) for k, line in enumerate(_rewrites(chosen))]
    others = [_other(option, chosen, measured) for option in candidates if option is not chosen]
    opaque = dict.fromkeys(e.primitive.name for e in problem.structure.unknown)
    if opaque:
        notes.append(("opaque", [f"taken for dense, for want of a rule: {', '.join(opaque)}"]))
    guessed = not_understood(list(walk(problem.program.linear.equations)))
    if guessed:
        notes.append(("guessed", [f"the cost of {', '.join(guessed)}"]))
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
                return f"about as fast as {WORDS[other.mode]}; fewer passes"
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


def describe_structure(problem: Problem, chosen: Candidate, *, on_word: bool) -> str:
    """What is known of J's structure, and its size."""
    size = human_bytes(problem.jacobian_bytes)
    share = 100.0
    if isinstance(chosen.variant, Colored) and problem.batch is None:
        share = 100 * chosen.variant.nnz / max(1, problem.inputs.size * problem.outputs.size)
    if share < 99:
        return f"sparse, {share:.2g} % can be nonzero" + (f", {size}" if problem.format == "dense" else "")
    if problem.batch is not None:
        pairs = [(o, i) for o in problem.outputs.shapes for i in problem.inputs.shapes]
        (out, inp), batch = pairs[0], problem.batch
        shape = ",".join(map(str, (batch, *out, *inp)))
        shown = f"J is block-diagonal, [{shape}], " if len(pairs) == 1 else "J is block-diagonal, "
        word = " (on your word)" if on_word else ""
        axis = problem.inputs.tied[0]
        whole = human_bytes(problem.jacobian_bytes * batch)
        return f"{batch} independent examples along axis {axis}{word}: {shown}{size} (dense {whole})"
    diagonal = _diagonal_axes(problem)
    if not diagonal:
        shared = [g for c in (True, False) for g in problem.groups(forward=c) if any(g.cells)]
        return f"{'partly diagonal' if shared else 'dense'}, {size}"
    rank = max(len(aval.shape) for aval in problem.inputs.avals)
    axes = sorted({axis for axis, _ in diagonal})
    if len(axes) == rank and all(a.shape == problem.inputs.avals[0].shape for a in problem.outputs.avals):
        return f"diagonal, {size}"
    axis, n = min(diagonal)
    words = f"axis {axes[0]}" if len(axes) == 1 else f"axes {', '.join(map(str, axes))}"
    return f"block-diagonal along {words}, {size}: batch_jacobian along axis {axis} would return {n}x less"


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
    return f"about {_duration(candidate.cost.seconds)}" if seconds is None else f"took {_duration(seconds)}"


def _other(
    option: Candidate | Impossible, chosen: Candidate, measured: dict[str, float]
) -> tuple[str, list[str]]:
    """A row for a mode that was not taken."""
    if isinstance(option, Impossible):
        told = option.reason if option.mode in ("mixed", "colored") else f"impossible: {option.reason}"
        return WORDS[option.mode], [told]
    if option.mode in measured:
        return WORDS[option.mode], [_count(option), *_costs(option), _time(option, measured)]
    ratio = option.cost.seconds / chosen.cost.seconds
    compared = f"{ratio:,.0f}x slower" if ratio >= 10 else f"{ratio:.1f}x slower" if ratio >= 1.05 else "about as fast"
    return WORDS[option.mode], [_count(option), *_costs(option), compared]


def _aligned(rows: Sequence[tuple[str, list[str]]]) -> list[str]:
    """Rows with their cells in columns; a row of one cell may run on."""
    cells = [row for _, row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def columns(row: list[str]) -> str:
        return "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) if row[1:] else row[0]

    return [f"  {name:<11} {columns(row)}".rstrip() for name, row in rows]


def _passes(candidate: Candidate, problem: Problem) -> str:
    many = f" of {problem.batch} examples" if problem.batch else ""
    most = max((seeds.passes for seeds in candidate.groups or candidate.seeds), default=0)
    chunked = f", {candidate.chunk_size} at a time" if candidate.chunk_size < most else ""
    return f"{WORDS[candidate.mode]}, {_count(candidate)}{many}{chunked}"


def _count(candidate: Candidate) -> str:
    return f"{candidate.passes:,} pass{'' if candidate.passes == 1 else 'es'}"


def _costs(candidate: Candidate) -> list[str]:
    cost = candidate.cost
    return [f"{_amount(cost.flops)}FLOP", f"peak {human_bytes(cost.peak_bytes)}"]


def _amount(count: float) -> str:
    for unit in ("", "k", "M", "G", "T"):
        if count < 999.5 or unit == "T":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def _duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= 0.9995 * size or unit == "us":
            return f"{seconds / size:.0f} {unit}" if seconds >= 9.5 * size else f"{seconds / size:.1f} {unit}"
    raise AssertionError("unreachable")


def title_of(name: str, where: str, ins: Sequence[Any], outs: Sequence[Any], what: str) -> str:
    """The first line of a plan: jacobian of f (model.py:31): f32[784] -> f32[10]."""

    def side(avals: Sequence[Any]) -> str:
        shown = [describe(aval) for aval in avals[:3]] + (["..."] if len(avals) > 3 else [])
        return ", ".join(shown) if len(avals) <= 3 else f"{len(avals)} arrays ({', '.join(shown)})"

    return f"{what} of {name}{f' ({where})' if where else ''}: {side(ins)} -> {side(outs)}"
