"""The tables in the README: each stands between the name of its result and an end mark."""

from __future__ import annotations

from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
END = "<!-- end -->"


def _begin(name: str) -> str:
    return f"<!-- benchmarks/results/{name} -->\n"


def table_in(readme: str, name: str) -> str:
    """The table of a result that a README holds."""
    return readme.partition(_begin(name))[2].partition(END)[0].strip()


def write_readme(name: str, table: str) -> None:
    """Put the table of a result into the README in place of the one that is there."""
    before, mark, rest = README.read_text().partition(_begin(name))
    README.write_text(f"{before}{mark}\n{table}\n\n{END}{rest.partition(END)[2]}")
