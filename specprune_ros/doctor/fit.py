# SPDX-License-Identifier: Apache-2.0
"""Whether the robot's parameters fit the checkpoint, and each other."""

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from specprune_ros.control.action_space import ActionSpace, ControllerConfig
from specprune_ros.errors import ConfigError
from specprune_ros.pruning.config import PruningConfig
from specprune_ros.sensing.config import InputsConfig

POSE_NUMBERS = 6  # position and axis-angle
GRIPPER_TOLERANCE = 0.25  # of an action; a proportional gripper need not reach its ends


class Fitted(Protocol):
    """What parameters have to fit: a loaded `Policy`, or a checkpoint whose weights nobody has read."""

    @property
    def num_views(self) -> int: ...
    @property
    def proprio_dim(self) -> int: ...
    @property
    def action_space(self) -> str: ...
    @property
    def action_range(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...


def check_fits(model: Fitted, inputs: InputsConfig, controller: ControllerConfig) -> None:
    """Raises ConfigError, which names the parameter, when cameras, proprio or actions do not fit the checkpoint."""
    if len(inputs.cameras) != model.num_views:
        raise ConfigError(
            f"inputs.cameras has {len(inputs.cameras)} names ({', '.join(inputs.cameras)}); the checkpoint expects "
            f"{model.num_views} views"
        )
    pose, joints = proprio_numbers(inputs)
    if pose + joints != model.proprio_dim:
        raise ConfigError(
            f"inputs.proprio {inputs.proprio} with {joints} inputs.joint_names gives {pose + joints} numbers; the "
            f"checkpoint expects {model.proprio_dim}" + _joints_hint(model.proprio_dim - pose, inputs)
        )
    if inputs.proprio == "end_effector" and not (inputs.base_frame and inputs.ee_frame):
        raise ConfigError("inputs.proprio end_effector needs inputs.base_frame and inputs.ee_frame")
    if controller.action_space != model.action_space:
        raise ConfigError(
            f"controller.action_space is {controller.action_space}; the checkpoint predicts {model.action_space}"
        )
    ActionSpace(controller, len(model.action_range[0]))  # joints and grippers


def proprio_numbers(inputs: InputsConfig) -> tuple[int, int]:
    """How many numbers of the proprio are the end effector's pose, and how many are joints."""
    pose = POSE_NUMBERS if inputs.proprio == "end_effector" else 0
    return pose, 0 if inputs.proprio == "none" else len(inputs.joint_names)


def doubts(pruning: PruningConfig, controller: ControllerConfig) -> list[str]:
    """What `pruning.*` and `controller.*` say differently about the same thing, a line each.

    Both hold the policy's time step and length unit: the one to measure motion, the other to make it.
    """
    found = []
    rate = 1 / controller.step_duration
    if not math.isclose(pruning.control_rate, rate, rel_tol=0.01):
        found.append(
            f"pruning.control_rate is {pruning.control_rate:g} Hz, but controller.step_duration "
            f"{controller.step_duration:g} s means {rate:g} Hz; set both to the rate of the training data"
        )
    if controller.delta and not math.isclose(pruning.metres_per_unit, controller.metres_per_unit, rel_tol=0.01):
        found.append(
            f"pruning.metres_per_unit is {pruning.metres_per_unit:g}, but controller.metres_per_unit is "
            f"{controller.metres_per_unit:g}; set both to what an action of 1.0 means"
        )
    return found


def _joints_hint(missing: int, inputs: InputsConfig) -> str:
    return f": name {missing} joints" if missing >= 0 and inputs.proprio != "none" else ""


def gripper_doubt(model: Fitted, controller: ControllerConfig) -> str:
    """How the configured gripper actions contradict the training data, in one line; "" when they do not."""
    grippers = list(controller.gripper_dimensions)
    if not grippers:
        return ""
    low, high = (float(bound[grippers].mean()) for bound in model.action_range)
    closed, opened = controller.gripper_closed_value, controller.gripper_open_value
    if abs(min(closed, opened) - low) <= GRIPPER_TOLERANCE and abs(max(closed, opened) - high) <= GRIPPER_TOLERANCE:
        return ""
    return (
        f"controller.gripper_closed_value is {closed:g} and gripper_open_value {opened:g}, but the training data's "
        f"gripper actions go from {low:.2g} to {high:.2g}; set what closes and what opens in the data"
    )
