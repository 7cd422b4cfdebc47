# SPDX-License-Identifier: Apache-2.0
"""What lies exactly on a limit is allowed, and the next number beyond is not. All numbers here are exact in binary."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

from specprune_ros.control.action_space import ActionSpace, ControllerConfig
from specprune_ros.control.adapters import TargetPose
from specprune_ros.control.arm import Arm, Motion
from specprune_ros.control.cartesian_limiter import CartesianLimiter
from specprune_ros.control.command import Command, Hold, HoldReason, Refusal
from specprune_ros.control.executor import LARGEST, ChunkExecutor, ExecutorConfig
from specprune_ros.control.joint_limiter import NEARLY_A_TURN, JointLimiter
from specprune_ros.control.limits import LimitsConfig
from specprune_ros.control.plan import Plan
from specprune_ros.control.replan import ReplanConfig, Replanner, ReplanReason
from specprune_ros.control.run import Outcome, Run, RunConfig, RunGoal, Tick
from specprune_ros.control.watchdog import CLOCK_TOLERANCE, Watchdog
from specprune_ros.errors import ConfigError
from specprune_ros.pose import IDENTITY, Pose

PERIOD = 1 / 16
SECOND = 1_000_000_000


def above(number):
    return math.nextafter(number, math.inf)


def below(number):
    return math.nextafter(number, -math.inf)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_wall_of_the_workspace_may_be_reached(axis, sign):
    limits = LimitsConfig(
        workspace_min=(-0.25,) * 3,
        workspace_max=(0.25,) * 3,
        max_speed=5.0,
        max_acceleration=100.0,
        max_jerk=1e5,
        on_violation="hold",
    )
    wanted = np.zeros(6)
    wanted[axis] = sign
    place = np.zeros(3)
    place[axis] = sign * 0.1875
    assert not CartesianLimiter(limits, PERIOD).apply(wanted, place).hold
    wanted[axis] = sign * above(1.0)
    assert CartesianLimiter(limits, PERIOD).apply(wanted, place).hit == ("workspace",)
    wanted[axis] = 0.0  # standing outside is not moving out
    place[axis] = sign
    assert not CartesianLimiter(limits, PERIOD).apply(wanted, place).hold


def submitted(stamp, now, action=0.5, dt=PERIOD, since=-math.inf, steps=8, **config):
    made = ChunkExecutor(7, PERIOD, config=ExecutorConfig(**config))
    made.enable(since)
    return made.submit(np.full((steps, 7), action), stamp, dt, now).refusal


def test_chunks_on_the_limits():
    assert submitted(1.0, 1.0, action=below(LARGEST)) is None
    assert submitted(1.0, 1.0, action=LARGEST) == submitted(1.0, 1.0, action=-LARGEST) == Refusal.NOT_FINITE
    assert submitted(1.0, 1.0, dt=0.001) is None and submitted(1.0, 1.0, dt=1.0) is None
    assert submitted(1.0, 1.0, dt=below(0.001)) == submitted(1.0, 1.0, dt=above(1.0)) == Refusal.BAD_TIME
    assert submitted(CLOCK_TOLERANCE, 0.0) is None
    assert submitted(above(CLOCK_TOLERANCE), 0.0) == Refusal.FUTURE
    assert submitted(1.0, 1.0, since=1.0) is None and submitted(1.0, 1.0, since=above(1.0)) == Refusal.BEFORE_ENABLE
    assert submitted(1.0, 1.25, max_observation_age=0.25) is None
    assert submitted(1.0, above(1.25), max_observation_age=0.25) == Refusal.TOO_OLD
    assert submitted(1.0, 1.5 - PERIOD) is None and submitted(1.0, 1.5) == Refusal.EXPIRED
    assert submitted(1.0, 1.0, steps=1) is None


def test_a_clock_may_tremble():
    made = ChunkExecutor(7, PERIOD)
    made.step(10.0)
    assert made.step(10.0 - CLOCK_TOLERANCE).reason == HoldReason.DISABLED
    made = ChunkExecutor(7, PERIOD)
    made.step(10.0)
    assert made.step(below(10.0 - CLOCK_TOLERANCE)).reason == HoldReason.CLOCK_JUMPED
    made = ChunkExecutor(7, PERIOD)
    made.step(10.0)
    made.step(9.95)
    assert made.step(9.88).reason == HoldReason.CLOCK_JUMPED  # compared with the latest time


def test_the_first_and_the_last_step():
    made = ChunkExecutor(7, PERIOD, config=ExecutorConfig(blend_steps=0))
    made.enable()
    made.submit(np.repeat(np.arange(4.0)[:, None], 7, axis=1), 1.0, PERIOD, 1.0)
    assert made.step(1.0).index == 0
    last = made.step(1.0 + 3 * PERIOD)
    assert (last.index, last.remaining, last.stamp, last.dt) == (3, PERIOD, 1.0, PERIOD)
    assert made.step(1.0 + 4 * PERIOD).reason == HoldReason.CHUNK_FINISHED


def test_inputs_as_old_or_as_far_ahead_as_allowed():
    watchdog = Watchdog({"tf": 0.25})
    watchdog.feed("tf", 1.0)
    assert watchdog.stale(1.25) is None and watchdog.stale(above(1.25)) is not None
    watchdog.feed("tf", 2.0)
    assert watchdog.stale(1.75) is None and "in the future" in watchdog.stale(below(1.75))
    watchdog = Watchdog({"tf": 0.05})  # an age limit below what clocks may differ
    watchdog.feed("tf", CLOCK_TOLERANCE)
    assert watchdog.stale(0.0) is None


@pytest.mark.parametrize(
    ("remaining", "deviation", "angle", "reason"),
    [
        (0.75, 0.0, 0.0, ReplanReason.CHUNK_END),
        (above(0.75), 0.25, 0.5, None),
        (1.0, above(0.25), 0.0, ReplanReason.DEVIATION),
        (1.0, 0.0, above(0.5), ReplanReason.DEVIATION),
    ],
)
def test_when_the_next_chunk_is_due(remaining, deviation, angle, reason):
    config = ReplanConfig(when="chunk_end", margin=0.25, max_deviation=0.25, max_deviation_angle=0.5)
    command = Command(np.zeros(7), PERIOD, 0, 0.0, remaining, Plan(np.zeros((1, 7)), 0.0, PERIOD))
    motion = Motion(np.zeros(6), None, None, np.zeros(1), (), deviation, angle, command)
    assert Replanner(config).due(motion, "coarse", 0.5) == reason


def run_of(config=None, **goal):
    return Run(RunGoal(**goal), config or RunConfig(), 0)


def ended(run, now, result=None, **fields):
    ending = run.update(Tick(round(now * SECOND), result or SimpleNamespace(), **fields))
    return ending and ending.outcome


def at(x):
    return Pose(np.array([x, 0.0, 0.0]), IDENTITY.quaternion)


def test_the_end_of_a_run():
    run = run_of(time_limit=1.0)
    assert ended(run, 1 - 1e-9) is None and run.elapsed == pytest.approx(1 - 1e-9)
    assert ended(run, 1.0) == Outcome.TIMED_OUT
    held = Hold(HoldReason.POSE_UNKNOWN)
    run = run_of(RunConfig(longest_hold=1.0))
    assert [ended(run, now, held) for now in (0.5, 1.5, 1.5 + 1e-9)] == [None, None, Outcome.HELD]
    run = run_of()
    assert ended(run, 0.5) is None and ended(run, 0.5) is None  # the clock may stand still
    assert ended(run, 0.5 - 1e-9) == Outcome.CLOCK_JUMP


def test_regions_and_rest_hold_their_edges():
    run = run_of(region_pose=at(0.5), region_distance=0.25)
    assert ended(run, 0.1, pose=at(above(0.75))) is None and ended(run, 0.2, pose=at(0.75)) == Outcome.SUCCEEDED
    run = run_of(region_joints=(0.5,), region_angle=0.25)
    assert ended(run, 0.1, joints=np.array([above(0.75)])) is None
    assert ended(run, 0.2, joints=np.array([0.25])) == Outcome.SUCCEEDED
    run = run_of(RunConfig(rest_distance=0.25, rest_angle=0.25), until_rest=1.0)
    opened = np.array([0.5])  # half open counts as open
    for now, x in ((0.0, 0.0), (0.5, 1.0), (1.0, 1.25)):
        assert ended(run, now, pose=at(x), openings=opened) is None
    assert ended(run, 1.5, pose=at(1.25), openings=np.array([below(0.5)])) is None
    assert ended(run, 1.5, pose=at(1.25), openings=opened) == Outcome.SUCCEEDED
    run = run_of(RunConfig(rest_angle=0.25), until_rest=1.0)
    for now, angle in ((0.0, 0.0), (0.5, 1.0), (1.0, 1.25)):
        assert ended(run, now, joints=np.array([angle]), openings=opened) is None
    assert ended(run, 1.5, joints=np.array([1.25]), openings=opened) == Outcome.SUCCEEDED


def test_where_the_arm_is_unknown_it_does_not_rest():
    run = run_of(until_rest=1.0)
    opened = np.ones(1)
    assert [ended(run, now, pose=at(x), openings=opened) for now, x in ((0.0, 0.0), (0.5, 1.0))] == [None, None]
    assert ended(run, 1.4, pose=at(1.0), openings=opened) is None
    assert ended(run, 1.5, openings=opened) is None  # unknown: the wait starts over
    assert ended(run, 2.4, pose=at(1.0), openings=opened) is None
    assert ended(run, 2.5, pose=at(1.0), openings=opened) == Outcome.SUCCEEDED


def test_path_of_joints_and_poses():
    run = run_of()
    for k, angle in enumerate((0.0, 0.5, 0.5 + 0.001, 0.5 + 0.003, 0.25)):
        run.update(Tick(k, SimpleNamespace(), joints=np.array([angle, 0.1 * k])))
    assert run.path.turned == pytest.approx(0.5 + 0.003 + 0.253)
    run = run_of()
    for k, x in enumerate((0.0, 0.5, 0.5005, 0.502, 0.25)):
        run.update(Tick(k, SimpleNamespace(), pose=at(x)))
    assert run.path.distance == pytest.approx(0.5 + 0.002 + 0.252) and run.path.turned == 0.0


def test_goals_at_zero_and_what_is_open_ended():
    assert RunGoal().open_ended and RunGoal(time_limit=3.0).open_ended
    for goal in ({"until_success": True}, {"until_rest": 1.0}, {"region_joints": (0.0,), "region_angle": 0.1}):
        assert not RunGoal(**goal).open_ended
    assert not RunGoal(region_pose=IDENTITY, region_distance=0.1).open_ended
    for length, good in ((1.009, True), (1.011, False), (0.991, True), (0.989, False)):
        pose = Pose(np.zeros(3), length * IDENTITY.quaternion)
        if good:
            RunGoal(region_pose=pose, region_distance=0.1)
        else:
            with pytest.raises(ConfigError, match="region_pose"):
                RunGoal(region_pose=pose, region_distance=0.1)


def test_a_joint_may_be_where_it_was_told_to_be_with_what_it_needs_to_stop():
    """1.5 rad/s with 10 rad/s^2: 0.1125 rad, a tick of 1/16 s and a measurement 0.05 s late: 0.28125 rad."""
    limiter = JointLimiter(LimitsConfig(), PERIOD, max_lead=0.5)
    limiter.hold(np.zeros(2))
    assert limiter.doubt(np.zeros(2), np.array([0.2812, -0.2812])) is None
    assert limiter.doubt(np.zeros(2), np.array([0.0, -0.2813])).joint == 1
    limiter.apply(np.zeros(2), np.zeros(2))  # it moves: the lead counts as well
    assert limiter.doubt(np.zeros(2), np.array([0.7812, 0.0])) is None
    assert limiter.doubt(np.zeros(2), np.array([0.7813, 0.0])).joint == 0
    limiter.forget()
    assert limiter.doubt(np.zeros(2), np.array([3.0, 0.0])) is None


@pytest.mark.parametrize("sign", [1, -1])
def test_nearly_a_turn_is_a_joint_that_nobody_called_continuous(sign):
    limiter, turn = JointLimiter(LimitsConfig(joint_min=(-9.0,), joint_max=(9.0,)), PERIOD), 2 * math.pi
    for gap, doubtful in ((turn - NEARLY_A_TURN - 0.01, False), (turn - NEARLY_A_TURN + 0.01, True)):
        assert (limiter.doubt(np.array([0.0, sign * gap]), np.zeros(2)) is not None) == doubtful
    for gap, far in (
        (turn + NEARLY_A_TURN - 0.01, "nearly a full turn"),
        (turn + NEARLY_A_TURN + 0.01, "more than a t"),
    ):
        assert far in limiter.doubt(np.array([sign * gap, 0.0]), np.zeros(2)).reason
    assert limiter.doubt(np.array([0.0, sign * turn]), np.zeros(2)).joint == 1
    limiter.continuous = np.array([False, True])
    assert limiter.doubt(np.array([0.0, sign * turn]), np.zeros(2)) is None


def test_a_target_leads_as_far_as_it_may():
    target = TargetPose(ControllerConfig(rate=16.0, max_lead=0.0625, max_lead_angle=0.25))
    assert target.advance(np.array([1.0, 0, 0, 0, 0, 4.0]), IDENTITY, LimitsConfig()).position[0] == 0.0625
    assert target.advance(np.array([1.0, 0, 0, 0, 0, 4.0]), IDENTITY, LimitsConfig()).position[0] == 0.0625


# Grippers


def test_a_proportional_gripper_stays_between_closed_and_open():
    space = ActionSpace(ControllerConfig(gripper_binary=False), 7)
    shares = [space.openings(np.array([0, 0, 0, 0, 0, 0, action]))[0] for action in (-0.5, 0.0, 0.3, 1.0, 1.5)]
    assert shares == [0.0, 0.0, 0.3, 1.0, 1.0]
    backwards = ControllerConfig(gripper_binary=False, gripper_closed_value=1.0, gripper_open_value=-1.0)
    shares = [ActionSpace(backwards, 7).openings(np.array([0.0] * 6 + [action]))[0] for action in (2.0, 0.5, -3.0)]
    assert shares == [0.0, 0.25, 1.0]


@pytest.mark.parametrize(
    ("dimensions", "names", "good"),
    [((6,), ("f",), True), ((5, 6), ("f", "g"), True), ((5, 6), ("f",), False), ((6,), (), False), ((), ("f",), False)],
)
def test_a_gripper_trajectory_needs_as_many_joints_for_each(dimensions, names, good):
    values = {"gripper_output": "trajectory", "gripper_dimensions": dimensions, "gripper_joint_names": names}
    if good:
        ControllerConfig(**values)
    else:
        with pytest.raises(ConfigError, match="gripper_joint_names"):
            ControllerConfig(**values)


def test_an_action_drives_one_gripper():
    assert ControllerConfig(gripper_output="action").gripper_dimensions == (6,)
    with pytest.raises(ConfigError, match="drives one gripper, and there are 2"):
        ControllerConfig(gripper_output="action", gripper_dimensions=(6, 13))


def test_a_trajectory_point_may_come_exactly_a_period_later():
    joints = {"output": "joint_trajectory", "action_space": "absolute_joint", "joint_names": ("a",)}
    assert ControllerConfig(**joints, rate=16.0, trajectory_time=PERIOD).period == PERIOD
    with pytest.raises(ConfigError, match="shorter than a control period"):
        ControllerConfig(**joints, rate=16.0, trajectory_time=below(PERIOD))
    ControllerConfig(rate=16.0, trajectory_time=0.01)  # nothing is sent as a trajectory
    with pytest.raises(ConfigError, match=r"b is not in controller\.joint_names"):
        ControllerConfig(**joints, continuous_joints=("a", "b"))


# Joints that turn without end


def circular(*angles):
    """What an executor makes of a chunk of one endless joint, after one at 6.0 rad."""
    made = ChunkExecutor(2, PERIOD, delta=False, discrete=(1,), config=ExecutorConfig(blend_steps=0))
    made.circular = [0]
    made.enable()
    made.submit(np.array([[6.0, 1.0]] * 8), 0.0, PERIOD, 0.0)
    made.submit(np.array([[angle, 1.0] for angle in angles]), PERIOD, PERIOD, PERIOD)
    return [made.step(PERIOD + k * PERIOD).action[0] for k in range(len(angles))]


def test_a_new_chunk_goes_on_in_the_turn_of_the_running_one():
    turn = 2 * math.pi
    assert circular(-0.3, -0.1, 0.1) == pytest.approx([turn - 0.3, turn - 0.1, turn + 0.1])
    assert circular(6.1, -0.1, 0.1) == pytest.approx([6.1, turn - 0.1, turn + 0.1])
    assert circular(3.0, -3.0, 3.0) == pytest.approx([3.0, turn - 3.0, 3.0])
    # The first step chooses the turn, whatever the later ones do.
    assert circular(2.9, 0.1) == pytest.approx([2.9, 0.1])
    assert circular(2.8, 5.9) == pytest.approx([turn + 2.8, turn + 5.9])


def test_only_joints_of_a_whole_turn_turn_without_end():
    config = ControllerConfig(
        action_space="absolute_joint", joint_names=("a", "b", "c"), gripper_dimensions=(1,), gripper_binary=True
    )
    limits = LimitsConfig(joint_min=(-math.pi, -1.0, -4.0), joint_max=(math.pi, 1.0, 4.0))
    arm = Arm(4, config, limits, ExecutorConfig())
    assert arm.continuous.tolist() == [False] * 3
    arm.set_continuous({"a", "b", "stranger"})
    assert arm.continuous.tolist() == [True, False, False] and arm.executor.circular == [0]
    arm.set_continuous({"c"})
    assert arm.continuous.tolist() == [False, False, True] and arm.executor.circular == [3]  # 1 is the gripper


# A hair more than a limit is limited, and said


LOOSE = {
    **{"max_speed": 5.0, "max_acceleration": 100.0, "max_jerk": 1e5},
    **{"max_angular_speed": 20.0, "max_angular_acceleration": 1000.0, "max_angular_jerk": 1e5},
}


@pytest.mark.parametrize(
    ("limits", "wanted", "name"),
    [
        ({"max_speed": 0.5}, [0.5, 0, 0, 0, 0, 0], "speed"),
        ({"max_speed": 0.5}, [0.3, -0.4, 0, 0, 0, 0], "speed"),
        ({"max_angular_speed": 0.5}, [0, 0, 0, 0, 0.5, 0], "angular_speed"),
        ({"max_acceleration": 2.0}, [0, 0.125, 0, 0, 0, 0], "acceleration"),
        ({"max_angular_acceleration": 2.0}, [0, 0, 0, 0, 0, 0.125], "angular_acceleration"),
        ({"max_jerk": 32.0}, [0, 0, 0.125, 0, 0, 0], "jerk"),
        ({"max_angular_jerk": 32.0}, [0, 0, 0, 0.125, 0, 0], "angular_jerk"),
    ],
)
def test_twists_at_and_above_a_limit(limits, wanted, name):
    limited = CartesianLimiter(LimitsConfig(**{**LOOSE, **limits}), PERIOD).apply(np.array(wanted), np.zeros(3))
    assert limited.hit == () and limited.value == pytest.approx(wanted, rel=1e-8)
    above = CartesianLimiter(LimitsConfig(**{**LOOSE, **limits}), PERIOD).apply(1.001 * np.array(wanted), np.zeros(3))
    assert above.hit == (name,) and np.linalg.norm(above.value) <= np.linalg.norm(wanted) * (1 + 1e-8)
    assert above.value == pytest.approx(wanted, rel=0.8)  # as fast as allowed, or nearly


@pytest.mark.parametrize(
    ("limits", "target", "name"),
    [
        ({"max_joint_speed": (1.0,)}, 0.0625, "joint_speed"),
        ({"max_joint_acceleration": (16.0,)}, 0.0625, "joint_acceleration"),
    ],
)
def test_joints_at_and_above_a_limit(limits, target, name):
    loose = {"max_joint_speed": (100.0,), "max_joint_acceleration": (1000.0,), **limits}
    limited = JointLimiter(LimitsConfig(**loose), PERIOD).apply(np.array([target]), np.zeros(1))
    assert limited.hit == () and limited.value == pytest.approx([target])
    above = JointLimiter(LimitsConfig(**loose), PERIOD).apply(np.array([1.001 * target]), np.zeros(1))
    assert name in above.hit and abs(above.value[0]) <= abs(target) + 1e-12


def test_the_end_of_a_joints_range_may_be_asked_for():
    limits = LimitsConfig(joint_min=(-0.5,), joint_max=(0.25,), on_violation="hold", max_joint_speed=(100.0,))
    for target, held in ((0.25, False), (above(0.25), True), (-0.5, False), (below(-0.5), True)):
        assert JointLimiter(limits, PERIOD).apply(np.array([target]), np.array([target])).hold == held


def test_a_joint_leads_the_arm_as_far_as_it_may():
    limits = LimitsConfig(max_joint_speed=(1.0,), max_joint_acceleration=(1000.0,))
    limiter = JointLimiter(limits, PERIOD, max_lead=0.25)
    results = [limiter.apply(np.array([1.0]), np.zeros(1)) for _ in range(20)]  # the arm is stuck
    assert results[-1].value == pytest.approx([0.25], abs=1e-3) and "joint_lead" in results[-1].hit
    assert max(result.value[0] for result in results) <= 0.25 + 1e-9 and results[0].hit == ("joint_speed",)
    limiter.max_lead = np.inf
    assert limiter.apply(np.array([1.0]), np.zeros(1)).value[0] > 0.3


def test_what_an_arm_needs_to_know():
    arm = Arm(7, ControllerConfig(rate=16.0, output="twist"), LimitsConfig(**LOOSE), ExecutorConfig())
    arm.enable()
    arm.executor.submit(np.full((8, 7), 0.01), 0.0, PERIOD, 0.0)
    quaternions = (np.array([np.nan, 0, 0, 1]), np.array([0, 0, 0, np.inf]))
    for k, quaternion in enumerate(quaternions):
        held = arm.tick(0.001 * k, Pose(np.zeros(3), quaternion), problem="TF is gone")
        assert held.reason == HoldReason.POSE_UNKNOWN and held.detail == "the end effector's pose is not finite"
    assert arm.tick(0.01, None, problem="TF is gone").detail == "TF is gone"
    assert arm.tick(0.02, None).detail == "the end effector's pose is missing"
    assert isinstance(arm.tick(0.03, IDENTITY), Motion) and arm.stop is None


def test_an_arm_that_does_not_obey_holds_when_it_is_asked_to():
    for drives, choice, held in ((True, "hold", True), (True, "warn", False), (False, "hold", False)):
        arm = Arm(7, ControllerConfig(rate=16.0, on_no_effect=choice), LimitsConfig(**LOOSE), ExecutorConfig())
        arm.enable()
        arm.drives = drives
        for tick in range(50):
            now = tick * PERIOD
            if tick % 8 == 0:
                arm.executor.submit(np.full((10, 7), 0.1), now, PERIOD, now)
            result = arm.tick(now, IDENTITY)
        assert (isinstance(result, Hold) and result.reason == HoldReason.NO_EFFECT) == held
        assert bool(arm.effect) == drives
        arm.enable()
        assert arm.effect == ""


def test_live_fields_reach_the_joints():
    joints = {"action_space": "absolute_joint", "joint_names": ("a",), "gripper_dimensions": (1,)}
    config = ControllerConfig(output="joint_trajectory", trajectory="point", rate=16.0, **joints)
    limits = LimitsConfig(max_joint_speed=(1.0,), max_joint_acceleration=(1000.0,))
    arm = Arm(2, config, limits, ExecutorConfig())
    arm.enable()
    arm.executor.submit(np.array([[1.0, 1.0]] * 16), 0.0, PERIOD, 0.0)
    arm.configure(dataclasses.replace(config, max_lead_angle=0.125))
    for tick in range(10):
        result = arm.tick(tick * PERIOD, joints=np.zeros(1))
    assert result.joints == pytest.approx([0.125], abs=1e-3) and "joint_lead" in result.limits_hit
