"""Passes, counted: how their work and memory depend on how they are chunked, and how they are chunked best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._arrays import varying_axes
from .._cost import Cost, PassWork, Work, count, nbytes, pass_work, repeated
from .._execute import Build, Recomputed, Stored, Swept
from .._primitives import is_product
from .._rewrite import hoist, skinny_matmuls
from .._seeds import UNROLLED_CHUNKS, Group, Seeds, even
from .._trace import Program, batched, closed, inlined, program_of, source_line
from ._problem import NO_WORK, Candidate, Problem

# Passes that go all the way from one side to the other.
Whole = Stored | Recomputed
# Rewrites, and modes in turn, are taken only where they are predicted to win clearly.
CLEAR_WIN = 1.3
# Chunks are taken for speed only where they are predicted to win by so much.
_CHUNKED = 1.2
# What takes so many times as long takes about as long.
_ABOUT = 1.1
# First products are made once for all where that is predicted to save so much.
_SAVED = 1.05
# Results are put into J one by one where they are so many times fewer than its elements, and no more than these.
_SPARSE, _MOST_SCATTERED = 16, 100_000
# Bytes of a chunk of passes that is summed up and let go: more save no time.
_SUMMED_BYTES = 64_000_000
# Passes are counted on so many at most.
ROWS = 64


@dataclass(frozen=True)
class PassCost:
    """One segment's passes, counted: how their work and memory depend on how they are chunked."""

    work: PassWork
    passes: int
    forward: bool
    vmapped: bool
    result_bytes: float  # that a pass brings back
    transposed_elements: float = 0.0  # elements that a forward pass brings back against the order of J
    skinny: tuple[tuple[str, str, str], ...] = ()  # products of few rows: what they are, what is better, and where
    hoisted: tuple[tuple[str, str, str], ...] = ()  # products that are made once for all that a pass seeds alike
    elements: float = 0.0  # that a pass brings back
    last: Work = NO_WORK  # elementwise work that a pass ends with, fused with what puts results in their place
    placing: Work = NO_WORK  # of all results, beside the writing of J
    scattered: bool = False  # whether they are put there one by one
    summed: bool = False  # whether results are summed up and let go, chunk by chunk

    def weights_first(self, chunking: Chunking, problem: Problem) -> bool:
        """Whether chunks put the constant of their products first."""
        return bool(self.skinny) and problem.rewrites("skinny") and chunking.width <= ROWS

    @property
    def flops(self) -> float:
        """Arithmetic of all passes, and of what is made of their results, whatever the chunking."""
        return self.work.chunk(self.passes).flops + self.placing.flops

    @property
    def compressed_bytes(self) -> float:
        """What of all passes is held until the last is made, in bytes."""
        return 0.0 if self.summed else self.result_bytes * self.passes

    def chunks(self, width: int) -> int:
        return max(1, math.ceil(self.passes / width))

    def total(self, chunking: Chunking, problem: Problem) -> Work:
        """The work of all passes."""
        width, machine = even(max(1, self.passes), chunking.width), problem.machine
        chunk = self.work.chunk(width)
        chunk = chunk._replace(bytes=chunk.bytes * machine.traffic(width * self.work.together))
        if chunking.looped:
            slowed = machine.loop_slowdown
            chunk = chunk._replace(dot=chunk.dot * slowed, conv=chunk.conv * slowed)
        elif width > 1:
            chunk += problem.repeated_work(forward=self.forward) * width
        if self.summed:
            chunk += Work(bytes=width * self.result_bytes, equations=1.0)  # they are read where they are summed up
        else:
            if chunking.width < self.passes:
                chunk += Work(bytes=2.0 * width * self.result_bytes)  # results are copied to their place in J
            chunk += Work(transposed_elements=width * self.transposed_elements)  # J's columns come back as rows
        fresh = machine.fresh(self._allocated(chunking, problem))
        return chunk * self.chunks(chunking.width) + self.placing + fresh

    def _allocated(self, chunking: Chunking, problem: Problem) -> float:
        """Bytes that XLA is likely to allocate for what it computes on the way."""
        width = even(max(1, self.passes), chunking.width)
        beside = problem.machine.overlap * (self.passes - width) if self._overlaps(chunking) else 0.0
        brought = self.compressed_bytes if width < self.passes else 0.0
        return (width + beside) * self.work.together + brought + problem.residual_bytes

    def _overlaps(self, chunking: Chunking) -> bool:
        """Whether chunks run side by side: measured, XLA lets those with convolutions or windows, if written out.

        Products and elementwise chains take their turns.
        """
        return not chunking.looped and bool(self.work.each.conv or self.work.each.window)

    def peak(self, chunking: Chunking) -> int:
        """Bytes alive on the way, at most: of one chunk, or of all that run side by side."""
        together = self.passes if self._overlaps(chunking) else chunking.width
        return math.ceil(together * self.work.intermediates)

    def seconds(self, chunking: Chunking, problem: Problem) -> float:
        return problem.machine.time(self.total(chunking, problem))


@dataclass(frozen=True)
class Chunking:
    """How many passes run at once, and whether chunks run in a loop or are written out one after the other."""

    width: int
    looped: bool


@dataclass(frozen=True, eq=False)
class Together:
    """Passes made together, traced.

    Attributes:
        program: residuals, seeds -> results.
        n_seeds: how many of its inputs, the last ones, are seeds.
        width: how many passes they carry.
        vmapped: whether they are vmapped; if they cannot be, there is one.
    """

    program: Program
    n_seeds: int
    width: int
    vmapped: bool

    def counted(
        self, passes: int, *, forward: bool, one_hot: bool = True, results: Sequence[int] | None = None
    ) -> PassCost:
        """The cost of so many passes to some of the results, by default to all; of one-hot seeds, or of any."""
        program, width = self.program if results is None else self.program.only(results), self.width
        made = program.inputs[len(program.inputs) - self.n_seeds :]
        work = pass_work(program, made, width, one_hot=one_hot, lands=True)
        offers = skinny_matmuls(program, made) if self.vmapped and min(width, passes) > 1 else {}
        skinny = tuple((offer.what, offer.by, source_line(program.equations[k])) for k, offer in offers.items())
        return PassCost(
            work,
            passes,
            forward,
            self.vmapped,
            result_bytes=sum(map(nbytes, program.out_avals)) / width,
            transposed_elements=work.transposed_elements if forward else 0.0,
            skinny=skinny,
            elements=sum(math.prod(aval.shape) for aval in program.out_avals) / width,
            last=repeated(program, program.outputs) * (1.0 / width),
        )


def traced(run: Callable[..., Any], residuals: Sequence[Any], seeds: Sequence[Any], passes: int) -> Together:
    """Passes of `run(residuals, seeds)`, on the program that vmapping it gives.

    Raises:
        Exception: whatever JAX raises where `run` cannot run in its mode.
    """
    width = max(1, min(passes, ROWS))
    try:
        program, _, _ = program_of(batched(run, width), list(residuals), list(seeds))
        return Together(inlined(program).pruned(), len(seeds), width, True)
    except Exception:
        program, _, _ = program_of(run, list(residuals), list(seeds))
        return Together(inlined(program).pruned(), len(seeds), 1, False)


def together(problem: Problem, build: Whole, passes: int, *, forward: bool) -> Together:
    """Passes of a build, traced once for all groups and strategies that ask. Raises what `traced` does."""
    key = (type(build), build.program, forward)
    if key not in problem.traces:
        seeds = problem.sides(forward=forward)[0].avals
        problem.traces[key] = traced(passing(build, forward=forward), build.read_avals, seeds, passes)
    return problem.traces[key]


def one_pass(build: Whole, seeds: Sequence[Any], *, forward: bool) -> Program:
    """A single pass: residuals, seeds -> results."""
    if forward and isinstance(build, Stored):
        return build.program.linear
    program, constants, _ = program_of(passing(build, forward=forward), list(build.read_avals), list(seeds))
    return closed(inlined(program), constants).pruned()


def passing(build: Build, *, forward: bool) -> Callable[..., Any]:
    """How a build makes a pass: residuals, seeds -> results."""
    return lambda residuals, seeds: build.linear(residuals, forward=forward)(*seeds)


def choose_chunks(problem: Problem, pass_cost: PassCost, held_bytes: int) -> Chunking:
    """How the passes are chunked: as the user says, else as is fastest, within the budget.

    Args:
        problem: the problem, with its budget and chunk_size.
        pass_cost: the passes, counted.
        held_bytes: bytes allocated whatever the width.
    """
    passes = max(1, pass_cost.passes)
    if not pass_cost.vmapped:
        return Chunking(1, passes > 1)
    room = max(0, problem.budget - held_bytes)
    room = min(room, _SUMMED_BYTES) if pass_cost.summed else room
    fits = passes if pass_cost.work.intermediates == 0 else max(1, int(room // pass_cost.work.intermediates))
    if problem.request.chunk_size is not None:
        width = min(problem.request.chunk_size, passes, fits if problem.request.bounded else passes)
        if width == passes:
            return Chunking(passes, False)
        options = [Chunking(width, True), Chunking(width, False)]
        return min(filter(_allowed(pass_cost, fits), options), key=lambda option: pass_cost.seconds(option, problem))
    widths = {even(passes, 2**k) for k in range(passes.bit_length()) if 2**k < passes}
    options = [Chunking(min(w, max(1, fits // problem.machine.loop_steps_held)), True) for w in widths]
    options += [Chunking(w, False) for w in widths]
    seconds = {option: pass_cost.seconds(option, problem) for option in filter(_allowed(pass_cost, fits), options)}
    best = min(seconds, key=seconds.__getitem__, default=None)
    if best is not None and not best.looped:
        # Of chunks that are written out and take about as long, fewer compile faster.
        close = (o for o, each in seconds.items() if not o.looped and each <= _ABOUT * seconds[best])
        best = max(close, key=lambda option: option.width)
    at_once = Chunking(passes, False)
    if best is None or (
        passes <= fits and pass_cost.seconds(at_once, problem) <= _CHUNKED * pass_cost.seconds(best, problem)
    ):
        return at_once
    return best


def _allowed(pass_cost: PassCost, fits: int) -> Callable[[Chunking], bool]:
    """Chunks are written out only where all fit at once, for nothing else bounds memory, and only a few of them."""

    def allowed(chunking: Chunking) -> bool:
        return chunking.looped or (pass_cost.passes <= fits and pass_cost.chunks(chunking.width) <= UNROLLED_CHUNKS)

    return allowed


def count_groups(problem: Problem, build: Whole, *, forward: bool) -> list[tuple[Group, PassCost]]:
    """Count the passes of each group of result arrays. Raises what `traced` does."""
    seeded, result = problem.sides(forward=forward)
    counted, made = [], together(problem, build, problem.passes(forward=forward), forward=forward)
    for group in problem.groups(forward=forward):
        seeds = Seeds(seeded, result, forward, 1, group=group)
        plain = made.counted(seeds.passes, forward=forward, results=group.results)
        counted.append((group, _with_hoisting(problem, build, seeds, plain)))
    return counted


def _placed(problem: Problem, seeds: Seeds, pass_cost: PassCost) -> PassCost:
    """The sweep with the cheaper way to put results that several elements share into their places in J.

    They are spread over J's zeros by a comparison. XLA makes that, and the elementwise work before it, for every
    element of J, if its last axis tells results apart. One by one they are first written down.
    """
    if not problem.output.whole:
        return _summed_up(problem, seeds, pass_cost)
    shared = seeds.elements_per_pass
    if shared == 1 or seeds.last_axis_is_shared or not problem.output.has_zeros:
        return pass_cost
    anew = (pass_cost.last + problem.repeated_work(forward=seeds.forward)) * (pass_cost.passes * (shared - 1))
    results = pass_cost.passes * pass_cost.elements
    one_by_one = Work(scatter=float(results))
    few = shared >= _SPARSE and results <= _MOST_SCATTERED and not any(map(varying_axes, seeds.seeded.avals))
    time = problem.machine.time
    if few and CLEAR_WIN * time(one_by_one) < time(anew):
        return replace(pass_cost, placing=one_by_one, scattered=True)
    return replace(pass_cost, placing=anew)


def _summed_up(problem: Problem, seeds: Seeds, pass_cost: PassCost) -> PassCost:
    """The passes, whose results are held beside what is on the way, and let go where they can be summed up."""
    work = pass_cost.work
    work = replace(work, intermediates=work.intermediates + pass_cost.result_bytes)
    placing = problem.output.work(problem.ends, pass_cost.passes)
    return replace(pass_cost, work=work, summed=not problem.output.keeps(seeds), placing=placing)


def _with_hoisting(problem: Problem, build: Whole, seeds: Seeds, plain: PassCost) -> PassCost:
    """The cost with first products made once for all elements that a pass seeds alike, where that is faster."""
    avals, passes, time = seeds.seeded.avals, seeds.passes, problem.machine.time
    if (
        not problem.rewrites("hoisting")
        or not plain.vmapped
        or not any(seeds.invariant_axes)
        or any(map(varying_axes, avals))
    ):
        return plain

    def spares_little(products: Sequence[Any]) -> bool:
        spared = count(Program((), (), tuple(products)))
        return time(spared) < (1 - 1 / _SAVED) * time(plain.work.each)

    # Products transposed take as long: not if all of them were spared, which is seen without a trace.
    if spares_little(list(filter(is_product, build.program.linear.equations))):
        return plain
    shared, products = hoist(one_pass(build, avals, forward=seeds.forward).only(seeds.numbers), seeds.invariant_axes)
    if spares_little(products):
        return plain

    def hoisted(residuals: Sequence[Any], small: Sequence[Any]) -> list[Any]:
        return shared(*residuals, *small)

    small = [v.aval for v in shared.inputs[len(shared.inputs) - len(avals) :]]
    pass_cost = traced(hoisted, build.read_avals, small, passes).counted(passes, forward=seeds.forward)
    if _SAVED * time(pass_cost.work.chunk(passes)) > time(plain.work.chunk(passes)):
        return plain
    words = tuple(("matmul", "hoisted out of the batch", source_line(e)) for e in products)
    return replace(pass_cost, hoisted=words)


def candidate(
    problem: Problem,
    mode: str,
    counted: Sequence[tuple[Group, PassCost]],
    *,
    held_bytes: int,
    build: Build | None = None,
    note: str = "",
    initial: tuple[tuple[int, ...], ...] | None = None,
    before: Work | None = None,
) -> Candidate:
    """A candidate of one segment, forward or reverse; its groups run one after the other.

    Args:
        problem: what is asked for.
        mode: "fwd" or "rev".
        counted: the groups, with their passes.
        held_bytes: bytes that are allocated whatever the chunking.
        build: how a pass is made; by default through the linear program.
        note: what there is to know about it.
        initial: the shapes of what rows at hand seed, where passes begin with some.
        before: work beside the passes.
    """
    forward = mode == "fwd"
    seeded, result = problem.sides(forward=forward)
    groups = [Seeds(seeded, result, forward, 1, group=group) for group, _ in counted]
    kept = [c for seeds, (_, c) in zip(groups, counted, strict=True) if problem.output.keeps(seeds)]
    held_bytes += math.ceil(sum(pass_cost.compressed_bytes for pass_cost in kept))
    held_bytes += problem.jacobian_bytes if kept and not problem.output.whole else 0
    made, sweeps, peak, words = [], [], held_bytes, ()
    for seeds, (group, unplaced) in zip(groups, counted, strict=True):
        pass_cost = _placed(problem, seeds, unplaced)
        chunking = choose_chunks(problem, pass_cost, held_bytes)
        weights_first = pass_cost.weights_first(chunking, problem)
        made.append(
            Seeds(
                seeded,
                result,
                forward,
                chunking.width,
                pass_cost.vmapped,
                chunking.looped,
                group,
                initial,
                weights_first=weights_first,
                batch_major=problem.batch_major,
                hoisted=bool(pass_cost.hoisted),
                scattered=pass_cost.scattered,
            )
        )
        words += (*pass_cost.hoisted, *(pass_cost.skinny if weights_first else ()))
        sweeps.append((pass_cost, chunking))
        peak = max(peak, held_bytes + pass_cost.peak(chunking))
    cost = cost_of(problem, sweeps, peak, before or NO_WORK)
    execution = Swept(problem.program, problem.ends, tuple(made), build or Stored(problem.program))
    return Candidate(mode, execution, cost, note, tuple(dict.fromkeys(words)))


def cost_of(problem: Problem, sweeps: Sequence[tuple[PassCost, Chunking]], peak: int, before: Work = NO_WORK) -> Cost:
    """The cost of some sweeps, each with its chunking, with the primal program and the writing of J."""
    passes = [pass_cost.total(chunking, problem) for pass_cost, chunking in sweeps]
    return cost_with(problem, [before, *passes], sum(pass_cost.flops for pass_cost, _ in sweeps), peak)


def cost_with(problem: Problem, passes: Sequence[Work], flops: float, peak: int) -> Cost:
    """The cost of some work, with the primal program and the writing of J."""
    result = problem.machine.result(float(problem.output_bytes))
    work = sum(passes, Work()) + problem.primal_work + result
    return Cost(work, flops, peak, problem.machine.call_time(work))
