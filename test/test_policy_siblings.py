# SPDX-License-Identifier: Apache-2.0
"""Policies that share weights, as several arms do: each answers as it would alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_model import model_config, random_checkpoint

from specprune_ros.policy import Observation, Policy

PRUNING = ("paper", "fast", "off")
TWISTS = (np.zeros(6), np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0]))
# Which arm, what it sees, how it moves, whether it forgets before.
TURNS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.sampled_from(TWISTS), st.booleans()), min_size=2, max_size=8
)


@pytest.fixture(scope="module")
def checkpoint():
    return random_checkpoint(model_config(), 7)


@settings(max_examples=8)
@given(TURNS)
def test_in_turn_each_answers_as_alone(checkpoint, turns):
    """To the bit, whatever the others see and forget between."""
    first = Policy(checkpoint, PRUNING[0], tile=1, threads=1)
    together = [first, *(first.sibling(pruning) for pruning in PRUNING[1:])]
    alone = [Policy(checkpoint, pruning, tile=1, threads=1) for pruning in PRUNING]
    for time, (arm, picture, twist, forget) in enumerate(turns):
        random = np.random.default_rng(picture)
        views = {name: random.integers(0, 256, (56, 56, 3), dtype=np.uint8) for name in ("primary", "wrist")}
        observation = Observation(views, random.uniform(-1, 1, 5), f"pick up bowl {arm}", 0.1 * time, twist)
        chunks = []
        for policy in (together[arm], alone[arm]):
            if forget:
                policy.reset()
            chunks.append(policy.act(observation))
        ours, expected = chunks
        np.testing.assert_array_equal(ours.actions, expected.actions)
        assert (ours.pruning.mode, ours.pruning.reason) == (expected.pruning.mode, expected.pruning.reason)
        for kept, wanted in zip(ours.pruning.kept_final, expected.pruning.kept_final, strict=True):
            np.testing.assert_array_equal(kept, wanted)


def test_threads_are_measured_once_for_all(checkpoint):
    first = Policy(checkpoint, "paper", tile=1)
    second = first.sibling("fast")  # before the first was warmed up
    first.warm_up()
    assert first.threads > 0 and second.threads == first.threads
