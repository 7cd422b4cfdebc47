# SPDX-License-Identifier: Apache-2.0
"""The policy node, configured and activated.

    ros2 launch specprune_ros policy.launch.py checkpoint:=/path/to/checkpoint params_file:=my_arm.yaml \\
        primary_image:=/camera/color/image_raw wrist_image:=/wrist/color/image_raw \\
        twist:=/servo_node/delta_twist_cmds gripper:=/franka_gripper/gripper_action
    ros2 topic pub --once /specprune_policy/instruction std_msgs/String "{data: put the bowl on the plate}"
    ros2 service call /specprune_policy/enable std_srvs/srv/SetBool "{data: true}"

The arm does not move before the last line. `--show-args` lists the arguments; an empty one leaves the parameter file's
value, or the default, as it is.

The node configures and activates itself, once: what `ros2 lifecycle set` asks for later is not undone. When it cannot
(wrong parameters, no checkpoint), launch ends with 1. After a crash or a hang it is started again, with motion off.
`record:=DIR` records with `ros2 bag record` what `ros2 run specprune_ros replay DIR` needs.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from specprune_ros.processes.launching import RESPAWN_DELAY, ending, fast_dds

# Launch argument, the parameter that it sets, and what it is.
PARAMETERS = (
    ("checkpoint", "model.checkpoint", "Folder of an OpenVLA-OFT checkpoint"),
    ("unnorm_key", "model.unnorm_key", "Data set whose statistics scale the actions, of a checkpoint with several"),
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
CLOSING = "30"  # seconds that the recorder gets to finish its file


def _value(context: LaunchContext, argument: str) -> str:
    return LaunchConfiguration(argument).perform(context)


def _is_true(context: LaunchContext, argument: str) -> bool:
    value = _value(context, argument).lower()
    if value not in ("true", "false"):
        raise RuntimeError(f"{argument}:={value} is neither true nor false")
    return value == "true"


def _given_parameters(context: LaunchContext) -> list[tuple]:
    """(argument, parameter, value) of those that are not empty."""
    given = [(name, parameter, _value(context, name)) for name, parameter, _ in PARAMETERS]
    return [(name, parameter, text.split(",") if name in LISTS else text) for name, parameter, text in given if text]


def _policy(context: LaunchContext) -> list:
    # With their types: launch would read the instruction "yes" as a boolean.
    overrides: dict = {
        parameter: ParameterValue(value, value_type=list[str] if name in LISTS else str)
        for name, parameter, value in _given_parameters(context)
    }
    overrides["autostart"] = _is_true(context, "autostart")
    if _value(context, "record"):
        overrides["recording"] = ParameterValue(str(Path(_value(context, "record")).expanduser()), value_type=str)
    remappings = [(topic, _value(context, name)) for name, topic, _ in REMAPPINGS if _value(context, name)]
    remappings += [(topic + COMPRESSED, given + COMPRESSED) for topic, given in remappings if "image" in topic]
    params_file = _value(context, "params_file") and str(Path(_value(context, "params_file")).expanduser())
    if params_file and not Path(params_file).is_file():
        raise RuntimeError(f"params_file {params_file} does not exist")  # launch alone would go on without it
    respawn = _is_true(context, "respawn")
    node = Node(
        package="specprune_ros",
        executable="policy",
        name="specprune_policy",
        namespace=_value(context, "namespace"),
        output="screen",
        parameters=[*([params_file] if params_file else []), overrides],
        remappings=remappings,
        respawn=respawn,
        respawn_delay=RESPAWN_DELAY,
        on_exit=ending("the policy", respawn),
    )
    return [*_recorder(context, params_file, remappings), node]


def _recorder(context: LaunchContext, params_file: str, remappings: list[tuple[str, str]]) -> list:
    """The recorder, started before the policy. One that ends does not end the policy."""
    folder = _value(context, "record")
    if not folder:
        return []
    from specprune_ros.replay.record_command import record_command

    around = [tuple(rule) for rule in context.launch_configurations.get("ros_remaps", [])]  # of a SetRemap
    pushed, own = context.launch_configurations.get("ros_namespace", ""), _value(context, "namespace")
    namespace = own if own.startswith("/") else "/".join(filter(None, [pushed.rstrip("/"), own]))
    name = [("__ns", namespace)] if namespace else []
    parameters = {parameter: value for _, parameter, value in _given_parameters(context)}
    globally = [given for given in context.launch_configurations.get("global_params", []) if isinstance(given, tuple)]
    if str(dict(globally).get("use_sim_time")).lower() == "true":  # of a SetUseSimTime, or SetParameter
        parameters.setdefault("use_sim_time", True)
    path = Path(params_file) if params_file else None
    command = record_command(Path(folder).expanduser(), path, parameters, [*name, *remappings, *around])
    return [ExecuteProcess(cmd=command, output="screen", sigterm_timeout=CLOSING)]


def generate_launch_description() -> LaunchDescription:
    arguments = [*((name, text) for name, _, text in PARAMETERS), *((name, text) for name, _, text in REMAPPINGS)]
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(name, default_value="", description=text) for name, text in arguments),
            DeclareLaunchArgument("params_file", default_value="", description="Parameters, as in config/franka.yaml"),
            DeclareLaunchArgument("namespace", default_value="", description="Namespace, for more than one arm"),
            DeclareLaunchArgument("record", default_value="", description="New folder for a recording to replay"),
            DeclareLaunchArgument("autostart", default_value="true", description="Configure and activate at start"),
            DeclareLaunchArgument("respawn", default_value="true", description="Start again after a crash, motion off"),
            fast_dds("fastdds.xml"),
            OpaqueFunction(function=_policy),
        ]
    )
