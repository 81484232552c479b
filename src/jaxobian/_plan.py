"""Candidates -> Plan: which mode runs, and why."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._budget import Budget
from ._cost import machine, not_understood
from ._errors import MemoryBudgetError, ModeError, human_bytes
from ._layout import describe
from ._linear import LinearProgram, walk
from ._seeds import LinearMap, Seeds, Side
from ._strategies import CLEAR_WIN, Candidate, Impossible, Problem, Values, filled, forward, mixed, reverse
from ._strategies._free import Free
from ._structure import Line, Structure

_SWEEPS = {"fwd": forward, "rev": reverse}
_WORDS = {"fwd": "forward", "rev": "reverse", "mixed": "mixed"}
# On CPU a forward pass predicted to take this much longer usually does not.
_FORWARD_BONUS = 1.05

MODES = ("auto", "fwd", "rev", "mixed", "colored")


@dataclass(frozen=True)
class Choice:
    """A problem, the candidate that was chosen for it, and what else was looked at."""

    problem: Problem
    chosen: Candidate
    candidates: tuple[Candidate | Impossible, ...]

    @property
    def groups(self) -> tuple[Seeds, ...]:
        """The passes that fill J."""
        return self.chosen.groups

    @property
    def sweeps(self) -> bool:
        """Whether passes fill J directly, rather than matrices that are multiplied."""
        return self.chosen.mode in _SWEEPS

    def prepare(self, operands: Sequence[Any], xs: Sequence[Any]) -> tuple[list[Any], list[Any], Any]:
        """y, aux, and what the passes read."""
        program = self.problem.program
        assert isinstance(program, LinearProgram), "only a whole program can be evaluated"
        ys, aux, residuals = program.evaluate(operands, xs)
        if not self.sweeps:
            return ys, aux, residuals
        strategy = _SWEEPS[self.chosen.mode]
        return ys, aux, strategy.prepare(self.problem, self.chosen, Values(operands, xs, residuals))

    def blocks(self, held: Any, xs: Sequence[Any], ys: Sequence[Any], format: str) -> list[list[Any]]:
        """blocks[out][in] of J."""
        if not self.sweeps:
            return mixed.blocks(self.problem, self.chosen, held, format)
        linear, like = self.linear(held), self.like(held, xs, ys)
        return self.filled([seeds.sweep(linear, like) for seeds in self.groups], format)

    def filled(self, results: Sequence[Sequence[Any]], format: str) -> list[list[Any]]:
        """blocks[out][in] of J from what the passes brought back."""
        return filled(self.problem, self.groups, results, format)

    def like(self, held: Any, xs: Sequence[Any], ys: Sequence[Any]) -> Sequence[Any]:
        """What the seeds are made like; the rows that they are, where passes begin with some."""
        if isinstance(self.chosen.variant, Free):
            return [held[1]]
        return xs if self.groups[0].forward else ys

    def linear(self, held: Any) -> LinearMap:
        """One pass."""
        return _SWEEPS[self.chosen.mode].linear(self.problem, self.chosen, held)


def choose(
    ties: Structure,
    inputs: Side,
    outputs: Side,
    *,
    mode: str,
    prefer_reverse: bool,
    holomorphic: bool,
    chunk_size: int | None,
    budget: Budget,
    platform: str,
    format: str = "dense",
) -> Choice:
    """Let each strategy propose, and take the fastest that is possible.

    Args:
        ties: the traced and linearised function, with its ties.
        inputs: the side of x, with its batch axes.
        outputs: the side of y.
        mode: "auto" or a forced mode.
        prefer_reverse: take reverse where it is possible, whatever it costs.
        holomorphic: complex to complex, C-linear.
        chunk_size: passes at once, where the user says so.
        budget: bytes that may be allocated.
        platform: of the device: "cpu", "gpu" or "tpu".
        format: of J: "dense" or "bcoo".

    Raises:
        ModeError: the mode, or every mode, is impossible.
        MemoryBudgetError: J, or an explicit budget less J, cannot hold one pass.
    """
    problem = Problem(
        ties.program,
        ties,
        inputs,
        outputs,
        holomorphic,
        chunk_size,
        budget.limit,
        budget.explicit,
        machine(platform),
        format,
    )
    if problem.jacobian_bytes > budget.hard:
        raise MemoryBudgetError(_too_large(problem, budget, problem.jacobian_bytes))
    proposals: list[Candidate | Impossible] = [forward.propose(problem), reverse.propose(problem)]
    proposals.append(mixed.propose(problem, proposals))
    possible = [p for p in proposals if isinstance(p, Candidate)]
    if mode in _WORDS:
        forced = next(p for p in proposals if p.mode == mode)
        if isinstance(forced, Impossible):
            raise ModeError(f"{_WORDS[mode]} mode is impossible here: {forced.reason}." + _instead(possible, mode))
        possible = [forced]
    if not possible:
        reasons = "\n".join(f"  {_WORDS[p.mode]:8} {p.reason}" for p in proposals if isinstance(p, Impossible))
        raise ModeError(f"no mode can compute this Jacobian.\n{reasons}")
    chosen = _fastest(possible, problem, prefer_reverse=prefer_reverse)
    if budget.explicit and chosen.cost.peak_bytes > budget.limit:
        raise MemoryBudgetError(_too_large(problem, budget, chosen.cost.peak_bytes))
    return Choice(problem, chosen, tuple(proposals))


def _fastest(possible: Sequence[Candidate], problem: Problem, *, prefer_reverse: bool) -> Candidate:
    within = [c for c in possible if c.cost.peak_bytes <= problem.budget] or [
        min(possible, key=lambda c: c.cost.peak_bytes)
    ]
    favourite = "fwd" if problem.machine.prefers_forward else "rev"

    def handicapped(candidate: Candidate) -> float:
        if prefer_reverse:
            return float(candidate.mode != "rev")
        factor = {favourite: 1 / _FORWARD_BONUS, "mixed": CLEAR_WIN}.get(candidate.mode, 1.0)
        return factor * candidate.cost.seconds

    return min(within, key=handicapped)


def _too_large(problem: Problem, budget: Budget, needed: int) -> str:
    size = human_bytes(problem.jacobian_bytes)
    limit = (
        f"the memory budget of {human_bytes(budget.limit)}"
        if budget.explicit
        else f"all free memory ({human_bytes(budget.hard)})"
    )
    if problem.jacobian_bytes > budget.hard:
        return (
            f"J alone takes {size}, more than {limit}. Differentiate fewer inputs or outputs at a time, take the "
            "Jacobian of a batched function with batch_jacobian, or use products with J (jax.jvp, jax.vjp) instead."
        )
    return (
        f"J takes {size} and computing it one pass at a time {human_bytes(needed)} altogether, more than "
        f'{limit}. Raise the budget, for instance memory_budget="{human_bytes(1.1 * needed).replace(" ", "")}".'
    )


def _instead(possible: Sequence[Candidate], mode: str) -> str:
    others = [_WORDS[c.mode] for c in possible if c.mode != mode]
    return f' {others[0].capitalize()} mode works: leave mode="auto".' if others else ""


# Plans ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Plan:
    """How a Jacobian is computed: the choice, what it costs, and what else there was.

    Made by `jacobian(f).plan(*args)`. Calling it runs exactly this plan on other values of the same shapes.

    Attributes:
        mode: "fwd", "rev" or "mixed".
        passes: (co)tangents pushed or pulled, summed over segments, whatever the chunking.
        flops: predicted arithmetic of all passes, in floating-point operations.
        peak_bytes: predicted high-water mark of what is allocated while J is computed, J included, in bytes;
            arguments and closed-over arrays not counted.
        chunk_size: passes run at once.
        structure: what is known of J's structure.
        candidates: every mode that was looked at: a `Candidate` with its cost, or `Impossible` with the reason.
    """

    mode: str
    passes: int
    flops: float
    peak_bytes: int
    chunk_size: int
    structure: str
    candidates: tuple[Candidate | Impossible, ...]
    title: str
    choice: Choice = field(repr=False)
    _run: Callable[..., Any] = field(repr=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """J at other values of the same shapes and dtypes.

        Raises:
            PlanMismatchError: an argument is not as planned; the message names it.
        """
        return self._run(*args, **kwargs)

    def explain(self) -> str:
        """The plan in words: the choice, the other modes with their cost or why they are impossible."""
        return explain(self.title, self.structure, self.choice)

    def __str__(self) -> str:
        return self.explain()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.explain())}</pre>"


def make_plan(title: str, choice: Choice, run: Callable[..., Any], *, on_word: bool) -> Plan:
    """A plan that shows `choice` and runs it."""
    chosen, structure = choice.chosen, describe_structure(choice.problem, on_word=on_word)
    return Plan(
        chosen.mode, chosen.passes, chosen.cost.flops, chosen.cost.peak_bytes, chosen.chunk_size, structure,
        choice.candidates, title, choice, run,
    )  # fmt: skip


def explain(title: str, structure: str, choice: Choice) -> str:
    """`str(plan)`."""
    chosen, problem = choice.chosen, choice.problem
    rows = [("structure", [structure])]
    rows.append(("chosen", [_passes(chosen, problem), *_costs(chosen), f"about {_duration(chosen.cost.seconds)}"]))
    notes = [("", [note]) for note in (chosen.note,) if note]
    others = [_other(option, chosen) for option in choice.candidates if option is not chosen]
    opaque = dict.fromkeys(e.primitive.name for e in problem.structure.unknown)
    if opaque:
        notes.append(("opaque", [f"taken for dense, for want of a rule: {', '.join(opaque)}"]))
    guessed = not_understood(list(walk(problem.program.linear.equations)))
    if guessed:
        notes.append(("guessed", [f"the cost of {', '.join(guessed)}"]))
    table = _aligned([rows[1], *others])
    return "\n".join([title, *_aligned(rows[:1]), table[0], *_aligned(notes[:1]), *table[1:], *_aligned(notes[1:])])


def describe_structure(problem: Problem, *, on_word: bool) -> str:
    """What is known of J's structure, and its size."""
    size = human_bytes(problem.jacobian_bytes)
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


def _other(option: Candidate | Impossible, chosen: Candidate) -> tuple[str, list[str]]:
    """A row for a mode that was not taken."""
    if isinstance(option, Impossible):
        return _WORDS[option.mode], [option.reason if option.mode == "mixed" else f"impossible: {option.reason}"]
    ratio = option.cost.seconds / chosen.cost.seconds
    compared = f"{ratio:,.0f}x slower" if ratio >= 10 else f"{ratio:.1f}x slower" if ratio >= 1.05 else "about as fast"
    return _WORDS[option.mode], [_count(option), *_costs(option), compared]


def _aligned(rows: Sequence[tuple[str, list[str]]]) -> list[str]:
    """Rows with their cells in columns; a row of one cell may run on."""
    cells = [row for _, row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def columns(row: list[str]) -> str:
        return "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) if row[1:] else row[0]

    return [f"  {name:<11} {columns(row)}".rstrip() for name, row in rows]


def _passes(candidate: Candidate, problem: Problem) -> str:
    many = f" of {problem.batch} examples" if problem.batch else ""
    most = max(seeds.passes for seeds in candidate.groups or candidate.seeds)
    chunked = f", {candidate.chunk_size} at a time" if candidate.chunk_size < most else ""
    return f"{_WORDS[candidate.mode]}, {_count(candidate)}{many}{chunked}"


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
