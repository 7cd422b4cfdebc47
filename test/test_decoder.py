# SPDX-License-Identifier: Apache-2.0
"""Compressed images are decoded on arrival, newest only; what does not decode is told by whoever uses it."""

import threading
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from specprune_ros.errors import ObservationError
from specprune_ros.sensing import decoder as module
from specprune_ros.sensing.decoder import DecodedImage, NewestDecoder
from specprune_ros.sensing.images import to_rgb

PATIENCE = 30.0  # seconds, on a busy machine


def jpeg(level: int) -> SimpleNamespace:
    picture = np.full((32, 48, 3), level, np.uint8)
    return SimpleNamespace(header=f"stamp {level}", format="jpeg", data=cv2.imencode(".jpg", picture)[1].tobytes())


class Sink:
    """Keeps what a decoder hands out, and lets a test wait for it."""

    def __init__(self) -> None:
        self.images: list[tuple[Any, ...]] = []
        self._came = threading.Condition()

    def __call__(self, *image: Any) -> None:
        with self._came:
            self.images.append(image)
            self._came.notify_all()

    def wait(self, count: int) -> None:
        with self._came:
            assert self._came.wait_for(lambda: len(self.images) >= count, PATIENCE)


def test_the_frame_stands_for_the_message():
    sink = Sink()
    decoder = NewestDecoder("/camera", sink)
    decoder.put(jpeg(200), 7, 3)
    sink.wait(1)
    decoder.close()
    image, now, era = sink.images[0]
    assert (image.header, now, era) == ("stamp 200", 7, 3)
    assert np.abs(image.frame.astype(int) - 200).max() <= 2
    assert to_rgb(image, "/camera") is image.frame


def test_only_the_newest_waits(monkeypatch: pytest.MonkeyPatch):
    started, go_on = threading.Event(), threading.Event()

    def slow(message: Any, topic: str) -> np.ndarray:
        started.set()
        assert go_on.wait(PATIENCE)
        return to_rgb(message, topic)

    monkeypatch.setattr(module, "to_rgb", slow)
    sink = Sink()
    decoder = NewestDecoder("/camera", sink)
    decoder.put(jpeg(0))
    assert started.wait(PATIENCE)
    for level in (10, 20, 30):
        decoder.put(jpeg(level))
    go_on.set()
    sink.wait(2)
    decoder.close()
    assert [image[0].header for image in sink.images] == ["stamp 0", "stamp 30"]


def test_a_broken_image_comes_through_for_its_user_to_refuse():
    sink = Sink()
    decoder = NewestDecoder("/camera", sink)
    decoder.put(SimpleNamespace(header="h", format="jpeg", data=b"no picture"))
    sink.wait(1)
    decoder.put(jpeg(50))
    sink.wait(2)
    decoder.close()
    with pytest.raises(ObservationError, match=r"compressed image on /camera .* does not decode"):
        to_rgb(sink.images[0][0], "/camera")
    assert isinstance(sink.images[1][0], DecodedImage)


def test_whatever_a_picture_does_the_next_one_is_decoded(monkeypatch: pytest.MonkeyPatch):
    def fails(message: Any, topic: str) -> np.ndarray:
        if message.format == "bad":
            raise MemoryError
        return to_rgb(message, topic)

    monkeypatch.setattr(module, "to_rgb", fails)
    sink = Sink()
    decoder = NewestDecoder("/camera", sink)
    bad = SimpleNamespace(header="h", format="bad", data=b"")
    decoder.put(bad)
    sink.wait(1)
    decoder.put(jpeg(50))
    sink.wait(2)
    decoder.close()
    assert sink.images[0][0] is bad and isinstance(sink.images[1][0], DecodedImage)


def test_closing_drops_what_waits():
    decoder = NewestDecoder("/camera", Sink())
    decoder.close()
    decoder.put(jpeg(1))
    assert not decoder._thread.is_alive()
