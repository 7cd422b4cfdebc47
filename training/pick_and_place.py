# SPDX-License-Identifier: Apache-2.0
"""What the expert picks, how it grips it, and where it lets it go. Lengths in metres, world frame.

A bowl is gripped by its rim, anything else by its middle, with the fingers along its narrowest side.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from specprune_ros.errors import UserError
from specprune_ros.sim.libero_env import LiberoEnv
from training.scene import Scene

UP = np.array([0.0, 0.0, 1.0])
DOWN = Rotation.from_quat([1.0, 0.0, 0.0, 0.0])  # hand points down, fingers along world y

RIM = 0.045  # from a bowl's centre to where a finger goes over its rim
RIM_HEIGHT = 0.05  # above its origin, which is at its bottom
BURNER = 0.025  # above the middle of a stove's cook region
APPROACH, GRASP = 0.12, 0.035  # height of the hand above a bowl's origin, before and at the grasp
FURNITURE_RADIUS = 0.15

OPENING = 0.078  # between the fingers
PALM, TIPS = 0.026, 0.012  # from the point between the finger tips up to the palm, and down to the tips' ends
HAND = np.array([0.106, 0.032])  # half the size of the palm, along the fingers' opening and across
GAP = 0.01  # of the palm from everything
ABOVE_TOP = 0.07  # the hand above a thing's top, before the grasp
TURNS = np.radians(np.arange(-85, 95, 5))  # of the hand about the vertical
COST_OF_TURN = 0.006  # metres of width that are worth a radian


class ExpertError(UserError):
    """The task is not of a kind that the expert knows."""


@dataclass(frozen=True)
class Grasp:
    """How a bowl is gripped. `angle`: of the hand about the vertical, rad; 0 has the fingers along world y.

    `side`: which of the two rim points in that direction, +1 or -1; 0 takes the one farther from other objects.
    """

    angle: float = 0.0
    side: int = 0


# By suite, also for its variants, and index of the task. Where either side will do it is always the same one: a policy
# learns that more easily than "the one farther from other objects".
GRASPS = {
    "libero_spatial": {
        **dict.fromkeys((2, 3, 5, 7), Grasp(side=1)),
        4: Grasp(angle=1.147, side=1),  # along the drawer's long side
        9: Grasp(side=1),  # the other one is beyond the arm's reach
    },
    "libero_goal": dict.fromkeys(range(10), Grasp(side=1)),
}
TASKS = {"libero_goal": (1, 2, 4, 6, 8)}  # that the expert knows, where these are not all ten


@dataclass(frozen=True)
class PickAndPlace:
    """One thing to another place. Heights and offsets are from the origin of the thing to move."""

    moved: str
    target: str  # object or region
    hand: Rotation  # while it grips
    grip: np.ndarray  # (3,) to the hand
    approach: float  # height of the hand before the grasp
    rest: float  # height of the thing's origin above the target's where it comes to rest, or falls in


def pick_and_place(env: LiberoEnv, grasp: Grasp | None = None) -> PickAndPlace:
    """For the task and the state that it is in. `grasp` of a bowl: None takes the one known for the task.

    Raises ExpertError for anything but moving one thing onto or into another one that is in reach.
    """
    scene = Scene(env)
    if scene.goal is None:
        raise _cannot(env, "it only moves one thing onto or into another")
    moved, target = scene.goal
    if scene.is_drawer(target):
        raise _cannot(env, "it opens no drawers")
    if not scene.is_level(target):
        raise _cannot(env, f"{target} is not level, and it lays nothing down")
    surface = _surface(scene, target)
    if _is_bowl(moved):
        grasp = _known_grasp(env) if grasp is None else grasp
        rim = _rim_offset(scene, moved, grasp)
        return PickAndPlace(moved, target, _turned(grasp.angle), rim + GRASP * UP, APPROACH, surface)
    corners = scene.corners(moved)
    bottom, top = corners[:, 2].min(), corners[:, 2].max()
    height = max((bottom + top) / 2, top - PALM + GAP, bottom + TIPS)
    angle = turn_of_hand(scene, moved, height)
    width = np.ptp(corners @ _fingers(angle))
    if width > OPENING:
        raise _cannot(env, f"{moved} is {100 * width:.0f} cm wide, wider than its gripper opens, and it pushes nothing")
    along = corners @ _axes(angle).T
    middle = (along.min(axis=0) + along.max(axis=0)) / 2
    grip = middle @ _axes(angle) + height * UP
    return PickAndPlace(moved, target, _turned(angle), grip, top + ABOVE_TOP, surface - bottom)


def _cannot(env: LiberoEnv, reason: str) -> ExpertError:
    return ExpertError(f"the expert cannot solve '{env.instruction}': {reason}")


def _is_bowl(name: str) -> bool:
    return "bowl" in name.split("_")


def _surface(scene: Scene, target: str) -> float:
    """How far above the target's origin things stand on it, or, of a container, fall into it."""
    if target in scene.objects:
        return RIM_HEIGHT if _is_bowl(target) else 0.0
    if target.endswith("cook_region"):
        return BURNER
    return scene.region_height(target)


def known_tasks(suite: str) -> tuple[int, ...]:
    """Indices of the tasks that the expert solves, of a suite or a variant of it."""
    return next((tasks for name, tasks in TASKS.items() if suite.startswith(name)), tuple(range(10)))


def turn_of_hand(scene: Scene, thing: str, height: float) -> float:
    """Rad about the vertical, for gripping a thing at a height above its origin; 0 has the fingers along world y.

    The fingers go along its narrowest side, but a smaller turn is worth a little width, and a turn that keeps the palm
    off other things any width that fits.
    """
    corners = scene.corners(thing)
    others = [scene.corners(name) + scene.position(name) for name in scene.objects if name != thing]
    around = np.concatenate([np.empty((0, 3)), *others]) - scene.position(thing)
    high = around[around[:, 2] > height + PALM - GAP]

    def cost(angle: float) -> tuple[bool, bool, float]:
        width = float(np.ptp(corners @ _fingers(angle)))
        gaps = np.abs(high @ _axes(angle).T) - HAND
        return width > OPENING, bool((gaps < GAP).all(axis=1).any()), width + COST_OF_TURN * abs(angle)

    return min(TURNS, key=cost)


def _known_grasp(env: LiberoEnv) -> Grasp:
    known = next((grasps for suite, grasps in GRASPS.items() if env.task.suite.startswith(suite)), {})
    return known.get(env.task.index, Grasp())


def _fingers(angle: float) -> np.ndarray:
    """(3,) direction of the fingers."""
    return np.array([-np.sin(angle), np.cos(angle), 0.0])


def _axes(angle: float) -> np.ndarray:
    """(2, 3) the directions of the fingers, and across."""
    return np.array([_fingers(angle), _fingers(angle + np.pi / 2)])


def _turned(angle: float) -> Rotation:
    return Rotation.from_euler("z", angle) * DOWN


def _rim_offset(scene: Scene, bowl: str, grasp: Grasp) -> np.ndarray:
    direction = _fingers(grasp.angle)
    if grasp.side:
        return RIM * grasp.side * direction
    place = scene.position(bowl)
    free = [_clearance(scene, place, place + 2 * RIM * side * direction) for side in (1, -1)]
    return RIM * (1 if free[0] >= free[1] else -1) * direction


def _clearance(scene: Scene, bowl: np.ndarray, finger: np.ndarray) -> float:
    """Horizontal distance from a finger to the nearest thing that is not the bowl or what it stands on."""
    gaps = []
    for name in (*scene.objects, *scene.furniture):
        place = scene.position(name)[:2]
        if np.linalg.norm(place - bowl[:2]) > RIM:
            radius = FURNITURE_RADIUS if name in scene.furniture else 0.0
            gaps.append(float(np.linalg.norm(place - finger[:2])) - radius)
    return min(gaps)
