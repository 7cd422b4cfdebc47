"""Keeps joint targets inside position, speed and acceleration limits."""

import numpy as np

from specprune_ros.control.braking import braking_speed
from specprune_ros.control.cartesian_limiter import TOLERANCE, Limited
from specprune_ros.control.limits import LimitsConfig


class JointLimiter:
    """Remembers the last target sent and its velocity. Positions come first, then speed, then acceleration."""

    def __init__(self, config: LimitsConfig, period: float) -> None:
        """`period`: seconds between calls."""
        self.config = config
        self._period = period
        self.reset()

    @property
    def velocity(self) -> np.ndarray | None:
        """(J,) rad/s of the last target sent; None while the arm holds."""
        return self._velocity

    def reset(self) -> None:
        """The arm stands still; the next target starts from where it is measured."""
        self._sent: np.ndarray | None = None
        self._wanted: np.ndarray | None = None
        self._velocity: np.ndarray | None = None

    def apply(self, target: np.ndarray, measured: np.ndarray) -> Limited:
        """The joint positions to reach after one period, (J,) rad.

        `target` (J,): asked for; `measured` (J,): where the joints are, used after a reset.
        """
        config, period = self.config, self._period
        low, high = np.array(config.joint_min), np.array(config.joint_max)
        max_speed, max_acceleration = np.array(config.max_joint_speed), np.array(config.max_joint_acceleration)
        if self._sent is None or self._wanted is None or self._velocity is None:
            self._sent, self._wanted, self._velocity = measured.copy(), measured.copy(), np.zeros(len(measured))

        hit: list[str] = []
        wanted = np.clip(target, low, high)
        if (wanted != target).any():
            hit.append("joint_position")
        # Follow the target's own velocity, and close the remaining gap as fast as braking at its end allows.
        gap = self._wanted - self._sent
        own = (wanted - self._wanted) / period
        speed = own + np.sign(gap) * braking_speed(np.abs(gap), max_acceleration, period)
        if (np.abs(speed) > max_speed * (1 + TOLERANCE)).any():
            hit.append("joint_speed")
        if hit and config.on_violation == "hold":
            self.reset()
            return Limited(measured.copy(), tuple(hit), hold=True)
        speed = np.clip(speed, -max_speed, max_speed)
        allowed = np.clip(speed, self._velocity - max_acceleration * period, self._velocity + max_acceleration * period)
        if (np.abs(allowed - speed) > TOLERANCE * max_speed).any():
            hit.append("joint_acceleration")
        up = braking_speed(high - self._sent, max_acceleration, period)
        down = braking_speed(self._sent - low, max_acceleration, period)
        inside = np.clip(allowed, -down, up)
        if (inside != allowed).any():
            hit.append("joint_position")

        self._velocity = inside
        self._sent = self._sent + inside * period
        self._wanted = wanted
        return Limited(self._sent.copy(), tuple(dict.fromkeys(hit)), hold=False)
