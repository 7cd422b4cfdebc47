# SPDX-License-Identifier: Apache-2.0
"""Where a chunk would take the end effector, for people to look at."""

import numpy as np

from specprune_ros.arrays import Floats
from specprune_ros.control.action_space import ActionSpace
from specprune_ros.control.deviation import integrate
from specprune_ros.pose import Pose


def predicted_path(actions: Floats, space: ActionSpace, start: Pose, dt: float) -> Floats:
    """(C + 1, 3) m in the base frame: the end effector at `start` and after each step of increments (C, A).

    As the policy predicted it, before limits and before it is joined with the chunk that runs. `dt`: seconds per step.
    """
    pose, points = start, [start.position]
    for action in actions:
        pose = integrate(pose, space.twist(action, dt, pose.rotation), dt)
        points.append(pose.position)
    return np.array(points)
