# SPDX-License-Identifier: Apache-2.0
"""The policy node, which also leaves every observation that it infers on in a folder, as arrays."""

import os
import sys
from pathlib import Path

import numpy as np

from specprune_ros.policy import ActionChunk, Observation, Policy

FOLDER = "OBSERVATIONS"  # environment variable


class ObservedPolicy(Policy):
    """The real policy."""

    def act(self, observation: Observation) -> ActionChunk:
        path = Path(os.environ[FOLDER]) / f"{round(observation.stamp * 1e9)}.npz"
        np.savez(path, **as_arrays(observation))
        return super().act(observation)


def as_arrays(observation: Observation) -> dict[str, np.ndarray]:
    """Everything that the policy reads; an unknown twist has no numbers."""
    twist = np.empty(0) if observation.twist is None else observation.twist
    views = {f"view_{name}": frame for name, frame in observation.views.items()}
    names = {"instruction": np.array(observation.instruction), "views": np.array(list(observation.views))}
    return {"stamp": np.array(observation.stamp), "proprio": observation.proprio, "twist": twist, **names, **views}


if __name__ == "__main__":
    from specprune_ros.nodes import model, policy_node

    model.Policy = ObservedPolicy  # type: ignore[misc]
    sys.exit(policy_node.main())
