"""Joint positions by name, from any number of publishers on one JointState topic."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from specprune_ros.errors import ObservationError
from specprune_ros.sensing.history import History

LENGTH = 256  # samples per joint: a quarter of a second at 1 kHz


class JointInput:
    """Position histories of joints. Not thread-safe: its owner locks."""

    def __init__(self, names: Iterable[str], topic: str) -> None:
        self.topic = topic
        self._positions: dict[str, History[float]] = {name: History(LENGTH) for name in names}
        self._seen: set[str] = set()
        self._problem = ""

    def add(self, message: Any, stamp: int, arrival: float) -> None:
        """Keep what matters of a sensor_msgs/JointState; a broken message is remembered as the problem."""
        if not message.position:
            return  # allowed by the message definition: velocities or efforts alone
        if len(message.name) != len(message.position):
            self._problem = f"{self.topic} has {len(message.name)} names but {len(message.position)} positions"
            return
        self._problem = ""
        if len(self._seen) < 1000:
            self._seen.update(message.name)
        for name, position in zip(message.name, message.position, strict=True):
            if name in self._positions:
                self._positions[name].add(stamp, position, arrival)

    def positions(self, names: Sequence[str], stamp: int, max_skew: int) -> np.ndarray:
        """(J,) float64 positions of `names` nearest to `stamp`, m or rad.

        `stamp`, `max_skew`: nanoseconds. Raises ObservationError that says which joint and what to do.
        """
        values = []
        for name in names:
            sample = self._positions[name].nearest(stamp)
            if sample is None:
                raise ObservationError(self._problem or self._missing(name))
            if abs(sample[0] - stamp) > max_skew:
                apart = (sample[0] - stamp) / 1e9
                raise ObservationError(
                    f"joint {name} on {self.topic} is {apart:+.3f} s away from what it is used with "
                    f"(inputs.max_skew {max_skew / 1e9:g} s); check its publisher and the clocks"
                )
            if not math.isfinite(sample[1]):
                raise ObservationError(f"joint {name} on {self.topic} is {sample[1]}; check the robot driver")
            values.append(sample[1])
        return np.array(values)

    def _missing(self, name: str) -> str:
        if not self._seen:
            return f"no joint positions on {self.topic} yet; start the robot driver or remap joint_states"
        published = ", ".join(sorted(self._seen)[:20])
        return f"joint {name} is not on {self.topic}; set inputs.joint_names from: {published}"

    def newest_stamp(self) -> int | None:
        """Stamp of the joint that lags behind most, nanoseconds; None while one is missing."""
        stamps = [history.newest_stamp for history in self._positions.values()]
        return None if None in stamps else min(stamps, default=None)  # type: ignore[type-var]

    def rate(self, now: float) -> float:
        """Messages per second of the slowest joint."""
        return min((history.rate(now) for history in self._positions.values()), default=0.0)

    def clear(self) -> None:
        for history in self._positions.values():
            history.clear()
        self._seen.clear()
        self._problem = ""
