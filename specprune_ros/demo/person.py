# SPDX-License-Identifier: Apache-2.0
"""A scripted person beside the arm, who takes over in the middle of an episode, pushes it aside, and lets go."""

from typing import Any

import numpy as np
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future
from std_srvs.srv import SetBool
from tf2_msgs.msg import TFMessage

from specprune_ros.arrays import Floats
from specprune_ros.demo.push import SERVICE, TOPIC, Push
from specprune_ros.demo.recorder import POLICY, SIMULATOR
from specprune_ros.nodes.libero_messages import WORLD
from specprune_ros.processes.runner import RunFailed
from specprune_ros.sim.libero_env import CONTROL_RATE
from specprune_ros.stamps import NANOSECONDS, from_stamp

DEVICE = "/teleop"  # the topic that `takeover.topic` names
DURATION = 1.5  # seconds of simulated time that a push takes
GAIN = 4.0  # 1/s, from the distance that is left to the velocity of the device
FASTEST = 0.5  # m/s


class Person(Node):
    """Drives the simulated arm by velocities, one in every control period, as a teleoperation device does.

    Everything runs on the thread that spins it, when the arm's transform arrives.
    """

    def __init__(self, **kwargs: Any) -> None:
        """`kwargs` go to the node."""
        super().__init__("person", parameter_overrides=[Parameter("use_sim_time", value=True)], **kwargs)
        self._push: Push | None = None
        self._answer: Future | None = None
        self._arm = self.create_publisher(TwistStamped, f"{SIMULATOR}/twist", 10)
        self._device = self.create_publisher(TwistStamped, DEVICE, 10)
        self._takeover = self.create_client(SetBool, f"{POLICY}/takeover")
        self.create_subscription(TFMessage, "/tf", self._on_transforms, 100)
        self.create_subscription(TwistStamped, f"{SIMULATOR}/twist", self._on_twist, 100)

    def missing(self, push: Push) -> str:
        """Whom the person does not reach yet; "" for nobody."""
        if self._arm.get_subscription_count() == 0:
            return "the simulator"
        if push.by == TOPIC:
            return "" if self._device.get_subscription_count() else "the policy's takeover.topic"
        return "" if self._takeover.service_is_ready() else "the policy's ~/takeover"

    def begin(self, push: Push, now: float) -> None:
        """The episode starts `now`, seconds of simulated time."""
        self._push, self._due = push, now + push.after
        self._until: float | None = None  # the push is over
        self._released: float | None = None
        self._from = self._place = self._before = np.full(3, np.nan)
        self._velocity = np.full(3, np.nan)  # measured, between the last two transforms
        self._first: dict[str, Any] | None = None  # what the policy commanded first after the release

    def end(self) -> dict[str, Any]:
        """Leave the arm alone; what was done, for the summary."""
        push, self._push = self._push, None
        assert push is not None
        return {
            "by": push.by,
            "after_s": push.after,
            "wanted_m": push.offset.tolist(),
            "moved_m": None if self._until is None else (self._place - self._from).round(4).tolist(),
            "released": self._released is not None,
            "first_command": self._first,
        }

    def _on_transforms(self, message: TFMessage) -> None:
        transform = message.transforms[0]
        now, p = from_stamp(transform.header.stamp) / NANOSECONDS, transform.transform.translation
        place = np.array([p.x, p.y, p.z])
        if self._push is None or self._first is not None:
            return
        self._velocity, self._before = (place - self._before) * CONTROL_RATE, place
        if now < self._due or self._released is not None:
            return
        if self._until is None:
            if self._push.by == SERVICE and not self._called(True):
                return
            self._until, self._from = now + DURATION, place
        self._place = place
        if now < self._until:
            left = self._from + self._push.offset - place
            self._drive(GAIN * left, transform.header.frame_id, self._push.by == TOPIC)
        elif self._push.by == TOPIC or self._called(False):
            self._released = now

    def _on_twist(self, message: TwistStamped) -> None:
        """The policy's velocities with controller.output twist; the person's own are in another frame."""
        if message.header.frame_id == WORLD and self._push and self._released is not None and self._first is None:
            linear = message.twist.linear
            self._first = {
                "commanded_m_s": [round(value, 4) for value in (linear.x, linear.y, linear.z)],
                "measured_m_s": self._velocity.round(4).tolist(),
            }

    def _called(self, data: bool) -> bool:
        """Whether ~/takeover with `data` has been answered; the first time calls it."""
        if self._answer is None:
            self._answer = self._takeover.call_async(SetBool.Request(data=data))
        if not self._answer.done():
            return False
        result, self._answer = self._answer.result(), None
        if not result.success:
            raise RunFailed(f"{self._takeover.srv_name} refused: {result.message}")
        return True

    def _drive(self, velocity: Floats, frame: str, by_topic: bool) -> None:
        velocity = velocity * min(1.0, FASTEST / max(float(np.linalg.norm(velocity)), 1e-9))
        message = TwistStamped()
        message.header.stamp, message.header.frame_id = self.get_clock().now().to_msg(), frame
        linear = message.twist.linear
        linear.x, linear.y, linear.z = map(float, velocity)
        if by_topic:
            self._device.publish(message)
        self._arm.publish(message)
