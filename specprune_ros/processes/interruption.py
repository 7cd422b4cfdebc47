# SPDX-License-Identifier: Apache-2.0
"""SIGINT and SIGTERM, in every phase of a process."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

SIGNALS = signal.SIGINT, signal.SIGTERM


def leave_at_once() -> None:
    """A signal ends the process silently. For the time in which nothing has to be stopped, such as imports."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: os._exit(0))


class Interruption:
    """A signal as a flag: an exception out of a handler could surface in compiled code and be lost there."""

    def __init__(self) -> None:
        self.requested = False
        self._at_once: Callable[[], object] | None = None
        for number in SIGNALS:
            signal.signal(number, self._request)

    @contextlib.contextmanager
    def at_once(self, leave: Callable[[], object]) -> Iterator[None]:
        """Inside, a signal calls `leave`, on the main thread, and ends the process: nobody would look at the flag."""
        before, self._at_once = self._at_once, leave
        try:
            if self.requested:
                self._leave()
            yield
        finally:
            self._at_once = before

    def _request(self, number: int, _: object) -> None:
        self.requested = True
        signal.signal(number, signal.SIG_DFL)  # a second one ends a process that hangs
        if self._at_once is not None:
            self._leave()

    def _leave(self) -> None:
        assert self._at_once is not None
        try:
            self._at_once()
        finally:
            os._exit(0)
