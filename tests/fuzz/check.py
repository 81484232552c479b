"""One program in every mode and format, its ties and pattern, what is made of its J, and a batch of it, against JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from oracles import assert_sound, structure_of

import jaxobian as jb

from .judge import blocks_of, by_jax, by_jax_quickly, difference, fault, finite, reversible, tolerance
from .program import Program
from .quantities import check_quantities
from .tally import Tally

MODES = ("fwd", "rev", "mixed", "colored")
EXAMPLES = 2


def check(program: Program, tally: Tally, *, all_modes: bool = True, eager: bool = True) -> None:
    """Assert that a program's Jacobians are what JAX says; take down what was seen.

    Args:
        program: a random program.
        tally: where it is taken down.
        all_modes: whether every mode that is possible is forced in every format, or one of each.
        eager: whether JAX, which judges, compiles each operation alone.
    """
    judge = by_jax if eager else by_jax_quickly
    with program.numbers():
        expected = blocks_of(judge(program, program.inputs()))
        tally.begin(program)
        if not finite(expected):
            tally.not_finite += 1
            return
        _check_structure(program, expected, tally)
        transforms = _transforms(program, all_modes, tally)
        _check_values(program, transforms, expected, tally)
        check_quantities(program, expected, tally, all_modes=all_modes)
        if all_modes or program.seed % 4 == 1:
            batch = _batch(program, tally)
            if all_modes or program.seed % 8 == 1:
                rest = [blocks_of(judge(program, program.inputs(example))) for example in range(1, EXAMPLES)]
                _check_batch(program, batch, [expected, *rest], tally)


# Ties and patterns --------------------------------------------------------------------------------------------


def _check_structure(program: Program, expected: Sequence[np.ndarray], tally: Tally) -> None:
    inputs = program.inputs()
    rows = [list(expected[k : k + len(inputs)]) for k in range(0, len(expected), len(inputs))]
    assert_sound(structure_of(lambda *xs: program.values(xs, program.index), *inputs), rows)
    f = (lambda *args: program(*args)[0]) if program.has_aux else program
    pattern = jb.sparsity(f, *program.args(), argnums=program.argnums)
    sizes = [x.size for x in inputs]
    true = np.concatenate([
        np.concatenate([block.reshape(-1, n) != 0 for block, n in zip(row, sizes, strict=True)], 1) for row in rows
    ])  # fmt: skip
    assert pattern.shape == true.shape
    missing = int((true & ~pattern.todense()).sum())
    tally.missing_nonzeros += missing
    tally.nonzeros += int(true.sum())
    tally.in_patterns += pattern.nnz
    assert not missing, f"{missing} nonzeros are not in the pattern"


# Values -------------------------------------------------------------------------------------------------------


def _transforms(program: Program, all_modes: bool, tally: Tally) -> dict[str, Callable[..., Any]]:
    """Jacobians by mode and format; the program itself stands for what JAX differentiates."""
    rng = np.random.default_rng(program.seed)
    chunk_size = [None, None, 1, 2, 5][rng.integers(5)]
    forced = MODES if all_modes else (MODES[program.seed % len(MODES)],)
    asked: list[tuple[Any, Any]] = [(mode, format) for mode in ("auto", *forced) for format in ("dense", "bcoo")]
    if not all_modes:
        asked = [("auto", "dense"), (forced[0], "dense") if program.seed // 4 % 2 else ("auto", "bcoo")]
    possible = {"rev": reversible(program), "fwd": program.kind != "complex to real" and not program.needs("rev")}
    made = {}
    for mode, format in asked:
        transform = jb.jacobian(
            program, program.argnums, mode=mode, format=format, chunk_size=chunk_size,
            has_aux=program.has_aux, holomorphic=program.holomorphic,
        )  # fmt: skip
        try:
            chosen = transform.plan(*program.args()).mode
        except jb.ModeError:
            assert mode != "auto", "some mode, or sequence of modes, works"
            assert not possible.get(mode), f"JAX can: {mode}"
            tally.refused[mode] += 1
            continue
        tally.count(mode, format, chosen)
        made[f"{mode} {format}"] = transform
    return made


def _check_values(
    program: Program, transforms: dict[str, Callable[..., Any]], expected: Sequence[np.ndarray], tally: Tally
) -> None:
    """Compiled together, in one program of XLA's, or one after the other by ourselves."""
    args = program.args()
    if program.seed % 3:
        found = jax.jit(lambda *args: {name: transform(*args) for name, transform in transforms.items()})(*args)
    else:
        found = {name: transform(*args) for name, transform in transforms.items()}
    y = jax.eval_shape(lambda *xs: program.values(xs, program.index), *program.inputs())
    dtypes = [jnp.promote_types(out.dtype, x.dtype) for out in y for x in program.inputs()]
    most = tolerance(program)
    for name, J in found.items():
        if program.has_aux:
            J, aux = J
            assert [v.shape for v in jax.tree.leaves(aux)] == [(), *(out.shape for out in y)]
        blocks = blocks_of(J)
        apart = difference(blocks, expected)
        assert [b.dtype for b in blocks] == dtypes, f"{name}: dtypes {[str(b.dtype) for b in blocks]}"
        if apart > most:
            ours = _without_aux(program, transforms[name])
            whose = fault(program, ours, args, None, expected, most)
            assert whose != "ours", f"{name}: {apart:.1e} from what JAX says, where {most:.0e} is allowed"
            tally.blame(whose, program, name)
            continue
        tally.jacobians += 1
        tally.note_difference(program, apart)


def _without_aux(program: Program, transform: Callable[..., Any]) -> Callable[..., Any]:
    return (lambda *args: transform(*args)[0]) if program.has_aux else transform


# A batch ------------------------------------------------------------------------------------------------------


def _batched(program: Program) -> Callable[..., Any]:
    """Several examples at once, as vmap makes them."""
    return jax.vmap(lambda *xs: program.values(xs, program.index))


def _batch_inputs(program: Program) -> list[Any]:
    each = [program.inputs(example) for example in range(EXAMPLES)]
    return [jnp.stack(xs) for xs in zip(*each, strict=True)]


def _batch(program: Program, tally: Tally) -> Callable[..., Any]:
    """Jacobians of a batch, which takes the passes of one example in every mode and is never refused."""
    argnums = tuple(range(len(program.shapes)))
    one = lambda *xs: program.values(xs, program.index)
    for mode in ("fwd", "rev"):
        options: dict[str, Any] = {"mode": mode, "holomorphic": program.holomorphic}
        try:
            alone = jb.jacobian(one, argnums, **options).plan(*program.inputs()).passes
        except jb.ModeError:
            continue
        together = jb.batch_jacobian(_batched(program), argnums, **options).plan(*_batch_inputs(program)).passes
        assert together <= alone, f"a batch takes {together} passes in mode {mode}, one example {alone}"
        tally.batches += 1
    return jb.batch_jacobian(_batched(program), argnums, holomorphic=program.holomorphic)


def _check_batch(
    program: Program, transform: Callable[..., Any], each: Sequence[Sequence[np.ndarray]], tally: Tally
) -> None:
    inputs = _batch_inputs(program)
    expected = [np.stack(blocks) for blocks in zip(*each, strict=True)]
    if not finite(expected):
        return
    most = tolerance(program)
    apart = difference(blocks_of(transform(*inputs)), expected)
    if apart > most:
        by_vmap = jax.vmap(lambda *xs: by_jax(program, xs))
        whose = fault(program, transform, inputs, by_vmap, expected, most)
        assert whose != "ours", f"a batch: {apart:.1e} from what JAX says of each, where {most:.0e} is allowed"
        tally.blame(whose, program, "batch")
        return
    tally.jacobians += 1
    tally.note_difference(program, apart)
