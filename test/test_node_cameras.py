# SPDX-License-Identifier: Apache-2.0
"""Cameras whose images can be used although something is odd about them."""

import numpy as np
import pytest

pytest.importorskip("rclpy")

from sensor_msgs.msg import CameraInfo, RegionOfInterest

from specprune_ros.sensing.camera_check import CameraCheck, info_topic

pytestmark = pytest.mark.ros

SECOND = 1_000_000_000
FRAME = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "info"),
    [
        ("/camera/color/image_raw", "/camera/color/camera_info"),
        ("/camera/color/image_raw/compressed", "/camera/color/camera_info"),
        ("/image", "/camera_info"),
    ],
)
def test_camera_info_is_beside_the_image(image, info):
    assert info_topic(image) == info


@pytest.mark.parametrize(
    ("info", "says"),
    [
        (CameraInfo(width=64, height=48), ""),
        (CameraInfo(width=128, height=96, binning_x=2, binning_y=2), ""),
        (CameraInfo(width=640, height=480, roi=RegionOfInterest(width=64, height=48, x_offset=10)), ""),
        (CameraInfo(), ""),
        (CameraInfo(width=640, height=480), "image on /a/image is 64x48, but /a/camera_info says 640x480"),
        (CameraInfo(width=48, height=64), "says 48x64"),
    ],
)
def test_size_is_compared_with_camera_info(info, says):
    check = CameraCheck("/a/image", "/a/camera_info")
    check.on_info(info)
    assert check.problem(3.0) == ""
    check.on_frame(FRAME, SECOND)
    assert says in check.problem(3.0) and bool(says) == bool(check.problem(3.0))


def test_one_picture_with_new_stamps_is_a_frozen_camera():
    check = CameraCheck("/a/image", "/a/camera_info")
    for tenth in range(31):
        check.on_frame(FRAME.copy(), SECOND + tenth * SECOND // 10)
    assert check.problem(3.0) == "" and "same picture for 3.0 s" in check.problem(2.5) and check.problem(0.0) == ""
    noisy = FRAME.copy()
    noisy[5, 6, 1] ^= 1
    check.on_frame(noisy, 5 * SECOND)
    assert check.problem(2.5) == ""
    check.on_frame(noisy, 9 * SECOND)
    assert "4.0 s" in check.problem(2.5)
    check.on_frame(noisy, 2 * SECOND)  # the clock went back
    assert check.problem(2.5) == ""
