# SPDX-License-Identifier: Apache-2.0
"""A joint-space arm in a closed loop with everything that lies to it: no point far from where the arm is."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from joint_arm import (
    ACCELERATION,
    ENDLESS,
    LEAD,
    MAX_AGE,
    NAMES,
    PERIOD,
    SPEED,
    Loop,
    SimulatedArm,
    apart,
    joint_state,
)

from specprune_ros.control.arm import Motion
from specprune_ros.control.command import HoldReason

DRIVER_PERIOD = 0.01
# What a point may be away from the arm: the lead, the way to the point itself, and what the arm travels while a
# measurement is on its way or too old to notice; holding adds the distance to brake.
BRAKING = SPEED**2 / (2 * ACCELERATION) + SPEED * (PERIOD + 0.05)
FARTHEST = LEAD + SPEED * (0.06 + MAX_AGE) + BRAKING + 0.02
FAULTS = int(os.environ.get("JOINT_ARM_FAULTS", "1500"))
STEPS = 50


class Robot:
    """The arm, its driver, and a second publisher; advanced by `run`."""

    def __init__(self, seed, start, trajectory="point", farthest=FARTHEST, **loop):
        """`farthest`: rad that a point may be away from the arm. `loop`: of its control loop."""
        self.random = np.random.default_rng(seed)
        self.arm = SimulatedArm(start)
        self.loop, self.farthest = Loop(self.arm, trajectory=trajectory, **loop), farthest
        self.alive, self.liar, self.stamps, self.skew, self.delay = True, None, True, 0.0, 0.0
        self.alone_since = self.loop.now
        self.hidden, self.stale_chunk = 0, False
        self._queue = []

    def publish(self, positions, jitter=0.003):
        stamp = self.loop.now + self.skew + self.random.uniform(-jitter, jitter) if self.stamps else None
        self._queue.append((self.loop.now + self.random.uniform(0, self.delay), joint_state(stamp, positions)))

    def run(self, seconds):
        for _ in range(max(1, round(seconds / PERIOD))):
            for _ in range(round(PERIOD / DRIVER_PERIOD)):
                self.loop.now += DRIVER_PERIOD
                self.arm.step(DRIVER_PERIOD)
                if self.alive:
                    self.publish(self.arm.encoders() + self.random.normal(0, 5e-4, 7))
                if self.liar is not None:
                    self.publish(self.liar)
                due = [message for time, message in self._queue if time <= self.loop.now]
                self._queue = [entry for entry in self._queue if entry[0] > self.loop.now]
                for message in due:
                    self.loop.hear(message)
            if not self.alive or self.liar is not None:
                self.alone_since = self.loop.now
            point = self.loop.tick()
            if point is not None:
                far = apart(point.positions, self.arm.position)
                joint = int(np.argmax(far))
                assert far[joint] <= self.farthest, f"{NAMES[joint]}: a point {far[joint]:.3f} rad from the arm"


class Faults(RuleBasedStateMachine):
    trajectory, steps = "point", 100

    @initialize(seed=st.integers(0, 2**31), start=st.lists(st.floats(-3.1, 3.1), min_size=7, max_size=7))
    def begin(self, seed, start):
        self.robot = Robot(seed, start, self.trajectory)
        self.robot.run(1.2)
        self.enable()

    @rule(goal=st.lists(st.floats(-3.3, 3.3), min_size=7, max_size=7))
    def new_chunk(self, goal):
        self.robot.loop.chunk(np.array(goal), self.steps)
        self.robot.run(0.1)

    @rule(step=st.lists(st.floats(-0.3, 0.3), min_size=7, max_size=7))
    def near_chunk(self, step):
        self.robot.loop.chunk(self.robot.arm.encoders() + step, self.steps)
        self.robot.run(0.2)

    @rule(ticks=st.integers(1, 12))
    def time_passes(self, ticks):
        self.robot.run(ticks * PERIOD)

    @rule(kind=st.sampled_from(["zeros", "offset", "mirror"]), by=st.floats(-2.0, 2.0))
    def second_publisher(self, kind, by):
        here = self.robot.arm.encoders()
        self.robot.liar = {"zeros": np.zeros(7), "offset": here + by, "mirror": -here}[kind]
        self.robot.run(0.06)

    @rule()
    def second_publisher_ends(self):
        self.robot.liar = None
        self.robot.run(0.06)

    @rule()
    def driver_dies(self):
        self.robot.alive = False
        self.robot.run(0.1)

    @rule(zeros=st.integers(0, 8))
    def driver_starts_with_zeros(self, zeros):
        for _ in range(zeros):
            self.robot.publish(np.zeros(7))
            self.robot.run(PERIOD)
        self.robot.alive = True
        self.robot.run(0.06)

    @rule(value=st.sampled_from([np.nan, np.inf, 1e9]))
    def absurd_sample(self, value):
        self.robot.publish(np.full(7, value))
        self.robot.run(0.04)

    @rule(stamps=st.booleans(), skew=st.floats(-0.15, 0.05), delay=st.sampled_from([0.0, 0.005, 0.02]))
    def clock_of_the_driver(self, stamps, skew, delay):
        self.robot.stamps, self.robot.skew, self.robot.delay = stamps, skew, delay
        self.robot.run(0.04)

    @rule()
    def camera_stalls(self):
        self.robot.loop.arm.executor.clear()
        self.robot.run(0.1)

    @rule()
    def disable(self):
        self.robot.loop.arm.executor.stop()
        self.robot.run(0.04)

    @precondition(lambda self: self.robot.loop.now - self.robot.alone_since > 0.3)
    @rule()
    def enable(self):
        """By somebody who sees that the driver alone says where the arm is."""
        self.robot.loop.enable()
        self.robot.run(0.04)

    @invariant()
    def joints_stay_in_their_ranges(self):
        if getattr(self, "robot", None) and self.robot.loop.points:
            assert (np.abs(self.robot.loop.points[-1].positions)[~ENDLESS] <= 2 * np.pi).all()


TestFaults = Faults.TestCase
TestFaults.settings = settings(
    max_examples=FAULTS // STEPS, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck)
)


class ChunkFaults(Faults):
    trajectory, steps = "chunk", 20


TestChunkFaults = ChunkFaults.TestCase
TestChunkFaults.settings = settings(
    max_examples=max(FAULTS // STEPS // 5, 1),
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(params=["point", "chunk"])
def robot(request):
    robot = Robot(0, [1.0, 0.5, -0.5, 1.2, -1.0, 0.8, 2.0], request.param)
    robot.run(1.2)
    robot.loop.enable()
    return robot


def moves(robot, target, seconds):
    robot.loop.chunk(np.array(target))
    robot.run(seconds)


def test_it_gets_there(robot):
    """The proof above says nothing of an arm that never moves."""
    goal = robot.arm.position + 0.4
    moves(robot, goal, 1.5)
    assert isinstance(robot.loop.result, Motion)
    assert apart(robot.arm.position, goal).max() < 0.01


def test_a_wrapped_joint_goes_the_short_way():
    robot = Robot(0, [-3.1432, 0.5, -0.5, 1.2, -1.0, 0.8, 3.1])
    robot.run(1.2)
    robot.loop.enable()
    moves(robot, [3.12, 0.5, -0.5, 1.2, -1.0, 0.8, -3.1], 2.0)
    sent = np.array([point.positions for point in robot.loop.points])
    assert np.abs(np.diff(sent[:, 0])).sum() < 0.05 and np.abs(np.diff(sent[:, 6])).sum() < 0.12
    assert apart(robot.arm.position, [3.12, 0.5, -0.5, 1.2, -1.0, 0.8, -3.1]).max() < 0.01


def test_a_turn_of_a_joint_that_nobody_called_continuous_is_refused():
    robot = Robot(0, [1.0, -3.14, -0.5, 1.2, -1.0, 0.8, 2.0])
    robot.run(1.2)
    robot.loop.enable()
    moves(robot, [1.0, 3.12, -0.5, 1.2, -1.0, 0.8, 2.0], 0.2)
    held = robot.loop.result
    assert held.reason == HoldReason.ARM_MOVED and not robot.loop.points
    assert "joint_2" in held.detail and "controller.continuous_joints" in held.detail


def test_two_publishers_from_the_start_move_nothing():
    robot = Robot(0, [1.0, 0.5, -0.5, 1.2, -1.0, 0.8, 2.0])
    robot.liar = np.zeros(7)
    robot.run(2.0)
    robot.loop.enable()
    moves(robot, [0.5] * 7, 1.0)
    assert not robot.loop.points and robot.loop.result.reason == HoldReason.JOINTS_UNKNOWN
    for words in ("joint_1 on /joint_states jumps between", "/driver, /joint_state_publisher"):
        assert words in robot.loop.result.detail


def test_a_second_publisher_stops_a_moving_arm_where_it_is_until_it_ends(robot):
    moves(robot, robot.arm.position + 0.5, 0.3)
    robot.liar = np.zeros(7)
    robot.run(0.1)
    held = robot.loop.result
    assert held.reason == HoldReason.JOINTS_UNKNOWN
    assert apart(robot.loop.points[-1].positions, robot.arm.position).max() < 0.05
    robot.run(2.0)
    assert robot.loop.result.reason == HoldReason.JOINTS_UNKNOWN
    robot.liar = None
    robot.run(1.2)
    robot.loop.chunk(robot.arm.position + 0.1)
    robot.run(0.1)
    assert isinstance(robot.loop.result, Motion)


def test_zeros_alone_after_the_driver_died_are_not_believed_while_motion_is_on(robot):
    moves(robot, robot.arm.position + 0.2, 0.3)
    robot.alive, robot.liar = False, np.zeros(7)
    robot.run(4.0)
    robot.loop.chunk(np.full(7, 0.1))
    robot.run(0.5)
    assert robot.loop.result.reason in (HoldReason.JOINTS_UNKNOWN, HoldReason.STALE_INPUT)
    assert apart(robot.loop.points[-1].positions, robot.arm.position).max() < 0.05


def test_an_arm_that_was_moved_while_it_held_has_to_be_enabled_again(robot):
    moves(robot, robot.arm.position + 0.1, 0.5)
    robot.loop.arm.executor.clear()
    robot.run(0.2)
    robot.arm.deaf = True
    for _ in range(60):  # by hand, slowly
        robot.arm.position = robot.arm._setpoint = robot.arm._goal = robot.arm.position + 0.01
        robot.run(PERIOD)
    robot.loop.chunk(robot.arm.position + 0.1)
    robot.run(0.2)
    assert robot.loop.result.reason == HoldReason.ARM_MOVED and "call ~/enable" in robot.loop.result.detail
    robot.loop.enable()
    robot.loop.chunk(robot.arm.position + 0.1)
    robot.run(0.2)
    assert isinstance(robot.loop.result, Motion)


def test_an_arm_that_does_not_obey_is_told(robot):
    robot.arm.deaf = True
    moves(robot, robot.arm.position + 1.0, 3.0)
    assert "joint_1 was commanded" in robot.loop.arm.effect and "protective stop" in robot.loop.arm.effect
    sent = np.array([point.positions for point in robot.loop.points])
    assert np.abs(sent - robot.arm.position).max() <= LEAD + 0.07


def on_its_way(trajectory):
    """A robot that moves its first joint, believed for half a second of silence, and where to."""
    start = np.array([1.0, 0.5, -0.5, 1.2, -1.0, 0.8, 2.0])
    robot = Robot(0, start, trajectory, farthest=1.5, max_age=0.5, lead=0.5)
    robot.run(1.2)
    robot.loop.enable()
    goal = start + np.array([2.0, 0, 0, 0, 0, 0, 0])
    robot.loop.chunk(goal)
    robot.run(0.6)
    return robot, goal


@pytest.mark.parametrize("trajectory", ["point", "chunk"])
@pytest.mark.parametrize("gap", [0.26, 0.4, 0.6])
def test_an_arm_that_moves_on_while_its_driver_is_silent_is_believed(trajectory, gap):
    """It moves until the joint states are too old, half a second by default, and so for longer than it may jump."""
    robot, goal = on_its_way(trajectory)
    robot.alive, before = False, robot.arm.position[0]
    robot.run(gap)
    assert robot.arm.position[0] > before + 0.2
    robot.alive = True
    for _ in range(4):
        robot.loop.chunk(goal)
        robot.run(0.5)
    assert isinstance(robot.loop.result, Motion)


@pytest.mark.parametrize("trajectory", ["point", "chunk"])
@pytest.mark.parametrize("ahead", [0.1, 0.3, 2.0, 3600.0])
def test_one_stamp_from_the_future_stops_nothing_for_long(trajectory, ahead):
    robot, goal = on_its_way(trajectory)
    robot.loop.hear(joint_state(robot.loop.now + ahead, robot.arm.encoders()))
    robot.run(0.1)
    for _ in range(2):
        robot.loop.chunk(goal)
        robot.run(0.2)
        assert isinstance(robot.loop.result, Motion)
