# SPDX-License-Identifier: Apache-2.0
"""Where a camera is, and how it projects."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specprune_ros.errors import ObservationError


@dataclass(frozen=True, eq=False)
class Camera:
    """A view's pinhole camera at one stamp.

    `intrinsics` (3, 3): from the optical frame (REP 103: x right, y down, z into the scene) to the view, in parts of
    its width and height, 0 to 1; a mirrored view has a negative first element. `pose` (4, 4): from the optical frame
    to the base frame, metres. Raises ObservationError for other shapes, numbers that are not finite, or intrinsics
    that cannot be inverted.
    """

    intrinsics: NDArray[np.float64]
    pose: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name, shape in (("intrinsics", (3, 3)), ("pose", (4, 4))):
            matrix = np.asarray(getattr(self, name), dtype=np.float64)
            if matrix.shape != shape or not np.isfinite(matrix).all():
                raise ObservationError(f"camera {name} must be a {shape} matrix of finite numbers, not {matrix}")
        if abs(np.linalg.det(self.intrinsics)) < 1e-12:
            raise ObservationError(f"camera intrinsics cannot be inverted: {self.intrinsics}")

    def cropped(self, area: float) -> "Camera":
        """The camera of the centre that is left when a view is cropped to this share of its area."""
        side = area**0.5
        crop = np.array([[1 / side, 0, 0.5 - 0.5 / side], [0, 1 / side, 0.5 - 0.5 / side], [0, 0, 1]])
        return Camera(crop @ self.intrinsics, self.pose)
