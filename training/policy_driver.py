# SPDX-License-Identifier: Apache-2.0
"""Lets a policy drive now and then while the expert labels: the data then shows how to correct its mistakes.

Source: DAgger, arXiv 1011.0686.
"""

import hashlib
from pathlib import Path

import numpy as np

from specprune_ros.camera import Camera
from specprune_ros.policy import Observation, Policy
from specprune_ros.pose import Pose
from specprune_ros.sim.libero_env import CAMERAS, CONTROL_RATE, LiberoEnv
from training.expert import Expert, Phase

POLICY_STEPS, EXPERT_STEPS = (8, 33), (8, 25)  # how long each drives: from, below
STATIONARY = (Phase.CLOSE, Phase.RELEASE)  # what the expert does there itself, or its phases would not fit the state


class PolicyDriver:
    """Who executes a step: the policy its motion, in bursts; the expert everything else, and the gripper always."""

    def __init__(self, policy: Policy, seed: int) -> None:
        self._policy = policy
        self._random = np.random.default_rng(seed)
        self._left = 0  # steps of this burst
        self._chunk: list[np.ndarray] = []
        self._turn = False  # of the policy
        self._steps = 0
        self.leads = False  # whether the last step's motion was the policy's
        policy.reset()

    def __call__(self, env: LiberoEnv, expert: Expert, action: np.ndarray) -> np.ndarray:
        """The action (7,) to execute where the expert would execute `action`."""
        if self._left == 0:
            self._turn, self._chunk = not self._turn, []
            self._left = int(self._random.integers(*(POLICY_STEPS if self._turn else EXPERT_STEPS)))
        self._left -= 1
        self._steps += 1
        self.leads = self._turn and expert.phase not in STATIONARY
        if not self.leads:
            self._chunk = []
            return action
        if not self._chunk:
            self._chunk = list(self._policy.act(observe(env, self._steps / CONTROL_RATE)).actions)
        return np.append(np.clip(self._chunk.pop(0)[:6], -1.0, 1.0), action[6])


def observe(env: LiberoEnv, now: float, twist: np.ndarray | None = None) -> Observation:
    """What the checkpoint sees: mirrored images, LIBERO's proprio; and the cameras, in the arm's base frame."""
    views = {camera: np.ascontiguousarray(env.image(camera)[:, ::-1]) for camera in CAMERAS}
    cameras = {camera: mirrored_camera(env, camera) for camera in CAMERAS}
    return Observation(views, env.proprio, env.instruction, now, twist, cameras)


def mirrored_camera(env: LiberoEnv, camera: str) -> Camera:
    """Of the mirrored view, where it is now."""
    mirror = np.array([[-1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    in_widths = np.diag([1 / env.image_size, 1 / env.image_size, 1.0])
    pose = env.base_pose.inverse() @ env.camera_pose(camera)
    return Camera(mirror @ in_widths @ env.camera_intrinsics(camera), matrix(pose))


def matrix(pose: Pose) -> np.ndarray:
    """(4, 4) homogeneous."""
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = pose.rotation.as_matrix(), pose.position
    return result


def weights_digest(checkpoint: Path) -> str:
    """Of the weights; the same for every folder without any, which loading the checkpoint will tell better."""
    digest = hashlib.sha256()
    for path in sorted([*checkpoint.glob("*.safetensors"), *checkpoint.glob("*--*_checkpoint.pt")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
