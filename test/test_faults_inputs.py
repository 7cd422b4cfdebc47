"""Broken cameras, joint states and transforms: the arm holds in time, the reason is told, and it goes on by itself."""

import itertools
import math
import time

import pytest

pytest.importorskip("rclpy")

from builtin_interfaces.msg import Time
from faults import GOES_ON, HOLDS, fault
from sensor_msgs.msg import Image, JointState

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
    (fault(JOINTS, "fewer positions than names", HOLDS, "inference", "away from what it is used"), positions(0.0)),
    (fault(JOINTS, "driver dies", HOLDS, "inference", "panda_finger_joint1 on /joint_states is"), dead("joints")),
    (fault(TF, "publisher dies", HOLDS, "inference", "older than the images"), dead("TF")),
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
    message.data = bytes(120 * 480)


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
    (fault(TF, "gap shorter than inputs.max_skew and chunk", GOES_ON, "inputs", "complete"), short_gap),
]


@pytest.mark.parametrize(("row", "inject"), TOLERATED, ids=[str(row) for row, _ in TOLERATED])
def test_the_arm_goes_on(bench, row, inject):
    inject(bench)
    bench.assert_moves_on()
    bench.says(row)
    bench.recover()


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
