# SPDX-License-Identifier: Apache-2.0
"""The quality of service of inputs, as ROS itself reports it, and its overrides."""

import contextlib
import time

import pytest

pytest.importorskip("rclpy")

import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy, qos_profile_sensor_data
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, JointState
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory

from specprune_ros.errors import ConfigError, ObservationError
from specprune_ros.nodes.inputs import Inputs
from specprune_ros.nodes.subscribing import LATCHED, VOLATILE, type_name
from specprune_ros.nodes.tf_input import open_transforms
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


@pytest.mark.parametrize(
    ("kind", "topic", "said"),
    [
        (
            CompressedImage,
            "/policy/image_primary",
            "this node reads sensor_msgs/msg/Image; set inputs.image_transport to c",
        ),
        (JointTrajectory, "/joint_states", "this node reads sensor_msgs/msg/JointState; remap it to another topic"),
    ],
)
def test_a_publisher_of_another_type_is_named(kind, topic, said):
    contexts = [rclpy.Context(), rclpy.Context()]  # as two processes
    for context in contexts:
        context.init()
    driver, node = (Node(name, context=context) for name, context in zip(("driver", "policy"), contexts, strict=True))
    inputs = Inputs(node, CONFIG, None, (), None, lambda: None)
    try:
        driver.create_publisher(kind, topic, 10)
        deadline, found = time.monotonic() + 30, ""
        while "/driver" not in found and time.monotonic() < deadline:
            found = inputs.assembler.silence(topic)
            time.sleep(0.02)
        assert f"/driver publishes {type_name(kind)} on {topic}, and {said}" in found
    finally:
        inputs.destroy()
        driver.destroy_node()
        node.destroy_node()
        for context in contexts:
            context.shutdown()


def test_tf_at_best_effort_is_named_and_can_be_heard():
    contexts = [rclpy.Context(), rclpy.Context()]  # as two processes
    for context in contexts:
        context.init()
    override = "--ros-args", "-p", "qos_overrides./tf.subscription.reliability:=best_effort"
    driver, node = Node("driver", context=contexts[0]), Node("policy", context=contexts[1])
    hearing = Node("hearing", context=contexts[1], cli_args=override)
    transforms, heard = open_transforms(node), open_transforms(hearing)
    executor = SingleThreadedExecutor(context=contexts[1])
    executor.add_node(hearing)
    try:
        tf = driver.create_publisher(TFMessage, "/tf", qos_profile_sensor_data)
        said, deadline = "", time.monotonic() + 60
        while "/driver" not in said and time.monotonic() < deadline:
            with pytest.raises(ObservationError) as error:
                transforms.lookup("base", "hand", None)
            said = str(error.value)
        assert said.startswith("/driver publishes on /tf, but best effort") and "qos_overrides./tf.sub" in said
        found = None
        while found is None and time.monotonic() < deadline:
            transform = TransformStamped(child_frame_id="hand")
            transform.header.frame_id, transform.header.stamp = "base", driver.get_clock().now().to_msg()
            transform.transform.rotation.w = 1.0
            tf.publish(TFMessage(transforms=[transform]))
            executor.spin_once(timeout_sec=0.1)
            with contextlib.suppress(ObservationError):
                found = heard.lookup("base", "hand", None)
        assert found is not None
    finally:
        for source, own in ((transforms, node), (heard, hearing)):
            source.destroy()
            own.destroy_node()
        driver.destroy_node()
        for context in contexts:
            context.shutdown()


def test_one_turn_of_the_executor_takes_all_that_waits():
    """A busy machine has fewer turns than messages: the queue would stay full, and its newest message old for ever."""
    context = rclpy.Context()
    context.init()
    driver, node = Node("driver", context=context), Node("policy", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    inputs, transforms = Inputs(node, CONFIG, None, (), None, lambda: None), open_transforms(node)
    joints, tf = driver.create_publisher(JointState, "/joint_states", 50), driver.create_publisher(TFMessage, "/tf", 50)
    try:
        while not (joints.get_subscription_count() and tf.get_subscription_count()):
            time.sleep(0.02)
        first = driver.get_clock().now().nanoseconds
        for k in range(40):
            message = JointState(name=["a"], position=[0.01 * k])
            message.header.stamp = Time(nanoseconds=first + k * 1_000_000).to_msg()
            joints.publish(message)
            transform = TransformStamped(child_frame_id="hand")
            transform.header.frame_id, transform.header.stamp = "base", message.header.stamp
            transform.transform.rotation.w = 1.0
            tf.publish(TFMessage(transforms=[transform]))
        assert joints.wait_for_all_acked() and tf.wait_for_all_acked()
        last = first + 39 * 1_000_000
        for heard in (
            lambda: inputs.assembler.newest_stamps()["joint_states"],
            lambda: transforms.lookup("base", "hand", None).stamp,
        ):
            deadline, found = time.monotonic() + 60, None
            while found is None and time.monotonic() < deadline:
                executor.spin_once(timeout_sec=0.05)
                with contextlib.suppress(ObservationError):
                    found = heard()
            assert found is not None and abs(found - last) < 1000  # seconds are floats in the buffer
    finally:
        transforms.destroy()
        inputs.destroy()
        driver.destroy_node()
        node.destroy_node()
        context.shutdown()


@pytest.mark.parametrize("early", [True, False], ids=["latched, before the node", "volatile, after it"])
def test_static_transforms_are_heard_from_both_kinds_of_publishers(early, capfd):
    context = rclpy.Context()
    context.init()
    driver, node = Node("driver", context=context), Node("policy", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    publisher = driver.create_publisher(TFMessage, "/tf_static", LATCHED if early else VOLATILE)
    transform = TransformStamped(child_frame_id="hand")
    transform.header.frame_id, transform.transform.translation.x = "base", 0.5
    transform.transform.rotation.w = 1.0
    try:
        if early:
            publisher.publish(TFMessage(transforms=[transform]))
        transforms = open_transforms(node)
        deadline, found = time.monotonic() + 30, None
        while found is None and time.monotonic() < deadline:
            if not early:
                publisher.publish(TFMessage(transforms=[transform]))
            executor.spin_once(timeout_sec=0.05)
            with contextlib.suppress(ObservationError):
                found = transforms.lookup("base", "hand", None)
        assert found is not None and found.stamp is None  # static: it never gets old
        assert found.pose.position[0] == 0.5
        assert "incompatible QoS" not in capfd.readouterr().err  # as rclpy says of the other subscription
        transforms.destroy()
    finally:
        driver.destroy_node()
        node.destroy_node()
        context.shutdown()
