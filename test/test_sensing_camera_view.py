# SPDX-License-Identifier: Apache-2.0
"""Where cameras are and how they project, from CameraInfo, TF and the transform that a checkpoint asks for."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from specprune_ros.errors import ObservationError
from specprune_ros.sensing.camera_view import TRANSFORMED, CameraView
from specprune_ros.sensing.end_effector import EndEffector
from specprune_ros.sensing.transforms import BufferedTransforms

SECOND = 1_000_000_000
DOWN = Rotation.from_euler("x", np.pi)


def at(seconds: float, position: tuple[float, float, float]) -> SimpleNamespace:
    """A TFMessage: the camera in the base frame, looking down."""
    x, y, z, w = DOWN.as_quat()
    whole = int(seconds)
    return SimpleNamespace(
        transforms=[
            SimpleNamespace(
                header=SimpleNamespace(
                    frame_id="base", stamp=SimpleNamespace(sec=whole, nanosec=round((seconds - whole) * SECOND))
                ),
                child_frame_id="camera",
                transform=SimpleNamespace(
                    translation=SimpleNamespace(x=position[0], y=position[1], z=position[2]),
                    rotation=SimpleNamespace(x=x, y=y, z=z, w=w),
                ),
            )
        ]
    )


@pytest.fixture
def end_effector() -> EndEffector:
    transforms = BufferedTransforms()
    for seconds, position in ((10.0, (0.4, 0.0, 0.6)), (10.2, (0.6, 0.0, 0.6))):
        transforms.add(at(seconds, position), static=False, now=round(seconds * SECOND))
    return EndEffector(transforms, "base", "camera")


def info(**region: int) -> SimpleNamespace:
    roi = {"width": 0, "height": 0, "x_offset": 0, "y_offset": 0} | region
    return SimpleNamespace(
        width=640, height=480, k=[500.0, 0, 319.5, 0, 500.0, 239.5, 0, 0, 1], roi=SimpleNamespace(**roi)
    )


def view(**region: int) -> CameraView:
    result = CameraView("/cam/image", "/cam/camera_info")
    result.on_info(info(**region))
    return result


@pytest.mark.parametrize("transform", TRANSFORMED)
def test_a_point_is_seen_where_the_transformed_image_shows_it(end_effector, transform):
    camera = view().camera("camera", transform, end_effector, round(10.1 * SECOND), 0)
    point = np.array([0.6, -0.06, 0.1, 1.0])  # 0.1 m right, 0.06 m down in the image, half a metre away
    seen = camera.intrinsics @ (np.linalg.inv(camera.pose) @ point)[:3]
    right, down = (320 + 500 * 0.1 / 0.5) / 640, (240 + 500 * 0.06 / 0.5) / 480
    expected = {
        "none": (right, down),
        "rotate_180": (1 - right, 1 - down),
        "flip_horizontal": (1 - right, down),
        "flip_vertical": (right, 1 - down),
    }
    np.testing.assert_allclose(seen[:2] / seen[2], expected[transform], atol=1e-9)


def test_a_region_of_interest_is_what_the_image_shows(end_effector):
    camera = view(width=320, height=240, x_offset=160, y_offset=120).camera(
        "camera", "none", end_effector, 10 * SECOND, 0
    )
    np.testing.assert_allclose(camera.intrinsics, [[500 / 320, 0, 0.5], [0, 500 / 240, 0.5], [0, 0, 1]], atol=1e-12)


@pytest.mark.parametrize(
    ("changed", "frame", "says"),
    [
        ({"k": [0.0] * 9}, "camera", "/cam/camera_info has no calibration"),
        ({"k": [np.nan] * 9}, "camera", "/cam/camera_info has no calibration"),
        ({}, "", "have no frame_id"),
        ({}, "lens", "lens"),
    ],
)
def test_what_is_missing_is_said(end_effector, changed, frame, says):
    known = view()
    known.on_info(SimpleNamespace(**(vars(info()) | changed)))
    with pytest.raises(ObservationError, match=says):
        known.camera(frame, "none", end_effector, 10 * SECOND, 0)


def test_an_old_transform_is_no_place(end_effector):
    with pytest.raises(ObservationError, match="older than the images"):
        view().camera("camera", "none", end_effector, 11 * SECOND, SECOND // 10)
