"""Random programs made of everything that JAX can differentiate, and what they are judged by."""

from . import algebra as algebra
from . import arrays as arrays
from . import control as control
from . import elementwise as elementwise
from . import rows as rows
