# SPDX-License-Identifier: Apache-2.0
"""How fast something may still go when it has to stop within a distance."""

import numpy as np

from specprune_ros.arrays import Floats

FAR = 1e9  # m, rad or their derivatives; stands for no bound at all


def braking_speed(distance: Floats | float, deceleration: Floats | float, period: float) -> Floats:
    """Largest speed from which a stop within `distance` needs no more than `deceleration`, at one change per `period`.

    Travelling a tick at speed v and then braking takes less than v^2 / 2a + v T. Zero for distances below zero.
    Works one order up as well: distance as a speed to gain, deceleration as jerk, the result an acceleration.
    """
    distance = np.minimum(np.maximum(distance, 0.0), FAR)
    tick = deceleration * period
    return 2 * deceleration * distance / (tick + np.sqrt(tick**2 + 2 * deceleration * distance))


def braking_distance(speed: Floats | float, deceleration: Floats | float, period: float) -> Floats:
    """What is travelled while stopping from `speed` with `deceleration`, a tick of `period` seconds late."""
    return np.asarray(speed**2 / (2 * deceleration) + speed * period)
