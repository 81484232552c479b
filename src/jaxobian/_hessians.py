"""The functions that return Hessians: Jacobians of Jacobians, the inner one in reverse mode."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from ._call import Options, Traced
from ._call._batch import Batch
from ._functions import JacobianFunction, SharedFunction
from ._outputs import Trace
from ._trace import walk
from ._tracebacks import entry, stands_for


class _Gradient(JacobianFunction):
    """The inner Jacobian of a Hessian; notes whether f has equations that may make the Hessian unsymmetric.

    Derivatives of the user's own making may, and indices out of range, which JAX clamps one way and drops the other.
    """

    has_rules = True
    returned: Sequence[Any] = ()  # by f, as abstract values

    def _settled(self, traced: Traced) -> Options:
        # A rule for vmap is none for derivatives; a Jacobian inside f asks one how many copies of it there are.
        names = {e.primitive.name for e in walk(traced.program.function.equations)} - {"custom_vmap_call"}
        self.has_rules = any(name.startswith(("custom_", "gather", "scatter")) for name in names)
        return self._options


class HessianFunction(JacobianFunction):
    """A function that returns the Hessian of f. Made by `hessian` and `batch_hessian`."""

    @property
    def _of_gradient(self) -> bool:
        return True

    @property
    def _verb(self) -> str:
        return "hessian" if self._options.batch is None else "batch_hessian"

    def __init__(self, f: Callable[..., Any], options: Options):
        inner = _Gradient(
            f,
            options.asking(
                mode="auto", prefer_reverse=True, format="dense", chunk_size=None, quantity=None, sparsity=None
            ),
        )
        self._gradient = inner

        @stands_for(f)
        def gradient(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
            value, J = inner.with_value(*args, **kwargs)
            inner.returned = list(map(jax.typeof, jax.tree.leaves(value[0] if options.has_aux else value)))
            return jax.tree.map(_as_inexact, J), value

        pattern = options.request.sparsity
        if pattern is not None and pattern.shape[0] == pattern.shape[1]:  # of H, or of its lower triangle
            options = options.asking(sparsity=pattern.symmetrized())
        # The gradient of a batch has it first.
        batch = None if options.batch is None else Batch(options.batch.in_axes, 0)
        super().__init__(gradient, replace(options, has_aux=True, batch=batch))
        functools.update_wrapper(self, f, updated=())
        self._made_from = f, options
        self._has_aux = options.has_aux

    def _settled(self, traced: Traced) -> Options:
        return super()._settled(traced).asking(symmetric=not self._gradient.has_rules)

    def _out_avals(self, traced: Traced) -> Sequence[Any]:
        return self._gradient.returned

    @entry
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """H at the arguments; with `has_aux`, `(H, aux)`."""
        return super().__call__(*args, **kwargs)

    def _result(self, J: Any, aux: Any) -> Any:
        J = self._like_value(J, aux)
        return (J, aux[1]) if self._has_aux else J  # our aux is f's value, and with it f's own aux

    def _like_value(self, J: Any, value: Any) -> Any:
        """Traces, one for each output of f, in the tree of its output."""
        if not isinstance(self._options.request.quantity, Trace):
            return J
        tree = jax.tree.structure(value[0] if self._has_aux else value)
        return jax.tree.unflatten(tree, J if isinstance(J, list) else [J])

    @entry
    def with_value(self, /, *args: Any, **kwargs: Any) -> Any:
        """f's value and H: `(y, H)`; with `has_aux`, `((y, aux), H)`."""
        _, value, H = self._compute(args, kwargs, value=False)
        return value, self._like_value(H, value)


class SharedHessianFunction(SharedFunction):
    """Hessians of every example by what all examples share. Made by `batch_hessian` where an `in_axes` is None."""

    _made_of_one = HessianFunction

    @property
    def _verb(self) -> str:
        return "batch_hessian"

    def _of_one(self, one: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, value: bool) -> tuple[Any, Any]:
        """f's value of one example, where asked for, and H."""
        _, y, H = one._compute(args, kwargs, value=False, mapped=True)
        return (y if value else None), one._like_value(H, y)


def _as_inexact(block: Any) -> Any:
    """A block by an integer leaf, which is zero, as one that can be differentiated again."""
    return block if jnp.issubdtype(block.dtype, jnp.inexact) else jnp.zeros(block.shape)
