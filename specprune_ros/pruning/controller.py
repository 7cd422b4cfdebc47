# SPDX-License-Identifier: Apache-2.0
"""The action-aware controller (paper section 4.3): coarse or fine from the measured motion, and when to run dense."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from specprune_ros.checked_values import as_numbers
from specprune_ros.pruning.config import PruningConfig
from specprune_ros.pruning.schedule import Mode


@dataclass(frozen=True)
class Speed:
    """How fast the end effector moves in the base frame."""

    v_t: float  # speed, m/s
    v_r: float  # angular speed, rad/s
    v_z: float  # vertical velocity, m/s, up is positive

    @classmethod
    def of(cls, twist: Sequence[float] | NDArray[np.float64] | None) -> "Speed | None":
        """From a (6,) twist, m/s and rad/s; None when it is missing or not finite. Raises ObservationError on shape."""
        if twist is None:
            return None
        x, y, z, *rotation = as_numbers(twist, "twist (linear m/s, angular rad/s)", (6,)).tolist()
        motion = cls(math.hypot(x, y, z), math.hypot(*rotation), z)
        return motion if all(map(math.isfinite, (motion.v_t, motion.v_r, motion.v_z))) else None


class Reason(StrEnum):
    """Why an inference has its mode."""

    PRUNING_OFF = "pruning_off"
    NO_HISTORY = "no_history"  # the first one, or after a reset
    SCENE_CUT = "scene_cut"  # most of a view changed
    REFRESH = "refresh"  # `refresh_interval` inferences without a dense one
    CONTROLLER_OFF = "controller_off"  # `controller` is false: always coarse
    VELOCITY_UNKNOWN = "velocity_unknown"  # no TF
    SLOW = "slow"
    FAST = "fast"


@dataclass(frozen=True)
class Decision:
    """The mode of an inference, and why."""

    mode: Mode
    reason: Reason


class ActionAwareController:
    """Chooses the mode of each inference. State: the last granularity (hysteresis) and inferences since a dense one."""

    def __init__(self, config: PruningConfig):
        self._config = config
        self.reset()

    def reset(self) -> None:
        self._fine = False
        self._has_history = False
        self._since_dense = 0

    def decide(self, motion: Speed | None, dynamic_share: float) -> Decision:
        """Mode of the next inference. `dynamic_share`: largest share of dynamic patches in any view."""
        granularity = self.granularity(motion)
        config = self._config
        self._since_dense += 1
        if not self._has_history:
            dense_reason = Reason.NO_HISTORY
        elif dynamic_share > config.scene_cut_share:
            dense_reason = Reason.SCENE_CUT
        elif config.refresh_interval and self._since_dense >= config.refresh_interval:
            dense_reason = Reason.REFRESH
        else:
            return granularity
        self._has_history = True
        self._since_dense = 0
        return Decision(Mode.DENSE, dense_reason)

    def granularity(self, motion: Speed | None) -> Decision:
        """Coarse or fine, by the motion alone."""
        config = self._config
        if not config.controller:
            return Decision(Mode.COARSE, Reason.CONTROLLER_OFF)
        if motion is None:
            self._fine = True
            return Decision(Mode.FINE, Reason.VELOCITY_UNKNOWN)
        factor = config.exit_factor if self._fine else 1.0
        slow = motion.v_t < config.translation_threshold * factor and motion.v_r < config.rotation_threshold * factor
        # Entering asks for a downward or resting hand; once fine, only speed leads out again.
        self._fine = slow and (self._fine or motion.v_z <= 0)
        return Decision(Mode.FINE, Reason.SLOW) if self._fine else Decision(Mode.COARSE, Reason.FAST)
