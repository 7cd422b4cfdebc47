# SPDX-License-Identifier: Apache-2.0
"""The quality of service of inputs, as ROS itself reports it, and its overrides."""

import pytest

pytest.importorskip("rclpy")

import rclpy
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy, qos_profile_sensor_data

from specprune_ros.errors import ConfigError
from specprune_ros.nodes.inputs import Inputs
from specprune_ros.sensing.config import InputsConfig

pytestmark = pytest.mark.ros

BEST_EFFORT, RELIABLE = ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE
CONFIG = InputsConfig(proprio="joints", joint_names=("a",))


@pytest.fixture
def open_inputs():
    """Opens the inputs of a node with arguments; topic -> reliability that other nodes see."""
    context = rclpy.Context()
    context.init()
    nodes = []

    def open_inputs(*arguments):
        nodes.append(Node("policy", context=context, cli_args=["--ros-args", *arguments]))
        Inputs(nodes[-1], CONFIG, None, (), None, lambda: None)

        def reliability(topic):
            return nodes[-1].get_subscriptions_info_by_topic(topic)[0].qos_profile.reliability

        return reliability

    yield open_inputs
    for node in nodes:
        node.destroy_node()
    context.shutdown()


def test_cameras_are_best_effort_and_joint_states_reliable(open_inputs):
    reliability = open_inputs()
    assert reliability("/policy/image_primary") == reliability("/policy/image_wrist") == BEST_EFFORT
    assert reliability("/joint_states") == RELIABLE


def test_an_override_changes_its_topic_and_no_other(open_inputs):
    remapped = "/camera/color/image_raw"
    reliability = open_inputs(
        *("-r", f"~/image_primary:={remapped}", "-p", f"qos_overrides.{remapped}.subscription.reliability:=reliable"),
        *("-p", "qos_overrides./joint_states.subscription.reliability:=best_effort"),
    )
    assert reliability(remapped) == RELIABLE and reliability("/policy/image_wrist") == BEST_EFFORT
    assert reliability("/joint_states") == BEST_EFFORT
    assert qos_profile_sensor_data.reliability == BEST_EFFORT  # of every other publisher and subscription


@pytest.mark.parametrize("override", ["reliability:=perhaps", "depth:=many"])
def test_unknown_overrides_are_named(open_inputs, override):
    with pytest.raises(
        ConfigError, match=r"qos_overrides\./policy/image_wrist\.subscription: .*reliable or best_effort"
    ):
        open_inputs("-p", f"qos_overrides./policy/image_wrist.subscription.{override}")
