# SPDX-License-Identifier: Apache-2.0
"""Compressed camera images are decoded when they arrive, so that an inference does not wait for it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from specprune_ros.arrays import Pixels
from specprune_ros.sensing.images import to_rgb


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """Stands for the message that it was decoded from."""

    header: Any
    frame: Pixels  # (H, W, 3) uint8 RGB


class NewestDecoder:
    """Decodes the images of one camera in a thread of its own: the newest one, never a queue.

    An image that comes while another is decoded waits; the next one takes its place. `on_image` gets what was given to
    `put`, on the decoder's thread: the image decoded or, where it does not decode, as it came, for whoever uses it to
    say so.
    """

    def __init__(self, topic: str, on_image: Callable[..., None]) -> None:
        self._topic, self._on_image = topic, on_image
        self._changed = threading.Condition()
        self._waiting: tuple[Any, ...] | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"decoder of {topic}", daemon=True)
        self._thread.start()

    def put(self, message: Any, *more: Any) -> None:
        """Returns at once."""
        with self._changed:
            self._waiting = (message, *more)
            self._changed.notify()

    def close(self) -> None:
        """End the thread; waits for the image that it decodes."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closed)
                if self._closed or self._waiting is None:
                    return
                message, *more = self._waiting
                self._waiting = None
            self._on_image(self._decoded(message), *more)

    def _decoded(self, message: Any) -> Any:
        try:
            return DecodedImage(message.header, to_rgb(message, self._topic))
        except Exception:  # whatever it is, whoever uses the image meets it again and says so; the thread goes on
            return message
