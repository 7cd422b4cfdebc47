"""A LIBERO scene and the policy that drives its arm, over real topics and simulated time.

    ros2 launch specprune_ros libero.launch.py checkpoint:=/path/to/checkpoint task:=3
    ros2 service call /specprune_policy/enable std_srvs/srv/SetBool "{data: true}"

The arm does not move before the second line. `--show-args` lists the arguments, those of policy.launch.py included; an
empty one leaves the parameter file's value as it is.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node, SetRemap
from launch_ros.substitutions import FindPackageShare

# Launch argument and parameter of the simulator, its type, and what it is.
SCENE_ARGUMENTS = (
    ("suite", str, "LIBERO suite"),
    ("task", int, "Index of the task in the suite"),
    ("init_state", int, "Initial state of the task"),
    ("camera_rate", float, "Images per second of simulated time, per camera"),
)


def _simulator(context: LaunchContext) -> list:
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in SCENE_ARGUMENTS}
    overrides = {name: kind(given[name]) for name, kind, _ in SCENE_ARGUMENTS if given[name]}
    node = Node(
        package="specprune_ros",
        executable="libero_sim",
        name="libero_sim",
        output="screen",
        parameters=[LaunchConfiguration("params_file"), overrides],
        remappings=[("~/action_chunk", "/specprune_policy/action_chunk")],
        # Without a simulator there is nothing left to do.
        on_exit=lambda _, context: None if context.is_shutdown else [Shutdown(reason="the simulator ended")],
    )
    return [node]


def generate_launch_description() -> LaunchDescription:
    share = FindPackageShare("specprune_ros")
    policy = GroupAction(
        [
            SetRemap(src="~/instruction", dst="/libero_sim/instruction"),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(PathJoinSubstitution([share, "launch", "policy.launch.py"])),
                launch_arguments={
                    "checkpoint": LaunchConfiguration("checkpoint"),
                    "params_file": LaunchConfiguration("params_file"),
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
                DeclareLaunchArgument(name, default_value="", description=description)
                for name, _, description in SCENE_ARGUMENTS
            ),
            # Without this profile camera frames are lost between processes.
            SetEnvironmentVariable(
                "FASTRTPS_DEFAULT_PROFILES_FILE", PathJoinSubstitution([share, "config", "fastdds.xml"])
            ),
            OpaqueFunction(function=_simulator),
            policy,
        ]
    )
