# SPDX-License-Identifier: Apache-2.0
"""Gripper debounce: a single outlier among the predicted steps must not drop the object."""

import numpy as np

from specprune_ros.arrays import Floats
from specprune_ros.stamps import ROUNDING


class GripperDebounce:
    """Passes a gripper's new state on once it has been asked for without interruption for `seconds`."""

    def __init__(self, seconds: float, binary: bool) -> None:
        """`seconds`: 0 passes everything on. Proportional grippers (`binary` false) are passed on at once."""
        self.seconds = seconds
        self._binary = binary
        self._state: Floats | None = None
        self._asked: Floats | None = None  # at the last update
        self._since: Floats | None = None  # when that was first asked for

    @property
    def state(self) -> Floats | None:
        """The openings passed on last, (G,); None before the first."""
        return self._state

    def update(self, openings: Floats, now: float) -> Floats:
        """The openings to send, (G,), from those asked for, (G,) in 0 .. 1. The first ones pass at once."""
        if self._state is None or not self._binary:
            self._state = openings.copy()
        if self._asked is None or self._since is None:
            self._asked, self._since = openings, np.full(len(openings), now)
        self._since = np.where(openings == self._asked, self._since, now)
        self._asked = openings.copy()
        self._state = np.where(now - self._since >= self.seconds - ROUNDING, openings, self._state)
        return self._state.copy()

    def forget(self) -> None:
        """Somebody else may have moved the gripper: the next openings are the first ones."""
        self._state = self._asked = None

    def interrupt(self) -> None:
        """The arm holds: a change that was waiting starts over."""
        self._asked = None
