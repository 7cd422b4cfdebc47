# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specprune_ros.control.joint_limiter import JointLimiter
from specprune_ros.control.limits import LimitsConfig

PERIOD = 0.02
REST = np.zeros(2)


def test_what_is_within_the_limits_passes_unchanged():
    limiter = JointLimiter(LimitsConfig(max_joint_acceleration=(1000.0,)), PERIOD)
    for k in range(1, 20):
        wanted = np.array([0.01, -0.02]) * k
        limited = limiter.apply(wanted, REST)
        np.testing.assert_allclose(limited.value, wanted)
        assert limited.hit == ()
    np.testing.assert_allclose(limiter.velocity, [0.5, -1.0])


def test_speed_by_hand():
    """1.5 rad/s for 0.02 s is 0.03 rad a tick; the other joint has a limit of its own."""
    limiter = JointLimiter(LimitsConfig(max_joint_speed=(1.5, 0.5), max_joint_acceleration=(1000.0,)), PERIOD)
    limited = limiter.apply(np.array([1.0, 1.0]), REST)
    np.testing.assert_allclose(limited.value, [0.03, 0.01])
    assert limited.hit == ("joint_speed",)


def test_acceleration_by_hand():
    """10 rad/s^2 for 0.02 s is 0.2 rad/s a tick: 0.004 rad, then 0.008 rad more."""
    limiter = JointLimiter(LimitsConfig(), PERIOD)
    values = [limiter.apply(np.array([1.0, -1.0]), REST) for _ in range(2)]
    np.testing.assert_allclose([limited.value[0] for limited in values], [0.004, 0.012])
    assert "joint_acceleration" in values[0].hit


def test_joints_that_are_measured_in_degrees_do_not_move():
    limiter = JointLimiter(LimitsConfig(), PERIOD)
    doubt = limiter.doubt(np.array([0.1, 1.5]), np.array([5.0, 86.0]))
    assert doubt.joint == 1 and "more than a turn away" in doubt.reason and "radians" in doubt.reason
    limiter.continuous = np.array([False, True])  # such a joint may count its turns
    assert limiter.doubt(np.array([0.1, 1.5]), np.array([0.2, 86.0])) is None


def test_starts_from_the_measured_joints_and_again_after_a_reset():
    limiter = JointLimiter(LimitsConfig(), PERIOD)
    limiter.apply(np.array([1.0, 1.0]), np.array([0.9, 0.5]))
    limiter.forget()
    assert limiter.velocity is None
    np.testing.assert_allclose(limiter.apply(np.array([1.0, 1.0]), np.array([1.0, 1.0])).value, [1.0, 1.0])


def test_after_braking_nothing_of_the_old_target_is_made_up_for():
    limiter = JointLimiter(LimitsConfig(), PERIOD)
    for _ in range(20):
        limiter.apply(np.array([1.0, -1.0]), REST)
    while limiter.velocity.any():
        limiter.brake(REST)
    here = limiter.target.positions
    assert (np.abs(here) < 0.9).all()
    np.testing.assert_array_equal(limiter.target.wanted, here)
    np.testing.assert_allclose(limiter.apply(here, REST).value, here, atol=1e-12)


def test_reaches_a_distant_target_without_overshoot_and_stays():
    limiter = JointLimiter(LimitsConfig(), PERIOD)
    target = np.array([0.7, -0.3])
    values = [limiter.apply(target, REST).value for _ in range(150)]
    np.testing.assert_allclose(values[-1], target, atol=1e-4)
    assert np.max(np.array(values) / target) <= 1 + 1e-6


def test_catches_up_with_a_moving_target():
    limiter = JointLimiter(LimitsConfig(), PERIOD)
    for k in range(300):
        wanted = np.array([1.0 + 0.3 * k * PERIOD, 0.0])
        limited = limiter.apply(wanted, REST)
    np.testing.assert_allclose(limited.value, wanted, atol=1e-3)


@pytest.mark.parametrize(("target", "hit"), [([5.0, 0.0], "joint_position"), ([0.5, 0.0], "joint_speed")])
def test_hold_instead_of_clamp(target, hit):
    limiter = JointLimiter(LimitsConfig(on_violation="hold", joint_max=(4.0,)), PERIOD)
    limited = limiter.apply(np.array(target), REST)
    assert limited.hold and hit in limited.hit
    np.testing.assert_array_equal(limited.value, REST)
    assert not limiter.apply(np.array([0.01, 0.0]), REST).hold


def test_from_outside_the_range_only_the_way_back_passes():
    limiter = JointLimiter(LimitsConfig(joint_max=(1.0,)), PERIOD)
    measured = np.array([1.2, 0.0])
    limited = limiter.apply(np.array([1.5, 0.0]), measured)
    assert limited.value[0] <= 1.2 and "joint_position" in limited.hit
    for _ in range(100):
        limited = limiter.apply(np.array([1.5, 0.0]), measured)
    assert limited.value[0] == pytest.approx(1.0, abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    period=st.sampled_from([0.002, 0.02, 0.05]),
    speed=st.floats(0.05, 5.0),
    acceleration=st.floats(0.5, 50.0),
)
def test_limits_hold_for_any_sequence(seed, period, speed, acceleration):
    config = LimitsConfig(
        joint_min=(-1.0, -0.5),
        joint_max=(1.0, 2.0),
        max_joint_speed=(speed,),
        max_joint_acceleration=(acceleration,),
    )
    limiter, random = JointLimiter(config, period), np.random.default_rng(seed)
    before, velocity = np.zeros(2), np.zeros(2)
    target = np.zeros(2)
    for tick in range(80):
        if tick % 5 == 0:
            target = random.normal(size=2) * random.choice([0.1, 1.0, 5.0])
        value = limiter.apply(target, REST).value
        new_velocity = (value - before) / period
        assert (value >= np.array(config.joint_min) - 1e-9).all() and (value <= np.array(config.joint_max) + 1e-9).all()
        assert np.abs(new_velocity).max() <= speed * (1 + 1e-6)
        assert np.abs(new_velocity - velocity).max() <= acceleration * period * (1 + 1e-6)
        before, velocity = value, new_velocity


def test_a_hold_stays_within_braking_distance_of_the_last_target():
    """1.5 rad/s with 10 rad/s^2: 0.1125 rad, a tick of 0.02 s and a measurement 0.05 s late: 0.2175 rad."""
    limiter = JointLimiter(LimitsConfig(), PERIOD)
    for _ in range(20):
        sent = limiter.apply(np.array([1.0, -1.0]), REST).value
    stop = limiter.hold(np.array([-5.0, sent[1] + 0.1]))
    np.testing.assert_allclose(stop.positions, [sent[0] - 0.2175, sent[1] + 0.1])
    assert stop.seconds == pytest.approx(0.145)


def test_a_hold_without_a_measurement_stays_where_the_arm_was_seen_last():
    limiter = JointLimiter(LimitsConfig(), PERIOD)
    assert limiter.hold(None) is None
    seen = REST
    for _ in range(20):
        before, seen = seen, 0.8 * limiter.apply(np.array([1.0, 0.0]), seen).value
    np.testing.assert_allclose(limiter.hold(None).positions, before)


def test_continuous_joints_have_no_range_and_go_the_short_way():
    limiter = JointLimiter(LimitsConfig(joint_max=(3.0,), joint_min=(-3.3,)), PERIOD)
    limiter.continuous = np.array([True, False])
    measured = np.array([-3.13, 0.0])
    for _ in range(200):
        value = limiter.apply(np.array([3.10, 0.0]), measured).value
    np.testing.assert_allclose(value, [3.10 - 2 * np.pi, 0.0], atol=1e-4)
