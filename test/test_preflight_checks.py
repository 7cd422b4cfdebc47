# SPDX-License-Identifier: Apache-2.0
"""Every preflight check, with inputs that pass it and one thing wrong that it must notice."""

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from geometry_msgs.msg import Twist, TwistStamped
from rclpy.action import ActionServer
from session_bench import STEP, FakePolicy, SessionBench
from specprune_ros.action import RunPolicy

from specprune_ros.nodes import preflight_checks
from specprune_ros.nodes.preflight_checks import FAIL, PASS, WARN, checks
from specprune_ros.nodes.subscribing import LATCHED
from specprune_ros.sensing.end_effector import MeasuredTwist

pytestmark = pytest.mark.ros
FINGERS = {"inputs.proprio": "joints", "inputs.joint_names": ["finger"]}


def ready(bench, seconds=1.5):
    """Good inputs, 50 ms apart."""
    for _ in range(round(seconds / STEP)):
        bench.tick()
    return bench


def verdict(bench, name):
    found = [check for check in checks(bench.session, bench.node) if check.name.endswith(name)]
    assert len(found) == 1, found
    return found[0].verdict, found[0].detail


@pytest.fixture
def open_bench(monkeypatch):
    benches = []

    def open_bench(policy=None, **parameters):
        benches.append(SessionBench(monkeypatch, policy, **parameters))
        return ready(benches[-1])

    yield open_bench
    for bench in benches:
        bench.close()


def test_everything_is_ready(open_bench):
    bench = open_bench()
    found = {check.name: check for check in checks(bench.session, bench.node)}
    doubtful = {name: check.detail for name, check in found.items() if check.verdict != PASS}
    assert not doubtful.keys() - {"memory"}, doubtful
    assert "fake: 2 views, 0 proprio, chunks of 8 x 7" in found["checkpoint"].detail


def test_slow_inference(open_bench):
    policy = FakePolicy()
    policy.seconds = 0.17  # of a chunk's 0.4 s: less than half, but without reserve
    assert verdict(open_bench(policy), "latency")[0] == WARN
    policy = FakePolicy()
    policy.seconds = 0.15
    assert verdict(open_bench(policy), "latency")[0] == PASS


def test_units_that_contradict(open_bench):
    found, detail = verdict(open_bench(**{"pruning.control_rate": 10.0}), "units")
    assert found == WARN and "pruning.control_rate" in detail


def test_rates(open_bench):
    bench = open_bench()
    assert verdict(bench, "image_primary") == (PASS, "20.0 Hz")
    bench.session.sensors._images["wrist"].clear()
    bench.session.sensors._images["wrist"]._arrivals.clear()
    assert verdict(bench, "image_wrist")[0] == FAIL
    assert verdict(bench, "observation")[0] == FAIL


def test_proprio_outside_the_training_data(open_bench):
    policy = FakePolicy()
    policy.proprio_dim, policy.proprio_range = 1, (np.zeros(1), np.ones(1))
    bench = open_bench(policy, **FINGERS)
    for position, expected in ((0.5, PASS), (1.5, WARN), (-0.5, WARN), (0.0, PASS), (1.0, PASS)):
        bench.session.sensors.clear()
        bench.advance(STEP)
        bench.see()
        bench.joints(finger=position)
        found, detail = verdict(bench, "observation")
        assert found == expected and ("[0]" in detail) == (expected == WARN)


def test_frozen_camera(open_bench):
    bench = open_bench(**{"inputs.frozen_after": 0.5})
    for _ in range(20):
        bench.advance(STEP)
        bench.see()
        bench.session.sensors.assemble(bench.now)
    found, detail = verdict(bench, "cameras")
    assert found == WARN and "image_primary" in detail


def test_unknown_velocity(open_bench):
    bench = open_bench()
    bench.session._transforms.clear()
    assert verdict(bench, "velocity")[0] == WARN
    assert verdict(open_bench(**{"inputs.base_frame": "", "controller.output": "action_chunk"}), "velocity")[0] == WARN


def test_gripper_convention(open_bench):
    policy = FakePolicy()
    policy.action_range = np.array([-1.0] * 7), np.ones(7)
    found, detail = verdict(open_bench(policy), "gripper")
    assert found == WARN and "-1" in detail
    swapped = open_bench(**{"controller.gripper_closed_value": 1.0, "controller.gripper_open_value": 0.0})
    assert verdict(swapped, "gripper")[0] == WARN


def test_gripper_without_a_server(open_bench):
    bench = open_bench(**{"controller.gripper_output": "action"})
    assert verdict(bench, "gripper")[0] == FAIL


def test_nobody_listens(open_bench):
    bench = open_bench()
    for subscription in list(bench.node.subscriptions):
        if subscription.topic_name.endswith("/twist"):
            bench.node.destroy_subscription(subscription)
    bench.until(lambda: not bench.session.receivers().count)
    found, said = verdict(bench, "twist")
    assert found == FAIL and "start the arm's controller" in said


@pytest.mark.parametrize(
    ("kind", "qos", "said"),
    [
        (Twist, 10, "/servo_node subscribes to geometry_msgs/msg/Twist, and this node publishes geometry_msgs/m"),
        (
            TwistStamped,
            LATCHED,
            "/servo_node subscribes with a quality of service that does not fit: volatile publisher",
        ),
    ],
    ids=["type", "durability"],
)
def test_a_controller_that_cannot_hear_is_named(open_bench, kind, qos, said):
    bench = open_bench()
    for subscription in list(bench.node.subscriptions):
        if subscription.topic_name == bench.session.receivers().topic:
            bench.node.destroy_subscription(subscription)
    other = rclpy.Context()  # as another process
    other.init()
    servo = rclpy.create_node("servo_node", context=other)
    try:
        servo.create_subscription(kind, bench.session.receivers().topic, print, qos)
        bench.until(lambda: not bench.session.receivers().count and said in verdict(bench, "twist")[1])
    finally:
        servo.destroy_node()
        other.shutdown()


def test_no_instruction(open_bench):
    assert verdict(open_bench(instruction=""), "instruction")[0] == WARN


def test_little_memory(open_bench, monkeypatch):
    bench = open_bench()
    for free, expected in ((511.0, WARN), (512.0, PASS)):
        monkeypatch.setattr(preflight_checks, "free_memory_mb", lambda device, free=free: {"free MiB": free})
        assert verdict(bench, "memory")[0] == expected


def test_a_number_that_never_changed_in_training(open_bench):
    policy = FakePolicy()
    policy.moved_constants = lambda proprio: [3]
    found, detail = verdict(open_bench(policy), "observation")
    assert found == WARN and "proprio [3] never changed in the training data" in detail


def test_what_the_doctor_says_of_the_files_is_in_the_table(open_bench):
    bench = open_bench()
    bench.session.checkup = [preflight_checks.Check("statistics", WARN, "proprio 6 is 0 in all data")]
    assert verdict(bench, "statistics") == (WARN, "proprio 6 is 0 in all data")


def test_an_instruction_with_a_full_stop(open_bench):
    found, detail = verdict(open_bench(instruction="pick up the bowl."), "instruction")
    assert found == WARN and "ends with '.'" in detail


def test_rows_of_a_good_robot(open_bench):
    bench = open_bench()
    found = {check.name: check.detail for check in checks(bench.session, bench.node)}
    assert found["checkpoint"].endswith("(delta_end_effector), no crop")
    assert found["latency"] == "coarse 40 ms; a chunk lasts 400 ms"
    assert found["units"] == "steps of 0.05 s in pruning.* and controller.*"
    assert found["observation"] == "primary 28x28, wrist 28x28; proprio within the training data's range"
    assert found["transforms"] == "none, none; compare ~/overlay with training"
    assert found["velocity"] == "base -> hand is known"
    assert found["gripper"] == "action 0 closes, 1 opens (OpenVLA-OFT: 0, 1)"
    assert next(detail for name, detail in found.items() if name.endswith("/twist")) == "1 subscriber(s)"
    assert "slowest input" not in found
    policy = FakePolicy()
    policy.center_crop = True
    assert verdict(open_bench(policy), "checkpoint")[1].endswith("centre crop")


def test_a_slow_camera(open_bench):
    bench = open_bench()
    for _ in range(60):
        for camera in ("primary", "wrist"):
            bench.session.sensors._images[camera]._arrivals.clear()
    for _ in range(8):
        bench.advance(0.21)
        bench.see()
    found, detail = verdict(bench, "image_primary")
    assert found == WARN and detail.startswith("4.8 Hz is slow")
    for _ in range(60):
        bench.tick()
    assert verdict(bench, "image_primary") == (PASS, "20.0 Hz")


def test_a_slow_joint_of_the_proprio(open_bench):
    policy = FakePolicy()
    policy.proprio_dim, policy.proprio_range = 1, (np.zeros(1), np.ones(1))
    bench = open_bench(policy, **FINGERS)
    for _ in range(8):
        bench.advance(0.4)
        bench.see()
        bench.joints(finger=0.5)
    found, detail = verdict(bench, "slowest input")
    assert found == WARN and "joint finger comes at 2.5 Hz" in detail
    assert verdict(bench, "joint_states")[0] == WARN


def test_an_arm_whose_pose_jumps(open_bench):
    bench = open_bench()
    assert verdict(bench, "arm")[0] == PASS
    bench.tick(x=0.5)
    found, detail = verdict(bench, "arm")
    assert found == FAIL and "TF base -> hand jumps by 0.500 m" in detail


def test_velocity_of_a_frame_that_is_too_old(open_bench):
    bench = open_bench(**{"inputs.own_limits": ["tf.max_age=0.3"]})
    bench.advance(0.25)
    assert verdict(bench, "velocity")[0] == PASS
    bench.advance(0.1)
    found, detail = verdict(bench, "velocity")
    assert found == WARN and "older than the images" in detail


def test_shared_memory_or_small_buffers_are_told(open_bench, monkeypatch):
    bench = open_bench()
    monkeypatch.setattr(preflight_checks, "transport_problems", lambda: ["small buffers", "shared memory"])
    rows = [(row.verdict, row.detail) for row in checks(bench.session, bench.node) if row.name == "DDS"]
    assert rows == [(WARN, "small buffers"), (WARN, "shared memory")]
    monkeypatch.setattr(preflight_checks, "transport_problems", lambda: [])
    assert verdict(bench, "DDS")[0] == PASS


def test_listening_looks_at_every_new_set_of_images(open_bench, monkeypatch):
    bench = open_bench()
    monkeypatch.setattr(preflight_checks, "LISTENING", 0.3)
    seen, added = [], []
    assemble = bench.session.sensors.assemble

    def count(now, newer_than=None):
        seen.append(newer_than)
        if len(seen) == 2:
            bench.see()
        return assemble(now, newer_than)

    monkeypatch.setattr(bench.session.sensors, "assemble", count)

    class Spin:
        def add_node(self, node):
            added.append(node)

        def spin_once(self, timeout_sec):
            assert 0 < timeout_sec <= 0.2
            bench.advance(STEP)

    monkeypatch.setattr(preflight_checks, "SingleThreadedExecutor", Spin)
    bench.see()
    of_bench = type("Node", (), {"session": bench.session, "get_clock": bench.node.get_clock})()
    interruption = type("Never", (), {"requested": False})()
    bench.until(lambda: preflight_checks.listen([of_bench], interruption) or len(seen) > 3)
    assert seen[0] is None and seen[2] is not None and len(set(seen)) > 1
    assert set(added) == {of_bench}
    interruption.requested, count_before = True, len(seen)
    preflight_checks.listen([of_bench], interruption)
    assert len(seen) == count_before


def test_tasks_and_takeover(open_bench, monkeypatch):
    bench = open_bench(**{"recording": "/data/run_7", "takeover.topic": "/teleop"})
    found, detail = verdict(bench, "/run_policy")
    assert found == PASS and "refuse" in detail and "/data/run_7" in detail
    assert verdict(bench, "takeover") == (
        WARN,
        "nobody publishes on takeover.topic /teleop; start the device",
    )
    bench.node.create_publisher(TwistStamped, "/teleop", 10)
    bench.until(lambda: verdict(bench, "takeover")[0] == PASS)
    monkeypatch.setattr(bench.session, "device_problem", lambda: "takeover.topic is not heard: why")
    assert verdict(bench, "takeover") == (FAIL, "takeover.topic is not heard: why")
    bench.take_over()
    found, detail = verdict(bench, "takeover")
    assert found == WARN and "a person is in charge by ~/takeover" in detail


def test_another_server_of_the_tasks(open_bench):
    bench = open_bench()
    other = rclpy.create_node("other", context=bench.context)
    server = ActionServer(other, RunPolicy, bench.node.resolve_topic_name("~/run_policy"), lambda handle: None)
    bench.until(lambda: verdict(bench, "/run_policy")[0] == FAIL)
    server.destroy()
    other.destroy_node()


def test_rates_at_which_a_camera_is_slow_or_silent(open_bench, monkeypatch):
    bench = open_bench()
    monkeypatch.setattr(bench.session.sensors, "rates", lambda: {"/a": 5.0, "/b": 4.9, "/c": 0.0, "/d": 0.5})
    monkeypatch.setattr(bench.session.sensors, "silence", lambda topic: f"nobody publishes {topic}")
    found = {row.name: (row.verdict, row.detail) for row in checks(bench.session, bench.node)}
    assert [found[topic][0] for topic in ("/a", "/b", "/c", "/d")] == [PASS, WARN, FAIL, WARN]
    assert found["/c"][1] == "nobody publishes /c"


def test_tf_that_is_too_slow_for_a_velocity(open_bench, monkeypatch):
    bench = open_bench()
    monkeypatch.setattr(bench.session.end_effector, "twist", lambda *_: MeasuredTwist(None))
    assert verdict(bench, "velocity") == (WARN, "TF is too slow; 20 Hz or more are needed")
