# SPDX-License-Identifier: Apache-2.0
"""The policy that the repository ships: complete, small enough, and it looks before it moves."""

from pathlib import Path

import numpy as np
import pytest

from specprune_ros.openvla.statistics import suite_key
from specprune_ros.policy import Observation, Policy
from specprune_ros.sim.libero_env import CAMERAS, METRES_PER_UNIT, LiberoEnv
from specprune_ros.sim.libero_tasks import find_task
from training.scene import Scene

SHIPPED = Path(__file__).parents[1] / "checkpoints" / "nano_libero"
MIRRORED = 1  # axis
FIRST_CHUNK_METRES = 0.03  # at least this far towards what is to be moved
UNSEEN_STATE = 20


def test_it_is_small_and_has_a_card():
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 25e6
    assert "Limits" in (SHIPPED / "README.md").read_text()


@pytest.mark.sim
@pytest.mark.parametrize("number", [3, 7, 9])
def test_the_first_chunk_goes_towards_the_bowl(libero_spatial, number):
    """The tasks of this suite differ only in the instruction and in where the bowls start."""
    assert_goes_towards_its_thing(libero_spatial(256), "libero_spatial", number)


@pytest.mark.sim
@pytest.mark.parametrize(("suite", "number"), [("libero_object", 4), ("libero_goal", 8)])
def test_the_first_chunk_goes_towards_what_the_other_suites_name(suite, number):
    env = LiberoEnv(suite, number, shadows=False, anti_aliasing=False)
    try:
        assert_goes_towards_its_thing(env, suite, number)
    finally:
        env.close()


def assert_goes_towards_its_thing(env, suite, number):
    task = find_task(suite, number)
    env.reset_to(task.initial_state(UNSEEN_STATE))
    scene = Scene(env)
    views = {camera: np.flip(env.image(camera), MIRRORED) for camera in CAMERAS}
    policy = Policy.from_checkpoint(SHIPPED, unnorm_key=suite_key(SHIPPED, suite))
    chunk = policy.act(Observation(views, env.proprio, task.instruction))
    towards = scene.position(scene.goal[0])[:2] - env.eef_pose.position[:2]
    moved = METRES_PER_UNIT * chunk.actions[:, :2].sum(axis=0)
    assert moved @ towards / np.linalg.norm(towards) > FIRST_CHUNK_METRES
    assert (chunk.actions[:, 6] > 0.5).all()  # the hand stays open
