# SPDX-License-Identifier: Apache-2.0
"""Host memory that this process can still get: the machine's, and what its container leaves (cgroups, Linux)."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from specprune_ros.errors import UserError


class _Files(NamedTuple):
    """Names of one cgroup version's files; the page cache counts as used there, although it is given back."""

    limit: str
    used: str
    cache: str  # the line of memory.stat


V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = _Files("memory.max", "memory.current", "inactive_file")


def available_bytes(root: Path = Path("/")) -> int:
    """Bytes that can be had without swapping. Raises UserError on a system without /proc/meminfo."""
    return min([_of_machine(root), *_left_in_groups(root)])


def _of_machine(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        raise UserError("/proc/meminfo has no MemAvailable line; this system is not supported, use Linux") from None


def _left_in_groups(root: Path) -> Iterator[int]:
    """What every limited group that this process is in has left, bytes: its own and those above it."""
    for folder, files in _groups(root):
        try:
            limit = int((folder / files.limit).read_text())
            used = int((folder / files.used).read_text())
            statistics = (folder / "memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # not mounted, or "max": no limit
            continue
        cache = next((int(line.split()[1]) for line in statistics if line.startswith(f"{files.cache} ")), 0)
        yield max(0, limit - max(0, used - cache))


def _groups(root: Path) -> Iterator[tuple[Path, _Files]]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        own = base / path.lstrip("/")  # inside a container the path may be the host's; then `base` is the container's
        for folder in (own, *own.parents):
            yield folder, V1 if controllers else V2
            if folder == base:
                break
