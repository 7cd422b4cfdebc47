# SPDX-License-Identifier: Apache-2.0
"""Runs action chunks on time: skips what is past, splices newer chunks in, and holds when anything is wrong."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specprune_ros.angles import FULL_TURN
from specprune_ros.arrays import Floats
from specprune_ros.control.command import Command, Hold, HoldReason, Receipt, Refusal
from specprune_ros.control.plan import Plan
from specprune_ros.control.watchdog import CLOCK_TOLERANCE, Watchdog
from specprune_ros.parameters import check, parameter

STEP_DURATIONS = 0.001, 1.0  # seconds; anything else is a mistake in a message
LARGEST = 1e6  # checkpoint units; beyond every robot, and far from overflow
MAX_ENSEMBLE = 16  # chunks; older ones have ended long before at any sensible rate


@dataclass(frozen=True)
class ExecutorConfig:
    """How chunks are executed."""

    splice: str = parameter(
        "blend",
        "How a new chunk takes over from the running one: blend from one to the other, or ensemble (the mean of all "
        "chunks that predict the same step).",
        choices=("blend", "ensemble"),
    )
    blend_steps: int = parameter(
        2, "Steps over which a new chunk is blended in; 0 switches at once.", minimum=0, maximum=50
    )
    ensemble_decay: float = parameter(
        0.1,
        "Weight of the n-th newest chunk in an ensemble is exp(-decay n); negative values favour old predictions, as "
        "ACT does.",
        minimum=-5.0,
        maximum=5.0,
    )
    max_observation_age: float = parameter(
        1.0, "A chunk is refused when its observation is older than this.", minimum=0.01, maximum=60.0, unit="s"
    )

    def __post_init__(self) -> None:
        check(self, "execution")


class ChunkExecutor:
    """Owns the running plan. `submit` and `step` may be called from different threads.

    A splice is computed once, when the chunk arrives, so `step` only reads one plan. Increments are blended as
    rates: the mean of two end-effector increments is an increment. Motion that was skipped is not made up for: the
    next observation sees where the arm is. Grippers (`discrete`) are states, never blended or averaged; the newest
    chunk decides.
    """

    def __init__(
        self,
        action_dim: int,
        period: float,
        *,
        delta: bool = True,
        discrete: Sequence[int] = (6,),
        config: ExecutorConfig = ExecutorConfig(),
        watchdog: Watchdog | None = None,
    ) -> None:
        """`period`: seconds between calls of `step`. `delta`: actions are increments, not absolute targets.

        `discrete`: dimensions that must not be mixed (grippers). Motion is off until `enable`.
        """
        self.config = config
        self._action_dim = action_dim
        self._period = period
        self._delta = delta
        self._discrete = list(discrete)
        self.circular: list[int] = []  # dimensions that are angles of joints that turn without end; may be replaced
        self._watchdog = watchdog or Watchdog({})
        self._lock = threading.Lock()
        self._enabled = self._taken = False
        self._since = -math.inf
        self._now = -math.inf
        self._plan: Plan | None = None
        self._chunks: list[Plan] = []  # newest first, as submitted

    @property
    def enabled(self) -> bool:
        return self._enabled

    def enable(self, since: float = -math.inf) -> None:
        """Allow motion. Chunks whose observation is older than `since` are refused."""
        with self._lock:
            self._enabled = True
            self._since = since

    @property
    def taken(self) -> bool:
        """Whether a person is in charge."""
        return self._taken

    def take_over(self) -> None:
        """A person drives the arm until `give_back`: forget the plan and refuse chunks."""
        with self._lock:
            self._taken = True
            self._clear()

    def give_back(self, since: float) -> None:
        """Go on, by chunks whose observation is not older than `since`."""
        with self._lock:
            self._taken = False
            self._since = max(since, self._since)

    def stop(self) -> None:
        """Forbid motion and forget the plan. The next `step` holds."""
        with self._lock:
            self._enabled = False
            self._clear()

    def clear(self) -> None:
        """Forget all chunks (new instruction, new scene); motion stays enabled."""
        with self._lock:
            self._clear()

    def submit(self, actions: Floats, stamp: float, dt: float, now: float) -> Receipt:
        """Offer a chunk: `actions` (C, A) in checkpoint units, `stamp` of its observation, `dt` per step, seconds.

        Never raises for a bad chunk; the receipt says why it was refused.
        """
        try:
            actions = np.array(actions, dtype=np.float64)
        except (TypeError, ValueError):
            return Receipt(Refusal.WRONG_SHAPE, "not a matrix of numbers")
        with self._lock:
            refused = self._refuse(actions, stamp, dt, now)
            if refused is not None:
                return refused
            new = Plan(self._unwound(actions, stamp, dt, now), stamp, dt)
            first = max(new.index(now), 0)
            old = self._plan if self._plan is not None and self._plan.covers(now) else None
            self._chunks = [new, *(chunk for chunk in self._chunks if chunk.end > now)][:MAX_ENSEMBLE]
            self._plan = self._ensemble(new) if self.config.splice == "ensemble" else self._blend(old, new, first)
            jump = (
                None if old is None else self._sample(self._plan, now) - self._sample(old, now) * self._scale(old, dt)
            )
            return Receipt(first_step=first, jump=jump)

    def step(self, now: float) -> Command | Hold:
        """The command for [now, now + period], or a hold."""
        with self._lock:
            if now < self._now - CLOCK_TOLERANCE:
                before, self._now, self._since = self._now, now, -math.inf
                self._clear()
                self._watchdog.clear()
                return Hold(HoldReason.CLOCK_JUMPED, f"from {before:.3f} s to {now:.3f} s")
            self._now = max(now, self._now)
            if not self._enabled:
                return Hold(HoldReason.DISABLED)
            if self._taken:
                return Hold(HoldReason.TAKEN_OVER)
            stale = self._watchdog.stale(now)
            if stale is not None:
                return Hold(HoldReason.STALE_INPUT, stale)
            if self._plan is None:
                return Hold(HoldReason.NO_CHUNK)
            index = self._plan.index(now)
            if index < 0:
                return Hold(HoldReason.CHUNK_NOT_STARTED, f"starts in {self._plan.stamp - now:.3f} s")
            if index >= len(self._plan.actions):
                return Hold(HoldReason.CHUNK_FINISHED, f"ended {now - self._plan.end:.3f} s ago")
            return Command(
                action=self._sample(self._plan, now),
                dt=self._plan.dt,
                index=index,
                stamp=self._plan.stamp,
                remaining=self._plan.end - now,
                plan=self._plan,
            )

    def _clear(self) -> None:
        self._plan = None
        self._chunks = []

    def _refuse(self, actions: Floats, stamp: float, dt: float, now: float) -> Receipt | None:
        newest = self._chunks[0].stamp if self._chunks else -math.inf
        if not self._enabled:
            return Receipt(Refusal.DISABLED)
        if self._taken:
            return Receipt(Refusal.TAKEN_OVER)
        if actions.ndim != 2 or len(actions) == 0 or actions.shape[1] != self._action_dim:
            return Receipt(Refusal.WRONG_SHAPE, f"{actions.shape}, expected (steps, {self._action_dim})")
        if not (np.abs(actions) < LARGEST).all():  # false for NaN, too
            return Receipt(Refusal.NOT_FINITE, f"NaN, Inf, or beyond {LARGEST:g}")
        if not (math.isfinite(stamp) and STEP_DURATIONS[0] <= dt <= STEP_DURATIONS[1]):
            return Receipt(Refusal.BAD_TIME, f"stamp {stamp} s, dt {dt} s")
        if stamp > now + CLOCK_TOLERANCE:
            return Receipt(Refusal.FUTURE, f"stamped {stamp - now:.3f} s ahead")
        if stamp < self._since:
            return Receipt(Refusal.BEFORE_ENABLE)
        if stamp == newest:
            return Receipt(Refusal.DUPLICATE)
        if stamp < newest:
            return Receipt(Refusal.OUT_OF_ORDER, f"{newest - stamp:.3f} s older than the running chunk")
        if now - stamp > self.config.max_observation_age:
            return Receipt(Refusal.TOO_OLD, f"observed {now - stamp:.3f} s ago")
        if Plan(actions, stamp, dt).index(now) >= len(actions):
            return Receipt(Refusal.EXPIRED, f"ended {now - stamp - len(actions) * dt:.3f} s ago")
        return None

    def _unwound(self, actions: Floats, stamp: float, dt: float, now: float) -> Floats:
        """`actions` with circular angles that go the short way, step by step and from the running plan on."""
        for dimension in self.circular:
            actions[:, dimension] = np.unwrap(actions[:, dimension])
            if self._plan is not None:
                running, new = (plan.interpolate(now)[dimension] for plan in (self._plan, Plan(actions, stamp, dt)))
                actions[:, dimension] += FULL_TURN * round((running - new) / FULL_TURN)
        return actions

    def _blend(self, old: Plan | None, new: Plan, first: int) -> Plan:
        """`new`, with its steps `first` .. `first + blend_steps - 1` mixed with what `old` would do at those times."""
        steps = self.config.blend_steps
        if old is None:
            return new
        actions = new.actions.copy()
        for k in range(first, min(first + steps, len(actions))):
            time = new.stamp + k * new.dt
            if not old.covers(time, new.dt):
                break
            weight = (k - first + 1) / (steps + 1)
            actions[k] = (1 - weight) * self._at_step(old, time, new.dt) + weight * new.actions[k]
        actions[:, self._discrete] = new.actions[:, self._discrete]
        return Plan(actions, new.stamp, new.dt)

    def _ensemble(self, new: Plan) -> Plan:
        """`new`, with every step averaged over all chunks that predict it."""
        actions = new.actions.copy()
        for k in range(len(actions)):
            time = new.stamp + k * new.dt
            total, weights = np.zeros(self._action_dim), 0.0
            for rank, chunk in enumerate(self._chunks):
                if chunk.covers(time, new.dt):
                    weight = math.exp(-self.config.ensemble_decay * rank)
                    total += weight * self._at_step(chunk, time, new.dt)
                    weights += weight
            actions[k] = total / weights
        actions[:, self._discrete] = new.actions[:, self._discrete]
        return Plan(actions, new.stamp, new.dt)

    def _at_step(self, plan: Plan, time: float, dt: float) -> Floats:
        """What `plan` does in the step of length `dt` that starts at `time`, as an action per `dt`."""
        return plan.mean(time, dt) * self._scale(plan, dt) if self._delta else plan.interpolate(time)

    def _scale(self, plan: Plan, dt: float) -> float:
        """From an action of `plan` to one per `dt`."""
        return dt / plan.dt if self._delta else 1.0

    def _sample(self, plan: Plan, now: float) -> Floats:
        action = plan.mean(now, self._period) if self._delta else plan.interpolate(now)
        action[self._discrete] = plan.actions[max(plan.index(now), 0), self._discrete]
        return action
