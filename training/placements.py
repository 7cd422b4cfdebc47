# SPDX-License-Identifier: Apache-2.0
"""Where an episode starts: LIBERO's own initial states, split for training and evaluation, or wide random placements.

LIBERO-Spatial's initial states differ by centimetres, so a policy hardly needs to look. Wide placements put every
object anywhere on the free part of the table, as long as what the instruction says of the bowl stays true.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from specprune_ros.errors import UserError
from specprune_ros.sim.libero_env import LiberoEnv
from training.scene import Scene

TRAINING_STATES = range(20)  # of a task's 50 initial states; the others are never trained on
EVALUATION_STATES = range(20, 50)
EVALUATION_SEED = 1_000_000  # seeds from here on are for evaluation, those below for training

TABLE = np.array([[-0.17, 0.12], [-0.04, 0.32]])  # metres in the world, x and y: in reach, clear of the furniture
CENTER = np.array([-0.075, 0.0])  # "table center"
CENTER_SIZE = 0.04
RADII = {"plate": 0.073, "bowl": 0.054, "cookies": 0.052, "ramekin": 0.045}  # by a word in the name
OTHER_RADIUS = 0.05
GAP = 0.012  # between two objects
BETWEEN = 0.255, 0.32  # distance of the two objects that the bowl is between
NEXT_TO = 0.015  # at most this much more than GAP away
APART = 0.18  # the other bowl is at least this far from where the instruction would fit it, too
STACKED = 0.03  # two objects with origins this close, seen from above, are on one another
# Initial states hold the objects above the place that they are about to drop onto.
ON_TABLE = 1.0  # world height below which an object drops onto the table
STOVE = -0.3  # world x below which it drops onto the stove
ATTEMPTS = 50_000


class PlacementError(UserError):
    """A task that has no wide placements, or whose objects found no room."""


@dataclass(frozen=True)
class Relation:
    """What the instruction says of the bowl: `kind`, and words in the names of the objects that it refers to."""

    kind: str  # between, next_to, center; stays: on whatever it is on, which may move
    words: tuple[str, ...] = ()


# By the index of the task in LIBERO-Spatial.
RELATIONS = {
    0: Relation("between", ("plate", "ramekin")),
    1: Relation("next_to", ("ramekin",)),
    2: Relation("center"),
    3: Relation("stays"),
    4: Relation("stays"),
    5: Relation("stays"),
    6: Relation("next_to", ("cookies",)),
    7: Relation("stays"),
    8: Relation("next_to", ("plate",)),
    9: Relation("stays"),
}


def standard_state(env: LiberoEnv, seed: int) -> np.ndarray:
    """(S,) one of LIBERO's initial states; successive seeds go round those of training, or of evaluation."""
    states = _states(seed)
    return env.task.initial_state(states[seed % EVALUATION_SEED % len(states)])


def wide_state(env: LiberoEnv, seed: int) -> np.ndarray:
    """(S,) a wide placement, the same for the same seed.

    Raises PlacementError for a suite whose tasks are not those of LIBERO-Spatial, or when there is no room.
    """
    if env.task.suite != "libero_spatial":
        raise PlacementError(f"wide placements exist for libero_spatial only, not for {env.task.suite}")
    random = np.random.default_rng([seed, env.task.index])
    start = env.task.initial_state(int(random.choice(_states(seed))))
    return _Layout(Scene(env), RELATIONS[env.task.index], start, random).sample()


def _states(seed: int) -> range:
    return EVALUATION_STATES if seed >= EVALUATION_SEED else TRAINING_STATES


class _Layout:
    def __init__(self, scene: Scene, relation: Relation, start: np.ndarray, random: np.random.Generator) -> None:
        assert scene.goal is not None
        self._scene, self._relation, self._start, self._random = scene, relation, start, random
        self._bowl = scene.goal[0]
        self._anchors = [next(name for name in scene.objects if word in name) for word in relation.words]
        self._placed = relation.kind != "stays"  # whether the relation gives the bowl its place
        lying = [name for name in scene.objects if self._lies_on_table(name)]
        self._free = [name for name in lying if not (self._placed and name == self._bowl)]
        self._riders = {
            rider: base
            for rider in set(scene.objects) - set(lying)
            for base in lying
            if np.linalg.norm(self._place(rider) - self._place(base)) < STACKED
        }

    def sample(self) -> np.ndarray:
        for _ in range(ATTEMPTS):
            places = self._attempt()
            if places is not None:
                return self._moved(places)
        raise PlacementError(f"no wide placement found in {ATTEMPTS} attempts; the table is too full")

    def _attempt(self) -> dict[str, np.ndarray] | None:
        """New (x, y) of everything that moves, or None when two things would touch or the instruction is not clear."""
        places = {name: self._random.uniform(TABLE[:, 0], TABLE[:, 1]) for name in self._free}
        if self._placed:
            bowl = self._bowl_place(places)
            if bowl is None:
                return None
            places[self._bowl] = bowl
        for first, second in itertools.combinations(places, 2):
            if np.linalg.norm(places[first] - places[second]) < _radius(first) + _radius(second) + GAP:
                return None
        for rider, base in self._riders.items():
            places[rider] = places[base] + self._place(rider) - self._place(base)
        return places if self._is_clear(places) else None

    def _bowl_place(self, places: dict[str, np.ndarray]) -> np.ndarray | None:
        """Where the instruction wants the bowl; None when that is not possible."""
        anchors = [places[name] for name in self._anchors]
        match self._relation.kind:
            case "between":
                apart = np.linalg.norm(anchors[0] - anchors[1])
                return (anchors[0] + anchors[1]) / 2 if BETWEEN[0] <= apart <= BETWEEN[1] else None
            case "next_to":
                distance = _radius(self._anchors[0]) + _radius(self._bowl) + GAP + self._random.uniform(0, NEXT_TO)
                angle = self._random.uniform(0, 2 * np.pi)
                place = anchors[0] + distance * np.array([np.cos(angle), np.sin(angle)])
                return place if ((TABLE[:, 0] <= place) & (place <= TABLE[:, 1])).all() else None
            case _:
                return CENTER + self._random.uniform(-CENTER_SIZE, CENTER_SIZE, 2)

    def _is_clear(self, places: dict[str, np.ndarray]) -> bool:
        """Whether the instruction does not fit the other bowl as well."""
        if not self._placed:
            return True
        kind = self._bowl.rsplit("_", 1)[0]
        references = [places[name] for name in self._anchors] if self._relation.kind == "next_to" else []
        references.append(places[self._bowl])
        rivals = [places[name] for name in places if name != self._bowl and name.rsplit("_", 1)[0] == kind]
        return all(np.linalg.norm(rival - reference) > APART for rival in rivals for reference in references)

    def _moved(self, places: dict[str, np.ndarray]) -> np.ndarray:
        state = self._start.copy()
        for name, place in places.items():
            start = self._scene.state_slice(name).start
            state[start : start + 2] = place
        return state

    def _place(self, name: str) -> np.ndarray:
        start = self._scene.state_slice(name).start
        return self._start[start : start + 2]

    def _lies_on_table(self, name: str) -> bool:
        height = self._start[self._scene.state_slice(name).start + 2]
        return bool(height < ON_TABLE and self._place(name)[0] > STOVE)


def _radius(name: str) -> float:
    return next((radius for word, radius in RADII.items() if word in name), OTHER_RADIUS)
