# SPDX-License-Identifier: Apache-2.0
"""When it is told that an arm does not do what it is told."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from specprune_ros.control.effect import MotionEffect
from specprune_ros.pose import Pose

PERIOD = 0.05
FORWARD = np.array([0.1, 0, 0, 0, 0, 0])  # m/s
TURNING = np.array([0, 0, 0, 0, 0, 0.5])  # rad/s


class World:
    """An end effector that does `share` of what it is told, `lag` periods later."""

    def __init__(self, share=1.0, lag=0):
        self.effect, self.now, self.place, self.turn = MotionEffect(), 100.0, np.zeros(3), np.zeros(3)
        self.share, self.told = share, [np.zeros(6)] * lag

    def step(self, twist):
        pose = Pose(self.place, Rotation.from_rotvec(self.turn).as_quat())
        self.effect.of_twist(self.now, twist * PERIOD, pose)
        self.told.append(twist * PERIOD)
        done = self.share * self.told.pop(0)
        self.place, self.turn, self.now = self.place + done[:3], self.turn + done[3:], self.now + PERIOD

    def run(self, twist, seconds):
        """How long it took until there was a problem; None when there was none."""
        for tick in range(round(seconds / PERIOD)):
            self.step(twist)
            if self.effect.problem:
                return tick * PERIOD
        return None


@pytest.mark.parametrize("twist", [FORWARD, TURNING, FORWARD + TURNING])
@pytest.mark.parametrize(("share", "lag"), [(1.0, 0), (0.3, 0), (1.0, 6)])
def test_an_arm_that_is_slow_or_late_obeys(twist, share, lag):
    assert World(share, lag).run(twist, 6.0) is None


@pytest.mark.parametrize("share", [0.0, 0.1, -1.0])
def test_an_arm_that_does_not_move_or_moves_elsewhere_is_told_after_two_seconds(share):
    world = World(share)
    assert world.run(FORWARD, 6.0) == pytest.approx(2.0)
    assert world.effect.problem.startswith("end effector was commanded 0.20 m in 2 s and measured ")
    assert f"measured {abs(share) * 0.2:.2f}," in world.effect.problem and "protective stop" in world.effect.problem


def test_one_that_moves_but_does_not_turn():
    world = World()
    world.share = np.array([1.0, 1, 1, 0, 0, 0])
    assert world.run(FORWARD + TURNING, 6.0) == pytest.approx(2.0)
    assert "commanded 1.00 rad in 2 s and measured 0.00" in world.effect.problem


def test_back_and_forth_within_the_lag():
    """What comes back is no motion in sum, and is compared piece by piece."""
    world = World(lag=8)
    for _ in range(6):
        assert world.run(FORWARD, 0.6) is None and world.run(-FORWARD, 0.6) is None
    still = World(share=0.0)
    assert any(still.run(sign * FORWARD, 0.6) is not None for _ in range(3) for sign in (1, -1))


def test_motion_too_small_to_judge():
    assert World(0.0).run(0.09 * FORWARD, 6.0) is None  # 0.018 m in two seconds
    assert World(0.0).run(0.11 * FORWARD, 6.0) is not None
    assert World(0.0).run(0.09 * TURNING, 6.0) is None
    assert World(0.0).run(0.11 * TURNING, 6.0) is not None


def test_a_pause_starts_the_comparison_over():
    world = World(0.0)
    assert world.run(FORWARD, 1.9) is None
    world.now += 3.1
    assert world.run(FORWARD, 6.0) == pytest.approx(2.0)
    world = World(0.0)
    assert world.run(FORWARD, 1.9) is None
    world.now += 2.9  # too short
    assert world.run(FORWARD, 6.0) < 1.0
    world = World(0.0)
    assert world.run(FORWARD, 1.9) is None
    world.now -= 1.0  # the clock was set back
    assert world.run(FORWARD, 6.0) == pytest.approx(2.0)


def test_a_simulated_clock_that_stands_still_for_a_period_changes_nothing():
    world, problems = World(0.0), []
    for _ in range(60):
        for _ in range(2):  # a clock of 10 Hz and a control loop of 20
            world.step(FORWARD)
            world.now -= PERIOD
            problems.append(bool(world.effect.problem))
        world.now += 2 * PERIOD
    assert any(problems)


def test_an_arm_that_waits_for_every_chunk_is_told_as_well():
    world, moved = World(0.0), 0.0
    while not world.effect.problem:
        world.run(FORWARD, 0.8)
        world.now += 1.5
        moved += 0.8
        assert moved < 3.0
    obeys = World(1.0)
    for _ in range(8):
        assert obeys.run(FORWARD, 0.8) is None
        obeys.now += 1.5


def test_the_problem_ends_when_the_arm_obeys_or_somebody_says_so():
    world = World(0.0)
    world.run(FORWARD, 3.0)
    world.share = 1.0
    for _ in range(4):  # a block
        world.step(0.01 * FORWARD)
    assert world.effect.problem  # nothing that it obeys was asked for
    for _ in range(40):
        world.step(FORWARD)
    assert world.effect.problem == ""
    world = World(0.0)
    world.run(FORWARD, 3.0)
    assert world.effect.problem
    world.effect.clear()
    assert world.effect.problem == "" and world.run(FORWARD, 6.0) == pytest.approx(2.0)


def test_the_joint_that_does_not_obey_is_named():
    effect, joints = MotionEffect(), np.zeros(3)
    step = np.array([0.01, 0.01, 0.0])
    for tick in range(60):
        effect.of_joints(tick * PERIOD, step, joints, ("a", "b", "c"))
        joints = joints + step * [1, 0, 1]
    assert effect.problem.startswith("joint b was commanded 0.40 rad in 2 s and measured 0.00")
    assert effect.problem and joints[2] == 0  # c was not asked to move


def test_an_arm_that_has_just_begun_to_move_is_not_judged_by_the_time_before():
    world = World()
    assert world.run(0 * FORWARD, 3.0) is None
    assert world.run(3 * FORWARD, 3.0) is None


@pytest.mark.parametrize("turns", [True, False])
def test_a_joint_that_turns_without_end_obeys_across_half_a_turn(turns):
    effect, told = MotionEffect(), ""
    for tick, position in enumerate(np.arange(2.0, 6.0, 0.01)):
        wrapped = np.array([(position + np.pi) % (2 * np.pi) - np.pi])
        effect.of_joints(tick * 0.02, np.array([0.01]), wrapped, ["a"], np.array([turns]))
        told = told or effect.problem
    assert bool(told) != turns
