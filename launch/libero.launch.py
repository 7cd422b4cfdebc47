# SPDX-License-Identifier: Apache-2.0
"""A LIBERO scene and the policy that drives its arm, over real topics and simulated time.

    ros2 launch specprune_ros libero.launch.py checkpoint:=/path/to/checkpoint
    ros2 launch specprune_ros libero.launch.py checkpoint:=/path/to/checkpoint task:=5 enable:=false
    ros2 launch specprune_ros libero.launch.py checkpoint:=checkpoints/nano_libero shadows:=false

The arm moves as soon as policy and simulator run, unless `enable:=false`. Launch ends when the task is solved, with 0,
or has not been solved in `duration` seconds, with 1. `--show-args` lists the arguments, those of policy.launch.py
included; an empty one leaves the parameter file's value as it is.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetLaunchConfiguration,
)
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node, SetRemap
from launch_ros.substitutions import FindPackageShare

from specprune_ros.errors import UserError
from specprune_ros.openvla.statistics import suite_key
from specprune_ros.parameter_file import read_parameters
from specprune_ros.processes.launching import ending, fast_dds

SUITE = "libero_spatial"  # the simulator's default

# Launch argument and parameter of the simulator, its type, and what it is.
SCENE_ARGUMENTS = (
    ("suite", str, "", "LIBERO suite"),
    ("task", int, "3", "Index of the task in the suite; of libero_goal checkpoints/nano_libero knows 1, 2, 4, 6 and 8"),
    ("init_state", int, "", "Initial state of the task"),
    ("camera_rate", float, "", "Images per second of simulated time, per camera"),
    ("duration", float, "60", "Seconds of simulated time for the task; 0 for ever"),
)
# Until the policy is active it refuses.
ENABLE = (
    "until ros2 service call /specprune_policy/enable std_srvs/srv/SetBool '{data: true}' | grep -q success=True; "
    "do sleep 1; done"
)


def _simulator(context: LaunchContext) -> list:
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _, _ in SCENE_ARGUMENTS}
    overrides: dict = {name: kind(given[name]) for name, kind, _, _ in SCENE_ARGUMENTS if given[name]}
    shadows = LaunchConfiguration("shadows").perform(context).lower()
    if shadows not in ("", "true", "false"):
        raise RuntimeError(f"shadows:={shadows} is neither true nor false")
    if shadows:
        overrides |= dict.fromkeys(("shadows", "anti_aliasing"), shadows == "true")
    overrides["end_with_episode"] = True
    node = Node(
        package="specprune_ros",
        executable="libero_sim",
        name="libero_sim",
        output="screen",
        parameters=[LaunchConfiguration("params_file"), overrides],
        remappings=[("~/action_chunk", "/specprune_policy/action_chunk")],
        on_exit=ending("the simulator", respawn=False),  # without it there is nothing left to do
    )
    enable = ExecuteProcess(cmd=["bash", "-c", ENABLE], condition=IfCondition(LaunchConfiguration("enable")))
    return [node, enable]


def _choose_statistics(context: LaunchContext) -> list:
    """Of a checkpoint's statistics the suite's own, unless argument or parameter file say which."""
    checkpoint, suite, key, file = (
        LaunchConfiguration(name).perform(context) for name in ("checkpoint", "suite", "unnorm_key", "params_file")
    )
    try:
        policy, simulator = (
            read_parameters(Path(file).read_text(), file, node) for node in ("/specprune_policy", "/libero_sim")
        )
        if key or policy.get("model.unnorm_key"):
            return []
        chosen = suite_key(Path(checkpoint), suite or simulator.get("suite", SUITE))
    except (OSError, UserError):
        return []  # the nodes will tell what is wrong, and where
    return [SetLaunchConfiguration("unnorm_key", chosen)]


def generate_launch_description() -> LaunchDescription:
    share = FindPackageShare("specprune_ros")
    policy = GroupAction(
        [
            SetRemap(src="~/instruction", dst="/libero_sim/instruction"),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(PathJoinSubstitution([share, "launch", "policy.launch.py"])),
                launch_arguments={
                    "checkpoint": LaunchConfiguration("checkpoint"),
                    "unnorm_key": LaunchConfiguration("unnorm_key"),
                    "params_file": LaunchConfiguration("params_file"),
                    "primary_image": "/libero_sim/primary/image",
                    "wrist_image": "/libero_sim/wrist/image",
                    "record": LaunchConfiguration("record"),
                }.items(),
            ),
        ]
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("checkpoint", description="Folder of an OpenVLA-OFT checkpoint trained on LIBERO"),
            DeclareLaunchArgument(
                "params_file",
                default_value=PathJoinSubstitution([share, "config", "libero.yaml"]),
                description="Parameters of both nodes",
            ),
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, _, default, description in SCENE_ARGUMENTS
            ),
            DeclareLaunchArgument(
                "shadows",
                default_value="",
                description="Shadows and smooth edges, as in LIBERO's own data; checkpoints/nano_libero never saw them",
            ),
            DeclareLaunchArgument(
                "unnorm_key", default_value="", description="Data set whose statistics count; default: the suite's own"
            ),
            DeclareLaunchArgument("record", default_value="", description="New folder for a recording to replay"),
            DeclareLaunchArgument("enable", default_value="true", description="Move as soon as the policy is active"),
            fast_dds("fastdds_localhost.xml"),
            OpaqueFunction(function=_choose_statistics),
            OpaqueFunction(function=_simulator),
            policy,
        ]
    )
