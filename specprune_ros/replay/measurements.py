# SPDX-License-Identifier: Apache-2.0
"""What is measured at every moment: differences from dense, dense's own noise, seams, flips, latency.

The noise floor. Two dense chunks of consecutive observations speak about the same time steps and do not agree exactly;
nor does dense agree with itself when its images have gone through JPEG once more. Nobody calls that a failure, so no
difference of a pruned arm below it is one. All three are measured over the same number of steps: those that
consecutive chunks share, or the whole chunk where they share none. Consecutive are two observations of the recording,
also where the arms infer on every N-th only.
"""

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specprune_ros.replay.arm_names import DENSE
from specprune_ros.replay.differences import ChunkSpace, Difference, Differences
from specprune_ros.replay.moment import Moment
from specprune_ros.stamps import NANOSECONDS

FLOOR = 95  # percentile of dense's own differences that is called its noise
EXPECTED = 1 - FLOOR / 100  # share of inferences in which dense itself exceeds that
NAN = Difference(math.nan, math.nan, math.nan)


class Measurements:
    """Numbers per moment, less than 200 bytes for each arm."""

    def __init__(self, space: ChunkSpace, arms: Sequence[str]) -> None:
        self.space, self.arms = space, tuple(arms)
        self.times = array("d")
        self.shared = array("l")  # steps in common with the chunk before
        self.whole = {arm: Differences() for arm in arms}  # from dense, at the chunk's end
        self.window = {arm: Differences() for arm in arms}  # from dense, over the shared steps
        self.consecutive = Differences()  # dense from dense before, over the shared steps
        self.jpeg = Differences()  # dense from dense after JPEG, over the shared steps
        self.seams = {arm: array("d") for arm in arms}
        self.seconds = {arm: array("d") for arm in arms}
        self.stages: dict[str, dict[str, array[float]]] = {arm: {} for arm in arms}
        self.flops = {arm: array("d") for arm in arms}
        self.modes: dict[str, Counter[str]] = {arm: Counter() for arm in arms}
        self.reasons: dict[str, Counter[str]] = {arm: Counter() for arm in arms}
        self.flip_delays = {arm: array("l") for arm in arms}  # steps later than dense, where both flip
        self.flips_missed: Counter[str] = Counter()
        self.flips_added: Counter[str] = Counter()
        self.tokens: dict[str, dict[str, NDArray[np.float64]]] = {arm: {} for arm in arms}  # mode -> sum per layer
        self._before: Moment | None = None
        self._measured = False  # whether dense was asked about the observation after `_before`

    def add(self, moment: Moment) -> None:
        space, dense = self.space, moment.chunks[DENSE].actions
        rotation = moment.pose.rotation if moment.pose is not None else None
        steps, before = len(dense), self._before
        shared = space.shared_steps(before.stamp / NANOSECONDS, moment.stamp / NANOSECONDS, steps) if before else 0
        if before is not None and before.instruction != moment.instruction:
            shared = 0
        self.times.append(moment.time)
        if before and shared and not self._measured:
            earlier = before.chunks[DENSE].actions[steps - shared :]
            self.consecutive.append(space.difference(earlier, dense[:shared], rotation))
        self.shared.append(shared)
        self.jpeg.append(NAN)
        for arm, chunk in moment.chunks.items():
            actions = chunk.actions
            self.whole[arm].append(space.difference(actions, dense, rotation))
            self.window[arm].append(NAN)
            last = before.chunks[arm].actions[steps - shared :] if before and shared else None
            self.seams[arm].append(math.nan if last is None else space.seam(last, actions))
            self._add_flips(arm, actions, dense)
            self._add_cost(arm, chunk)
        self._measure_window(moment, shared or steps)
        self._before, self._measured = moment, False

    def add_next(self, stamp: int, actions: NDArray[np.float64]) -> None:
        """(C, A) what dense says to the observation right after the last moment's; `stamp`: its own, nanoseconds."""
        last = self._before
        if last is None:
            return
        shared = self.space.shared_steps(last.stamp / NANOSECONDS, stamp / NANOSECONDS, len(actions))
        if shared:
            dense = last.chunks[DENSE].actions
            rotation = last.pose.rotation if last.pose is not None else None
            self.consecutive.append(self.space.difference(dense[-shared:], actions[:shared], rotation))
            self.shared[-1] = shared
            self._measure_window(last, shared)
            self._measured = True

    def _measure_window(self, moment: Moment, steps: int) -> None:
        """Every arm and JPEG against dense over the first `steps`, of the last moment."""
        dense = moment.chunks[DENSE].actions[:steps]
        rotation = moment.pose.rotation if moment.pose is not None else None
        self.jpeg.replace_last(self.space.difference(moment.after_jpeg[:steps], dense, rotation))
        for arm, chunk in moment.chunks.items():
            self.window[arm].replace_last(self.space.difference(chunk.actions[:steps], dense, rotation))

    def _add_flips(self, arm: str, actions: NDArray[np.float64], dense: NDArray[np.float64]) -> None:
        for own, reference in zip(self.space.flips(actions), self.space.flips(dense), strict=True):
            if own >= 0 and reference >= 0:
                self.flip_delays[arm].append(own - reference)
            self.flips_missed[arm] += own < 0 <= reference
            self.flips_added[arm] += reference < 0 <= own

    def _add_cost(self, arm: str, chunk: Any) -> None:
        report = chunk.pruning
        self.seconds[arm].append(chunk.seconds)
        for stage, seconds in chunk.stage_seconds.items():
            self.stages[arm].setdefault(stage, array("d")).append(seconds)
        self.flops[arm].append(report.flop_share)
        self.modes[arm][report.mode] += 1
        self.reasons[arm][f"{report.mode}: {report.reason}"] += 1
        tokens = np.array(report.tokens_per_layer, np.float64)
        self.tokens[arm][report.mode] = self.tokens[arm].get(report.mode, 0) + tokens

    # Results

    def floor(self, rank: float = FLOOR) -> dict[str, float]:
        """The noise floor: centimetres, degrees (the larger of both kinds), and the share of gripper steps."""
        kinds = self.consecutive, self.jpeg
        return {
            measure: max((value for kind in kinds if (value := percentile(kind, measure, rank))), default=0.0)
            for measure in ("centimetres", "degrees")
        } | {"gripper": max(mean(kind, "gripper") for kind in kinds)}

    def jpeg_floor(self) -> dict[str, float]:
        """What one round trip through JPEG alone changes, in centimetres and degrees."""
        return {measure: percentile(self.jpeg, measure) or 0.0 for measure in ("centimetres", "degrees")}

    def exceeding(self, arm: str, floor: dict[str, float]) -> NDArray[np.bool_]:
        """(N,) whether an arm differs from dense by more than dense's own noise, in position or in turn."""
        apart = _motion(self.window[arm])
        return (np.nan_to_num(apart) > [floor["centimetres"], floor["degrees"]]).any(axis=1)

    def worst(self, arm: str, count: int) -> list[int]:
        """Moments at which an arm is furthest from dense, relative to the floor, the worst first."""
        floor = self.floor()
        scale = np.array([max(floor["centimetres"], 1e-6), max(floor["degrees"], 1e-6)])
        score = (np.nan_to_num(_motion(self.whole[arm])) / scale).max(axis=1)
        order = np.argsort(-score, kind="stable")
        return [int(index) for index in order[:count] if score[index] > 0]


def _motion(values: Differences) -> NDArray[np.float64]:
    """(N, 2) centimetres and degrees."""
    return np.stack([values.column("centimetres"), values.column("degrees")], axis=1)


def column(values: Differences, measure: str) -> NDArray[np.float64]:
    """(N,) one number of each difference, those that are not known left out."""
    found = values.column(measure)
    return found[np.isfinite(found)]


def percentile(values: Differences, measure: str, rank: float = FLOOR) -> float | None:
    """Of the differences that are known; None without any."""
    found = column(values, measure)
    return float(np.percentile(found, rank)) if found.size else None


def mean(values: Differences, measure: str) -> float:
    """Of the differences that are known; 0 without any."""
    found = column(values, measure)
    return float(found.mean()) if found.size else 0.0
