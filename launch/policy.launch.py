"""The policy node, configured and activated.

    ros2 launch specprune_ros policy.launch.py checkpoint:=/path/to/checkpoint params_file:=my_arm.yaml \\
        primary_image:=/camera/color/image_raw wrist_image:=/wrist/color/image_raw
    ros2 topic pub --once /specprune_policy/instruction std_msgs/String "{data: put the bowl on the plate}"
    ros2 service call /specprune_policy/enable std_srvs/srv/SetBool "{data: true}"

The arm does not move before the last line. `--show-args` lists the arguments; an empty one leaves the parameter file's
value, or the default, as it is.
"""

import launch_ros.events.lifecycle
import lifecycle_msgs.msg
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.substitutions import FindPackageShare

# Launch argument, the parameter that it sets, and what it is.
PARAMETERS = (
    ("checkpoint", "model.checkpoint", "Folder of an OpenVLA-OFT checkpoint"),
    ("device", "model.device", "Torch device: auto, cuda, cpu"),
    ("preset", "pruning.preset", "Pruning preset: paper, fast, careful"),
    ("instruction", "instruction", "What the arm should do"),
    ("cameras", "inputs.cameras", "Views in the checkpoint's order, comma-separated"),
    ("base_frame", "inputs.base_frame", "TF frame of the arm's base"),
    ("ee_frame", "inputs.ee_frame", "TF frame of the end effector"),
    ("controller", "controller.output", "What drives the arm: action_chunk, joint_trajectory, twist, pose"),
)
# Topics; those of cameras with other names are remapped by whoever includes this file.
REMAPPINGS = (
    ("primary_image", "~/image_primary", "Image topic of the view primary, without /compressed"),
    ("wrist_image", "~/image_wrist", "Image topic of the view wrist, without /compressed"),
    ("joint_states", "joint_states", "Topic of the joint states"),
    ("twist", "~/twist", "Topic of the arm's controller for twists, as /servo_node/delta_twist_cmds"),
    ("target_pose", "~/target_pose", "Topic of the arm's controller for target poses"),
    ("joint_trajectory", "~/joint_trajectory", "Topic of the arm's joint_trajectory_controller"),
    ("gripper", "~/gripper", "Topic, or GripperCommand action, of the gripper's controller"),
)
COMPRESSED = "/compressed"  # what image_transport appends; a rule for the base topic does not include it
LISTS = ("cameras",)


def _value(context: LaunchContext, argument: str) -> str:
    return LaunchConfiguration(argument).perform(context)


def _policy(context: LaunchContext) -> list:
    overrides: dict = {
        parameter: _value(context, name).split(",") if name in LISTS else _value(context, name)
        for name, parameter, _ in PARAMETERS
        if _value(context, name)
    }
    remappings = [(topic, _value(context, name)) for name, topic, _ in REMAPPINGS if _value(context, name)]
    remappings += [(topic + COMPRESSED, given + COMPRESSED) for topic, given in remappings if "image" in topic]
    params_file = _value(context, "params_file")
    node = LifecycleNode(
        package="specprune_ros",
        executable="policy",
        name="specprune_policy",
        namespace=_value(context, "namespace"),
        output="screen",
        parameters=[*([params_file] if params_file else []), overrides],
        remappings=remappings,
    )
    Transition = lifecycle_msgs.msg.Transition
    activate_when_configured = RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=node,
            start_state="configuring",
            goal_state="inactive",
            entities=[_change_state(node, Transition.TRANSITION_ACTIVATE)],
        )
    )
    return [activate_when_configured, node, _change_state(node, Transition.TRANSITION_CONFIGURE)]


def _change_state(node: LifecycleNode, transition: int) -> EmitEvent:
    event = launch_ros.events.lifecycle.ChangeState(
        lifecycle_node_matcher=matches_action(node), transition_id=transition
    )
    return EmitEvent(event=event)


def generate_launch_description() -> LaunchDescription:
    arguments = [*((name, text) for name, _, text in PARAMETERS), *((name, text) for name, _, text in REMAPPINGS)]
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(name, default_value="", description=text) for name, text in arguments),
            DeclareLaunchArgument("params_file", default_value="", description="Parameters, as in config/franka.yaml"),
            DeclareLaunchArgument("namespace", default_value="", description="Namespace, for more than one arm"),
            # Without this profile camera frames are lost between processes.
            SetEnvironmentVariable(
                "FASTRTPS_DEFAULT_PROFILES_FILE",
                PathJoinSubstitution([FindPackageShare("specprune_ros"), "config", "fastdds.xml"]),
            ),
            OpaqueFunction(function=_policy),
        ]
    )
