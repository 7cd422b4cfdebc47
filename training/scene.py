# SPDX-License-Identifier: Apache-2.0
"""What is where in a LIBERO scene: the objects, the goal, and where both are in the camera images."""

import itertools

import numpy as np

from specprune_ros.sim.libero_env import LiberoEnv

LEVEL = 0.99  # cosine of a slope


class Scene:
    """Reads the simulator's state. Positions: metres, world, of the origins of bodies and the middles of regions."""

    def __init__(self, env: LiberoEnv) -> None:
        self._env = env
        self._robosuite = env.robosuite
        self.objects = tuple(self._robosuite.objects_dict)
        self.furniture = tuple(self._robosuite.fixtures_dict)
        self.regions = tuple(self._robosuite.object_sites_dict)  # of the table, furniture and containers

    @property
    def goal(self) -> tuple[str, str] | None:
        """(moved object, object or region that it goes onto or into); None for any other goal."""
        goals = self._robosuite.parsed_problem["goal_state"]
        if len(goals) != 1 or goals[0][0].lower() not in ("on", "in"):
            return None
        _, moved, target = goals[0]
        return (moved, target) if moved in self.objects and target in (*self.objects, *self.regions) else None

    @property
    def furniture_of_goal(self) -> tuple[str, ...]:
        """The region of furniture that the goal names, if it does: what else there is to see than objects."""
        target = None if self.goal is None else self.goal[1]
        parts = self._robosuite.object_sites_dict
        return (target,) if target in parts and parts[target].parent_name in self.furniture else ()

    def position(self, name: str) -> np.ndarray:
        """(3,) of an object, a piece of furniture or a region."""
        data = self._robosuite.sim.data
        if name in self.regions:
            return np.array(data.get_site_xpos(name))
        return np.array(data.body_xpos[self._robosuite.obj_body_id[name]])

    def region_height(self, name: str) -> float:
        """From a region's position up to its top."""
        size = self._robosuite.sim.data.get_site_xmat(name) @ self._robosuite.object_sites_dict[name].size
        return float(abs(size[2]))

    def is_drawer(self, name: str) -> bool:
        """Whether a region moves on joints of its own."""
        return name in self.regions and bool(self._robosuite.object_sites_dict[name].joints)

    def is_level(self, name: str) -> bool:
        """Whether things can stand there."""
        return name in self.objects or bool(self._robosuite.sim.data.get_site_xmat(name)[2, 2] > LEVEL)

    def corners(self, name: str) -> np.ndarray:
        """(N, 3) corners of the boxes around the parts of an object that can touch, from its origin, world axes."""
        model, data = self._robosuite.sim.model, self._robosuite.sim.data
        corners = []
        for geom in self._robosuite.objects_dict[name].contact_geoms:
            index = model.geom_name2id(geom)
            middle, half = np.split(model.geom_aabb[index], 2)
            box = middle + half * list(itertools.product((-1, 1), repeat=3))
            corners.append(box @ data.geom_xmat[index].reshape(3, 3).T + data.geom_xpos[index])
        return np.concatenate(corners) - self.position(name)

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
