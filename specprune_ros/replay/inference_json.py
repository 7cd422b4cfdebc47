# SPDX-License-Identifier: Apache-2.0
"""One moment as plain values for report.json."""

from typing import Any

from specprune_ros.policy import ActionChunk
from specprune_ros.replay.moment import Moment
from specprune_ros.replay.summary import number


def moment_json(moment: Moment) -> dict[str, Any]:
    """Everything but the pictures. Times in seconds, stamps in nanoseconds, actions in checkpoint units."""
    return {
        "stamp": moment.stamp,
        "time": round(moment.time, 6),
        "proprio": moment.proprio.tolist(),
        "twist": None if moment.twist is None else moment.twist.tolist(),
        "position": None if moment.pose is None else moment.pose.position.tolist(),
        "quaternion": None if moment.pose is None else moment.pose.quaternion.tolist(),
        "joints": None if moment.joints is None else moment.joints.tolist(),
        "dense_after_jpeg": moment.after_jpeg.tolist(),
        "arms": {name: _chunk_json(chunk) for name, chunk in moment.chunks.items()},
    }


def _chunk_json(chunk: ActionChunk) -> dict[str, Any]:
    report = chunk.pruning
    return {
        "actions": chunk.actions.tolist(),
        "mode": report.mode,
        "reason": report.reason,
        "v_t": number(report.v_t),
        "v_r": number(report.v_r),
        "v_z": number(report.v_z),
        "kept_static": [kept.tolist() for kept in report.kept_static],
        "kept_final": [kept.tolist() for kept in report.kept_final],
        "tokens_per_layer": list(report.tokens_per_layer),
        "flop_share": number(report.flop_share),
        "seconds": number(chunk.seconds),
        "stage_seconds": {stage: number(seconds) for stage, seconds in chunk.stage_seconds.items()},
    }
