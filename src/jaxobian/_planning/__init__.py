"""Ways to multiply a linear program out: one file a strategy.

Each has `propose(problem, earlier) -> Candidate | Impossible`, and stands in `STRATEGIES`. A candidate carries its
execution, which runs it; `_choose` compares what they take.
"""

from ._choose import Choice as Choice
from ._choose import choose as choose
from ._patterns import pattern as pattern
from ._problem import Candidate as Candidate
from ._problem import Impossible as Impossible
from ._problem import Problem as Problem
from ._strategy import STRATEGIES as STRATEGIES
from ._strategy import Strategy as Strategy
from .mixed._nodes import Part as Part
from .mixed._nodes import Sum as Sum
from .mixed._nodes import Through as Through
from .mixed._nodes import walk as nodes  # noqa: F401
from .mixed._propose import Factored as Factored
