# SPDX-License-Identifier: Apache-2.0
"""One run of the policy, from its goal to how it ended: what was asked, what happened, and what ends it."""

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from specprune_ros.angles import beside
from specprune_ros.control.arm import Motion
from specprune_ros.control.command import NATURAL_HOLDS, Hold
from specprune_ros.errors import ConfigError
from specprune_ros.parameters import check, parameter
from specprune_ros.pose import Pose
from specprune_ros.stamps import NANOSECONDS

LEAST_STEP, LEAST_TURN = 0.001, 0.002  # m, rad; what is measured is noise below
OPEN = 0.5  # share of the way from closed to open


class Outcome(IntEnum):
    """How a run ended; the numbers are those of RunPolicy.action."""

    SUCCEEDED = 1
    TIMED_OUT = 2
    CANCELLED = 3
    HELD = 4
    DEACTIVATED = 5
    CLOCK_JUMP = 6
    RECEIVER_LOST = 7
    PREEMPTED = 8
    DISABLED = 9
    REFUSED = 10
    TAKEN_OVER = 11


@dataclass(frozen=True)
class RunConfig:
    """`~/run_policy`."""

    when_busy: str = parameter(
        "refuse",
        "A goal on ~/run_policy while another one runs: refuse it, or preempt the running one.",
        choices=("refuse", "preempt"),
    )
    on_takeover: str = parameter(
        "wait",
        "A person takes over while a goal on ~/run_policy runs: the goal waits, and its time goes on; or end it.",
        choices=("wait", "end"),
    )
    longest_hold: float = parameter(
        10.0,
        "A run on ~/run_policy ends when the arm holds for longer, for whatever reason; more than an inference takes.",
        minimum=0.1,
        maximum=3600.0,
        unit="s",
    )
    rest_distance: float = parameter(
        0.005, "An end effector that stays within this is at rest.", minimum=0.0001, maximum=1.0, unit="m"
    )
    rest_angle: float = parameter(
        0.02,
        "An end effector, or a joint of a joint-space policy, that stays within this is at rest.",
        minimum=0.0001,
        maximum=3.0,
        unit="rad",
    )

    def __post_init__(self) -> None:
        check(self, "run")


@dataclass(frozen=True)
class RunGoal:
    """What ends a run; see RunPolicy.action. Raises ConfigError for numbers that mean nothing."""

    time_limit: float = 0.0  # s; 0: none
    until_success: bool = False
    until_rest: float = 0.0  # s; 0: does not end it
    region_pose: Pose | None = None
    region_distance: float = 0.0  # m
    region_joints: tuple[float, ...] = ()  # rad
    region_angle: float = 0.0  # rad

    def __post_init__(self) -> None:
        for name in ("time_limit", "until_rest", "region_distance", "region_angle"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"the goal's {name} = {value:g}; allowed: 0 (off) or more")
        if not np.isfinite(self.region_joints).all():
            raise ConfigError("the goal's region_joints hold a number that is not finite")
        if self.region_joints and not self.region_angle:
            raise ConfigError("the goal's region_joints need a region_angle above 0")
        if self.region_pose is not None:
            numbers = [*self.region_pose.position, *self.region_pose.quaternion]
            if not np.isfinite(numbers).all() or abs(np.linalg.norm(self.region_pose.quaternion) - 1) > 1e-2:
                raise ConfigError("the goal's region_pose is not a pose; its orientation is a quaternion of length 1")

    @property
    def open_ended(self) -> bool:
        """Whether nothing but time, or a cancel, ends it well."""
        return not (self.until_success or self.until_rest or self.region_distance or self.region_joints)


@dataclass(frozen=True, eq=False)
class Tick:
    """What one control period was like. `now`: nanoseconds."""

    now: int
    result: Motion | Hold
    pose: Pose | None = None  # of the end effector in the base frame, as measured
    joints: NDArray[np.float64] | None = None  # (J,) rad, as measured
    openings: NDArray[np.float64] | None = None  # (G,) commanded last, 0 closed .. 1 open
    enabled: bool = True  # whether motion is on
    receiver: str = ""  # what nobody listens to; "" when somebody does, or nothing is sent
    person: str = ""  # by what a person is in charge; "" when none is


@dataclass(frozen=True)
class Ending:
    """How a run ended, and why, in one line."""

    outcome: Outcome
    message: str


@dataclass
class Path:
    """How far the arm moved, by steps that are larger than noise."""

    distance: float = 0.0  # m
    turned: float = 0.0  # rad, of the joint that turned most
    _position: NDArray[np.float64] | None = None
    _rotation: Rotation | None = None
    _joints: NDArray[np.float64] | None = None
    _turns: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def add(self, pose: Pose | None, joints: NDArray[np.float64] | None) -> None:
        """Where the arm is now."""
        if pose is not None:
            self._add_pose(pose)
        if joints is not None:
            self._add_joints(joints)

    def _add_pose(self, pose: Pose) -> None:
        if self._position is None or self._rotation is None:
            self._position, self._rotation = pose.position, pose.rotation
            return
        step = float(np.linalg.norm(pose.position - self._position))
        if step > LEAST_STEP:
            self.distance += step
            self._position = pose.position
        turn = float((pose.rotation * self._rotation.inv()).magnitude())
        if turn > LEAST_TURN:
            self.turned += turn
            self._rotation = pose.rotation

    def _add_joints(self, joints: NDArray[np.float64]) -> None:
        if self._joints is None:
            self._joints, self._turns = joints.copy(), np.zeros(len(joints))
            return
        steps = np.abs(joints - self._joints)
        real = steps > LEAST_TURN
        self._turns[real] += steps[real]
        self._joints[real] = joints[real]
        self.turned = float(self._turns.max(initial=0.0))


class Rest:
    """For how long the arm has stayed where it is, once it has moved at all."""

    def __init__(self) -> None:
        self.moved = False
        self._nanoseconds = 0
        self._pose: Pose | None = None
        self._joints: NDArray[np.float64] | None = None

    @property
    def seconds(self) -> float:
        return self._nanoseconds / NANOSECONDS

    def add(self, period: int, pose: Pose | None, joints: NDArray[np.float64] | None, config: RunConfig) -> None:
        """`period` nanoseconds more, at the end of which the arm is there. Where it is unknown, it is not at rest."""
        if pose is None and joints is None:
            self.interrupt()
            return
        if self._pose is None and self._joints is None:
            self._pose, self._joints = pose, joints
        elif self._left(pose, joints, config):
            self.moved, self._nanoseconds = True, 0
            self._pose, self._joints = pose, joints
        else:
            self._nanoseconds += period

    def interrupt(self) -> None:
        """Standing still for another reason does not count."""
        self._nanoseconds = 0

    def _left(self, pose: Pose | None, joints: NDArray[np.float64] | None, config: RunConfig) -> bool:
        if joints is not None and self._joints is not None:
            return bool((np.abs(joints - self._joints) > config.rest_angle).any())
        if pose is not None and self._pose is not None:
            return not _within(pose, self._pose, config.rest_distance, config.rest_angle)
        return True


class Run:
    """Updated once every control period, on the executor's thread. Holds no clock."""

    def __init__(
        self, goal: RunGoal, config: RunConfig, now: int, continuous: NDArray[np.bool_] | bool = False
    ) -> None:
        """`now`: nanoseconds of the node's clock. `continuous`: (J,) which joints turn without end."""
        self._continuous = continuous
        self._joints: NDArray[np.float64] | None = None  # unwrapped
        self.goal = goal
        self.config = config  # may be replaced
        self.success = False  # set when ~/success says so
        self.elapsed = 0.0  # seconds
        self.taken_over = 0.0  # seconds that a person was in charge
        self.holds: Counter[str] = Counter()  # reason -> times that something forbade motion
        self.path = Path()
        self._rest = Rest()
        self._start = self._last = now
        self._held_since: int | None = None
        self._reason = ""

    def update(self, tick: Tick) -> Ending | None:
        """How the run ends with this period; None while it goes on."""
        if tick.now < self._last:
            return Ending(Outcome.CLOCK_JUMP, f"the clock went back by {(self._last - tick.now) / NANOSECONDS:.3f} s")
        period, self._last = tick.now - self._last, tick.now
        self.elapsed = (tick.now - self._start) / NANOSECONDS
        if tick.joints is not None:
            before = tick.joints if self._joints is None else self._joints
            self._joints = beside(tick.joints, before, self._continuous)
            tick = replace(tick, joints=self._joints)
        self.taken_over += period / NANOSECONDS if tick.person else 0.0
        self.path.add(tick.pose, tick.joints)
        self._count_hold(tick)
        self._count_rest(tick, period)
        return self._stopped(tick) or self._succeeded(tick) or self._overdue(tick)

    def _count_hold(self, tick: Tick) -> None:
        if not isinstance(tick.result, Hold):
            self._held_since, self._reason = None, ""
            return
        if self._held_since is None or tick.person:
            self._held_since = tick.now  # what a person does is no hold that lasts too long
        if tick.result.reason != self._reason and tick.result.reason not in NATURAL_HOLDS:
            self.holds[str(tick.result.reason)] += 1
        self._reason = tick.result.reason

    def _count_rest(self, tick: Tick, period: int) -> None:
        if not isinstance(tick.result, Hold):
            self._rest.add(period, tick.pose, tick.joints, self.config)
        elif tick.result.reason not in NATURAL_HOLDS:  # a pause between chunks neither counts nor interrupts
            self._rest.interrupt()

    def _stopped(self, tick: Tick) -> Ending | None:
        if tick.receiver:
            return Ending(Outcome.RECEIVER_LOST, f"nobody listens to {tick.receiver}")
        if tick.person and self.config.on_takeover == "end":
            return Ending(Outcome.TAKEN_OVER, f"a person took over by {tick.person}")
        if not tick.enabled:
            return Ending(Outcome.DISABLED, "the node switched motion off; see /diagnostics")
        return None

    def _succeeded(self, tick: Tick) -> Ending | None:
        goal = self.goal
        if goal.until_success and self.success:
            return Ending(Outcome.SUCCEEDED, "~/success said so")
        if isinstance(tick.result, Hold) and tick.result.reason not in NATURAL_HOLDS:
            return None  # what is measured is not to be believed now
        if goal.until_rest and self._rest.moved and self._rest.seconds >= goal.until_rest and _open(tick.openings):
            return Ending(Outcome.SUCCEEDED, f"at rest for {self._rest.seconds:.2f} s with the gripper open")
        if goal.region_distance and goal.region_pose is not None and tick.pose is not None:
            angle = goal.region_angle or math.inf
            if _within(tick.pose, goal.region_pose, goal.region_distance, angle):
                return Ending(Outcome.SUCCEEDED, "the end effector is in the region")
        if goal.region_joints and tick.joints is not None:
            target = beside(np.array(goal.region_joints), tick.joints, self._continuous)
            if (np.abs(tick.joints - target) <= goal.region_angle).all():
                return Ending(Outcome.SUCCEEDED, "the joints are in the region")
        return None

    def _overdue(self, tick: Tick) -> Ending | None:
        if isinstance(tick.result, Hold) and self._held_since is not None:
            held = (tick.now - self._held_since) / NANOSECONDS
            if held > self.config.longest_hold:
                detail = f": {tick.result.detail}" if tick.result.detail else ""
                return Ending(Outcome.HELD, f"held for {held:.2f} s by {tick.result.reason}{detail}")
        if self.goal.time_limit and self.elapsed >= self.goal.time_limit:
            return Ending(Outcome.TIMED_OUT, f"{self.goal.time_limit:g} s are over")
        return None


def _open(openings: NDArray[np.float64] | None) -> bool:
    return openings is not None and bool((openings >= OPEN).all())


def _within(pose: Pose, other: Pose, distance: float, angle: float) -> bool:
    near = float(np.linalg.norm(pose.position - other.position)) <= distance
    return near and float((pose.rotation * other.rotation.inv()).magnitude()) <= angle
