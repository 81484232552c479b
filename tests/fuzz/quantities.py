"""What is made of the J of one program without forming it, against the same made of the J that JAX says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from oracles import Matrices, diagonal_of, gram_of, matrices_of, norms_of

import jaxobian as jb

from .judge import fault, modes_of_jax, tolerance
from .program import Program
from .tally import Tally

MODES: tuple[Any, ...] = ("auto", "fwd", "rev", "mixed", "colored")
# Squares have twice the error, and sums of them some more.
MORE = 4


def check_quantities(program: Program, expected: Sequence[np.ndarray], tally: Tally, *, all_modes: bool) -> None:
    """Assert that norms, a Gram matrix, the diagonal and the trace are what NumPy makes of J.

    Args:
        program: a random program, of whose function one is made that returns what is like its inputs.
        expected: the blocks of its Jacobian, by JAX.
        tally: where it is taken down.
        all_modes: whether every mode is taken that is possible, or one.
    """
    inputs = program.inputs()
    ys = jax.eval_shape(lambda *xs: program.values(xs, program.index), *inputs)
    if not all(y.size for y in ys):
        return
    shapes = [x.shape for x in inputs]
    matrices = matrices_of([_repeated(block, y, x) for block, y, x in _like(expected, ys, inputs)], shapes, shapes)
    rng = np.random.default_rng(program.seed)
    weights = [rng.uniform(0.5, 2, shape) for shape in shapes] if rng.random() < 0.5 else None
    over, side = ("in", "out", "all")[program.seed % 3], ("in", "out")[program.seed % 2]
    true, scales = (_made(J, over, side, weights) for J in (matrices, [[np.abs(b) for b in row] for row in matrices]))
    most = MORE * tolerance(program)
    for mode in MODES if all_modes else (MODES[program.seed % len(MODES)],):
        J = jb.jacobian(_squared(program), tuple(range(len(inputs))), mode=mode, holomorphic=program.holomorphic)
        ours = _all_of(J, over, side, weights)
        try:
            found = jax.jit(ours)(*inputs)
        except jb.ModeError:
            assert mode != "auto", "some mode, or sequence of modes, works"
            assert mode not in modes_of_jax(program) or program.needs("rev"), f"JAX can: {mode}"
            continue
        apart = _apart(found, true, scales)
        if apart > most:
            whole = lambda *xs, ours=ours: _scaled(ours(*xs), scales)
            whose = fault(program, whole, inputs, None, expected, most, _scaled(true, scales))
            assert whose != "ours", f"of J, {mode}: {apart:.1e} from what NumPy says, where {most:.0e} is allowed"
            tally.blame(whose, program, f"of J, {mode}")
            continue
        tally.quantities += 1


def _squared(program: Program) -> Callable[..., Any]:
    """What a program returns, repeated or cut to be like what it takes."""

    def f(*xs: Any) -> tuple[Any, ...]:
        ys = program.values(xs, program.index)
        return tuple(jnp.resize(ys[k % len(ys)], x.shape) for k, x in enumerate(xs))

    return f


def _like(expected: Sequence[np.ndarray], ys: Sequence[Any], xs: Sequence[Any]) -> list[tuple[np.ndarray, Any, Any]]:
    """For each block of that function, the one that its rows are of, the output, and what this is made like."""
    n = len(xs)
    return [(expected[k % len(ys) * n + i], ys[k % len(ys)], x) for k, x in enumerate(xs) for i in range(n)]


def _repeated(block: np.ndarray, y: Any, x: Any) -> np.ndarray:
    rows = block.reshape(y.size, -1) if block.size else np.zeros((y.size, 0), block.dtype)
    return rows[np.resize(np.arange(y.size), x.size)]


def _all_of(J: Any, over: str, side: str, weights: Sequence[np.ndarray] | None) -> Callable[..., list[Any]]:
    def f(*xs: Any) -> list[Any]:
        given = None if weights is None else tuple(weights)
        made = J.squared_norms(*xs, over=over), J.gram(*xs, side=side, weights=given), J.diagonal(*xs), J.trace(*xs)
        return jax.tree.leaves(made)

    return f


def _made(J: Matrices, over: str, side: str, weights: Sequence[np.ndarray] | None) -> list[np.ndarray]:
    """The same leaves."""
    flat = None if weights is None else [w.reshape(-1) for w in weights]
    diagonal = diagonal_of(J)
    trace = np.asarray(sum(d.sum() for d in diagonal))
    return [*norms_of(J, over), *(b for row in gram_of(J, side, flat) for b in row), *diagonal, trace]


def _apart(found: Sequence[Any], true: Sequence[np.ndarray], scales: Sequence[np.ndarray]) -> float:
    """The largest difference, relative to what is summed, or to one; what half precision cannot hold is left out."""
    worst = 0.0
    assert len(found) == len(true)
    for ours, expected, scale in zip(map(np.asarray, found), true, scales, strict=True):
        assert ours.size == expected.size
        largest = float(np.max(scale, initial=0))
        if largest < float(jnp.finfo(ours.dtype).max) / 2:
            wide = ours.astype(np.complex128 if np.iscomplexobj(ours) else np.float64).reshape(expected.shape)
            apart = float(np.max(np.abs(wide - expected), initial=0)) / max(1.0, largest)
            worst = max(worst, apart if np.isfinite(apart) else np.inf)
    return worst


def _scaled(leaves: Sequence[Any], scales: Sequence[np.ndarray]) -> list[Any]:
    """Leaves as they are compared where a fault is looked for: flat, and of the size of one."""
    wide = [jnp.ravel(leaf).astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in map(jnp.asarray, leaves)]
    return [leaf / max(1.0, float(np.max(scale, initial=0))) for leaf, scale in zip(wide, scales, strict=True)]
