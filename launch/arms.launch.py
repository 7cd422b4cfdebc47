# SPDX-License-Identifier: Apache-2.0
"""Several arms from one model, in one process.

    ros2 launch specprune_ros arms.launch.py arms:=my_arms.yaml checkpoint:=/path/to/checkpoint
    ros2 service call /left/specprune_policy/enable std_srvs/srv/SetBool "{data: true}"

config/arms.yaml is an example of the file. Every arm is a policy node in a namespace of its own, configured and
activated; no arm moves before its own ~/enable, or a goal on its ~/run_policy. An empty argument leaves the parameter
files' value as it is. After a crash or a hang all are started again, with motion off.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from specprune_ros.processes.launching import RESPAWN_DELAY, ending, fast_dds

# Launch argument, the parameter of every arm that it sets, and what it is.
PARAMETERS = (
    ("checkpoint", "model.checkpoint", "Folder of the OpenVLA-OFT checkpoint that the arms share"),
    ("device", "model.device", "Torch device: auto, cuda, cpu"),
    ("preset", "pruning.preset", "Pruning preset: paper, fast, careful"),
)


def _arms(context: LaunchContext) -> list:
    def value(argument: str) -> str:
        return LaunchConfiguration(argument).perform(context)

    file = Path(value("arms")).expanduser()
    if not file.is_file():
        raise RuntimeError(f"arms {file} does not exist")
    if value("respawn").lower() not in ("true", "false"):
        raise RuntimeError(f"respawn:={value('respawn')} is neither true nor false")
    respawn = value("respawn").lower() == "true"
    overrides: dict = {
        parameter: ParameterValue(value(name), value_type=str) for name, parameter, _ in PARAMETERS if value(name)
    }
    if value("autostart"):
        overrides["autostart"] = ParameterValue(value("autostart"), value_type=bool)
    node = Node(  # without a name and a namespace: each arm has its own
        package="specprune_ros",
        executable="policy_arms",
        arguments=[str(file)],
        output="screen",
        parameters=[overrides],
        respawn=respawn,
        respawn_delay=RESPAWN_DELAY,
        on_exit=ending("policy_arms", respawn),
    )
    return [node]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument("arms", description="File that lists the arms, as config/arms.yaml"),
            *(DeclareLaunchArgument(name, default_value="", description=text) for name, _, text in PARAMETERS),
            DeclareLaunchArgument(
                "autostart", default_value="true", description="Configure and activate; empty: as each arm's file says"
            ),
            DeclareLaunchArgument("respawn", default_value="true", description="Start again after a crash, motion off"),
            fast_dds("fastdds.xml"),
            OpaqueFunction(function=_arms),
        ]
    )
