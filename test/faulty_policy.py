"""The policy node on a machine that breaks: the instructions below inject what only broken hardware would cause."""

import dataclasses
import sys
import time

import numpy as np
import torch

from specprune_ros.nodes import model, policy_node
from specprune_ros.policy import ActionChunk, Observation, Policy

OUT_OF_MEMORY = "inject out of memory"
BUG = "inject a bug"
NOT_A_NUMBER = "inject nan"
FAR_TOO_LARGE = "inject large actions"
SLOW = "inject a slow inference"
SLOW_SECONDS = 3.0


class FaultyPolicy(Policy):
    """The real policy; only what `act` answers to one of the instructions above is broken."""

    def act(self, observation: Observation) -> ActionChunk:
        chunk = super().act(observation)
        match observation.instruction:
            case "inject out of memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            case "inject a bug":
                raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
            case "inject nan":
                return dataclasses.replace(chunk, actions=np.full_like(chunk.actions, np.nan))
            case "inject large actions":
                return dataclasses.replace(chunk, actions=np.full_like(chunk.actions, 1000.0))
            case "inject a slow inference":
                time.sleep(SLOW_SECONDS)
        return chunk


if __name__ == "__main__":
    model.Policy = FaultyPolicy  # type: ignore[misc]
    sys.exit(policy_node.main())
