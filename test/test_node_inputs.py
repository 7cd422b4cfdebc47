# SPDX-License-Identifier: Apache-2.0
"""What becomes of messages before they reach the policy: images, joints, histories, proprio, twist."""

import math
import re

import numpy as np
import pytest

pytest.importorskip("rclpy")

import cv2
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CompressedImage, Image, JointState

from specprune_ros.errors import ConfigError, ObservationError
from specprune_ros.pose import Pose
from specprune_ros.sensing.config import InputsConfig
from specprune_ros.sensing.end_effector import EndEffector, StampedPose
from specprune_ros.sensing.history import History
from specprune_ros.sensing.images import to_rgb, transformed
from specprune_ros.sensing.joints import JointInput, JointMotion
from specprune_ros.sensing.proprio import axis_angle, end_effector_proprio

pytestmark = pytest.mark.ros

SECOND = 1_000_000_000
RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def image(pixels, encoding, padding=0):
    height, width = pixels.shape[:2]
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (0, padding)))
    message = Image(height=height, width=width, encoding=encoding, step=rows.shape[1])
    message.data = rows.tobytes()
    return message


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", RGB),
        ("bgr8", RGB[..., ::-1]),
        ("rgba8", np.dstack([RGB, RGB[..., :1]])),
        ("bgra8", np.dstack([RGB[..., ::-1], RGB[..., :1]])),
    ],
)
def test_colour_encodings(encoding, pixels, padding):
    assert np.array_equal(to_rgb(image(pixels, encoding, padding), "/cam"), RGB)


def test_mono_becomes_grey():
    assert np.array_equal(to_rgb(image(RGB[..., 0], "mono8"), "/cam"), RGB[..., :1].repeat(3, axis=2))


def broken(**changes):
    message = image(RGB, "rgb8")
    for name, value in changes.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    "message",
    [
        broken(encoding="no_such_encoding"),
        broken(encoding=""),
        broken(encoding="32FC1"),
        broken(encoding="rgba8"),
        broken(data=b""),
        broken(data=RGB.tobytes()[:-1]),
        broken(data=RGB.tobytes() + b"more"),
        broken(height=0),
        broken(width=0),
        broken(width=31),
        broken(width=2**32 - 1),
        broken(height=2**32 - 1, step=2**32 - 1),
        broken(step=0),
        image(RGB[:4, :4], "rgb8"),
        CompressedImage(),
        CompressedImage(format="jpeg", data=b"not a picture"),
        CompressedImage(format="jpeg", data=cv2.imencode(".jpg", RGB)[1].tobytes()[:200]),
    ],
)
def test_broken_images_are_refused_in_one_line(message):
    with pytest.raises(ObservationError, match="/cam") as error:
        to_rgb(message, "/cam")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_compressed_images(suffix):
    smooth = cv2.resize(RGB, (120, 80), interpolation=cv2.INTER_CUBIC)
    data = cv2.imencode(suffix, smooth[..., ::-1])[1].tobytes()
    frame = to_rgb(CompressedImage(format="rgb8; jpeg compressed bgr8", data=data), "/cam")
    assert frame.shape == smooth.shape
    assert np.abs(frame.astype(int) - smooth).mean() < (0.01 if suffix == ".png" else 20)


def test_transforms():
    frame = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    a, b, c, d = frame.reshape(4, 3).tolist()
    expected = {
        "none": [[a, b], [c, d]],
        "rotate_180": [[d, c], [b, a]],
        "flip_horizontal": [[b, a], [d, c]],
        "flip_vertical": [[c, d], [a, b]],
    }
    for name, pixels in expected.items():
        result = transformed(frame, name)
        assert result.tolist() == pixels and result.flags.c_contiguous


def test_inputs_configuration_is_checked():
    config = InputsConfig(cameras=("a", "b"), camera_transforms=("none", "rotate_180"))
    assert config.transform_of("b") == "rotate_180"
    assert InputsConfig(camera_transforms=("flip_vertical",)).transform_of("wrist") == "flip_vertical"
    for bad in ({"cameras": ()}, {"cameras": ("a", "a")}, {"camera_transforms": ("none",) * 3}):
        with pytest.raises(ConfigError, match=r"inputs\.camera"):
            InputsConfig(**bad)


def test_limits_of_single_inputs():
    own = ("image_a.max_age=2.5", " tf.max_skew = 2e-2 ", "joint_states.max_age=0.1")
    config = InputsConfig(cameras=("a", "b"), max_age=0.5, max_skew=0.1, own_limits=own)
    assert [config.max_age_of(name) for name in ("image_a", "image_b", "joint_states", "tf")] == [2.5, 0.5, 0.1, 0.5]
    assert [config.max_skew_of(name) for name in ("image_a", "image_b", "joint_states", "tf")] == [0.1, 0.1, 0.1, 0.02]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("a.max_age=1", "'a.max_age=1' names no input; known: image_a, joint_states, tf"),
        ("image_a.max_age", "is not INPUT.max_age=SECONDS"),
        ("image_a.age=1", "is not INPUT.max_age=SECONDS"),
        ("tf.max_age=1e", "is not INPUT.max_age=SECONDS"),
        ("tf.max_skew=-1", "inputs.max_skew = -1.0 is outside the allowed range; allowed: 0.001 to 10"),
    ],
)
def test_wrong_limits_are_named(entry, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        InputsConfig(cameras=("a",), own_limits=(entry,))


def test_history_orders_drops_and_starts_over():
    history = History(3)
    assert history.nearest(5) is None and history.newest_stamp is None
    assert history.add(10, "a", 0.0) and history.add(30, "c", 0.1) and history.add(20, "b", 0.2)
    assert [history.nearest(stamp)[1] for stamp in (0, 14, 15, 20, 26, 99)] == ["a", "a", "b", "b", "c", "c"]
    assert not history.add(20, "again", 0.3) and not history.add(5, "too old", 0.4) and history.dropped == 2
    assert history.add(40, "d", 0.5) and history.nearest(0)[1] == "b"
    assert history.rate(0.5) == pytest.approx(10.0)
    assert history.add(40 - 2 * SECOND, "started over", 0.6) and history.newest_stamp == 40 - 2 * SECOND


def joint_state(names, positions):
    return JointState(name=list(names), position=list(positions))


def test_joints_come_by_name_from_several_publishers():
    joints = JointInput(("b", "a"), "/joint_states")
    joints.add(joint_state("xa", (9.0, 1.0)), SECOND, 0.0)
    joints.add(joint_state("b", (2.0,)), SECOND + 10, 0.0)
    joints.add(JointState(name=["a"], velocity=[5.0]), SECOND + 20, 0.0)
    assert joints.positions(("b", "a"), SECOND, 100, 0.0).tolist() == [2.0, 1.0]


def test_joint_problems_are_named():
    joints = JointInput(("a", "b"), "/joint_states")

    def problem(stamp=SECOND):
        with pytest.raises(ObservationError) as error:
            joints.positions(("a", "b"), stamp, 100, 0.0)
        return str(error.value)

    assert "no joint positions on /joint_states yet" in problem()
    joints.add(joint_state("ac", (1.0, 2.0)), SECOND, 0.0)
    assert "joint b is not on /joint_states; set inputs.joint_names from: a, c" in problem()
    joints.add(JointState(name=["a"], position=[1.0, 2.0]), SECOND, 0.0)
    assert "1 names but 2 positions" in problem()
    joints.add(joint_state("ab", (1.0, math.nan)), SECOND + 1, 0.0)
    assert "joint b on /joint_states is nan" in problem(SECOND + 1)
    assert "2.000 s away from what it is used with" in problem(3 * SECOND)
    joints.add(joint_state("ab", (1.0, 2.0)), SECOND + 2, 0.0)
    assert joints.positions(("a", "b"), SECOND + 2, 100, 0.0).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("moved", [False, True], ids=["proprio", "controlled"])
@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            joint_state("aba", (1.0, 2.0, 1.5)),
            "joint a is twice in one message on /joint_states, at different positions",
        ),
        (
            joint_state("xxaab", (0.0, 1.0, 1.0, 1.5, 2.0)),
            "joint a is twice in one message on /joint_states, at different positions",
        ),
        (joint_state("ab", (1.0,)), "/joint_states has 2 names but 1 positions"),
        (joint_state("", (1.0, 2.0)), "/joint_states has 0 names but 2 positions"),
        (JointState(name=["a", "b"], velocity=[0.1, 0.2]), "/joint_states has velocities or efforts and no positions"),
    ],
    ids=["a name twice", "two names twice", "short", "nameless", "velocities"],
)
def test_what_is_wrong_with_the_messages_is_told_before_and_after_good_ones(message, said, moved):
    joints = JointInput(("a", "b"), "/joint_states")
    if moved:
        joints.set_motions({name: JointMotion(1.0) for name in "ab"})
    joints.add(message, SECOND, 0.0)
    with pytest.raises(ObservationError, match=said):
        joints.positions(("a", "b"), SECOND, SECOND // 10, 0.0)
    joints.add(joint_state("ab", (1.0, 2.0)), SECOND, 0.0)
    joints.add(message, 2 * SECOND, 1.0)
    assert joints.positions(("a", "b"), SECOND, SECOND // 10, 1.0).tolist() == [1.0, 2.0]
    with pytest.raises(ObservationError, match=f"joint a on /joint_states is -1.000 s away .*; {said}"):
        joints.positions(("a", "b"), 2 * SECOND, SECOND // 10, 1.0)


def test_a_name_twice_at_one_position_or_of_no_concern_is_no_problem():
    joints = JointInput(("a", "b"), "/joint_states")
    joints.add(joint_state("abaxx", (1.0, 2.0, 1.0, 3.0, 4.0)), SECOND, 0.0)
    assert joints.positions(("a", "b"), SECOND, 0, 0.0).tolist() == [1.0, 2.0]


def test_axis_angle_takes_the_turn_that_the_checkpoint_saw():
    down = np.array([np.pi, 0.0, 0.0])
    for vector in ([3.3, -0.1, 0.2], [2.9, 0.3, -0.1], [3.1, -0.2, -0.1]):
        quaternion = Rotation.from_rotvec(vector).as_quat()
        assert axis_angle(quaternion, down) == pytest.approx(vector)
        assert axis_angle(-quaternion, down) == pytest.approx(vector)
    assert axis_angle(np.array([0, 0, 0, 1.0]), down).tolist() == [0, 0, 0]
    assert axis_angle(Rotation.from_rotvec([0.1, 0, 0]).as_quat(), np.zeros(3)) == pytest.approx([0.1, 0, 0])


def test_libero_proprio_layout():
    quaternion = Rotation.from_rotvec([3.0, 0.1, 0.2]).as_quat()
    proprio = end_effector_proprio(np.array([1.0, 2, 3]), quaternion, np.array([0.03, -0.03]), np.array([3.1, 0, 0]))
    assert proprio == pytest.approx([1, 2, 3, 3.0, 0.1, 0.2, 0.03, -0.03])


class Screw:
    """Transforms of a frame that moves along x at 0.2 m/s; known from `oldest` to `newest`."""

    def __init__(self, oldest, newest):
        self.oldest, self.newest = oldest, newest

    def lookup(self, target, source, stamp):
        stamp = self.newest if stamp is None else stamp
        if not self.oldest <= stamp <= self.newest:
            raise ObservationError("extrapolation")
        return StampedPose(Pose(np.array([0.2 * stamp / SECOND, 0, 0]), np.array([0, 0, 0, 1.0])), stamp)


def test_end_effector_waits_at_most_the_skew_for_tf():
    end_effector = EndEffector(Screw(0, 10 * SECOND), "base", "hand")
    assert end_effector.pose(5 * SECOND, SECOND).position[0] == pytest.approx(1.0)
    assert end_effector.pose(10 * SECOND + 1000, SECOND).position[0] == pytest.approx(2.0)
    assert end_effector.twist(5 * SECOND, SECOND).twist == pytest.approx([0.2, 0, 0, 0, 0, 0])
    with pytest.raises(ObservationError, match=r"TF base -> hand is 2\.00 s older than the images"):
        end_effector.pose(12 * SECOND, SECOND)
    unknown = EndEffector(Screw(10 * SECOND - 1, 10 * SECOND), "base", "hand").twist(10 * SECOND, SECOND)
    assert unknown.twist is None and "extrapolation" in unknown.problem


def test_the_rate_of_tf_counts_new_poses_alone(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("specprune_ros.sensing.end_effector.time.monotonic", lambda: now[0])
    transforms = Screw(0, SECOND)
    end_effector = EndEffector(transforms, "base", "hand")
    assert end_effector.rate() == 0.0
    for tick in range(41):  # the loop looks at 20 Hz, a new pose comes at 10 Hz
        end_effector.newest()
        now[0] += 0.05
        transforms.newest += SECOND // 10 if tick % 2 else 0
    assert end_effector.rate() == pytest.approx(10.0, rel=0.05)
    now[0] += 2.0
    assert end_effector.rate() < 6.0  # it goes down when TF stops
