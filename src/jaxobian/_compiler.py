"""What is known of the compiler at hand: a release of jaxlib that is wrong, and how it is kept from it."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import jaxlib

# On CPU it fuses reductions along the last axis that are broadcast back, as RMSNorm and LayerNorm have them, with what
# reads them, and computes garbage where there are some tens of rows: plain jit(jacrev(f)) is as wrong.
_WRONG = ("0.10.2",)
_WITHOUT = {"xla_cpu_experimental_ynn_fusion_type": ""}


def _version() -> str:
    return getattr(jaxlib, "__version__", "")


def miscompiles(platform: str) -> bool:
    """Whether jaxlib is known to compile wrong programs for a platform."""
    return platform == "cpu" and _version() in _WRONG


def compiler_options(platform: str) -> dict[str, Any] | None:
    """Options of `jax.jit` that keep the compiler from what it is known to do wrong."""
    return dict(_WITHOUT) if miscompiles(platform) else None


def warn_of(device: Any) -> None:
    """Warn, once in a process, where jaxlib is known to be wrong on a device."""
    if miscompiles(device.platform):
        _warn()


@cache
def _warn() -> None:
    warnings.warn(
        f"jaxlib {_version()} miscompiles reductions on CPU: derivatives of normalizations over rows (RMSNorm, "
        "LayerNorm, x * sum(x**2)) can be wrong by more than 100 %, in plain JAX, too. What jaxobian compiles itself "
        "avoids it; under your own jax.jit it cannot. Install another release: "
        'pip install "jax!=0.10.2" "jaxlib!=0.10.2".',
        RuntimeWarning,
        stacklevel=6,
    )
