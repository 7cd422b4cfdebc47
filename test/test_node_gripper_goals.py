# SPDX-License-Identifier: Apache-2.0
"""When goals are sent to a gripper's action server: its answers and the time are what the test says."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("control_msgs")

from action_msgs.msg import GoalStatus

from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.errors import ConfigError
from specprune_ros.nodes.outputs.gripper import PATIENCE, PAUSE, GripperMessages, open_gripper

pytestmark = pytest.mark.ros
OPEN, CLOSED = np.array([1.0]), np.array([0.0])
JOINTS = {"action_space": "absolute_joint", "joint_names": ("a",)}


class Answer:
    """A future that the test completes."""

    def __init__(self):
        self._callback, self._done, self._result, self._error = None, False, None, None

    def done(self):
        return self._done

    def exception(self):
        return self._error

    def result(self):
        return self._result

    def add_done_callback(self, callback):
        self._callback = callback

    def complete(self, accepted=True, error=None):
        self.ending = Answer()
        self.give(SimpleNamespace(accepted=accepted, get_result_async=lambda: self.ending), error)

    def end(self, status, stalled=False, reached=False, error=None):
        """The result of an accepted goal."""
        result = SimpleNamespace(position=0.03, stalled=stalled, reached_goal=reached)
        self.ending.give(SimpleNamespace(status=status, result=result), error)

    def give(self, result, error=None):
        self._done, self._error, self._result = True, error, None if error else result
        self._callback(self)


class World:
    """An action client whose server is there, and a clock."""

    def __init__(self, monkeypatch):
        self.ready, self.now, self.goals, self.answers, self.destroyed = True, 100.0, [], [], False
        monkeypatch.setattr("specprune_ros.nodes.outputs.gripper.ActionClient", lambda *_: self)
        monkeypatch.setattr("specprune_ros.nodes.outputs.gripper.time", SimpleNamespace(monotonic=lambda: self.now))
        self.servers = 1
        node = SimpleNamespace(
            resolve_topic_name=lambda name: name.replace("~", "/policy"), count_publishers=lambda topic: self.servers
        )
        self.gripper = open_gripper(node, ControllerConfig(gripper_output="action", gripper_max_effort=7.0))

    def server_is_ready(self):
        return self.ready

    def send_goal_async(self, goal):
        self.goals.append((goal.command.position, goal.command.max_effort))
        self.answers.append(Answer())
        return self.answers[-1]

    def destroy(self):
        self.destroyed = True

    def move(self, openings, later=0.05):
        self.now += later
        self.gripper.move(openings, None)
        return len(self.goals)


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_a_goal_is_sent_once_and_a_new_one_when_the_opening_changes(world):
    assert world.move(OPEN) == 1 and world.goals == [(0.08, 7.0)]
    assert world.move(OPEN) == 1 and world.move(CLOSED) == 1  # while the answer is awaited
    world.answers[0].complete()
    assert world.gripper.problem() == "" and world.move(OPEN) == 1 and world.move(CLOSED) == 2
    world.answers[1].complete()
    world.gripper.forget()
    assert world.move(CLOSED) == 3


def test_nothing_is_sent_without_a_server(world):
    world.ready = False
    assert world.move(OPEN) == 0 and "no action server on /policy/gripper; start the gripper" in world.gripper.problem()
    world.ready = True
    assert world.move(OPEN) == 1 and world.gripper.problem() == ""


@pytest.mark.parametrize("answered", [True, False])
def test_a_server_that_is_started_again_hears_the_opening_again(world, answered):
    world.move(CLOSED)
    if answered:
        world.answers[0].complete()
    world.ready = False
    assert world.move(CLOSED) == 1
    world.ready = True
    assert world.move(CLOSED) == 2
    world.answers[1].complete()
    assert world.move(CLOSED) == 2


def test_a_server_that_was_killed_and_is_started_again_within_its_lease(world):
    world.move(CLOSED)
    world.answers[0].complete()
    world.servers = 2  # the dead one is not forgotten yet
    assert world.move(CLOSED) == 2
    world.servers = 1
    world.answers[1].complete()
    assert world.move(CLOSED) == 2


def test_a_server_that_is_started_again_while_the_arm_holds_hears_it_at_the_next_motion(world):
    world.move(CLOSED)
    world.answers[0].complete()
    for ready in (False, True):
        world.ready = ready
        world.gripper.look()
    assert world.move(CLOSED) == 2


@pytest.mark.parametrize("answer", [{"accepted": False}, {"error": RuntimeError("gone")}])
def test_a_refused_goal_is_told_and_sent_again_after_a_pause(world, answer):
    world.move(OPEN)
    world.answers[0].complete(**answer)
    refused = world.now
    assert "/policy/gripper refuses goals" in world.gripper.problem()
    assert world.move(OPEN, PAUSE - 0.01) == 1
    world.now = refused
    assert world.move(OPEN, PAUSE) == 2
    world.answers[1].complete()
    assert world.gripper.problem() == "" and world.move(OPEN) == 2


def test_a_goal_that_fails_is_told_until_one_succeeds(world):
    world.move(OPEN)
    world.answers[0].complete()
    world.answers[0].end(GoalStatus.STATUS_ABORTED)
    assert world.gripper.problem().startswith("/policy/gripper aborted a goal at position 0.03; check that the gripper")
    assert world.move(OPEN, 60.0) == 1  # it is not moved while the arm is on its way
    assert world.move(CLOSED) == 2
    world.answers[1].complete()
    assert world.gripper.problem() == ""


@pytest.mark.parametrize(
    "end",
    [
        {"status": GoalStatus.STATUS_SUCCEEDED, "reached": True},
        {"status": GoalStatus.STATUS_ABORTED, "stalled": True},  # it holds something
        {"status": GoalStatus.STATUS_ABORTED, "error": RuntimeError("the server is gone")},
        {"status": GoalStatus.STATUS_CANCELED},
    ],
)
def test_a_gripper_that_holds_something_has_not_failed(world, end):
    world.move(CLOSED)
    world.answers[0].complete()
    world.answers[0].end(**end)
    assert world.gripper.problem() == ""


def test_a_goal_that_was_replaced_may_be_aborted(world):
    world.move(OPEN)
    world.answers[0].complete()
    world.move(CLOSED)
    world.answers[0].end(GoalStatus.STATUS_ABORTED)
    assert world.gripper.problem() == ""


def test_a_goal_without_an_answer_is_sent_again_and_a_late_answer_means_nothing(world):
    world.move(OPEN)
    sent = world.now
    assert world.move(OPEN, PATIENCE - 0.01) == 1
    world.now = sent
    assert world.move(OPEN, PATIENCE) == 2
    world.answers[0].complete(accepted=False)
    assert world.gripper.problem() == ""
    world.answers[1].complete()
    assert world.gripper.problem() == "" and world.move(OPEN) == 2


def test_a_server_that_goes_while_the_answer_is_awaited(world):
    world.move(OPEN)
    world.ready = False
    assert world.move(OPEN, PATIENCE) == 1
    world.ready = True
    assert world.move(OPEN) == 2
    world.gripper.destroy()
    assert world.destroyed


def test_names_and_kinds_of_outputs():
    listeners = [1]
    node = SimpleNamespace(
        create_lifecycle_publisher=lambda kind, topic, qos: SimpleNamespace(
            kind=kind, topic=topic, topic_name=topic, msg_type=kind, get_subscription_count=lambda: listeners[0]
        ),
        get_subscriptions_info_by_topic=lambda topic: [],
    )
    assert open_gripper(node, ControllerConfig(gripper_output="none")) is None
    made = open_gripper(node, ControllerConfig())
    assert isinstance(made, GripperMessages) and made.publisher.topic == "~/gripper" and made.problem() == ""
    listeners[0] = 0
    assert made.problem() == "nobody listens to ~/gripper; start the gripper, or remap ~/gripper"
    two = ControllerConfig(gripper_dimensions=(5, 6))
    assert list(GripperMessages(node, two)._command(np.zeros(2), None).name) == ["gripper_0", "gripper_1"]
    named = ControllerConfig(gripper_dimensions=(5, 6), gripper_joint_names=("left", "right"))
    assert list(GripperMessages(node, named)._command(np.zeros(2), None).name) == ["left", "right"]
    assert open_gripper(node, ControllerConfig(**JOINTS, gripper_dimensions=())) is None


def test_the_first_goal_waits_for_nothing(world):
    world.now = 0.0  # a machine that has just started
    assert world.move(OPEN, later=0.0) == 1


def test_goals_need_control_msgs(monkeypatch):
    monkeypatch.setitem(sys.modules, "control_msgs.action", None)
    with pytest.raises(ConfigError, match=r"controller\.gripper_output action needs control_msgs; run: sudo apt-get"):
        open_gripper(SimpleNamespace(), ControllerConfig(gripper_output="action"))
