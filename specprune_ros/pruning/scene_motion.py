# SPDX-License-Identifier: Apache-2.0
"""Where what each patch shows was in an earlier frame: by optical flow, or by the camera's motion over a plane.

Runs on the host, before the forward pass. Displacements are in patches, x right and y down: what patch i shows now was
at its centre plus displacement[i] then.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specprune_ros.camera import Camera
from specprune_ros.pruning.config import PruningConfig

STEPS = 64  # per patch: displacements are whole numbers of them, which float32 holds exactly
FLOW_SIZE = 112  # px, at most (and whole patches): side of the grey images that the flow is computed on


@dataclass(frozen=True, eq=False)
class MotionCue:
    """What is kept of an observation to tell how the scene moved since: grey images (V, s, s) uint8, and cameras."""

    grey: NDArray[np.uint8] | None = None
    cameras: tuple[Camera | None, ...] = ()


class SceneMotion:
    """How the scene moved in each view, as `history_motion` says.

    `grid`: patches along a view's side. `area`: the share of a view, around its middle, that the towers see.
    """

    def __init__(self, config: PruningConfig, grid: int, area: float = 1.0) -> None:
        self._kind = config.history_motion
        self._height = config.motion_plane_height
        self._grid = grid
        self._area = area

    def cue(self, views: Sequence[NDArray[np.uint8]], cameras: Sequence[Camera | None]) -> MotionCue:
        """Of an observation: camera frames, each (H, W, 3) uint8 RGB, and the cameras as far as known."""
        if self._kind == "none":
            return MotionCue()
        grey = np.stack([_grey(view, self._grid, self._area) for view in views])
        return MotionCue(grey, tuple(camera and camera.cropped(self._area) for camera in cameras))

    def displacement(self, now: MotionCue, before: MotionCue) -> NDArray[np.float32] | None:
        """(V, P, 2) in patches; None when nothing is known of the motion. A view without a camera stands still."""
        if now.grey is None or before.grey is None:
            return None
        views = []
        for images, cameras in zip(
            zip(now.grey, before.grey, strict=True), zip(now.cameras, before.cameras, strict=True), strict=True
        ):
            if self._kind == "flow":
                views.append(_in_steps(flow_displacement(*images, self._grid)))
            else:
                plane = _in_steps(plane_displacement(*cameras, self._height, self._grid))
                views.append(plane * moves_as_said(*images, plane)[:, None])
        return np.stack(views)


def flow_displacement(now: NDArray[np.uint8], before: NDArray[np.uint8], grid: int) -> NDArray[np.float64]:
    """(P, 2) in patches between two grey images (s, s): the median over each patch of OpenCV's dense inverse search.

    Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016; preset medium. Images without any change
    have no flow.
    """
    if np.array_equal(now, before):
        return np.zeros((grid * grid, 2))
    import cv2  # only flow needs it: the model runs where there is no OpenCV

    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = search.calc(now, before, None)  # type: ignore[call-overload]  # None: without a first guess
    patch = len(now) // grid
    of_patches = flow.reshape(grid, patch, grid, patch, 2).transpose(0, 2, 1, 3, 4).reshape(grid * grid, -1, 2)
    result: NDArray[np.float64] = np.median(of_patches, axis=1) / patch
    return result


def plane_displacement(now: Camera | None, before: Camera | None, height: float, grid: int) -> NDArray[np.float64]:
    """(P, 2) in patches, were the scene the horizontal plane at this height (m) of the base frame.

    What cannot be on that plane, or was behind the camera, comes from outside of the view. Zero without a camera.
    """
    if now is None or before is None or np.array_equal(now.pose, before.pose):
        return np.zeros((grid * grid, 2))
    middle = (np.arange(grid) + 0.5) / grid
    centres = np.stack([*np.meshgrid(middle, middle), np.ones((grid, grid))], axis=-1).reshape(-1, 3)
    rays = centres @ (now.pose[:3, :3] @ np.linalg.inv(now.intrinsics)).T  # in the base frame
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = (height - now.pose[2, 3]) / rays[:, 2]
        points = now.pose[:3, 3] + distance[:, None] * rays
        seen = (points - before.pose[:3, 3]) @ before.pose[:3, :3] @ before.intrinsics.T
        moved = grid * (seen[:, :2] / seen[:, 2:] - centres[:, :2])
    valid = (distance > 0) & (seen[:, 2] > 0) & np.isfinite(moved).all(axis=1)
    outside = 2.0 * grid
    return np.where(valid[:, None], np.clip(moved, -outside, outside), outside)


def moves_as_said(
    now: NDArray[np.uint8], before: NDArray[np.uint8], displacement: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """(P,) whether a patch looks more like what is displaced from it than like what was at its place.

    On grey images (s, s), by the sum of absolute differences, to whole pixels, the border repeated. The hand's own
    camera always sees the hand, and what it holds, at the same place.
    """
    grid = math.isqrt(len(displacement))
    patch = len(now) // grid
    corner = patch * np.stack(np.divmod(np.arange(grid * grid), grid), axis=-1)[:, None]  # rows, columns
    side = np.arange(patch)

    def patches(image: NDArray[np.uint8], shift: NDArray[np.int64]) -> NDArray[np.int64]:
        """(P, patch, patch), from (P, 2) pixels down and right of each."""
        rows, columns = np.moveaxis(np.clip(corner + side[:, None] + shift[:, None], 0, len(image) - 1), -1, 0)
        result: NDArray[np.int64] = image[rows[:, :, None], columns[:, None, :]].astype(np.int64)
        return result

    still = np.zeros((grid * grid, 2), np.int64)
    moved = np.round(displacement[:, ::-1] * patch).astype(np.int64)
    errors = [np.abs(patches(now, still) - patches(before, shift)).sum(axis=(1, 2)) for shift in (moved, still)]
    result: NDArray[np.bool_] = errors[0] < errors[1]
    return result


def _in_steps(displacement: NDArray[np.float64]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = (np.round(STEPS * displacement) / STEPS).astype(np.float32)
    return result


def _grey(view: NDArray[np.uint8], grid: int, area: float) -> NDArray[np.uint8]:
    """The middle of an RGB view as a square grey image of whole patches, at most FLOW_SIZE wide."""
    import cv2

    height, width = view.shape[:2]
    top, left = (round((1 - area**0.5) / 2 * side) for side in (height, width))
    middle = np.ascontiguousarray(view[top : height - top, left : width - left])
    side = grid * (FLOW_SIZE // grid)
    grey = cv2.resize(cv2.cvtColor(middle, cv2.COLOR_RGB2GRAY), (side, side), interpolation=cv2.INTER_AREA)
    return grey.astype(np.uint8, copy=False)
