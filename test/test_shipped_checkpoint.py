# SPDX-License-Identifier: Apache-2.0
"""The policy that the repository ships: complete, small enough, and it looks before it moves."""

from pathlib import Path

import numpy as np
import pytest

from specprune_ros.policy import Observation, Policy
from specprune_ros.sim.libero_env import CAMERAS
from specprune_ros.sim.libero_tasks import find_task
from training.scene import Scene

SHIPPED = Path(__file__).parents[1] / "checkpoints" / "nano_libero"
MIRRORED = 1  # axis
TASKS = (3, 7, 9)
FIRST_CHUNK_METRES = 0.03  # at least this far towards the bowl


@pytest.fixture(scope="module")
def policy():
    return Policy.from_checkpoint(SHIPPED)


@pytest.fixture(scope="module")
def env(libero_spatial):
    """Of task 0; the others of its suite differ only in the instruction and in where the bowls start."""
    return libero_spatial(256)


def test_it_is_small_and_has_a_card():
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 25e6
    assert "Limits" in (SHIPPED / "README.md").read_text()


@pytest.mark.sim
@pytest.mark.parametrize("number", TASKS)
def test_the_first_chunk_goes_towards_the_bowl(policy, env, number):
    task = find_task("libero_spatial", number)
    env.reset_to(task.initial_state(20))  # never trained on
    scene = Scene(env)
    views = {camera: np.flip(env.image(camera), MIRRORED) for camera in CAMERAS}
    policy.reset()
    chunk = policy.act(Observation(views, env.proprio, task.instruction))
    towards = scene.position(scene.goal[0])[:2] - env.eef_pose.position[:2]
    moved = 0.05 * chunk.actions[:, :2].sum(axis=0)
    assert moved @ towards / np.linalg.norm(towards) > FIRST_CHUNK_METRES
    assert (chunk.actions[:, 6] > 0.5).all()  # the hand stays open
