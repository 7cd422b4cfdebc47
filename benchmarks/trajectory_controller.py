# SPDX-License-Identifier: Apache-2.0
"""A joint_trajectory_controller in a few lines, for comparisons and tests: how ros2_controllers 4 (Jazzy) samples.

From its documentation ("Trajectory Representation", "Trajectory Replacement"): a message replaces the one before it; a
zero stamp means the time of its first sample. Before its first point the controller goes there from the state that it
had when the message came; between points it interpolates linearly without velocities and by cubic splines with them;
after the last point it stays. A trajectory whose last point is over when it comes is rejected.
"""

import itertools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Knot:
    """A point of a trajectory. `time`: seconds from its start. `velocities`: (J,), or None without."""

    time: float
    positions: np.ndarray
    velocities: np.ndarray | None = None


class TrajectoryController:
    """Seconds and radians. `sample` has to be called with times that do not go back."""

    def __init__(self, positions: np.ndarray) -> None:
        self.positions, self.velocities = np.array(positions, dtype=float), np.zeros(len(positions))
        self._start: float | None = None
        self._points: list[Knot] = []
        self._before = Knot(0.0, self.positions, self.velocities)

    def receive(self, now: float, stamp: float, points: list[Knot], measured: np.ndarray | None = None) -> bool:
        """A message; `stamp` 0 starts it now. False when it is rejected.

        `measured`: where the joints are, for a controller that starts from there (the default) instead of from what it
        asked for last (`interpolate_from_desired_state`).
        """
        start = stamp or now
        if start + points[-1].time <= now or any(b.time <= a.time for a, b in itertools.pairwise(points)):
            return False
        self._start, self._points = start, points
        here = self.positions if measured is None else measured
        self._before = Knot(now - start, here.copy(), self.velocities.copy())
        return True

    def sample(self, now: float) -> np.ndarray:
        """(J,) rad asked of the joints at `now`."""
        if self._start is None:
            return self.positions
        time = now - self._start
        knots = self._points
        if time >= knots[-1].time:
            self.positions, self.velocities = knots[-1].positions, np.zeros(len(self.positions))
        elif time < knots[0].time:
            self._between(self._before, knots[0], time)
        else:
            after = next(index for index, knot in enumerate(knots) if knot.time > time)
            self._between(knots[after - 1], knots[after], time)
        return self.positions

    def _between(self, a: Knot, b: Knot, time: float) -> None:
        span, s = b.time - a.time, time - a.time
        gap = b.positions - a.positions
        if a.velocities is None or b.velocities is None:
            self.positions, self.velocities = a.positions + gap * s / span, gap / span
            return
        c = (3 * gap / span - 2 * a.velocities - b.velocities) / span
        d = (a.velocities + b.velocities - 2 * gap / span) / span**2
        self.positions = a.positions + a.velocities * s + c * s**2 + d * s**3
        self.velocities = a.velocities + 2 * c * s + 3 * d * s**2
