# SPDX-License-Identifier: Apache-2.0
"""Several arms from one model in one process: real nodes and threads, a fake policy, faults of one arm alone."""

import copy
import itertools
import signal
import threading
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from geometry_msgs.msg import TransformStamped, TwistStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecyclePublisher, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from session_bench import CARTESIAN, FakePolicy
from specprune_ros.srv import GetActionChunk
from std_srvs.srv import SetBool
from tf2_msgs.msg import TFMessage

from specprune_ros.control.takeover import InCharge
from specprune_ros.nodes.arms_process import ArmsProcess, ArmThread
from specprune_ros.nodes.model import SharedModel
from specprune_ros.nodes.policy_node import PolicyNode
from specprune_ros.processes.interruption import SIGNALS

pytestmark = pytest.mark.ros

COUNT = itertools.count()
PATIENCE = 60.0  # seconds


class SharedPolicy(FakePolicy):
    """One policy on fake weights: `siblings` are the others on them. `hang` makes an inference last."""

    def __init__(self):
        super().__init__()
        self.hang: threading.Event | None = None
        self.siblings = [self]

    def sibling(self, pruning):
        other = copy.copy(self)
        other.observations, other.calls, other.error, other.hang = [], [], None, None
        self.siblings.append(other)
        return other

    def act(self, observation):
        if self.hang is not None:
            assert self.hang.wait(PATIENCE)
        return super().act(observation)


class OneArm:
    """A node with its control thread, and what it sent: `speeds` of its twists."""

    def __init__(self, context, model, name, ending):
        overrides = {**CARTESIAN, "instruction": f"go {name}", "autostart": True, "limits.max_speed": 5.0}
        self.node = PolicyNode(
            model,
            context=context,
            namespace=f"arms_{next(COUNT)}/{name}",
            parameter_overrides=[Parameter(key, value=value) for key, value in overrides.items()],
        )
        self.speeds: list[float] = []
        self.sees = True
        self.control = ArmThread(self.node, ending)
        self.node.create_subscription(TwistStamped, "~/twist", lambda message: None, 1)  # the arm's controller

    @property
    def session(self):
        return self.node.session

    def feed(self):
        """Images and a pose, now."""
        session = self.session
        if session is None or not self.sees:
            return
        now = self.node.get_clock().now()
        transform = TransformStamped(child_frame_id="hand")
        transform.header.frame_id, transform.header.stamp = "base", now.to_msg()
        transform.transform.rotation.w = 1.0
        session._transforms.add(TFMessage(transforms=[transform]), False, now.nanoseconds)
        for camera in ("primary", "wrist"):
            image = Image(height=28, width=28, encoding="rgb8", step=84, data=bytes(2352))
            image.header.stamp = now.to_msg()
            session._inputs._add_image(camera, image)

    def moves(self):
        return bool(self.speeds) and self.speeds[-1] > 0

    def holds(self):
        return bool(self.speeds) and self.speeds[-1] == 0


class Arms:
    def __init__(self, monkeypatch):
        monkeypatch.setattr("specprune_ros.nodes.model.load_policy", lambda *_: SharedPolicy())
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.model, self.ending = SharedModel(), threading.Event()
        self.left, self.right = (OneArm(self.context, self.model, name, self.ending) for name in ("left", "right"))
        by_topic = {f"{arm.node.get_fully_qualified_name()}/twist": arm for arm in (self.left, self.right)}
        publish = LifecyclePublisher.publish

        def record(publisher, message):
            if publisher.is_activated and publisher.topic_name in by_topic:
                by_topic[publisher.topic_name].speeds.append(message.twist.linear.x)
            publish(publisher, message)

        monkeypatch.setattr(LifecyclePublisher, "publish", record)
        self.client = rclpy.create_node("client", context=self.context, namespace=f"arms_{next(COUNT)}")
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.client)
        for arm in (self.left, self.right):
            arm.control.thread.start()
        for arm in (self.left, self.right):
            assert arm.control.started.wait(PATIENCE) and not arm.control.failed

    def wait(self, condition, what=""):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, what
            self.left.feed()
            self.right.feed()
            self.executor.spin_once(timeout_sec=0.02)

    def call(self, arm, kind, name, **request):
        """A service of the arm's node, called from a node of its own."""
        client = self.client.create_client(kind, f"{arm.node.get_fully_qualified_name()}/{name}")
        self.wait(client.service_is_ready, name)
        answer = client.call_async(kind.Request(**request))
        self.wait(answer.done, name)
        return answer.result()

    def wait_for_inferences(self, count):
        """Until each arm had so many more."""
        before = [len(policy_of(arm).observations) for arm in (self.left, self.right)]
        self.wait(
            lambda: all(
                len(policy_of(arm).observations) >= had + count
                for arm, had in zip((self.left, self.right), before, strict=True)
            ),
            f"{count} inferences",
        )

    def start_moving(self):
        for arm in (self.left, self.right):
            assert arm.session.enable(True).success
        self.wait(lambda: self.left.moves() and self.right.moves(), "both move")

    def close(self):
        self.ending.set()
        for arm in (self.left, self.right):
            arm.control.thread.join(PATIENCE)
            arm.node.destroy_node()
        self.executor.shutdown()
        self.client.destroy_node()
        self.context.shutdown()


@pytest.fixture
def arms(monkeypatch):
    arms = Arms(monkeypatch)
    yield arms
    arms.close()


def policy_of(arm):
    return arm.session.policy


def test_each_has_its_own_instruction_and_history_of_one_model(arms):
    arms.start_moving()
    left, right = policy_of(arms.left), policy_of(arms.right)
    assert left is not right and set(left.siblings) == {left, right} and arms.model.turns.arms == 2
    assert {seen.instruction for seen in left.observations} == {"go left"}
    assert {seen.instruction for seen in right.observations} == {"go right"}
    resets = right.calls.count("reset")
    arms.left.session.reset()
    arms.wait(lambda: left.calls.count("reset") > 1)
    assert right.calls.count("reset") == resets


def test_inference_that_fails_stops_its_own_arm_alone(arms):
    arms.start_moving()
    policy_of(arms.left).error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    arms.wait(lambda: arms.left.holds(), "the left arm holds")
    count = len(policy_of(arms.right).observations)
    arms.wait(lambda: len(policy_of(arms.right).observations) > count + 3 and arms.right.moves(), "the right one moves")
    assert "please report it" in arms.left.session._worker.problem and not arms.right.session._worker.problem
    policy_of(arms.left).error = None
    arms.wait(lambda: arms.left.moves(), "the left arm moves again")


def test_inference_that_hangs_lets_both_hold_in_time(arms):
    arms.start_moving()
    policy_of(arms.left).hang = hang = threading.Event()
    arms.wait(lambda: arms.left.holds() and arms.right.holds(), "both hold when their chunks are over")
    hang.set()
    policy_of(arms.left).hang = None
    arms.wait(lambda: arms.left.moves() and arms.right.moves(), "both move again")


def test_control_thread_that_hangs_delays_no_hold_of_the_other(arms):
    arms.start_moving()
    go = threading.Event()
    timer = arms.left.node.create_timer(0.001, lambda: go.wait(PATIENCE))
    arms.wait(lambda: not go.is_set() and arms.left.control._beat < time.monotonic() - 0.5, "the left one hangs")
    arms.right.sees = False
    arms.wait(lambda: arms.right.holds(), "the right arm holds without its cameras")
    arms.right.sees = True
    arms.wait(lambda: arms.right.moves(), "and moves again")
    arms.left.node.set_parameters([Parameter("hang_timeout", value=1.0)])
    arms.wait(lambda: arms.left.control.hangs and not arms.right.control.hangs, "the hang is noticed")
    go.set()
    arms.left.node.destroy_timer(timer)


def test_a_person_takes_over_one_arm_and_the_other_goes_on(arms):
    arms.start_moving()
    assert arms.call(arms.left, SetBool, "takeover", data=True).success
    assert arms.left.holds()
    left, right = len(arms.left.speeds), len(arms.right.speeds)
    arms.wait_for_inferences(4)
    arms.wait(lambda: sum(speed > 0 for speed in arms.right.speeds[right:]) > 10, "the right arm moves")
    assert len(arms.left.speeds) == left  # it is the person's
    assert (arms.left.session.in_charge, arms.right.session.in_charge) == (InCharge.PERSON, InCharge.POLICY)
    assert arms.call(arms.left, SetBool, "takeover", data=False).success
    arms.wait(lambda: len(arms.left.speeds) > left and arms.left.moves() and arms.right.moves(), "both move")


def test_one_arms_chunk_is_asked_for_while_the_other_moves(arms):
    policy_of(arms.left).actions = np.tile([0.1, 0, 0, 0, 0, 0, 1.0], (8, 1))
    assert arms.right.session.enable(True).success
    arms.wait(arms.right.moves, "the right arm moves")
    right = len(arms.right.speeds)
    answer = arms.call(arms.left, GetActionChunk, "get_action_chunk", instruction="fold the towel", timeout=PATIENCE)
    assert answer.success, answer.message
    assert answer.chunk.instruction == "fold the towel" and answer.chunk.actions[0] == 0.1
    assert not answer.chunk.execute and not arms.left.speeds
    arms.wait(lambda: any(speed > 0 for speed in arms.right.speeds[right:]), "the right arm moves")
    assert arms.right.session.policy.observations[-1].instruction == "go right"
    policy_of(arms.left).error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    answer = arms.call(arms.left, GetActionChunk, "get_action_chunk", timeout=0.5)
    assert not answer.success and "mat1 and mat2" in answer.message
    arms.wait(arms.right.moves, "the right arm still moves")


def test_deactivated_and_cleaned_up_beside_one_that_moves(arms):
    arms.start_moving()
    assert arms.left.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert arms.left.node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    assert arms.model.turns.arms == 1
    count = len(policy_of(arms.right).observations)
    arms.wait(lambda: len(policy_of(arms.right).observations) > count + 3 and arms.right.moves(), "the right one moves")
    assert arms.left.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert arms.left.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    assert policy_of(arms.left) in policy_of(arms.right).siblings and arms.model.turns.arms == 2
    arms.wait(lambda: arms.right.moves())


def test_another_model_is_refused(arms):
    arms.left.node.trigger_deactivate()
    arms.left.node.trigger_cleanup()
    arms.left.node.set_parameters([Parameter("model.dtype", value="bfloat16")])
    assert arms.left.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert "the other arms of this process share a model with 'auto'" in arms.left.node._failure
    assert arms.model.turns.arms == 1
    arms.right.node.trigger_deactivate()
    arms.right.node.trigger_cleanup()
    assert arms.left.node.trigger_configure() == TransitionCallbackReturn.SUCCESS  # it is alone now


def test_diagnostics_tell_of_the_others(arms):
    arms.start_moving()
    inference = next(status for status in arms.right.session.statuses() if status.name == "inference")
    assert inference.values["arms on this model"] == 2
    assert 0.0 <= inference.values["wait for a turn p99 ms"] < np.inf


@pytest.fixture
def process(arms):
    """The process around both arms, which move."""
    handlers = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGTSTP)}
    try:
        process = ArmsProcess()
    finally:
        process.heartbeat.stop()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    process.arms, process._ending = [arms.left.control, arms.right.control], arms.ending
    arms.start_moving()
    yield process
    process.heartbeat.stop()


def test_ctrl_z_holds_every_arm_before_the_process_stops(arms, process):
    held = []

    def stop():
        held.extend(arm.holds() and not arm.session.motion_is_on for arm in (arms.left, arms.right))
        for arm in process.arms:
            arm._beat -= 3600.0  # it took an hour
        process.interruption.requested, process.suspension.requested = True, False

    process.suspension.stop = stop
    process.suspension.requested = True
    assert process.run() == 0 and held == [True, True]
    assert not any(arm.hangs for arm in process.arms)


def test_the_end_holds_every_arm_even_beside_one_that_hangs(arms, process, monkeypatch):
    go = threading.Event()
    timer = arms.left.node.create_timer(0.001, lambda: go.wait(PATIENCE))
    arms.wait(lambda: arms.left.control._beat < time.monotonic() - 0.5, "the left one hangs")
    ended = []
    monkeypatch.setattr("specprune_ros.nodes.arms_process.leave", ended.append)
    monkeypatch.setattr("specprune_ros.nodes.arms_process.end_within", lambda *_: None)
    monkeypatch.setattr("specprune_ros.nodes.arms_process.rclpy.try_shutdown", lambda: None)
    monkeypatch.setattr(PolicyNode, "destroy_node", lambda node: None)
    process.end(1)
    assert ended == [1] and arms.right.holds()
    go.set()
    arms.left.node.destroy_timer(timer)
    monkeypatch.undo()
