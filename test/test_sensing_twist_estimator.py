# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from specprune_ros.sensing.twist_estimator import TwistEstimator

START = Rotation.from_euler("xyz", [180, 10, 30], degrees=True)


def pose(time, linear=(0.0, 0.0, 0.0), angular=(0.0, 0.0, 0.0)):
    rotation = Rotation.from_rotvec(np.array(angular) * time) * START
    return np.array([0.4, -0.1, 0.3]) + np.array(linear) * time, rotation.as_quat()


def fed(times, **twist):
    estimator = TwistEstimator(0.15, 0.2)
    for time in times:
        estimator.add(time, *pose(time, **twist))
    return estimator


REGULAR = np.arange(0.0, 1.0, 0.02)
JITTERED = REGULAR + np.random.default_rng(0).uniform(-0.008, 0.008, len(REGULAR))
WITH_GAP = REGULAR[(REGULAR < 0.84) | (REGULAR > 0.91)]


@pytest.mark.parametrize("times", [REGULAR, JITTERED, WITH_GAP, np.arange(0.0, 1.0, 0.001)])
@pytest.mark.parametrize(
    ("linear", "angular"),
    [
        ((0.2, 0.0, -0.1), (0.0, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 1.5)),
        ((0.1, 0.2, 0.3), (0.7, -2.0, 1.0)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ],
)
def test_constant_twist_is_exact_in_the_base_frame(times, linear, angular):
    twist = fed(times, linear=linear, angular=angular).twist(times[-1])
    np.testing.assert_allclose(twist, [*linear, *angular], atol=1e-7)


def test_a_tool_on_a_circle():
    """0.3 m from the axis at 0.5 rad/s: 0.15 m/s along the tangent."""
    estimator = TwistEstimator(0.1, 0.2)
    for time in REGULAR:
        turn = Rotation.from_rotvec([0, 0, 0.5 * time])
        estimator.add(time, turn.apply([0.3, 0.0, 0.2]), (turn * START).as_quat())
    twist = estimator.twist(0.5)  # newer poses are known, so the window is centred
    tangent = Rotation.from_rotvec([0, 0, 0.25]).apply([0.0, 0.15, 0.0])
    np.testing.assert_allclose(twist, [*tangent, 0, 0, 0.5], atol=1e-4)


def test_noise_is_filtered():
    """1 mm of noise at 50 Hz makes 70 mm/s between neighbours; over the window below a quarter of that."""
    random = np.random.default_rng(0)
    errors, estimator = [], TwistEstimator(0.15, 0.2)
    for time in np.arange(0.0, 4.0, 0.02):
        position, quaternion = pose(time, linear=(0.1, 0, 0))
        estimator.add(time, position + random.normal(scale=0.001, size=3), quaternion)
        if time > 0.2:
            errors.append(estimator.twist(time)[:3] - [0.1, 0, 0])
    assert np.std(errors) < 0.07 / 4


def test_quaternion_sign_does_not_matter():
    estimator = TwistEstimator(0.15, 0.2)
    for k, time in enumerate(REGULAR):
        position, quaternion = pose(time, angular=(0.0, 1.0, 0.0))
        estimator.add(time, position, quaternion * (-1) ** k)
    np.testing.assert_allclose(estimator.twist(0.98)[3:], [0, 1, 0], atol=1e-7)


def test_unknown_without_enough_recent_poses():
    estimator = TwistEstimator(0.15, 0.2)
    assert estimator.twist(0.0) is None
    for time in (0.0, 0.01, 0.02):
        estimator.add(time, *pose(time))
    assert estimator.twist(0.02) is None  # the span is too short
    estimator.add(0.06, *pose(0.06))
    assert estimator.twist(0.06) is not None
    assert estimator.twist(0.25) is not None
    assert estimator.twist(0.27) is None  # stale
    assert estimator.twist(-5.0) is None  # before all poses


def test_unknown_right_after_a_long_gap():
    estimator = fed([0.0, 0.05, 0.1, 1.0])
    assert estimator.twist(1.0) is None
    for time in (1.05, 1.1):
        estimator.add(time, *pose(time))
    assert estimator.twist(1.1) is not None


def test_drops_duplicates_and_late_poses():
    estimator = fed(REGULAR, linear=(0.2, 0, 0))
    assert not estimator.add(REGULAR[-1], np.full(3, 9.0), START.as_quat())
    assert not estimator.add(REGULAR[-1] - 0.05, np.full(3, 9.0), START.as_quat())
    np.testing.assert_allclose(estimator.twist(REGULAR[-1])[:3], [0.2, 0, 0], atol=1e-9)


@pytest.mark.parametrize(
    ("stamp", "position", "quaternion"),
    [
        (np.nan, np.zeros(3), START.as_quat()),
        (2.0, np.array([0, np.nan, 0]), START.as_quat()),
        (2.0, np.zeros(3), np.array([np.inf, 0, 0, 1])),
        (2.0, np.zeros(3), np.zeros(4)),
    ],
)
def test_drops_poses_that_are_not_poses(stamp, position, quaternion):
    estimator = fed(REGULAR)
    assert not estimator.add(stamp, position, quaternion)
    assert estimator.twist(REGULAR[-1]) is not None


def test_starts_afresh_when_the_clock_jumps_back():
    estimator = fed(REGULAR + 100.0, linear=(0.2, 0, 0))
    assert estimator.add(0.0, *pose(0.0))
    assert estimator.twist(0.0) is None
    for time in (0.05, 0.1):
        estimator.add(time, *pose(time, linear=(-0.1, 0, 0)))
    np.testing.assert_allclose(estimator.twist(0.1)[:3], [-0.1, 0, 0], atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-0.5, 0.5), min_size=3, max_size=3),
    st.lists(st.floats(-3.0, 3.0), min_size=3, max_size=3),
    st.integers(0, 2**31),
)
def test_any_constant_twist_at_any_stamps(linear, angular, seed):
    random = np.random.default_rng(seed)
    times = 1_763_000_000 + np.cumsum(random.uniform(0.002, 0.03, 60))
    estimator = TwistEstimator(0.15, 0.2)
    for time in times:
        estimator.add(time, *pose(time - times[0], linear, angular))
    np.testing.assert_allclose(estimator.twist(times[-1]), [*linear, *angular], atol=1e-4)
