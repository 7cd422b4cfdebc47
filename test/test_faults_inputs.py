# SPDX-License-Identifier: Apache-2.0
"""Broken cameras, joint states and transforms: the arm holds in time, the reason is told, and it goes on by itself."""

import itertools
import math
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")

from builtin_interfaces.msg import Time
from faults import GOES_ON, HOLDS, fault
from policy_client import INSTRUCTION
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

pytestmark = pytest.mark.ros

IMAGES, JOINTS, TF = "Camera images", "Joint states", "Transforms"


# What may be wrong: each function breaks the bench's robot.


def image(**fields):
    """Every primary image has these fields."""

    def change(message: Image):
        for name, value in fields.items():
            setattr(message, name, value)

    return lambda bench: bench.change_image.update(primary=change)


def dead(*parts):
    return lambda bench: bench.missing.update(parts)


def stamps_off(seconds):
    return lambda bench: setattr(bench, "offset", seconds)


def frozen(bench):
    """The driver sends its last image, stamp and all, again and again."""
    first = {}

    def freeze(message: Image):
        message.header.stamp = first.setdefault("stamp", message.header.stamp)

    bench.change_image["wrist"] = freeze


def joints(change):
    return lambda bench: setattr(bench, "change_joints", change)


def positions(*values):
    def change(message: JointState):
        message.position = list(values)

    return joints(change)


def rename(message: JointState):
    message.name = ["panda_joint1", "left", "right"]


def twice(message: JointState):
    message.name = [*message.name, message.name[1]]
    message.position = [*message.position, message.position[1] + 0.01]


def velocities(message: JointState):
    message.velocity, message.position = [0.0] * len(message.name), []


def transform(change):
    return lambda bench: setattr(bench, "change_transform", change)


def nan_translation(message):
    message.transform.translation.x = math.nan


def long_quaternion(message):
    message.transform.rotation.w = 7.0


def other_child(message):
    message.child_frame_id = "elsewhere"


def other_parent(message):
    message.header.frame_id = "map"


def own_parent(message):
    message.header.frame_id = message.child_frame_id


def loop(bench):
    """A second publisher, which says that the base hangs on the hand."""
    turns = itertools.cycle((False, True))

    def change(message):
        if next(turns):
            message.header.frame_id, message.child_frame_id = "hand", "world"

    bench.change_transform = change


def second_publisher(bench):
    """Says that the hand is half a metre away."""
    turns = itertools.cycle((False, True))

    def change(message):
        if next(turns):
            message.transform.translation.x += 0.5

    bench.change_transform = change


def without_stamp(message):
    message.header.stamp = Time()


def dead_without_stamps(bench):
    """A driver that leaves its stamps empty, which does not make its transforms static."""
    bench.change_transform = without_stamp
    bench.spin(1.0)
    bench.missing.add("TF")


def far_future(message):
    message.header.stamp = Time(sec=message.header.stamp.sec + 3600)


def old(message):
    message.header.stamp = Time(sec=message.header.stamp.sec - 5)


HELD = [
    (fault(IMAGES, "unknown encoding", HOLDS, "inference", "unknown encoding"), image(encoding="no_such_encoding")),
    (fault(IMAGES, "data cut short", HOLDS, "inference", "100 bytes for height"), image(data=bytes(100))),
    (
        fault(IMAGES, "empty image", HOLDS, "inference", "0 bytes for height 0"),
        image(data=b"", height=0, width=0, step=0),
    ),
    (fault(IMAGES, "rows shorter than the width", HOLDS, "inference", "less than the 1500 bytes"), image(width=500)),
    (
        fault(IMAGES, "impossible height", HOLDS, "inference", "for height 4294967295"),
        image(height=2**32 - 1),
    ),
    (
        fault(IMAGES, "far too small", HOLDS, "inference", "only 8x8 pixels"),
        image(height=8, width=8, step=24, data=bytes(192)),
    ),
    (
        fault(IMAGES, "depth image instead of colour", HOLDS, "inference", "publish rgb8"),
        image(encoding="16UC1", width=336),
    ),
    (
        fault(IMAGES, "colours in no known order (8UC3)", HOLDS, "inference", "does not say its colours"),
        image(encoding="8UC3"),
    ),
    (fault(IMAGES, "one camera dies", HOLDS, "inference", "image_wrist is"), dead("wrist")),
    (fault(IMAGES, "every camera dies", HOLDS, "inference", "s old (inputs.max_age"), dead("primary", "wrist")),
    (fault(IMAGES, "camera repeats one image", HOLDS, "inference", "image_wrist is"), frozen),
    (fault(IMAGES, "stamps 5 s in the future", HOLDS, "inference", "in the future; synchronise"), stamps_off(5.0)),
    (fault(IMAGES, "stamps 5 s in the past", HOLDS, "inference", "s old (inputs.max_age"), stamps_off(-5.0)),
    (
        fault(JOINTS, "NaN position", HOLDS, "inference", "panda_finger_joint1 on /joint_states is nan"),
        positions(0.0, math.nan, 0.0),
    ),
    (fault(JOINTS, "infinite position", HOLDS, "inference", "is inf"), positions(0.0, math.inf, 0.0)),
    (fault(JOINTS, "a joint is missing", HOLDS, "inference", "panda_finger_joint1 on /joint_states"), joints(rename)),
    (fault(JOINTS, "fewer positions than names", HOLDS, "inference", "3 names but 1 positions"), positions(0.0)),
    (fault(JOINTS, "velocities without positions", HOLDS, "inference", "and no positions"), joints(velocities)),
    (fault(JOINTS, "a joint twice in one message", HOLDS, "inference", "is twice in one message"), joints(twice)),
    (fault(JOINTS, "driver dies", HOLDS, "inference", "panda_finger_joint1 on /joint_states is"), dead("joints")),
    (fault(TF, "publisher dies", HOLDS, "inference", "older than the images"), dead("TF")),
    (fault(TF, "publisher without stamps dies", HOLDS, "inference", "older than the images"), dead_without_stamps),
    (
        fault(TF, "a second publisher puts the end effector elsewhere", HOLDS, "motion", "jumps by 0.500 m"),
        second_publisher,
    ),
    (fault(TF, "NaN", HOLDS, "inputs", "holds NaN or Inf"), transform(nan_translation)),
    (fault(TF, "quaternion of length 7", HOLDS, "inputs", "has a quaternion of norm"), transform(long_quaternion)),
    (fault(TF, "frame has another name", HOLDS, "inference", "older than the images"), transform(other_child)),
    (fault(TF, "parent has another name", HOLDS, "inference", "TF"), transform(other_parent)),
    (fault(TF, "frame is its own parent", HOLDS, "inputs", "to itself"), transform(own_parent)),
    (fault(TF, "loop", HOLDS, "inference", "loop"), loop),
    (fault(TF, "stamps an hour ahead", HOLDS, "inputs", "in the future"), transform(far_future)),
    (fault(TF, "stamps 5 s in the past", HOLDS, "inference", "older than the images"), transform(old)),
]


@pytest.mark.parametrize(("row", "inject"), HELD, ids=[str(row) for row, _ in HELD])
def test_the_arm_holds(bench, row, inject):
    inject(bench)
    onset = time.time()
    bench.assert_held(onset)
    bench.says(row)
    bench.wait_for_problem("motion", "holding")
    bench.recover()


def swapped(bench):
    """Every second image is older than the one before it."""
    turns = itertools.cycle((False, True))

    def delay(message: Image):
        if next(turns):
            late = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec - 70_000_000
            message.header.stamp = Time(sec=late // 10**9, nanosec=late % 10**9)

    bench.change_image["primary"] = delay


def small(message: Image):
    message.height, message.width, message.step = 120, 160, 480
    message.data = bytes([20, 80, 160]) * (120 * 160)


def grey(message: Image):
    message.data = np.frombuffer(message.data, np.uint8).reshape(-1, 3)[:, :1].repeat(3, axis=1).tobytes()


def seldom(bench):
    """Every second message has other joints alone: the fingers come at 10 Hz, beside a skew of 20 ms."""
    assert bench.set(inputs__own_limits=["joint_states.max_skew=0.02"]) == ""
    turns = itertools.cycle((False, True))

    def change(message: JointState):
        if next(turns):
            rename(message)

    bench.change_joints = change


def short_gap(bench):
    """TF is missing for half of the watchdog period."""
    bench.missing.add("TF")
    bench.spin(0.2)
    bench.missing.clear()


TOLERATED = [
    (fault(IMAGES, "stamps out of order", GOES_ON, "inputs", "complete"), swapped),
    (
        fault(IMAGES, "another resolution", GOES_ON, "inputs", "complete"),
        lambda bench: bench.change_image.update(primary=small),
    ),
    (
        fault(IMAGES, "grey pictures for a colour policy", GOES_ON, "inputs", "has no colours"),
        lambda bench: bench.change_image.update(primary=grey, wrist=grey),
    ),
    (fault(JOINTS, "a joint comes more seldom than the images", GOES_ON, "inputs", "publish it faster"), seldom),
    (fault(TF, "gap shorter than inputs.max_skew and chunk", GOES_ON, "inputs", "complete"), short_gap),
]


@pytest.mark.parametrize(("row", "inject"), TOLERATED, ids=[str(row) for row, _ in TOLERATED])
def test_the_arm_goes_on(bench, row, inject):
    inject(bench)
    bench.assert_moves_on()
    bench.says(row)
    bench.recover()
    assert bench.set(inputs__own_limits=[]) == ""


SAME_PICTURE = fault(
    IMAGES,
    "one picture under new stamps, for longer than inputs.frozen_after",
    "goes on: it may be a still scene",
    "inputs",
    "has been the same picture for",
)


def test_same_picture_is_told(bench):
    assert bench.set(inputs__frozen_after=1.0) == ""
    bench.says(SAME_PICTURE)
    bench.assert_moves_on(1.0)
    assert bench.set(inputs__frozen_after=0.0) == ""


NO_EFFECT = fault(
    "Other nodes",
    "the arm's controller listens and does not act",
    "goes on; holds with controller.on_no_effect hold",
    "motion",
    "m in 2 s and measured 0.00",
)


def test_motion_without_effect_is_told_and_holds_when_asked(bench):
    """The bench's arm never moves."""
    bench.says(NO_EFFECT)
    bench.assert_moves_on(1.0)
    assert bench.set(controller__on_no_effect="hold") == ""
    try:
        bench.wait_for_problem("motion", "then call ~/enable")
        assert bench.enable().success
        bench.wait_until_moving("motion after enabling")
    finally:
        assert bench.set(controller__on_no_effect="warn") == ""


VOLATILE_INSTRUCTION = fault(
    "Instructions and parameters",
    "instruction of a publisher that is not latched",
    GOES_ON,
    "inference",
    "put it on the shelf",
    "is taken like any other",
)


def test_instruction_of_a_volatile_publisher_is_taken(bench):
    publisher = bench.node.create_publisher(String, "/specprune_policy/instruction", 10)
    bench.wait(publisher.get_subscription_count, "the subscription that is not latched")
    publisher.publish(String(data="put it on the shelf"))
    bench.says(VOLATILE_INSTRUCTION)
    bench.node.destroy_publisher(publisher)
    assert bench.set(instruction=INSTRUCTION) == ""
