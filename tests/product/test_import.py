"""What `import jaxobian` brings along: nothing that takes long and that a first call may do without."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("scipy.sparse", "jax.experimental.sparse", "flax", "optax", "matplotlib", "tqdm", "opt_einsum", "zarr")


def imported(code: str) -> set[str]:
    """The modules that a fresh interpreter has after running some code, and that `import jax` does not bring."""
    show = "import sys, jax; before = set(sys.modules)\n{}\nprint('\\n'.join(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", show.format(code)], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_heavy_packages_are_imported_when_they_are_used() -> None:
    modules = imported("import jaxobian")
    assert "jaxobian._functions" in modules
    assert modules.isdisjoint(HEAVY)


@pytest.mark.parametrize(("used", "package"), [("sparse.csr_matrix", "scipy.sparse"), ("jax_sparse.BCOO", "jax")])
def test_they_are_there_when_they_are(used: str, package: str) -> None:
    modules = imported(f"from jaxobian import _lazy; assert _lazy.{used}.__module__.startswith('{package}')")
    assert modules & {"scipy.sparse", "jax.experimental.sparse"}
