# SPDX-License-Identifier: Apache-2.0
"""One inference of every arm, and the file that they wait in until the report is written."""

import pickle
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from specprune_ros.policy import ActionChunk
from specprune_ros.pose import Pose


@dataclass(frozen=True, eq=False)
class Moment:
    """What every arm said to one observation."""

    stamp: int  # nanoseconds
    time: float  # seconds since the start of the bag
    instruction: str
    proprio: NDArray[np.float64]
    twist: NDArray[np.float64] | None
    pose: Pose | None
    joints: NDArray[np.float64] | None
    chunks: dict[str, ActionChunk]
    after_jpeg: NDArray[np.float64]  # (C, A) of dense
    frames: dict[str, bytes]  # JPEG, as the policy sees the views but for its crop


class Spool:
    """Moments on disk in order, so that memory does not grow with the bag. Only this process reads it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("wb")
        self.offsets = array("q")

    def add(self, moment: Moment) -> None:
        start = self._file.tell()
        pickle.dump(moment, self._file, pickle.HIGHEST_PROTOCOL)
        self.offsets.append(start)  # last: an interrupted one does not count

    def close(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self.offsets)

    def __iter__(self) -> Iterator[Moment]:
        self._file.flush()
        with self._path.open("rb") as file:
            for _ in self.offsets:
                yield pickle.load(file)

    def at(self, index: int) -> Moment:
        self._file.flush()
        with self._path.open("rb") as file:
            file.seek(self.offsets[index])
            return pickle.load(file)
