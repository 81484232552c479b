"""A choice told, timed and run again."""

from ._explain import describe_structure as describe_structure
from ._explain import title_of as title_of
from ._plan import Plan as Plan
from ._plan import Run as Run
from ._plan import Source as Source
from ._plan import make_plan as make_plan
from ._planned import PlannedRun as PlannedRun
