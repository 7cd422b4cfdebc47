# SPDX-License-Identifier: Apache-2.0
"""A joint-space session in this process: what is sent to the arm, from what is measured of it."""

import math

import numpy as np
import pytest

pytest.importorskip("rclpy")

from session_bench import JOINTS, STEP, JointPolicy, SessionBench, start_moving

from specprune_ros.control.arm import Motion
from specprune_ros.control.command import Hold, HoldReason
from specprune_ros.nodes.preflight_checks import checks
from specprune_ros.nodes.reporting.diagnostics import ERROR

pytestmark = pytest.mark.ros


class JointBench(SessionBench):
    """The arm is at `here`, which the test moves."""

    here = (0.0, 0.0)

    def tick(self, images=True):
        self.advance(STEP)
        if images:
            self.see()
        self.joints(a=self.here[0], b=self.here[1])
        self.session._tick()
        return self.session._motion.result

    def points(self):
        return [tuple(message.points[-1].positions) for message in self.messages("joint_trajectory")]


@pytest.fixture
def open_bench(monkeypatch):
    benches = []

    def open_bench(**parameters):
        benches.append(JointBench(monkeypatch, JointPolicy(0.2, -0.3), **{**JOINTS, **parameters}))
        return benches[-1]

    yield open_bench
    for bench in benches:
        bench.close()


def test_points_lead_from_where_the_arm_is_and_one_stops_it(open_bench):
    bench = open_bench()
    start_moving(bench)
    for _ in range(4):
        bench.here = tuple(bench.session._motion.result.joints)
        bench.tick()
    message = bench.messages("joint_trajectory")[-1]
    assert list(message.joint_names) == ["a", "b"] and message.points[-1].time_from_start.nanosec >= 100_000_000
    a, b = bench.points()[-1]
    assert 0.05 < a <= 0.2 and -0.3 <= b < -0.05
    assert bench.status("motion").values["deviation rad"] > 0
    count = len(bench.points())
    bench.enable(False)
    for _ in range(3):
        bench.tick()
    assert len(bench.points()) == count + 1  # where it stays is told once
    assert bench.points()[-1] == pytest.approx(bench.here, abs=0.05)
    assert bench.session.run_tick(bench.now).joints == pytest.approx(bench.here)


def test_diagnostics_and_preflight_tell_what_the_arm_gets(open_bench):
    for trajectory in ("chunk", "point"):
        bench = open_bench(**{"controller.trajectory": trajectory})
        before = bench.status("motion").values
        start_moving(bench)
        values = bench.status("motion").values
        (receiver,) = [row for row in checks(bench.session, bench.node) if row.name.endswith("/joint_trajectory")]
        if trajectory == "chunk":
            assert before["trajectories sent"] == before["newest trajectory s"] == 0
            assert values["trajectories sent"] == 1 and 0.3 < values["newest trajectory s"] < 0.8
            assert "whole chunks, up to 0.1 s late" in receiver.detail
        else:
            assert "trajectories sent" not in values and receiver.detail == "1 subscriber(s)"


def test_joints_that_stop_coming_stop_the_arm(open_bench):
    bench = open_bench(**{"inputs.max_age": 0.2})
    start_moving(bench)
    for _ in range(6):
        bench.advance(STEP)
        bench.see()
        bench.session._tick()
    held = bench.session._motion.result
    assert isinstance(held, Hold) and held.reason == HoldReason.STALE_INPUT and held.detail.startswith("joint_states")


def test_a_jump_faster_than_the_arm_is_not_believed_until_enable(open_bench):
    bench = open_bench()
    start_moving(bench)
    bench.here = (0.15, 0.0)  # in a period; 0.5 rad/s explains 0.06
    held = bench.tick()
    assert isinstance(held, Hold) and held.reason == HoldReason.JOINTS_UNKNOWN
    assert "joint a on" in held.detail and "faster than its 0.5 rad/s" in held.detail
    assert bench.session.measured_problem(bench.now) == held.detail
    for _ in range(60):
        held = bench.tick()
    assert held.reason == HoldReason.STALE_INPUT and bench.status("motion").level == ERROR
    bench.enable()  # by somebody who sees the arm
    for _ in range(25):
        bench.tick()
    assert bench.session.measured_problem(bench.now) == ""
    start_moving(bench)


def test_while_motion_is_off_another_place_is_believed_after_a_while(open_bench):
    bench = open_bench()
    for _ in range(5):
        bench.tick()
    bench.here = (1.0, 1.0)
    for _ in range(45):
        bench.tick()
    assert bench.session.measured_problem(bench.now) == ""
    bench.set(dry_run=True)
    bench.enable()
    bench.here = (0.0, 0.0)
    for _ in range(45):
        bench.tick()
    assert bench.session.measured_problem(bench.now) == ""  # in a dry run others move the arm


def test_live_speed_limits_reach_what_is_believed(open_bench):
    bench = open_bench()
    start_moving(bench)
    bench.set(limits__max_joint_speed=[2.0])
    bench.here = (0.15, 0.0)
    bench.tick()
    assert "jumps" not in bench.session.measured_problem(bench.now)


def test_a_joint_that_turns_without_end_is_compared_on_the_circle(open_bench):
    bench = open_bench(**{"controller.continuous_joints": ["b"]})
    assert bench.session.continuous.tolist() == [False, True]
    bench.here = (0.0, 3.14)
    for _ in range(50):
        bench.tick()
    bench.policy.actions = np.tile([0.0, -3.10, 1.0], (8, 1))
    start_moving(bench)
    bench.here = (0.0, -3.14)
    result = bench.tick()
    assert isinstance(result, Motion)
    assert all(abs(math.remainder(b - 3.14, math.tau)) < 0.2 for _, b in bench.points())


def test_a_dry_run_stops_the_joints_where_they_are(open_bench):
    bench = open_bench()
    start_moving(bench)
    bench.tick()
    count = len(bench.points())
    bench.set(dry_run=True)
    assert len(bench.points()) == count + 1
    bench.infer()
    assert isinstance(bench.tick(), Motion) and len(bench.points()) == count + 1
    bench.here = (0.5, 0.5)  # moved by others
    for _ in range(60):
        bench.tick()
    bench.set(dry_run=False)
    bench.enable()
    bench.policy.actions = np.tile([0.6, 0.4, 1.0], (8, 1))
    start_moving(bench)
    start = bench.messages("joint_trajectory")[-1].points[0].positions
    assert list(start) == pytest.approx([0.5, 0.5], abs=0.06)


def test_an_arm_that_does_not_obey(open_bench):
    """Told in diagnostics; with on_no_effect hold it holds until it is enabled again."""
    bench = open_bench(**{"limits.gripper_debounce": 0.0, "controller.max_lead_angle": 3.0})
    bench.policy.actions = np.tile([1.5, 0.0, 1.0], (8, 1))
    start_moving(bench)
    for _ in range(50):
        bench.tick()
        bench.infer()
    assert "joint a was commanded" in bench.status("motion").message
    assert bench.session._motion.effect_problem
    bench.set(controller__on_no_effect="hold")
    bench.infer()
    held = bench.tick()
    assert held.reason == HoldReason.NO_EFFECT and "call ~/enable" in held.detail
    bench.here = bench.points()[-1]
    bench.set(dry_run=True)  # others move the arm
    bench.tick()
    assert bench.session._motion.effect_problem == ""
