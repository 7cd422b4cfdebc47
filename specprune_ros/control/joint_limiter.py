# SPDX-License-Identifier: Apache-2.0
"""Keeps joint targets inside position, speed and acceleration limits."""

from dataclasses import dataclass

import numpy as np

from specprune_ros.angles import FULL_TURN, beside
from specprune_ros.arrays import Floats
from specprune_ros.control.braking import braking_distance, braking_speed
from specprune_ros.control.cartesian_limiter import TOLERANCE, Limited
from specprune_ros.control.limits import LimitsConfig

MEASURED_LAG = 0.05  # seconds that a measurement may be behind the arm
NEARLY_A_TURN = 0.5  # rad; a gap this close to a full turn is a joint that turns without end, and nobody said so


@dataclass(frozen=True, eq=False)
class JointStop:
    """Where joints come to rest."""

    positions: Floats  # (J,) rad
    seconds: float  # that it takes from the last target, within the speeds allowed


@dataclass(frozen=True, eq=False)
class JointTarget:
    """Where joints are told to be at a time, (J,) each."""

    positions: Floats  # rad
    velocities: Floats  # rad/s
    wanted: Floats  # rad, what the policy asks for, inside the ranges


@dataclass(frozen=True)
class JointDoubt:
    """Why a joint must not move."""

    joint: int
    reason: str


class JointLimiter:
    """Remembers the last target sent and its velocity. Positions come first, then speed, then acceleration.

    A target runs at most `max_lead` ahead of the arm. Where the arm holds, it is remembered where it was told to stay.
    """

    _sent: Floats | None  # (J,) rad, where the arm was told to be last; None while it holds
    _wanted: Floats | None  # (J,) rad, what the policy asked for then, inside the ranges
    _velocity: Floats | None  # (J,) rad/s, of the last target

    def __init__(self, config: LimitsConfig, period: float, max_lead: float = np.inf) -> None:
        """`period`: seconds between calls. `max_lead`: rad."""
        self.config = config
        self.max_lead = max_lead
        self.continuous: Floats | bool = False  # (J,) which joints turn without end: they have no range
        self.period = period
        self._held: Floats | None = None
        self._reach: Floats | float = 0.0  # rad, from where the hold began, within which the arm comes to rest
        self._drift: Floats | None = None
        self.rest()

    @property
    def velocity(self) -> Floats | None:
        """(J,) rad/s of the last target sent; None while the arm holds."""
        return self._velocity

    @property
    def target(self) -> JointTarget:
        """Where the arm was told to be last. There has to be such a target: `begin`, `apply`."""
        assert self._sent is not None and self._velocity is not None and self._wanted is not None
        return JointTarget(self._sent, self._velocity, self._wanted)

    def follow(self, target: JointTarget, measured: Floats) -> None:
        """The arm is on its way by a trajectory that says so; `measured` (J,) rad: where it is."""
        self._sent, self._velocity, self._wanted = target.positions, target.velocities, target.wanted
        self._measured = measured.copy()

    def rest(self) -> None:
        """The arm stands still; the next target starts from where it is measured."""
        self._sent = self._wanted = self._velocity = None
        self._measured = np.zeros(0)  # at the last target

    def forget(self, velocity: Floats | None = None) -> None:
        """Nothing commands the arm any more, and it may be anywhere.

        `velocity` (J,) rad/s: how it moves by somebody else, believed up to the speeds allowed; None: it stands still.
        """
        self._held, self._drift, self._reach = None, velocity, 0.0
        self.rest()

    def ahead(self, measured: Floats) -> float:
        """How far the last target is from where the joints are `measured` (J,) rad, at most; 0 without one."""
        if self._sent is None:
            return 0.0
        return float(np.abs(beside(measured, self._sent, self.continuous) - self._sent).max())

    def hold(self, measured: Floats | None) -> JointStop | None:
        """Rest where the arm is `measured` (J,) rad, within braking distance of the last target.

        `measured` None: where it was at that target. Answers None when it was never known.
        """
        seconds = 0.0
        if self._sent is not None:
            near = self._reach = self._braking_distance(len(self._sent))
            here = beside(self._measured if measured is None else measured, self._sent, self.continuous)
            self._held = np.clip(here, self._sent - near, self._sent + near)
            seconds = float(np.max(np.abs(self._held - self._sent) / self.config.max_joint_speed))
        elif self._held is None and measured is not None:
            self._held = measured.copy()
        self._drift = None
        self.rest()
        return None if self._held is None else JointStop(self._held.copy(), seconds)

    def doubt(self, target: Floats, measured: Floats) -> JointDoubt | None:
        """A joint that must not move: the arm is not where it was told to be, or the target is a turn away.

        `target`, `measured`: (J,) rad.
        """
        told = self._held if self._sent is None else self._sent
        if told is not None:
            near = self._braking_distance(len(told))
            allowed = np.maximum(near, self._reach) if self._sent is None else near + self.max_lead
            apart = np.abs(beside(measured, told, self.continuous) - told)
            joint = int(np.argmax(apart - allowed))
            if apart[joint] > allowed[joint]:
                reason = (
                    f"is measured at {measured[joint]:.3f} rad, {apart[joint]:.3f} rad from where it was told to be, "
                    f"{told[joint]:.3f}; call ~/enable if the arm really is there"
                )
                return JointDoubt(joint, reason)
        gap = np.where(self.continuous, 0.0, np.abs(target - measured))
        joint = int(np.argmax(gap))
        if gap[joint] > FULL_TURN - NEARLY_A_TURN:
            far = "nearly a full turn" if gap[joint] < FULL_TURN + NEARLY_A_TURN else "more than a turn"
            reason = (
                f"is measured at {measured[joint]:.3f} rad and the policy asks for {target[joint]:.3f}, {far} away; "
                "if it turns without end, name it in controller.continuous_joints; its driver has to report radians"
            )
            return JointDoubt(joint, reason)
        return None

    def _braking_distance(self, joints: int) -> Floats:
        """(J,) rad in which the arm stops from its highest speed, and what its measurement lags behind.

        A limit that was lowered a moment ago does not stop the arm sooner.
        """
        speed, acceleration = np.array(self.config.max_joint_speed), np.array(self.config.max_joint_acceleration)
        speed = speed if self._velocity is None else np.maximum(speed, np.abs(self._velocity))
        return np.broadcast_to(braking_distance(speed, acceleration, self.period), (joints,)) + MEASURED_LAG * speed

    def jumps(self, target: Floats, measured: Floats, age: float) -> bool:
        """Whether limits that hold forbid an arm at rest to go to a `target` (J,) rad of a plan that is `age` s old.

        While it rested, no plan that keeps to the speed limits went further.
        """
        gap = np.abs(beside(target, measured, self.continuous) - measured)
        return self.config.on_violation == "hold" and bool((gap > self._speed() * (age + 2 * self.period)).any())

    def apply(self, target: Floats, measured: Floats, *, catching_up: bool = False, beginning: bool = False) -> Limited:
        """The joint positions to reach after one period, (J,) rad.

        `target` (J,): asked for; `measured` (J,): where the joints are. `catching_up`: the arm follows a plan that has
        begun without it, so that the speed at which it comes up is no violation; that of the plan itself is, but for
        the first step (`beginning`), which is the way to the plan.
        """
        beginning = beginning or self._sent is None
        config, period = self.config, self.period
        low, high = self._range()
        max_speed, max_acceleration = self._speed(), np.array(config.max_joint_acceleration)
        self.begin(measured)
        assert self._sent is not None and self._wanted is not None

        hit: list[str] = []
        target = beside(target, self._wanted, self.continuous)
        wanted = np.clip(target, low, high)
        if (wanted != target).any():
            hit.append("joint_position")
        # Follow the target's own velocity, and close the remaining gap as fast as braking at its end allows.
        gap = self._wanted - self._sent
        own = (wanted - self._wanted) / period
        speed = own + np.sign(gap) * braking_speed(np.abs(gap), max_acceleration, period)
        if (np.abs(speed) > max_speed * (1 + TOLERANCE)).any():
            hit.append("joint_speed")
        forgiven = catching_up and (beginning or not (np.abs(own) > max_speed * (1 + TOLERANCE)).any())
        violated = [name for name in hit if not (forgiven and name == "joint_speed")]
        if violated and config.on_violation == "hold":
            return Limited(measured.copy(), tuple(hit), hold=True)
        self._wanted = wanted
        return self._move(speed, measured, hit)

    def begin(self, measured: Floats) -> None:
        """Start from where the arm is `measured` (J,) rad, unless it is on its way already."""
        if self._sent is not None:
            return
        start = measured if self._held is None else beside(measured, self._held, self.continuous)
        drift = np.zeros(len(start)) if self._drift is None else self._drift
        self._sent, self._wanted = start.copy(), start.copy()
        self._velocity, self._drift = _between(drift, -self._speed(), self._speed()), None

    def brake(self, measured: Floats) -> Limited:
        """The joint positions to reach after one period, (J,) rad, of an arm that comes to rest."""
        assert self._sent is not None
        limited = self._move(np.zeros(len(self._sent)), measured, [])
        self._wanted = self._sent.copy()
        return limited

    def _range(self) -> tuple[Floats, Floats]:
        low = np.where(self.continuous, -np.inf, self.config.joint_min)
        return low, np.where(self.continuous, np.inf, self.config.joint_max)

    def _speed(self) -> Floats:
        return np.array(self.config.max_joint_speed)

    def _move(self, speed: Floats, measured: Floats, hit: list[str]) -> Limited:
        """One period with the velocity `speed` (J,), or as near to it as the limits allow."""
        assert self._sent is not None and self._velocity is not None
        period, (low, high) = self.period, self._range()
        max_speed, max_acceleration = self._speed(), np.array(self.config.max_joint_acceleration)
        speed = _between(speed, -max_speed, max_speed)
        change = max_acceleration * period
        allowed = _between(speed, self._velocity - change, self._velocity + change)
        if (np.abs(allowed - speed) > TOLERANCE * max_speed).any():
            hit.append("joint_acceleration")
        inside = self._inside(allowed, low, high, max_acceleration)
        if (inside != allowed).any():
            hit.append("joint_position")
        arm = beside(measured, self._sent, self.continuous)
        self._measured = measured.copy()
        leashed = self._inside(inside, arm - self.max_lead, arm + self.max_lead, max_acceleration)
        if (leashed != inside).any():
            hit.append("joint_lead")

        self._velocity = leashed
        self._sent = self._sent + leashed * period
        return Limited(self._sent.copy(), tuple(dict.fromkeys(hit)), hold=False)

    def _inside(
        self,
        velocity: Floats,
        low: Floats,
        high: Floats,
        deceleration: Floats,
    ) -> Floats:
        """`velocity` (J,), slow enough to stop before `low` and `high`."""
        assert self._sent is not None
        up = braking_speed(high - self._sent, deceleration, self.period)
        down = braking_speed(self._sent - low, deceleration, self.period)
        return _between(velocity, -down, up)


def _between(values: Floats, low: Floats, high: Floats) -> Floats:
    """np.clip in a fifth of its time, which counts where a whole chunk is limited at once."""
    return np.minimum(np.maximum(values, low), high)
