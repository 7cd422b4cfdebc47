# SPDX-License-Identifier: Apache-2.0
"""MoveIt Servo for a Franka Research 3, beside franka_fr3_moveit_config's moveit.launch.py. See docs/deploy.md.

    ros2 launch franka_fr3_moveit_config moveit.launch.py robot_ip:=172.16.0.2
    ros2 launch specprune_ros franka_servo.launch.py robot_ip:=172.16.0.2
    ros2 service call /servo_node/switch_command_type moveit_msgs/srv/ServoCommandType "{command_type: 1}"

Servo applies a twist to the tip of its planning group. The group fr3_arm ends at the flange: a rotation about that also
moves the fingers, 0.10 m away. So this adds a group that ends at the frame whose motion the policy commands.
"""

from pathlib import Path

import yaml
from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import Command, LaunchConfiguration
from launch_ros.actions import Node

GROUP, BASE, TIP = "fr3_tcp", "fr3_link0", "fr3_hand_tcp"
SERVO = {
    "move_group_name": GROUP,
    "command_in_type": "speed_units",
    "scale": {"linear": 0.5, "rotational": 1.5},  # m/s and rad/s at most; the policy's own limits are below
    "incoming_command_timeout": 0.1,  # s
    "publish_period": 0.01,  # s
    "command_out_type": "trajectory_msgs/JointTrajectory",
    "command_out_topic": "/fr3_arm_controller/joint_trajectory",
    "is_primary_planning_scene_monitor": False,  # move_group is
}
KINEMATICS = {"kinematics_solver": "kdl_kinematics_plugin/KDLKinematicsPlugin"}


def _xacro(context: LaunchContext, package: str, file: str, **arguments: str) -> str:
    path = Path(get_package_share_directory(package), file)
    words = [f" {name}:={value}" for name, value in arguments.items()]
    return Command(["xacro ", str(path), *words]).perform(context)


def _servo(context: LaunchContext) -> list:
    robot_ip, fake = (LaunchConfiguration(name).perform(context) for name in ("robot_ip", "use_fake_hardware"))
    urdf = _xacro(
        context,
        "franka_bringup",
        "urdf/franka_arm.urdf.xacro",
        robot_type="fr3",
        robot_ip=robot_ip,
        hand="true",
        use_fake_hardware=fake,
    )
    srdf = _xacro(context, "franka_description", "robots/fr3/fr3.srdf.xacro", hand="true")
    group = f'<group name="{GROUP}"><chain base_link="{BASE}" tip_link="{TIP}"/></group>'
    limits = Path(get_package_share_directory("franka_fr3_moveit_config"), "config/fr3_joint_limits.yaml").read_text()
    parameters = {
        "moveit_servo": SERVO,
        "robot_description": urdf,
        "robot_description_semantic": srdf.replace("</robot>", f"{group}</robot>"),
        "robot_description_kinematics": {GROUP: KINEMATICS},
        "robot_description_planning": yaml.safe_load(limits),
    }
    return [Node(package="moveit_servo", executable="servo_node", output="screen", parameters=[parameters])]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument("robot_ip", description="Address of the robot, as for moveit.launch.py"),
            DeclareLaunchArgument("use_fake_hardware", default_value="false", description="As for moveit.launch.py"),
            OpaqueFunction(function=_servo),
        ]
    )
