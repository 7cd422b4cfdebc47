# SPDX-License-Identifier: Apache-2.0
"""Ends this process when its main loop hangs, and tells systemd that it does not.

A hang in compiled code can hold Python's global lock, so that no Python thread can do anything about it. faulthandler's
timer needs no lock: it writes every thread's stack to stderr and ends the process with code 1.
"""

import contextlib
import faulthandler
import os
import socket
import sys
import time
from collections.abc import Iterator

INTERVAL = 0.25  # seconds between two beats that count; arming the timer takes 0.4 ms
MICROSECONDS = 1_000_000
LONGEST_SUSPENSION = 3600  # seconds that systemd waits for a beat while there are none


class Heartbeat:
    """`beat` has to be called at least every `limit` seconds, but while it is suspended. Belongs to the main thread."""

    def __init__(self, limit: float) -> None:
        """`limit`: seconds; 0 never ends the process."""
        self.limit = limit
        self._due = 0.0
        self._suspended = 0

    def beat(self) -> None:
        """The main loop is alive. Cheap: most calls do nothing."""
        now = time.monotonic()
        if now >= self._due and not self._suspended:
            self._due = now + INTERVAL
            self._arm()
            notify("WATCHDOG=1")

    def set_limit(self, limit: float) -> None:
        """From now on: this many seconds, 0 for ever."""
        self.limit = limit
        if not self._suspended:
            self._arm()

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """For what may take as long as it likes, such as loading a model."""
        self._suspended += 1
        faulthandler.cancel_dump_traceback_later()
        period = os.environ.get("WATCHDOG_USEC", "")
        if period:
            notify(f"WATCHDOG_USEC={LONGEST_SUSPENSION * MICROSECONDS}")
        try:
            yield
        finally:
            self._suspended -= 1
            if period:
                notify(f"WATCHDOG_USEC={period}")
            self._due = 0.0
            self.beat()

    def stop(self) -> None:
        faulthandler.cancel_dump_traceback_later()

    def _arm(self) -> None:
        if self.limit > 0:
            faulthandler.dump_traceback_later(self.limit, exit=True, file=sys.__stderr__ or sys.stderr)
        else:
            faulthandler.cancel_dump_traceback_later()


def notify(state: str) -> None:
    """Tell systemd, when it started this process (Type=notify). See sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        channel.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
