"""The functions that return something of J: its diagonal, trace, squared norms, Gram matrices and determinant."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from ._bound import BoundFunction
from ._outputs import Diagonal, Gram, Quantity, Slogdet, SparseGram, SquaredNorms, Trace
from ._report import Plan, Source
from ._tracebacks import entry

_F = TypeVar("_F", bound="QuantityFunction")
_SIDES = ("out", "in")
_OVER = ("in", "out", "all")


class QuantityFunction:
    """A function that returns something of the Jacobian, which need not be formed for it.

    It takes J's options. Called, it returns the quantity; with `has_aux`, a pair of it and aux. As an attribute of a
    class it is a method, as J is.

    Attributes:
        name: of the quantity.
        own: the keyword arguments that are not f's, and their defaults.
    """

    name = ""
    own: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, jacobian: Any):
        functools.update_wrapper(self, jacobian, updated=())
        self._jacobian = jacobian
        if (signature := _signature(jacobian, self.own)) is not None:
            self.__signature__ = signature  # what `jax.jit` looks up names of static arguments in

    def __repr__(self) -> str:
        return f"{self._jacobian!r}.{self.name}"

    def __reduce__(self) -> Any:
        return getattr, (self._jacobian, self.name)

    def __get__(self, bound_to: Any, owner: Any = None) -> Any:
        return self if bound_to is None else BoundFunction(self, bound_to)

    def _asked(self, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The function that answers, and the keyword arguments that are f's."""
        raise NotImplementedError

    def _taken(self, kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The values of our own keyword arguments, and all others."""
        values = [kwargs.get(name, default) for name, default in self.own.items()]
        return values, {name: value for name, value in kwargs.items() if name not in self.own}

    @entry
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """It, at the arguments."""
        function, own = self._asked(kwargs)
        return function(*args, **own)

    @entry
    def with_value(self, /, *args: Any, **kwargs: Any) -> Any:
        """f's value beside it: `(y, quantity)`; with `has_aux`, `((y, aux), quantity)`."""
        function, own = self._asked(kwargs)
        return function.with_value(*args, **own)

    @entry
    def plan(self, /, *args: Any, **kwargs: Any) -> Plan:
        """What a call with these arguments would run, and why; nothing runs. See `JacobianFunction.plan`."""
        function, own = self._asked(kwargs)
        formed = functools.cache(functools.partial(self._jacobian.plan, *args, **own))
        return replace(function.plan(*args, **own), _source=Source(self, args, kwargs), _formed=formed)


class DiagonalFunction(QuantityFunction):
    """dy_k / dx_k, where y is like x."""

    name = "diagonal"

    def _asked(self, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return self._jacobian.asking(Diagonal()), kwargs


class TraceFunction(QuantityFunction):
    """The sum of dy_k / dx_k, where y is like x."""

    name = "trace"

    def _asked(self, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return self._jacobian.asking(Trace()), kwargs


class SquaredNormsFunction(QuantityFunction):
    """Sums of squares of J; `over` says over which side."""

    name = "squared_norms"
    own: ClassVar[Mapping[str, Any]] = {"over": "in"}

    def _asked(self, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        (over,), others = self._taken(kwargs)
        if over not in _OVER:
            raise ValueError(
                f'over must be "in" (a sum for each output), "out" (for each input) or "all"; got {over!r}.'
            )
        return self._jacobian.asking(SquaredNorms(over)), others


class GramFunction(QuantityFunction):
    """J W J^T, or J^T W J; `side` says which, `weights` are the diagonal of W."""

    name = "gram"
    own: ClassVar[Mapping[str, Any]] = {"side": "out", "weights": None}

    def _asked(self, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        (side, weights), others = self._taken(kwargs)
        if side not in _SIDES:
            raise ValueError(f'side must be "out" (J J^T) or "in" (J^T J); got {side!r}.')
        kind = Gram if self._jacobian.format == "dense" else SparseGram
        return self._jacobian.asking(kind(side), weights), others


class SlogdetFunction(QuantityFunction):
    """sign(det J) and log |det J|."""

    name = "slogdet"

    def _asked(self, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return self._jacobian.asking(Slogdet()), kwargs


def _signature(function: Any, own: Mapping[str, Any]) -> inspect.Signature | None:
    """A function's signature with keyword arguments of our own; None where there are none, or where it is not known."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    theirs, kinds = dict(signature.parameters), inspect.Parameter
    if not own or not own.keys().isdisjoint(theirs):
        return None
    last = [theirs.pop(name) for name, p in signature.parameters.items() if p.kind is kinds.VAR_KEYWORD]
    ours = [kinds(name, kinds.KEYWORD_ONLY, default=default) for name, default in own.items()]
    return signature.replace(parameters=[*theirs.values(), *ours, *last])


class Quantities:
    """What a function that returns J has beside J."""

    @property
    def format(self) -> str:
        """How J is returned."""
        raise NotImplementedError

    def asking(self, quantity: Quantity, weights: Any = None) -> Any:
        """The same function, of something of J."""
        raise NotImplementedError

    def _function(self, kind: type[_F]) -> _F:
        """One of these functions, made once. Not under its public name: `jax.jit` copies attributes onto its own."""
        return self.__dict__.setdefault(f"_{kind.name}_function", kind(self))

    @property
    def diagonal(self) -> DiagonalFunction:
        """A function of f's arguments that returns the diagonal of J: dy_k / dx_k.

        y's tree must be x's, with leaves of the same shapes; the diagonal is like them, for a batch `(B, *x)`. Of a
        Hessian it is d2 y_i / dx_k^2, with leaves `out.shape + in.shape`. J is not formed: each pass leaves what of the
        diagonal it meets. What ties or colors keep apart shares passes.

        Returns:
            A function with `.plan(*args)` and `.with_value(*args)`, as J has them.

        Raises:
            ValueError: on a call, where y is not like x; it names the leaf.

        Example:
            >>> import jax.numpy as jnp
            >>> import jaxobian as jb
            >>> print(jb.jacobian(lambda x: x**2 * jnp.sum(x)).diagonal(jnp.array([1.0, 2.0])))
            [ 7. 16.]
        """
        return self._function(DiagonalFunction)

    @property
    def trace(self) -> TraceFunction:
        """A function of f's arguments that returns the trace of J: the sum of dy_k / dx_k.

        The divergence of a field, `jacobian(v).trace`; of a Hessian the Laplacian, `hessian(u).trace`. A number, of
        a batch `(B,)`; of a Hessian one for each output, in f's output tree. J is not formed.

        Returns:
            A function with `.plan(*args)` and `.with_value(*args)`, as J has them.

        Raises:
            ValueError: on a call, where y is not like x; it names the leaf.

        Example:
            >>> import jax.numpy as jnp
            >>> import jaxobian as jb
            >>> print(jb.hessian(lambda x: jnp.sum(x**3)).trace(jnp.array([1.0, 2.0])))
            18.0
        """
        return self._function(TraceFunction)

    @property
    def squared_norms(self) -> SquaredNormsFunction:
        """A function of f's arguments that returns sums of squares of J, |J[i, k]|^2.

        Called as `squared_norms(*args, over="in")`. Where over is "in", each output's: the sum over all inputs, like y;
        "out": each input's, like x, the diagonal of J^T J; "all": a number, the square of J's Frobenius norm. Of a
        batch, each example's, `(B, ...)`: `batch_jacobian(loss, 0, in_axes=(None, 0)).squared_norms` are per-example
        gradient norms. J is not formed.

        Returns:
            A function with `.plan(*args)` and `.with_value(*args)`, as J has them.

        Raises:
            ValueError: over is none of those.

        Example:
            >>> import jax.numpy as jnp
            >>> import jaxobian as jb
            >>> norms = jb.jacobian(lambda x: jnp.stack([x[0] * x[1], x[1]])).squared_norms
            >>> print(norms(jnp.array([3.0, 2.0])), norms(jnp.array([3.0, 2.0]), over="all"))
            [13.  1.] 14.0
        """
        return self._function(SquaredNormsFunction)

    @property
    def gram(self) -> GramFunction:
        """A function of f's arguments that returns the Gram matrix J W J^T, or J^T W J.

        Called as `gram(*args, side="out", weights=None)`. Where side is "out" it is J W J^T: y's tree twice, leaves
        `out_i.shape + out_j.shape`. By a network's parameters, `jacobian(apply).gram(params, X)` is the neural tangent
        kernel (NTK), all pairs of examples. Where side is "in" it is J^T W J, x's tree twice: the Gauss-Newton matrix.
        W is diagonal: `weights` are real arrays like the side that is summed over; None is the identity. Of complex J,
        J^T is the conjugate transpose. `batch_jacobian` gives each example's own, `(B, ...)`. Of a J with
        `format="bcoo"` it is sparse, too: sums of products are left out in which one factor is known to be zero.

        Returns:
            A function with `.plan(*args)` and `.with_value(*args)`, as J has them.

        Raises:
            ValueError: side is none of those, or weights are not like the other side.

        Example:
            >>> import jax.numpy as jnp
            >>> import jaxobian as jb
            >>> J = jb.jacobian(lambda x: jnp.stack([x[0] * x[1], x[1]]))
            >>> print(J.gram(jnp.array([3.0, 2.0])))
            [[13.  3.]
             [ 3.  1.]]
        """
        return self._function(GramFunction)

    @property
    def slogdet(self) -> SlogdetFunction:
        """A function of f's arguments that returns the sign and the logarithm of the determinant of J.

        A pair `(sign, logabsdet)`, as `numpy.linalg.slogdet` returns it: det J = sign * exp(logabsdet); of a batch each
        `(B,)`. f must return as many elements as it is differentiated by. What is cheapest is found in f:

        - Where the pattern of J is block-triangular after a permutation of rows and columns, as that of coupling and
          autoregressive layers, only its diagonal blocks are made, in the passes that they take.
        - Where f is one map after the other, each as wide as x, it is the product of their determinants.
        - Where f is a diagonal map plus one through k numbers, as a planar or radial flow, det(D + U V) is
          det D det(1 + V D^-1 U), of k x k numbers.
        - Else J is made, and factored.

        Returns:
            A function with `.plan(*args)` and `.with_value(*args)`, as J has them.

        Raises:
            ValueError: on a call, where J is not square.

        Example:
            >>> import jax.numpy as jnp
            >>> import jaxobian as jb
            >>> sign, logabsdet = jb.jacobian(lambda x: x[::-1] ** 2).slogdet(jnp.array([1.0, 2.0]))
            >>> print(sign, jnp.exp(logabsdet))
            -1.0 8.0

        Source:
            Dinh, Sohl-Dickstein and Bengio, Density estimation using Real NVP (arXiv:1605.08803), for triangular J;
            Rezende and Mohamed, Variational inference with normalizing flows (arXiv:1505.05770), for U V.
        """
        return self._function(SlogdetFunction)
