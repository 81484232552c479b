"""J at a point as an operator: products with it, through the linear program that one linearization left."""

from ._linearized import LinearizedJacobian as LinearizedJacobian
from ._linearized import linearized as linearized
from ._scipy import as_scipy as as_scipy
