# SPDX-License-Identifier: Apache-2.0
"""A whole chunk as one joint trajectory, inside the limits from its first point to its last, at which the arm rests.

The limiter takes its steps ahead of time, as it would tick by tick. It moves the joints with one velocity per period;
here each of these is the velocity in the middle of its period and changes evenly to the next one, so that positions and
velocities at the knots describe a path whose acceleration is piecewise constant and that no cubic spline leaves.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from specprune_ros.angles import beside
from specprune_ros.arrays import Floats
from specprune_ros.control.command import Hold, HoldReason
from specprune_ros.control.joint_limiter import JointDoubt, JointLimiter, JointTarget
from specprune_ros.control.plan import Plan

SHORTEST = 0.02  # seconds between knots: a controller interpolates, and rolling out must not outlast a control period
EARLIER = 1e-5  # seconds by which a trajectory begins at least before it is sent, so that nothing leads up to it
FEW_KNOTS = 25  # half a second, of a trajectory that is made anew in every period
MOST_KNOTS = 500  # ten seconds; a longer chunk is replaced before


@dataclass(frozen=True, eq=False)
class ChunkTrajectory:
    """Knots at `start`, `start + period` and so on, seconds of the node's clock; past the last one the arm rests.

    `hold`: why the chunk is not followed to its end, from `holds_at` on; the trajectory brakes there. `late_until`:
    when it has caught up with the plan.
    """

    plan: Plan
    start: float
    period: float
    knots: tuple[JointTarget, ...]
    hits: tuple[tuple[str, ...], ...]  # limits that changed the motion up to each knot
    hold: Hold | None = None
    holds_at: float = math.inf
    late_until: float = -math.inf

    @property
    def leashed(self) -> bool:
        """Whether it waits for an arm that does not keep up."""
        return any("joint_lead" in hit for hit in self.hits)

    @property
    def end(self) -> float:
        """When the arm comes to rest."""
        return self.start + (len(self.knots) - 1) * self.period

    def index(self, now: float) -> int:
        """The last knot that is not later than `now`; the first one before it, the last one after it."""
        return min(max(math.floor((now - self.start) / self.period + 1e-6), 0), len(self.knots) - 1)

    def at(self, now: float) -> JointTarget:
        """Where the joints are told to be."""
        first = self.index(now)
        if first == len(self.knots) - 1:
            return self.knots[-1]
        a, b = self.knots[first], self.knots[first + 1]
        seconds = min(max(now - self.start - first * self.period, 0.0), self.period)
        share = seconds / self.period
        velocities = a.velocities + share * (b.velocities - a.velocities)
        return JointTarget(
            a.positions + seconds * (a.velocities + velocities) / 2,
            velocities,
            a.wanted + share * (b.wanted - a.wanted),
        )

    def part(self, now: float, seconds: float) -> "ChunkTrajectory":
        """What it is in [now, now + seconds], at least to the next knot; where it is over, the arm rests."""
        first = self.index(now - EARLIER)
        start = self.start + first * self.period
        count = 2 + max(math.floor((now + seconds - start) / self.period + 1e-6), 0)
        knots, hits = self.knots[first : first + count], self.hits[first : first + count]
        rest = count - len(knots)
        knots, hits = knots + knots[-1:] * rest, hits + ((),) * rest
        return ChunkTrajectory(self.plan, start, self.period, knots, hits, late_until=self.late_until)


def starting(at: JointTarget, plan: Plan, now: float, seconds: float, period: float) -> ChunkTrajectory:
    """The first knots of an arm that nothing moves: it rests for `seconds`, or goes on as it moves where that is 0.

    `period`: seconds of a control period.
    """
    period *= math.ceil(SHORTEST / period - 1e-9)
    count = 1 + math.ceil(seconds / period - 1e-9)
    return ChunkTrajectory(plan, now, period, (at,) * count, ((),) * count, late_until=math.inf)


def roll_out(
    limiter: JointLimiter,
    plan: Plan,
    joints: Callable[[Floats], Floats],
    begin: ChunkTrajectory,
    measured: Floats,
    refuse: Callable[[JointDoubt], Hold],
    most: int = MOST_KNOTS,
) -> ChunkTrajectory:
    """`begin`, and after it `plan` to its end, with the steps that `limiter` allows from now on. Changes neither.

    Of more than `most` knots the rest is left out, and the arm brakes there.

    `joints`: from an action (A,) to joint positions (J,) rad. `measured` (J,) rad: where the joints are; they are
    expected to stay as far behind what they are told as they are. `refuse`: why a joint must not move.
    """
    model, period = copy.copy(limiter), begin.period
    model.period = period
    knots, hits = list(begin.knots), list(begin.hits)
    told = knots[0].positions
    lag = beside(measured, told, limiter.continuous) - told
    last = knots[-1]
    model.follow(JointTarget(last.positions + last.velocities * period / 2, last.velocities, last.wanted), measured)
    slowing = _Slowing.of(plan, limiter)
    hold, holds_at, limited = None, math.inf, None
    # An arm at rest has to catch up with the plan, and one that has not yet done so.
    late, late_until = begin.end < begin.late_until or not last.velocities.any(), -math.inf
    # The first step is the way to the plan, and not its speed: from rest, or from another plan before it was caught up.
    beginning = (late and (math.isinf(begin.late_until) or begin.plan is not plan)) or not last.velocities.any()
    while True:
        time = begin.start + (len(knots) - 1) * period
        late_until = time if late else late_until
        ahead = time + 1.5 * period
        expected = knots[-1].positions + lag
        if hold is None and ahead < slowing.end:
            target = joints(plan.interpolate(slowing.time(ahead)))
            doubt = model.doubt(target, expected)
            limited = None if doubt else model.apply(target, expected, catching_up=late, beginning=beginning)
            if doubt is not None:
                hold, holds_at = refuse(doubt), time
            elif beginning and limiter.jumps(target, last.positions, ahead - plan.stamp):
                hold, holds_at = Hold(HoldReason.LIMIT, "joint_speed"), time
            elif limited is not None and limited.hold:
                hold, holds_at = Hold(HoldReason.LIMIT, ", ".join(limited.hit)), time
            late, beginning = late and limited is not None and "joint_speed" in limited.hit, False
        braking = hold is not None or ahead >= slowing.end or len(knots) >= most
        if braking and not knots[-1].velocities.any():
            break
        step = model.brake(expected) if braking else limited
        assert step is not None
        before, state = knots[-1], model.target
        positions = before.positions + period * (before.velocities + state.velocities) / 2
        knots.append(JointTarget(positions, state.velocities, state.wanted))
        hits.append(() if braking else step.hit)
    if len(knots) == len(begin.knots):
        holds_at = begin.start  # it never moves
    return ChunkTrajectory(plan, begin.start, period, tuple(knots), tuple(hits), hold, holds_at, late_until)


@dataclass(frozen=True)
class _Slowing:
    """The plan's last targets are passed ever more slowly, so that the arm rests at the last one without going past it.

    The pace falls from 1 to 0 within `seconds`, after half of which the plan would have been there.
    """

    last: float  # when the plan reaches its last target
    seconds: float
    end: float  # when nothing of it is left to follow

    @staticmethod
    def of(plan: Plan, limiter: JointLimiter) -> "_Slowing":
        last = plan.stamp + (len(plan.actions) - 1) * plan.dt
        brake = np.divide(limiter.config.max_joint_speed, limiter.config.max_joint_acceleration)
        seconds = min(float(np.max(brake)), last - plan.stamp)
        return _Slowing(last, seconds, max(plan.end, last + seconds / 2))

    def time(self, now: float) -> float:
        """The time of the plan that is followed at `now`."""
        over = now - (self.last - self.seconds / 2)
        if over <= 0:
            return now
        if over >= self.seconds:
            return self.last
        return now - over**2 / (2 * self.seconds)
