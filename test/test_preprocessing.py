# SPDX-License-Identifier: Apache-2.0
"""Resizing against Pillow, over sizes, up and down; and the buffers in which frames travel."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from specprune_ros.engine.downloads import Downloads
from specprune_ros.engine.frame_pass import FramePreparation
from specprune_ros.engine.uploads import KEPT, Uploads
from specprune_ros.openvla.preprocessing import CenterCrop, LanczosProducts, lanczos_matrix, resize

CPU = torch.device("cpu")
SIDE = st.integers(1, 400)


def pillow(frame: np.ndarray, size: int) -> np.ndarray:
    """Across, then down: new versions of Pillow go the other way where that is cheaper, which overshoots elsewhere."""
    narrow = Image.fromarray(frame).resize((size, len(frame)), Image.Resampling.LANCZOS)
    return np.asarray(narrow.resize((size, size), Image.Resampling.LANCZOS))


def picture(height: int, width: int, seed: int, hard: bool) -> np.ndarray:
    """Noise; `hard`: only black and white, where the kernel overshoots most."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return (noise > 127).astype(np.uint8) * 255 if hard else noise


@given(SIDE, SIDE, st.integers(1, 256), st.integers(0, 1000), st.booleans())
@example(1, 1, 224, 0, True)
@example(224, 100, 224, 0, True)
@example(1080, 1920, 224, 0, True)
@example(480, 640, 224, 0, False)
@settings(max_examples=60, deadline=None)
def test_resizing_is_pillows(height: int, width: int, size: int, seed: int, hard: bool):
    frame = picture(height, width, seed, hard)
    expected = pillow(frame, size).astype(int)
    products = LanczosProducts(height, width, size, CPU)(torch.from_numpy(frame))
    assert np.abs(products.numpy() - expected).max() <= 1
    prepared = FramePreparation(((height, width),), size, None, CPU)(torch.from_numpy(frame).flatten())
    assert np.abs(prepared[0].numpy() - expected).max() <= 1


@given(st.integers(224, 500), st.integers(224, 500), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_resizing_pictures_is_pillows(height: int, width: int, seed: int):
    frame = cv2.GaussianBlur(picture(height, width, seed, False), (9, 9), 2)
    frame = cv2.normalize(frame, None, 0, 255, cv2.NORM_MINMAX)
    difference = np.abs(resize(torch.from_numpy(frame), 224).numpy() - pillow(frame, 224).astype(int))
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.1


@given(SIDE, SIDE)
@settings(max_examples=60, deadline=None)
def test_flat_frames_stay_flat(source: int, target: int):
    matrix = lanczos_matrix(source, target)
    assert matrix.shape == (target, source)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(target), rtol=0, atol=1e-5)


@pytest.mark.parametrize("crop", [False, True])
def test_views_of_different_sizes_in_one_buffer(crop: bool):
    views = [picture(60, 80, 0, False), picture(28, 28, 1, False), picture(10, 300, 2, False)]
    sizes = tuple(view.shape[:2] for view in views)
    prepare = FramePreparation(sizes, 28, CenterCrop(28, CPU) if crop else None, CPU)
    frames = prepare(Uploads(CPU)("views", views))
    expected = torch.stack([torch.from_numpy(pillow(view, 28).copy()) for view in views])
    expected = CenterCrop(28, CPU)(expected) if crop else expected
    assert (frames.int() - expected.int()).abs().max() <= 1


def test_uploads_reuse_their_buffers():
    uploads = Uploads(CPU)
    first = uploads("views", [np.arange(6, dtype=np.uint8).reshape(2, 3), np.arange(2, dtype=np.uint8)])
    assert first.tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    again = uploads("views", [np.full((4, 2), 9, np.uint8)])
    assert again.data_ptr() == first.data_ptr()
    assert first.tolist() == [9] * 8
    assert uploads("proprio", [np.zeros(8, np.uint8)]).data_ptr() != first.data_ptr()
    for size in range(1, 3 * KEPT):
        uploads("views", [np.zeros(size, np.uint8)])
    assert len(uploads._buffers) == KEPT


def test_uploads_take_frames_that_are_views_of_others():
    whole = picture(40, 40, 0, False)
    uploaded = Uploads(CPU)("views", [whole[::2, 3:30]])
    assert torch.equal(uploaded, torch.from_numpy(whole[::2, 3:30].copy()).flatten())


def test_downloads_reuse_their_buffers_and_give_arrays_away():
    downloads = Downloads(CPU)
    first = downloads(actions=torch.ones(2, 3), kept=torch.arange(4))
    assert first["actions"].dtype == np.float32 and first["kept"].tolist() == [0, 1, 2, 3]
    places = [buffer.data_ptr() for buffer in downloads._buffers.values()]
    downloads(actions=torch.zeros(2, 3), kept=torch.arange(4) + 1)
    assert [buffer.data_ptr() for buffer in downloads._buffers.values()] == places
    assert (first["actions"] == 1).all() and first["kept"].tolist() == [0, 1, 2, 3]
    assert downloads(share=torch.tensor(0.5))["share"] == 0.5
    for size in range(2 * KEPT):
        assert len(downloads(kept=torch.arange(size))["kept"]) == size
    assert len(downloads._buffers) == KEPT
