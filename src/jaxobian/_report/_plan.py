"""Choice -> Plan: what runs and why, told, timed, and run again."""

from __future__ import annotations

import html
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import jax

from .._arrays import abstract, as_array, is_arraylike, is_python_number
from .._errors import MemoryBudgetError, ModeError
from .._planning import Candidate, Choice, Impossible
from .._tracebacks import entry
from ._explain import Formed, explain
from ._plot import draw

# What is so many times slower than the best is not timed.
HOPELESS = 20


class Run(Protocol):
    """Runs a choice on values of the shapes that it was made for."""

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any: ...

    def of(self, choice: Choice) -> Run:
        """The same for another choice."""
        ...


@dataclass(frozen=True)
class Source:
    """What a plan is made from: `function.plan(*args, **kwargs)`."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def shapes(self) -> tuple[Any, ...]:
        """The same with shapes in place of arrays."""
        args, kwargs = jax.tree.map(_shape, (self.args, self.kwargs))
        return self.function, args, kwargs


def _shape(leaf: Any) -> Any:
    if not is_arraylike(leaf) or is_python_number(leaf):
        return leaf
    aval = abstract(as_array(leaf))
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """How a Jacobian is computed: the choice, what it costs, and what else there was.

    Made by `jacobian(f).plan(*args)`. Calling it runs exactly this plan on other values of the same shapes. A *pass* is
    one JVP (a tangent pushed forward) or one VJP (a cotangent pulled back). Where a differentiated argument is shared
    by all examples of a batch (`in_axes=None`), passes are those of an example, and all examples run them side by
    side: flops, bytes and seconds are those of the whole call.

    A copy of a plan is the plan itself. Pickled are the function, the arguments' shapes and the mode; unpickling plans
    anew and takes that mode, so that a tuned choice is kept. That needs a function that can be pickled: one of a
    module, or any with `cloudpickle`.

    Attributes:
        mode: "fwd", "rev", "mixed" or "colored"; of something of J also "network".
        passes: JVPs and VJPs, summed over the parts of f, whatever the chunking.
        flops: predicted arithmetic of all passes, in floating-point operations.
        peak_bytes: predicted high-water mark of what is allocated while J is computed, J included, in bytes;
            arguments and closed-over arrays not counted.
        seconds: of a call, compiled and warm: measured, where `tune` timed it, or else predicted.
        chunk_size: passes run at once.
        structure: what is known of J's structure, and its size.
        candidates: every mode that was looked at: a `Candidate` with its cost, or `Impossible` with the reason.
        measured: seconds that each mode took, where `tune` timed them.
    """

    mode: str
    passes: int
    flops: float
    peak_bytes: int
    chunk_size: int
    structure: str
    candidates: tuple[Candidate | Impossible, ...]
    title: str
    choice: Choice
    _run: Run
    _source: Source
    _examples: int | None = None
    _hint: str = ""
    _formed: Callable[[], Plan] | None = None
    measured: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """What a call takes: measured, or else predicted."""
        (chosen,) = [c for c in self.candidates if isinstance(c, Candidate) and c.mode == self.mode]
        return self.measured.get(self.mode, chosen.seconds)

    def __repr__(self) -> str:
        return "\n".join(self._told(None).splitlines()[:2])  # J itself is not planned for that

    def __copy__(self) -> Plan:
        return self  # nothing in it changes

    def __deepcopy__(self, memo: Any) -> Plan:
        return self

    def __reduce__(self) -> Any:
        return _planned_anew, (*self._source.shapes(), self.mode, dict(self.measured))

    @entry
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """J at other values of the same shapes and dtypes.

        Raises:
            PlanMismatchError: an argument is not as planned; the message names it.
        """
        return self._run(*args, **kwargs)

    @entry
    def tune(self, /, *args: Any, **kwargs: Any) -> Plan:
        """Time every candidate on this device, and return the plan of the one that was fastest.

        What is predicted to take more than `HOPELESS` times as long as the best, or more memory than the budget, is
        left out.

        Args:
            *args: as for f: arrays of the shapes that were planned.
            **kwargs: as for f.

        Returns:
            A plan, whose `measured` has the seconds.

        Example:
            >>> import jax.numpy as jnp
            >>> import jaxobian as jb
            >>> x = jnp.ones(20)
            >>> plan = jb.jacobian(lambda x: jnp.tanh(x)[:5]).plan(x).tune(x)
            >>> sorted(plan.measured)
            ['fwd', 'rev']
        """
        choice = self.choice
        possible = [c for c in choice.candidates if isinstance(c, Candidate)]
        limit = HOPELESS * min(c.seconds for c in possible)
        budget = max(choice.problem.budget, choice.chosen.peak_bytes)
        timed = [c for c in possible if c.seconds <= limit and c.peak_bytes <= budget]
        plans = {c.mode: self._of(c) for c in timed}
        measured = _timed({mode: partial(plan, *args, **kwargs) for mode, plan in plans.items()})
        return replace(plans[min(measured, key=measured.__getitem__)], measured=measured)

    def plot(self, ax: Any = None) -> Any:
        """The program as a chain, its widths as thickness, the modes as arrows; needs matplotlib.

        Args:
            ax: matplotlib axes to draw into; by default those of a new figure.

        Returns:
            The axes.
        """
        return draw(self.choice.problem, self.choice.chosen, self.title, ax)

    def explain(self) -> str:
        """The plan in words: the choice, the other modes with their cost or why they are impossible."""
        return self._told(self._forming())

    def _told(self, forming: Formed | str | None) -> str:
        problem, measured = self.choice.problem, dict(self.measured)
        return explain(
            self.title, self.structure, problem, self.mode, self.candidates, measured, self._examples,
            hint=self._hint, forming=forming,
        )  # fmt: skip

    def _forming(self) -> Formed | str | None:
        """What J itself takes, where something of it is asked for, or why it cannot be formed."""
        if self._formed is None:
            return None
        try:
            plan = self._formed()
        except (MemoryBudgetError, ModeError) as error:
            return str(error).partition(". ")[0]
        return Formed(plan.passes, plan.flops, plan.peak_bytes, plan.seconds)

    def _of(self, candidate: Candidate) -> Plan:
        """The plan of the same call by another candidate."""
        choice = replace(self.choice, chosen=candidate)
        run = self._run.of(choice)
        plan = make_plan(self.title, self.structure, choice, run, self._source, self._examples, self._hint)
        return replace(plan, _formed=self._formed)

    def __str__(self) -> str:
        return self.explain()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.explain())}</pre>"


def make_plan(
    title: str, structure: str, choice: Choice, run: Run, source: Source, examples: int | None = None, hint: str = ""
) -> Plan:
    """A plan that shows `choice` and runs it.

    Args:
        title: its first line.
        structure: what is known of J's structure.
        choice: for one call of what was traced.
        run: runs it.
        source: what the plan is made from.
        examples: how many of such calls run side by side, where that is what the user asked for.
        hint: what else might be wanted.
    """
    number = 1 if examples is None else examples
    chosen, candidates = choice.chosen.times(number), tuple(c.times(number) for c in choice.candidates)
    return Plan(
        chosen.mode, chosen.passes, chosen.flops, chosen.peak_bytes, chosen.chunk_size, structure,
        candidates, title, choice, run, source, examples, hint,
    )  # fmt: skip


def _planned_anew(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], mode: str, measured: dict[str, float]
) -> Plan:
    """A plan that was pickled: its mode where that is still possible, with the times that it had."""
    plan = function.plan(*args, **kwargs)
    for candidate in plan.choice.candidates:
        if isinstance(candidate, Candidate) and candidate.mode == mode != plan.mode:
            plan = plan._of(candidate)
    return replace(plan, measured=measured)


def _timed(runs: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each, taking turns; what turns out hopeless runs twice only."""
    times: dict[str, list[float]] = {}
    for mode, run in runs.items():
        _seconds(run)  # compiles
        times[mode] = [_seconds(run)]
    best = min(map(min, times.values()))
    close = [mode for mode, each in times.items() if min(each) <= HOPELESS * best]
    turns = max(3, min(30, int(0.5 / max(best, 1e-9)))) if len(close) > 1 else 0
    for turn in range(turns):
        for mode in close if turn % 2 else close[::-1]:
            times[mode].append(_seconds(runs[mode]))
    return {mode: statistics.median(each) for mode, each in times.items()}


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start
