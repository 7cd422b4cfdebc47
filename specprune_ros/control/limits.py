# SPDX-License-Identifier: Apache-2.0
"""What the arm may do. Enforced in cartesian_limiter.py and joint_limiter.py."""

import math
from dataclasses import dataclass

from specprune_ros.errors import ConfigError
from specprune_ros.parameters import check, parameter


@dataclass(frozen=True)
class LimitsConfig:
    """Limits of the end effector (twist and pose outputs), of the joints (joint_trajectory), and of the gripper."""

    on_violation: str = parameter(
        "clamp",
        "When an action is outside the workspace, the speeds or the joint ranges: clamp it, or hold. Accelerations and "
        "jerks are always clamped.",
        choices=("clamp", "hold"),
    )
    workspace_min: tuple[float, ...] = parameter(
        (-2.0, -2.0, -2.0),
        "Lowest x, y, z of the end effector in the base frame.",
        minimum=-100.0,
        maximum=100.0,
        unit="m",
    )
    workspace_max: tuple[float, ...] = parameter(
        (2.0, 2.0, 2.0),
        "Highest x, y, z of the end effector in the base frame.",
        minimum=-100.0,
        maximum=100.0,
        unit="m",
    )
    max_speed: float = parameter(0.5, "Speed of the end effector.", minimum=0.001, maximum=5.0, unit="m/s")
    max_angular_speed: float = parameter(
        1.5, "Angular speed of the end effector.", minimum=0.001, maximum=20.0, unit="rad/s"
    )
    max_acceleration: float = parameter(
        3.0, "Acceleration of the end effector.", minimum=0.01, maximum=100.0, unit="m/s^2"
    )
    max_angular_acceleration: float = parameter(
        12.0, "Angular acceleration of the end effector.", minimum=0.01, maximum=1000.0, unit="rad/s^2"
    )
    max_jerk: float = parameter(100.0, "Jerk of the end effector.", minimum=0.1, maximum=100000.0, unit="m/s^3")
    max_angular_jerk: float = parameter(
        500.0, "Angular jerk of the end effector.", minimum=0.1, maximum=100000.0, unit="rad/s^3"
    )
    joint_min: tuple[float, ...] = parameter(
        (-2 * math.pi,),
        "Lowest joint positions: one for every joint, or one for all.",
        minimum=-1000.0,
        maximum=1000.0,
        unit="rad",
    )
    joint_max: tuple[float, ...] = parameter(
        (2 * math.pi,),
        "Highest joint positions: one for every joint, or one for all.",
        minimum=-1000.0,
        maximum=1000.0,
        unit="rad",
    )
    max_joint_speed: tuple[float, ...] = parameter(
        (1.5,), "Joint speeds: one for every joint, or one for all.", minimum=0.001, maximum=100.0, unit="rad/s"
    )
    max_joint_acceleration: tuple[float, ...] = parameter(
        (10.0,),
        "Joint accelerations: one for every joint, or one for all.",
        minimum=0.01,
        maximum=1000.0,
        unit="rad/s^2",
    )
    gripper_debounce: float = parameter(
        0.1, "A binary gripper's new state must last this long before it is sent.", minimum=0.0, maximum=5.0, unit="s"
    )

    def __post_init__(self) -> None:
        check(self, "limits")
        if len(self.workspace_min) != 3 or len(self.workspace_max) != 3:
            raise ConfigError("limits.workspace_min and workspace_max need three numbers each: x, y, z")
        if any(low >= high for low, high in zip(self.workspace_min, self.workspace_max, strict=True)):
            raise ConfigError(
                f"limits.workspace_min {list(self.workspace_min)} is not below workspace_max {list(self.workspace_max)}"
            )
        lengths = {
            len(self.joint_min),
            len(self.joint_max),
            len(self.max_joint_speed),
            len(self.max_joint_acceleration),
        }
        if 0 in lengths or len(lengths - {1}) > 1:
            raise ConfigError("limits of joints need one number for all joints, or one for every joint")
        count = max(lengths)
        lows, highs = (values * (count // len(values)) for values in (self.joint_min, self.joint_max))
        if any(low >= high for low, high in zip(lows, highs, strict=True)):
            raise ConfigError(f"limits.joint_min {list(self.joint_min)} is not below joint_max {list(self.joint_max)}")

    @property
    def joint_count(self) -> int | None:
        """Number of joints that the joint limits are for; None when they are for any number."""
        count = max(map(len, (self.joint_min, self.joint_max, self.max_joint_speed, self.max_joint_acceleration)))
        return None if count == 1 else count
