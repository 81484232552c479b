"""JAX's persistent compilation cache: what one process compiles, the next one finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# Calls every public function, as research code that is run again and again does, and says what the cache did.
CODE = """
import collections, json
import jax, jax.monitoring, jax.numpy as jnp, numpy as np
events = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: events.update([name.rsplit('/', 1)[-1]]))

import jaxobian as jb

W = np.linspace(-1, 1, 48, dtype=np.float32).reshape(6, 8)

def f(x):
    return jnp.tanh(x @ W)

def loss(w, x):
    return jnp.sum(jnp.tanh(x @ w), -1)

def stencil(x):
    return x[1:] * x[:-1] + jnp.sin(x[1:])

x, X, long = jnp.ones(6), jnp.ones((5, 6)), jnp.ones(40)
jb.jacobian(f)(x), jb.jacobian(f, mode="fwd", chunk_size=2)(x), jb.jacobian(f, mode="rev")(x)
jb.value_and_jacobian(f)(x), jb.jacobian(stencil, format="bcoo")(long), jb.jacobian(stencil, mode="colored")(long)
jb.batch_jacobian(f)(X), jb.batch_jacobian(loss, 0, in_axes=(None, 0))(jnp.asarray(W), X)
jb.hessian(lambda x: jnp.sum(f(x)))(x)
jb.jacobian(f).plan(x)(x), jax.jit(jb.jacobian(f))(x)
print(json.dumps(events))
"""


def run(folder: Path) -> dict[str, int]:
    """What a fresh process finds in the cache, and what it does not."""
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=os.environ | settings, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    first, second = run(tmp_path), run(tmp_path)
    assert first["cache_misses"] > 10
    assert second.get("cache_misses", 0) == 0
    assert second["cache_hits"] >= first["cache_misses"]
