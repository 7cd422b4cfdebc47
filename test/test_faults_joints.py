# SPDX-License-Identifier: Apache-2.0
"""A joint-space node, its arm's driver and a second publisher of the joints, over DDS. Only the policy is a fake."""

import os
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from fault_bench import Bench
from faults import HOLDS, fault
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from session_bench import FakePolicy
from trajectory_msgs.msg import JointTrajectory

from specprune_ros.nodes.policy_node import PolicyNode

pytestmark = pytest.mark.ros

SECOND_PUBLISHER = fault(
    "Joint states",
    "a second publisher says that the joints are elsewhere (joint_state_publisher's zeros)",
    HOLDS,
    "motion",
    "published by /joint_state_publisher, /test_client: end all but the robot's driver",
)
NAMES = [f"joint_{k}" for k in range(1, 8)]
HOME = np.array([1.0, 0.5, -0.5, 1.2, -1.0, 0.8, 2.0])  # rad
SPEED, LEAD = 0.5, 0.2  # rad/s and rad
PARAMETERS = {
    "instruction": "go",
    "inputs.proprio": "none",
    "inputs.base_frame": "",
    "inputs.ee_frame": "",
    "inputs.max_age": 1.0,
    "inputs.max_skew": 0.5,
    "inputs.frozen_after": 0.0,
    "controller.output": "joint_trajectory",
    "controller.action_space": "absolute_joint",
    "controller.joint_names": NAMES,
    "controller.gripper_dimensions": [],
    "controller.gripper_output": "none",
    "controller.max_lead_angle": LEAD,
    "limits.max_joint_speed": [SPEED],
}


class Swinging(FakePolicy):
    """Swings every joint about HOME."""

    chunk_length, action_space = 20, "absolute_joint"
    action_names, action_units = tuple(NAMES), ("rad",) * 7
    action_range = HOME - 1.0, HOME + 1.0

    def act(self, observation):
        times = observation.stamp + 0.05 * np.arange(self.chunk_length)
        self.actions = HOME + 0.3 * np.sin(times)[:, None]
        time.sleep(0.02)
        return super().act(observation)


class Robot(Bench):
    """An arm that is at every point at once, its driver, and a second publisher while `lies`."""

    def __init__(self, context):
        self.position, self.lies = HOME, False
        self.points = []  # (positions, where the arm was)
        self.other = rclpy.create_node("joint_state_publisher", context=context)
        self.liar = self.other.create_publisher(JointState, "joint_states", 10)
        super().__init__(context, SimpleNamespace(poll=lambda: None, pid=os.getpid()))
        self.node.create_subscription(JointTrajectory, "/specprune_policy/joint_trajectory", self._obey, 10)

    def _obey(self, message):
        goal = np.array(message.points[0].positions)
        self.points.append((goal, self.position))
        self.position = goal

    def publish_motion(self, stamp):
        messages = [(self.joints, self.position)] + [(self.liar, np.zeros(7))] * self.lies
        for publisher, positions in messages:
            message = JointState(name=NAMES, position=positions.tolist())
            message.header.stamp = stamp
            publisher.publish(message)

    def moved(self, distance):
        """Until the arm has travelled that far from here, rad."""
        start = self.position
        self.wait(lambda: np.abs(self.position - start).max() >= distance, "motion")

    def close(self):
        super().close()
        self.other.destroy_node()


@pytest.fixture
def robot(monkeypatch):
    monkeypatch.setattr("specprune_ros.nodes.model.load_policy", lambda *_: Swinging())
    contexts = [rclpy.Context(), rclpy.Context()]
    for context in contexts:
        context.init()
    node = PolicyNode(context=contexts[0], parameter_overrides=[Parameter(k, value=v) for k, v in PARAMETERS.items()])
    node.trigger_configure()
    assert node.session is not None, node._failure
    node.trigger_activate()
    executor = SingleThreadedExecutor(context=contexts[0])
    executor.add_node(node)
    ended = threading.Event()

    def spin():
        while not ended.is_set():
            executor.spin_once(timeout_sec=0.1)

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    robot = Robot(contexts[1])
    try:
        yield robot
    finally:
        robot.close()
        ended.set()
        thread.join()
        executor.shutdown()
        node.destroy_node()
        for context in contexts:
            context.shutdown()


def test_a_second_publisher_of_the_joints(robot):
    robot.wait(lambda: robot.statuses().get("lifecycle", ("", ""))[1] == "active", "the node")
    assert robot.enable().success
    robot.moved(0.05)
    robot.lies = True
    robot.says(SECOND_PUBLISHER)
    held = len(robot.points)
    robot.spin(1.0)
    assert all(np.array_equal(point, robot.points[held - 1][0]) for point, _ in robot.points[held:])
    robot.lies = False
    robot.moved(0.05)  # by itself
    assert max(np.abs(goal - arm).max() for goal, arm in robot.points) <= LEAD + SPEED * 0.1
