# SPDX-License-Identifier: Apache-2.0
"""What a session remembers and forgets when it holds, in a dry run, while others move the arm, and when time jumps."""

import pytest

pytest.importorskip("rclpy")

from geometry_msgs.msg import TransformStamped
from session_bench import JOINTS, SECOND, START, STEP, JointPolicy, SessionBench, start_moving
from tf2_msgs.msg import TFMessage

from specprune_ros.control.arm import Motion
from specprune_ros.control.command import Hold, HoldReason
from specprune_ros.nodes.reporting.diagnostics import ERROR, WARN
from specprune_ros.pruning.schedule import Mode

pytestmark = pytest.mark.ros
SLOW_START = {"limits.max_acceleration": 1.0}  # 0.05 m/s more in every period


@pytest.fixture
def bench(open_bench):
    return open_bench()


@pytest.fixture
def joints(open_bench):
    """A joint arm, and `go(here)`: one control period with the joints there."""
    bench = open_bench(JointPolicy(0.2, 0.2), **JOINTS)

    def go(here, infer=False):
        bench.advance(STEP)
        bench.see()
        bench.joints(a=here, b=here)
        if infer:
            bench.work()
        bench.session._tick()
        return bench.session._motion.result

    for _ in range(25):
        go(0.0)
    return bench, go


def stops(bench):
    return sum(not chunk.steps for chunk in bench.messages("action_chunk"))


# Dry runs


def test_after_a_dry_run_the_arm_starts_from_rest(open_bench):
    bench = open_bench(dry_run=True, **SLOW_START)
    start_moving(bench)
    for _ in range(3):
        result = bench.tick()
    assert result.twist[0] == pytest.approx(0.2)  # where it would be by now
    bench.set(dry_run=False)
    bench.tick()
    assert bench.speeds() == [pytest.approx(0.05)]


def test_another_parameter_does_not_interrupt_the_motion(open_bench):
    bench = open_bench(**SLOW_START)
    start_moving(bench)
    bench.tick()
    bench.set(limits__max_angular_speed=1.0)
    bench.tick()
    assert bench.speeds() == pytest.approx([0.05, 0.1, 0.15]) and not stops(bench)
    bench.set(dry_run=True)
    count = len(bench.messages("twist"))
    bench.set(limits__max_angular_speed=0.9)  # once more in the dry run
    assert len(bench.messages("twist")) == count and stops(bench) == 1


def test_a_hold_in_a_dry_run_sends_nothing_and_forgets_where_the_arm_was(joints):
    bench, go = joints
    bench.set(dry_run=True)
    bench.enable()
    assert isinstance(go(0.0, infer=True), Motion)
    for _ in range(12):
        result = go(0.0)
    assert isinstance(result, Hold) and not bench.messages("joint_trajectory")
    here = 0.0
    for _ in range(15):  # others move the arm
        here -= 0.02
        go(here)
    moved = go(here, infer=True)
    assert isinstance(moved, Motion) and moved.joints == pytest.approx([here, here], abs=0.05)


def test_an_arm_that_was_moved_while_it_held_is_refused(joints):
    """Outside of a dry run nobody else may move it."""
    bench, go = joints
    bench.enable()
    result = go(0.0, infer=True)
    for _ in range(12):
        result = go(0.0)
    assert isinstance(result, Hold)
    here = 0.0
    for _ in range(45):
        here -= 0.02
        go(here)
    refused = go(here, infer=True)
    assert refused.reason == HoldReason.ARM_MOVED and "call ~/enable if the arm really is there" in refused.detail


def test_a_dry_run_stops_whoever_executes_the_chunks(open_bench):
    bench = open_bench(**{"controller.output": "action_chunk", "inputs.base_frame": "", "inputs.ee_frame": ""})
    bench.enable()
    bench.infer()
    assert bench.messages("action_chunk")[-1].execute
    bench.set(dry_run=True)
    last = bench.messages("action_chunk")[-1]
    assert (last.steps, last.in_charge, last.execute) == (0, "nobody", False)
    assert bench.session.measured_problem(bench.now) == ""  # nothing is commanded from here


# Holds


def test_zero_is_sent_in_every_period_of_a_hold(bench):
    start_moving(bench)
    for _ in range(9):
        result = bench.tick()
    assert isinstance(result, Hold)
    count = len(bench.speeds())
    for _ in range(3):
        bench.tick()
    assert len(bench.speeds()) == count + 3 and not any(bench.speeds()[-4:])
    bench.enable(False)
    count = len(bench.speeds())
    bench.tick()
    assert len(bench.speeds()) == count  # motion is off: the arm is somebody else's


def test_another_reason_to_hold_is_counted_though_the_arm_held_before(bench):
    start_moving(bench)
    for _ in range(9):
        bench.tick()
    bench.session._transforms.clear()
    bench.advance(STEP)
    bench.session._tick()
    assert bench.session._motion.holds == {HoldReason.STALE_INPUT: 1} and bench.session._motion.pauses == 1
    status = bench.status("motion")
    assert status.level == ERROR and status.message.startswith("holding, stale_input: tf")


def test_tf_that_stops_stops_the_arm(bench):
    bench.set(inputs__own_limits=["tf.max_age=0.15"])
    start_moving(bench)
    held = []
    for _ in range(4):
        bench.advance(STEP)
        pose, bench.pose = bench.pose, lambda *_: None
        bench.see()
        bench.pose = pose
        bench.session._tick()
        held.append(isinstance(bench.session._motion.result, Hold))
    assert held == [False, False, False, True] and bench.session._motion.result.detail.startswith("tf: 0.2")


class StaticBench(SessionBench):
    """An arm whose pose comes on /tf_static."""

    def pose(self, x=0.0, stamp=None):
        if self.now == START:
            transform = TransformStamped(child_frame_id="hand")
            transform.header.frame_id, transform.transform.rotation.w = "base", 1.0
            self.session._transforms.add(TFMessage(transforms=[transform]), True, self.now)


def test_static_transforms_do_not_get_old(monkeypatch):
    bench = StaticBench(monkeypatch)
    try:
        bench.set_time(START)
        bench.pose()
        start_moving(bench)
        for _ in range(15):  # longer than an input may be missing
            bench.infer()
            bench.tick()
        assert isinstance(bench.session._motion.result, Motion) and bench.speeds()[-1] > 0
    finally:
        bench.close()


# Poses that contradict each other


def test_a_pose_that_jumps_is_believed_after_enable_alone(bench):
    start_moving(bench)
    held = bench.tick(x=0.5)
    assert held.reason == HoldReason.POSE_UNKNOWN and "jumps by 0.500 m" in held.detail
    for _ in range(45):
        held = bench.tick(x=0.5)
    assert isinstance(held, Hold) and "jumps by 0.500 m" in bench.session.measured_problem(bench.now)
    bench.enable()
    for _ in range(25):
        bench.tick(x=0.5)
    assert bench.session.measured_problem(bench.now) == ""
    start_moving(bench, x=0.5)


def test_while_nothing_moves_the_arm_another_pose_is_believed_after_a_while(bench):
    bench.tick(x=0.5)
    assert "jumps by 0.500 m" in bench.session.measured_problem(bench.now)
    for _ in range(45):
        bench.tick(x=0.5)
    assert bench.session.measured_problem(bench.now) == ""


# People


def test_after_a_takeover_target_poses_start_from_the_arm(open_bench):
    bench = open_bench(**{"controller.output": "pose", "controller.max_lead": 1.0})
    start_moving(bench)
    bench.take_over()
    for step in range(1, 41):  # moved by a person
        bench.tick(x=-0.005 * step)
    bench.take_over(False)
    bench.advance(0.001)
    bench.see(x=-0.2)
    bench.work()
    bench.tick(x=-0.2)
    assert bench.messages("target_pose")[-1].pose.position.x == pytest.approx(-0.2, abs=0.03)


def test_how_a_person_moves_the_arm_is_taken_from_a_pose_that_is_a_little_older(open_bench):
    bench = open_bench(**SLOW_START)
    start_moving(bench)
    bench.take_over()

    def tick(x):
        bench.advance(STEP)
        bench.pose(x, stamp=bench.now - 20_000_000)
        pose, bench.pose = bench.pose, lambda *_: None
        bench.see()
        bench.pose = pose
        bench.session._tick()
        return bench.session._motion.result

    x = 0.0
    for _ in range(12):
        x -= 0.2 * STEP
        tick(x)
    bench.take_over(False)
    bench.advance(0.001)
    pose, bench.pose = bench.pose, lambda *_: None
    bench.see()
    bench.pose = pose
    bench.work()
    assert isinstance(tick(x - 0.2 * STEP), Motion)
    assert bench.speeds()[-1] == pytest.approx(-0.2 + 0.05, abs=0.01)


def test_that_motion_is_off_is_told_beside_the_person(bench):
    bench.take_over()
    bench.tick()
    told = bench.status("motion")
    assert told.level == WARN and told.message.endswith("nothing is sent; motion is off")
    bench.enable()
    bench.tick()
    assert bench.status("motion").message.endswith("nothing is sent")


# Time


def test_time_that_stands_still_is_no_jump(bench):
    for _ in range(3):
        bench.session._tick()
    assert bench.session._clock_jumps == 0 and "clock jumps" not in bench.status("inputs").values


def test_a_jump_back_stops_the_arm_without_another_tick(bench):
    start_moving(bench)
    resets = bench.policy.calls.count("reset")
    bench.set_time(bench.now - 20 * SECOND)  # and there the clock may stay
    assert bench.speeds()[-1] == 0.0 and isinstance(bench.session._motion.result, Hold)
    bench.work()
    assert bench.policy.calls.count("reset") == resets + 1
    assert bench.session.sensors.newest_stamps()["image_primary"] is None


def test_a_system_clock_that_goes_back_is_noticed_by_the_tick(bench, monkeypatch):
    """rclpy tells of jumps of a simulated clock alone."""
    start_moving(bench)
    now = [bench.now]
    monkeypatch.setattr(bench.session, "_now", lambda: now[0])
    for step, jumps in ((SECOND // 100, 0), (SECOND // 100, 0), (-SECOND // 50, 1), (SECOND // 100, 1)):
        now[0] += step
        bench.session._tick()
        assert bench.session._clock_jumps == jumps
    assert bench.speeds()[-1] == 0.0


def test_a_chunk_after_a_reset_has_missed_nothing(bench):
    record, of_run = bench.session._record, bench.session.run_record
    for with_reset in (False, True):
        bench.advance(20.0)
        bench.see()
        bench.advance(0.1)
        bench.work()
        bench.advance(0.2)
        bench.see()
        if with_reset:
            bench.reset()
        bench.advance(0.15)  # the chunk before it lasted 0.4 s
        bench.work()
        assert (record.summary().misses, of_run.summary().misses) == (1, 1)


# What is told of an inference


def test_what_follows_an_inference(bench, monkeypatch):
    chunks, lines = [], []
    bench.session.after_chunk = chunks.append
    monkeypatch.setattr(bench.session._status_text, "publish", lines.append)
    bench.see()
    bench.advance(0.12)
    bench.work()
    assert [chunk.sequence for chunk in chunks] == [0]
    assert "inference 40 ms, observation 120 ms old; motion is off" in lines[-1]


def test_no_mode_is_wanted_where_it_changes_nothing(open_bench):
    assert open_bench(**{"replan.when": "continuous"}).session._wanted_mode() == ""


def test_dense_refreshes_do_not_hide_that_the_hand_slows_down(open_bench):
    bench = open_bench(**{"replan.when": "chunk_end", "pruning.refresh_interval": 1})
    modes, x = set(), 0.0
    for _ in range(12):
        x += 0.3 * STEP
        bench.tick(x=x)
    for _ in range(3):
        x += 0.3 * STEP
        bench.tick(x=x)
        modes.add(bench.session._wanted_mode())
    assert modes == {Mode.COARSE}
