"""Ways to multiply a linear program out: one file a strategy.

Each has `propose(problem) -> Candidate | Impossible`, and for its candidates `prepare(...)`, which computes what the
passes read, and `linear(...)`, one pass. `_plan` compares what they propose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from .._cost import Cost, Machine, PassWork, Work, count, nbytes, pass_work, turned
from .._layout import block_dtype, is_complex
from .._linear import LinearProgram, active_variables, batched, is_variable, obstructions, program_of
from .._seeds import UNROLLED_CHUNKS, Group, Seeds, Side, even, groups
from .._structure import Structure

# Chunks are taken for speed alone only where they are predicted to win clearly.
CLEAR_WIN = 1.3
# A host loop runs its steps on several threads, and each thread's allocator keeps the temporaries of one.
LOOP_STEPS_HELD = 4
NO_WORK = Work()


@dataclass(frozen=True)
class Problem:
    """What is asked for.

    Attributes:
        program: the traced and linearised function.
        structure: its ties.
        inputs, outputs: the two sides of J, with their tied axes.
        holomorphic: complex to complex, C-linear.
        chunk_size: passes at once, where the user says so.
        budget: bytes that may be allocated.
        bounded: whether the budget is the user's word, which even their chunk_size must obey.
        machine: constants of the device.
        format: "dense" or "bcoo".
    """

    program: LinearProgram
    structure: Structure
    inputs: Side
    outputs: Side
    holomorphic: bool
    chunk_size: int | None
    budget: int
    bounded: bool
    machine: Machine
    format: str = "dense"

    @property
    def batch(self) -> int | None:
        """Examples along the tied axis."""
        pairs = zip(self.inputs.avals, self.inputs.tied, strict=True)
        return next((aval.shape[tied] for aval, tied in pairs if tied is not None), None)

    def sides(self, *, forward: bool) -> tuple[Side, Side]:
        """The side on which seeds are put, and the one on which results land."""
        return (self.inputs, self.outputs) if forward else (self.outputs, self.inputs)

    def groups(self, *, forward: bool) -> list[Group]:
        """Which landed arrays share passes, and which elements share one."""
        seeded, landed = self.sides(forward=forward)
        return groups(self.structure.relations, seeded, landed, forward=forward)

    @cached_property
    def jacobian_bytes(self) -> int:
        """Size of J in its format, in bytes."""
        if self.format == "bcoo":
            return min(self._entries_bytes(forward=True), self._entries_bytes(forward=False))
        total = 0
        for out, out_size in zip(self.outputs.avals, self.outputs.sizes, strict=True):
            for inp, in_size in zip(self.inputs.avals, self.inputs.sizes, strict=True):
                total += out_size * in_size * block_dtype(out, inp).itemsize
        return total * (self.batch or 1)

    def _entries_bytes(self, *, forward: bool) -> int:
        """Size of the entries that passes in one direction bring back, each with its index."""
        seeded, landed = self.sides(forward=forward)
        total = 0
        for group in self.groups(forward=forward):
            colours = Seeds(seeded, landed, forward, 1, group=group).colours
            for passes, a in zip(colours, seeded.avals, strict=True):
                for number in group.landed:
                    b = landed.avals[number]
                    rank = len(a.shape) + len(b.shape)
                    total += passes * math.prod(b.shape) * (block_dtype(a, b).itemsize + 4 * rank)
        return total

    @cached_property
    def primal_work(self) -> Work:
        """Evaluating y and the residuals."""
        return count(self.program.primal)

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
        seeds: the passes that run, an entry for each segment, then one for each group that fills J.
        cost: predicted flops, traffic, peak memory and time.
        variant: which of a strategy's builds it is.
        note: what people should know about it.
    """

    mode: str
    seeds: tuple[Seeds, ...]
    cost: Cost
    variant: Any = None
    note: str = ""
    n_groups: int = 1

    @property
    def groups(self) -> tuple[Seeds, ...]:
        """The passes that fill J."""
        return self.seeds[len(self.seeds) - self.n_groups :]

    @property
    def passes(self) -> int:
        """(Co)tangents pushed or pulled, summed over segments."""
        return sum(seeds.passes for seeds in self.seeds)

    @property
    def chunk_size(self) -> int:
        """Passes run at once, of those that fill J."""
        return max(seeds.width for seeds in self.groups)


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
    """One segment's passes, counted: how their work and memory depend on how they are chunked."""

    work: PassWork
    passes: int
    vmapped: bool
    landed: float  # bytes that a pass brings back
    turned: float = 0.0  # elements that a forward pass brings back against the order of J

    @property
    def flops(self) -> float:
        """Arithmetic of all passes, whatever the chunking."""
        return self.work.chunk(self.passes).flops

    @property
    def compressed_bytes(self) -> float:
        """What all passes bring back, in bytes."""
        return self.landed * self.passes

    def chunks(self, width: int) -> int:
        return max(1, math.ceil(self.passes / width))

    def total(self, chunking: Chunking, problem: Problem) -> Work:
        """The work of all passes."""
        width, machine = even(max(1, self.passes), chunking.width), problem.machine
        temporaries = width * self.work.intermediates
        chunk = self.work.chunk(width)
        chunk = replace(chunk, bytes=chunk.bytes * machine.traffic(temporaries))
        if chunking.looped:
            slowed = machine.loop_slowdown
            chunk = replace(chunk, dot=chunk.dot * slowed, conv=chunk.conv * slowed)
        elif width > 1:
            # Outside a loop XLA may fuse the elementwise equations that make residuals into every pass.
            chunk += Work(arithmetic=problem.primal_work.arithmetic * width)
        if chunking.width < self.passes:
            chunk += Work(bytes=2.0 * width * self.landed)  # results are copied to their place in J
        chunk += Work(turned=width * self.turned)  # J's columns come back as rows
        return chunk * self.chunks(chunking.width) + machine.fresh(temporaries)

    def peak(self, chunking: Chunking) -> int:
        """Bytes alive on the way: of one chunk; of all where convolutions or windows are written out.

        Measured: XLA lets chunks of those overlap, while products and elementwise chains take their turns.
        """
        overlap = not chunking.looped and (self.work.each.conv or self.work.each.window)
        together = self.passes if overlap else chunking.width
        return math.ceil(together * self.work.intermediates)

    def seconds(self, chunking: Chunking, problem: Problem) -> float:
        return problem.machine.time(self.total(chunking, problem))


@dataclass(frozen=True)
class Chunking:
    """How many passes run at once, and whether chunks run in a loop or are written out one after the other."""

    width: int
    looped: bool


def count_passes(
    run: Callable[..., Any],
    residuals: Sequence[Any],
    seeds: Sequence[Any],
    passes: int,
    *,
    forward: bool,
    one_hot: bool = True,
) -> Sweep:
    """Count the passes of `run(residuals, seeds)` on the program that vmapping it gives.

    Raises:
        Exception: whatever JAX raises where `run` cannot run in its mode.
    """
    width = max(1, min(passes, 64))
    try:
        program, _, _ = program_of(batched(run, width), list(residuals), list(seeds))
        program, vmapped = program.pruned(), True
    except Exception:
        program, _, _ = program_of(run, list(residuals), list(seeds))
        program, width, vmapped = program.pruned(), 1, False
    work = pass_work(program, program.inputs[len(program.inputs) - len(seeds) :], width, one_hot=one_hot)
    landed = sum(map(nbytes, program.out_avals)) / width
    return Sweep(work, passes, vmapped, landed, turned(program) / width if forward else 0.0)


def choose_chunks(problem: Problem, sweep: Sweep, held: int) -> Chunking:
    """How the passes are chunked: as the user says, else as is fastest, within the budget.

    Args:
        problem: the problem, with its budget and chunk_size.
        sweep: the passes, counted.
        held: bytes allocated whatever the width.
    """
    passes = max(1, sweep.passes)
    if not sweep.vmapped:
        return Chunking(1, passes > 1)
    room = max(0, problem.budget - held)
    fits = passes if sweep.work.intermediates == 0 else max(1, int(room // sweep.work.intermediates))
    if problem.chunk_size is not None:
        width = min(problem.chunk_size, passes, fits if problem.bounded else passes)
        if width == passes:
            return Chunking(passes, False)
        options = [Chunking(width, True), Chunking(width, False)]
        return min(filter(_allowed(sweep, fits), options), key=lambda option: sweep.seconds(option, problem))
    widths = {2**k for k in range(passes.bit_length()) if 2**k < passes}
    options = [Chunking(min(w, max(1, fits // LOOP_STEPS_HELD)), True) for w in widths]
    options += [Chunking(w, False) for w in widths]
    best = min(filter(_allowed(sweep, fits), options), key=lambda o: sweep.seconds(o, problem), default=None)
    once = Chunking(passes, False)
    if best is None or (passes <= fits and sweep.seconds(once, problem) <= CLEAR_WIN * sweep.seconds(best, problem)):
        return once
    return best


def _allowed(sweep: Sweep, fits: int) -> Callable[[Chunking], bool]:
    """Chunks are written out only where all fit at once, for nothing else bounds memory, and only a few of them."""

    def allowed(chunking: Chunking) -> bool:
        return chunking.looped or (sweep.passes <= fits and sweep.chunks(chunking.width) <= UNROLLED_CHUNKS)

    return allowed


def count_groups(
    problem: Problem, run: Callable[..., Any], residuals: Sequence[Any], *, forward: bool
) -> list[tuple[Group, Sweep]]:
    """Count the passes of each group of landed arrays. Raises what `count_passes` does."""
    seeded, landed = problem.sides(forward=forward)
    counted = []
    for group in problem.groups(forward=forward):

        def part(held: Sequence[Any], seeds: Sequence[Any], group: Group = group) -> list[Any]:
            results = run(held, seeds)
            return [results[k] for k in group.landed]

        passes = Seeds(seeded, landed, forward, 1, group=group).passes
        counted.append((group, count_passes(part, residuals, seeded.avals, passes, forward=forward)))
    return counted


def candidate(
    problem: Problem,
    mode: str,
    counted: Sequence[tuple[Group, Sweep]],
    *,
    held: int,
    variant: Any = None,
    note: str = "",
    given: tuple[int, ...] | None = None,
    before: Work | None = None,
) -> Candidate:
    """A candidate of one segment, forward or reverse; its groups run one after the other."""
    forward = mode == "fwd"
    seeded, landed = problem.sides(forward=forward)
    held += math.ceil(sum(sweep.compressed_bytes for group, sweep in counted if any(group.cells)))
    made, sweeps, peak = [], [], held
    for group, sweep in counted:
        chunking = choose_chunks(problem, sweep, held)
        made.append(Seeds(seeded, landed, forward, chunking.width, sweep.vmapped, chunking.looped, group, given))
        sweeps.append((sweep, chunking))
        peak = max(peak, held + sweep.peak(chunking))
    return Candidate(mode, tuple(made), cost_of(problem, sweeps, peak, before or NO_WORK), variant, note, len(made))


def cost_of(
    problem: Problem, sweeps: Sequence[tuple[Sweep, Chunking]], peak: int, before: Work = NO_WORK
) -> Cost:
    """The cost of some sweeps, each with its chunking, with the primal program and the writing of J."""
    machine, size = problem.machine, problem.jacobian_bytes
    passes = sum((sweep.total(chunking, problem) for sweep, chunking in sweeps), Work())
    flops = sum(sweep.flops for sweep, _ in sweeps)
    work = before + passes + problem.primal_work + Work(bytes=float(size)) + machine.fresh(size)
    return Cost(work, flops, peak, machine.time(work))
