# SPDX-License-Identifier: Apache-2.0
"""Which mode an inference runs in."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specprune_ros.pruning.config import PruningConfig


@dataclass
class Controller:
    """Coarse, fine or dense, with what it has to remember between inferences."""

    config: PruningConfig
    slow: bool = False
    inferences_since_dense: int | None = None  # None: no history

    def reset(self) -> None:
        self.slow = False
        self.inferences_since_dense = None

    def decide(self, twist: NDArray[np.float64] | None, dynamic_share: float) -> tuple[str, str]:
        """Mode and reason. `dynamic_share`: largest share of dynamic patches in any view."""
        self._watch(twist)
        dense_reason = self._dense_reason(dynamic_share)
        if dense_reason:
            self.inferences_since_dense = 0
            return "dense", dense_reason
        if not self.config.controller:
            return "coarse", "controller_off"
        if twist is None:
            return "fine", "velocity_unknown"
        return ("fine", "slow") if self.slow else ("coarse", "fast")

    def _dense_reason(self, dynamic_share: float) -> str:
        if self.inferences_since_dense is None:
            return "no_history"
        self.inferences_since_dense += 1
        if dynamic_share > self.config.scene_cut_share:
            return "scene_cut"
        return "refresh" if self.inferences_since_dense == self.config.refresh_interval else ""

    def _watch(self, twist: NDArray[np.float64] | None) -> None:
        if twist is None:
            self.slow = True
            return
        v_t, v_r, v_z = float(np.linalg.norm(twist[:3])), float(np.linalg.norm(twist[3:])), float(twist[2])
        most_t, most_r = self.config.translation_threshold, self.config.rotation_threshold
        if self.slow:
            factor = self.config.exit_factor
            self.slow = v_t < factor * most_t and v_r < factor * most_r
        else:
            self.slow = v_t < most_t and v_r < most_r and v_z <= 0
