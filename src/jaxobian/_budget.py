"""How much memory may be used: the user's word, or half of what the device or the process has free."""

from __future__ import annotations

import numbers
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
# Limits above this are a kernel's way of saying "none".
_ABSURD = 2**60
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Budget:
    """Bytes that may be allocated while J is computed.

    Attributes:
        limit: passes are chunked to stay below this.
        hard: J itself must stay below this.
        explicit: whether the user set it.
        copies: how many computations side by side have so much each.
    """

    limit: int
    hard: int
    explicit: bool
    copies: int = 1

    def shared(self, copies: int) -> Budget:
        """What each of several computations side by side may allocate."""
        return Budget(self.limit // copies, self.hard // copies, self.explicit, copies)


def parse_bytes(value: int | float | str) -> int:
    """A number of bytes, or text such as "4GB" (4e9) or "4GiB" (4 * 2**30).

    >>> parse_bytes("1.5 kB"), parse_bytes("4GiB"), parse_bytes(128)
    (1500, 4294967296, 128)
    """
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kmgt]i?)?b?\s*", value.lower())
        try:
            number = float(match.group(1)) * _UNITS[match.group(2) or ""] if match else 0.0
        except ValueError:
            number = 0.0
    elif isinstance(value, bool) or not isinstance(value, numbers.Real):
        number = 0.0
    else:
        number = float(value)
    if not 1 <= number < float("inf"):
        raise ValueError(
            f'memory_budget must be a number of bytes, at least 1, or text such as "4GB" or "4GiB"; got {value!r}'
        )
    return int(number)


def budget(value: int | float | str | None, device: Any) -> Budget:
    """The budget that the user asked for, or the default: half of what is free on the device."""
    if value is not None:
        limit = parse_bytes(value)
        return Budget(limit, limit, True)
    free = free_bytes(device)
    return Budget(free // 2, free, False)


def free_bytes(device: Any) -> int:
    """Bytes that a device has free; for a CPU, what the machine and the process's limits leave."""
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        if "bytes_limit" in stats:
            return max(0, stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return max(0, min([_available(), *_cgroup_rooms()]))


def _available(path: Path = Path("/proc/meminfo")) -> int:
    """Memory that the machine could hand out now."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", path.read_text())
    except OSError:
        found = None
    return int(found.group(1)) * 1024 if found else 8 * 10**9


def _cgroup_rooms(root: Path = _CGROUP, proc: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What each memory limit on the process's cgroups (version 2 and 1) leaves."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return []
    rooms = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        # A limit on any ancestor holds; inside a container the path may not exist, and the root is the container's own.
        folder = base / path.lstrip("/")
        for place in (folder, *folder.parents):
            if place == base.parent:
                break
            rooms += _room(place, *names)
    return rooms


def _room(folder: Path, limit_name: str, usage_name: str) -> list[int]:
    try:
        limit = int((folder / limit_name).read_text())
        usage = int((folder / usage_name).read_text())
    except (OSError, ValueError):
        return []
    return [] if limit >= _ABSURD else [max(0, limit - usage + _reclaimable(folder / "memory.stat"))]


def _reclaimable(statistics: Path) -> int:
    """Bytes of cached files, which give way."""
    try:
        found = re.search(r"^inactive_file (\d+)$", statistics.read_text(), re.MULTILINE)
    except OSError:
        return 0  # the limit holds all the same
    return int(found.group(1)) if found else 0
