"""How a candidate computes J: executions, and the one loop over chunks with its schedules. Knows no problem."""

from ._colored import Colored as Colored
from ._execution import Blocks as Blocks
from ._execution import Execution as Execution
from ._execution import Residuals as Residuals
from ._execution import Stage as Stage
from ._passes import LinearMap as LinearMap
from ._passes import swept as swept
from ._schedules import Computed as Computed
from ._schedules import Executable as Executable
from ._schedules import compiled as compiled
from ._schedules import traceable as traceable
from ._schedules import values_alone as values_alone
from ._swept import Build as Build
from ._swept import Copied as Copied
from ._swept import Recomputed as Recomputed
from ._swept import Stored as Stored
from ._swept import Swept as Swept
from ._swept import of_copies as of_copies
