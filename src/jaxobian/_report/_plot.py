"""A choice as a picture: the program as a chain, its widths as thickness, the modes as arrows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from .._arrays import is_inexact
from .._planning import Candidate, Factored, Part, Problem, Sum, Through, nodes
from .._trace import UNKNOWN_LINE, active_variables, is_variable, source_line
from .._words import WORDS, pass_count

_COLORS = {"fwd": "tab:blue", "rev": "tab:orange"}


def draw(problem: Problem, candidate: Candidate, title: str, ax: Any = None) -> Any:
    """Draw `candidate` into matplotlib's axes `ax`, or into new ones, which are returned."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(9, 3.6), layout="constrained")
    mixed = candidate.execution if isinstance(candidate.execution, Factored) else None
    problem = mixed.example if mixed else problem
    places, widths = _profile(problem)
    heights = [math.log2(1 + width) for width in widths]
    top = max(heights)
    steps = range(len(heights))
    ax.fill_between(steps, [-h for h in heights], heights, color="0.85", edgecolor="0.6", linewidth=0.8)
    last = len(widths) - 1
    for end, name, side in ((0, "x", "right"), (last, "y", "left")):
        margin = 0.02 * last if end else -0.02 * last
        ax.text(end + margin, 0, f"{name}\n{widths[end]:,}", ha=side, va="center")
    for cut in mixed.cuts if mixed else ():
        at = _place(cut, places)
        width = sum(v.aval.size for v in cut) // (mixed.example.batch or 1) if mixed else 0
        lines = dict.fromkeys(source_line(e) for v in cut for e in _makers(problem, v))
        label = "\n".join([f"{width:,} wide", ", ".join(line for line in lines if line != UNKNOWN_LINE)])
        ax.plot((at, at), (-1.1 * top, 1.1 * top), color="tab:red", linestyle="--", linewidth=1.2)
        ax.text(at, -1.15 * top, label, ha="center", va="top", color="tab:red")
    level = top
    for first, end, mode, text, level in _arrows(candidate, mixed, places, last, top):
        start, stop = (first, end) if mode == "fwd" else (end, first)
        arrow = {"arrowstyle": "-|>", "color": _COLORS[mode], "linewidth": 2}
        ax.annotate("", (stop, level), (start, level), arrowprops=arrow)
        ax.text((first + end) / 2, level + 0.04 * top, text, ha="center", va="bottom", color=_COLORS[mode])
    ax.set(title=title, xlim=(-0.12 * last, 1.12 * last), ylim=(-1.75 * top, level + 0.35 * top))
    ax.axis("off")
    return ax


def _profile(problem: Problem) -> tuple[dict[Any, int], list[int]]:
    """Where each variable stands along the program, and how many elements an example has there."""
    program, batch = problem.program, problem.batch or 1
    active = active_variables(program.linear, program.tangents)
    places = dict.fromkeys(program.tangents, 0)
    widths = [sum(v.aval.size for v in program.tangents) // batch]
    for equation in program.linear.equations:
        made = [v for v in equation.outvars if v in active and is_inexact(v.aval)]
        if made:
            places.update(dict.fromkeys(made, len(widths)))
            widths.append(max(1, sum(v.aval.size for v in made) // batch))
    widths.append(sum(v.aval.size for v in program.linear.outputs) // batch)
    return places, widths


def _place(variables: Sequence[Any], places: dict[Any, int]) -> int:
    return max((places[v] for v in variables if is_variable(v) and v in places), default=0)


def _makers(problem: Problem, variable: Any) -> Iterator[Any]:
    return (e for e in problem.program.linear.equations if variable in e.outvars)


def _arrows(
    candidate: Candidate, mixed: Factored | None, places: dict[Any, int], last: int, top: float
) -> Iterator[tuple[int, int, str, str, float]]:
    """From, to, mode, text and height of an arrow for every sweep; those that begin with rows at hand stand higher."""
    level, step = 1.15 * top, 0.3 * top
    if mixed is None:
        for mode, text in _sweeps(candidate):
            yield 0, last, mode, text, level
            level += step
        return
    outputs = mixed.example.program.linear.outputs
    for node in nodes(mixed.root):
        if isinstance(node, Sum):
            for mode, text in _sweeps(node.direct.candidate):
                level += step
                yield 0, last, mode, f"around: {text}", level
        elif isinstance(node, Part | Through) and not _is_direct(node, mixed):
            begin, end = node.span
            seeds = node.candidate.seeds if isinstance(node, Part) else (node.passes,)
            mode = "fwd" if seeds[0].forward else "rev"
            to = last if end is outputs or tuple(end) == tuple(outputs) else _place(end, places)
            height = level + step * isinstance(node, Through)
            yield _place(begin, places), to, mode, _text(mode, sum(s.passes for s in seeds)), height


def _sweeps(candidate: Candidate) -> Iterator[tuple[str, str]]:
    """Mode and text of each way in which a candidate goes through the program: colors may go both ways, or none."""
    if candidate.mode != "colored":
        yield candidate.mode, _text(candidate.mode, candidate.passes)
        return
    for seeds in candidate.seeds:
        mode = "fwd" if seeds.forward else "rev"
        yield mode, f"{WORDS['colored']}, {_text(mode, seeds.passes)}"


def _is_direct(node: Any, mixed: Factored) -> bool:
    return any(isinstance(n, Sum) and n.direct is node for n in nodes(mixed.root))


def _text(mode: str, passes: int) -> str:
    return f"{WORDS[mode]}, {pass_count(passes)}"
