# SPDX-License-Identifier: Apache-2.0
"""When to compute the next chunk."""

from dataclasses import dataclass
from enum import StrEnum

from specprune_ros.control.arm import Motion
from specprune_ros.parameters import check, parameter


@dataclass(frozen=True)
class ReplanConfig:
    """The parameters `replan.*`."""

    when: str = parameter(
        "continuous",
        "continuous: as soon as the last inference is done; chunk_end: just in time for the running chunk's end, which "
        "executes whole chunks as the checkpoints were evaluated.",
        choices=("continuous", "chunk_end"),
    )
    margin: float = parameter(
        0.05,
        "chunk_end: start this much earlier than the expected latency asks for.",
        minimum=0.0,
        maximum=5.0,
        unit="s",
    )
    on_fine: bool = parameter(
        True, "chunk_end: replan early when the pruning mode switches from coarse to fine, as the paper's code does."
    )
    max_deviation: float = parameter(
        0.05, "chunk_end: replan when the arm is this far from the plan.", minimum=0.001, maximum=10.0, unit="m"
    )
    max_deviation_angle: float = parameter(
        0.3,
        "chunk_end: replan when the arm, or one of its joints, is turned this far from the plan.",
        minimum=0.01,
        maximum=10.0,
        unit="rad",
    )

    def __post_init__(self) -> None:
        check(self, "replan")


class ReplanReason(StrEnum):
    """Why an inference starts."""

    CONTINUOUS = "continuous"
    NO_PLAN = "no_plan"  # nothing is running
    CHUNK_END = "chunk_end"  # the running chunk ends within the expected latency
    FINE = "fine"  # the mode switched from coarse to fine
    DEVIATION = "deviation"  # the arm has left the plan


class Replanner:
    """Remembers the last mode, so that a switch triggers once."""

    def __init__(self, config: ReplanConfig) -> None:
        self.config = config
        self._mode = ""

    def due(self, motion: Motion | None, mode: str, latency: float) -> ReplanReason | None:
        """Why an inference should start now, or None.

        `motion`: of this control tick, None when the arm holds. `mode`: the pruning mode that the measured motion asks
        for, "coarse" or "fine". `latency`: expected from observation to chunk, seconds. Call it once every tick.
        """
        switched, self._mode = self._mode == "coarse" and mode == "fine", mode
        config = self.config
        if motion is None:
            return ReplanReason.NO_PLAN
        if config.when == "continuous":
            return ReplanReason.CONTINUOUS
        if switched and config.on_fine:
            return ReplanReason.FINE
        if motion.deviation > config.max_deviation or motion.deviation_angle > config.max_deviation_angle:
            return ReplanReason.DEVIATION
        if motion.command.remaining <= latency + config.margin:
            return ReplanReason.CHUNK_END
        return None
