# SPDX-License-Identifier: Apache-2.0
"""What drives the grippers, by `controller.gripper_output`, when an opening changes: messages or goals."""

import time
from functools import partial
from typing import Protocol

import numpy as np
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.control.adapters import gripper_commands, gripper_point
from specprune_ros.errors import ConfigError
from specprune_ros.nodes.outputs.trajectory import trajectory
from specprune_ros.nodes.subscribing import deaf

QOS = QoSProfile(depth=1)
NAME = "~/gripper"
PAUSE = 0.5  # seconds after a refused goal
PATIENCE = 2.0  # seconds for an answer; a server that was killed gives none


class Gripper(Protocol):
    """One kind of output. All calls come from the executor's thread."""

    config: ControllerConfig  # its live fields may be replaced

    def move(self, openings: np.ndarray, header: Header) -> None:
        """Drive the grippers to `openings` (G,), 0 closed .. 1 open, if they are not on their way already."""
        ...

    def forget(self) -> None:
        """Send the next opening even if it is the last one again."""
        ...

    def look(self) -> None:
        """Notice a gripper that comes, which has not heard the last opening. In every period."""
        ...

    def problem(self) -> str:
        """Why the grippers do not obey, in one line; "" when that is not known."""
        ...

    def destroy(self) -> None: ...


class GripperMessages:
    """A JointState whose position and effort are the command, or a trajectory for a joint_trajectory_controller."""

    def __init__(self, node: LifecycleNode, config: ControllerConfig) -> None:
        self.config = config
        self._node = node
        kind = JointTrajectory if config.gripper_output == "trajectory" else JointState
        self.publisher = node.create_lifecycle_publisher(kind, NAME, QOS)
        self._sent: np.ndarray | None = None
        self._listeners = 0  # at the last look

    def move(self, openings: np.ndarray, header: Header) -> None:
        self.look()
        if self._sent is not None and np.array_equal(openings, self._sent):
            return
        self._sent = openings
        if self.config.gripper_output == "trajectory":
            self.publisher.publish(trajectory(gripper_point(openings, self.config), header))
        else:
            self.publisher.publish(self._command(openings, header))

    def _command(self, openings: np.ndarray, header: Header) -> JointState:
        commands = gripper_commands(openings, self.config)
        names = self.config.gripper_joint_names
        if len(names) != len(commands):
            names = tuple(f"gripper_{index}" for index in range(len(commands)))
        return JointState(
            header=header,
            name=list(names),
            position=[command.position for command in commands],
            effort=[command.max_effort for command in commands],
        )

    def forget(self) -> None:
        self._sent = None

    def look(self) -> None:
        before, self._listeners = self._listeners, self.publisher.get_subscription_count()
        if self._listeners > before:
            self._sent = None

    def problem(self) -> str:
        if self.publisher.get_subscription_count():
            return ""
        topic = self.publisher.topic_name
        return deaf(self._node, self.publisher) or f"nobody listens to {topic}; start the gripper, or remap {NAME}"

    def destroy(self) -> None:
        self._node.destroy_lifecycle_publisher(self.publisher)


class GripperGoals:
    """Goals of a control_msgs/GripperCommand action; a new goal replaces the one before it.

    A goal that cannot be sent or is refused is tried again, so a gripper that is started late, or again, follows.
    """

    def __init__(self, node: LifecycleNode, config: ControllerConfig) -> None:
        """Raises ConfigError without control_msgs."""
        try:
            from control_msgs.action import GripperCommand
        except ImportError:
            raise ConfigError(
                "controller.gripper_output action needs control_msgs; run: sudo apt-get install ros-jazzy-control-msgs"
            ) from None
        self.config = config
        self._goal = GripperCommand.Goal
        # Remapping rules for topics do not reach actions, so the name is resolved as a topic's.
        self.name = node.resolve_topic_name(NAME)
        self._client = ActionClient(node, GripperCommand, self.name)
        self._node, self._ready = node, False
        self._servers = 0  # at the last look
        self._sent: np.ndarray | None = None
        self._answer: Future | None = None  # to the goal sent last
        self._refused = False
        self._failed = ""  # how the goal sent last failed
        self._asked = self._not_before = 0.0  # time.monotonic() of the last goal, and of the next one

    def move(self, openings: np.ndarray, header: Header) -> None:
        self.look()
        now = time.monotonic()
        if self._answer is not None and not self._answer.done():
            if now < self._asked + PATIENCE:
                return
            self._answer = self._sent = None
        if self._sent is not None and np.array_equal(openings, self._sent):
            return
        if now < self._not_before or not self._ready:
            return  # in a later period
        (command,) = gripper_commands(openings, self.config)
        goal = self._goal()
        goal.command.position, goal.command.max_effort = command.position, command.max_effort
        self._sent, self._asked = openings, now
        self._answer = self._client.send_goal_async(goal)
        self._answer.add_done_callback(self._on_answer)

    def _on_answer(self, answer: Future) -> None:
        if id(answer) != id(self._answer):
            return  # it came too late
        self._refused, self._failed = answer.exception() is not None or not answer.result().accepted, ""
        if self._refused:
            self._sent, self._not_before = None, time.monotonic() + PAUSE
            return
        answer.result().get_result_async().add_done_callback(partial(self._on_result, answer))

    def _on_result(self, answer: Future, result: Future) -> None:
        """It is told and not tried again: an arm that goes on must not find its gripper moving at any moment."""
        if id(answer) != id(self._answer) or result.exception() is not None:
            return  # a newer goal has replaced it, or the server is gone
        end = result.result()
        held = end.result.stalled or end.result.reached_goal  # by what is between the fingers
        if end.status == GoalStatus.STATUS_ABORTED and not held:
            self._failed = f"aborted a goal at position {end.result.position:g}"

    def forget(self) -> None:
        self._sent = None

    def look(self) -> None:
        ready, self._ready = self._ready, self._client.server_is_ready()
        servers, self._servers = self._servers, self._node.count_publishers(f"{self.name}/_action/status")
        # One that was killed is there until its lease is over, beside the one that was started again.
        if (self._ready and not ready) or self._servers > servers:
            self._sent = self._answer = None

    def problem(self) -> str:
        if not self._client.server_is_ready():
            return f"no action server on {self.name}; start the gripper, or remap {NAME} to its GripperCommand action"
        if self._refused:
            return f"{self.name} refuses goals; check the gripper and controller.gripper_open_position"
        if self._failed:
            return (
                f"{self.name} {self._failed}; check that the gripper is activated and free to move, then call ~/enable"
            )
        return ""

    def destroy(self) -> None:
        self._client.destroy()


def open_gripper(node: LifecycleNode, config: ControllerConfig) -> Gripper | None:
    """The output that the configuration asks for; None for none."""
    if config.gripper_output == "none" or not config.gripper_dimensions:
        return None
    return GripperGoals(node, config) if config.gripper_output == "action" else GripperMessages(node, config)
