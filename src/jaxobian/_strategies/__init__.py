"""Ways to multiply a linear program out: one file a strategy.

Each has `propose(problem) -> Candidate | Impossible`. For their candidates forward and reverse have `prepare(...)`,
which computes what the passes read, and `linear(...)`, one pass; mixed has `blocks(...)`. `_plan` compares what they
propose.
"""

from ._fill import filled as filled
from ._nodes import Part as Part
from ._nodes import Sum as Sum
from ._nodes import Through as Through
from ._nodes import walk as nodes  # noqa: F401
from ._nonzeros import Colored as Colored
from ._patterns import pattern as pattern
from ._problem import Candidate as Candidate
from ._problem import Impossible as Impossible
from ._problem import Problem as Problem
from ._problem import Values as Values
from ._sweeps import CLEAR_WIN as CLEAR_WIN
from .mixed import Mixed as Mixed
