# SPDX-License-Identifier: Apache-2.0
"""Control outputs as messages, over DDS: target poses, joint trajectories, grippers."""

import dataclasses
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from control_msgs.action import GripperCommand
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionServer, GoalResponse
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.control.arm import Arm, Motion
from specprune_ros.control.executor import ExecutorConfig
from specprune_ros.control.limits import LimitsConfig
from specprune_ros.errors import ConfigError
from specprune_ros.nodes.outputs.commands import header_of, open_commands
from specprune_ros.nodes.outputs.gripper import GripperGoals, GripperMessages, open_gripper
from specprune_ros.pose import Pose

pytestmark = pytest.mark.ros

PATIENCE, NOTHING = 120.0, 0.5  # seconds until something has come, and in which nothing may
JOINTS = ("a", "b")
HEADER = header_of("base", 1_500_000_000)
TRAJECTORY = ControllerConfig(
    output="joint_trajectory",
    action_space="absolute_joint",
    joint_names=JOINTS,
    gripper_dimensions=(2,),
    gripper_output="trajectory",
    gripper_joint_names=("finger_1", "finger_2"),
    trajectory="point",
)


@pytest.fixture
def hear():
    """Makes outputs on a node, and hears what they publish."""
    context = rclpy.Context()
    context.init()
    node = LifecycleNode("commands", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    heard = []

    def hear(kind, topic, make):
        node.create_subscription(kind, topic, heard.append, 10)
        output = make(node)
        node.trigger_configure()
        node.trigger_activate()

        def latest(action, expected=True):
            """The message that `action` publishes; None when none is expected and none comes."""
            while not output.publisher.get_subscription_count():
                executor.spin_once(timeout_sec=0.01)
            count = len(heard)
            action(output)
            until = time.monotonic() + (PATIENCE if expected else NOTHING)
            while time.monotonic() < until:
                executor.spin_once(timeout_sec=0.01)
                if len(heard) > count:
                    return heard[-1]
            assert not expected
            return None

        return latest

    yield hear
    node.destroy_node()
    context.shutdown()


def motion(**values):
    empty = dict.fromkeys(("twist", "joints", "joint_velocities", "command"))
    return Motion(
        **{**empty, "openings": np.zeros(1), "limits_hit": (), "deviation": 0.0, "deviation_angle": 0.0, **values}
    )


def test_target_pose(hear):
    arm = Arm(7, ControllerConfig(output="pose", rate=20.0), LimitsConfig(), ExecutorConfig())
    latest = hear(PoseStamped, "~/target_pose", lambda node: open_commands(node, arm))
    here = Pose(np.array([0.4, 0.0, 0.3]), np.array([1.0, 0.0, 0.0, 0.0]))
    forward = motion(twist=np.array([0.1, 0, 0, 0, 0, 0]))
    moved = latest(lambda output: output.move(forward, here, HEADER))
    assert moved.header.frame_id == "base" and (moved.header.stamp.sec, moved.header.stamp.nanosec) == (1, 500_000_000)
    assert moved.pose.position.x == pytest.approx(0.405) and abs(moved.pose.orientation.x) == pytest.approx(1.0)
    held = latest(lambda output: output.hold(here, HEADER, True))
    assert held.pose.position.x == pytest.approx(0.4)


@pytest.mark.parametrize("velocities", [True, False])
def test_trajectory_of_a_whole_chunk(hear, velocities):
    config = dataclasses.replace(TRAJECTORY, trajectory="chunk", trajectory_velocities=velocities)
    arm = Arm(3, config, LimitsConfig(), ExecutorConfig())
    latest = hear(JointTrajectory, "~/joint_trajectory", lambda node: open_commands(node, arm))
    arm.enable()
    actions = np.array([[0.01 * k, -0.02 * k, 1.0] for k in range(8)])
    assert arm.executor.submit(actions, 1.5, 0.05, 1.5).accepted
    moves = arm.tick(1.5, joints=np.zeros(2))
    sent = latest(lambda output: output.move(moves, None, HEADER))
    assert sent.joint_names == list(JOINTS)
    assert (sent.header.stamp.sec, sent.header.stamp.nanosec) == (1, 500_000_000)  # when its first point is due
    times = [point.time_from_start.sec + point.time_from_start.nanosec / 1e9 for point in sent.points]
    assert times == pytest.approx(0.05 * np.arange(len(times)))
    assert list(sent.points[0].positions) == [0.0, 0.0]
    assert list(sent.points[-1].positions) == pytest.approx([0.07, -0.14], rel=0.03)
    if velocities:
        assert list(sent.points[-1].velocities) == [0.0, 0.0]  # joint_trajectory_controller refuses others
        assert any(point.velocities[0] > 0.15 for point in sent.points)
    else:
        assert not any(point.velocities for point in sent.points)
    goes_on = arm.tick(1.55, joints=np.zeros(2))
    assert latest(lambda output: output.move(goes_on, None, HEADER), False) is None  # one for a chunk


def test_joint_trajectory(hear):
    arm = Arm(3, TRAJECTORY, LimitsConfig(), ExecutorConfig())
    latest = hear(JointTrajectory, "~/joint_trajectory", lambda node: open_commands(node, arm))
    goal = motion(joints=np.array([0.5, -0.5]), joint_velocities=np.array([1.0, 0.0]))
    moved = latest(lambda output: output.move(goal, None, HEADER))
    assert moved.joint_names == list(JOINTS) and len(moved.points) == 1
    assert moved.header.stamp.sec == moved.header.stamp.nanosec == 0  # start now
    assert list(moved.points[0].positions) == pytest.approx([0.5 + 1.0 * (0.1 - 0.05), -0.5])
    assert moved.points[0].time_from_start.nanosec == 100_000_000
    assert latest(lambda output: output.hold(None, HEADER, True), False) is None  # nothing is known of the arm yet
    arm.hold(np.array([0.1, 0.2]))
    held = latest(lambda output: output.hold(None, HEADER, True))
    assert list(held.points[0].positions) == [0.1, 0.2]
    assert latest(lambda output: output.hold(None, HEADER, False), False) is None


def test_gripper_command_is_sent_when_it_changes(hear):
    latest = hear(JointState, "~/gripper", lambda node: GripperMessages(node, ControllerConfig()))
    opened = latest(lambda output: output.move(np.array([1.0]), HEADER))
    assert list(opened.position) == [0.08] and list(opened.effort) == [20.0]
    assert latest(lambda output: output.move(np.array([1.0]), HEADER), False) is None
    assert list(latest(lambda output: output.move(np.array([0.0]), HEADER)).position) == [0.0]


def test_gripper_trajectory(hear):
    latest = hear(JointTrajectory, "~/gripper", lambda node: GripperMessages(node, TRAJECTORY))
    opened = latest(lambda output: output.move(np.array([1.0]), HEADER))
    assert opened.joint_names == ["finger_1", "finger_2"] and list(opened.points[0].positions) == [0.08, 0.08]


class GripperServer:
    """A gripper as ros2_control and franka_gripper have them."""

    def __init__(self, name, accepts=True):
        self.goals, self.accepts = [], accepts
        self.context = rclpy.Context()
        self.context.init()
        self.node = rclpy.create_node("gripper", context=self.context)
        self._server = ActionServer(self.node, GripperCommand, name, self._move, goal_callback=self._on_goal)

    def _on_goal(self, goal):
        self.goals.append((goal.command.position, goal.command.max_effort))
        return GoalResponse.ACCEPT if self.accepts else GoalResponse.REJECT

    def _move(self, handle):
        handle.succeed()
        return GripperCommand.Result(position=handle.request.command.position, reached_goal=True)

    def destroy(self):
        self._server.destroy()
        self.node.destroy_node()
        self.context.shutdown()


@pytest.fixture
def goals():
    """(output, move): a remapped action output; `move(openings, server)` commands it for a while of control periods."""
    context = rclpy.Context()
    context.init(args=["--ros-args", "-r", "~/gripper:=/hand/gripper_action"])
    node = LifecycleNode("goals", context=context)
    output = open_gripper(node, ControllerConfig(gripper_output="action", gripper_max_effort=7.0))
    executors = {id(context): SingleThreadedExecutor(context=context)}
    executors[id(context)].add_node(node)

    def move(opening, server, until, seconds=PATIENCE):
        if server and id(server.context) not in executors:
            executors[id(server.context)] = SingleThreadedExecutor(context=server.context)
            executors[id(server.context)].add_node(server.node)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            output.move(np.array([opening]), HEADER)
            for executor in executors.values():
                executor.spin_once(timeout_sec=0.01)
            if until():
                return True
        return False

    yield output, move
    output.destroy()
    node.destroy_node()
    context.shutdown()


def test_gripper_goals_are_sent_once_and_wait_for_their_server(goals):
    output, move = goals
    assert isinstance(output, GripperGoals)
    assert not move(1.0, None, lambda: False, NOTHING)
    assert "no action server on /hand/gripper_action; start the gripper" in output.problem()
    server = GripperServer("/hand/gripper_action")
    try:
        assert move(1.0, server, lambda: server.goals)
        assert not move(1.0, server, lambda: len(server.goals) > 1, NOTHING) and output.problem() == ""
        assert move(0.0, server, lambda: len(server.goals) > 1)
        assert server.goals == [(0.08, 7.0), (0.0, 7.0)]
        output.forget()
        assert move(0.0, server, lambda: len(server.goals) > 2)
    finally:
        server.destroy()


def test_refused_gripper_goals_are_told_and_sent_again(goals):
    output, move = goals
    server = GripperServer("/hand/gripper_action", accepts=False)
    try:
        assert move(1.0, server, lambda: "refuses goals" in output.problem())
        server.accepts = True
        assert move(1.0, server, lambda: not output.problem())
        count = len(server.goals)
        assert not move(1.0, server, lambda: len(server.goals) > count, NOTHING)
    finally:
        server.destroy()


def test_a_gripper_server_that_dies_with_a_goal_is_replaced(goals):
    output, move = goals
    dead = GripperServer("/hand/gripper_action")  # never spins: it takes the goal and does not answer
    assert not move(1.0, None, lambda: dead.goals, 2.0) and output.problem() == ""
    dead.destroy()
    server = GripperServer("/hand/gripper_action")
    try:
        assert move(1.0, server, lambda: server.goals) and server.goals[0][0] == 0.08
        assert not move(1.0, server, lambda: len(server.goals) > 1, NOTHING)
    finally:
        server.destroy()


def test_an_action_drives_one_gripper():
    with pytest.raises(ConfigError, match="drives one gripper, and there are 2"):
        ControllerConfig(gripper_output="action", gripper_dimensions=(6, 13))
