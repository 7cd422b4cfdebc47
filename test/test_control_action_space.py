# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from specprune_ros.control.action_space import ActionSpace, ControllerConfig
from specprune_ros.errors import ConfigError

UPRIGHT = Rotation.identity()
QUARTER_TURN = Rotation.from_euler("z", 90, degrees=True)
ALOHA = {
    "action_space": "absolute_joint",
    "joint_names": tuple(f"{side}_{i}" for side in ("left", "right") for i in range(6)),
    "gripper_dimensions": (6, 13),
    "gripper_binary": False,
}


def test_libero_units_by_hand():
    """1 unit is 0.05 m or 0.5 rad per step of 0.05 s: 1 m/s and 10 rad/s."""
    space = ActionSpace(ControllerConfig(), 7)
    twist = space.twist(np.array([1.0, 0, -0.5, 0, 0.1, 0, 1.0]), 0.05, UPRIGHT)
    np.testing.assert_allclose(twist, [1.0, 0, -0.5, 0, 1.0, 0])


def test_bridge_units_are_metres_and_euler_angles():
    config = ControllerConfig(metres_per_unit=1.0, radians_per_unit=1.0, rotation="euler_xyz", step_duration=0.2)
    twist = ActionSpace(config, 7).twist(np.array([0.02, 0, 0, np.pi / 2, 0, np.pi / 2, 0.0]), 0.2, UPRIGHT)
    # A quarter turn about x and then about z is a third of a turn about (1, 1, 1).
    np.testing.assert_allclose(twist[:3], [0.1, 0, 0])
    np.testing.assert_allclose(twist[3:], np.full(3, 2 * np.pi / 3 / np.sqrt(3) / 0.2))


def test_increments_along_the_tools_axes():
    space = ActionSpace(ControllerConfig(frame="tool"), 7)
    twist = space.twist(np.array([1.0, 0, 0, 0, 0.1, 0, 0]), 0.05, QUARTER_TURN)
    np.testing.assert_allclose(twist, [0, 1, 0, -1, 0, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("closed", "opened", "action", "opening"),
    [(0, 1, 0.9, 1), (0, 1, 0.1, 0), (0, 1, 0.5, 0), (1, -1, -1, 1), (1, -1, 1, 0), (0, 1, 1.7, 1), (0, 1, -3, 0)],
)
def test_binary_gripper_conventions(closed, opened, action, opening):
    config = ControllerConfig(gripper_closed_value=float(closed), gripper_open_value=float(opened))
    assert ActionSpace(config, 7).openings(np.array([0, 0, 0, 0, 0, 0, action], float)) == [opening]


def test_aloha_has_two_arms_with_proportional_grippers():
    space = ActionSpace(ControllerConfig(**ALOHA), 14)
    action = np.arange(14.0)
    action[[6, 13]] = 0.25, 1.2
    np.testing.assert_array_equal(space.joints(action), [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12])
    np.testing.assert_allclose(space.openings(action), [0.25, 1.0])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gripper_open_value": 0.0}, "gripper_open_value"),
        ({"output": "joint_trajectory"}, "absolute_joint"),
        ({**ALOHA, "output": "twist"}, "delta_end_effector"),
        ({**ALOHA, "output": "joint_trajectory", "trajectory_time": 0.01}, "trajectory_time"),
        ({"gripper_output": "trajectory"}, "gripper_joint_names"),
        ({"gripper_output": "trajectory", "gripper_dimensions": (5, 6), "gripper_joint_names": ("f",)}, "2 grippers"),
        ({"metres_per_unit": -1.0}, "metres_per_unit"),
        ({"frame": "camera"}, "base, tool"),
        ({"gripper_dimensions": (6, 6)}, "gripper_dimensions has 6 twice"),
        ({**ALOHA, "joint_names": ("a", "b", "b")}, "joint_names has b twice"),
    ],
)
def test_contradictions_are_refused_in_one_line(changes, says):
    with pytest.raises(ConfigError, match=says) as error:
        ControllerConfig(**changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "action_dim", "says"),
    [
        ({}, 6, "do not exist"),
        ({}, 14, "needs 6 numbers"),
        ({**ALOHA, "joint_names": ("a",)}, 14, "joint_names has 1"),
    ],
)
def test_a_configuration_that_does_not_fit_the_checkpoint_is_refused(changes, action_dim, says):
    with pytest.raises(ConfigError, match=says):
        ActionSpace(ControllerConfig(**changes), action_dim)
