# SPDX-License-Identifier: Apache-2.0
"""What lies exactly on a limit of the inputs. Numbers are exact in binary, or whole nanoseconds."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from specprune_ros.errors import ConfigError, ObservationError
from specprune_ros.pose import IDENTITY, Pose
from specprune_ros.sensing.camera_check import CameraCheck
from specprune_ros.sensing.config import InputsConfig
from specprune_ros.sensing.history import BACKWARD_JUMP, History
from specprune_ros.sensing.images import resized_first, to_rgb
from specprune_ros.sensing.joints import JointInput
from specprune_ros.sensing.proprio import axis_angle
from specprune_ros.sensing.transform_buffer import MAX_FUTURE, TransformBuffer, TransformError
from specprune_ros.sensing.transform_cache import ROUNDING, ExtrapolationError, Link, TransformCache
from specprune_ros.sensing.twist_estimator import TwistEstimator
from specprune_ros.stamps import from_stamp, stamp_or_arrival

SECOND = 1_000_000_000
NO_TURN = IDENTITY.quaternion


# History


def test_a_history_starts_over_after_a_jump_back_of_more_than_a_second():
    history = History(5)
    history.add(5 * SECOND, "a", 0.0)
    assert history.add(5 * SECOND - BACKWARD_JUMP, "b", 0.1) and history.newest_stamp == 5 * SECOND
    assert history.add(5 * SECOND - BACKWARD_JUMP - 1, "c", 0.2)
    assert history.newest_stamp == 4 * SECOND - 1 and history.nearest(9 * SECOND)[1] == "c"
    assert history.dropped == 0


def test_a_full_history_drops_the_oldest_and_what_is_older():
    history = History(2)
    assert history.add(10, "a", 0.0) and history.add(30, "c", 0.0)
    assert not history.add(20, "b", 0.0) and history.dropped == 1  # it would push out a newer one
    assert history.add(40, "d", 0.0) and history.nearest(0) == (30, "c")
    roomy = History(3)
    assert roomy.add(10, "a", 0.0) and roomy.add(30, "c", 0.0) and roomy.add(20, "b", 0.0)
    assert [roomy.newest_until(stamp) for stamp in (9, 10, 20, 29, 30, 31)] == [None, 10, 20, 20, 30, 30]
    assert [roomy.nearest(stamp)[1] for stamp in (14, 15, 25, 26)] == ["a", "b", "c", "c"]
    roomy.clear()
    assert roomy.newest_stamp is None and roomy.newest_until(99) is None


def test_a_rate_needs_two_messages():
    history = History(5)
    assert history.rate(1.0) == 0.0
    history.add(1, "a", 1.0)
    assert history.rate(2.0) == 0.0
    history.add(2, "b", 1.5)
    assert history.rate(1.5) == 2.0 and history.rate(3.0) == 0.5
    for k in range(100):  # of the last fifty
        history.add(3 + k, "c", 10.0 + 0.125 * k)
    assert history.rate(10.0 + 0.125 * 99) == pytest.approx(8.0)


def test_stamps():
    assert from_stamp(SimpleNamespace(sec=2, nanosec=3)) == 2 * SECOND + 3
    assert stamp_or_arrival(SimpleNamespace(sec=0, nanosec=0), 7) == 7
    assert stamp_or_arrival(SimpleNamespace(sec=0, nanosec=1), 7) == 1


# Pictures


def image(pixels):
    height, width = pixels.shape[:2]
    return SimpleNamespace(
        height=height, width=width, encoding="rgb8", step=width * 3, data=np.ascontiguousarray(pixels).tobytes()
    )


def test_the_smallest_picture():
    for height, width, good in ((16, 16, True), (15, 40, False), (40, 15, False)):
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        if good:
            assert np.array_equal(to_rgb(image(pixels), "/a"), pixels)
        else:
            with pytest.raises(ObservationError, match=f"only {width}x{height} pixels"):
                to_rgb(image(pixels), "/a")


def test_a_picture_of_the_right_size_stays_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    assert resized_first(pixels, 20) is pixels and resized_first(pixels, 0) is pixels
    assert resized_first(pixels[:, :10], 20).shape == (20, 20, 3)


@pytest.mark.parametrize(("apart", "grey"), [(4, True), (5, False)])
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_grey_picture_with_compression(apart, grey, channel):
    check = CameraCheck("/a", "/info")
    frame = np.full((32, 32, 3), 100, np.uint8)
    frame[:, :, channel] += np.uint8(apart)
    check.on_frame(frame, SECOND)
    assert ("no colours" in check.problem(0.0)) == grey
    colourful = frame.copy()
    colourful[16, 8] = 255, 0, 0  # where it is looked for
    check.on_frame(colourful, 2 * SECOND)
    assert check.problem(0.0) == ""


def test_how_long_a_picture_may_stay_the_same():
    check, frame = CameraCheck("/a", "/info"), np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    check.on_frame(frame, SECOND)
    check.on_frame(frame, 3 * SECOND)
    assert check.problem(2.0) == "" and check.problem(0.0) == "" and "for 2.0 s" in check.problem(1.9)
    check.on_frame(frame, 3 * SECOND)  # the same stamp twice is no step back
    assert "for 2.0 s" in check.problem(1.9)
    check.on_frame(frame, 3 * SECOND - 1)  # the clock went back
    check.on_frame(frame, 4 * SECOND)
    assert "for 1.0 s" in check.problem(0.5)


# Transforms


def test_a_cache_keeps_its_time():
    cache = TransformCache(8.0, static=False)
    assert cache.newest is None and cache.latest() is None
    assert cache.insert(16.0, Link("base", IDENTITY)) and cache.insert(8.0, Link("base", IDENTITY))
    assert not cache.insert(math.nextafter(8.0, 0), Link("base", IDENTITY))
    assert cache.at(8.0).parent == "base" and cache.newest == 16.0
    cache.insert(16.5, Link("base", IDENTITY))
    with pytest.raises(ExtrapolationError):
        cache.at(8.0)
    assert cache.at(16.0) and cache.at(16.5 + ROUNDING / 2) and cache.at(16.0 - ROUNDING / 2)
    for stamp in (16.5 + 2 * ROUNDING, 16.0 - 2 * ROUNDING):
        with pytest.raises(ExtrapolationError):
            cache.at(stamp)


def test_between_two_links():
    def link(x, angle, parent="base"):
        return Link(parent, Pose(np.array([x, 0.0, 0.0]), Rotation.from_rotvec([0, 0, angle]).as_quat()))

    cache = TransformCache(8.0, static=False)
    for stamp, x, angle in ((1.0, 0.0, 0.0), (2.0, 4.0, 1.0), (4.0, 0.0, -1.0)):
        cache.insert(stamp, link(x, angle))
    for stamp, x, angle in ((1.25, 1.0, 0.25), (2.0, 4.0, 1.0), (2.5, 3.0, 0.5), (3.5, 1.0, -0.5)):
        found = cache.at(stamp).pose
        assert found.position[0] == pytest.approx(x) and found.rotation.as_rotvec()[2] == pytest.approx(angle)
    cache.insert(2.0, link(9.0, 0.0))  # again
    assert cache.at(2.0).pose.position[0] == 9.0 and cache.at(1.5).pose.position[0] == pytest.approx(4.5)
    assert cache.at(3.0).pose.position[0] == pytest.approx(4.5)  # in its place, not beside it
    assert cache.at(4.0).pose.position[0] == 0.0
    cache.insert(6.0, link(5.0, 0.0, "other"))
    assert (cache.at(5.0).parent, cache.at(6.0).parent) == ("base", "other")


def test_what_a_buffer_refuses_at_its_limits():
    buffer = TransformBuffer()
    buffer.set_transform("a", "b", 10.0 + MAX_FUTURE, [0, 0, 0], NO_TURN, now=10.0)
    with pytest.raises(TransformError, match="in the future"):
        buffer.set_transform("a", "b", math.nextafter(10.0 + MAX_FUTURE, 99), [0, 0, 0], NO_TURN, now=10.0)
    buffer.set_transform("a", "s", 99.0, [0, 0, 0], NO_TURN, now=10.0, static=True)
    for norm, good in ((1.004, True), (0.996, True), (1.006, False), (0.994, False)):
        if good:
            buffer.set_transform("a", "c", 10.0, [0, 0, 0], norm * NO_TURN)
            assert np.linalg.norm(buffer.lookup("a", "c").pose.quaternion) == pytest.approx(1.0)
        else:
            with pytest.raises(TransformError, match="norm"):
                buffer.set_transform("a", "c", 10.0, [0, 0, 0], norm * NO_TURN)
    for position, quaternion in (([0, 0, 0], NO_TURN[:3]), ([0, 0], NO_TURN)):
        with pytest.raises(TransformError, match="numbers"):
            buffer.set_transform("a", "c", 10.0, position, quaternion)


# Velocity


def moving(times, window=1.0, max_age=0.25):
    estimator = TwistEstimator(window, max_age)
    assert all(estimator.add(time, [2.0 * time, 0, 0], NO_TURN) for time in times)
    return estimator


def test_how_many_poses_of_what_time_make_a_velocity():
    assert moving([0.0, 0.25, 0.5]).twist(0.5) == pytest.approx([2.0, 0, 0, 0, 0, 0])
    assert moving([0.0, 0.5]).twist(0.5) is None  # two are too few
    assert moving([0.0, 0.15, 0.3125]).twist(0.3125) is not None
    assert moving([0.0, 0.15, 0.29]).twist(0.29) is None  # three tenths of the window are needed
    late = moving([0.0, 0.25, 0.5])
    assert late.twist(0.75) is not None and late.twist(math.nextafter(0.75, 1)) is None
    assert TwistEstimator(0.15, 0.2).twist(0.0) is None


def test_the_window_is_centred_where_newer_poses_are_known():
    estimator = TwistEstimator(1.0, 0.25)
    for k in range(20):  # faster and faster
        time = k / 8
        estimator.add(time, [time**2, 0, 0], NO_TURN)
    assert estimator.twist(1.5)[0] == pytest.approx(3.0)  # of 1 to 2
    assert estimator.twist(1.625)[0] == pytest.approx(3.25)
    assert estimator.twist(2.375)[0] == pytest.approx(3.75)  # of 1.375 to 2.375


def test_which_poses_are_kept():
    estimator = moving([1.0, 2.0])
    assert not estimator.add(2.0, [0, 0, 0], NO_TURN) and not estimator.add(1.5, [0, 0, 0], NO_TURN)
    assert not estimator.add(1.0, [0, 0, 0], NO_TURN)  # a window earlier
    assert estimator.add(math.nextafter(1.0, 0), [0, 0, 0], NO_TURN) and len(estimator._stamps) == 1
    kept = moving([0.0, 1.0, 2.0, 3.0])
    assert kept._stamps == [1.0, 2.0, 3.0]  # two seconds
    assert not kept.add(4.0, [0, 0, 0], [0, 0, 0, 0]) and not kept.add(math.nan, [0, 0, 0], NO_TURN)


# Configuration and proprio


@pytest.mark.parametrize(
    ("values", "good"),
    [
        ({"cameras": ("a",), "camera_transforms": ("none",)}, True),
        ({"cameras": ("a", "b", "c"), "camera_transforms": ("none",)}, True),
        ({"cameras": ("a", "b", "c"), "camera_transforms": ("none", "none")}, False),
        ({"cameras": ("a", "b"), "camera_transforms": ()}, False),
        ({"cameras": ("a", "1b")}, False),
        ({"cameras": ("a b",)}, False),
        ({"cameras": ("_a1",)}, True),
        ({"own_limits": ("tf.max_age=1", "tf.max_skew=1")}, True),
        ({"own_limits": ("tf.max_age=1", "tf.max_skew")}, False),
    ],
)
def test_names_and_numbers_of_cameras(values, good):
    if good:
        InputsConfig(**values)
    else:
        with pytest.raises(ConfigError, match=r"inputs\."):
            InputsConfig(**values)


def test_own_limits_of_one_input_are_nobody_elses():
    config = InputsConfig(cameras=("a", "b"), max_age=0.5, max_skew=0.1, own_limits=("image_a.max_skew=0.3",))
    assert (config.own_skew_of("image_a"), config.own_skew_of("image_b")) == (0.3, 0.0)
    assert (config.max_skew_of("image_a"), config.max_skew_of("image_b")) == (0.3, 0.1)
    assert config.max_age_of("image_a") == 0.5
    assert InputsConfig(cameras=("a", "b"), camera_transforms=("none", "flip_vertical")).transform_of("a") == "none"


def test_half_a_turn_nearest_to_nothing_is_the_shorter_ways_own():
    assert axis_angle(np.array([1.0, 0, 0, 0]), np.zeros(3)).tolist() == [math.pi, 0, 0]


def test_a_rotation_without_an_axis():
    near = np.array([math.pi, 0.0, 0.0])
    for angle in (0.0, 0.5e-6):
        assert np.abs(axis_angle(Rotation.from_rotvec([angle, 0, 0]).as_quat(), near)).max() <= angle
    assert axis_angle(Rotation.from_rotvec([2e-6, 0, 0]).as_quat(), near)[0] == pytest.approx(2e-6)
    assert axis_angle(Rotation.from_rotvec([-2e-6, 0, 0]).as_quat(), near)[0] == pytest.approx(2 * math.pi - 2e-6)


def test_broken_joint_states():
    made = JointInput(("a",), "/joints")
    for names, positions in (([], []), (["a"], []), (["a", "b"], [1.0])):
        made.add(SimpleNamespace(name=names, position=positions), SECOND, 0.0)
    with pytest.raises(ObservationError, match="/joints has 2 names but 1 positions"):
        made.positions(("a",), SECOND, 10, 0.0)
    made.add(SimpleNamespace(name=["z"], position=[1.0]), SECOND, 0.0)
    with pytest.raises(ObservationError, match=r"joint a is not on /joints; set inputs\.joint_names from: z"):
        made.positions(("a",), SECOND, 10, 0.0)
    made.add(SimpleNamespace(name=["a"], position=[math.inf]), SECOND, 0.0)
    with pytest.raises(ObservationError, match="joint a on /joints is inf"):
        made.positions(("a",), SECOND, 10, 0.0)
    assert made.rate(0.0) == 0.0 and JointInput((), "/joints").rate(1.0) == 0.0
    assert JointInput((), "/joints").newest_stamp() is None


def test_what_was_wrong_with_the_joints_is_forgotten_when_they_are_cleared():
    joints = JointInput(("a",), "/joint_states")
    joints.add(SimpleNamespace(name=["a", "b"], position=[0.0], header=None), 1, 0.0)
    with pytest.raises(ObservationError, match="2 names but 1 positions"):
        joints.positions(("a",), 1, SECOND, 1)
    joints.clear()
    with pytest.raises(ObservationError, match="no joint positions on /joint_states yet"):
        joints.positions(("a",), 1, SECOND, 1)
