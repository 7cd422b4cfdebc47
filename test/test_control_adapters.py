# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.control.adapters import TargetPose, gripper_commands, gripper_point, joint_hold, joint_point
from specprune_ros.control.cartesian_limiter import CartesianLimiter
from specprune_ros.control.joint_limiter import JointStop
from specprune_ros.control.limits import LimitsConfig
from specprune_ros.pose import IDENTITY, Pose

ARM = ControllerConfig(
    action_space="absolute_joint",
    output="joint_trajectory",
    rate=50.0,
    trajectory_time=0.1,
    joint_names=("a", "b"),
    gripper_dimensions=(2,),
)


def yaw(degrees):
    return Rotation.from_euler("z", degrees, degrees=True).as_quat()


def test_target_pose_integrates_from_the_measured_pose():
    """0.4 m/s and 1 rad/s for 0.05 s: 0.02 m and 0.05 rad, turned about the base's axes."""
    target = TargetPose(ControllerConfig(rate=20.0))
    start = Pose(np.array([0.5, 0.0, 0.3]), Rotation.from_euler("x", 180, degrees=True).as_quat())
    twist = np.array([0.4, 0, 0, 0, 0, 1.0])
    for k in (1, 2):
        pose = target.advance(twist, start, LimitsConfig())
        np.testing.assert_allclose(pose.position, [0.5 + 0.02 * k, 0.0, 0.3])
        expected = Rotation.from_rotvec([0, 0, 0.05 * k]) * start.rotation
        assert (pose.rotation * expected.inv()).magnitude() == pytest.approx(0, abs=1e-9)


def test_target_pose_keeps_its_leash():
    target = TargetPose(ControllerConfig(max_lead=0.03, max_lead_angle=0.2))
    for _ in range(50):  # the arm is stuck
        pose = target.advance(np.array([0.3, 0.4, 0, 0, 0, 1.0]), IDENTITY, LimitsConfig())
    np.testing.assert_allclose(pose.position, [0.018, 0.024, 0])
    assert pose.rotation.magnitude() == pytest.approx(0.2)


def test_the_target_stays_close_to_an_arm_that_does_not_obey():
    target = TargetPose(ControllerConfig())
    for _ in range(100):
        far = target.advance(np.array([0.5, 0, 0, 0, 0, 1.5]), IDENTITY, LimitsConfig())
    near = target.advance(np.array([0.5, 0, 0, 0, 0, 1.5]), IDENTITY, LimitsConfig(), idle=True)
    assert np.linalg.norm(far.position) == pytest.approx(0.1) and far.rotation.magnitude() == pytest.approx(0.5)
    assert np.linalg.norm(near.position) == pytest.approx(0.02) and near.rotation.magnitude() == pytest.approx(0.1)


def test_target_pose_holds_where_the_arm_was_and_starts_again_from_where_it_is():
    target = TargetPose(ControllerConfig())
    assert target.hold(None) is None
    target.advance(np.array([0.4, 0, 0, 0, 0, 0]), IDENTITY, LimitsConfig())
    here, later = (Pose(np.array([x, 0.0, 0.0]), yaw(0)) for x in (0.005, 0.007))
    assert target.hold(here) is here
    assert target.hold(later) is here
    assert target.hold(None) is here
    target.advance(np.array([0.4, 0, 0, 0, 0, 0]), later, LimitsConfig())
    assert target.hold(None) is later  # the last one that was known
    np.testing.assert_allclose(
        target.advance(np.array([0.4, 0, 0, 0, 0, 0]), later, LimitsConfig()).position, [0.027, 0, 0]
    )


def test_joint_point_by_hand():
    """At 50 Hz the target is 0.02 s ahead, the point 0.1 s: 0.08 s further at the same velocity."""
    point = joint_point(np.array([1.0, -1.0]), np.array([0.5, 0.0]), ARM, LimitsConfig())
    assert point.names == ("a", "b") and point.time_from_start == 0.1
    np.testing.assert_allclose(point.positions, [1.04, -1.0])


def test_joint_point_stays_inside_the_joint_ranges():
    limits = LimitsConfig(joint_min=(-1.0, -2.0), joint_max=(1.02, 2.0))
    point = joint_point(np.array([1.0, -1.0]), np.array([0.5, 0.0]), ARM, limits)
    np.testing.assert_allclose(point.positions, [1.02, -1.0])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_joint_outside_its_range_comes_back_as_slowly_as_it_is_told(sign):
    """It was parked there, or the range was made smaller: the range itself would be 0.5 rad away in 0.1 s."""
    limits = LimitsConfig(joint_min=(-2.0,), joint_max=(2.0,))
    point = joint_point(np.array([2.5, -2.5]) * sign, np.array([-0.5, 0.0]) * sign, ARM, limits)
    np.testing.assert_allclose(point.positions, np.array([2.46, -2.5]) * sign)
    outwards = joint_point(np.array([2.5, -2.5]) * sign, np.array([0.5, -0.5]) * sign, ARM, limits)
    np.testing.assert_allclose(outwards.positions, np.array([2.5, -2.5]) * sign)


def test_joint_hold():
    point = joint_hold(JointStop(np.array([0.1, 0.2]), 0.03), ARM)
    np.testing.assert_array_equal(point.positions, [0.1, 0.2])
    assert point.names == ("a", "b") and point.time_from_start == 0.1
    assert joint_hold(JointStop(np.array([0.1, 0.2]), 0.3), ARM).time_from_start == 0.3


def test_gripper_command_by_hand():
    config = ControllerConfig(gripper_closed_position=0.01, gripper_open_position=0.09, gripper_max_effort=30.0)
    command, half = gripper_commands(np.array([1.0, 0.5]), config)
    assert (command.position, command.max_effort) == (pytest.approx(0.09), 30.0)
    assert half.position == pytest.approx(0.05)


def test_gripper_command_for_a_joint_that_closes_upwards():
    """A Robotiq knuckle: 0 rad open, 0.8 rad closed."""
    config = ControllerConfig(gripper_closed_position=0.8, gripper_open_position=0.0)
    assert [command.position for command in gripper_commands(np.array([0.0, 1.0]), config)] == [0.8, 0.0]


def test_gripper_trajectory_of_two_grippers_with_two_fingers():
    config = ControllerConfig(
        gripper_output="trajectory",
        gripper_dimensions=(6, 13),
        gripper_joint_names=("left_1", "left_2", "right_1", "right_2"),
        gripper_open_position=0.04,
    )
    point = gripper_point(np.array([1.0, 0.0]), config)
    assert point.names == config.gripper_joint_names and point.time_from_start == config.trajectory_time
    np.testing.assert_allclose(point.positions, [0.04, 0.04, 0.0, 0.0])


@pytest.mark.parametrize("lag", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [-1, 1])
def test_an_arm_that_lags_is_not_led_through_a_wall(axis, sign, lag):
    limits = LimitsConfig(workspace_min=(-0.2, -0.2, -0.2), workspace_max=(0.2, 0.2, 0.2), max_speed=0.5)
    period, place = 0.05, np.zeros(3)
    limiter, target = CartesianLimiter(limits, period), TargetPose(ControllerConfig(rate=1 / period))
    into = np.zeros(6)
    into[axis] = 0.5 * sign

    def step(twist):
        nonlocal place
        here = Pose(place, IDENTITY.quaternion)
        told = target.advance(limiter.apply(twist, place).value, here, limits).position
        assert (np.abs(told) <= 0.2 + 1e-9).all()
        place = told if not lag else place + (told - place) * (1 - np.exp(-period / lag))

    for _ in range(100):
        step(into)
    assert sign * place[axis] == pytest.approx(0.2, abs=0.01)
    for _ in range(20):
        step(-into)
    assert sign * place[axis] < 0.15  # nothing was wound up


def test_a_target_outside_the_workspace_goes_no_further_out():
    limits = LimitsConfig(workspace_min=(-0.2, -0.2, -0.2), workspace_max=(0.2, 0.2, 0.2))
    target, outside = TargetPose(ControllerConfig(rate=20.0)), Pose(np.array([0.3, 0, 0]), IDENTITY.quaternion)
    assert target.advance(np.array([0.1, 0, 0, 0, 0, 0]), outside, limits).position[0] == pytest.approx(0.3)
    assert target.advance(np.array([-0.1, 0, 0, 0, 0, 0]), outside, limits).position[0] < 0.3
