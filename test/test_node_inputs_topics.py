# SPDX-License-Identifier: Apache-2.0
"""Which topics the inputs of a node are, and what its callbacks do; nothing spins."""

import math
import sys
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image, JointState
from tf2_msgs.msg import TFMessage

from specprune_ros.nodes.inputs import Inputs
from specprune_ros.nodes.stamps import to_stamp
from specprune_ros.nodes.tf_input import Tf2Transforms
from specprune_ros.sensing.config import InputsConfig

pytestmark = pytest.mark.ros
SECOND = 1_000_000_000


@pytest.fixture
def open_inputs():
    opened = []

    def open_inputs(*remappings, joints=(), **config):
        context = rclpy.Context()
        context.init(args=["--ros-args", *(word for rule in remappings for word in ("-r", rule))])
        node = Node("policy", context=context, namespace="/left", start_parameter_services=False)
        before, woken = len(list(node.subscriptions)), []
        inputs = Inputs(
            node,
            InputsConfig(**{"cameras": ("a",), **config}),
            None,
            joints,
            np.zeros(3),
            lambda: woken.append(1),
        )
        opened.append((context, node))
        return inputs, node, woken, before

    yield open_inputs
    for context, node in opened:
        node.destroy_node()
        context.shutdown()


@pytest.mark.parametrize(
    ("remappings", "transport", "topic"),
    [
        ((), "raw", "/left/policy/image_a"),
        (("~/image_a:=/cam/image",), "raw", "/cam/image"),
        ((), "compressed", "/left/policy/image_a/compressed"),
        (("~/image_a:=/cam/image",), "compressed", "/cam/image/compressed"),
        (("~/image_a:=/cam/image/compressed",), "compressed", "/cam/image/compressed"),
        (("~/image_a/compressed:=/other",), "compressed", "/other"),
        (("~/image_a:=/cam/image", "~/image_a/compressed:=/other"), "compressed", "/other"),
    ],
)
def test_images_and_their_camera_info(open_inputs, remappings, transport, topic):
    inputs, node, _, before = open_inputs(*remappings, image_transport=transport)
    assert inputs.assembler.topics == {"a": topic}
    kinds = {subscription.topic_name: subscription.msg_type.__name__ for subscription in node.subscriptions}
    assert kinds[topic] == ("CompressedImage" if transport == "compressed" else "Image")
    info = topic.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"
    assert kinds[info] == "CameraInfo" and "/left/joint_states" not in kinds
    inputs.destroy()
    assert len(list(node.subscriptions)) == before


def test_joint_states_are_heard_when_they_are_needed(open_inputs):
    inputs, node, _, _ = open_inputs("joint_states:=/arm/joints", joints=("j",))
    assert "/arm/joints" in {subscription.topic_name for subscription in node.subscriptions}
    message = JointState(name=["j"], position=[0.5])
    message.header.stamp = to_stamp(3 * SECOND)
    inputs._add_joints(message)
    assert inputs.assembler.newest_stamps()["joint_states"] == 3 * SECOND


def test_only_a_new_image_wakes(open_inputs):
    inputs, _, woken, _ = open_inputs()
    image = Image(height=16, width=16, encoding="rgb8", step=48, data=bytes(768))
    image.header.stamp = to_stamp(3 * SECOND)
    inputs._add_image("a", image)
    inputs._add_image("a", image)
    assert len(woken) == 1 and inputs.assembler.newest_stamps() == {"image_a": 3 * SECOND}


def test_compressed_images_are_decoded_on_arrival_and_those_before_a_jump_dropped(open_inputs):
    inputs, _, woken, _ = open_inputs(image_transport="compressed")
    data = cv2.imencode(".png", np.full((16, 16, 3), 90, np.uint8))[1].tobytes()
    message = CompressedImage(format="rgb8; png compressed bgr8", data=data)
    message.header.stamp = to_stamp(3 * SECOND)
    inputs._add_image("a", message)
    deadline = time.monotonic() + 30
    while not woken and time.monotonic() < deadline:
        time.sleep(0.002)
    found = inputs.assembler.assemble(3 * SECOND)
    assert woken and found.views["a"].shape == (16, 16, 3) and (found.views["a"] == 90).all()
    inputs.assembler.clear()
    inputs._store_image("a", message, 3 * SECOND, era=0)  # the decoder was slow
    assert len(woken) == 1 and inputs.assembler.newest_stamps() == {"image_a": None}
    threads = [decoder._thread for decoder in inputs._decoders.values()]
    inputs.destroy()
    assert threads and not any(thread.is_alive() for thread in threads)


def test_every_camera_has_its_topic(open_inputs):
    inputs, _, woken, _ = open_inputs("~/image_a:=/cam/a", "~/image_b:=/cam/b", cameras=("a", "b"))
    assert inputs.assembler.topics == {"a": "/cam/a", "b": "/cam/b"}
    image = Image(height=16, width=16, encoding="rgb8", step=48, data=bytes(768))
    image.header.stamp = to_stamp(3 * SECOND)
    inputs._add_image("b", image)
    assert len(woken) == 1 and inputs.assembler.newest_stamps() == {"image_a": None, "image_b": 3 * SECOND}


def test_joint_states_that_wait_are_taken_in_one_turn(open_inputs, monkeypatch):
    inputs, _, _, _ = open_inputs(joints=("j",))
    waiting = [JointState(name=["j"], position=[0.1 * step]) for step in range(3)]
    for step, message in enumerate(waiting):
        message.header.stamp = to_stamp((3 + step) * SECOND)
    asked = []
    monkeypatch.setattr("specprune_ros.nodes.inputs.backlog", lambda one: asked.append(one) or waiting[1:])
    inputs._add_joints(waiting[0])
    assert [one.topic_name for one in asked] == ["/left/joint_states"]
    assert inputs.assembler.newest_stamps()["joint_states"] == 5 * SECOND


class Tf2Buffer:
    """Keeps what the buffer of tf2_ros, which the wheels do not have, is given."""

    def __init__(self):
        self.kept = []

    def set_transform(self, transform, authority):
        self.kept.append((authority, transform.header.stamp.sec))

    set_transform_static = set_transform


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ahead": 3600}, "base -> hand is stamped 3600.000 s in the future"),
        ({"x": math.nan}, "base -> hand holds NaN or Inf"),
        ({"w": 0.5}, "base -> hand has a quaternion of norm 0.5000, not 1"),
        ({"child": "base"}, "transform from base to itself"),
    ],
    ids=["future", "nan", "norm", "itself"],
)
def test_tf2_is_not_given_what_would_harm_it(monkeypatch, changes, said):
    tf2 = SimpleNamespace(Buffer=Tf2Buffer, TransformException=RuntimeError)
    monkeypatch.setitem(sys.modules, "tf2_ros", tf2)
    context = rclpy.Context()
    context.init()
    node = Node("policy", context=context, start_parameter_services=False)
    transforms = Tf2Transforms(node)

    def add(ahead=0, x=0.0, w=1.0, child="hand", static=False):
        message = TransformStamped(child_frame_id=child)
        message.header.frame_id, message.header.stamp.sec = "base", 100 + ahead
        message.transform.translation.x, message.transform.rotation.w = x, w
        transforms.add(TFMessage(transforms=[message]), static, 100 * SECOND)

    add()
    add(**changes)
    add(ahead=1)
    add(child="camera", static=True)
    assert transforms._buffer.kept == [("/tf", 100), ("/tf", 101), ("/tf_static", 100)]
    assert (transforms.refused, transforms.last_refusal) == (1, said)
    transforms.destroy()
    node.destroy_node()
    context.shutdown()
