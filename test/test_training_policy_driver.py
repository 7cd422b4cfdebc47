# SPDX-License-Identifier: Apache-2.0
"""A policy that drives while the expert labels."""

import numpy as np
import pytest

from specprune_ros.policy import Observation
from specprune_ros.sim.libero_env import simulator_action
from training.expert import Expert, Phase
from training.policy_driver import STATIONARY, PolicyDriver
from training.recording import record

SIZE = 256  # px
SIDEWAYS = np.array([0.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0])


class Sideways:
    """A policy that always goes the same way, and closes the hand."""

    def __init__(self):
        self.seen: list[Observation] = []

    def reset(self):
        self.seen.clear()

    def act(self, observation):
        self.seen.append(observation)
        return type("Chunk", (), {"actions": np.tile(SIDEWAYS, (8, 1))})


@pytest.fixture(scope="module")
def env(libero_spatial):
    return libero_spatial(SIZE)


@pytest.mark.sim
def test_the_policy_moves_in_bursts_and_never_the_hand(env):
    env.reset(0)
    policy, expert = Sideways(), Expert(env)
    driver = PolicyDriver(policy, seed=1)
    led = []
    for _ in range(120):
        action = expert.act(led=not driver.leads)
        executed = driver(env, expert, action)
        assert executed[6] == action[6]
        assert (executed[:6] == (SIDEWAYS if driver.leads else action)[:6]).all()
        assert not (driver.leads and expert.phase in STATIONARY)
        led.append(driver.leads)
        env.step(simulator_action(executed))
    assert 0.2 < np.mean(led) < 0.8 and 4 <= np.abs(np.diff(led)).sum() <= 24
    assert len(policy.seen) >= sum(led) / 8
    assert policy.seen[0].views["primary"].shape == (SIZE, SIZE, 3) and np.ptp(policy.seen[0].views["primary"]) > 50


@pytest.mark.sim
def test_standing_still_under_the_policy_ends_no_phase(env):
    env.reset(0)
    expert = Expert(env)
    while expert.phase is not Phase.DESCEND:
        env.step(simulator_action(expert.act()))
    for _ in range(20):
        env.hold()
        expert.act(led=False)
    assert expert.phase is Phase.DESCEND
    for _ in range(3):
        env.hold()
        expert.act()
    assert expert.phase is Phase.CLOSE  # for the expert alone it would mean an obstacle


@pytest.mark.sim
def test_an_episode_holds_the_experts_actions_where_the_policy_drove(env, monkeypatch):
    monkeypatch.setattr(env, "image", lambda camera: np.zeros((SIZE, SIZE, 3), np.uint8))  # nobody looks
    episode = record(env, index=0, wide=False, policy=Sideways())
    assert episode is not None and episode.facts["noise"] == 0.0
    assert not (np.abs(episode.actions[:, :6] - SIDEWAYS[:6]) < 1e-9).all(axis=1).any()
