# SPDX-License-Identifier: Apache-2.0
"""Whole chunks as trajectories: within every limit at every time, joined without a seam, and at rest at the end."""

import dataclasses
import re

import numpy as np
import pytest
from benchmark_modules import trajectory_controller as controller
from hypothesis import given, settings
from hypothesis import strategies as st

from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.control.arm import Arm, Motion
from specprune_ros.control.chunk_trajectory import ChunkTrajectory
from specprune_ros.control.command import Hold, HoldReason
from specprune_ros.control.executor import ExecutorConfig
from specprune_ros.control.joint_limiter import JointTarget
from specprune_ros.control.limits import LimitsConfig

PERIOD, STEP, LEAD = 0.02, 0.05, 0.1
LIMITS = LimitsConfig(
    joint_min=(-1.0,), joint_max=(1.0,), max_joint_speed=(1.0,), max_joint_acceleration=(8.0,), gripper_debounce=0.0
)
CONFIG = ControllerConfig(
    output="joint_trajectory",
    rate=1 / PERIOD,
    step_duration=STEP,
    action_space="absolute_joint",
    joint_names=("a", "b"),
    gripper_dimensions=(),
    gripper_output="none",
    trajectory_time=LEAD,
    max_lead_angle=0.3,
)


class Loop:
    """An arm, its controller, and the control loop. `delay`: of the next messages, seconds."""

    def __init__(self, start=(0.0, 0.0), limits=LIMITS, config=CONFIG):
        self.now = 1000.0
        self.arm = Arm(2, config, limits, ExecutorConfig(max_observation_age=10.0))
        self.arm.enable(0.0)
        self.controller = controller.TrajectoryController(np.array(start))
        self.joints = np.array(start)
        self.delay, self.blocked, self.sent = 0.0, False, 0
        self._mail = []
        self.path, self.results = [], []

    def chunk(self, actions):
        receipt = self.arm.executor.submit(np.array(actions, dtype=float), self.now, STEP, self.now)
        assert receipt.accepted, receipt

    def tick(self, measured=None):
        result = self.arm.tick(self.now, joints=self.joints if measured is None else measured)
        self.results.append(result)
        if isinstance(result, Motion) and result.trajectory is not None:
            self.sent += 1
            self._mail.append((self.now + self.delay, result.trajectory))
        return result

    def run(self, seconds, ticks=True):
        """The controller runs at 500 Hz."""
        for k in range(round(seconds / 0.002)):
            if ticks and k % round(PERIOD / 0.002) == 0:
                self.tick()
            for entry in [entry for entry in self._mail if entry[0] <= self.now + 1e-9]:
                self._mail.remove(entry)
                chunk = entry[1]
                knots = [
                    controller.Knot(index * chunk.period, knot.positions, knot.velocities)
                    for index, knot in enumerate(chunk.knots)
                ]
                assert self.controller.receive(self.now, chunk.start, knots)
            told = self.controller.sample(self.now)
            self.path.append(told)
            if not self.blocked:
                self.joints = told.copy()
            self.now += 0.002

    def derivatives(self):
        """Of what the controller asks for: (N, J) rad, rad/s, rad/s^2."""
        positions = np.array(self.path)
        velocities = np.diff(positions, axis=0) / 0.002
        return positions, velocities, np.diff(velocities, axis=0) / 0.002


def within(loop, limits=LIMITS):
    positions, velocities, accelerations = loop.derivatives()
    assert (positions <= limits.joint_max[0] + 1e-9).all() and (positions >= limits.joint_min[0] - 1e-9).all()
    assert np.abs(velocities).max() <= limits.max_joint_speed[0] * (1 + 1e-6)
    assert np.abs(accelerations).max() <= limits.max_joint_acceleration[0] * (1 + 1e-3)


def line(speed, steps=8, start=0.0):
    return np.tile(start + speed * STEP * np.arange(steps)[:, None], (1, 2))


def test_one_trajectory_for_a_chunk_that_ends_at_rest_at_its_last_target():
    loop = Loop()
    loop.chunk(line(0.4))
    loop.run(0.3)
    assert loop.sent == 1
    loop.run(1.0, ticks=False)  # the node died
    np.testing.assert_allclose(loop.joints, line(0.4)[-1], atol=1e-3)
    positions, velocities, _ = loop.derivatives()
    assert not velocities[-1].any() and positions.max() <= line(0.4).max() + 1e-3  # nor did it go past it
    within(loop)


@pytest.mark.parametrize("trajectory", ["chunk", "point"])
def test_a_motion_tells_how_far_the_arm_is_from_the_plan_and_an_arm_that_obeys_is_not_blamed(trajectory):
    loop = Loop(config=ControllerConfig(**{**vars(CONFIG), "trajectory": trajectory}))
    loop.chunk(np.stack([0.2 * STEP * np.arange(60), -0.3 * STEP * np.arange(60)], axis=1))
    for k in range(145):
        where = loop.joints
        motion = loop.tick()
        assert isinstance(motion, Motion) and motion.deviation == 0.0
        gap = np.abs(motion.command.action - where)
        assert motion.deviation_angle == pytest.approx(gap.max(), abs=1e-12)
        assert loop.arm.effect == "" and (k < 30 or not motion.limits_hit)  # it starts from rest
        loop.joints = motion.joints.copy()
        loop.now += PERIOD


@pytest.mark.parametrize("trajectory", ["chunk", "point"])
def test_an_arm_that_does_not_obey_is_told(trajectory):
    config = ControllerConfig(**{**vars(CONFIG), "trajectory": trajectory, "max_lead_angle": 3.0})
    loop = Loop(config=config)
    loop.chunk(np.stack([0.2 * STEP * np.arange(60), np.zeros(60)], axis=1))
    for _ in range(145):
        loop.tick()
        loop.now += PERIOD
    assert re.match(r"joint a was commanded 0\.\d\d rad in 2 s and measured 0\.00", loop.arm.effect)


def test_it_passes_the_last_targets_ever_more_slowly():
    """The pace begins to fall half of the braking time before the last target, and ends half of it after."""
    loop = Loop()
    loop.chunk(line(0.4, 20))  # 0.95 s; braking from the largest speed takes 1/8 s
    loop.run(1.2)
    told = np.array(loop.path)[:, 0] / 0.4  # seconds of the plan
    begin, end, brake = 0.95 - 0.0625, 0.95 + 0.0625, 0.125
    for seconds in (0.8, begin, 0.92, 0.95, 0.98):
        expected = seconds - max(seconds - begin, 0.0) ** 2 / (2 * brake)
        assert told[round(seconds / 0.002)] == pytest.approx(expected, abs=0.004), seconds
    assert told[round(end / 0.002) + 20 :] == pytest.approx(0.95, abs=0.004)


def test_what_is_sent_with_a_new_chunk_begins_with_so_much_of_the_old_one_as_is_on_its_way():
    loop = Loop()
    loop.chunk(line(0.4, 20))
    loop.run(0.3)
    running = loop.arm._trajectory
    now = loop.now + PERIOD / 2
    part, first = running.part(now, LEAD), running.index(now)
    assert part.start == pytest.approx(running.start + first * PERIOD)
    assert part.knots == running.knots[first : first + 2 + round(LEAD / PERIOD)]
    assert now + LEAD <= part.end < now + LEAD + 2 * PERIOD


def test_it_is_on_time():
    """Where the plan is at every time, once it has caught up with the standing start."""
    loop = Loop()
    loop.chunk(line(0.4, 20))
    loop.run(0.85)
    told = np.array(loop.path)[250:400, 0]  # 0.5 to 0.8 s
    np.testing.assert_allclose(told, 0.4 * (0.5 + 0.002 * np.arange(150)), atol=1e-3)


numbers = st.floats(-1.5, 1.5)
chunks = st.lists(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=12), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(chunks=chunks, pause=st.floats(0.02, 0.5), delays=st.lists(st.floats(0.0, 0.03), min_size=5, max_size=5))
def test_every_limit_holds_at_every_time_whatever_the_policy_asks_for_and_however_late_messages_are(
    chunks, pause, delays
):
    loop = Loop()
    for chunk, delay in zip(chunks, delays, strict=False):
        loop.delay = delay
        loop.chunk(chunk)
        loop.run(PERIOD * round(pause / PERIOD))
    loop.run(2.0, ticks=False)  # and at the end it rests
    within(loop)
    assert not np.diff(np.array(loop.path[-50:]), axis=0).any()


def test_a_late_message_changes_nothing():
    """What the controller does before a trajectory comes is what the trajectory says, too."""
    paths = []
    for delay in (0.0, 0.03):
        loop = Loop()
        loop.chunk(line(0.4))
        loop.run(0.2)
        loop.delay = delay
        loop.chunk(line(-0.5, start=0.08))
        loop.run(0.3)
        paths.append(np.array(loop.path))
    np.testing.assert_allclose(paths[0], paths[1], atol=1e-9)


def test_a_changed_limit_counts_at_once():
    loop = Loop()
    loop.chunk(line(0.9, 20))
    loop.run(0.4)
    loop.arm.limits = LimitsConfig(max_joint_speed=(0.2,), max_joint_acceleration=(8.0,))
    loop.run(0.3)
    assert loop.sent == 2
    assert np.abs(loop.derivatives()[1][-50:]).max() <= 0.2 + 1e-6


def test_an_arm_that_is_blocked_is_not_run_away_from():
    loop = Loop()
    loop.chunk(line(0.8, 40))
    loop.run(0.4)
    loop.blocked = True
    loop.run(1.2)
    ahead = np.abs(np.array(loop.path) - loop.joints).max()
    assert 0.2 < ahead <= 0.3 + 1.0 * 3 * PERIOD  # max_lead_angle, and what passes until it is seen
    assert "joint_lead" in loop.results[-1].limits_hit


def test_an_arm_that_is_elsewhere_holds():
    loop = Loop()
    loop.chunk(line(0.4, 20))
    loop.run(0.2)
    held = loop.tick(measured=loop.joints + 0.8)
    assert isinstance(held, Hold) and held.reason == HoldReason.ARM_MOVED
    np.testing.assert_allclose(loop.arm.stop.positions, loop.joints, atol=0.2)  # where it was told to be, nearly


def test_a_target_a_turn_away_is_not_gone_to_even_late_in_the_chunk():
    limits = LimitsConfig(joint_min=(-10.0,), joint_max=(10.0,), max_joint_speed=(1.0,))
    actions = line(0.4, 12)
    actions[8:, 0] += 2 * np.pi
    loop = Loop(limits=limits)
    loop.chunk(actions)
    loop.run(0.5)
    assert loop.results[-1].reason == HoldReason.ARM_MOVED and "full turn" in loop.results[-1].detail
    assert np.array(loop.path)[:, 0].max() < 0.2
    assert isinstance(loop.results[10], Motion)  # it was followed so far


def test_a_violation_holds_when_the_limits_ask_for_it():
    limits = LimitsConfig(joint_max=(0.1,), joint_min=(-1.0,), on_violation="hold", max_joint_acceleration=(8.0,))
    actions = line(0.4, 12)  # leaves the range after 0.25 s
    loop = Loop(limits=limits)
    loop.chunk(actions)
    loop.run(0.5)
    assert isinstance(loop.results[8], Motion)
    assert loop.results[-1].reason == HoldReason.LIMIT
    assert np.array(loop.path).max() <= 0.1 + 1e-9


def test_a_hold_stops_it_at_once():
    loop = Loop()
    loop.chunk(line(0.8, 20))
    loop.run(0.3)
    loop.arm.executor.stop()
    assert loop.tick() == Hold(HoldReason.DISABLED)
    stop = loop.arm.stop
    assert stop is not None and (np.abs(stop.positions - loop.joints) <= 0.1).all()


def test_the_end_of_the_last_chunk_needs_no_word():
    loop = Loop()
    loop.chunk(line(0.4))
    loop.run(0.5)
    assert loop.results[-1].reason == HoldReason.CHUNK_FINISHED and loop.arm.stop is None
    loop.chunk(line(-0.4, start=line(0.4)[-1, 0]))  # and the next one goes on from there
    loop.run(0.4)
    within(loop)


def test_points_as_before():
    loop = Loop(config=ControllerConfig(**{**vars(CONFIG), "trajectory": "point"}))
    loop.chunk(line(0.4))
    result = loop.tick()
    assert isinstance(result, Motion) and result.trajectory is None


@pytest.mark.parametrize("output", ["twist", "pose", "action_chunk"])
def test_nothing_else_is_sent_by_chunks(output):
    assert not ControllerConfig(output=output).whole_chunks


def five_knots():
    """Knots at 10.0, 10.1 .. 10.4 s, with a limit named after each."""
    positions, velocities = (0.0, 0.05, 0.15, 0.25, 0.3), (0.0, 1.0, 1.0, 1.0, 0.0)
    knots = tuple(
        JointTarget(np.array([position]), np.array([velocity]), np.array([0.4 * index]))
        for index, (position, velocity) in enumerate(zip(positions, velocities, strict=True))
    )
    return ChunkTrajectory(None, 10.0, 0.1, knots, tuple((name,) for name in "abcde"))


@pytest.mark.parametrize(
    ("now", "position", "velocity", "wanted"),
    [
        (9.0, 0.0, 0.0, 0.0),
        (10.0, 0.0, 0.0, 0.0),
        (10.05, 0.0125, 0.5, 0.2),
        (10.125, 0.075, 1.0, 0.5),
        (10.375, 0.25 + 0.075 * (1.0 + 0.25) / 2, 0.25, 1.5),
        (10.4, 0.3, 0.0, 1.6),
        (12.0, 0.3, 0.0, 1.6),
    ],
)
def test_between_two_knots_the_velocity_changes_evenly(now, position, velocity, wanted):
    at = five_knots().at(now)
    assert (at.positions[0], at.velocities[0], at.wanted[0]) == pytest.approx((position, velocity, wanted))


@pytest.mark.parametrize(
    ("now", "seconds", "start", "hits"),
    [
        (10.25, 0.1, 10.2, ("c", "d", "e")),
        (10.2, 0.0, 10.1, ("b", "c", "d")),  # nothing leads up to what begins before it is sent
        (10.45, 0.2, 10.4, ("e", None, None, None)),  # it is over, and the arm rests
    ],
)
def test_a_part_of_a_trajectory(now, seconds, start, hits):
    whole = five_knots()
    part = whole.part(now, seconds)
    assert part.start == pytest.approx(start) and part.period == whole.period
    assert part.hits == tuple(() if name is None else (name,) for name in hits)
    last = len(whole.knots) - 1
    assert [knot.positions[0] for knot in part.knots] == [
        whole.knots[last if name is None else "abcde".index(name)].positions[0] for name in hits
    ]


@pytest.mark.parametrize("trajectory", ["chunk", "point"])
def test_limits_that_hold_let_an_arm_at_rest_catch_up_with_a_plan(trajectory):
    """A chunk is stamped at its observation, so that an arm at rest is behind it from the start."""
    limits = dataclasses.replace(LIMITS, on_violation="hold")
    arm = Arm(2, dataclasses.replace(CONFIG, trajectory=trajectory), limits, ExecutorConfig(max_observation_age=10.0))
    arm.enable(0.0)
    joints, results = np.full(2, -0.05), []  # where the arm was at the observation

    def submit(now, jump=0.0):
        line = 0.5 * (now - 0.1 - 1000.0 + STEP * np.arange(16)) + np.where(np.arange(16) > 8, jump, 0.0)
        assert arm.executor.submit(np.stack([line, line], axis=1), now - 0.1, STEP, now).accepted

    for tick in range(75):
        now = 1000.0 + tick * PERIOD
        if tick % 10 == 0:
            submit(now)
        results.append(arm.tick(now, joints=joints))
        joints = results[-1].joints if isinstance(results[-1], Motion) else joints
    assert joints[0] > 0.5 and sum(isinstance(result, Hold) for result in results) <= 2
    submit(now + PERIOD, jump=1.0)
    later = [arm.tick(now + PERIOD * (k + 1), joints=joints) for k in range(40)]
    assert HoldReason.LIMIT in [result.reason for result in later if isinstance(result, Hold)]


@pytest.mark.parametrize("trajectory", ["chunk", "point"])
@pytest.mark.parametrize(
    ("line", "furthest"), [((3.0, 0.0), 0.0), ((0.0, 5.0), 0.0), ((0.05, 3.0), 0.1)], ids=["far", "fast", "fast later"]
)
def test_limits_that_hold_forgive_the_way_to_a_plan_and_not_the_plan(trajectory, line, furthest):
    limits = dataclasses.replace(LIMITS, on_violation="hold", joint_min=(-9.0,), joint_max=(9.0,))
    arm = Arm(2, dataclasses.replace(CONFIG, trajectory=trajectory), limits, ExecutorConfig(max_observation_age=10.0))
    arm.enable(0.0)
    joints, reasons = np.zeros(2), []
    for tick in range(50):
        now = 1000.0 + tick * PERIOD
        if tick % 10 == 0:
            age = 0.0 if furthest else 0.1
            first, speed = line
            targets = first + speed * (now - age - 1000.0 + age + STEP * np.arange(16))
            assert arm.executor.submit(np.stack([targets] * 2, axis=1), now - age, STEP, now).accepted
        result = arm.tick(now, joints=joints)
        joints = result.joints if isinstance(result, Motion) else joints
        reasons.append(result.reason if isinstance(result, Hold) else "")
    assert np.abs(joints).max() <= furthest and HoldReason.LIMIT in reasons


@pytest.mark.parametrize("trajectory", ["chunk", "point"])
def test_limits_that_hold_let_an_arm_go_on_that_a_person_has_moved(trajectory):
    limits = dataclasses.replace(LIMITS, on_violation="hold")
    arm = Arm(2, dataclasses.replace(CONFIG, trajectory=trajectory), limits, ExecutorConfig(max_observation_age=10.0))
    arm.enable(0.0)
    arm.forget(velocities=np.full(2, 0.3))
    targets = 0.3 * STEP * np.arange(16)
    assert arm.executor.submit(np.stack([targets] * 2, axis=1), 999.9, STEP, 1000.0).accepted
    assert isinstance(arm.tick(1000.0, joints=np.zeros(2)), Motion)


@pytest.mark.parametrize(("speed", "latency", "dt"), [(0.8, 0.2, 0.1), (0.9, 0.1, 0.05), (0.9, 0.2, 0.1)])
def test_limits_that_hold_let_the_next_plan_come_while_the_arm_catches_up(speed, latency, dt):
    """It was observed while the arm still rested, so that it lies behind the first one."""
    limits = dataclasses.replace(LIMITS, on_violation="hold", joint_min=(-9.0,), joint_max=(9.0,))
    arm = Arm(2, dataclasses.replace(CONFIG, step_duration=dt), limits, ExecutorConfig(max_observation_age=10.0))
    arm.enable(0.0)
    joints, seen, holds = np.zeros(2), (1000.0, 0.0), 0
    for tick in range(round(1.5 / PERIOD)):
        now = 1000.0 + tick * PERIOD
        if now >= seen[0] + latency - 1e-9:
            stamp, start = seen
            targets = start + speed * dt * np.arange(16)
            assert arm.executor.submit(np.stack([targets] * 2, axis=1), stamp, dt, now).accepted
            seen = now, float(joints[0])
        result = arm.tick(now, joints=joints)
        joints = result.joints if isinstance(result, Motion) else joints
        holds += isinstance(result, Hold) and result.reason == HoldReason.LIMIT
    assert joints[0] > 0.8 and holds <= 2
