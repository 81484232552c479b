"""Mixed mode: a program cut where it is narrow, and each part run in the mode that suits it."""

from ._determinant import answers as answers
from ._determinant import determinant as determinant
from ._propose import Factored as Factored
from ._propose import propose as propose
