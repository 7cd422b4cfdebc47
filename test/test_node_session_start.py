# SPDX-License-Identifier: Apache-2.0
"""What a session says and refuses when it is configured, and what it begins with."""

import threading

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rclpy.impl.rcutils_logger import RcutilsLogger
from session_bench import SECOND, FakePolicy

from specprune_ros.checks import PASS, WARN, Check
from specprune_ros.control.arm import Motion
from specprune_ros.control.command import Hold
from specprune_ros.errors import ConfigError
from specprune_ros.nodes.subscribing import subscribe
from specprune_ros.nodes.turns import Urgency

pytestmark = pytest.mark.ros
JOINTS = {
    **{"inputs.base_frame": "", "inputs.ee_frame": "", "controller.output": "joint_trajectory"},
    **{"controller.action_space": "absolute_joint", "controller.joint_names": list("abcdef")},
}


class JointPolicy(FakePolicy):
    action_space = "absolute_joint"


@pytest.fixture
def logged(monkeypatch):
    """(severity, line) of what the nodes log."""
    lines = []
    monkeypatch.setattr(RcutilsLogger, "log", lambda _, line, severity, **__: lines.append((severity.name, line)))
    return lines


def configured_again(bench):
    """The session of a node that is configured and not active."""
    bench.node.trigger_deactivate()
    bench.node.trigger_cleanup()
    bench.node.trigger_configure()
    bench.session = bench.node.session
    return bench.session


@pytest.mark.parametrize(
    ("threads", "said"), [(0, "coarse 40 ms; tile 1"), (1, "40 ms on 1 thread; tile"), (2, "40 ms on 2 threads; tile")]
)
def test_what_an_inference_takes_is_logged(open_bench, logged, threads, said):
    policy = FakePolicy()
    policy.threads = threads
    open_bench(policy)
    (line,) = [line for _, line in logged if "inference:" in line]
    assert "chunks of 8 x 7, 0.40 s; inference: " in line and said in line
    warnings = [line for severity, line in logged if severity == "WARN"]
    assert not [line for line in warnings if "pause" in line or "instruction" in line or "units" in line], warnings


def test_doubts_are_logged(open_bench, logged, monkeypatch):
    found = [Check("statistics", WARN, "proprio 6 is 0 in all data"), Check("files", PASS, "all there")]
    monkeypatch.setattr("specprune_ros.nodes.session.checkup", lambda config: found)
    policy = FakePolicy()
    policy.seconds, policy.precision_problem = 0.17, "bfloat16 is slow here"
    policy.action_range = np.full(7, -1.0), np.ones(7)  # a gripper between -1 and 1
    bench = open_bench(policy, **{"pruning.control_rate": 10.0, "instruction": "pick it up."})
    warnings = [line for severity, line in logged if severity == "WARN"]
    for said in (
        *("statistics: proprio 6 is 0", "pruning.control_rate is 10 Hz", "bfloat16 is slow here", "gripper"),
        *("the arm may pause between chunks", "the instruction ends with '.'"),
    ):
        assert sum(said in line for line in warnings) == 1, (said, warnings)
    assert not any("all there" in line for line in warnings)
    logged.clear()
    bench.set(instruction="  put it   down")
    assert [line for severity, line in logged if severity == "WARN" and "the instruction has double spaces" in line]


def test_what_does_not_fit_the_checkpoint_is_refused(open_bench):
    policy = FakePolicy()
    policy.num_views = 3
    with pytest.raises(AssertionError, match="the checkpoint expects 3 views"):
        open_bench(policy)


def test_limits_of_another_number_of_joints_are_refused_live(open_bench):
    bench = open_bench(JointPolicy(), **JOINTS)
    with pytest.raises(AssertionError, match="limits of joints have 3 numbers for 6"):
        bench.set(limits__max_joint_speed=[1.0, 1.0, 1.0])
    bench.set(limits__max_joint_speed=[1.0] * 6)


def test_before_activation_nothing_ticks_and_the_first_inference_is_due(open_bench):
    session = configured_again(open_bench())
    assert not session.timer.runs and not session._worker.active
    assert session._worker.urgency() == Urgency(idle=False, deadline=0.0)
    assert session._motion.enabled is False and session.in_charge == "nobody"


def test_a_dry_run_from_the_start(open_bench):
    bench = open_bench(dry_run=True)
    assert bench.enable().success
    bench.advance(0.01)
    bench.infer()
    assert isinstance(bench.tick(), Motion) and not bench.messages("twist")
    assert bench.status("motion").values["dry run"]


@pytest.mark.parametrize(("motion", "located"), [("tf", True), ("flow", False)])
def test_cameras_are_located_for_tf_alone(open_bench, motion, located):
    bench = open_bench(**{"pruning.history_motion": motion})
    assert bench.session.sensors.locates_cameras == located


def test_changed_parameters_reach_their_parts(open_bench):
    bench = open_bench(**{"takeover.topic": "/teleop"})
    bench.set(replan__when="chunk_end", takeover__release_after=0.25)
    assert bench.session._motion.replanner.config.when == "chunk_end"
    assert bench.node.takeover.config.release_after == 0.25
    assert bench.session._pose_skew() == SECOND // 10
    bench.set(inputs__own_limits=["tf.max_skew=0.02"])
    assert bench.session._pose_skew() == SECOND // 50


def test_a_device_is_given_back(open_bench):
    bench = open_bench(**{"takeover.topic": "/teleop"})
    bench.node.trigger_deactivate()
    topics = [subscription.topic_name for subscription in bench.node.subscriptions]
    bench.node.trigger_cleanup()
    assert "/teleop" in topics and "/teleop" not in [one.topic_name for one in bench.node.subscriptions]


def without_gripper(*_):
    raise ConfigError("controller.gripper_output action needs control_msgs")


def without_wrist(node, kind, topic, *more):
    if "wrist" in topic:
        raise ConfigError("depth is a number")
    return subscribe(node, kind, topic, *more)


@pytest.mark.parametrize("fault", ["checkpoint", "camera", "gripper"])
def test_nothing_stays_of_a_session_that_could_not_be_configured(open_bench, monkeypatch, fault):
    def entities():
        kinds = bench.node.subscriptions, bench.node.publishers, bench.node.timers
        return sorted(str(getattr(one, "topic_name", "timer")) for kind in kinds for one in kind)

    bench = open_bench(**{"takeover.topic": "/teleop", "inputs.image_transport": "compressed"})
    bench.node.trigger_deactivate()
    bench.node.trigger_cleanup()
    before = entities()
    if fault == "checkpoint":
        bench.policy.num_views = 3
    elif fault == "camera":
        monkeypatch.setattr("specprune_ros.nodes.inputs.subscribe", without_wrist)
    else:
        monkeypatch.setattr("specprune_ros.nodes.motion_loop.open_gripper", without_gripper)
    bench.node.trigger_configure()
    assert bench.node.session is None and bench.node._failure
    assert entities() == before  # a device that speaks now would find half a session
    assert not [thread.name for thread in threading.enumerate() if "decoder" in thread.name]


def test_joints_are_watched_when_something_depends_on_them(open_bench):
    bench = open_bench(**{"inputs.joint_names": ["finger"]})  # and no proprio
    assert "joint_states" not in bench.session._arm.watchdog.max_ages
    assert isinstance(bench.session._motion.result, Hold)


@pytest.mark.parametrize(("center_crop", "share"), [(False, 1.0), (True, 0.9**0.5)])
def test_the_overlay_shows_what_the_policy_sees(open_bench, center_crop, share):
    policy = FakePolicy()
    policy.center_crop = center_crop
    assert open_bench(policy).session._publisher._overlay._crop == pytest.approx(share)


@pytest.mark.parametrize("when", ["continuous", "chunk_end"])
def test_between_inferences_frames_are_remembered_unless_they_follow_each_other(open_bench, when):
    bench = open_bench(**{"replan.when": when})
    bench.infer()
    assert bench.session._worker.urgency().idle == (when == "chunk_end")
    woken = []
    bench.session._worker.wake = lambda: woken.append(1)
    bench.session.want_inference()
    assert not bench.session._worker.urgency().idle and woken
