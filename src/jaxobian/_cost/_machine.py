"""What a device takes for each kind of work, and what is worth doing on it: one file a kind, in `devices`.

`benchmarks/calibrate.py` measures the constants and rewrites the file of the device that it runs on.
"""

from __future__ import annotations

import json
import operator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from typing import NamedTuple


class Work(NamedTuple):
    """Operations of a program, by kind. Additive: the work of two programs is their sum.

    Attributes:
        dot: multiply-adds of matrix products, in flops.
        conv: the same of convolutions.
        idle: flops that a convolution could have done while it gathers what its kernel reads.
        bytes: bytes written and read again where a fused chain of equations ends.
        scatter: elements written at computed positions, one after the other.
        gather: elements read at computed positions.
        transposed_elements: elements written across the order in which they are read, as in a transposition.
        window: elements looked at by pooling windows.
        reduce: elements summed, compared or accumulated.
        arithmetic: elementwise operations (a transcendental counts as several).
        again: operations made again wherever their results are read, such as those that make one-hot vectors.
        solve: flops of factorizations, solves and transforms.
        equations: kernels run, each of which takes a dispatch.
        library: products, solves, transforms and sorts begun, which take one of their own.
        matrices: small matrices of several that a call factors, or solves with, one after the other.
        fresh: bytes of temporaries that the system has to hand out anew, as often as they are let go.
        result: bytes of J that the system has to hand out.
    """

    dot: float = 0.0
    conv: float = 0.0
    idle: float = 0.0
    bytes: float = 0.0
    scatter: float = 0.0
    gather: float = 0.0
    transposed_elements: float = 0.0
    window: float = 0.0
    reduce: float = 0.0
    arithmetic: float = 0.0
    again: float = 0.0
    solve: float = 0.0
    equations: float = 0.0
    library: float = 0.0
    matrices: float = 0.0
    fresh: float = 0.0
    result: float = 0.0

    # Not the tuple's: work is a vector.
    def __add__(self, other: Work) -> Work:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Work(*map(operator.add, self, other))

    def __mul__(self, times: float) -> Work:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Work(*[times * a for a in self])

    def larger(self, other: Work) -> Work:
        """The dearer of two branches, kind by kind."""
        return Work(*map(max, self, other))

    @property
    def flops(self) -> float:
        """All arithmetic, in flops."""
        return self.dot + self.conv + self.window + self.reduce + self.arithmetic + self.solve


KINDS = Work._fields


@dataclass(frozen=True)
class Machine:
    """Constants of one kind of device: seconds for one unit of each kind of work, and how they were measured."""

    seconds: dict[str, float]
    measured: str
    cache_bytes: float  # intermediates of a chunk up to this size stay in the cache,
    cached: float  # where a byte costs this fraction of what it costs in memory
    arena_bytes: float  # temporaries up to this size are reused from call to call; beyond it memory is fresh
    call: float  # seconds that a call takes whatever it does
    short: float  # up to so many seconds, predictions are ranked right (9 times of 10)
    short_error: float  # where they differ by this factor,
    error: float  # and beyond by this one
    loop_slowdown: float  # XLA runs a loop's body on one core of a CPU: matrix products take this much longer
    overlap: float  # of chunks that run side by side, so much is alive at once
    loop_steps_held: int  # a host loop runs its steps on several threads, whose allocators keep the temporaries of one
    fuses_primal: bool  # the tanh and sin of residuals get fused into every reverse row
    rewrites: tuple[str, ...]  # families that are worth it: where nobody measured, those that remove work

    def shared(self, copies: int) -> Machine:
        """What is left for each of several computations that run side by side, as vmap runs them."""
        if copies == 1:
            return self
        # They are dispatched as one.
        seconds = self.seconds | {kind: self.seconds[kind] / copies for kind in ("equations", "library")}
        cache, arena = self.cache_bytes / copies, self.arena_bytes / copies
        # Products have the rows of all of them, and are not skinny.
        call, families = self.call / copies, tuple(family for family in self.rewrites if family != "skinny")
        return replace(self, seconds=seconds, cache_bytes=cache, arena_bytes=arena, call=call, rewrites=families)

    def time(self, work: Work) -> float:
        """Predicted seconds for `work`."""
        return sum(map(operator.mul, self._rates, work))

    @cached_property
    def _rates(self) -> tuple[float, ...]:
        """Seconds for one unit of each kind of work."""
        return tuple(self.seconds[kind] for kind in KINDS)

    def call_time(self, work: Work) -> float:
        """Predicted seconds for a call that does `work`."""
        return self.call + self.time(work)

    def slowest_alike(self, seconds: float) -> float:
        """The most seconds that may be predicted for what is about as fast as what `seconds` are predicted for."""
        return seconds * (self.short_error if seconds <= self.short else self.error)

    def traffic(self, temporaries: float) -> float:
        """What a byte costs where so many bytes are worked on, as a fraction of what it costs in memory."""
        hits = min(1.0, self.cache_bytes / max(1.0, temporaries))
        return 1.0 - hits * (1.0 - self.cached)

    def fresh(self, allocated: float) -> Work:
        """The work of getting memory for temporaries of that size, in bytes."""
        return Work(fresh=allocated if allocated > self.arena_bytes else 0.0)

    def result(self, size: float) -> Work:
        """The work of getting memory for results of that size, in bytes, and of writing them."""
        return Work(bytes=size, result=size if size > self.arena_bytes else 0.0)


@cache
def machine(platform: str) -> Machine:
    """The constants for a platform ("cpu", "gpu", "tpu"); an unknown one is taken for a GPU."""
    devices = files(__package__ or "").joinpath("devices")
    known = devices.joinpath(f"{platform}.json")
    entry = json.loads((known if known.is_file() else devices.joinpath("gpu.json")).read_text())
    return Machine(**entry | {"rewrites": tuple(entry["rewrites"])})


@dataclass(frozen=True)
class Cost:
    """What a candidate is predicted to take.

    Attributes:
        work: operations of the primal program and of all passes, by kind.
        flops: arithmetic of all passes.
        peak_bytes: all that is allocated while J is computed, J included.
        seconds: predicted time.
    """

    work: Work
    flops: float
    peak_bytes: int
    seconds: float
