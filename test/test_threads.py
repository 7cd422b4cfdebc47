# SPDX-License-Identifier: Apache-2.0
"""The number of CPU threads: chosen by time, kept by whichever thread infers."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from specprune_ros.engine import threads
from specprune_ros.engine.threads import Threads, candidates, fewest_that_pay
from specprune_ros.policy import Observation, Policy

TINY = Path(__file__).parent / "data" / "tiny_oft"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_candidates_end_with_all_cores():
    assert [candidates(cores) for cores in (1, 2, 6, 8)] == [(1,), (1, 2), (1, 2, 4, 6), (1, 2, 4, 8)]


def test_more_threads_have_to_pay():
    assert fewest_that_pay({1: 1.0, 2: 0.99, 4: 1.2}) == 1
    assert fewest_that_pay({1: 1.0, 2: 0.6, 4: 0.59}) == 2
    assert fewest_that_pay({1: 1.0, 2: 0.98, 4: 0.5}) == 4


def test_the_fastest_count_is_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(threads, "MOST", 4)
    chosen = Threads()
    chosen.measure(lambda: time.sleep(0.01 if torch.get_num_threads() == 2 else 0.1))
    assert chosen.count == torch.get_num_threads() == 2


def test_a_long_inference_takes_all_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(threads, "MOST", 3)
    monkeypatch.setattr(threads, "LONG", 0.01)
    chosen, calls = Threads(), []
    chosen.measure(lambda: calls.append(time.sleep(0.02)))
    assert (chosen.count, len(calls)) == (3, 1)


def test_a_policy_measures_at_warm_up_and_keeps_what_is_given():
    measured = Policy.from_checkpoint(TINY)
    assert measured.threads == 0
    measured.warm_up()
    assert measured.threads in candidates(threads.MOST)
    given = Policy.from_checkpoint(TINY, threads=3)
    given.warm_up()
    assert given.threads == torch.get_num_threads() == 3


def test_the_count_reaches_whichever_thread_infers():
    policy, seen = Policy.from_checkpoint(TINY, threads=3), []
    policy.warm_up()
    image = np.zeros((policy.image_size, policy.image_size, 3), np.uint8)
    observation = Observation({"primary": image, "wrist": image}, np.zeros(policy.proprio_dim), "pick up the bowl")

    def infer() -> None:
        torch.set_num_threads(1)  # as a thread has it that computed something before the warm-up
        policy.act(observation)
        seen.append(torch.get_num_threads())

    worker = threading.Thread(target=infer)
    worker.start()
    worker.join()
    assert seen == [3]
