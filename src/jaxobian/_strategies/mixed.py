"""Modes in turn or side by side, where an equation forbids forward mode and another forbids reverse.

The program is cut into segments that each allow a mode. To sweep forward through the whole, the segments that only
reverse mode can do are first turned into matrices, their local Jacobians; pushing a tangent through one is then a
product. Sweeping in reverse, it is the forward-only segments that become matrices.

    J = J_k ... J_2 J_1, some of the J_i multiplied out beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from .._graph import OTHER, Segment, segments
from .._layout import is_complex, zeros_like
from .._linear import active_variables, is_variable, obstructions, pullback
from .._seeds import LinearMap, Seeds, Side
from . import (
    Candidate,
    Chunking,
    Impossible,
    Problem,
    Sweep,
    Values,
    choose_chunks,
    complex_reason,
    cost_of,
    count_passes,
)


def propose(problem: Problem) -> Candidate | Impossible:
    """The cheaper sweep over the alternating segments, or why an equation forbids them all."""
    program = problem.program
    if problem.batch is not None:
        return Impossible(
            "mixed", "modes in turn are not yet combined with a batch; use jax.vmap(jaxobian.jacobian(one))"
        )
    active = active_variables(program.linear, program.tangents)
    found = {mode: obstructions(program.linear, active, mode) for mode in OTHER}
    forbidden = {mode: {id(equation) for equation, _ in found[mode]} for mode in OTHER}
    if forbidden["fwd"] & forbidden["rev"]:
        words = [f"{o} and {r.why}" for e, o in found["fwd"] for f, r in found["rev"] if e is f]
        return Impossible("mixed", "; ".join(dict.fromkeys(words)))
    offers = []
    for first in OTHER:
        cut = segments(program, forbidden, first)
        offers += [_sweep(problem, cut, sweep) for sweep in OTHER if complex_reason(problem, sweep) is None]
    if not offers:
        return Impossible("mixed", "complex to complex needs holomorphic=True")
    return min(offers, key=lambda offer: offer.cost.seconds)


@dataclass(frozen=True)
class Chain:
    """Segments, the mode of the sweep through them all, and the passes that make matrices of the others."""

    segments: tuple[Segment, ...]
    sweep: str
    local: dict[int, Seeds]


def _sweep(problem: Problem, cut: Sequence[Segment], sweep: str) -> Candidate:
    """Price the sweep in mode `sweep`, the segments of the other mode as matrices."""
    program = problem.program
    local: dict[int, Seeds] = {}
    sweeps: list[tuple[Sweep, Chunking]] = []
    peak = held = problem.jacobian_bytes + problem.residual_bytes
    for k, segment in enumerate(cut):
        if segment.mode == sweep:
            continue
        seeds, counted = _local(problem, segment, held)
        local[k] = seeds
        matrix = 4 * seeds.seeded.size * seeds.landed.size
        peak = max(peak, held + matrix + counted.peak(Chunking(seeds.width, seeds.looped)))
        held += matrix
        sweeps.append((counted, Chunking(seeds.width, seeds.looped)))
    chain = Chain(tuple(cut), sweep, local)
    shapes = [_matrix_avals(seeds) for seeds in local.values()]

    def run(state: Sequence[Any], seeds: Sequence[Any]) -> list[Any]:
        residuals, matrices = state
        return list(_composed(problem, chain, residuals, dict(zip(local, matrices, strict=True)))(*seeds))

    forward = sweep == "fwd"
    seeded, landed = (problem.inputs, problem.outputs) if forward else (problem.outputs, problem.inputs)
    counted = count_passes(run, [program.residual_avals, shapes], seeded.avals, seeded.size, forward=forward)
    chunking = choose_chunks(problem, counted, held)
    last = Seeds(seeded, landed, forward, chunking.width, counted.vmapped, chunking.looped)
    peak = max(peak, held + counted.peak(chunking))
    cost = cost_of(problem, [*sweeps, (counted, chunking)], peak)
    return Candidate("mixed", (*local.values(), last), cost, chain, _note(chain))


def _note(chain: Chain) -> str:
    words = {"fwd": "forward", "rev": "reverse"}
    parts = [f"{words[s.mode]}{' (as a matrix)' if k in chain.local else ''}" for k, s in enumerate(chain.segments)]
    return f"from input to output: {', then '.join(parts)}; swept {words[chain.sweep]}"


def _local(problem: Problem, segment: Segment, held: int) -> tuple[Seeds, Sweep]:
    """The passes that make a segment's local Jacobian, and their count."""
    inputs, outputs = (_real(problem, vs) for vs in (segment.inputs, segment.outputs))
    forward = segment.mode == "fwd"
    seeded, landed = (inputs, outputs) if forward else (outputs, inputs)

    def run(residuals: Sequence[Any], seeds: Sequence[Any]) -> list[Any]:
        return _segment_map(problem, segment, residuals)(*seeds)

    counted = count_passes(run, problem.program.residual_avals, seeded.avals, seeded.size, forward=forward)
    chunking = choose_chunks(problem, counted, held)
    return Seeds(seeded, landed, forward, chunking.width, counted.vmapped, chunking.looped), counted


def _segment_map(problem: Problem, segment: Segment, residuals: Sequence[Any]) -> Any:
    """The linear map of one segment between real arrays, in the segment's own mode."""

    def push(*parts: Any) -> list[Any]:
        tangents = _join(problem, parts, segment.inputs)
        return _parts(problem, segment.push(residuals, tangents))

    return push if segment.mode == "fwd" else pullback(push, _real(problem, segment.inputs).avals)


def prepare(problem: Problem, candidate: Candidate, values: Values) -> Any:
    """What the passes read: the residuals, and the segments that are matrices."""
    chain, residuals = candidate.variant, values.residuals
    return residuals, {k: _matrix(problem, chain.segments[k], seeds, residuals) for k, seeds in chain.local.items()}


def linear(problem: Problem, candidate: Candidate, held: Any) -> LinearMap:
    """One pass of the sweep through all segments."""
    residuals, matrices = held
    return _composed(problem, candidate.variant, residuals, matrices)


def _matrix(problem: Problem, segment: Segment, seeds: Seeds, residuals: Sequence[Any]) -> list[list[Any]]:
    """A segment's local Jacobian: blocks[o][i], each of shape (out, in) with both flat."""
    like = [zeros_like(aval) for aval in seeds.seeded.avals]
    rows = seeds.blocks(seeds.sweep(_segment_map(problem, segment, residuals), like))
    if seeds.forward:
        rows = [list(row) for row in zip(*rows, strict=True)]
    outs, ins = (seeds.landed, seeds.seeded) if seeds.forward else (seeds.seeded, seeds.landed)
    return [
        [block.reshape(n_out, n_in) for block, n_in in zip(row, ins.sizes, strict=True)]
        for row, n_out in zip(rows, outs.sizes, strict=True)
    ]


def _matrix_avals(seeds: Seeds) -> list[list[Any]]:
    outs, ins = (seeds.landed, seeds.seeded) if seeds.forward else (seeds.seeded, seeds.landed)
    return [
        [jax.ShapeDtypeStruct((n, m), o.dtype) for m in ins.sizes] for o, n in zip(outs.avals, outs.sizes, strict=True)
    ]


def _composed(problem: Problem, chain: Chain, residuals: Sequence[Any], matrices: dict[int, Any]) -> LinearMap:
    """The linear map of all segments, those that are matrices by products, in the mode of the sweep."""

    def push(*tangents: Any) -> list[Any]:
        known = dict(zip(problem.program.tangents, tangents, strict=True))
        for k, segment in enumerate(chain.segments):
            given = [known[v] for v in segment.inputs]
            if k in matrices:
                results = _multiplied(problem, segment, matrices[k], given)
            else:
                results = segment.push(residuals, given)
            known.update(zip(segment.outputs, results, strict=True))
        return [_read(v, known) for v in problem.program.linear.outputs]

    return push if chain.sweep == "fwd" else pullback(push, problem.program.in_avals)


def _multiplied(problem: Problem, segment: Segment, matrix: list[list[Any]], given: Sequence[Any]) -> list[Any]:
    """A segment's local Jacobian times a tangent."""
    flat = [part.reshape(-1) for part in _parts(problem, given)]
    products = []
    for row, aval in zip(matrix, _real(problem, segment.outputs).avals, strict=True):
        # Each product in the dtype that the segment itself would return, also where users run strict promotion.
        terms = [jnp.dot(block.astype(t.dtype), t).astype(aval.dtype) for block, t in zip(row, flat, strict=True)]
        products.append(sum(terms[1:], terms[0]).reshape(aval.shape))
    return _join(problem, products, segment.outputs)


def _read(atom: Any, known: dict[Any, Any]) -> Any:
    if is_variable(atom) and atom in known:
        return known[atom]
    return zeros_like(atom.aval)  # an output that no tangent reaches


# A segment of a real program may begin or end at complex variables; a map between those need not be C-linear, so that
# its Jacobian is one between their real and imaginary parts.


def _splits(problem: Problem, aval: Any) -> bool:
    return is_complex(aval) and not problem.holomorphic


def _real(problem: Problem, variables: Sequence[Any]) -> Side:
    avals = []
    for v in variables:
        if _splits(problem, v.aval):
            avals += [v.aval.update(dtype=jnp.finfo(v.aval.dtype).dtype)] * 2
        else:
            avals.append(v.aval)
    return Side(tuple(avals), (None,) * len(avals))


def _parts(problem: Problem, values: Sequence[Any]) -> list[Any]:
    return [p for x in values for p in ((jnp.real(x), jnp.imag(x)) if _splits(problem, x) else (x,))]


def _join(problem: Problem, parts: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
    rest = iter(parts)
    return [jax.lax.complex(next(rest), next(rest)) if _splits(problem, v.aval) else next(rest) for v in variables]
