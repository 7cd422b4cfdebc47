# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specprune_ros.control.plan import Plan

ACTIONS = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
PLAN = Plan(ACTIONS, stamp=10.0, dt=0.1)


@pytest.mark.parametrize(
    ("now", "index"), [(9.99, -1), (10.0, 0), (10.05, 0), (10.1, 1), (10.1 - 1e-9, 1), (10.29, 2), (10.3, 3)]
)
def test_step_k_belongs_to_stamp_plus_k_dt(now, index):
    assert PLAN.index(now) == index
    assert PLAN.covers(now) == (0 <= index < 3)


def test_covers_a_duration_only_when_the_plan_lasts_that_long():
    assert PLAN.covers(10.1, 0.2)
    assert not PLAN.covers(10.15, 0.2)


def test_index_survives_large_stamps():
    plan = Plan(np.zeros((8, 1)), stamp=1_763_000_000.05, dt=0.05)
    assert [plan.index(1_763_000_000.05 + k * 0.05) for k in range(8)] == list(range(8))


@pytest.mark.parametrize(
    ("now", "period", "expected"),
    [
        (10.0, 0.1, [1.0, 10.0]),  # aligned: the step itself
        (10.05, 0.1, [1.5, 15.0]),  # half of step 0, half of step 1
        (10.0, 0.05, [1.0, 10.0]),  # a faster control rate runs the same step twice
        (10.0, 0.2, [1.5, 15.0]),  # a slower one runs two steps at once
        (10.25, 0.1, [2.0, 20.0]),  # the plan ends in the middle of the tick
        (10.3, 0.1, [0.0, 0.0]),
        (9.95, 0.1, [0.5, 5.0]),
    ],
)
def test_mean(now, period, expected):
    np.testing.assert_allclose(PLAN.mean(now, period), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("now", "expected"), [(9.0, 1.0), (10.0, 1.0), (10.05, 1.5), (10.15, 3.0), (10.2, 4.0), (10.29, 4.0), (11.0, 4.0)]
)
def test_interpolate(now, expected):
    np.testing.assert_allclose(PLAN.interpolate(now), [expected, 10 * expected], atol=1e-9)


def test_a_plan_of_one_step():
    plan = Plan(np.array([[3.0]]), 0.0, 0.1)
    assert plan.interpolate(0.05) == plan.interpolate(0.0) == [3.0]
    np.testing.assert_allclose(plan.mean(0.05, 0.1), [1.5])


@given(
    steps=st.integers(1, 12),
    phase=st.floats(0.0, 0.99),
    rate=st.floats(3.0, 200.0),
    seed=st.integers(0, 2**31),
)
def test_every_increment_is_executed_exactly_once(steps, phase, rate, seed):
    """Whatever the phase and rate of the ticks, the motion adds up to what was left of the chunk."""
    dt, period = 0.05, 1 / rate
    actions = np.random.default_rng(seed).normal(size=(steps, 3))
    plan = Plan(actions, 0.0, dt)
    start = phase * dt
    ticks = int(np.ceil((plan.end - start) / period)) + 1
    total = sum(plan.mean(start + i * period, period) * period / dt for i in range(ticks))
    np.testing.assert_allclose(total, actions.sum(axis=0) - phase * actions[0], atol=0.02)
