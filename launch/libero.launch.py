"""A LIBERO scene and the policy that drives its arm, over real topics and simulated time.

    ros2 launch specprune_ros libero.launch.py checkpoint:=/path/to/checkpoint task:=3
    ros2 service call /specprune_policy/enable std_srvs/srv/SetBool "{data: true}"

The arm does not move before the second line. `--show-args` lists the arguments, those of policy.launch.py included.
"""

from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node, SetRemap
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

SCENE_ARGUMENTS = (
    ("suite", "libero_spatial", str, "LIBERO suite"),
    ("task", "0", int, "Index of the task in the suite"),
    ("init_state", "0", int, "Initial state of the task"),
    ("camera_rate", "5.0", float, "Images per second of simulated time, per camera"),
)


def generate_launch_description() -> LaunchDescription:
    share = FindPackageShare("specprune_ros")
    params_file = LaunchConfiguration("params_file")
    simulator = Node(
        package="specprune_ros",
        executable="libero_sim",
        name="libero_sim",
        output="screen",
        parameters=[
            params_file,
            {name: ParameterValue(LaunchConfiguration(name), value_type=kind) for name, _, kind, _ in SCENE_ARGUMENTS},
        ],
        remappings=[("~/action_chunk", "/specprune_policy/action_chunk")],
        on_exit=Shutdown(),
    )
    policy = GroupAction(
        [
            SetRemap(src="~/instruction", dst="/libero_sim/instruction"),
            IncludeLaunchDescription(
                PathJoinSubstitution([share, "launch", "policy.launch.py"]),
                launch_arguments={
                    "checkpoint": LaunchConfiguration("checkpoint"),
                    "params_file": params_file,
                    "primary_image": "/libero_sim/primary/image",
                    "wrist_image": "/libero_sim/wrist/image",
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
                for name, default, _, description in SCENE_ARGUMENTS
            ),
            # Without this profile camera frames are lost between processes.
            SetEnvironmentVariable(
                "FASTRTPS_DEFAULT_PROFILES_FILE", PathJoinSubstitution([share, "config", "fastdds.xml"])
            ),
            simulator,
            policy,
        ]
    )
