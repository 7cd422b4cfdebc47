# SPDX-License-Identifier: Apache-2.0
"""The task variant in which the object to move slides over the table."""

import numpy as np
import pytest

from specprune_ros.sim.libero_env import LiberoEnv, simulator_action
from specprune_ros.sim.moving_object import MovingObject
from training.expert import Expert
from training.placements import TABLE
from training.scene import Scene

pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def shared_env(libero_spatial):
    return libero_spatial(128)


@pytest.fixture
def env(shared_env):
    shared_env.reset(20)
    return shared_env


def place(env: LiberoEnv) -> np.ndarray:
    scene = Scene(env)
    assert scene.goal is not None
    return scene.position(scene.goal[0])


def bowl(env: LiberoEnv, speed: float, direction: float = 0.0, area: np.ndarray = TABLE) -> MovingObject:
    goal = Scene(env).goal
    assert goal is not None
    return MovingObject(env, goal[0], speed, direction, area)


def test_it_slides_at_its_speed_and_turns_back_at_the_edge(env):
    start = place(env)
    moving = bowl(env, 0.1, np.pi / 2, np.array([start[0] + [-1, 1], start[1] + [-0.02, 0.02]]))
    for _ in range(4):  # 0.2 s
        env.hold()
    np.testing.assert_allclose(place(env) - start, [0, 0.02, 0], atol=1e-3)
    for _ in range(4):
        env.hold()
    np.testing.assert_allclose(place(env) - start, [0, 0, 0], atol=2e-3)
    assert moving.moving


def test_a_reset_ends_the_motion(env):
    bowl(env, 0.1)
    env.reset(20)
    start = place(env)
    for _ in range(4):
        env.hold()
    np.testing.assert_allclose(place(env), start, atol=1e-4)


def test_the_gripper_s_touch_ends_it_and_the_expert_can_solve_it(env):
    moving = bowl(env, 0.03, np.pi / 2)
    expert = Expert(env)
    solved = False
    for _ in range(200):
        solved = env.step(simulator_action(expert.act()))
        if solved or expert.failed:
            break
    assert solved and not moving.moving
