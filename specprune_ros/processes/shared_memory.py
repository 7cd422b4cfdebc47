# SPDX-License-Identifier: Apache-2.0
"""Fast DDS's files in /dev/shm: whether this process uses them, and what killed processes left there.

Fast DDS 2.14 waits for ever for a port file that a killed process left half-made, and a killed participant leaves its
segment (33 MiB) behind. `fastdds shm clean` leaves half-made ports where they are.
"""

import fcntl
import re
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

FOLDER = Path("/dev/shm")
GRACE = 1.0  # seconds; a younger file may be one that somebody is just making
SEGMENT_LOCK = re.compile(r"fastrtps_[0-9a-f]{16}_el")
PORT_LOCK = re.compile(r"fastrtps_port\d+_el")
PORT = re.compile(r"fastrtps_port\d+")
READY = 2  # the first word of a port file that is complete
LOCAL = {
    "ROS_LOCALHOST_ONLY": "1",
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
}  # both add shared memory to any profile


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether a participant that starts in `environment` will use shared memory, as Fast DDS does by default."""
    if any(environment.get(name) == value for name, value in LOCAL.items()):
        return True
    try:
        profile = Path(environment["FASTRTPS_DEFAULT_PROFILES_FILE"]).read_text()
    except (KeyError, OSError):
        return True
    return "<type>SHM</type>" in profile or "<useBuiltinTransports>false</useBuiltinTransports>" not in profile


def mapped(process: int | str = "self") -> set[str]:
    """Names of Fast DDS's files in /dev/shm that a process maps: none when it talks over UDP alone."""
    return set(re.findall(rf"{FOLDER}/(fastrtps_\w+)", Path(f"/proc/{process}/maps").read_text()))


def remove_stale(folder: Path = FOLDER) -> list[str]:
    """Remove what killed processes left, half-made ports included; returns the names. Call it before rclpy.init."""
    removed: list[str] = []
    for path in sorted(folder.glob("fastrtps_*")):
        owner = path.name.removesuffix("_el")
        if SEGMENT_LOCK.fullmatch(path.name) and _is_abandoned(path):
            names = [owner, path.name]
        elif PORT_LOCK.fullmatch(path.name) and _is_abandoned(path):
            names = [owner, path.name, f"sem.{owner}_mutex"]
        elif PORT.fullmatch(path.name) and _is_half_made(path):
            names = [owner, f"sem.{owner}_mutex"]
        else:
            continue
        for name in names:
            with suppress(OSError):  # another user's, or somebody else was faster
                (folder / name).unlink()
                removed.append(name)
    return removed


def _is_old(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > GRACE


def _is_abandoned(lock: Path) -> bool:
    """Whether the process that made this lock file has gone: it holds the lock for as long as it lives."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _is_old(lock)
    except OSError:
        return False


def _is_half_made(port: Path) -> bool:
    try:
        with port.open("rb") as file:
            word = file.read(4)
        return (len(word) < 4 or struct.unpack("<I", word)[0] != READY) and _is_old(port)
    except OSError:
        return False
