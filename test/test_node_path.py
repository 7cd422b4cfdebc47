# SPDX-License-Identifier: Apache-2.0
"""~/path: what it shows, and that it costs nothing while nobody looks."""

import numpy as np
import pytest

pytest.importorskip("rclpy")

from session_bench import SECOND, STEP, FakePolicy, SessionBench
from visualization_msgs.msg import Marker, MarkerArray

from specprune_ros.nodes.outputs import path as path_output
from specprune_ros.viewing.mode_colors import MODE_COLORS

pytestmark = pytest.mark.ros


@pytest.fixture
def bench(monkeypatch):
    bench = SessionBench(monkeypatch)
    yield bench
    bench.close()


@pytest.fixture
def published(bench, monkeypatch):
    """Messages of ~/path, as soon as somebody listens."""
    messages, publisher = [], bench.session._path._publisher
    bench.node.create_subscription(MarkerArray, publisher.topic_name, lambda message: None, 1)
    bench.until(lambda: publisher.get_subscription_count() > 0)
    monkeypatch.setattr(publisher, "publish", messages.append)
    return messages


def test_nothing_is_computed_without_a_listener(bench, monkeypatch):
    monkeypatch.setattr(path_output, "predicted_path", lambda *_: pytest.fail("computed for nobody"))
    monkeypatch.setattr(bench.session.end_effector, "pose", lambda *_: pytest.fail("looked up for nobody"))
    bench.infer()
    assert bench.messages("action_chunk") and not bench.session._worker.problem


def test_line_and_steps_from_where_the_arm_was(bench, published):
    bench.policy.actions[4:, 6] = 0.0  # closes
    bench.advance(0.01)
    bench.see(x=0.3)
    seen = bench.now
    bench.advance(0.1)
    bench.pose(x=0.9)  # since then
    bench.work()
    ((line, steps),) = [message.markers for message in published]
    assert (line.type, steps.type) == (Marker.LINE_STRIP, Marker.SPHERE_LIST)
    assert line.pose.orientation.w == steps.pose.orientation.w == 1.0  # RViz refuses a quaternion of zeros
    assert line.header.frame_id == steps.header.frame_id == "base"
    assert line.header.stamp.sec * SECOND + line.header.stamp.nanosec == seen
    expected = 0.3 + 0.5 * 0.05 * np.arange(9)
    np.testing.assert_allclose([point.x for point in line.points], expected, atol=1e-9)
    np.testing.assert_allclose([point.x for point in steps.points], expected[1:], atol=1e-9)
    assert (line.lifetime.sec * SECOND + line.lifetime.nanosec) == pytest.approx(2 * 8 * STEP * SECOND)
    assert len(steps.colors) == len(steps.points) == 8
    assert hexadecimal(line.color) == hexadecimal(steps.colors[3]) == MODE_COLORS["coarse"]
    assert hexadecimal(steps.colors[4]) == path_output.CLOSED
    assert line.scale.x == path_output.LINE and {steps.scale.x, steps.scale.y, steps.scale.z} == {path_output.STEP}
    assert line.ns != steps.ns or line.id != steps.id  # or one replaces the other


def test_pale_while_nothing_follows_it(bench, published):
    bench.infer()
    assert published[-1].markers[0].color.a == pytest.approx(path_output.NOT_SENT)
    bench.enable()
    bench.infer()
    assert published[-1].markers[0].color.a == 1.0
    bench.set(dry_run=True)
    bench.infer()
    assert published[-1].markers[0].color.a == pytest.approx(path_output.NOT_SENT)


def test_without_a_pose_there_is_no_path_and_no_problem(bench, published):
    bench.session._on_chunk(*one_inference(bench))
    assert not published and bench.messages("action_chunk")


class JointPolicy(FakePolicy):
    action_space = "absolute_joint"


JOINTS = {
    "controller.action_space": "absolute_joint",
    "controller.output": "joint_trajectory",
    "controller.joint_names": list("abcdef"),
}
NO_FRAMES = {"controller.output": "action_chunk", "inputs.base_frame": "", "inputs.ee_frame": ""}


@pytest.mark.parametrize(("policy", "parameters"), [(JointPolicy, JOINTS), (FakePolicy, NO_FRAMES)])
def test_no_topic_where_the_path_is_unknown(monkeypatch, policy, parameters):
    bench = SessionBench(monkeypatch, policy(), **parameters)
    try:
        topics = [name for name, _ in bench.node.get_publisher_names_and_types_by_node(*name_of(bench.node))]
        assert bench.session._path is None and not any(name.endswith("/path") for name in topics)
    finally:
        bench.close()


def name_of(node):
    return node.get_name(), node.get_namespace()


def one_inference(bench):
    """(what was sensed, chunk), without TF."""
    bench.advance(0.001)
    sensed = []
    original = bench.session._worker._on_chunk
    bench.session._worker._on_chunk = lambda *given: sensed.append(given)
    bench.see()
    bench.work()
    bench.session._worker._on_chunk = original
    bench.session._transforms.clear()
    return sensed[0]


def hexadecimal(color):
    return "#" + "".join(f"{round(255 * part):02x}" for part in (color.r, color.g, color.b))
