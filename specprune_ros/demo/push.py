# SPDX-License-Identifier: Apache-2.0
"""What the demo's person does, as the command line says it."""

from dataclasses import dataclass

from specprune_ros.arrays import Floats

SERVICE, TOPIC = "service", "topic"


@dataclass(frozen=True)
class Push:
    """The arm is pushed aside once."""

    after: float  # seconds into the episode
    offset: Floats  # (3,) m along the axes of the arm's base
    by: str  # SERVICE or TOPIC: how the policy is told
