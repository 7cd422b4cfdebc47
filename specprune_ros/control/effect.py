# SPDX-License-Identifier: Apache-2.0
"""Whether the arm does what it is told: commanded and measured motion, compared over two seconds."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specprune_ros.angles import shortest
from specprune_ros.arrays import Floats
from specprune_ros.pose import Pose
from specprune_ros.stamps import ROUNDING

BLOCK = 0.2  # seconds of motion that are compared as one
BLOCKS = 10  # two seconds
LAGS = 3  # blocks by which an arm may be late
SHARE = 0.2  # of the commanded motion that has to be there; half is a slow arm, none is no arm
PAUSE = 3.0  # seconds without a command, after which the comparison starts over; a slow machine waits between chunks
LEAST_LENGTH, LEAST_ANGLE = 0.02, 0.1  # m and rad commanded in two seconds; less is noise
IDLE_LEAD, IDLE_LEAD_ANGLE = 0.02, 0.1  # m, rad that a target runs ahead of an arm that does not move, at most
ADVICE = (
    "is the controller active and the arm not in a protective stop? MoveIt Servo also has to be in the command type of "
    "the messages (~/switch_command_type)"
)


@dataclass(frozen=True, eq=False)
class Block:
    """Motion during `BLOCK` seconds, (N,) m or rad."""

    commanded: Floats
    measured: Floats


@dataclass(frozen=True)
class Part:
    """Numbers of a motion that are compared together."""

    name: str
    numbers: slice
    least: float  # m or rad
    unit: str


TWIST = (Part("end effector", slice(0, 3), LEAST_LENGTH, "m"), Part("end effector", slice(3, 6), LEAST_ANGLE, "rad"))


class MotionEffect:
    """Fed in every control period in which the arm moves. `problem` stays until the arm is seen to obey."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.problem = ""
        self.interrupt()

    def interrupt(self) -> None:
        """Somebody else moves the arm: the comparison starts over."""
        self._blocks: deque[Block] = deque(maxlen=BLOCKS)
        self._commanded: Floats | None = None  # since the block began; None: nothing is compared

    def of_twist(self, now: float, step: Floats, pose: Pose) -> None:
        """`step` (6,) m and rad in the base frame: commanded for this period. `pose`: measured at its start."""
        if self._begins(now, step):
            self._start: Pose | Floats = pose
        elif now - self._since >= BLOCK - ROUNDING:
            assert isinstance(self._start, Pose)
            turned = (pose.rotation * self._start.rotation.inv()).as_rotvec()
            self._end_block(now, np.concatenate([pose.position - self._start.position, turned]), TWIST)
            self._start = pose
        self._add(now, step)

    def of_joints(
        self, now: float, step: Floats, joints: Floats, names: Sequence[str], continuous: Floats | bool = False
    ) -> None:
        """`step` (J,) rad: commanded for this period. `joints` (J,) rad: measured at its start, on the circle for those
        that are `continuous` (J,).
        """
        if self._begins(now, step):
            self._start = joints
        elif now - self._since >= BLOCK - ROUNDING:
            assert isinstance(self._start, np.ndarray)
            parts = [Part(f"joint {name}", slice(k, k + 1), LEAST_ANGLE, "rad") for k, name in enumerate(names)]
            self._end_block(now, shortest(joints - self._start, continuous), parts)
            self._start = joints
        self._add(now, step)

    def _begins(self, now: float, step: Floats) -> bool:
        if self._commanded is not None and 0 <= now - self._last <= PAUSE:
            return False
        self.interrupt()
        self._commanded, self._since = np.zeros(len(step)), now
        return True

    def _add(self, now: float, step: Floats) -> None:
        assert self._commanded is not None
        self._commanded = self._commanded + step
        self._last = now

    def _end_block(self, now: float, measured: Floats, parts: Sequence[Part]) -> None:
        assert self._commanded is not None
        self._blocks.append(Block(self._commanded, measured))
        self._commanded, self._since = np.zeros(len(measured)), now
        if len(self._blocks) < BLOCKS:
            return
        commanded = np.array([block.commanded for block in self._blocks])
        measured = np.array([block.measured for block in self._blocks])
        asked = [part for part in parts if _length(commanded[:, part.numbers]) >= part.least]
        idle = [part for part in asked if _share(commanded[:, part.numbers], measured[:, part.numbers]) < SHARE]
        if idle:
            part = idle[0]
            self.problem = (
                f"{part.name} was commanded {_length(commanded[:, part.numbers]):.2f} {part.unit} in "
                f"{BLOCK * BLOCKS:g} s and measured {_length(measured[:, part.numbers]):.2f}, not the motion that was "
                f"asked for; {ADVICE}"
            )
        elif asked:
            self.problem = ""


def _length(motion: Floats) -> float:
    """Of the path, (B, N) -> m or rad."""
    return float(np.linalg.norm(motion, axis=1).sum())


def _share(commanded: Floats, measured: Floats) -> float:
    """How much of the commanded motion (B, N) is in the measured one, for the lag that fits best."""
    shares = []
    for lag in range(LAGS):
        told, done = commanded[: BLOCKS - lag], measured[lag:]
        size = float((told**2).sum())
        shares.append(float((told * done).sum()) / size if size > 0 else 0.0)
    return max(shares)
