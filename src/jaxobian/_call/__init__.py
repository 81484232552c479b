"""What the user passed, and wants back: options, arguments, batch axes, trees; and the call, traced."""

from ._traced import Options as Options
from ._traced import Returned as Returned
from ._traced import Traced as Traced
