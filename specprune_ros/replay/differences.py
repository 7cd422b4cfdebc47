# SPDX-License-Identifier: Apache-2.0
"""How far two action chunks are apart, in the robot's units."""

import math
from array import array
from collections.abc import Iterator
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from specprune_ros.control.action_space import ActionSpace, ControllerConfig

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Of the motion over some steps. `centimetres` is nan for joint actions."""

    centimetres: float
    degrees: float  # of the end effector's turn, or of the joint that differs most
    gripper: float  # share of the steps in which a gripper is told something else; nan without gripper


class Differences:
    """Many of them, 24 bytes each."""

    def __init__(self) -> None:
        self._numbers = array("d")

    def append(self, difference: Difference) -> None:
        self._numbers.extend(astuple(difference))

    def replace_last(self, difference: Difference) -> None:
        self._numbers[-3:] = array("d", astuple(difference))

    def __len__(self) -> int:
        return len(self._numbers) // 3

    def __getitem__(self, index: int) -> Difference:
        return Difference(*self._numbers[3 * index : 3 * index + 3])

    def __iter__(self) -> Iterator[Difference]:
        return (self[index] for index in range(len(self)))

    def column(self, measure: str) -> Array:
        """(N,) one number of each."""
        return np.array(self._numbers).reshape(-1, 3)[:, ("centimetres", "degrees", "gripper").index(measure)]


class ChunkSpace:
    """Chunks (C, A) in checkpoint units, as motion."""

    def __init__(self, controller: ControllerConfig, action_dim: int) -> None:
        """Raises ConfigError when the configuration does not fit actions of `action_dim` numbers."""
        self.space = ActionSpace(controller, action_dim)
        self.delta = controller.delta
        self.dt = controller.step_duration

    def path(self, actions: Array, position: Array, rotation: Rotation) -> tuple[Array, Rotation]:
        """Where increments lead: (C + 1, 3) positions in the base frame, m, and the last orientation."""
        positions = [np.asarray(position, dtype=np.float64)]
        for action in actions:
            step = self.space.twist(action, 1.0, rotation)
            positions.append(positions[-1] + step[:3])
            rotation = Rotation.from_rotvec(step[3:]) * rotation
        return np.array(positions), rotation

    def difference(self, one: Array, other: Array, rotation: Rotation | None = None) -> Difference:
        """After the last step of two chunks of equal length. `rotation`: of the tool, for increments along its axes."""
        gripper = self._gripper(one, other)
        if not self.delta:
            apart = np.abs(self.space.joints(one[-1]) - self.space.joints(other[-1]))
            return Difference(math.nan, float(np.degrees(apart.max())), gripper)
        start = rotation if rotation is not None else Rotation.identity()
        (a, turned_a), (b, turned_b) = (self.path(chunk, np.zeros(3), start) for chunk in (one, other))
        degrees = float(np.degrees((turned_a.inv() * turned_b).magnitude()))
        return Difference(float(np.linalg.norm(a[-1] - b[-1])) * 100, degrees, gripper)

    def shared_steps(self, earlier: float, later: float, steps: int) -> int:
        """How many steps two chunks of `steps` have in common, whose observations have these stamps, seconds."""
        shift = round((later - earlier) / self.dt)  # 0 where observations come faster than steps
        return steps - shift if later > earlier and shift < steps else 0

    def seam(self, earlier: Array, later: Array) -> float:
        """How much the commanded speed jumps where `later` replaces `earlier`: first rows, cm/s or degrees/s."""
        if not self.delta:
            apart = np.abs(self.space.joints(earlier[0]) - self.space.joints(later[0])).max()
            return float(np.degrees(apart)) / self.dt
        steps = [self.space.twist(chunk[0], self.dt, Rotation.identity())[:3] for chunk in (earlier, later)]
        return float(np.linalg.norm(steps[0] - steps[1])) * 100

    def flips(self, actions: Array) -> list[int]:
        """The step at which each gripper first changes between open and closed; -1 for one that does not."""
        opened = self.openings(actions) > 0.5
        changed = opened != opened[:1]
        return [int(np.argmax(column)) if column.any() else -1 for column in changed.T]

    def openings(self, actions: Array) -> Array:
        """(C, G), 0 closed, 1 open."""
        return np.array([self.space.openings(action) for action in actions]).reshape(len(actions), -1)

    def in_robot_units(self, action: Array, rotation: Rotation | None) -> Array:
        """One action (A,): velocities (m/s, rad/s) or joints (rad), then grippers (0 closed, 1 open)."""
        start = rotation if rotation is not None else Rotation.identity()
        arm = self.space.twist(action, self.dt, start) if self.delta else self.space.joints(action)
        return np.concatenate([arm, self.space.openings(action)])

    def dimension_names(self, action_names: tuple[str, ...]) -> list[tuple[str, str]]:
        """(name, unit) in the order of `in_robot_units`."""
        grippers = [(action_names[i], "1 is open") for i in self.space.grippers]
        if self.delta:
            linear = [(f"v_{axis}", "m/s") for axis in "xyz"]
            return [*linear, *((f"w_{axis}", "rad/s") for axis in "xyz"), *grippers]
        return [*((name, "rad") for name in self.space.config.joint_names), *grippers]

    def _gripper(self, one: Array, other: Array) -> float:
        if not self.space.grippers:
            return math.nan
        return float(np.mean((self.openings(one) > 0.5) != (self.openings(other) > 0.5)))
