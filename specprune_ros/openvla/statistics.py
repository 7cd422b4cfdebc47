"""Normalisation of proprio and actions by the data set's statistics (`dataset_statistics.json`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specprune_ros.errors import CheckpointError, ObservationError
from specprune_ros.openvla.config import read_json

EPSILON = 1e-8
BOUNDS = {"quantile": ("q01", "q99"), "bounds": ("min", "max")}


@dataclass(frozen=True, eq=False)
class Normalizer:
    """Maps proprio to [-1, 1] and actions back from it.

    `*_low`, `*_high`: (P,) and (A,) float64 bounds; `action_mask`: (A,) bool, False where actions pass through.
    """

    proprio_low: NDArray[np.float64]
    proprio_high: NDArray[np.float64]
    action_low: NDArray[np.float64]
    action_high: NDArray[np.float64]
    action_mask: NDArray[np.bool_]

    def normalize_proprio(self, proprio: ArrayLike) -> NDArray[np.float64]:
        """(P,) in the checkpoint's units -> (P,) in [-1, 1], clipped. Raises ObservationError on shape, NaN or Inf."""
        values = np.asarray(proprio, dtype=np.float64)
        if values.shape != self.proprio_low.shape:
            expected = self.proprio_low.shape[0]
            raise ObservationError(f"proprio has shape {values.shape}; the checkpoint expects ({expected},) numbers")
        if not np.isfinite(values).all():
            raise ObservationError(
                f"proprio[{int(np.argmin(np.isfinite(values)))}] is not finite; check the joint states"
            )
        scaled = 2 * (values - self.proprio_low) / (self.proprio_high - self.proprio_low + EPSILON) - 1
        return np.clip(scaled, -1.0, 1.0)

    def unnormalize_actions(self, actions: ArrayLike) -> NDArray[np.float64]:
        """(C, A) in [-1, 1] -> (C, A) float64 in the checkpoint's units."""
        values = np.asarray(actions, dtype=np.float64)
        scaled = 0.5 * (values + 1) * (self.action_high - self.action_low + EPSILON) + self.action_low
        return np.where(self.action_mask, scaled, values)


def read_statistics(checkpoint: Path, config: dict[str, Any]) -> dict[str, Any]:
    """All statistics of a checkpoint, by unnorm_key; `dataset_statistics.json` replaces config.json's `norm_stats`."""
    path = checkpoint / "dataset_statistics.json"
    statistics = read_json(path) if path.exists() else config.get("norm_stats", {})
    if not statistics:
        raise CheckpointError(f"{path} is missing and config.json has no norm_stats; copy the file from the checkpoint")
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


def normalizer(statistics: dict[str, Any], unnorm_key: str, normalization: str) -> Normalizer:
    """The normaliser of one key. `normalization`: 'quantile' (q01, q99) or 'bounds' (min, max).

    Raises CheckpointError when a bound is missing, is not a list of numbers, or lengths differ.
    """
    if normalization not in BOUNDS:
        raise CheckpointError(f"proprio_normalization '{normalization}' is unknown; use one of: {', '.join(BOUNDS)}")
    entry = statistics[unnorm_key]
    proprio_low, proprio_high = _bounds(entry, unnorm_key, "proprio", normalization)
    action_low, action_high = _bounds(entry, unnorm_key, "action", normalization)
    mask = np.asarray(entry["action"].get("mask", [True] * len(action_low)), dtype=bool)
    if mask.shape != action_low.shape:
        raise CheckpointError(
            f"dataset_statistics.json: {unnorm_key}.action.mask has {mask.size} entries, not {len(action_low)}; "
            "copy the file again"
        )
    return Normalizer(proprio_low, proprio_high, action_low, action_high, mask)


def _bounds(entry: dict[str, Any], unnorm_key: str, group: str, normalization: str) -> list[NDArray[np.float64]]:
    """Low and high of `group`: 'proprio' or 'action'."""
    where = f"dataset_statistics.json: {unnorm_key}.{group}"
    bounds = []
    for name in BOUNDS[normalization]:
        values = entry.get(group, {}).get(name)
        if values is None:
            raise CheckpointError(f"{where}.{name} is missing; copy the file again")
        if not isinstance(values, list) or not all(type(x) in (int, float) and np.isfinite(x) for x in values):
            raise CheckpointError(f"{where}.{name} is not a list of finite numbers; copy the file again")
        bounds.append(np.array(values, dtype=np.float64))
    if len(bounds[0]) != len(bounds[1]):
        raise CheckpointError(f"{where} has bounds of unequal length; copy the file again")
    return bounds
