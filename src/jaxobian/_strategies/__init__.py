"""Ways to multiply a linear program out: one file a strategy.

Each has `propose(problem) -> Candidate | Impossible`, and for its candidates `prepare(...)`, which computes what the
passes read, and `linear(...)`, one pass. `_plan` compares what they propose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .._cost import Cost, Machine, PassWork, Work, nbytes, pass_work
from .._layout import block_dtype, is_complex
from .._linear import LinearProgram, active_variables, batched, is_variable, obstructions, program_of
from .._seeds import UNROLLED_CHUNKS, Seeds, Side

# Chunks are taken for speed alone only where they are predicted to win clearly.
CLEAR_WIN = 1.3
# A host loop runs its steps on several threads, and each thread's allocator keeps the temporaries of one.
LOOP_STEPS_HELD = 4


@dataclass(frozen=True)
class Problem:
    """What is asked for.

    Attributes:
        program: the traced and linearised function.
        inputs, outputs: the two sides of J, with their tied axes.
        holomorphic: complex to complex, C-linear.
        chunk_size: passes at once, where the user says so.
        budget: bytes that may be allocated.
        bounded: whether the budget is the user's word, which even their chunk_size must obey.
        machine: constants of the device.
    """

    program: LinearProgram
    inputs: Side
    outputs: Side
    holomorphic: bool
    chunk_size: int | None
    budget: int
    bounded: bool
    machine: Machine

    @property
    def batch(self) -> int | None:
        """Examples along the tied axis."""
        pairs = zip(self.inputs.avals, self.inputs.tied, strict=True)
        return next((aval.shape[tied] for aval, tied in pairs if tied is not None), None)

    @property
    def jacobian_bytes(self) -> int:
        """Size of J, in bytes."""
        total = 0
        for out, out_size in zip(self.outputs.avals, self.outputs.sizes, strict=True):
            for inp, in_size in zip(self.inputs.avals, self.inputs.sizes, strict=True):
                total += out_size * in_size * block_dtype(out, inp).itemsize
        return total * (self.batch or 1)

    @property
    def residual_bytes(self) -> int:
        """What the linear program reads besides its seeds, arguments and closed-over arrays not counted."""
        given = {*self.program.primal.inputs}
        residuals = self.program.primal.outputs[len(self.program.function.outputs) :]
        return sum(nbytes(v.aval) for v in dict.fromkeys(filter(is_variable, residuals)) if v not in given)


@dataclass(frozen=True)
class Candidate:
    """One way to compute J, and what it is predicted to take.

    Attributes:
        mode: "fwd", "rev" or "mixed".
        seeds: the passes that run, one entry a segment.
        cost: predicted flops, traffic, peak memory and time.
        variant: which of a strategy's builds it is.
        note: what people should know about it.
    """

    mode: str
    seeds: tuple[Seeds, ...]
    cost: Cost
    variant: Any = None
    note: str = ""

    @property
    def passes(self) -> int:
        """(Co)tangents pushed or pulled, summed over segments."""
        return sum(seeds.passes for seeds in self.seeds)

    @property
    def chunk_size(self) -> int:
        """Passes run at once, in the last segment."""
        return self.seeds[-1].width


@dataclass(frozen=True)
class Impossible:
    """A mode that cannot compute J, and why."""

    mode: str
    reason: str


@dataclass(frozen=True)
class Values:
    """What evaluating the primal program leaves for the passes."""

    operands: Sequence[Any]
    xs: Sequence[Any]
    residuals: Sequence[Any]


def complex_reason(problem: Problem, mode: str) -> str | None:
    """Why `mode` would give the wrong answer for complex numbers, or None."""
    if problem.holomorphic:
        return None
    side, name = (problem.inputs, "inputs") if mode == "fwd" else (problem.outputs, "outputs")
    if any(is_complex(aval) for aval in side.avals):
        word = "forward" if mode == "fwd" else "reverse"
        return f"{word} mode needs real {name}; for a holomorphic function pass holomorphic=True"
    return None


def forbidden_reason(problem: Problem, mode: str, error: Exception | None = None) -> str | None:
    """The equations that forbid `mode`, in the user's words; the error itself where none does alone."""
    linear, tangents = problem.program.linear, problem.program.tangents
    found = obstructions(linear, active_variables(linear, tangents), mode)
    return "; ".join(dict.fromkeys(str(o) for _, o in found)) or (str(error) if error else None)


@dataclass(frozen=True)
class Sweep:
    """One segment's passes, counted: how its time and memory depend on the number run at once."""

    work: PassWork
    passes: int
    vmapped: bool

    def chunks(self, width: int) -> int:
        return max(1, math.ceil(self.passes / width))

    def seconds(self, width: int, machine: Machine) -> float:
        """Predicted time of all passes, `width` at once."""
        chunk = self.work.chunk(width)
        cached = width * self.work.intermediates <= machine.cache_bytes
        chunk = chunk if not cached else chunk.with_bytes(chunk.bytes * machine.cached)
        return self.chunks(width) * machine.time(chunk) + machine.pages(width * self.work.intermediates)

    def total(self, width: int) -> Work:
        return self.work.fixed * self.chunks(width) + self.work.each * self.passes


def count_passes(run: Callable[..., Any], residuals: Sequence[Any], seeds: Sequence[Any], passes: int) -> Sweep:
    """Count the passes of `run(residuals, seeds)` on the program that vmapping it gives.

    Raises:
        Exception: whatever JAX raises where `run` cannot run in its mode.
    """
    width = max(1, min(passes, 64))
    try:
        program, _, _ = program_of(batched(run, width), list(residuals), list(seeds))
        vmapped = True
    except Exception:
        program, _, _ = program_of(run, list(residuals), list(seeds))
        width, vmapped = 1, False
    return Sweep(pass_work(program, program.inputs[len(program.inputs) - len(seeds) :], width), passes, vmapped)


def choose_width(problem: Problem, sweep: Sweep, held: int) -> tuple[int, bool]:
    """How many passes run at once, and whether chunks run in a loop.

    Args:
        problem: the problem, with its budget and chunk_size.
        sweep: the passes, counted.
        held: bytes allocated whatever the width.

    Returns:
        The width; True where chunks are to run in a loop, which bounds memory.
    """
    passes = max(1, sweep.passes)
    room = max(0, problem.budget - held)
    fits = passes if sweep.work.intermediates == 0 else int(room // sweep.work.intermediates)
    if not sweep.vmapped:
        return 1, passes > UNROLLED_CHUNKS
    if problem.chunk_size is not None:
        width = min(problem.chunk_size, passes, max(1, fits) if problem.bounded else passes)
    else:
        width = max(1, min(fits, _fastest_width(problem, sweep)))
    unrolled = sweep.chunks(width) <= UNROLLED_CHUNKS and passes <= fits
    if problem.chunk_size is None and not unrolled and width < passes:
        width = max(1, min(width, fits // LOOP_STEPS_HELD))
    return width, width < passes and not unrolled


def _fastest_width(problem: Problem, sweep: Sweep) -> int:
    passes = max(1, sweep.passes)
    widths = {passes, *(2**k for k in range(3, passes.bit_length()))}
    best = min(widths, key=lambda width: sweep.seconds(width, problem.machine))
    once = sweep.seconds(passes, problem.machine)
    return best if once > CLEAR_WIN * sweep.seconds(best, problem.machine) else passes


def candidate(problem: Problem, mode: str, sweep: Sweep, *, held: int, variant: Any = None, note: str = "") -> Candidate:
    """A candidate of one segment, forward or reverse."""
    width, looped = choose_width(problem, sweep, held)
    forward = mode == "fwd"
    seeded, landed = (problem.inputs, problem.outputs) if forward else (problem.outputs, problem.inputs)
    seeds = Seeds(seeded, landed, forward, width, sweep.vmapped, looped)
    total = sweep.total(width)
    peak = held + math.ceil(min(width, max(1, sweep.passes)) * sweep.work.intermediates)
    seconds = sweep.seconds(width, problem.machine) + problem.machine.time(Work(bytes=float(problem.jacobian_bytes)))
    return Candidate(mode, (seeds,), Cost(total.flops, total.bytes, peak, seconds), variant, note)
