# SPDX-License-Identifier: Apache-2.0
"""A scripted expert for tasks that move one thing onto or into another (LIBERO-Spatial, -Object, some of LIBERO-Goal).

It reads the simulator's state, so it labels every state that it is brought into; the policy that learns from it sees
images only. Lengths in metres, world frame; actions in the checkpoint's units (LIBERO: 1.0 = 0.05 m, 0.5 rad, gripper
0 close, 1 open).
"""

from enum import IntEnum, auto

import numpy as np

from specprune_ros.sim.libero_env import LiberoEnv
from training.pick_and_place import UP, Grasp, pick_and_place
from training.scene import Scene

METRES_PER_UNIT, RADIANS_PER_UNIT = 0.05, 0.5
GAIN = 1.2  # share of the remaining way that one step asks for; the clip makes it a speed limit
LIFT, RETREAT = 0.10, 0.08  # of the hand, above where it grips and where it lets go
CLEARANCE = 0.05  # what is carried passes at least this far above the place where it goes
RELEASE = 0.004  # it is let go this far above that place
NEAR, CLOSE_BY = 0.015, 0.008  # a phase of coarse and of fine positioning ends within this distance
AT_REST = 0.003  # m/s of a finger
TOO_LONG = 80  # steps of a phase
STALLED = 0.0003  # m in one step: something, or the end of the arm's reach, is in the way
OPEN_WIDTH = 0.036  # m of one finger's way of 0.04
OPEN, CLOSED = 1.0, 0.0


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


class Expert:
    """One episode. Call `act` before every step of the simulator; it ends when `done`."""

    def __init__(self, env: LiberoEnv, grasp: Grasp | None = None) -> None:
        """`grasp` of a bowl: None takes the one known for the task. Raises ExpertError for a task of another kind."""
        self._env = env
        self._scene = Scene(env)
        self._plan = pick_and_place(env, grasp)
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
        turn = (self._plan.hand * pose.rotation.inv()).as_rotvec() / RADIANS_PER_UNIT
        closed = Phase.CLOSE <= self.phase <= Phase.LOWER
        motion = np.clip(GAIN * np.concatenate([way, turn]), -1.0, 1.0)
        return np.append(motion, CLOSED if closed else OPEN)

    def _target(self) -> np.ndarray:
        """Where the end effector should be in this phase."""
        plan, hand = self._plan, self._env.eef_pose.position
        thing, place = self._scene.position(plan.moved), self._scene.position(plan.target)
        match self.phase:
            case Phase.ABOVE:
                return np.append((thing + plan.grip)[:2], thing[2] + plan.approach)
            case Phase.DESCEND | Phase.CLOSE:
                lifted, over = thing[2] + plan.grip[2] + LIFT, place[2] + plan.rest + plan.grip[2] + CLEARANCE
                self._carry_height = max(lifted, over)
                return thing + plan.grip
            case Phase.LIFT:
                return np.array([hand[0], hand[1], self._carry_height])
            case Phase.OVER:
                return np.append((place + hand - thing)[:2], self._carry_height)
            case Phase.LOWER:
                return place + hand - thing + (plan.rest + RELEASE) * UP
            case Phase.RELEASE:
                return hand
            case _:
                return np.array([hand[0], hand[1], place[2] + plan.rest + plan.grip[2] + RETREAT])

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
