# SPDX-License-Identifier: Apache-2.0
"""How much faster a pruned policy is than the same policy without pruning, on the same frames."""

import time
from typing import Any

import numpy as np

from specprune_ros.policy import Observation, Policy

TIME_LIMIT = 60.0  # seconds; a large model on a CPU is measured on fewer frames


def measure_speedup(
    dense: Policy,
    pruned: Policy,
    observations: list[Observation],
    inferred: set[float],
) -> dict[str, Any]:
    """Run both policies in turns over an episode, so that whatever else the machine does slows both alike.

    `inferred`: stamps at which the episode had an inference; at the others the frames are only remembered, as then.
    Returns medians in ms, over all inferences and per mode of the pruned policy.
    """
    instruction = observations[0].instruction
    for policy in (dense, pruned):
        policy.warm_up(instruction)
    seconds: dict[str, list[tuple[float, float]]] = {}
    until = time.monotonic() + TIME_LIMIT
    for observation in observations:
        if time.monotonic() > until:
            break
        if observation.stamp in inferred:
            reference, chunk = dense.act(observation), pruned.act(observation)
            seconds.setdefault(chunk.pruning.mode, []).append((reference.seconds, chunk.seconds))
        else:
            pruned.observe(observation.views, observation.stamp)
    every = [pair for pairs in seconds.values() for pair in pairs]
    return {**_compared(every), "per_mode": {mode: _compared(pairs) for mode, pairs in seconds.items()}}


def _compared(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    if not pairs:
        return {"frames": 0, "dense_p50_ms": None, "pruned_p50_ms": None, "speedup": None}
    dense, pruned = np.median(pairs, axis=0)
    return {
        "frames": len(pairs),
        "dense_p50_ms": round(dense * 1e3, 3),
        "pruned_p50_ms": round(pruned * 1e3, 3),
        "speedup": round(dense / pruned, 3),
    }
