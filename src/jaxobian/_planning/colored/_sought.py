"""What colors are sought for: the pattern of J, and what of it is the same for every x."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace

from ..._analysis import shape_of, structure
from ..._arrays import varying_axes
from ..._coloring import lower_bounds
from ..._execute import Stored
from ..._lazy import sparse
from ..._trace import Linear, LinearProgram
from .. import forward, reverse
from .._patterns import example_constant_part, example_pattern
from .._problem import Candidate, Problem
from .._sweeps import PassCost, together

# Numbers that are the same for every x, and are kept whatever the pattern's size.
MOST = 100_000
# Numbers that differ by no more, relatively, are the same.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Sought:
    """What passes are to bring back.

    Attributes:
        problem: whose program they run through.
        matrix: the pattern of it.
        possible: what single modes propose for it.
        constant: numbers to be added.
        symmetric: whether it is symmetric.
        used: the operands whose numbers all that is known by.
    """

    problem: Problem
    matrix: sparse.csr_matrix
    possible: dict[str, Candidate]
    constant: sparse.csr_matrix
    symmetric: bool
    used: frozenset[int]

    @property
    def nnz(self) -> int:
        """How many elements can be nonzero."""
        return int((self.matrix + (self.constant != 0)).nnz)

    @property
    def known(self) -> str:
        """How they are known, where not from f alone; how many of them passes need not bring back."""
        if self.problem.request.sparsity is not None:
            return " by the sparsity that was passed"
        always = self.nnz - int(self.matrix.nnz)
        return f" ({always:,} do not depend on x)" if always else ""

    @property
    def fewest(self) -> int:
        """Colors that it takes at least."""
        return fewest_colors(self.matrix, self.possible)


def fewest_colors(matrix: sparse.csr_matrix, modes: Container[str]) -> int:
    pairs = zip(("fwd", "rev"), lower_bounds(matrix), strict=True)
    return min(least for mode, least in pairs if mode in modes)


def without_constant_part(sought: Sought, few: Callable[[sparse.csr_matrix], bool]) -> Sought | None:
    """The same without what is the same for every x.

    None where that takes hardly fewer colors, or a pattern was passed.

    Numbers are added to what passes bring back, which takes about as long as to bring it back does.

    Args:
        sought: with it.
        few: whether the pattern of what is left takes clearly fewer colors.
    """
    problem, matrix = sought.problem, sought.matrix
    if problem.request.sparsity is not None:
        return None
    if any(varying_axes(aval) for aval in (*problem.inputs.avals, *problem.outputs.avals)):
        return None
    found = example_constant_part(problem.structure, problem.ends, MOST + 2 * int(matrix.nnz))
    if found is None:
        return None
    numbers, program, used = found
    if not few(sparse.csr_matrix(matrix - matrix.multiply(numbers != 0))):
        return None  # not even if nothing else were where they are
    rest = _of_program(problem, program)
    left, _, more = example_pattern(rest.structure, rest.ends)
    if left is None or not few(left):
        return None
    possible = {s.mode: s for s in (forward.propose(rest), reverse.propose(rest)) if isinstance(s, Candidate)}
    if not possible.keys() & sought.possible.keys():
        return None
    symmetric = sought.symmetric and _is_symmetric(numbers)
    return Sought(rest, left, possible, numbers, symmetric, sought.used | used | more)


def _is_symmetric(numbers: sparse.csr_matrix) -> bool:
    """Whether numbers are; if they are not, what is left of a symmetric J is not either."""
    height, width = shape_of(numbers)
    return height == width and bool(abs(numbers - numbers.T).max() <= _ROUNDING * abs(numbers).max())


def _of_program(problem: Problem, linear: Linear) -> Problem:
    """The same question of a program with the same inputs."""
    program = problem.program
    if isinstance(program, LinearProgram):
        program = program.rewritten(program.primal, linear.linear)
        return replace(problem, program=program, structure=structure(program))
    return replace(problem, program=linear, structure=problem.structure.part(linear))


def sweep(problem: Problem, candidate: Candidate) -> PassCost:
    """One pass in a mode, counted."""
    forward = candidate.mode == "fwd"
    made = together(problem, Stored(candidate.execution.program), candidate.passes, forward=forward)
    return made.counted(candidate.passes, forward=forward, one_hot=False)
