# SPDX-License-Identifier: Apache-2.0
"""What the motion in the images says about the cameras: is one mirrored, upside down, and which one rides on the arm?

No question needs a calibration or the policy. The mean optical flow of a view is linear in the displacement d of
the end effector, flow = A d. Before a fixed camera the arm moves: the rows of A are k times the image's x and y axes in
the base frame. A camera on the arm moves itself: they are -k times these axes in the tool's frame. Either way their
cross product points along the optical axis, and backwards when the image is mirrored. Fixed cameras look down on the
workspace (z of a base frame is up, REP 103), cameras on an arm look along z of the tool. What goes up goes up in the
image of a fixed camera, unless that is upside down; nothing says which way up the training had a camera on the arm.
Before a fixed camera most pixels never change; what a camera on the arm sees moves, and grows when the tool goes
forward.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from specprune_ros.pose import Pose

SIDE = 96  # pixels, of the pictures that are compared
STEP = 0.004  # m between two pictures that are compared
LONGEST = 0.5  # s between them
ARM = 0.1  # m per rad: steps that turn more than they go say nothing about the axes
MOTION = 0.3  # pixels of flow that count as motion
SELDOM = 0.05  # share of steps in which a pixel moves that never shows anything but background
LEAST = 20  # steps, below which nothing is said
MOST = 600  # steps that are kept; of more, evenly spread ones
FIT = 0.5  # share of the flow that the displacement has to explain
AXIS = 0.25  # z of the optical axis, or of the image's y axis, below which it is not clear where they point
SQUARE = 0.3  # how square the two rows of A have to be, as axes of one image: 1 orthogonal and equally long, 0 parallel
BLOCK = 5  # consecutive steps that the bootstrap keeps together: they are alike
SAMPLES, SEED = 200, 0  # of the bootstrap
CERTAIN = 99  # percent of the samples that must agree
STILL, GROWTH = 0.2, 0.3  # by how much two views must differ to be called swapped
ON_ARM = ("wrist", "hand", "gripper", "tool")  # in the names of views


@dataclass(frozen=True, eq=False)
class Picture:
    gray: NDArray[np.uint8]  # (SIDE, SIDE)
    pose: Pose
    time: float


class CameraMotion:
    """One view and the end effector. Memory does not grow with the recording."""

    def __init__(self, view: str, transform: str) -> None:
        """`transform`: of `inputs.camera_transforms`, which the frames have gone through."""
        self.view, self.transform = view, transform
        self.on_arm = any(name in view.lower() for name in ON_ARM)
        self._last: Picture | None = None
        self._steps: list[NDArray[np.float64]] = []  # (7,): mean flow, displacement, growth, forward
        self._stride, self._skipped = 1, 0
        self._moved = np.zeros((SIDE, SIDE), np.int64)  # in how many steps each pixel did
        self.count = 0

    def add(self, frame: NDArray[np.uint8], pose: Pose, time: float) -> None:
        """A frame (H, W, 3) RGB uint8 and the pose of the end effector at its stamp, seconds."""
        small = cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        picture = Picture(np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8), pose, time)
        last = self._last
        if last is None or not 0 < time - last.time <= LONGEST:
            self._last = picture
            return
        moved = pose.position - last.pose.position
        distance = float(np.linalg.norm(moved))
        if distance < STEP:
            return
        self._last = picture
        if ARM * float((pose.rotation * last.pose.rotation.inv()).magnitude()) < distance:
            self._add_step(last, picture, last.pose.rotation.inv().apply(moved) if self.on_arm else moved)

    def _add_step(self, last: Picture, picture: Picture, moved: NDArray[np.float64]) -> None:
        # OpenCV's types do not know that None, no first guess, will do.
        flow = cv2.calcOpticalFlowFarneback(last.gray, picture.gray, None, 0.5, 3, 13, 3, 5, 1.1, 0)  # type: ignore[call-overload]
        self._moved += np.linalg.norm(flow, axis=-1) > MOTION
        self.count += 1
        self._skipped += 1
        if self._skipped < self._stride:
            return
        self._skipped = 0
        across = np.linspace(-1, 1, SIDE)
        growth = float((flow[..., 0] * across + flow[..., 1] * across[:, None]).mean())
        forward = float(last.pose.rotation.inv().apply(picture.pose.position - last.pose.position)[2])
        self._steps.append(np.array([*flow.mean((0, 1)), *moved, growth, forward]))
        if len(self._steps) > MOST:
            del self._steps[::2]
            self._stride *= 2

    @property
    def still(self) -> float:
        """Share of the pixels that (almost) never move while the arm does."""
        return float((self._moved < SELDOM * max(self.count, 1)).mean())

    @property
    def growth(self) -> float:
        """Correlation between what the tool goes forward and how much the picture grows, -1 to 1."""
        steps = np.array(self._steps)
        if len(steps) < LEAST or not steps[:, 5:].std(0).all():
            return 0.0
        return float(np.corrcoef(steps[:, 5], steps[:, 6])[0, 1])

    def axis(self) -> tuple[NDArray[np.float64], float]:
        """(3,) unit optical axis of the frames in base or tool frame if they are not mirrored; how well it fits."""
        steps = np.array(self._steps)
        return _axis(steps), _fit(steps)

    @property
    def mirrored(self) -> bool | None:
        """Whether the topic's images are, before the transform; None: cannot be told."""
        if len(self._steps) < LEAST or _squareness(np.array(self._steps)) < SQUARE:
            return None
        ahead = 1 if self.on_arm else -1
        backwards = self._below_zero(lambda steps: ahead * float(_axis(steps)[2]))
        return None if backwards is None else backwards != self.transform.startswith("flip")

    @property
    def upside_down(self) -> bool | None:
        """Whether the topic's images are, before the transform; None: cannot be told, as of a camera on the arm."""
        if len(self._steps) < LEAST or self.on_arm:
            return None
        upright = self._below_zero(_down)
        return None if upright is None else upright == (self.transform in ("flip_vertical", "rotate_180"))

    def _below_zero(self, value: Callable[[NDArray[np.float64]], float]) -> bool | None:
        """Whether a value of the steps, -1 to 1, is negative; None where it is small or the steps disagree."""
        steps = np.array(self._steps)
        if _fit(steps) < FIT:
            return None
        random = np.random.default_rng(SEED)
        starts = random.integers(0, len(steps), (SAMPLES, -(-len(steps) // BLOCK)))
        drawn = (starts[..., None] + np.arange(BLOCK)).reshape(SAMPLES, -1) % len(steps)
        low, middle, high = np.percentile([value(steps[chosen]) for chosen in drawn], [100 - CERTAIN, 50, CERTAIN])
        return None if abs(middle) < AXIS or low < 0 < high else bool(middle < 0)

    def summary(self) -> dict[str, Any]:
        """Plain values for JSON."""
        axis, fit = self.axis() if len(self._steps) >= LEAST else (np.zeros(3), 0.0)
        return {
            "steps": self.count,
            "frame": "tool" if self.on_arm else "base",
            "optical_axis": [round(float(value), 3) for value in axis],
            "explained": round(fit, 3),
            "squareness": round(_squareness(np.array(self._steps)), 3) if len(self._steps) >= LEAST else 0.0,
            "mirrored": self.mirrored,
            "upside_down": self.upside_down,
            "still_share": round(self.still, 3),
            "growth": round(self.growth, 3),
        }


def swapped(motions: Mapping[str, CameraMotion]) -> tuple[str, str] | None:
    """A view whose name says that it is on the arm, and the one that is instead of it."""
    known = [motion for motion in motions.values() if motion.count >= LEAST]
    for named in known:
        for other in known:
            if (
                named.on_arm
                and not other.on_arm
                and named.still > other.still + STILL
                and named.growth < other.growth - GROWTH
            ):
                return named.view, other.view
    return None


def _solve(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 3) A of flow = A d, by least squares."""
    return np.asarray(np.linalg.lstsq(steps[:, 2:5], steps[:, :2], rcond=None)[0].T)


def _axis(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y = _solve(steps)
    axis = np.cross(x, y)
    return np.asarray(axis / max(float(np.linalg.norm(axis)), 1e-12))


def _down(steps: NDArray[np.float64]) -> float:
    """z in the base frame of a fixed camera's image y axis, which points down in the image, -1 to 1."""
    y = _solve(steps)[1]
    return float(y[2] / max(float(np.linalg.norm(y)), 1e-12))


def _squareness(steps: NDArray[np.float64]) -> float:
    x, y = _solve(steps)
    return float(np.linalg.norm(np.cross(x, y)) / max(float(x @ x), float(y @ y), 1e-12))


def _fit(steps: NDArray[np.float64]) -> float:
    rest = steps[:, :2] - steps[:, 2:5] @ _solve(steps).T
    return 1 - float((rest**2).sum() / max(float((steps[:, :2] ** 2).sum()), 1e-12))
