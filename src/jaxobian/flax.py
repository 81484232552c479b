"""Flax models as functions: Linen and NNX modules become `apply(params, *args, **kwargs)`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

try:
    import flax.linen as nn
    from flax import nnx
    from flax.core import FrozenDict
    from flax.traverse_util import flatten_dict, unflatten_dict
except ModuleNotFoundError as error:
    raise ImportError('jaxobian.flax needs Flax: pip install "jaxobian[flax]"') from error

from ._words import first_few

__all__ = ["functional"]

Params = dict[Any, Any]
Apply = Callable[..., Any]
Method = str | Callable[..., Any]
Path = tuple[Any, ...]


def functional(
    model: nn.Module | nnx.Module,
    variables: Mapping[str, Any] | None = None,
    *,
    method: Method | None = None,
    train: bool = False,
    rngs: jax.Array | Mapping[str, jax.Array] | nnx.Rngs | None = None,
) -> tuple[Apply, Params]:
    """Split a Flax model into a pure function and its parameters.

    `y = apply(params, x)` depends on nothing but its arguments: `∂y/∂params` is
    `jacobian(apply, 0)(params, x)`, `∂y/∂x` is `jacobian(apply, 1)(params, x)`, and one layer's part is the
    Jacobian of `lambda p, x: apply({**params, "head": p}, x)`. All else that the model holds (batch
    statistics, caches, random state, integer parameters) is closed over as it stands now; what a call
    updates of it is dropped. The model itself is never changed.

    Args:
        model: A Linen or an NNX module.
        variables: What `model.init` returned, or training made of it, with a collection `"params"`. For
            Linen only: an NNX module holds its own.
        method: What `apply` calls: the name of a method, or a function that takes the module first. By
            default `__call__`.
        train: Whether the model runs in training mode. It is passed to the method as `train` or `training`,
            negated as `deterministic` or `use_running_average`, where the method has that parameter and
            `apply` was not given it. A copy of an NNX module is also switched by `train()` or `eval()`. What
            a Linen module fixes in a field, as `nn.Dropout(0.5, deterministic=True)` does, stands.
        rngs: A key, a dict of keys by stream, or an `nnx.Rngs` (left as it is). Each call of `apply` starts
            from them anew, so masks are the same in each. By default an NNX module starts from its own
            random state, and a Linen module has none.

    Returns:
        `apply`, a pure function of `(params, *args, **kwargs)`, and `params`, a nested dict of the model's
        floating and complex parameters, each in its own shape and dtype. What layers of the model share is
        in it once. `apply` raises ValueError, naming the path, where `params` lack an entry, or have
        one too many, or one of another shape.

    Raises:
        TypeError: `model` is not a Flax module, or `variables` are missing (Linen) or given (NNX).
        ValueError: `variables` have no collection `"params"`, or `method` is bound to another object.

    Example:
        >>> import jax, jax.numpy as jnp, flax.linen as nn
        >>> from flax import nnx
        >>> from jaxobian.flax import functional
        >>> x = jnp.arange(3.0)

        >>> model = nn.Dense(2)
        >>> apply, params = functional(model, model.init(jax.random.key(0), x))
        >>> jax.jacrev(apply, 1)(params, x).shape
        (2, 3)

        >>> apply, params = functional(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
        >>> jax.tree.map(jnp.shape, jax.jacrev(apply)(params, x))
        {'bias': (2, 2), 'kernel': (2, 3, 2)}
    """
    method = "__call__" if method is None else _unbound(method, model)
    if isinstance(model, nn.Module):
        return _from_linen(model, _collections(model, variables), method, train, _keys(rngs))
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"`model` is {_describe(model)}; expected an instance of flax.linen.Module or flax.nnx.Module. "
            "Any other function goes to jaxobian.jacobian as it is."
        )
    if variables is not None:
        raise TypeError(
            f"`variables` were given with {type(model).__name__}, an NNX module, which holds its own. "
            "Leave them out; `nnx.update(model, state)` changes what it holds."
        )
    return _from_nnx(model, method, train, _keys(rngs))


# --------------------------------------------------------------------------------------- the two families


def _from_linen(
    model: nn.Module, collections: dict[str, Any], method: Method, train: bool, keys: dict[str, Any]
) -> tuple[Apply, Params]:
    """A Linen module and its collections of variables as `(apply, params)`."""
    leaves = flatten_dict(nn.unbox(collections["params"]))
    free = {path: leaf for path, leaf in leaves.items() if _is_inexact(leaf)}
    fixed = {path: leaf for path, leaf in leaves.items() if path not in free}
    others = {name: value for name, value in collections.items() if name != "params"}
    shapes = _shapes(free)
    # Linen raises where a field and an argument both set the mode.
    switches = {name: on for name, on in _switches(train).items() if not isinstance(getattr(model, name, None), bool)}
    if "default" in keys:
        keys = {"params": keys["default"], **keys}  # Linen's name for the stream to fall back to

    def apply(params: Params, /, *args: Any, **kwargs: Any) -> Any:
        given = _fitting(params, shapes)
        output, _ = model.apply(
            {**others, "params": unflatten_dict({**fixed, **given})},
            # The arguments go in by closure: Module.apply keeps some keywords for itself.
            method=lambda module: _call(module, method, args, kwargs, switches),
            # Not every collection: one that is missing must raise rather than be initialized unnoticed.
            mutable=list(others),
            rngs=keys,
        )
        return output

    return apply, unflatten_dict(free)


def _from_nnx(model: nnx.Module, method: Method, train: bool, keys: dict[str, Any]) -> tuple[Apply, Params]:
    """An NNX module as `(apply, params)`."""
    model = nnx.clone(model)
    if train:
        model.train()
    else:
        model.eval()
    _reseed(model, keys)
    graphdef, free, fixed = nnx.split(model, nnx.All(nnx.Param, _holds_inexact), ...)
    params = nnx.to_pure_dict(free)
    shapes = _shapes(flatten_dict(params))

    def apply(params: Params, /, *args: Any, **kwargs: Any) -> Any:
        given = _fitting(params, shapes)
        # A variable may be updated only in the trace that made it, so each call makes its own.
        module = nnx.merge(graphdef, unflatten_dict(given), fixed, copy=True)
        streams = {"rngs": nnx.Rngs(**keys)} if keys else {}
        return _call(module, method, args, kwargs, _switches(train) | streams)

    return apply, params


def _collections(model: nn.Module, variables: Mapping[str, Any] | None) -> dict[str, Any]:
    """The collections of a Linen module's variables, `"params"` among them."""
    name = type(model).__name__
    advice = "Pass what `model.init(key, x)` returned, or training made of it."
    if variables is None:
        raise TypeError(f"`variables` are missing: {name} is a Linen module, which holds none. {advice}")
    if "params" not in variables:
        raise ValueError(
            f'`variables` of {name} have no collection "params", only {sorted(variables)}. {advice} '
            'Parameters alone go in as {"params": params}.'
        )
    return dict(variables)


# --------------------------------------------------------------------------------------- calling a module


def _unbound(method: Method, model: object) -> Method:
    """`method` freed of the user's module: `apply` calls it on a module of its own."""
    if not inspect.ismethod(method):
        return method
    if method.__self__ is not model:
        raise ValueError(
            f"`method` is {method.__qualname__}, bound to {_describe(method.__self__)} other than the model. "
            "Pass a method of the model, or a function such as `lambda model, x: model.encoder(x)`."
        )
    return method.__func__


def _switches(train: bool) -> dict[str, bool]:
    """The parameters by which Flax's methods are told the mode."""
    return {"train": train, "training": train, "deterministic": not train, "use_running_average": not train}


def _call(
    module: nn.Module | nnx.Module,
    method: Method,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    extras: dict[str, Any],
) -> Any:
    """Call a method of `module`, with those extras that it has a parameter for and was not given."""
    bound = getattr(module, method) if isinstance(method, str) else functools.partial(method, module)
    signature = inspect.signature(bound)
    given = signature.bind_partial(*args, **kwargs).arguments
    wanted = {name: extras[name] for name in extras if name in signature.parameters and name not in given}
    return bound(*args, **kwargs, **wanted)


# -------------------------------------------------------------------------------------------- random state


def _keys(rngs: jax.Array | Mapping[str, jax.Array] | nnx.Rngs | None) -> dict[str, Any]:
    """Keys by stream; "default" is for every stream that has none of its own."""
    if rngs is None:
        return {}
    if isinstance(rngs, nnx.Rngs):
        rngs = nnx.clone(rngs)  # drawing advances its counts, and these are the user's
        return {name: rngs[name]() for name in rngs}
    return dict(rngs) if isinstance(rngs, Mapping) else {"default": rngs}


def _reseed(model: nnx.Module, keys: dict[str, Any]) -> None:
    """Start the random streams of `model` from their keys, or from distinct draws of the default one."""
    names = sorted({node.tag for _, node in nnx.iter_graph(model) if isinstance(node, nnx.RngStream)})
    source = nnx.Rngs(**keys)
    known = [name for name in names if name in keys or "default" in keys]
    streams: dict[str, Any] = {name: keys[name] if name in keys else source[name]() for name in known}
    nnx.reseed(model, policy="match_shape", **streams)


# ---------------------------------------------------------------------------------------------- parameters


def _is_inexact(leaf: Any) -> bool:
    """Whether `leaf` is an array that has a derivative."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _holds_inexact(path: Path, variable: nnx.Variable[Any]) -> bool:
    return _is_inexact(variable.get_value())


def _shapes(leaves: dict[Path, Any]) -> dict[Path, tuple[int, ...]]:
    return {path: jnp.shape(leaf) for path, leaf in leaves.items()}


def _fitting(params: Any, expected: dict[Path, tuple[int, ...]]) -> dict[Path, Any]:
    """The leaves of `params` by path, if they are those expected, in their shapes."""
    if not isinstance(params, dict | FrozenDict):
        raise TypeError(
            f"the first argument of `apply` is {_describe(params)}; expected the nested dict of parameters, "
            "as in apply(params, x)."
        )
    leaves = flatten_dict(params)
    shapes = _shapes(leaves)
    problems = [f"{_name(path)} is missing" for path in expected if path not in shapes]
    problems += [f"{_name(path)} is not a parameter of the model" for path in shapes if path not in expected]
    problems += [
        f"{_name(path)} has shape {shape} instead of {expected[path]}"
        for path, shape in shapes.items()
        if shape != expected.get(path, shape)
    ]
    if problems:
        if expected and set(expected) <= {path[1:] for path in shapes if path[0] == "params"}:
            raise ValueError(
                f"`params` are all of the model's variables, in collections {list(params)}; expected its parameters "
                'alone, as `functional` returned them: pass variables["params"].'
            )
        raise ValueError(
            f"`params` do not fit the model: {first_few(problems, '; ')}. Expected the tree that `functional` "
            "returned, with other values in it: {**params, name: layer} replaces a layer."
        )
    return leaves


# --------------------------------------------------------------------------------------------------- words


def _name(path: Path) -> str:
    """A path as one writes it: params['head']['kernel']."""
    return "params" + "".join(f"[{key!r}]" for key in path)


def _describe(value: object) -> str:
    """What `value` is, in a few words."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"an array {jax.typeof(value)}" if isinstance(value, jax.Array) else f"a {type(value).__name__}"
