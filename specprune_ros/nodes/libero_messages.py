# SPDX-License-Identifier: Apache-2.0
"""The simulator's state as ROS messages, all stamped with simulated time."""

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header

from specprune_ros.pose import Pose
from specprune_ros.sim.libero_env import LiberoEnv

WORLD, BASE = "world", "panda_link0"
ARM_JOINTS = tuple(f"panda_joint{i}" for i in range(1, 8))
FINGER_JOINTS = ("panda_finger_joint1", "panda_finger_joint2")


def optical_frame(camera: str) -> str:
    """TF frame of a camera's images (REP 103: x right, y down, z into the scene)."""
    return f"{camera}_optical_frame"


def joint_state(env: LiberoEnv, stamp: Time) -> JointState:
    """Arm (rad, rad/s) and fingers (m, m/s), as the simulator has them: the second finger's position is negative."""
    message = JointState(header=Header(stamp=stamp))
    message.name = [*ARM_JOINTS, *FINGER_JOINTS]
    message.position = [*env.joint_positions.tolist(), *env.finger_positions.tolist()]
    message.velocity = [*env.joint_velocities.tolist(), *env.finger_velocities.tolist()]
    return message


def image(pixels: np.ndarray, camera: str, stamp: Time) -> Image:
    """`pixels` (H, W, 3) uint8 RGB."""
    height, width, channels = pixels.shape
    message = Image(header=Header(stamp=stamp, frame_id=optical_frame(camera)))
    message.height, message.width = height, width
    message.encoding, message.step = "rgb8", width * channels
    message.data = pixels.tobytes()  # the setter takes bytes without looking at each of them
    return message


def fixed_transforms(env: LiberoEnv, ee_frame: str, stamp: Time) -> list[TransformStamped]:
    """Base and third-person camera in the world; wrist camera on the end effector."""
    return [
        _transform(WORLD, BASE, env.base_pose, stamp),
        _transform(WORLD, optical_frame("primary"), env.camera_pose("primary"), stamp),
        _transform(ee_frame, optical_frame("wrist"), env.eef_pose.inverse() @ env.camera_pose("wrist"), stamp),
    ]


def arm_transform(env: LiberoEnv, ee_frame: str, stamp: Time) -> TransformStamped:
    """End effector in the base frame."""
    return _transform(BASE, ee_frame, env.base_pose.inverse() @ env.eef_pose, stamp)


def _transform(parent: str, child: str, pose: Pose, stamp: Time) -> TransformStamped:
    message = TransformStamped(header=Header(stamp=stamp, frame_id=parent), child_frame_id=child)
    translation, rotation = message.transform.translation, message.transform.rotation
    translation.x, translation.y, translation.z = map(float, pose.position)
    rotation.x, rotation.y, rotation.z, rotation.w = map(float, pose.quaternion)
    return message
