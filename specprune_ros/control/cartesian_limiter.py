# SPDX-License-Identifier: Apache-2.0
"""Keeps an end-effector twist inside workspace, speed, acceleration and jerk limits."""

from dataclasses import dataclass

import numpy as np

from specprune_ros.arrays import Floats
from specprune_ros.control.braking import braking_speed
from specprune_ros.control.limits import LimitsConfig

TOLERANCE = 1e-9  # relative; clamped values must not count as violations again


@dataclass(frozen=True, eq=False)
class Limited:
    """A command within the limits."""

    value: Floats  # the command to send
    hit: tuple[str, ...]  # names of the limits that changed it
    hold: bool  # a limit was violated and `on_violation` is hold; do not move


class CartesianLimiter:
    """Remembers the last twist and acceleration sent.

    When limits contradict each other, the workspace comes first, then speed, then acceleration, then jerk. The arm
    brakes before a wall of the workspace with up to `max_acceleration` per axis. From outside, only ways back in pass.
    """

    def __init__(self, config: LimitsConfig, period: float) -> None:
        """`period`: seconds between calls."""
        self.config = config
        self._period = period
        self.reset()

    def reset(self, twist: Floats | None = None) -> None:
        """The arm moves with `twist` (6,) m/s and rad/s, believed up to the speeds allowed; None: it stands still."""
        self._twist = np.zeros(6)
        self._acceleration = np.zeros(6)
        if twist is not None:
            self._twist[:3] = _shorten(twist[:3], self.config.max_speed, "", [])
            self._twist[3:] = _shorten(twist[3:], self.config.max_angular_speed, "", [])

    def apply(self, twist: Floats, position: Floats) -> Limited:
        """The twist to send for one period.

        `twist` (6,) m/s and rad/s in the base frame; `position` (3,) m, of the end effector, in the base frame.
        """
        config, period = self.config, self._period
        hit: list[str] = []
        wanted = twist.astype(np.float64)
        wanted[:3] = _shorten(wanted[:3], config.max_speed, "speed", hit)
        wanted[3:] = _shorten(wanted[3:], config.max_angular_speed, "angular_speed", hit)
        target = position + wanted[:3] * period
        outside = (target > config.workspace_max) & (wanted[:3] > 0) | (target < config.workspace_min) & (
            wanted[:3] < 0
        )
        if outside.any():
            hit.append("workspace")
        if hit and config.on_violation == "hold":
            self.reset()
            return Limited(np.zeros(6), tuple(hit), hold=True)

        linear = self._approach(wanted, slice(0, 3), config.max_acceleration, config.max_jerk, "", hit)
        angular = self._approach(
            wanted, slice(3, 6), config.max_angular_acceleration, config.max_angular_jerk, "angular_", hit
        )
        free = _shorten(linear, config.max_speed, "speed", hit)
        angular = _shorten(angular, config.max_angular_speed, "angular_speed", hit)
        linear = self._inside(free, position, hit)

        sent = np.concatenate([linear, angular])
        change = (sent - self._twist) / period
        # What a wall or a new speed limit takes away at once is no acceleration to be released step by step: the arm
        # would come back from the wall.
        change[:3][linear != free] = 0.0
        for part, most in ((slice(0, 3), config.max_acceleration), (slice(3, 6), config.max_angular_acceleration)):
            if np.linalg.norm(change[part]) > most * (1 + TOLERANCE):
                change[part] = 0.0
        self._acceleration, self._twist = change, sent
        return Limited(sent.copy(), tuple(dict.fromkeys(hit)), hold=False)

    def _approach(
        self,
        wanted: Floats,
        part: slice,
        max_acceleration: float,
        max_jerk: float,
        prefix: str,
        hit: list[str],
    ) -> Floats:
        """The velocity one period later on the way to `wanted`: there at once when the limits allow, else as fast as
        they do while the acceleration can still be released in time not to overshoot."""
        period, velocity, acceleration = self._period, self._twist[part], self._acceleration[part]
        missing = wanted[part] - velocity
        size = float(np.linalg.norm(missing))
        direct = missing / period
        accelerates = size / period > max_acceleration * (1 + TOLERANCE)
        change = float(np.linalg.norm(direct - acceleration))
        jerks = max(change, size / period) > max_jerk * period * (1 + TOLERANCE)
        if not accelerates and not jerks:
            return wanted[part]
        hit.append(prefix + ("acceleration" if accelerates else "jerk"))
        rate = min(max_acceleration, float(braking_speed(size, max_jerk, period)))
        goal = missing / size * rate if size > 0 else np.zeros(3)
        step = goal - acceleration
        length = float(np.linalg.norm(step))
        if length > max_jerk * period:
            step *= max_jerk * period / length
        return velocity + _shorten(acceleration + step, max_acceleration, prefix + "acceleration", hit) * period

    def _inside(self, linear: Floats, position: Floats, hit: list[str]) -> Floats:
        config = self.config
        up = braking_speed(config.workspace_max - position, config.max_acceleration, self._period)
        down = braking_speed(position - config.workspace_min, config.max_acceleration, self._period)
        inside = np.clip(linear, -down, up)
        if (inside != linear).any():
            hit.append("workspace")
        return inside


def _shorten(vector: Floats, longest: float, name: str, hit: list[str]) -> Floats:
    length = float(np.linalg.norm(vector))
    if length <= longest * (1 + TOLERANCE):
        return vector
    hit.append(name)
    return vector * (longest / length)
