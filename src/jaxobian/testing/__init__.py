"""What tests need: a list of scenarios, and a check of one function's Jacobian by every means there is."""

from ._check import Difference as Difference
from ._check import Report as Report
from ._check import check_jacobian as check_jacobian
from ._scenario import Scenario as Scenario
from ._scenarios import scenarios as scenarios
