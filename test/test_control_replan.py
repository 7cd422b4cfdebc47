# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from specprune_ros.control.arm import Motion
from specprune_ros.control.command import Command
from specprune_ros.control.plan import Plan
from specprune_ros.control.replan import ReplanConfig, Replanner, ReplanReason
from specprune_ros.errors import ConfigError


def motion(remaining=1.0, deviation=0.0, angle=0.0):
    command = Command(np.zeros(7), 0.05, 0, 0.0, remaining, Plan(np.zeros((1, 7)), 0.0, 0.05))
    return Motion(np.zeros(6), None, None, np.zeros(1), (), deviation, angle, command)


CHUNK_END = ReplanConfig(when="chunk_end", margin=0.05)


def test_continuous_always_plans():
    replanner = Replanner(ReplanConfig())
    assert replanner.due(None, "coarse", 0.1) == ReplanReason.NO_PLAN
    assert replanner.due(motion(), "coarse", 0.1) == ReplanReason.CONTINUOUS


def test_chunk_end_plans_just_in_time():
    replanner = Replanner(CHUNK_END)
    assert replanner.due(None, "coarse", 0.1) == ReplanReason.NO_PLAN
    assert replanner.due(motion(remaining=0.16), "coarse", 0.1) is None
    assert replanner.due(motion(remaining=0.14), "coarse", 0.1) == ReplanReason.CHUNK_END


def test_switch_to_fine_triggers_once():
    replanner = Replanner(CHUNK_END)
    modes = ["fine", "coarse", "fine", "fine", "coarse"]
    assert [replanner.due(motion(), mode, 0.1) for mode in modes] == [None, None, ReplanReason.FINE, None, None]
    replanner = Replanner(ReplanConfig(when="chunk_end", on_fine=False))
    assert [replanner.due(motion(), mode, 0.1) for mode in ("coarse", "fine")] == [None, None]


@pytest.mark.parametrize(
    ("deviation", "angle", "reason"),
    [(0.04, 0.2, None), (0.06, 0.0, ReplanReason.DEVIATION), (0.0, 0.4, ReplanReason.DEVIATION)],
)
def test_deviation(deviation, angle, reason):
    assert Replanner(CHUNK_END).due(motion(deviation=deviation, angle=angle), "coarse", 0.1) == reason


def test_configuration_is_checked():
    with pytest.raises(ConfigError, match=r"replan\.margin"):
        ReplanConfig(margin=-1.0)
