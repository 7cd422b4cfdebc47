# SPDX-License-Identifier: Apache-2.0
"""Normalisation of proprio and actions by the data set's statistics (`dataset_statistics.json`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specprune_ros.checked_values import as_numbers
from specprune_ros.errors import CheckpointError, ObservationError
from specprune_ros.openvla.family import NORMALIZATIONS
from specprune_ros.openvla.files import exists, is_number, read_json, shown

EPSILON = 1e-8
STATISTICS = ("q01", "q99", "min", "max")
CONSTANT_TOLERANCE = 1e-3  # in the checkpoint's units (m, rad): what a sensor's noise makes of a constant number
FILE = "dataset_statistics.json"


@dataclass(frozen=True, eq=False)
class Bounds:
    """How the training data scaled one group of numbers, proprio or action; D dimensions.

    A dimension that never changed in the data (`constant`: min = max) was always 0 in training, so it is 0 here too.
    The reference's inference instead maps it to -1 or, with the smallest noise, to +1: inputs that training never had.
    """

    low: NDArray[np.float64]  # (D,) usual low and high of the data
    high: NDArray[np.float64]
    mask: NDArray[np.bool_]  # (D,) False where numbers pass through
    constant: NDArray[np.bool_]  # (D,) True where the data's smallest and largest number are one
    largest: NDArray[np.float64]  # (D,) of the data

    @property
    def flat(self) -> NDArray[np.bool_]:
        """(D,): both quantiles are one number although the data had others too, such as a gripper that seldom moves."""
        return ~self.constant & (self.high - self.low <= EPSILON)

    def normalize(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(D,) in the checkpoint's units -> (D,) in [-1, 1], clipped, where the mask is False too (as the reference).

        Of a `flat` dimension training saw -1, and +1 in outliers above; half-way between them decides, not noise.
        """
        scaled = 2 * (values - self.low) / (self.high - self.low + EPSILON) - 1
        outlying = (self.largest - self.low > EPSILON) & (values > (self.low + self.largest) / 2)
        scaled = np.where(self.flat, np.where(outlying, 1.0, -1.0), scaled)
        clipped = np.clip(np.where(self.mask, scaled, values), -1.0, 1.0)
        return np.where(self.constant, 0.0, clipped)

    def unnormalize(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., D) in [-1, 1] -> in the checkpoint's units; constant dimensions are what they were, masked or not."""
        scaled = 0.5 * (values + 1) * (self.high - self.low + EPSILON) + self.low
        return np.where(self.constant, self.low, np.where(self.mask, scaled, values))

    def moved(self, values: NDArray[np.float64]) -> list[int]:
        """Dimensions that were constant in the training data and are another number now."""
        tolerance = CONSTANT_TOLERANCE * np.maximum(1.0, np.abs(self.low))
        result: list[int] = np.flatnonzero(self.constant & (np.abs(values - self.low) > tolerance)).tolist()
        return result


NO_BOUNDS = Bounds(np.empty(0), np.empty(0), np.empty(0, bool), np.empty(0, bool), np.empty(0))


@dataclass(frozen=True, eq=False)
class Normalizer:
    """Maps proprio to [-1, 1] and actions back from it."""

    proprio: Bounds  # (P,)
    action: Bounds  # (A,)

    def normalize_proprio(self, proprio: ArrayLike | None) -> NDArray[np.float64]:
        """(P,) in the checkpoint's units -> (P,) in [-1, 1], clipped. Raises ObservationError on kind, shape, NaN.

        A checkpoint without proprio takes anything, and reads nothing of it.
        """
        if not len(self.proprio.low):
            return self.proprio.low
        values = as_numbers(proprio, "proprio", (len(self.proprio.low),))
        if not np.isfinite(values).all():
            raise ObservationError(
                f"proprio[{int(np.argmin(np.isfinite(values)))}] is not finite; check the joint states"
            )
        return self.proprio.normalize(values)

    def unnormalize_actions(self, actions: ArrayLike) -> NDArray[np.float64]:
        """(C, A) in [-1, 1] -> (C, A) float64 in the checkpoint's units."""
        return self.action.unnormalize(np.asarray(actions, dtype=np.float64))


def read_statistics(checkpoint: Path, config: dict[str, Any]) -> dict[str, Any]:
    """All statistics of a checkpoint, by unnorm_key; `dataset_statistics.json` replaces config.json's `norm_stats`."""
    path = checkpoint / FILE
    statistics = read_json(path) if exists(path) else config.get("norm_stats")
    if not statistics:
        what = "is empty" if exists(path) else "is missing and config.json has no norm_stats"
        raise CheckpointError(f"{path} {what}; copy the file from the checkpoint")
    action = statistics.get("action") if isinstance(statistics, dict) else None
    if isinstance(action, dict) and any(isinstance(action.get(name), list) for name in STATISTICS):
        raise CheckpointError(
            f'{path} has no unnorm_key around its statistics; write {{"my_robot": {{"action": ..., "proprio": ...}}}}'
        )
    if not isinstance(statistics, dict) or not all(isinstance(entry, dict) for entry in statistics.values()):
        raise CheckpointError(f"{path} does not hold statistics by unnorm_key; copy the file from the checkpoint")
    return statistics


def choose_key(statistics: dict[str, Any], unnorm_key: str | None) -> str:
    """The key to use: the given one, or the only one. Raises CheckpointError that lists the known keys."""
    known = ", ".join(sorted(statistics))
    if unnorm_key is None:
        if len(statistics) > 1:
            raise CheckpointError(f"the checkpoint has several statistics; set unnorm_key to one of: {known}")
        return next(iter(statistics))
    if unnorm_key not in statistics:
        raise CheckpointError(f"the checkpoint has no statistics for unnorm_key '{unnorm_key}'; use one of: {known}")
    return unnorm_key


def suite_key(checkpoint: Path, suite: str) -> str:
    """The key of the only statistics, or of several the LIBERO suite's own, as the public evaluation chooses.

    Raises CheckpointError.
    """
    config = checkpoint / "config.json"
    statistics = read_statistics(checkpoint, read_json(config) if exists(config) else {})
    own = [key for key in statistics if suite.startswith(key.removesuffix("_no_noops"))]
    return choose_key(statistics, own[0] if len(statistics) > 1 and own else None)


def has_motion(entry: dict[str, Any], group: str) -> bool:
    """Whether statistics of `group`, where there are any, are of something else than zeros."""
    values = entry.get(group)
    vectors = [vector for vector in values.values() if isinstance(vector, list)] if isinstance(values, dict) else []
    return not vectors or any(number != 0 for vector in vectors for number in vector if is_number(number))


def normalizer(statistics: dict[str, Any], unnorm_key: str, normalization: str, proprio: bool = True) -> Normalizer:
    """The normaliser of one key. `normalization`: 'quantile' (q01, q99) or 'bounds' (min, max).

    `proprio`: whether the checkpoint takes proprio; statistics may have it all the same.
    Raises CheckpointError when statistics are missing, are not lists of numbers, or contradict each other.
    """
    entry = statistics[unnorm_key]
    of_proprio = bounds(entry, unnorm_key, "proprio", normalization) if proprio else NO_BOUNDS
    return Normalizer(of_proprio, bounds(entry, unnorm_key, "action", normalization))


def bounds(entry: dict[str, Any], unnorm_key: str, group: str, normalization: str) -> Bounds:
    """The bounds of `group`: 'proprio' or 'action'. Raises CheckpointError, see `normalizer`."""
    where = f"{FILE}: {unnorm_key}.{group}"
    values = entry.get(group)
    if values is None:
        raise CheckpointError(f"{where} is missing; copy the file of this checkpoint's training run")
    if not isinstance(values, dict):
        raise CheckpointError(f"{where} is {shown(values)}, not an object with q01, q99, min, max; copy the file again")

    chosen = NORMALIZATIONS[normalization]
    vectors = {
        name: _vector(values, name, where) for name in STATISTICS if name in chosen or values.get(name) is not None
    }
    low, high = (vectors[name] for name in chosen)
    _check_order(vectors, len(low), where)
    mask = values.get("mask")
    if mask is None:
        mask = [True] * len(low)
    if not isinstance(mask, list) or not all(isinstance(flag, bool) for flag in mask):
        raise CheckpointError(f"{where}.mask is {shown(mask)}; it has to be a list of true and false, without quotes")
    if len(mask) != len(low):
        raise CheckpointError(f"{where}.mask has {len(mask)} entries, not {len(low)}; copy the file again")
    constant = vectors.get("min", low) == vectors.get("max", high)
    return Bounds(low, high, np.array(mask, dtype=bool), constant, vectors.get("max", high))


def _vector(values: dict[str, Any], name: str, where: str) -> NDArray[np.float64]:
    vector = values.get(name)
    if vector is None:
        others = ", ".join(key for key in values if key != "mask" and values[key] is not None) or "nothing"
        raise CheckpointError(
            f"{where}.{name} is missing (there is {others}); copy the file of this checkpoint's training run, or set "
            "proprio_normalization to what it has: quantile needs q01 and q99, bounds min and max"
        )
    if not isinstance(vector, list) or not vector or not all(map(is_number, vector)):
        raise CheckpointError(f"{where}.{name} is not a list of finite numbers; copy the file again")
    return np.array(vector, dtype=np.float64)


def _check_order(vectors: dict[str, NDArray[np.float64]], size: int, where: str) -> None:
    for name, vector in vectors.items():
        if len(vector) != size:
            raise CheckpointError(
                f"{where} has bounds of unequal length ({name} has {len(vector)}); copy the file again"
            )
    for low, high in NORMALIZATIONS.values():
        if low in vectors and high in vectors and (vectors[low] > vectors[high]).any():
            index = int(np.argmax(vectors[low] > vectors[high]))
            raise CheckpointError(
                f"{where}.{low}[{index}] is {vectors[low][index]:g}, above {high}[{index}], {vectors[high][index]:g}; "
                "swap them if they were written the wrong way round, or copy the file again"
            )
