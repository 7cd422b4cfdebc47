# SPDX-License-Identifier: Apache-2.0
"""Transforms of tf2_msgs/TFMessage messages, duck-typed, in a buffer of our own with tf2's results."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from specprune_ros.arrays import Floats
from specprune_ros.errors import ObservationError
from specprune_ros.sensing.end_effector import StampedPose
from specprune_ros.sensing.transform_buffer import TransformBuffer, TransformError, TransformLoopError
from specprune_ros.stamps import NANOSECONDS, stamp_or_arrival

LOOP_PAUSE = 1.0  # seconds; longer than the period of any TF publisher


class BufferedTransforms:
    """Filled on one thread, read from any."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds of a steady clock, for the pause after a loop."""
        self._buffer = TransformBuffer()
        self._loop_guard = LoopGuard(clock)
        self.refused = 0
        self.last_refusal = ""

    def add(self, message: Any, static: bool, now: int) -> None:
        """Keep a TFMessage; `static` when it came on /tf_static. `now`: nanoseconds.

        Only what came there is static: a transform without a stamp ages from its arrival.
        """
        for transform in message.transforms:
            try:
                self._buffer.set_transform(
                    transform.header.frame_id,
                    transform.child_frame_id,
                    stamp_or_arrival(transform.header.stamp, now) / NANOSECONDS,
                    *arrays(transform),
                    static=static,
                    now=now / NANOSECONDS,
                )
            except TransformError as error:
                self.refused += 1
                self.last_refusal = str(error)

    def lookup(self, target: str, source: str, stamp: int | None) -> StampedPose:
        """See `end_effector.Transforms.lookup`."""
        self._loop_guard.check()
        try:
            found = self._buffer.lookup(target, source, None if stamp is None else stamp / NANOSECONDS)
        except TransformError as error:
            if isinstance(error, TransformLoopError):
                self._loop_guard.block(f"TF: {error}")
                self.clear()
            raise ObservationError(f"TF: {error}") from error
        return StampedPose(found.pose, None if found.stamp is None else math.floor(found.stamp * NANOSECONDS))

    def clear(self) -> None:
        self._buffer.clear()


class LoopGuard:
    """Answers for a buffer in which a loop was found, until `LOOP_PAUSE` has shown what is published now.

    A loop stays in the buffer after its publisher is gone, so the buffer is emptied. Without the pause, every emptied
    buffer would give answers until the loop is complete again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends = -math.inf
        self._message = ""

    def check(self) -> None:
        """Raises ObservationError during the pause."""
        if self._clock() < self._ends:
            raise ObservationError(self._message)

    def block(self, message: str) -> None:
        """Start a pause: what the buffer holds contradicts what is published."""
        self._ends, self._message = self._clock() + LOOP_PAUSE, message


def arrays(transform: Any) -> tuple[Floats, Floats]:
    """Position (3,) m and quaternion (4,) xyzw of a geometry_msgs/TransformStamped."""
    t, q = transform.transform.translation, transform.transform.rotation
    return np.array([t.x, t.y, t.z]), np.array([q.x, q.y, q.z, q.w])
