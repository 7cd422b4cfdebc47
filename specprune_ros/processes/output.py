# SPDX-License-Identifier: Apache-2.0
"""What a process that drives an arm writes goes out by a process of its own, so that no reader can stop the control.

A terminal that is halted (Ctrl-S), a pager or a log collector that does not read keeps whoever writes to it waiting:
a control loop with its next line of log, and the stacks of one that hangs (heartbeat.py) with it.
"""

import contextlib
import fcntl
import os
import signal
import stat
import subprocess
import sys
import time

ROOM = 1 << 20  # bytes that wait for a reader; what comes then is lost here, and is in ROS's log files and /rosout
LAST_WORDS = 0.2  # seconds at the end for what has not been read yet
STREAMS = 1, 2

_relays: list[subprocess.Popen] = []


def relay_output() -> None:
    """From now on this process never waits for who reads its stdout and stderr. Those that are closed are thrown away.

    Call it before threads are started. A `cat` that heeds no signal passes everything on, also after a crash, and ends
    behind this process; but with the first process of a container all others end at once, so that has none.
    """
    _open_closed()
    if os.getpid() == 1:
        return
    writers: dict[tuple[int, int], int] = {}  # identity of a file -> what writes to its relay: one keeps the order
    for stream in STREAMS:
        found = os.fstat(stream)
        if not (stat.S_ISFIFO(found.st_mode) or stat.S_ISSOCK(found.st_mode) or os.isatty(stream)):
            continue  # a file has no reader
        if os.isatty(stream) and stream == (1 if os.environ.get("RCUTILS_LOGGING_USE_STDOUT") == "1" else 2):
            os.environ.setdefault("RCUTILS_COLORIZED_OUTPUT", "1")  # ROS no longer sees that it is one
        key = found.st_dev, found.st_ino
        if key not in writers:
            writers[key] = _start(stream)
        os.dup2(writers[key], stream)
    for writer in writers.values():
        os.close(writer)


def end_output() -> None:
    """Nothing more is written: wait a moment until what was has been read."""
    if not _relays:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in STREAMS:
        os.dup2(nowhere, stream)
    until = time.monotonic() + LAST_WORDS
    for relay in _relays:
        with contextlib.suppress(subprocess.TimeoutExpired):
            relay.wait(max(until - time.monotonic(), 0.0))


def _open_closed() -> None:
    """A socket of DDS must not get the number of stderr, which compiled code writes to."""
    for stream in (0, *STREAMS):
        try:
            os.fstat(stream)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    for name, stream in zip(("stdout", "stderr"), STREAMS, strict=True):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(stream, "w", closefd=False))


def _start(stream: int) -> int:
    """A relay to `stream`; what to write to."""
    reader, writer = os.pipe()
    with contextlib.suppress(OSError):  # a user may have only so much, and keeps the smaller one
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, ROOM)
    _relays.append(
        subprocess.Popen(
            ["cat"],
            stdin=reader,
            stdout=stream,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_heed_nothing,
        )
    )
    os.close(reader)
    os.set_blocking(writer, False)
    return writer


def _heed_nothing() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
