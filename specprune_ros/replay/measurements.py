# SPDX-License-Identifier: Apache-2.0
"""What is measured at every moment: differences from dense, dense's own noise, seams, flips, latency.

The noise floor. Two dense chunks of consecutive observations speak about the same time steps and do not agree exactly;
nor does dense agree with itself when its images have gone through JPEG once more. Nobody calls that a failure, so no
difference of a pruned arm below it is one. All three are measured over the same number of steps: those that
consecutive chunks share, or the whole chunk where they share none.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specprune_ros.replay.arms import DENSE
from specprune_ros.replay.differences import ChunkSpace, Difference
from specprune_ros.replay.moment import Moment
from specprune_ros.sensing.stamps import NANOSECONDS

FLOOR = 95  # percentile of dense's own differences that is called its noise
EXPECTED = 1 - FLOOR / 100  # share of inferences in which dense itself exceeds that
NAN = Difference(math.nan, math.nan, math.nan)


class Measurements:
    """Numbers per moment, some 100 bytes for each arm."""

    def __init__(self, space: ChunkSpace, arms: Sequence[str]) -> None:
        self.space, self.arms = space, tuple(arms)
        self.times: list[float] = []
        self.shared: list[int] = []  # steps in common with the chunk before
        self.whole: dict[str, list[Difference]] = {arm: [] for arm in arms}  # from dense, at the chunk's end
        self.window: dict[str, list[Difference]] = {arm: [] for arm in arms}  # from dense, over the shared steps
        self.consecutive: list[Difference] = []  # dense from dense before, over the shared steps
        self.jpeg: list[Difference] = []  # dense from dense after JPEG, over the shared steps
        self.seams: dict[str, list[float]] = {arm: [] for arm in arms}
        self.seconds: dict[str, list[float]] = {arm: [] for arm in arms}
        self.stages: dict[str, dict[str, list[float]]] = {arm: {} for arm in arms}
        self.flops: dict[str, list[float]] = {arm: [] for arm in arms}
        self.modes: dict[str, Counter[str]] = {arm: Counter() for arm in arms}
        self.reasons: dict[str, Counter[str]] = {arm: Counter() for arm in arms}
        self.flip_delays: dict[str, list[int]] = {arm: [] for arm in arms}  # steps later than dense, where both flip
        self.flips_missed: Counter[str] = Counter()
        self.flips_added: Counter[str] = Counter()
        self.tokens: dict[str, dict[str, NDArray[np.float64]]] = {arm: {} for arm in arms}  # mode -> sum per layer
        self._before: Moment | None = None

    def add(self, moment: Moment) -> None:
        space, dense = self.space, moment.chunks[DENSE].actions
        rotation = moment.pose.rotation if moment.pose is not None else None
        steps, before = len(dense), self._before
        shared = space.shared_steps(before.stamp / NANOSECONDS, moment.stamp / NANOSECONDS, steps) if before else 0
        if before is not None and before.instruction != moment.instruction:
            shared = 0
        window = shared or steps
        self.times.append(moment.time)
        self.shared.append(shared)
        earlier = before.chunks[DENSE].actions[steps - shared :] if before and shared else None
        self.consecutive.append(NAN if earlier is None else space.difference(earlier, dense[:shared], rotation))
        self.jpeg.append(space.difference(moment.after_jpeg[:window], dense[:window], rotation))
        for arm, chunk in moment.chunks.items():
            actions = chunk.actions
            self.whole[arm].append(space.difference(actions, dense, rotation))
            self.window[arm].append(space.difference(actions[:window], dense[:window], rotation))
            last = before.chunks[arm].actions[steps - shared :] if before and shared else None
            self.seams[arm].append(math.nan if last is None else space.seam(last, actions))
            self._add_flips(arm, actions, dense)
            self._add_cost(arm, chunk)
        self._before = moment

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
            self.stages[arm].setdefault(stage, []).append(seconds)
        self.flops[arm].append(report.flop_share)
        self.modes[arm][report.mode] += 1
        self.reasons[arm][f"{report.mode}: {report.reason}"] += 1
        tokens = np.array(report.tokens_per_layer, np.float64)
        self.tokens[arm][report.mode] = self.tokens[arm].get(report.mode, 0) + tokens

    # Results

    def floor(self) -> dict[str, float]:
        """The noise floor: centimetres, degrees (the larger of both kinds), and the share of gripper steps."""
        return {
            measure: max(
                (value for value in (percentile(self.consecutive, measure), percentile(self.jpeg, measure)) if value),
                default=0.0,
            )
            for measure in ("centimetres", "degrees")
        } | {"gripper": max(mean(self.consecutive, "gripper"), mean(self.jpeg, "gripper"))}

    def exceeding(self, arm: str, floor: dict[str, float]) -> NDArray[np.bool_]:
        """(N,) whether an arm differs from dense by more than dense's own noise, in position or in turn."""
        values = [(seen.centimetres, seen.degrees) for seen in self.window[arm]]
        apart = np.array(values, np.float64).reshape(-1, 2)
        return (np.nan_to_num(apart) > [floor["centimetres"], floor["degrees"]]).any(axis=1)

    def worst(self, arm: str, count: int) -> list[int]:
        """Moments at which an arm is furthest from dense, relative to the floor, the worst first."""
        floor = self.floor()
        scale = np.array([max(floor["centimetres"], 1e-6), max(floor["degrees"], 1e-6)])
        values = [(seen.centimetres, seen.degrees) for seen in self.whole[arm]]
        score = (np.nan_to_num(np.array(values, np.float64).reshape(-1, 2)) / scale).max(axis=1)
        order = np.argsort(-score, kind="stable")
        return [int(index) for index in order[:count] if score[index] > 0]


def column(values: Sequence[Difference], measure: str) -> NDArray[np.float64]:
    """(N,) one number of each difference, those that are not known left out."""
    found = np.array([getattr(value, measure) for value in values], np.float64)
    return found[np.isfinite(found)]


def percentile(values: Sequence[Difference], measure: str, rank: float = FLOOR) -> float | None:
    found = column(values, measure)
    return float(np.percentile(found, rank)) if found.size else None


def mean(values: Sequence[Difference], measure: str) -> float:
    found = column(values, measure)
    return float(found.mean()) if found.size else 0.0
