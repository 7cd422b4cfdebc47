# SPDX-License-Identifier: Apache-2.0
"""How far the recorded grippers were open, from the proprio of an observation."""

import numpy as np
from numpy.typing import NDArray

from specprune_ros.replay.differences import ChunkSpace

FINGERS = 6  # an end effector's proprio is position and axis-angle, then the fingers' joints


class RecordedGripper:
    """Reads proprio, in the checkpoint's units."""

    def __init__(self, kind: str, proprio_range: tuple[NDArray[np.float64], NDArray[np.float64]], space: ChunkSpace):
        """`kind`: `inputs.proprio`. `proprio_range`: (P,) twice, the usual low and high in the training data."""
        low, high = proprio_range
        self._space, self._count = space, len(space.space.grippers)
        self._fingers = kind == "end_effector" and self._count == 1 and len(low) > FINGERS
        self._like_actions = kind == "joints" and not space.delta and len(low) == space.space.action_dim
        if self._fingers:  # a finger that moves along a negative axis counts as the other one
            ends = np.sort(np.abs([low[FINGERS:], high[FINGERS:]]), axis=0)
            self._closed, self._width = ends[0], np.maximum(ends[1] - ends[0], 1e-9)

    def openings(self, proprio: NDArray[np.float64]) -> NDArray[np.float64]:
        """(G,), 0 closed, 1 as wide open as in the training data; nan where it is not known."""
        if self._fingers and len(proprio) > FINGERS:
            shares = (np.abs(proprio[FINGERS:]) - self._closed) / self._width
            return np.clip([shares.mean()], 0.0, 1.0)
        if self._like_actions and len(proprio) == self._space.space.action_dim:
            return self._space.openings(proprio[None])[0]
        return np.full(self._count, np.nan)
