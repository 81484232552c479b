"""Mixed mode: a program cut where it is narrow, and each part run in the mode that suits it."""

from ._propose import Factored as Factored
from ._propose import propose as propose
