# SPDX-License-Identifier: Apache-2.0
"""What ends a run, without ROS."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from specprune_ros.control.command import Hold, HoldReason
from specprune_ros.control.run import Outcome, Path, Run, RunConfig, RunGoal, Tick
from specprune_ros.errors import ConfigError
from specprune_ros.pose import Pose

START, PERIOD = 5_000_000_000, 50_000_000
MOVING = SimpleNamespace()  # anything that is not a Hold
STALE = Hold(HoldReason.STALE_INPUT, "image_wrist: 0.7 s old")
OPEN, CLOSED = np.ones(1), np.zeros(1)


def pose(x=0.0, yaw=0.0):
    return Pose(np.array([x, 0.0, 0.0]), Rotation.from_rotvec([0, 0, yaw]).as_quat())


def run_of(config=None, continuous=False, **goal):
    return Run(RunGoal(**goal), config or RunConfig(), START, continuous)


class Clock:
    """Drives a run, a period at a time."""

    def __init__(self, run):
        self.run, self.now = run, START

    def tick(self, result=MOVING, **fields):
        self.now += PERIOD
        return self.run.update(Tick(self.now, result, **fields))

    def ticks(self, count, result=MOVING, **fields):
        """The ending, and after how many of `count` ticks."""
        for index in range(count):
            ending = self.tick(result, **fields)
            if ending is not None:
                return ending, index + 1
        return None, count


def test_without_an_end_it_lasts():
    assert Clock(run_of()).ticks(500, pose=pose(), openings=OPEN)[0] is None


def test_time_is_over_after_exactly_the_limit():
    ending, count = Clock(run_of(time_limit=1.0)).ticks(100)
    assert ending.outcome == Outcome.TIMED_OUT and count == 20 and ending.message == "1 s are over"


def test_success_counts_only_when_the_goal_asks_for_it():
    for asked in (True, False):
        clock = Clock(run_of(until_success=asked))
        clock.tick()
        clock.run.success = True
        ending = clock.tick()
        assert (ending is not None and ending.outcome == Outcome.SUCCEEDED) == asked


def test_success_has_to_be_said():
    assert Clock(run_of(until_success=True)).ticks(3)[0] is None


def test_a_run_without_joints_has_not_turned():
    path = Path()
    for _ in range(2):
        path.add(None, np.zeros(0))
    assert (path.distance, path.turned) == (0.0, 0.0)


def test_seconds_are_exact():
    clock = Clock(run_of())
    clock.ticks(20, person="~/takeover")
    assert (clock.run.elapsed, clock.run.taken_over) == pytest.approx((1.0, 1.0), rel=1e-12)


def test_rest_counts_after_the_arm_has_moved():
    clock = Clock(run_of(until_rest=0.5))
    assert clock.ticks(100, pose=pose(), openings=OPEN)[0] is None  # it has not moved yet
    clock.tick(pose=pose(0.1), openings=OPEN)
    ending, count = clock.ticks(100, pose=pose(0.1), openings=OPEN)
    assert ending.outcome == Outcome.SUCCEEDED and count == 10


def test_rest_needs_an_open_gripper():
    clock = Clock(run_of(until_rest=0.5))
    clock.tick(pose=pose(), openings=CLOSED)
    assert clock.ticks(100, pose=pose(0.1), openings=CLOSED)[0] is None
    assert clock.tick(pose=pose(0.1), openings=np.array([1.0, 0.0])) is None  # one of two
    assert clock.tick(pose=pose(0.1), openings=None) is None
    assert clock.tick(pose=pose(0.1), openings=OPEN).outcome == Outcome.SUCCEEDED


def test_rest_that_nobody_measures_does_not_count():
    clock = Clock(run_of(until_rest=0.5))
    clock.tick(pose=pose(), openings=OPEN)
    clock.tick(pose=pose(0.1), openings=OPEN)
    assert clock.ticks(100, openings=OPEN)[0] is None
    assert clock.ticks(5, pose=pose(0.1), openings=OPEN)[0] is None
    ending, count = clock.ticks(100, joints=np.zeros(2), openings=OPEN)  # nothing before to compare them with
    assert ending.outcome == Outcome.SUCCEEDED and count == 11


def test_slow_motion_is_no_rest():
    clock = Clock(run_of(until_rest=0.5))
    for step in range(200):  # 2 cm/s
        assert clock.tick(pose=pose(0.001 * step), openings=OPEN) is None


def test_noise_is_rest():
    rng = np.random.default_rng(0)
    clock = Clock(run_of(until_rest=0.5))
    clock.tick(pose=pose(), openings=OPEN)
    endings = [clock.tick(pose=pose(0.1 + rng.uniform(-0.002, 0.002)), openings=OPEN) for _ in range(20)]
    assert any(endings)


def test_a_fault_interrupts_the_rest_and_a_pause_between_chunks_only_delays_it():
    for hold, expected in ((STALE, 10), (Hold(HoldReason.CHUNK_FINISHED), 5)):
        clock = Clock(run_of(until_rest=0.5))
        clock.tick(pose=pose(), openings=OPEN)
        clock.tick(pose=pose(0.1), openings=OPEN)
        assert clock.ticks(5, pose=pose(0.1), openings=OPEN)[0] is None
        assert clock.ticks(20, hold, pose=pose(0.1), openings=OPEN)[0] is None
        ending, count = clock.ticks(100, pose=pose(0.1), openings=OPEN)
        assert ending.outcome == Outcome.SUCCEEDED and count == expected


def test_region_of_the_end_effector():
    clock = Clock(run_of(region_pose=pose(0.5), region_distance=0.02))
    assert clock.tick(pose=pose(0.479)) is None
    assert clock.tick(STALE, pose=pose(0.49)) is None
    assert clock.tick(pose=pose(0.49, yaw=3.0)).outcome == Outcome.SUCCEEDED
    clock = Clock(run_of(region_pose=pose(0.5), region_distance=0.02, region_angle=0.1))
    assert clock.tick(pose=pose(0.5, yaw=0.11)) is None
    assert clock.tick(pose=pose(0.5, yaw=0.09)).outcome == Outcome.SUCCEEDED


def test_region_of_joints_with_one_that_turns_without_end():
    continuous = np.array([False, True])
    clock = Clock(run_of(continuous=continuous, region_joints=(0.3, 3.1), region_angle=0.1))
    assert clock.tick(joints=np.array([0.0, 3.1])) is None
    assert clock.tick(joints=np.array([0.3, 2.9])) is None
    assert clock.tick(joints=np.array([0.25, -3.1])).outcome == Outcome.SUCCEEDED  # 3.183 rad
    clock = Clock(run_of(region_joints=(0.3, 3.1), region_angle=0.1))
    assert clock.tick(joints=np.array([0.25, -3.1])) is None


def test_a_hold_may_last_only_so_long():
    clock = Clock(run_of(RunConfig(longest_hold=1.0)))
    assert clock.ticks(20, STALE)[0] is None
    clock.tick()
    ending, count = clock.ticks(100, STALE)
    assert ending.outcome == Outcome.HELD and count == 22
    assert "stale_input: image_wrist: 0.7 s old" in ending.message and "1.05 s" in ending.message
    assert dict(clock.run.holds) == {"stale_input": 2}


def test_waiting_for_the_first_chunk_is_held_too_but_not_counted():
    clock = Clock(run_of(RunConfig(longest_hold=1.0)))
    ending, _ = clock.ticks(100, Hold(HoldReason.NO_CHUNK))
    assert ending.outcome == Outcome.HELD and "no_chunk" in ending.message and not clock.run.holds


def test_receiver_switch_and_clock():
    assert Clock(run_of()).tick(receiver="/arm/twist").message == "nobody listens to /arm/twist"
    assert Clock(run_of()).tick(receiver="/arm/twist").outcome == Outcome.RECEIVER_LOST
    assert Clock(run_of()).tick(Hold(HoldReason.DISABLED), enabled=False).outcome == Outcome.DISABLED
    clock = Clock(run_of())
    clock.tick()
    clock.now -= 2 * PERIOD
    assert clock.tick().outcome == Outcome.CLOCK_JUMP


def test_distance_is_of_motion_and_not_of_noise():
    rng = np.random.default_rng(0)
    clock = Clock(run_of())
    for _ in range(1000):
        clock.tick(pose=pose(rng.uniform(-0.0004, 0.0004), yaw=rng.uniform(-0.0009, 0.0009)))
    assert clock.run.path.distance == 0 and clock.run.path.turned == 0
    for step in range(101):
        clock.tick(pose=pose(0.01 * step, yaw=0.005 * step))
    assert clock.run.path.distance == pytest.approx(1.0, abs=0.001)
    assert clock.run.path.turned == pytest.approx(0.5, abs=0.001)


def test_turned_is_of_the_joint_that_turned_most_and_knows_the_circle():
    clock = Clock(run_of(continuous=np.array([False, True])))
    for step in range(101):
        angle = (3.0 + 0.01 * step + math.pi) % (2 * math.pi) - math.pi
        clock.tick(joints=np.array([0.005 * step, angle]))
    assert clock.run.path.turned == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        ({"time_limit": -1.0}, "time_limit = -1"),
        ({"until_rest": math.nan}, "until_rest = nan"),
        ({"region_distance": math.inf}, "region_distance"),
        ({"region_joints": (math.nan,), "region_angle": 0.1}, "region_joints"),
        ({"region_joints": (0.1,)}, "region_angle"),
        ({"region_pose": Pose(np.zeros(3), np.zeros(4)), "region_distance": 0.1}, "region_pose"),
    ],
)
def test_goals_that_mean_nothing(goal, words):
    with pytest.raises(ConfigError, match=words):
        RunGoal(**goal)


def test_a_person_who_takes_over_is_waited_for():
    clock = Clock(run_of(RunConfig(longest_hold=0.5), time_limit=10.0))
    taken = Hold(HoldReason.TAKEN_OVER)
    assert clock.ticks(100, taken, person="~/takeover")[0] is None  # 5 s, far more than a hold may last
    assert clock.run.taken_over == pytest.approx(5.0) and clock.run.holds == {"taken_over": 1}
    assert clock.ticks(9, Hold(HoldReason.NO_CHUNK))[0] is None  # and what comes after counts from the release
    ending, count = clock.ticks(100, Hold(HoldReason.NO_CHUNK))
    assert ending.outcome == Outcome.HELD and count < 5


def test_a_person_who_takes_over_ends_it_when_configured_so():
    clock = Clock(run_of(RunConfig(on_takeover="end")))
    ending = clock.tick(Hold(HoldReason.TAKEN_OVER), person="/spacenav")
    assert ending.outcome == Outcome.TAKEN_OVER and "/spacenav" in ending.message


def test_what_a_person_does_is_no_rest_and_no_region_of_the_policy():
    clock = Clock(run_of(until_rest=0.5, region_pose=pose(0.3), region_distance=0.05))
    taken = Hold(HoldReason.TAKEN_OVER)
    for step in range(10):
        assert clock.tick(taken, person="~/takeover", pose=pose(0.03 * step), openings=OPEN) is None
    assert clock.ticks(40, taken, person="~/takeover", pose=pose(0.3), openings=OPEN)[0] is None
    assert clock.tick(pose=pose(0.3), openings=OPEN).outcome == Outcome.SUCCEEDED


def test_success_may_come_while_a_person_is_in_charge():
    clock = Clock(run_of(until_success=True))
    clock.run.success = True
    ending = clock.tick(Hold(HoldReason.TAKEN_OVER), person="~/takeover")
    assert ending.outcome == Outcome.SUCCEEDED
