# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from specprune_ros.control.cartesian_limiter import CartesianLimiter
from specprune_ros.control.limits import LimitsConfig

PERIOD = 0.05
LOOSE = {
    "max_acceleration": 100.0,
    "max_jerk": 1e5,
    "max_angular_acceleration": 1000.0,
    "max_angular_jerk": 1e5,
}
ORIGIN = np.zeros(3)


def twist(*numbers):
    return np.array([*numbers, *[0.0] * (6 - len(numbers))])


def test_what_is_within_the_limits_passes_unchanged():
    limited = CartesianLimiter(LimitsConfig(**LOOSE), PERIOD).apply(twist(0.1, -0.2, 0.3, 0.4, 0.5, 0.6), ORIGIN)
    np.testing.assert_array_equal(limited.value, [0.1, -0.2, 0.3, 0.4, 0.5, 0.6])
    assert limited.hit == () and not limited.hold


def test_speed_keeps_its_direction():
    limited = CartesianLimiter(LimitsConfig(**LOOSE), PERIOD).apply(twist(3.0, 4.0, 0, 0, 0, -6.0), ORIGIN)
    np.testing.assert_allclose(limited.value, [0.3, 0.4, 0, 0, 0, -1.5])
    assert limited.hit == ("speed", "angular_speed")


def test_acceleration_by_hand():
    """2 m/s^2 for 0.05 s is 0.1 m/s a tick."""
    limiter = CartesianLimiter(LimitsConfig(**{**LOOSE, "max_acceleration": 2.0}), PERIOD)
    speeds = []
    for _ in range(5):
        limited = limiter.apply(twist(0.35), ORIGIN)
        speeds.append(limited.value[0])
    np.testing.assert_allclose(speeds, [0.1, 0.2, 0.3, 0.35, 0.35], atol=1e-4)
    assert limited.hit == ()


def test_jerk_by_hand():
    """20 m/s^3 for 0.05 s: the acceleration grows by 1 m/s^2, the speed by 0.05 m/s, then by 0.1 m/s."""
    limiter = CartesianLimiter(LimitsConfig(**{**LOOSE, "max_jerk": 20.0}), PERIOD)
    speeds = [limiter.apply(twist(0.5), ORIGIN).value[0] for _ in range(3)]
    np.testing.assert_allclose(speeds[:2], [0.05, 0.15])
    assert limiter.apply(twist(0.5), ORIGIN).hit == ("jerk",)


@pytest.mark.parametrize("jerk", [1.0, 5.0, 10.0, 30.0, 100.0])
@pytest.mark.parametrize("rate", [20, 100, 500])
@pytest.mark.parametrize("axis", [0, 2])
def test_an_arm_that_is_pushed_into_a_wall_stays_there(axis, rate, jerk):
    limits = LimitsConfig(workspace_max=(0.3, 0.3, 0.3), workspace_min=(-0.3, -0.3, -0.3), max_jerk=jerk)
    limiter, place, before, into = CartesianLimiter(limits, 1 / rate), np.zeros(3), np.zeros(3), np.zeros(6)
    into[axis] = 0.5
    for _ in range(4 * rate):
        value = limiter.apply(into, place).value[:3]
        assert value[axis] >= -1e-9  # and does not come back
        assert (np.abs(value - before) * rate <= limits.max_acceleration * (1 + 1e-6)).all()
        place, before = place + value / rate, value
    assert place[axis] == pytest.approx(0.3, abs=0.005) and place[axis] <= 0.3 + 1e-9


def test_a_lower_speed_limit_does_not_turn_the_arm_round():
    limiter = CartesianLimiter(LimitsConfig(max_speed=0.5), PERIOD)
    for _ in range(40):
        limiter.apply(twist(0.5), ORIGIN)
    limiter.config = LimitsConfig(max_speed=0.1)
    speeds = [limiter.apply(twist(0.5), ORIGIN).value[0] for _ in range(40)]
    assert min(speeds) >= 0.0 and speeds[-1] == pytest.approx(0.1)


def test_a_wanted_twist_is_reached_and_kept():
    limiter = CartesianLimiter(LimitsConfig(max_jerk=20.0, max_angular_jerk=50.0), 0.01)
    for _ in range(200):
        limited = limiter.apply(twist(0.3, 0.1, 0, 0.5, 0, 0), ORIGIN)
    np.testing.assert_allclose(limited.value, [0.3, 0.1, 0, 0.5, 0, 0])
    assert limited.hit == ()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1, 1])
def test_brakes_before_the_wall_and_leaves_it_freely(axis, sign):
    config = LimitsConfig(workspace_min=(-0.3,) * 3, workspace_max=(0.3,) * 3, max_acceleration=1.0, max_jerk=1e5)
    limiter, position, before = CartesianLimiter(config, PERIOD), np.zeros(3), np.zeros(3)
    towards = twist(*(0.5 * sign * np.eye(3)[axis]))
    for _ in range(60):
        limited = limiter.apply(towards, position)
        position = position + limited.value[:3] * PERIOD
        assert np.abs(limited.value[:3] - before).max() <= 1.0 * PERIOD + 1e-9
        before = limited.value[:3]
    assert "workspace" in limited.hit
    assert 0.29 < sign * position[axis] <= 0.3
    for _ in range(3):
        limited = limiter.apply(-towards, position)
    assert limited.value[axis] * sign < -0.1


def test_slides_along_the_wall():
    config = LimitsConfig(**LOOSE, workspace_max=(0.3, 2.0, 2.0))
    limited = CartesianLimiter(config, PERIOD).apply(twist(0.2, 0.2), np.array([0.3, 0.0, 0.0]))
    np.testing.assert_allclose(limited.value[:2], [0.0, 0.2])


def test_from_outside_only_ways_back_pass():
    limiter = CartesianLimiter(LimitsConfig(**LOOSE, workspace_max=(0.3, 2.0, 2.0)), PERIOD)
    outside = np.array([0.4, 0.0, 0.0])
    assert limiter.apply(twist(0.2), outside).value[0] == 0.0
    assert limiter.apply(twist(-0.2), outside).value[0] == pytest.approx(-0.2)


@pytest.mark.parametrize(("wanted", "hit"), [(twist(0.0, 0.6), "speed"), (twist(0.4), "workspace")])
def test_hold_instead_of_clamp(wanted, hit):
    limiter = CartesianLimiter(LimitsConfig(**LOOSE, on_violation="hold"), PERIOD)
    limited = limiter.apply(wanted, np.array([1.99, 0.0, 0.0]))
    assert limited.hold and limited.hit == (hit,) and not limited.value.any()
    assert not limiter.apply(twist(-0.4), np.array([1.99, 0.0, 0.0])).hold


def test_reset_means_standing_still():
    limiter = CartesianLimiter(LimitsConfig(max_acceleration=2.0, max_jerk=1e5), PERIOD)
    for _ in range(10):
        limiter.apply(twist(0.5), ORIGIN)
    limiter.reset()
    assert limiter.apply(twist(0.5), ORIGIN).value[0] == pytest.approx(0.1, abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    period=st.sampled_from([0.002, 0.01, 0.05]),
    speed=st.floats(0.05, 2.0),
    acceleration=st.floats(0.1, 20.0),
    jerk=st.floats(1.0, 1000.0),
)
@example(seed=92291, period=0.002, speed=0.05, acceleration=8.0, jerk=824.0)  # turns at the highest speed
def test_limits_hold_for_any_sequence(seed, period, speed, acceleration, jerk):
    """The box and the speed always; the acceleration of each axis always, and all three together away from walls; the
    jerk away from walls and from the speed limit."""
    box = 0.2
    config = LimitsConfig(
        workspace_min=(-box,) * 3,
        workspace_max=(box,) * 3,
        max_speed=speed,
        max_acceleration=acceleration,
        max_jerk=jerk,
    )
    limiter, random = CartesianLimiter(config, period), np.random.default_rng(seed)
    position, velocity, change = np.zeros(3), np.zeros(3), np.zeros(3)
    wanted, at_wall = np.zeros(6), False
    for tick in range(80):
        if tick % 7 == 0:
            wanted = random.normal(size=6) * random.choice([0.1, 1.0, 10.0])
        limited = limiter.apply(wanted, position)
        sent = limited.value[:3]
        assert np.linalg.norm(sent) <= speed * (1 + 1e-6)
        assert np.linalg.norm(limited.value[3:]) <= config.max_angular_speed * (1 + 1e-6)
        new_change = (sent - velocity) / period
        assert np.abs(new_change).max() <= acceleration * (1 + 1e-6)
        was_at_wall, at_wall = at_wall, "workspace" in limited.hit
        if not at_wall:
            assert np.linalg.norm(new_change) <= acceleration * (1 + 1e-6)
            if not was_at_wall and "speed" not in limited.hit:
                assert np.linalg.norm(new_change - change) <= jerk * period * (1 + 1e-6)
        position, velocity, change = position + sent * period, sent, new_change
        assert np.abs(position).max() <= box + 1e-9
