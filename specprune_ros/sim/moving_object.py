# SPDX-License-Identifier: Apache-2.0
"""A variant of LIBERO's tasks: an object slides over the table until the gripper touches it."""

import numpy as np

from specprune_ros.sim.libero_env import LiberoEnv


class MovingObject:
    """Pushes an object along at a constant speed, as a conveyor would; it turns back at the edges of an area.

    Place and speed on the table are imposed at every physics step, because friction would stop the object within
    milliseconds. The first touch of the gripper ends it for good, and so does leaving the height at which it began.
    """

    FALLEN_OR_LIFTED = 0.02  # metres from that height

    def __init__(self, env: LiberoEnv, name: str, speed: float, direction: float, area: np.ndarray) -> None:
        """`speed`: m/s. `direction`: rad from the world's x axis. `area` (2, 2): least and most x, and y, metres."""
        self._env, self._sim, self._robot = env, env.robosuite.sim, env.robosuite.robots[0]
        self._object = env.robosuite.objects_dict[name]
        self._joint = self._object.joints[0]
        self._velocity = speed * np.array([np.cos(direction), np.sin(direction)])
        self._area = area
        self._on_table = self._pose[:2].copy()
        self._height = self._pose[2]
        self.moving = True
        env.before_physics = self._push

    @property
    def _pose(self) -> np.ndarray:
        """(7,) of the object in the world: position and quaternion."""
        return self._sim.data.get_joint_qpos(self._joint)

    def stop(self) -> None:
        """Leave the object to physics from now on."""
        self.moving = False
        self._env.before_physics = None

    def _push(self) -> None:
        pose = self._pose.copy()
        if abs(pose[2] - self._height) > self.FALLEN_OR_LIFTED or self._touched():
            self.stop()
            return
        for axis, (least, most) in enumerate(self._area):
            if pose[axis] < least:
                self._velocity[axis] = abs(self._velocity[axis])
            elif pose[axis] > most:
                self._velocity[axis] = -abs(self._velocity[axis])
        self._on_table += self._velocity * self._sim.model.opt.timestep
        pose[:2] = self._on_table
        self._sim.data.set_joint_qpos(self._joint, pose)
        twist = self._sim.data.get_joint_qvel(self._joint)
        self._sim.data.set_joint_qvel(self._joint, np.concatenate([self._velocity, twist[2:3], np.zeros(3)]))

    def _touched(self) -> bool:
        return bool(self._env.robosuite.check_contact(self._robot.gripper, self._object))
