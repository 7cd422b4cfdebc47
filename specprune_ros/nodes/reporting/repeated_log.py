# SPDX-License-Identifier: Apache-2.0
"""Warnings about what peers send again and again, without flooding the log."""

import time
from collections.abc import Callable

AGAIN = 5.0  # seconds until a text is told again
MOST = 10  # texts in that time


class RepeatedLog:
    """Tells a text at once, and the same one at most every `AGAIN` seconds."""

    def __init__(self, tell: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._clock = tell, clock
        self._told: dict[str, float] = {}  # text -> when, seconds of a steady clock

    def __call__(self, text: str) -> None:
        now = self._clock()
        self._told = {told: at for told, at in self._told.items() if now - at < AGAIN}
        if text not in self._told and len(self._told) < MOST:
            self._told[text] = now
            self._tell(text)
