# SPDX-License-Identifier: Apache-2.0
"""Who is in charge, and how the arm goes on after a person: from where it is, as it moves, within its limits."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.control.arm import Arm, Motion
from specprune_ros.control.command import Hold, HoldReason, Refusal
from specprune_ros.control.executor import ExecutorConfig
from specprune_ros.control.limits import LimitsConfig
from specprune_ros.control.takeover import SERVICE, Takeover, TakeoverConfig
from specprune_ros.pose import Pose

PERIOD = 0.05
LIMITS = LimitsConfig(
    max_speed=0.5,
    max_angular_speed=1.5,
    max_acceleration=3.0,
    max_angular_acceleration=12.0,
    max_jerk=100000.0,
    max_angular_jerk=100000.0,
    max_joint_speed=(1.0,),
    max_joint_acceleration=(4.0,),
)
JOINTS = ControllerConfig(
    output="joint_trajectory",
    action_space="absolute_joint",
    joint_names=("a", "b"),
    gripper_dimensions=(),
    gripper_output="none",
)


class Steady:
    now = 10.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Steady()


def test_by_hand_until_released(clock):
    takeover = Takeover(arrival=clock)
    assert not takeover.person
    takeover.take()
    clock.now += 1e6
    assert takeover.person == SERVICE
    assert takeover.release() == "" == takeover.person


def test_a_device_keeps_the_arm_while_its_messages_arrive(clock):
    takeover = Takeover(TakeoverConfig(topic="/spacenav", release_after=0.5), clock)
    takeover.hear()
    clock.now += 0.5
    assert takeover.person == "/spacenav" == takeover.release()
    clock.now += 0.01
    assert not takeover.person


def test_a_device_that_falls_silent_gives_nothing_back_when_a_service_has_to(clock):
    takeover = Takeover(TakeoverConfig(topic="/spacenav", release="service"), clock)
    takeover.hear()
    clock.now += 100.0
    assert takeover.person == SERVICE
    assert takeover.release() == ""


def test_a_release_that_was_refused_does_not_happen_later(clock):
    """The device failed a moment after ~/takeover false was answered with "messages still arrive"."""
    takeover = Takeover(TakeoverConfig(topic="/spacenav", release="service", release_after=0.5), clock)
    takeover.hear()
    clock.now += 0.2
    assert takeover.release() == "/spacenav"
    clock.now += 100.0
    assert takeover.person == SERVICE
    assert takeover.release() == "" == takeover.person


def test_hand_and_device_at_once(clock):
    takeover = Takeover(TakeoverConfig(topic="/spacenav"), clock)
    takeover.take()
    takeover.hear()
    clock.now += 1.0
    assert takeover.person == SERVICE


def after_a_person(controller, action_dim, actions, *, twist=None, velocities=None, pose=None, joints=None):
    """The first motion after a person let go at 0.3 s; an observation at 0.4 s is the first that counts."""
    arm = Arm(action_dim, controller, LIMITS, ExecutorConfig())
    arm.enable(0.0)
    assert arm.executor.submit(np.zeros((8, action_dim)), 0.1, 0.1, 0.1).accepted
    arm.executor.take_over()
    assert arm.tick(0.2, pose, joints) == Hold(HoldReason.TAKEN_OVER)
    assert arm.executor.submit(actions, 0.2, 0.1, 0.2).refusal == Refusal.TAKEN_OVER
    arm.executor.give_back(0.3)
    assert arm.executor.submit(actions, 0.2, 0.1, 0.3).refusal == Refusal.BEFORE_ENABLE
    assert arm.tick(0.35, pose, joints).reason == HoldReason.NO_CHUNK
    assert arm.executor.submit(actions, 0.4, 0.1, 0.4).accepted
    arm.forget(twist, velocities)
    motion = arm.tick(0.4, pose, joints)
    assert isinstance(motion, Motion)
    return motion


numbers = st.floats(-1.0, 1.0)


@settings(max_examples=150, deadline=None)
@given(
    actions=st.lists(st.tuples(*[numbers] * 7), min_size=2, max_size=8),
    twist=st.tuples(*[numbers] * 6),
    position=st.tuples(*[numbers] * 3),
)
def test_no_step_of_the_end_effectors_velocity(actions, twist, position):
    twist = np.array(twist) * 0.28  # a person keeps the speeds; those who don't are below
    pose = Pose(np.array(position), np.array([0.0, 0.0, 0.0, 1.0]))
    motion = after_a_person(ControllerConfig(output="twist"), 7, np.array(actions), twist=twist, pose=pose)
    change = motion.twist - twist
    assert np.linalg.norm(change[:3]) <= LIMITS.max_acceleration * PERIOD * (1 + 1e-6)
    assert np.linalg.norm(change[3:]) <= LIMITS.max_angular_acceleration * PERIOD * (1 + 1e-6)


@settings(max_examples=150, deadline=None)
@given(
    actions=st.lists(st.tuples(numbers, numbers), min_size=2, max_size=8),
    velocities=st.tuples(numbers, numbers),
    joints=st.tuples(numbers, numbers),
)
def test_no_step_of_a_joints_velocity(actions, velocities, joints):
    joints, velocities, actions = np.array(joints), np.array(velocities), np.array(actions)
    motion = after_a_person(JOINTS, 2, actions, velocities=velocities, joints=joints)
    assert (np.abs(motion.joint_velocities - velocities) <= LIMITS.max_joint_acceleration[0] * PERIOD + 1e-9).all()
    np.testing.assert_allclose(motion.joints, joints + motion.joint_velocities * PERIOD)


@settings(max_examples=100, deadline=None)
@given(twist=st.tuples(*[st.floats(-1e6, 1e6)] * 6), velocities=st.tuples(*[st.floats(-1e6, 1e6)] * 2))
def test_a_measured_velocity_is_believed_up_to_the_limits(twist, velocities):
    assume(any(twist))
    pose = Pose(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))
    moved = after_a_person(ControllerConfig(output="twist"), 7, np.zeros((8, 7)), twist=np.array(twist), pose=pose)
    assert np.linalg.norm(moved.twist[:3]) <= LIMITS.max_speed * (1 + 1e-6)
    assert np.linalg.norm(moved.twist[3:]) <= LIMITS.max_angular_speed * (1 + 1e-6)
    turned = after_a_person(JOINTS, 2, np.zeros((8, 2)), velocities=np.array(velocities), joints=np.zeros(2))
    assert (np.abs(turned.joint_velocities) <= LIMITS.max_joint_speed[0] * (1 + 1e-6)).all()


def test_where_the_arm_was_moved_to_is_no_doubt():
    """What it was told before a person took over does not count any more."""
    arm = Arm(2, JOINTS, LIMITS, ExecutorConfig())
    arm.enable(0.0)
    arm.executor.submit(np.tile([0.1, 0.1], (8, 1)), 0.0, 0.1, 0.0)
    assert isinstance(arm.tick(0.05, joints=np.zeros(2)), Motion)
    arm.executor.take_over()
    arm.tick(0.1, joints=np.zeros(2))
    arm.forget()
    arm.executor.give_back(0.2)
    arm.executor.submit(np.tile([1.6, 1.6], (8, 1)), 0.3, 0.1, 0.3)
    assert isinstance(arm.tick(0.3, joints=np.array([1.5, 1.5])), Motion)
