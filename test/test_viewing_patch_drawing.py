# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from specprune_ros.viewing.patch_drawing import draw_kept

GRID = (16, 16)


@pytest.fixture
def frame():
    return np.random.default_rng(0).integers(60, 256, (256, 256, 3), dtype=np.uint8)


def test_kept_patches_are_untouched_and_the_others_dark_and_blue(frame):
    kept = np.array([0, 17, 255])
    drawn = draw_kept(frame, kept, GRID, 1.0)
    mask = np.zeros(GRID, bool)
    mask.flat[kept] = True
    mask = np.kron(mask, np.ones((16, 16), bool))
    np.testing.assert_array_equal(drawn[mask], frame[mask])
    dropped = drawn[~mask].astype(int)
    assert (dropped[:, 2] > dropped[:, 0]).all() and (dropped.max() < 140)


def test_everything_kept_is_the_frame(frame):
    np.testing.assert_array_equal(draw_kept(frame, np.arange(256), GRID, 1.0), frame)


def test_nothing_kept(frame):
    assert not (draw_kept(frame, np.array([], np.int64), GRID, 1.0) == frame).all(axis=2).any()


def test_the_margin_that_the_crop_removes_is_never_bright(frame):
    drawn = draw_kept(frame, np.arange(256), GRID, 0.5)
    np.testing.assert_array_equal(drawn[64:192, 64:192], frame[64:192, 64:192])
    assert (drawn[:64] != frame[:64]).any(axis=2).all()


def test_patches_of_a_rectangular_frame_have_the_frames_shape():
    frame = np.full((120, 160, 3), 200, np.uint8)
    drawn = draw_kept(frame, np.array([1]), (2, 2), 1.0)  # top right
    assert (drawn[:60, 80:] == 200).all()
    assert (drawn[60:] != 200).all() and (drawn[:60, :80] != 200).all()
