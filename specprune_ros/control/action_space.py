# SPDX-License-Identifier: Apache-2.0
"""What the numbers of an action mean, per checkpoint family, and how the arm's controller wants them."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from specprune_ros.arrays import Floats
from specprune_ros.errors import ConfigError
from specprune_ros.parameters import check, parameter, repeated

DELTA_END_EFFECTOR, ABSOLUTE_JOINT = "delta_end_effector", "absolute_joint"
CARTESIAN_OUTPUTS, JOINT_OUTPUTS = ("twist", "pose"), ("joint_trajectory",)


@dataclass(frozen=True)
class ControllerConfig:
    """Defaults: OpenVLA-OFT's LIBERO checkpoints (robosuite's OSC_POSE controller)."""

    output: str = parameter(
        "action_chunk",
        "What drives the arm: action_chunk publishes chunks alone, joint_trajectory suits joint_trajectory_controller, "
        "twist MoveIt Servo, pose a Cartesian controller.",
        choices=("action_chunk", *JOINT_OUTPUTS, *CARTESIAN_OUTPUTS),
        live=False,
    )
    rate: float = parameter(
        20.0, "Control rate; it need not be the rate of the steps.", minimum=1.0, maximum=1000.0, unit="Hz", live=False
    )
    step_duration: float = parameter(
        0.05,
        "Time between two steps of a chunk: one over the control rate of the training data.",
        minimum=0.001,
        maximum=1.0,
        unit="s",
        live=False,
    )
    action_space: str = parameter(
        DELTA_END_EFFECTOR,
        "delta_end_effector: three translations and three rotations per step; absolute_joint: joint positions in rad.",
        choices=(DELTA_END_EFFECTOR, ABSOLUTE_JOINT),
        live=False,
    )
    metres_per_unit: float = parameter(
        0.05,
        "Length of one unit of a translation. LIBERO 0.05, Bridge 1.",
        minimum=1e-6,
        maximum=10.0,
        unit="m",
        live=False,
    )
    radians_per_unit: float = parameter(
        0.5,
        "Angle of one unit of a rotation. LIBERO 0.5, Bridge 1.",
        minimum=1e-6,
        maximum=10.0,
        unit="rad",
        live=False,
    )
    rotation: str = parameter(
        "axis_angle",
        "The three rotation numbers: axis_angle (LIBERO), or euler_xyz, turns about the fixed x, y, z axes (Bridge).",
        choices=("axis_angle", "euler_xyz"),
        live=False,
    )
    frame: str = parameter(
        "base", "Axes of the increments: the robot's base, or the tool.", choices=("base", "tool"), live=False
    )
    joint_names: tuple[str, ...] = parameter(
        (), "Joints of an absolute_joint action, in its order, grippers left out.", live=False
    )
    continuous_joints: tuple[str, ...] = parameter(
        (),
        "Joints of joint_names that turn without end, so that their angles are compared on the circle; those that the "
        "URDF on robot_description calls continuous are known without.",
        live=False,
    )
    trajectory: str = parameter(
        "chunk",
        "joint_trajectory: chunk sends the rest of every chunk as one trajectory, which the arm's controller "
        "interpolates on its own clock; point sends a trajectory of one point in every control period.",
        choices=("chunk", "point"),
        live=False,
    )
    trajectory_velocities: bool = parameter(
        True, "Trajectories of whole chunks hold velocities, and the arm's controller interpolates by cubic splines."
    )
    trajectory_time: float = parameter(
        0.1,
        "joint_trajectory, point: time in which the arm should reach the point that is sent every tick, more is "
        "smoother and lags more; chunk: for so long a new trajectory goes on as the one before it, so that it may "
        "arrive late. At least a control period.",
        minimum=0.001,
        maximum=2.0,
        unit="s",
    )
    max_lead: float = parameter(
        0.1, "pose: the target runs at most this far ahead of the arm.", minimum=0.001, maximum=1.0, unit="m"
    )
    max_lead_angle: float = parameter(
        0.5,
        "pose and joint_trajectory: the target, or a joint's, turns at most this far ahead of the arm.",
        minimum=0.01,
        maximum=3.0,
        unit="rad",
    )
    on_no_effect: str = parameter(
        "warn",
        "When the arm does not move as commanded for 2 s: warn in diagnostics, or hold until ~/enable is called again.",
        choices=("warn", "hold"),
    )
    gripper_dimensions: tuple[int, ...] = parameter(
        (6,), "Which numbers of an action are grippers. LIBERO and Bridge 6, ALOHA 6 and 13.", minimum=0, live=False
    )
    gripper_binary: bool = parameter(
        True, "Grippers are either open or closed; false for proportional ones (ALOHA).", live=False
    )
    gripper_closed_value: float = parameter(
        0.0, "Action that means closed. OpenVLA-OFT 0, robosuite 1.", minimum=-10.0, maximum=10.0, live=False
    )
    gripper_open_value: float = parameter(
        1.0, "Action that means open. OpenVLA-OFT 1, robosuite -1.", minimum=-10.0, maximum=10.0, live=False
    )
    gripper_threshold: float = parameter(
        0.5, "A binary gripper opens above this share of the way from closed to open.", minimum=0.0, maximum=1.0
    )
    gripper_output: str = parameter(
        "command",
        "How grippers are driven, on ~/gripper: command (a JointState of position and effort), trajectory "
        "(joint_trajectory_controller), action (a GripperCommand, for one gripper), or none.",
        choices=("command", "trajectory", "action", "none"),
        live=False,
    )
    gripper_joint_names: tuple[str, ...] = parameter(
        (), "Joints of a gripper trajectory, the same number for every gripper.", live=False
    )
    gripper_closed_position: float = parameter(
        0.0,
        "Position sent for a closed gripper, in the gripper controller's unit: metres between the fingers, metres per "
        "finger joint, or radians.",
        minimum=-10.0,
        maximum=10.0,
    )
    gripper_open_position: float = parameter(
        0.08, "Position sent for an open gripper, in the same unit.", minimum=-10.0, maximum=10.0
    )
    gripper_max_effort: float = parameter(20.0, "Effort of a gripper command.", minimum=0.0, maximum=1000.0, unit="N")

    def __post_init__(self) -> None:
        check(self, "controller")
        if self.gripper_open_value == self.gripper_closed_value:
            raise ConfigError("controller.gripper_open_value equals gripper_closed_value; give the two actions apart")
        if self.output in CARTESIAN_OUTPUTS and self.action_space != DELTA_END_EFFECTOR:
            raise ConfigError(f"controller.output {self.output} needs controller.action_space {DELTA_END_EFFECTOR}")
        if self.output in JOINT_OUTPUTS and self.action_space != ABSOLUTE_JOINT:
            raise ConfigError(f"controller.output {self.output} needs controller.action_space {ABSOLUTE_JOINT}")
        if self.output in JOINT_OUTPUTS and self.trajectory_time < 1 / self.rate:
            raise ConfigError(
                f"controller.trajectory_time {self.trajectory_time:g} s is shorter than a control period of "
                f"{1 / self.rate:g} s; the arm would stop between points"
            )
        for name, values in (("joint_names", self.joint_names), ("gripper_dimensions", self.gripper_dimensions)):
            twice = repeated(values)
            if twice is not None:
                raise ConfigError(f"controller.{name} has {twice} twice; name each once")
        strangers = [name for name in self.continuous_joints if name not in self.joint_names]
        if strangers:
            raise ConfigError(f"controller.continuous_joints: {strangers[0]} is not in controller.joint_names")
        if self.gripper_output == "action" and len(self.gripper_dimensions) > 1:
            raise ConfigError(
                f"controller.gripper_output action drives one gripper, and there are {len(self.gripper_dimensions)}; "
                "take trajectory or command"
            )
        if self.gripper_output == "trajectory" and not _multiple(self.gripper_joint_names, self.gripper_dimensions):
            raise ConfigError(
                f"controller.gripper_joint_names has {len(self.gripper_joint_names)} names for "
                f"{len(self.gripper_dimensions)} grippers; a gripper trajectory needs the same number for each"
            )

    @property
    def period(self) -> float:
        """Seconds between control ticks."""
        return 1 / self.rate

    @property
    def whole_chunks(self) -> bool:
        """Whether chunks are sent as trajectories."""
        return self.output in JOINT_OUTPUTS and self.trajectory == "chunk"

    @property
    def delta(self) -> bool:
        """Whether actions are increments."""
        return self.action_space == DELTA_END_EFFECTOR


def _multiple(names: tuple[str, ...], grippers: tuple[int, ...]) -> bool:
    return bool(names) and bool(grippers) and len(names) % len(grippers) == 0


class ActionSpace:
    """From an action in checkpoint units to SI units."""

    def __init__(self, config: ControllerConfig, action_dim: int) -> None:
        """Raises ConfigError when the configuration does not fit actions of `action_dim` numbers."""
        self.config = config
        self.action_dim = action_dim
        self.grippers = list(config.gripper_dimensions)
        if any(dimension >= action_dim for dimension in self.grippers):
            raise ConfigError(
                f"controller.gripper_dimensions {self.grippers} do not exist in actions of {action_dim} numbers"
            )
        self.arm = [dimension for dimension in range(action_dim) if dimension not in self.grippers]
        if config.delta and len(self.arm) != 6:
            raise ConfigError(
                f"controller.action_space {DELTA_END_EFFECTOR} needs 6 numbers beside the grippers; the checkpoint has "
                f"{len(self.arm)}: check controller.gripper_dimensions"
            )
        if not config.delta and len(self.arm) != len(config.joint_names):
            raise ConfigError(
                f"controller.joint_names has {len(config.joint_names)} names; "
                f"the checkpoint moves {len(self.arm)} joints"
            )

    def twist(self, action: Floats, dt: float, tool_in_base: Rotation) -> Floats:
        """(6,) [m/s, rad/s] in the base frame, from an increment `action` (A,) per `dt` seconds.

        `tool_in_base`: the tool's orientation, used when increments are along the tool's axes.
        """
        step = action[self.arm]
        linear, angular = step[:3] * self.config.metres_per_unit, step[3:] * self.config.radians_per_unit
        if self.config.rotation == "euler_xyz":
            angular = Rotation.from_euler("xyz", angular).as_rotvec()
        if self.config.frame == "tool":
            linear, angular = tool_in_base.apply(linear), tool_in_base.apply(angular)
        result: Floats = np.concatenate([linear, angular]) / dt
        return result

    def joints(self, action: Floats) -> Floats:
        """(J,) joint positions, rad, in the order of `joint_names`."""
        return action[self.arm]

    def openings(self, action: Floats) -> Floats:
        """(G,) how far each gripper should be open: 0 closed, 1 open; binary grippers give exactly 0 or 1."""
        closed, opened = self.config.gripper_closed_value, self.config.gripper_open_value
        share = np.clip((action[self.grippers] - closed) / (opened - closed), 0.0, 1.0)
        return (share > self.config.gripper_threshold).astype(np.float64) if self.config.gripper_binary else share
