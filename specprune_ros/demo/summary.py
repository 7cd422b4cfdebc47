# SPDX-License-Identifier: Apache-2.0
"""The numbers of an episode."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, SupportsFloat

import numpy as np

from specprune_ros.policy import ActionChunk
from specprune_ros.viewing.episode import Episode


def summarize(episode: Episode) -> dict[str, Any]:
    """Plain values for JSON; None where the episode has no data. Times are in ms and s as the keys say."""
    chunks = episode.chunks
    modes = Counter(chunk.pruning.mode for chunk in chunks)
    reasons = Counter(f"{chunk.pruning.mode}: {chunk.pruning.reason}" for chunk in chunks)
    speeds = [float(np.linalg.norm(seen.twist[:3])) for seen in episode.observations if seen.twist is not None]
    return {
        "success": episode.success,
        "instruction": episode.instruction,
        "simulated_s": _rounded(episode.duration),
        "wall_s": _rounded(episode.wall_seconds),
        "real_time_factor": _mean(episode.real_time_factors),
        "frames": len(episode.observations),
        "inferences": len(chunks),
        "inference_ms": percentiles(chunk.seconds * 1e3 for chunk in chunks),
        "observation_age_simulated_ms": percentiles(age * 1e3 for age in episode.ages),
        "stage_p50_ms": _stages(chunks),
        "mode_share": {mode: _rounded(count / len(chunks)) for mode, count in modes.most_common()},
        "reasons": dict(reasons.most_common()),
        "patches": sum(chunks[0].pruning.patches) if chunks else None,
        "kept": {mode: _kept([c for c in chunks if c.pruning.mode == mode]) for mode in modes},
        "flop_share": _mean([chunk.pruning.flop_share for chunk in chunks]),
        "end_effector_speed_m_s": percentiles(speeds),
        "in_charge": dict(episode.in_charge),
        "push": episode.push or None,
    }


def percentiles(values: Iterable[float]) -> dict[str, float | None]:
    """p50, p99 and max; None without values."""
    array = np.array(list(values), dtype=np.float64)
    if not array.size:
        return {"p50": None, "p99": None, "max": None}
    return {
        "p50": _rounded(np.percentile(array, 50)),
        "p99": _rounded(np.percentile(array, 99)),
        "max": _rounded(array.max()),
    }


def _stages(chunks: list[ActionChunk]) -> dict[str, float | None]:
    names = dict.fromkeys(name for chunk in chunks for name in chunk.stage_seconds)
    return {name: _rounded(np.median([chunk.stage_seconds.get(name, 0.0) for chunk in chunks]) * 1e3) for name in names}


def _kept(chunks: list[ActionChunk]) -> dict[str, float | None]:
    """Mean number of patch tokens of all views alive, and the decoder's floating-point operations over dense ones."""
    return {
        "after_static_selection": _mean([sum(map(len, chunk.pruning.kept_static)) for chunk in chunks]),
        "after_last_layer": _mean([sum(map(len, chunk.pruning.kept_final)) for chunk in chunks]),
        "flop_share": _mean([chunk.pruning.flop_share for chunk in chunks]),
    }


def _mean(values: list[Any]) -> float | None:
    return _rounded(np.mean(values)) if values else None


def _rounded(value: SupportsFloat) -> float | None:
    number = float(value)
    return round(number, 4) if math.isfinite(number) else None
