# SPDX-License-Identifier: Apache-2.0
"""Proprioception as the checkpoint was trained on it."""

import numpy as np
from scipy.spatial.transform import Rotation

from specprune_ros.angles import FULL_TURN
from specprune_ros.arrays import Floats

AXIS_ANGLE = slice(3, 6)  # of an end effector's proprio
SMALL = 1e-6  # rad; below it a rotation has no axis


def end_effector_proprio(
    position: Floats,
    quaternion: Floats,
    joints: Floats,
    near: Floats,
) -> Floats:
    """[position (3), axis-angle (3), joints (J)]: LIBERO's layout, with the two finger positions as joints.

    `quaternion`: (4,) xyzw. `near`: (3,) see `axis_angle`.
    """
    return np.concatenate([position, axis_angle(quaternion, near), joints])


def axis_angle(quaternion: Floats, near: Floats) -> Floats:
    """(3,) axis times angle, rad, of a unit quaternion (4,) xyzw.

    A rotation has two such vectors, one turn apart. Checkpoints saw the one that their simulator happened to compute
    (LIBERO: angles up to 3.7 rad about x, the hand pointing down), so the one nearest to `near` (3,) is taken: the
    middle of the checkpoint's statistics.
    """
    short: Floats = Rotation.from_quat(quaternion).as_rotvec()
    angle = float(np.linalg.norm(short))
    if angle < SMALL:
        return short
    long: Floats = short * (1 - FULL_TURN / angle)
    return short if np.linalg.norm(short - near) <= np.linalg.norm(long - near) else long
