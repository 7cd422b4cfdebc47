# SPDX-License-Identifier: Apache-2.0
"""Whose statistics fit the recording: those of the chosen unnorm_key, or those of another key of the checkpoint?

The recorded arm is compared with what each key calls usual: its proprio, and how far it goes in a step of an action.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specprune_ros.control.action_space import ActionSpace
from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.files import exists, read_json
from specprune_ros.openvla.statistics import bounds, read_statistics
from specprune_ros.replay.finding import Finding
from specprune_ros.replay.intervals import Intervals

BEYOND = 0.05  # of the range: so little outside of it is usual
CLIPPED = 0.2  # share of observations outside of a number's range that is worth a line
FASTER, SLOWER = 2.0, 0.05  # times as far per step as the key's largest usual action
CLEARLY = 4.0  # times better that another key has to fit
TINY = 1e-6
FEW = 10  # observations below which nothing is said of a key
FASTEST = 0.95  # percentile of the steps that is compared


@dataclass(frozen=True, eq=False)
class Ranges:
    """Usual low and high of one key, in the checkpoint's units."""

    proprio: tuple[NDArray[np.float64], NDArray[np.float64]] | None  # (P,) twice
    action: tuple[NDArray[np.float64], NDArray[np.float64]]  # (A,) twice


def read_ranges(checkpoint: Path, normalization: str) -> dict[str, Ranges]:
    """Of every key of a checkpoint whose statistics can be read. `normalization`: see `statistics.normalizer`."""
    found = {}
    config = checkpoint / "config.json"
    try:
        statistics = read_statistics(checkpoint, read_json(config) if exists(config) else {})
    except CheckpointError:
        return {}
    for key, entry in statistics.items():
        try:
            action = bounds(entry, key, "action", normalization)
            proprio = bounds(entry, key, "proprio", normalization) if entry.get("proprio") else None
        except CheckpointError:
            continue
        found[key] = Ranges((proprio.low, proprio.high) if proprio else None, (action.low, action.high))
    return found


class KeyFit:
    """How the recorded arm lies in the ranges of one key."""

    def __init__(self, ranges: Ranges, space: ActionSpace) -> None:
        self.ranges, self._space = ranges, space
        size = len(ranges.proprio[0]) if ranges.proprio else 0
        self._outside = np.zeros(size, np.int64)
        self.count = 0
        self.smallest, self.largest = np.full(size, math.inf), np.full(size, -math.inf)
        low, high = (values[space.arm] for values in ranges.action)
        self._joint_range = low, high
        limits = np.maximum(np.abs(low), np.abs(high))
        config = space.config
        # The largest usual step: m and rad for increments.
        self._longest = (
            (float(limits[:3].max()) * config.metres_per_unit, float(limits[3:].max()) * config.radians_per_unit)
            if config.delta
            else (math.nan, math.nan)
        )
        self._steps = (Intervals(), Intervals())  # of the recorded arm, shares of the longest
        self._joints_outside = np.zeros(len(low), np.int64)
        self.joints_count = 0

    def add(
        self, proprio: NDArray[np.float64], twist: NDArray[np.float64] | None, joints: NDArray[np.float64] | None
    ) -> None:
        """An observation: (P,) in checkpoint units, (6,) m/s and rad/s, (J,) rad."""
        if len(proprio) == len(self._outside) and self.ranges.proprio:
            self.count += 1
            self._outside += _beyond(proprio, *self.ranges.proprio)
            self.smallest, self.largest = np.minimum(self.smallest, proprio), np.maximum(self.largest, proprio)
        config = self._space.config
        if config.delta and twist is not None:
            for steps, longest, part in zip(self._steps, self._longest, (twist[:3], twist[3:]), strict=True):
                if longest > 0:
                    steps.add(float(np.linalg.norm(part)) * config.step_duration / longest)
        if not config.delta and joints is not None and len(joints) == len(self._joints_outside):
            self.joints_count += 1
            self._joints_outside += _beyond(joints, *self._joint_range)

    @property
    def outside(self) -> NDArray[np.float64]:
        """(P,) share of observations in which a number of the proprio is outside of its range."""
        return self._outside / max(self.count, 1)

    @property
    def joints_outside(self) -> NDArray[np.float64]:
        """(J,) the same of the joints and an absolute action's range."""
        return self._joints_outside / max(self.joints_count, 1)

    @property
    def pace(self) -> tuple[float, float]:
        """How far the recorded arm goes in a step, of the key's longest usual ones: metres, radians; nan: unknown."""
        shares = [steps.percentile(FASTEST) if steps.count >= FEW else math.nan for steps in self._steps]
        return shares[0], shares[1]

    @property
    def misfit(self) -> float:
        """0 where everything lies in the ranges; worse the larger."""
        shares = [*self.outside, *self.joints_outside]
        found = max(shares, default=0.0)
        paces = [pace for pace in self.pace if math.isfinite(pace)]
        found += sum(max(0.0, math.log2(max(pace, TINY) / FASTER)) for pace in paces)
        if paces:  # an arm that only goes, or only turns, is no fault
            found += max(0.0, math.log2(SLOWER / max(*paces, TINY)))
        return float(found)

    def summary(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "proprio_outside_range": [round(float(share), 4) for share in self.outside],
            "joints_outside_range": [round(float(share), 4) for share in self.joints_outside],
            "step_of_longest": [round(pace, 4) if math.isfinite(pace) else None for pace in self.pace],
            "misfit": round(self.misfit, 4),
        }


def about_keys(fits: Mapping[str, KeyFit], chosen: str) -> list[Finding]:
    """What is wrong with the chosen key, and whether another one fits."""
    if chosen not in fits:
        return []
    own = fits[chosen]
    others = {key: fit.misfit for key, fit in fits.items() if key != chosen}
    best = min(others, key=lambda key: others[key]) if others else ""
    if (
        best
        and own.misfit > CLIPPED
        and others[best] < own.misfit / CLEARLY
        and max(own.count, own.joints_count) >= FEW
    ):
        reasons = "; ".join(_reasons(own))
        text = f"model.unnorm_key is {chosen}, but the statistics of {best} fit the recording: {reasons}"
        return [Finding("wrong_unnorm_key", "error", f"{text}; set model.unnorm_key {best}, or check the units")]
    return [
        Finding(kind, "error", f"{reason}; check model.unnorm_key, {where}")
        for kind, where in (
            ("proprio_range", "inputs.base_frame, inputs.ee_frame and inputs.joint_names"),
            ("action_range", "controller.metres_per_unit, radians_per_unit and step_duration"),
        )
        for reason in _reasons(own, kind)
    ]


def _reasons(fit: KeyFit, kind: str = "") -> list[str]:
    """One line for everything that does not fit."""
    said = []
    if kind in ("", "proprio_range") and fit.ranges.proprio:
        low, high = fit.ranges.proprio
        for index in np.flatnonzero(fit.outside > CLIPPED):
            said.append(
                f"proprio[{index}] lies outside of the training data's {low[index]:.3g} to {high[index]:.3g} in "
                f"{fit.outside[index]:.0%} of the observations (here {fit.smallest[index]:.3g} to "
                f"{fit.largest[index]:.3g})"
            )
    if kind in ("", "action_range"):
        for index in np.flatnonzero(fit.joints_outside > CLIPPED):
            said.append(f"joint {index} lies outside of its actions' range in {fit.joints_outside[index]:.0%}")
        for pace, what in zip(fit.pace, ("goes", "turns"), strict=True):
            if pace > FASTER:
                said.append(f"the recorded arm {what} {pace:.2g} times as far in a step as the actions of this key")
        if not kind and all(pace < SLOWER for pace in fit.pace):  # a slow recording is no fault by itself
            said.append(f"the recorded arm goes only {fit.pace[0]:.2g} of what actions of this key do in a step")
    return said


def _beyond(values: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.bool_]:
    margin = BEYOND * (high - low)
    return np.asarray((values < low - margin) | (values > high + margin))
