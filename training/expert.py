# SPDX-License-Identifier: Apache-2.0
"""A scripted expert for "pick up the bowl, place it on the plate" (LIBERO-Spatial and its variants).

It reads the simulator's state, so it labels every state that it is brought into; the policy that learns from it sees
images only. Lengths in metres, world frame; actions in the checkpoint's units (LIBERO: 1.0 = 0.05 m, 0.5 rad, gripper
0 close, 1 open).
"""

from dataclasses import dataclass
from enum import IntEnum, auto

import numpy as np
from scipy.spatial.transform import Rotation

from specprune_ros.errors import UserError
from specprune_ros.sim.libero_env import LiberoEnv
from training.scene import Scene

METRES_PER_UNIT, RADIANS_PER_UNIT = 0.05, 0.5
GAIN = 1.2  # share of the remaining way that one step asks for; the clip makes it a speed limit
RIM = 0.045  # from the bowl's centre to where a finger goes over its rim
APPROACH, GRASP, LIFT = 0.12, 0.035, 0.10  # height of the hand above the bowl's origin; LIFT above the grasp
RELEASE = 0.004  # the bowl's origin is let go this far above the plate's
RETREAT = 0.08
NEAR, CLOSE_BY = 0.015, 0.008  # a phase of coarse and of fine positioning ends within this distance
AT_REST = 0.003  # m/s of a finger
TOO_LONG = 80  # steps of a phase
STALLED = 0.0003  # m in one step: something, or the end of the arm's reach, is in the way
FURNITURE_RADIUS = 0.15
OPEN_WIDTH = 0.036  # m of one finger's way of 0.04
OPEN, CLOSED = 1.0, 0.0
DOWN = Rotation.from_quat([1.0, 0.0, 0.0, 0.0])  # hand points down, fingers along world y


class ExpertError(UserError):
    """The task is not of a kind that the expert knows."""


class Phase(IntEnum):
    ABOVE = auto()
    DESCEND = auto()
    CLOSE = auto()
    LIFT = auto()
    OVER = auto()
    LOWER = auto()
    RELEASE = auto()
    RETREAT = auto()
    DONE = auto()


@dataclass(frozen=True)
class Grasp:
    """How the bowl is gripped. `angle`: of the hand about the vertical, rad; 0 has the fingers along world y.

    `side`: which of the two rim points in that direction, +1 or -1; 0 takes the one farther from other objects.
    """

    angle: float = 0.0
    side: int = 0


# By the index of the task in LIBERO-Spatial and its variants. Where either side will do it is always the same one: a
# policy learns that more easily than "the one farther from other objects".
GRASPS = {
    **dict.fromkeys((2, 3, 5, 7), Grasp(side=1)),
    4: Grasp(angle=1.147, side=1),  # along the drawer's long side
    9: Grasp(side=1),  # the other one is beyond the arm's reach
}


class Expert:
    """One episode. Call `act` before every step of the simulator; it ends when `done`."""

    def __init__(self, env: LiberoEnv, grasp: Grasp | None = None) -> None:
        """`grasp`: None takes the one known for the task. Raises ExpertError unless the goal is on(object, object)."""
        self._env = env
        self._scene = Scene(env)
        if self._scene.goal is None:
            raise ExpertError(f"the expert cannot solve '{env.instruction}'; it only places one object on another")
        self._bowl, self._plate = self._scene.goal
        grasp = GRASPS.get(env.task.index, Grasp()) if grasp is None else grasp
        self._hand = Rotation.from_euler("z", grasp.angle) * DOWN
        self._rim = self._rim_offset(grasp)
        self.phase = Phase.ABOVE
        self._steps = 0  # in this phase
        self._carry_height = 0.0
        self._before = np.zeros(3)  # where the hand was one step ago
        self._moved = 0.0

    @property
    def done(self) -> bool:
        return self.phase is Phase.DONE

    @property
    def failed(self) -> bool:
        """Whether there is no hope left: a phase does not end."""
        return self._steps > TOO_LONG

    def act(self, led: bool = True) -> np.ndarray:
        """(7,) the clean action for the state that the simulator is in.

        `led`: the step before was the expert's own; only then does standing still mean that something is in the way.
        """
        pose = self._env.eef_pose
        self._moved = float(np.linalg.norm(pose.position - self._before)) if led else np.inf
        self._before = pose.position
        while self._finished():
            self.phase = Phase(self.phase + 1)
            self._steps = 0
        self._steps += 1
        way = (self._target() - pose.position) / METRES_PER_UNIT
        turn = (self._hand * pose.rotation.inv()).as_rotvec() / RADIANS_PER_UNIT
        closed = Phase.CLOSE <= self.phase <= Phase.LOWER
        motion = np.clip(GAIN * np.concatenate([way, turn]), -1.0, 1.0)
        return np.append(motion, CLOSED if closed else OPEN)

    def _rim_offset(self, grasp: Grasp) -> np.ndarray:
        direction = np.array([-np.sin(grasp.angle), np.cos(grasp.angle), 0.0])
        if grasp.side:
            return RIM * grasp.side * direction
        bowl = self._scene.position(self._bowl)
        free = [self._clearance(bowl, bowl + 2 * RIM * side * direction) for side in (1, -1)]
        return RIM * (1 if free[0] >= free[1] else -1) * direction

    def _clearance(self, bowl: np.ndarray, finger: np.ndarray) -> float:
        """Horizontal distance from a finger to the nearest thing that is not the bowl or what it stands on."""
        gaps = []
        for name in (*self._scene.objects, *self._scene.furniture):
            place = self._scene.position(name)[:2]
            if np.linalg.norm(place - bowl[:2]) > RIM:
                radius = FURNITURE_RADIUS if name in self._scene.furniture else 0.0
                gaps.append(float(np.linalg.norm(place - finger[:2])) - radius)
        return min(gaps)

    def _target(self) -> np.ndarray:
        """Where the end effector should be in this phase."""
        hand = self._env.eef_pose.position
        bowl, plate = self._scene.position(self._bowl), self._scene.position(self._plate)
        up = np.array([0.0, 0.0, 1.0])
        match self.phase:
            case Phase.ABOVE:
                return bowl + self._rim + APPROACH * up
            case Phase.DESCEND | Phase.CLOSE:
                self._carry_height = bowl[2] + GRASP + LIFT
                return bowl + self._rim + GRASP * up
            case Phase.LIFT:
                return np.array([hand[0], hand[1], self._carry_height])
            case Phase.OVER:
                return np.append((plate + hand - bowl)[:2], self._carry_height)
            case Phase.LOWER:
                return plate + hand - bowl + RELEASE * up
            case Phase.RELEASE:
                return hand
            case _:
                return np.array([hand[0], hand[1], plate[2] + GRASP + RETREAT])

    def _finished(self) -> bool:
        """Whether this phase is over."""
        left = self._target() - self._env.eef_pose.position
        aside = float(np.linalg.norm(left[:2]))
        fingers = np.abs(self._env.finger_positions)
        stalled = self._steps > 5 and self._moved < STALLED
        match self.phase:
            case Phase.ABOVE:
                return aside < NEAR and abs(left[2]) < 2 * NEAR
            case Phase.DESCEND | Phase.LOWER:
                return stalled or (aside < CLOSE_BY and abs(left[2]) < CLOSE_BY)
            case Phase.CLOSE:
                return self._steps > 3 and np.abs(self._env.finger_velocities).max() < AT_REST
            case Phase.LIFT:
                return stalled or abs(left[2]) < 2 * NEAR
            case Phase.OVER:
                return stalled or aside < NEAR
            case Phase.RELEASE:
                return bool(fingers.min() > OPEN_WIDTH)
            case Phase.RETREAT:
                return abs(left[2]) < NEAR
            case _:
                return False


class ActionNoise:
    """Gaussian noise on the motion that changes slowly, so that it pushes the arm off its way instead of shaking it."""

    CORRELATION = 0.8  # of two successive steps
    ROTATION = 0.3  # of the translation's size, in action units

    def __init__(self, size: float, seed: int) -> None:
        """`size`: standard deviation of the translation in action units; 0 adds nothing."""
        self._scale = size * np.array([1.0] * 3 + [self.ROTATION] * 3)
        self._random = np.random.default_rng(seed)
        self._noise = self._scale * self._random.standard_normal(6)

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """The action (7,) to execute for a clean one; the gripper is left alone."""
        fresh = self._scale * self._random.standard_normal(6)
        self._noise = self.CORRELATION * self._noise + np.sqrt(1 - self.CORRELATION**2) * fresh
        return np.append(np.clip(action[:6] + self._noise, -1.0, 1.0), action[6])
