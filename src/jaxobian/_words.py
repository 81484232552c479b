"""Numbers, sizes and modes in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# The modes as they are printed; every word may also be passed as `mode`.
WORDS = {"fwd": "forward", "rev": "reverse", "mixed": "mixed", "colored": "colored"}
SYNONYMS = {**{word: mode for mode, word in WORDS.items()}, "coloured": "colored"}


def word(mode: str) -> str:
    """The word for a mode.

    >>> word("rev")
    'reverse'
    """
    return WORDS.get(mode, mode)


def human_bytes(count: float) -> str:
    """A number of bytes for people: 31.0 MB.

    >>> human_bytes(128_400_000)
    '128.4 MB'
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 999.95 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def human_flops(count: float) -> str:
    """A number of floating-point operations for people: 1.57 MFLOP.

    >>> human_flops(1_568_000)
    '1.57 MFLOP'
    """
    for unit in ("", "k", "M", "G", "T"):
        if count < 999.5 or unit == "T":
            return f"{count:.3g} {unit}FLOP"
        count /= 1000
    raise AssertionError("unreachable")


def human_seconds(seconds: float) -> str:
    """A time for people: 26 us.

    >>> human_seconds(2.6e-5)
    '26 us'
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= 0.9995 * size or unit == "us":
            return f"{seconds / size:.0f} {unit}" if seconds >= 9.5 * size else f"{seconds / size:.1f} {unit}"
    raise AssertionError("unreachable")


def counted(number: int, noun: str, plural: str = "") -> str:
    """How many there are of something.

    >>> counted(1, "pass", "passes"), counted(1200, "color")
    ('1 pass', '1,200 colors')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def pass_count(number: int) -> str:
    """A number of passes."""
    return counted(number, "pass", "passes")


def listed(shown: Sequence[Any]) -> str:
    """Some arrays, each already in words, on one line: f32[3], f32[2]; of many the first three."""
    if len(shown) <= 3:
        return ", ".join(map(str, shown))
    return f"{len(shown)} arrays ({', '.join(map(str, shown[:3]))}, ...)"


def first_few(shown: Sequence[str], separator: str = ", ") -> str:
    """Some words on one line; of many the first three, and how many more there are.

    >>> first_few(["a", "b"]), first_few(["a", "b", "c", "d", "e"])
    ('a, b', 'a, b, c, and 2 more')
    """
    return separator.join([*shown[:3], *([f"and {len(shown) - 3} more"] if len(shown) > 3 else [])])
