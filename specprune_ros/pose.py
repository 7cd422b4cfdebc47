# SPDX-License-Identifier: Apache-2.0
"""A rigid transform."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation


@dataclass(frozen=True, eq=False)
class Pose:
    """The pose of frame B in frame A, which is also the transform that takes coordinates in B to coordinates in A."""

    position: np.ndarray  # (3,) m
    quaternion: np.ndarray  # (4,) unit, xyzw, as in geometry_msgs

    @property
    def rotation(self) -> Rotation:
        return Rotation.from_quat(self.quaternion)

    def __matmul__(self, other: "Pose") -> "Pose":
        """The pose of C in A, from B in A (self) and C in B (other)."""
        rotation = self.rotation
        return Pose(self.position + rotation.apply(other.position), (rotation * other.rotation).as_quat())

    def inverse(self) -> "Pose":
        inverse = self.rotation.inv()
        return Pose(-inverse.apply(self.position), inverse.as_quat())


IDENTITY = Pose(np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0]))
