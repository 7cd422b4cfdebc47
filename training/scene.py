# SPDX-License-Identifier: Apache-2.0
"""What is where in a LIBERO scene: the objects, the goal, and where both are in the camera images."""

import numpy as np

from specprune_ros.sim.libero_env import LiberoEnv


class Scene:
    """Reads the simulator's state; positions are of the bodies' origins in the world, metres."""

    def __init__(self, env: LiberoEnv) -> None:
        self._env = env
        self._robosuite = env.robosuite
        self.objects = tuple(self._robosuite.objects_dict)
        self.furniture = tuple(self._robosuite.fixtures_dict)

    @property
    def goal(self) -> tuple[str, str] | None:
        """(moved object, object it goes onto); None for any other goal."""
        goals = self._robosuite.parsed_problem["goal_state"]
        if len(goals) != 1 or goals[0][0].lower() != "on" or not set(goals[0][1:]) <= set(self.objects):
            return None
        return goals[0][1], goals[0][2]

    def position(self, name: str) -> np.ndarray:
        """(3,) of an object or a piece of furniture."""
        return np.array(self._robosuite.sim.data.body_xpos[self._robosuite.obj_body_id[name]])

    def pixel(self, point: np.ndarray, camera: str) -> np.ndarray:
        """(2,) x right, y down, in image widths of the upright image; nan behind the camera. May lie outside 0..1."""
        pose = self._env.camera_pose(camera)
        seen = pose.rotation.inv().apply(point - pose.position)
        if seen[2] <= 0:
            return np.full(2, np.nan)
        return (self._env.camera_intrinsics(camera) @ seen / seen[2])[:2] / self._env.image_size

    def state_slice(self, name: str) -> slice:
        """Where an object's position and quaternion (w first), 7 numbers, are in a flat MuJoCo state (time first)."""
        joint = self._robosuite.objects_dict[name].joints[0]
        start, stop = self._robosuite.sim.model.get_joint_qpos_addr(joint)
        return slice(1 + start, 1 + stop)
