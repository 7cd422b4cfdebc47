# SPDX-License-Identifier: Apache-2.0
"""What the executor answers: a command for this control tick, or a hold with its reason; and a receipt for a chunk."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from specprune_ros.arrays import Floats
from specprune_ros.control.plan import Plan


class HoldReason(StrEnum):
    """Why the arm holds."""

    DISABLED = "disabled"  # motion is not enabled
    TAKEN_OVER = "taken_over"  # a person is in charge
    CLOCK_JUMPED = "clock_jumped"  # time went backwards; everything was forgotten
    STALE_INPUT = "stale_input"  # a watched input (observation, TF) is missing or too old
    NO_CHUNK = "no_chunk"  # no valid chunk has arrived yet
    CHUNK_NOT_STARTED = "chunk_not_started"  # the chunk's first step lies in the future
    CHUNK_FINISHED = "chunk_finished"  # the last step is over and no newer chunk has arrived
    POSE_UNKNOWN = "pose_unknown"  # limits of the end effector cannot be checked
    JOINTS_UNKNOWN = "joints_unknown"  # limits of the joints cannot be checked
    ARM_MOVED = "arm_moved"  # the arm is not where it was told to be, or the target is a turn away from it
    NO_EFFECT = "no_effect"  # the arm does not do what it is told, and `controller.on_no_effect` is hold
    LIMIT = "limit"  # the action violates a limit, and `limits.on_violation` is hold


# Holds that end a plan by themselves, so that whoever executes the published chunks needs no word of them.
NATURAL_HOLDS = (HoldReason.DISABLED, HoldReason.NO_CHUNK, HoldReason.CHUNK_FINISHED, HoldReason.CHUNK_NOT_STARTED)


class Refusal(StrEnum):
    """Why a chunk was refused."""

    DISABLED = "disabled"
    TAKEN_OVER = "taken_over"  # a person is in charge
    BEFORE_ENABLE = "before_enable"  # its observation is older than the last `enable`, or than a person let go
    WRONG_SHAPE = "wrong_shape"
    NOT_FINITE = "not_finite"  # NaN, Inf, or numbers beyond any robot
    BAD_TIME = "bad_time"  # the stamp is not finite, or dt is outside 1 ms to 1 s
    FUTURE = "future"  # its observation has not happened yet
    DUPLICATE = "duplicate"
    OUT_OF_ORDER = "out_of_order"  # a newer chunk was accepted before
    TOO_OLD = "too_old"  # its observation is older than `max_observation_age`
    EXPIRED = "expired"  # its last step is already over


@dataclass(frozen=True, eq=False)
class Command:
    """What to do during one control period."""

    action: NDArray[
        np.float64
    ]  # (A,) float64, checkpoint units; deltas are per `dt` of the chunk, whatever the control period
    dt: float  # seconds per chunk step
    index: int  # step of the chunk that is running, 0 .. C-1
    stamp: float  # the chunk's observation, seconds
    remaining: float  # seconds until the chunk ends
    plan: Plan  # the chunk that is running, blended with the ones before it


@dataclass(frozen=True)
class Hold:
    """Do not move: zero twist, or hold the position. The gripper keeps its last command."""

    reason: HoldReason
    detail: str = ""


@dataclass(frozen=True, eq=False)
class Receipt:
    """What became of a submitted chunk."""

    refusal: Refusal | None = None
    detail: str = ""
    first_step: int = 0  # the first step that can still be executed; earlier ones are past
    jump: Floats | None = None  # (A,) new minus old command at the splice; None when nothing was running

    @property
    def accepted(self) -> bool:
        return self.refusal is None
