# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is at a shared model: by deadline, without starving, and through faults."""

import threading
import time

import pytest

pytest.importorskip("rclpy")

from hypothesis import given, settings
from hypothesis import strategies as st

from specprune_ros.nodes.turns import POLL, Turns, Urgency

pytestmark = pytest.mark.ros


class Arm:
    """`take`: what a turn does."""

    def __init__(self, name="", deadline=0.0, idle=False, take=lambda: None):
        self.name, self.deadline, self.idle, self.take = name, deadline, idle, take
        self.active, self.turns = True, 0

    def urgency(self):
        return Urgency(self.idle, self.deadline)

    def step(self, waited):
        assert waited >= 0
        self.turns += 1
        self.take()


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def set_turns(monkeypatch):
    """Turns without a thread, and their clock."""
    monkeypatch.setattr(Turns, "_run", lambda turns: None)
    clock = Clock()
    return Turns(clock), clock


def wait(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_the_earliest_deadline_comes_first(set_turns):
    turns, _ = set_turns
    late, early, watching = Arm(deadline=9.0), Arm(deadline=3.0), Arm(deadline=1.0, idle=True)
    for arm in (watching, late, early):
        turns.add(arm)
    assert turns.next() is None  # nobody was woken
    for arm in (watching, late, early):
        turns.wake(arm)
    assert turns.next() is early
    turns.quiet(early)
    assert turns.next() is late
    turns.quiet(late)
    assert turns.next() is watching  # only after those that infer


def test_inactive_and_removed_arms_have_no_turn(set_turns):
    turns, clock = set_turns
    first, second = Arm(deadline=1.0), Arm(deadline=2.0)
    turns.add(first)
    turns.add(second)
    turns.wake(first)
    turns.wake(second)
    first.active = False
    assert turns.next() is second
    turns.remove(second)
    turns.wake(second)
    clock.now += 10
    assert turns.next() is None


def test_every_arm_looks_at_its_inputs_now_and_then(set_turns):
    """Its own silence must be noticed however often another one is woken."""
    turns, clock = set_turns
    busy, silent = Arm(deadline=1.0), Arm(deadline=50.0)
    turns.add(busy)
    turns.add(silent)
    clock.now += 2 * POLL
    turns.wake(busy)
    assert turns.next() is busy
    turns.quiet(busy)
    turns._stepped[busy] = clock.now
    assert turns.next() is silent


durations = st.floats(0.01, 2.0)


@settings(max_examples=40)
@given(st.lists(st.tuples(durations, durations), min_size=2, max_size=5))
def test_nobody_starves(arms):
    """(time of an inference, length of a chunk): all ask all the time, for more than there is."""
    clock = Clock()
    turns = Turns(clock)
    turns._thread = threading.current_thread()  # no other one
    members = [Arm(str(index), deadline=clock.now) for index in range(len(arms))]
    for member in members:
        turns.add(member)
    last = dict.fromkeys(members, clock.now)
    longest = max(seconds for seconds, _ in arms)
    for _ in range(40):
        for member in members:
            turns.wake(member)
        member = turns.next()
        seconds, chunk = arms[members.index(member)]
        others = sum(seconds for seconds, _ in arms) - seconds
        assert clock.now - last[member] <= max(chunk, seconds) + longest + others + 1e-9
        member.deadline = clock.now + chunk  # as InferenceWorker does, before it knows whether the inference fails
        last[member] = clock.now
        clock.now += seconds


def test_one_at_a_time_and_the_model_for_others_between():
    busy, together = threading.Lock(), []

    def take():
        together.append(busy.locked())
        with busy:
            time.sleep(0.002)

    turns, arms = Turns(), [Arm(take=take), Arm(take=take)]
    for arm in arms:
        turns.add(arm)
    until = time.monotonic() + 0.3
    while time.monotonic() < until or not all(arm.turns > 3 for arm in arms):
        for arm in arms:
            turns.wake(arm)
        with turns.model():
            assert not busy.locked()
    for arm in arms:
        turns.remove(arm)
    assert not any(together)
    wait(lambda: turns._thread is None)  # nobody left: no thread left


def test_an_inference_that_lasts_delays_only_the_end_of_its_own_arm():
    go, stuck = threading.Event(), threading.Event()
    turns = Turns()
    slow, other = Arm(take=lambda: (stuck.set(), go.wait(60))), Arm()
    turns.add(slow)
    turns.add(other)
    turns.wake(slow)
    assert stuck.wait(60)
    begin = time.monotonic()
    turns.wake(other)
    turns.remove(other)
    turns.remove(slow, patience=0.05)
    assert time.monotonic() - begin < 30 and not go.is_set()
    turns.add(slow)
    threading.Timer(0.05, go.set).start()
    turns.remove(slow)
    assert go.is_set()  # without a limit it was waited for


def test_an_arm_that_was_quiet_is_served_when_it_wakes():
    turns, arm = Turns(), Arm()
    turns.add(arm)
    wait(lambda: arm.turns >= 2)  # nobody wakes it
    arm.active = False
    seen = arm.turns
    time.sleep(3 * POLL)
    assert arm.turns <= seen + 1
    arm.active = True
    turns.wake(arm)
    wait(lambda: arm.turns > seen + 1)
    turns.remove(arm)
