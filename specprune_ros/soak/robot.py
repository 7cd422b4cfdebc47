# SPDX-License-Identifier: Apache-2.0
"""`python -m specprune_ros.soak.robot`: cameras at 30 Hz, joint states and TF at 100 Hz, until it is interrupted.

The hand runs on a circle at a speed that swells and ebbs, so that every pruning mode comes up. Images and messages are
made beforehand: publishing is all that is left to do at run time.
"""

import math
import signal
import sys
import threading
import time

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState
from tf2_msgs.msg import TFMessage

from specprune_ros.nodes.stamps import to_stamp

WIDTH, HEIGHT = 640, 480
CAMERA_RATE, MOTION_RATE = 30.0, 100.0  # Hz
CAMERAS = ("primary", "wrist")
FINGERS = ("panda_finger_joint1", "panda_finger_joint2")
BASE, HAND = "world", "hand"
FRAMES = 24  # pictures that a camera repeats
CENTRE, RADIUS = (-0.1, 0.0, 1.0), 0.1  # m
FASTEST, SWELL = 0.3, 8.0  # m/s, and seconds from one rest to the next


def pictures(seed: int) -> list[bytes]:
    """A dark square that wanders over a bright pattern, rgb8."""
    random = np.random.default_rng(seed)
    scene = np.kron(random.integers(90, 250, (HEIGHT // 20, WIDTH // 20, 3), dtype=np.uint8), np.ones((20, 20, 1)))
    found = []
    for frame in range(FRAMES):
        picture = scene.astype(np.uint8)
        left = round((WIDTH - 100) * (0.5 + 0.5 * math.sin(2 * math.pi * frame / FRAMES)))
        picture[200:300, left : left + 100] = 30
        found.append(picture.tobytes())
    return found


class Robot:
    """Publishes; has nothing to receive, so that it needs no executor."""

    def __init__(self) -> None:
        node = rclpy.create_node("soak_robot")
        self._images = {
            camera: node.create_publisher(Image, f"image_{camera}", qos_profile_sensor_data) for camera in CAMERAS
        }
        self._pictures = {camera: pictures(seed) for seed, camera in enumerate(CAMERAS)}
        self._joints = node.create_publisher(JointState, "joint_states", QoSProfile(depth=10))
        self._tf = node.create_publisher(TFMessage, "/tf", QoSProfile(depth=100))
        self._image = Image(height=HEIGHT, width=WIDTH, step=3 * WIDTH, encoding="rgb8")
        self._joint_state = JointState(name=list(FINGERS), position=[0.04, -0.04])
        self._transform = TransformStamped(child_frame_id=HAND)
        self._transform.header.frame_id = BASE
        self._transform.transform.rotation.x, self._transform.transform.rotation.w = 1.0, 0.0  # it points down

    def publish_motion(self, seconds: float) -> None:
        """The state at `seconds` since the start."""
        stamp = _now()
        # The integral of FASTEST/2 (1 - cos(2 pi t / SWELL)), in radians of the circle.
        angle = FASTEST / 2 * (seconds - SWELL / (2 * math.pi) * math.sin(2 * math.pi * seconds / SWELL)) / RADIUS
        translation = self._transform.transform.translation
        translation.x = CENTRE[0] + RADIUS * math.cos(angle)
        translation.y = CENTRE[1] + RADIUS * math.sin(angle)
        translation.z = CENTRE[2]
        self._transform.header.stamp = self._joint_state.header.stamp = stamp
        self._tf.publish(TFMessage(transforms=[self._transform]))
        self._joints.publish(self._joint_state)

    def publish_images(self, frame: int) -> None:
        self._image.header.stamp = _now()
        for camera, publisher in self._images.items():
            self._image.data = self._pictures[camera][frame % FRAMES]
            publisher.publish(self._image)


def _now() -> Time:
    return to_stamp(time.time_ns())


def main() -> int:
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    robot = Robot()
    start = time.monotonic()
    motions = frames = 0
    while not ended.is_set():
        elapsed = time.monotonic() - start
        if elapsed * MOTION_RATE >= motions:
            robot.publish_motion(elapsed)
            motions = max(motions + 1, math.floor(elapsed * MOTION_RATE))  # what a stall has missed stays missed
        if elapsed * CAMERA_RATE >= frames:
            robot.publish_images(frames)
            frames = max(frames + 1, math.floor(elapsed * CAMERA_RATE))
        due = min(motions / MOTION_RATE, frames / CAMERA_RATE)
        ended.wait(max(start + due - time.monotonic(), 0.0))
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
