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
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

# Launch argument, the parameter of every arm that it sets, and what it is.
PARAMETERS = (
    ("checkpoint", "model.checkpoint", "Folder of the OpenVLA-OFT checkpoint that the arms share"),
    ("device", "model.device", "Torch device: auto, cuda, cpu"),
    ("preset", "pruning.preset", "Pruning preset: paper, fast, careful"),
)
WRONG_PARAMETERS = 2  # exit code
RESPAWN_DELAY = 2.0  # seconds


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
    overrides["autostart"] = True
    node = Node(  # without a name and a namespace: each arm has its own
        package="specprune_ros",
        executable="policy_arms",
        arguments=[str(file)],
        output="screen",
        parameters=[overrides],
        respawn=respawn,
        respawn_delay=RESPAWN_DELAY,
        on_exit=lambda event, context: _on_exit(event, context, respawn),
    )
    return [node]


def _on_exit(event: ProcessExited, context: LaunchContext, respawn: bool) -> list | None:
    if context.is_shutdown:
        return None
    if event.returncode == 0:
        return [Shutdown(reason="the arms were told to end")]
    if event.returncode == WRONG_PARAMETERS or not respawn:
        # An exception is how launch ends with 1.
        raise RuntimeError(f"the arms ended with exit code {event.returncode}; their last line says why")
    return None  # started again


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument("arms", description="File that lists the arms, as config/arms.yaml"),
            *(DeclareLaunchArgument(name, default_value="", description=text) for name, _, text in PARAMETERS),
            DeclareLaunchArgument("respawn", default_value="true", description="Start again after a crash, motion off"),
            # Without this profile camera frames are lost, and a killed process can stop the commands.
            SetEnvironmentVariable(
                "FASTRTPS_DEFAULT_PROFILES_FILE",
                EnvironmentVariable(
                    "FASTRTPS_DEFAULT_PROFILES_FILE",
                    default_value=PathJoinSubstitution([FindPackageShare("specprune_ros"), "config", "fastdds.xml"]),
                ),
            ),
            OpaqueFunction(function=_arms),
        ]
    )
