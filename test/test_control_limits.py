# SPDX-License-Identifier: Apache-2.0
import pytest

from specprune_ros.control.braking import braking_speed
from specprune_ros.control.limits import LimitsConfig
from specprune_ros.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_speed": 0.0}, r"limits\.max_speed"),
        ({"max_jerk": float("nan")}, r"limits\.max_jerk"),
        ({"on_violation": "ignore"}, "clamp, hold"),
        ({"workspace_min": (0.0, 0.0)}, "three numbers"),
        ({"workspace_min": (3.0, 0.0, 0.0)}, "not below"),
        ({"joint_min": (0.0, 0.0), "joint_max": (1.0, 1.0, 1.0)}, "one for every joint"),
        ({"joint_min": ()}, "one for every joint"),
        ({"joint_min": (-1.0, 2.0), "joint_max": (1.0,)}, "not below"),
    ],
)
def test_bad_limits_are_refused_in_one_line(changes, says):
    with pytest.raises(ConfigError, match=says) as error:
        LimitsConfig(**changes)
    assert "\n" not in str(error.value)


def test_number_of_joints():
    assert LimitsConfig().joint_count is None
    assert LimitsConfig(joint_min=(-1.0, -2.0)).joint_count == 2


def test_braking_by_hand():
    """From 1 m/s at 2 m/s^2 and 0.1 s: 0.1 m in this tick and 0.25 m of braking."""
    assert braking_speed(0.35, 2.0, 0.1) == pytest.approx(1.0)
    assert braking_speed(0.0, 2.0, 0.1) == braking_speed(-1.0, 2.0, 0.1) == 0.0


@pytest.mark.parametrize("distance", [0.001, 0.1, 3.0])
def test_braking_in_ticks_stays_within_the_distance(distance):
    speed, travelled = float(braking_speed(distance, 2.0, 0.05)), 0.0
    while speed > 0:
        travelled += speed * 0.05
        speed -= 2.0 * 0.05
    assert travelled <= distance
