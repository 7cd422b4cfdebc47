# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.control.adapters import TargetPose
from specprune_ros.control.arm import Arm, Motion
from specprune_ros.control.command import Hold, HoldReason
from specprune_ros.control.deviation import integrate
from specprune_ros.control.executor import ExecutorConfig
from specprune_ros.control.limits import LimitsConfig
from specprune_ros.errors import ConfigError
from specprune_ros.pose import IDENTITY, Pose

DT = 0.05
LOOSE = {"max_acceleration": 100.0, "max_jerk": 1e5, "max_angular_acceleration": 1000.0, "max_angular_jerk": 1e5}
JOINTS = {"action_space": "absolute_joint", "joint_names": ("a", "b"), "gripper_dimensions": (2,), "rate": 50.0}


def cartesian_arm(limits=None, **kwargs):
    arm = Arm(7, ControllerConfig(output="twist"), limits or LimitsConfig(**LOOSE), ExecutorConfig(), **kwargs)
    arm.executor.enable()
    return arm


def moves(x, gripper=1.0, steps=8):
    actions = np.zeros((steps, 7))
    actions[:, 0], actions[:, 6] = x, gripper
    return actions


def test_motion_in_si_units():
    arm = cartesian_arm()
    arm.executor.submit(moves(0.2), 0.0, DT, 0.0)
    motion = arm.tick(0.0, IDENTITY)
    assert isinstance(motion, Motion)
    np.testing.assert_allclose(motion.twist, [0.2, 0, 0, 0, 0, 0])
    assert motion.openings == [1.0] and motion.limits_hit == () and motion.joints is None


def test_limits_are_applied_and_reported():
    arm = cartesian_arm()
    arm.executor.submit(moves(1.0), 0.0, DT, 0.0)
    motion = arm.tick(0.0, IDENTITY)
    np.testing.assert_allclose(motion.twist[:3], [0.5, 0, 0])
    assert motion.limits_hit == ("speed",)


def test_limits_change_live_and_refuse_another_number_of_joints():
    arm = cartesian_arm()
    arm.executor.submit(moves(1.0), 0.0, DT, 0.0)
    arm.limits = LimitsConfig(**LOOSE, max_speed=0.3)
    np.testing.assert_allclose(arm.tick(0.0, IDENTITY).twist[:3], [0.3, 0, 0])
    joints = Arm(3, ControllerConfig(**JOINTS), LimitsConfig(), ExecutorConfig())
    with pytest.raises(ConfigError, match="3 numbers for 2"):
        joints.limits = LimitsConfig(max_joint_speed=(1.0, 1.0, 1.0))
    assert joints.limits == LimitsConfig()


@pytest.mark.parametrize("pose", [None, Pose(np.array([np.nan, 0, 0]), IDENTITY.quaternion)])
def test_unknown_pose_holds_and_recovers(pose):
    arm = cartesian_arm()
    arm.executor.submit(moves(0.2), 0.0, DT, 0.0)
    held = arm.tick(0.0, pose)
    assert isinstance(held, Hold) and held.reason == HoldReason.POSE_UNKNOWN
    assert isinstance(arm.tick(0.05, IDENTITY), Motion)


def test_hold_on_violation_names_the_limit():
    arm = cartesian_arm(LimitsConfig(**LOOSE, on_violation="hold"))
    arm.executor.submit(moves(1.0), 0.0, DT, 0.0)
    held = arm.tick(0.0, IDENTITY)
    assert isinstance(held, Hold) and (held.reason, held.detail) == (HoldReason.LIMIT, "speed")


def test_the_motion_starts_from_rest_after_a_hold():
    arm = cartesian_arm(LimitsConfig(**{**LOOSE, "max_acceleration": 2.0}), max_ages={"tf": 0.2})
    arm.executor.submit(moves(0.4), 0.0, DT, 0.0)
    arm.watchdog.feed("tf", 0.0)
    speeds = [arm.tick(k * DT, IDENTITY).twist[0] for k in range(4)]
    np.testing.assert_allclose(speeds, [0.1, 0.2, 0.3, 0.4], atol=1e-3)
    held = arm.tick(0.25, IDENTITY)
    assert isinstance(held, Hold) and held.reason == HoldReason.STALE_INPUT
    arm.watchdog.feed("tf", 0.3)
    assert arm.tick(0.3, IDENTITY).twist[0] == pytest.approx(0.1, abs=1e-3)


def test_the_gripper_keeps_its_state_through_a_hold():
    arm = cartesian_arm()
    assert arm.openings is None
    arm.executor.submit(moves(0.0, gripper=0.0), 0.0, DT, 0.0)
    arm.tick(0.0, IDENTITY)
    arm.executor.stop()
    assert isinstance(arm.tick(0.05, IDENTITY), Hold)
    assert arm.openings == [0.0]


def test_an_outlier_does_not_drop_the_object():
    arm = cartesian_arm()
    actions = moves(0.0, gripper=0.0)
    actions[3, 6] = 1.0
    arm.executor.submit(actions, 0.0, DT, 0.0)
    assert all(arm.tick(k * DT, IDENTITY).openings == [0.0] for k in range(8))


def test_deviation_grows_when_the_arm_is_stuck():
    arm = cartesian_arm()
    arm.executor.submit(moves(0.2), 0.0, DT, 0.0)
    deviations = [arm.tick(k * DT, IDENTITY).deviation for k in range(4)]
    np.testing.assert_allclose(deviations, [0, 0.01, 0.02, 0.03], atol=1e-9)


def test_joint_policy():
    arm = Arm(3, ControllerConfig(**JOINTS), LimitsConfig(), ExecutorConfig())
    arm.executor.enable()
    assert isinstance(arm.tick(0.0, joints=np.zeros(2)), Hold)
    arm.executor.submit(np.array([[0.0, 0.1, 1.0]] * 25), 0.0, 0.02, 0.0)
    for bad in (None, np.zeros(3), np.array([0.0, np.nan])):
        assert arm.tick(0.0, joints=bad).reason == HoldReason.JOINTS_UNKNOWN
    motion = arm.tick(0.0, joints=np.zeros(2))
    np.testing.assert_allclose(motion.joints, [0.0, 0.004])  # 10 rad/s^2 for 0.02 s
    np.testing.assert_allclose(motion.joint_velocities, [0.0, 0.2])
    assert motion.twist is None and motion.deviation_angle == pytest.approx(0.1)
    assert motion.limits_hit == ("joint_speed", "joint_acceleration")


@pytest.mark.parametrize("on_violation", ["clamp", "hold"])
def test_who_executes_the_chunks_may_be_faster_than_our_limits(on_violation):
    """The limits are of what this node sends, which is nothing here."""
    config = ControllerConfig(**JOINTS | {"output": "action_chunk"})
    limits = LimitsConfig(max_joint_speed=(0.5,), on_violation=on_violation)
    arm = Arm(3, config, limits, ExecutorConfig())
    arm.drives = False
    arm.executor.enable()
    path = np.cumsum(np.full(100, 3.0 * DT))
    arm.executor.submit(np.stack([path, -path, np.ones(100)], axis=1), 0.0, DT, 0.0)
    for k in range(100):
        now = 0.02 * k
        assert isinstance(arm.tick(now, joints=np.array([3.0, -3.0]) * now), Motion)


def test_a_stale_input_says_why_what_comes_is_not_used():
    arm = cartesian_arm(max_ages={"tf": 0.5})
    arm.watchdog.feed("tf", 0.0)
    hold = arm.tick(1.0, problem="TF base -> hand jumps by 0.3 m")
    assert (hold.reason, hold.detail) == (
        HoldReason.STALE_INPUT,
        "tf: 1.000 s old, allowed 0.5 s; TF base -> hand jumps by 0.3 m",
    )


def test_closed_loop_with_late_chunks_has_no_pause_and_no_jump():
    """Chunks of 8 steps at 20 Hz, each 0.18 s late and disagreeing with the last one, on a simulated arm at 100 Hz."""
    config, limits = ControllerConfig(rate=100.0), LimitsConfig(max_acceleration=5.0, max_jerk=200.0)
    arm = Arm(7, config, limits, ExecutorConfig(blend_steps=2))
    arm.executor.enable()
    random, pose, speeds, pending = np.random.default_rng(0), IDENTITY, [], None
    for tick in range(600):
        now = tick * 0.01
        if pending is None:
            pending = (now, moves(random.uniform(-0.3, 0.3)))
        elif now - pending[0] >= 0.18 - 1e-9:
            assert arm.executor.submit(pending[1], pending[0], DT, now).accepted
            pending = None
        result = arm.tick(now, pose)
        if tick >= 18:
            assert isinstance(result, Motion)
            pose = integrate(pose, result.twist, 0.01)
            speeds.append(result.twist[0])
    assert np.abs(np.diff(speeds)).max() <= 5.0 * 0.01 + 1e-9
    assert np.abs(np.diff(speeds, 2)).max() <= 200.0 * 0.01**2 + 1e-9


def joint_arm(**limits):
    arm = Arm(3, ControllerConfig(**JOINTS), LimitsConfig(gripper_debounce=0.0, **limits), ExecutorConfig())
    arm.enable()
    return arm


def to_joints(target, opening=1.0, steps=8):
    return np.tile([*target, opening], (steps, 1))


def test_joint_limits_change_live():
    arm = joint_arm(max_joint_speed=(1.0,), max_joint_acceleration=(1000.0,))
    here, period = np.zeros(2), 0.02
    arm.executor.submit(to_joints([1.0, -1.0]), 0.0, DT, 0.0)
    first = arm.tick(0.0, joints=here).joints
    assert np.abs(first).max() == pytest.approx(1.0 * period, rel=0.01)
    arm.limits = LimitsConfig(gripper_debounce=0.0, max_joint_speed=(0.25,), max_joint_acceleration=(1000.0,))
    second = arm.tick(period, joints=first).joints
    assert np.abs(second - first).max() == pytest.approx(0.25 * period, rel=0.01)


def test_debounce_changes_live():
    arm = joint_arm()
    arm.executor.submit(to_joints([0.0, 0.0]), 0.0, DT, 0.0)
    assert arm.tick(0.0, joints=np.zeros(2)).openings == [1.0]
    arm.limits = LimitsConfig(gripper_debounce=0.2)
    arm.executor.submit(to_joints([0.0, 0.0], opening=0.0, steps=20), 0.001, DT, 0.02)
    now, closed = 0.02, None
    while closed is None and now < 0.6:
        now += 0.02
        if arm.tick(now, joints=np.zeros(2)).openings == [0.0]:
            closed = now
    assert closed == pytest.approx(0.2, abs=0.07)


def test_after_a_hold_the_joints_start_from_where_they_were_moved_to():
    arm = joint_arm(max_joint_speed=(1.0,), max_joint_acceleration=(10.0,))
    arm.executor.submit(to_joints([1.0, 1.0]), 0.0, DT, 0.0)
    here = np.zeros(2)
    for tick in range(5):
        here = arm.tick(0.02 * tick, joints=here).joints
    arm.executor.stop()
    assert isinstance(arm.tick(0.12, joints=here), Hold)
    moved = here + 0.7  # by hand, while it held
    arm.enable()
    arm.executor.submit(to_joints([1.0, 1.0]), 5.0, DT, 5.0)
    first = arm.tick(5.0, joints=moved).joints
    assert np.abs(first - moved).max() <= 10.0 * 0.02**2 + 1e-9  # from rest, from there


@pytest.mark.parametrize("trajectory", ["point", "chunk"])
def test_an_arm_that_somebody_stopped_does_not_jump_when_it_is_let_go(trajectory):
    """An emergency stop, a controller that was switched: the target waits close to the arm, not half a radian ahead."""
    controller = ControllerConfig(**JOINTS, output="joint_trajectory", trajectory=trajectory)
    arm = Arm(3, controller, LimitsConfig(), ExecutorConfig(max_observation_age=60.0))
    arm.executor.enable()
    joints, period, followed, ahead, speeds = np.zeros(2), controller.period, None, [], []
    for tick in range(400):
        now = tick * period
        if tick % 20 == 0:
            arm.executor.submit(np.tile([1.0, -1.0, 1.0], (40, 1)), now, DT, now)
        motion = arm.tick(now, joints=joints.copy())
        assert isinstance(motion, Motion)
        followed = motion.trajectory or followed
        target = motion.joints if followed is None else followed.at(now + period).positions
        ahead.append(np.abs(target - joints).max())
        if tick >= 200:  # it is let go, and lags behind
            speeds.append(np.abs(0.35 * (target - joints)).max() / period)
            joints = joints + 0.35 * (target - joints)
    assert max(ahead[:100]) > 0.4 and max(ahead[120:200]) < 0.11
    assert max(speeds) < 2.0 and arm.effect == ""
    np.testing.assert_allclose(joints, [1.0, -1.0], atol=0.01)


@pytest.mark.parametrize("lag", [0.1, 0.4])
@pytest.mark.parametrize("sag", [0.0, 0.002, 0.015])
def test_an_arm_that_rests_at_a_wall_obeys(lag, sag):
    """Its target ends at the wall, and it rests a little before it."""
    limits = LimitsConfig(workspace_max=(0.1, 1.0, 1.0), workspace_min=(-1.0, -1.0, -1.0))
    config = ControllerConfig(output="pose", rate=1 / DT, on_no_effect="hold")
    arm, target, place = Arm(7, config, limits, ExecutorConfig()), TargetPose(config), np.zeros(3)
    arm.enable()
    for tick in range(200):
        now = tick * DT
        if tick % 4 == 0:
            arm.executor.submit(moves(0.3), now, DT, now)
        here = Pose(place, IDENTITY.quaternion)
        result = arm.tick(now, here)
        assert isinstance(result, Motion) and arm.effect == ""
        told = target.advance(result.twist, here, limits).position - np.array([sag, 0, 0])
        place = place + (told - place) * (1 - np.exp(-DT / lag))
    assert place[0] > 0.07
