# SPDX-License-Identifier: Apache-2.0
"""Whether the kernel allows the socket buffers that config/fastdds.xml asks for."""

from pathlib import Path

NEEDED = 4 * 2**20  # bytes; receiveBufferSize of config/fastdds.xml
LIMIT = Path("/proc/sys/net/core/rmem_max")


def buffer_limit(file: Path = LIMIT) -> int | None:
    """net.core.rmem_max, bytes; None where this network namespace does not show it (containers)."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def buffer_problem(limit: int | None) -> str:
    """What a limit that is too low does and how to raise it, in one line; "" when it is high enough or unknown."""
    if limit is None or limit >= NEEDED:
        return ""
    return (
        f"net.core.rmem_max is {limit} bytes, camera frames will be lost; run: "
        f"sudo sysctl -w net.core.rmem_max={NEEDED} (a line net.core.rmem_max={NEEDED} in /etc/sysctl.d keeps it)"
    )
