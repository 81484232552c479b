"""jaxobian: Jacobians in JAX, in the mode that is right for your function.

>>> import jax.numpy as jnp
>>> import jaxobian as jb
>>> J = jb.jacobian(jnp.sin)(jnp.zeros(2))
>>> J.shape
(2, 2)
"""

from ._analysis import Pattern as Pattern
from ._api import JacobianFunction as JacobianFunction
from ._api import batch_hessian as batch_hessian
from ._api import batch_jacobian as batch_jacobian
from ._api import hessian as hessian
from ._api import jacobian as jacobian
from ._api import sparsity as sparsity
from ._api import value_and_jacobian as value_and_jacobian
from ._cache import clear_cache as clear_cache
from ._errors import BatchCouplingError as BatchCouplingError
from ._errors import MemoryBudgetError as MemoryBudgetError
from ._errors import ModeError as ModeError
from ._errors import PlanMismatchError as PlanMismatchError
from ._errors import SparsityError as SparsityError
from ._operator import LinearizedJacobian as LinearizedJacobian
from ._planning import Candidate as Candidate
from ._planning import Impossible as Impossible
from ._report import Plan as Plan

__version__ = "0.1.0"

# What help() lists.
__all__ = [
    "BatchCouplingError",
    "Candidate",
    "Impossible",
    "JacobianFunction",
    "LinearizedJacobian",
    "MemoryBudgetError",
    "ModeError",
    "Pattern",
    "Plan",
    "PlanMismatchError",
    "SparsityError",
    "batch_hessian",
    "batch_jacobian",
    "clear_cache",
    "hessian",
    "jacobian",
    "sparsity",
    "value_and_jacobian",
]
