"""What the user passed, and wants back: options, arguments, batch axes, trees; and the call, traced."""

from ._options import Options as Options
from ._returned import Returned as Returned
from ._traced import Traced as Traced
