# SPDX-License-Identifier: Apache-2.0
"""A person takes over and gives back, in a session in this process: what is sent, what is told, what it ends."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from geometry_msgs.msg import Twist, TwistStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from session_bench import SECOND, STEP, FakePolicy, SessionBench, start_moving
from std_srvs.srv import SetBool

from specprune_ros.control.arm import Motion
from specprune_ros.control.command import Hold, HoldReason
from specprune_ros.control.takeover import InCharge, TakeoverConfig
from specprune_ros.errors import ConfigError
from specprune_ros.nodes.reporting.diagnostics import WARN
from specprune_ros.nodes.takeover_input import TakeoverInput
from specprune_ros.policy import Observation

pytestmark = pytest.mark.ros
DEVICE = {"takeover.topic": "/teleop", "takeover.release_after": 0.3}


@pytest.fixture
def make(monkeypatch):
    benches = []

    def make(**parameters):
        benches.append(SessionBench(monkeypatch, **parameters))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


@pytest.fixture
def bench(make):
    return make()


def test_nothing_is_sent_after_one_last_hold(bench):
    start_moving(bench)
    assert bench.speeds()[-1] > 0
    answer = bench.take_over()
    assert answer.success
    assert bench.speeds()[-1] == 0.0  # at once
    stop = bench.messages("action_chunk")[-1]
    assert stop.steps == 0 and stop.in_charge == "person"  # for whoever executes the chunks
    sent = len(bench.sent)
    for step in range(10):
        bench.infer()
        assert bench.tick(x=0.02 * step) == Hold(HoldReason.TAKEN_OVER)
    assert not [topic for topic, _ in bench.sent[sent:] if topic in ("twist", "gripper")]


def test_the_policy_goes_on_and_its_chunks_are_marked(bench):
    start_moving(bench)
    seen, resets = len(bench.policy.observations), bench.policy.calls.count("reset")
    bench.take_over()
    for _ in range(3):
        bench.infer()
        bench.tick()
    assert len(bench.policy.observations) == seen + 3
    assert bench.policy.calls.count("reset") == resets  # its history keeps up
    chunk, stats = bench.messages("action_chunk")[-1], bench.messages("pruning")[-1]
    assert chunk.steps and not chunk.execute
    assert chunk.in_charge == stats.in_charge == "person"
    bench.take_over(False)
    bench.infer()
    assert bench.messages("action_chunk")[-1].in_charge == bench.messages("pruning")[-1].in_charge == "policy"
    bench.enable(False)
    bench.infer()
    assert bench.messages("action_chunk")[-1].in_charge == "nobody"


def test_it_goes_on_by_an_observation_that_is_newer_than_the_release(bench):
    start_moving(bench)
    bench.take_over()
    bench.tick()
    bench.advance(0.001)
    bench.see()
    bench.advance(0.01)
    answer = bench.take_over(False)
    assert answer.success and "goes on" in answer.message
    bench.work()  # on what was seen before
    assert not bench.messages("action_chunk")[-1].execute
    count = len(bench.speeds())
    assert bench.tick().reason == HoldReason.NO_CHUNK
    assert len(bench.speeds()) == count  # the arm is where the person left it, and nobody moves it yet
    bench.infer()
    assert bench.messages("action_chunk")[-1].execute
    assert isinstance(bench.tick(), Motion) and len(bench.speeds()) == count + 1


def test_no_step_of_velocity_after_the_release(make):
    """A person lets go of an arm that moves back at 0.2 m/s; the policy wants to go forward at 0.5 m/s."""
    bench = make(**{"limits.max_acceleration": 2.0})
    start_moving(bench)
    bench.take_over()
    x = 0.0
    for _ in range(12):
        x -= 0.2 * STEP
        bench.tick(x=x)
    bench.take_over(False)
    bench.advance(0.001)
    bench.see(x=x)
    bench.work()
    x -= 0.2 * STEP
    assert isinstance(bench.tick(x=x), Motion)
    assert bench.speeds()[-1] == pytest.approx(-0.2 + 2.0 * STEP, abs=0.01)
    assert isinstance(bench.tick(x=x), Motion)
    assert bench.speeds()[-1] == pytest.approx(-0.2 + 4.0 * STEP, abs=0.01)


def test_the_gripper_is_commanded_again(bench):
    start_moving(bench)
    bench.tick()
    assert len(bench.messages("gripper")) == 1
    bench.take_over()
    bench.tick()
    bench.take_over(False)
    bench.infer()
    bench.tick()
    assert len(bench.messages("gripper")) == 2  # the person may have moved it


def test_motion_that_is_off_stays_off(bench):
    bench.take_over()
    bench.infer()
    assert bench.tick() == Hold(HoldReason.DISABLED)
    assert bench.messages("action_chunk")[-1].in_charge == "person"
    bench.take_over(False)
    bench.infer()
    assert bench.tick() == Hold(HoldReason.DISABLED) and not bench.speeds()


def test_enable_while_a_person_is_in_charge_waits_for_the_release(bench):
    bench.take_over()
    answer = bench.enable()
    assert answer.success and "let go" in answer.message
    bench.infer()
    assert bench.tick() == Hold(HoldReason.TAKEN_OVER) and not bench.speeds()
    bench.take_over(False)
    bench.infer()
    assert isinstance(bench.tick(), Motion)


def test_motion_that_is_switched_off_meanwhile_stays_off(bench):
    start_moving(bench)
    bench.take_over()
    count = len(bench.speeds())
    bench.enable(False)
    bench.take_over(False)
    bench.infer()
    assert bench.tick() == Hold(HoldReason.DISABLED)
    assert len(bench.speeds()) == count  # what the person did is not broken off


def test_reset_leaves_the_person_in_charge(bench):
    start_moving(bench)
    bench.take_over()
    bench.reset()
    bench.infer()
    assert bench.tick() == Hold(HoldReason.TAKEN_OVER)


def test_a_clock_that_jumps_leaves_the_person_in_charge(make):
    bench = make(**DEVICE)
    start_moving(bench)
    bench.session._on_device()
    for jump in (-5 * SECOND, 3600 * SECOND):
        bench.set_time(bench.now + jump)
        bench.session._tick()
        assert bench.session.in_charge == "person"
        assert bench.session._motion.result.reason == HoldReason.TAKEN_OVER


def test_a_person_stays_in_charge_when_the_node_starts_over(bench):
    bench.take_over()
    for transition in ("deactivate", "cleanup", "configure", "activate"):
        assert getattr(bench.node, f"trigger_{transition}")() == TransitionCallbackReturn.SUCCESS
    assert bench.node.session.in_charge == "person"
    answer = bench.node._on_takeover(SetBool.Request(data=False), SetBool.Response())
    assert answer.success and answer.message == "released"
    assert bench.node.session.in_charge == "nobody"


def test_a_device_whose_messages_are_of_another_type_is_told(make):
    bench = make(**DEVICE)
    context = rclpy.Context()
    rclpy.init(context=context)
    other = rclpy.create_node("joystick", context=context)
    try:
        assert "not heard" not in bench.status("motion").message
        other.create_publisher(Twist, "/teleop", 10)
        start_moving(bench)
        bench.until(lambda: "/joystick publishes" in bench.status("motion").message)
        told = bench.status("motion")
        assert told.level == WARN and told.message == (
            "moving; takeover.topic is not heard: /joystick publishes geometry_msgs/msg/Twist on /teleop, and this "
            "node reads geometry_msgs/msg/TwistStamped; let the device publish that, or set takeover.message"
        )
    finally:
        other.destroy_node()
        context.shutdown()


def test_a_device_takes_over_while_its_messages_arrive(make):
    bench = make(**DEVICE)
    executor = SingleThreadedExecutor(context=bench.context)
    executor.add_node(bench.node)
    bench.session.timer.stop()  # ticks come by hand
    start_moving(bench)
    device = bench.node.create_publisher(TwistStamped, "/teleop", 10)
    bench.until(lambda: device.get_subscription_count() > 0)
    bench.session.timer.runs = True
    device.publish(TwistStamped())

    def arrived():
        executor.spin_once(timeout_sec=0.01)
        return bench.session.in_charge == "person"

    bench.until(arrived)
    executor.shutdown()
    assert bench.speeds()[-1] == 0.0
    assert "/teleop" in bench.status("motion").message
    assert not bench.take_over(False).success
    for _ in range(4):  # 0.2 s without a message
        bench.tick()
        assert bench.session.in_charge == "person"
    bench.session._on_device()
    for _ in range(7):
        bench.infer()
        bench.tick()
    assert bench.session.in_charge == "policy"
    bench.infer()
    assert isinstance(bench.tick(), Motion)


def test_a_topic_of_its_own_is_refused(make):
    with pytest.raises(AssertionError, match="one that this node publishes"):
        make(**{"takeover.topic": "~/twist"})


def test_it_is_told(bench):
    start_moving(bench)
    assert bench.status("motion").values["in charge"] == "policy"
    bench.take_over()
    bench.tick()
    told = bench.status("motion")
    assert told.level == WARN and "a person is in charge by ~/takeover" in told.message
    assert told.values["in charge"] == "person" and told.values["holds taken_over"] == 1


def test_the_overlay_tells_it(bench, monkeypatch):
    overlay = bench.session._publisher._overlay
    pictures = []
    for publisher in overlay._publishers.values():
        monkeypatch.setattr(publisher, "get_subscription_count", lambda: 1)
        monkeypatch.setattr(publisher, "publish", pictures.append)
    views = {camera: np.full((224, 224, 3), 90, np.uint8) for camera in overlay._publishers}
    chunk = bench.policy.act(Observation(views, np.zeros(0), "go", 1.0))
    for who in InCharge:
        overlay.publish(SimpleNamespace(views=views, stamp=0), chunk, who)
    policy, person, nobody = (np.frombuffer(picture.data, np.uint8) for picture in pictures[::2])
    assert (policy == nobody).all() and (policy != person).any()


@pytest.mark.parametrize("trajectory", ["point", "chunk"])
def test_holds_of_a_joint_arm_replace_its_trajectory_once(make, trajectory):
    names = [f"j{k}" for k in range(7)]
    policy = FakePolicy()
    policy.action_space = "absolute_joint"
    bench = make(
        policy=policy,
        **{
            "controller.output": "joint_trajectory",
            "controller.action_space": "absolute_joint",
            "controller.joint_names": names,
            "controller.gripper_dimensions": [],
            "controller.gripper_output": "none",
            "controller.trajectory": trajectory,
            "controller.trajectory_time": 0.1,
            "inputs.base_frame": "",
            "inputs.ee_frame": "",
            "limits.max_joint_speed": [1.0],
            "limits.max_joint_acceleration": [5.0],
        },
    )
    bench.policy.actions = np.full((8, 7), 0.3)
    positions = np.zeros(7)

    def tick(velocity=0.0):
        nonlocal positions
        for _ in range(5):  # at 100 Hz
            bench.advance(STEP / 5)
            positions = positions + velocity * STEP / 5
            bench.joints(**dict(zip(names, positions.tolist(), strict=True)))
        bench.see()
        bench.work()
        bench.session._tick()
        return bench.session._motion.result

    for _ in range(25):
        tick()
    assert bench.enable().success
    tick()
    assert isinstance(tick(), Motion)
    bench.take_over()
    sent = len(bench.messages("joint_trajectory"))
    for _ in range(20):
        assert tick(velocity=-0.4) == Hold(HoldReason.TAKEN_OVER)
    assert len(bench.messages("joint_trajectory")) == sent
    bench.take_over(False)
    result = tick(velocity=-0.4)
    while not isinstance(result, Motion):
        result = tick(velocity=-0.4)
    gained = 5.0 * STEP if trajectory == "point" else 5.0 * STEP / 2  # a whole chunk has the speed's mean
    np.testing.assert_allclose(result.joint_velocities, -0.4 + gained, atol=1e-6)
    np.testing.assert_allclose(result.joints, positions + result.joint_velocities * STEP, atol=1e-6)


@pytest.mark.parametrize("topic", ["/space nav", "space-nav", "2x", "/joy/"])
def test_a_device_topic_that_is_none_is_named(make, topic):
    with pytest.raises(ConfigError, match=f"takeover.topic '{topic}' is no name of a topic"):
        TakeoverInput(make().node, TakeoverConfig(topic=topic), lambda: None)
