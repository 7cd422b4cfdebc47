# SPDX-License-Identifier: Apache-2.0
"""A chunk laid out in time: step k belongs to [stamp + k dt, stamp + (k + 1) dt)."""

import math
from dataclasses import dataclass

import numpy as np

from specprune_ros.arrays import Floats

SNAP = 1e-3  # steps; stamps carry rounding errors, so a time this close to a step's start is the start


@dataclass(frozen=True, eq=False)
class Plan:
    """Actions in checkpoint units, one after the other from a stamp on."""

    actions: Floats  # (C, A) float64
    stamp: float  # seconds, start of step 0
    dt: float  # seconds per step

    @property
    def end(self) -> float:
        return self.stamp + len(self.actions) * self.dt

    def position(self, now: float) -> float:
        """Time in steps since the start of step 0; a whole number at a step's start."""
        steps = (now - self.stamp) / self.dt
        nearest = round(steps)
        return float(nearest) if abs(steps - nearest) < SNAP else steps

    def index(self, now: float) -> int:
        """The step running at `now`; negative before the plan, C or more after it."""
        return math.floor(self.position(now))

    def covers(self, now: float, duration: float = 0.0) -> bool:
        """Whether the plan runs at `now` and does not end within `duration` seconds."""
        return 0 <= self.index(now) < len(self.actions) and self.position(now + duration) <= len(self.actions)

    def mean(self, now: float, period: float) -> Floats:
        """The mean action over [now, now + period], shape (A,), for actions that are increments per step.

        A control tick rarely falls on a step's start. Averaging over the tick's period executes every increment
        exactly once whatever the phase and the control rate; picking the step at `now` would repeat or lose some
        whenever the timer jitters. Past the end of the plan there is no motion.
        """
        start = self.position(now)
        length = period / self.dt
        stop = self.position(now + period)
        total = np.zeros(self.actions.shape[1])
        for k in range(max(0, math.floor(start)), min(len(self.actions), math.ceil(stop))):
            overlap = min(stop, k + 1) - max(start, k)
            total += overlap * self.actions[k]
        return total / max(length, stop - start)

    def interpolate(self, now: float) -> Floats:
        """The target at `now`, shape (A,), linear between steps, for actions that are absolute targets.

        Before the plan its first target, after it its last.
        """
        last = len(self.actions) - 1
        position = min(max(self.position(now), 0.0), float(last))
        k = min(math.floor(position), max(last - 1, 0))
        fraction = position - k
        target: Floats = self.actions[k].copy()
        if fraction:
            target = (1 - fraction) * target + fraction * self.actions[k + 1]
        return target
