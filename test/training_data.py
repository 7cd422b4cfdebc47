# SPDX-License-Identifier: Apache-2.0
"""Small synthetic demonstrations in the format of `training.episodes`."""

from pathlib import Path
from typing import Any

import numpy as np

from training.data_card import write_summary
from training.episodes import VIEWS, Episode, write_episode

INSTRUCTIONS = ("pick up the bowl", "pick up the black bowl next to the ramekin and place it on the plate")
POINTS = ["bowl_1", "bowl_2", "gripper"]


def episode(
    seed: int, steps: int = 20, size: int = 64, suite: str = "synthetic", shift: float = 0.0, instruction: str = ""
) -> Episode:
    """A bright square wanders through both views; the actions say where it is. `shift`: of the proprio."""
    random = np.random.default_rng(seed)
    frames = {view: np.full((steps, size, size, 3), 60, np.uint8) for view in VIEWS}
    points = np.full((steps, len(VIEWS), len(POINTS), 2), np.nan)
    place = np.clip(0.5 + np.cumsum(random.normal(0, 0.06, (steps, 2)), axis=0), 0.2, 0.8)
    for step, (x, y) in enumerate(place):
        left, top = int(x * size) - 4, int(y * size) - 4
        for view in VIEWS:
            frames[view][step, top : top + 8, left : left + 8] = (230, 40, 40)
        points[step, :, 0] = (left + 4) / size, (top + 4) / size
    position = 2 * place - 1
    actions = np.hstack([position, -position, 0.5 * position, (place[:, :1] < 0.5)])
    facts = {
        "instruction": instruction or INSTRUCTIONS[seed % 2],
        "suite": suite,
        "task": seed % 2,
        "seed": seed,
        "wide": False,
        "noise": 0.0,
        "points": POINTS,
        "versions": {"numpy": np.__version__},
    }
    goal = np.stack([np.pad(place, ((0, 0), (0, 1))), np.pad(-place, ((0, 0), (0, 1)))], axis=1)
    proprio = (random.normal(0, 1, (steps, 8)) + shift).astype(np.float32)
    return Episode(frames, proprio, actions.astype(np.float32), points, goal, facts)


def write_data(folder: Path, episodes: int = 4, suite: str = "synthetic", **changes: Any) -> Path:
    for seed in range(episodes):
        path = folder / suite / f"task{seed % 2}" / f"standard-{seed:05d}.npz"
        write_episode(path, episode(seed, suite=suite, **changes))
    write_summary(folder, ["synthetic"])
    return folder
