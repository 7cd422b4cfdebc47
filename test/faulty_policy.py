# SPDX-License-Identifier: Apache-2.0
"""The policy node on a machine that breaks: the instructions below inject what only broken hardware would cause."""

import sys

from specprune_ros.processes.interruption import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # as the node does, in the seconds that the imports take

import ctypes
import dataclasses
import time

import numpy as np
import torch

from specprune_ros.nodes import model, policy_node
from specprune_ros.policy import ActionChunk, Observation, Policy

OUT_OF_MEMORY = "inject out of memory"
BUG = "inject a bug"
NOT_A_NUMBER, TOO_LARGE = "inject nan", "inject large actions"
ACTIONS = {NOT_A_NUMBER: np.nan, TOO_LARGE: 1000.0}
NO_GRAPHS = "inject failed graph captures"
SLOW, SLOW_SECONDS = "inject a slow inference", 0.7
FROZEN, FROZEN_SECONDS = "inject a hang that holds Python's global lock", 120
HANGING, HANGING_SECONDS, HANGS_AT = "inject an inference that hangs", 4.0, 20  # every 20th one


class FaultyPolicy(Policy):
    """The real policy; only what `act` answers to one of the instructions above is broken."""

    _inferences = 0

    def act(self, observation: Observation) -> ActionChunk:
        chunk = super().act(observation)
        instruction = observation.instruction
        if instruction == OUT_OF_MEMORY:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if instruction == BUG:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        self._graphs.problem = "graphs could not be captured" if instruction == NO_GRAPHS else ""
        self._inferences += 1
        if instruction == SLOW:
            time.sleep(SLOW_SECONDS)
        if instruction == FROZEN:
            ctypes.PyDLL(None).sleep(FROZEN_SECONDS)
        if instruction == HANGING and self._inferences % HANGS_AT == 0:
            time.sleep(HANGING_SECONDS)
        value = ACTIONS.get(instruction)
        return chunk if value is None else dataclasses.replace(chunk, actions=np.full_like(chunk.actions, value))


def main() -> int:
    model.Policy = FaultyPolicy  # type: ignore[misc]
    return policy_node.main()


if __name__ == "__main__":
    sys.exit(main())
