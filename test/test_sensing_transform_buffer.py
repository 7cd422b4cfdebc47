# SPDX-License-Identifier: Apache-2.0
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from specprune_ros.sensing.transform_buffer import TransformBuffer, TransformError

NO_TURN = np.array([0.0, 0.0, 0.0, 1.0])


def yaw(degrees):
    return Rotation.from_euler("z", degrees, degrees=True).as_quat()


def robot():
    """world -> base (static) -> tool (10 s to 12 s, one metre and 90 degrees a second); base -> camera (static)."""
    buffer = TransformBuffer()
    buffer.set_transform("world", "base", 0.0, [1.0, 0.0, 0.0], yaw(90), static=True)
    buffer.set_transform("base", "camera", 0.0, [0.0, 0.0, 2.0], NO_TURN, static=True)
    for k in range(3):
        buffer.set_transform("base", "tool", 10.0 + k, [float(k), 0.0, 0.0], yaw(90 * k))
    return buffer


def assert_pose(pose, position, degrees):
    np.testing.assert_allclose(pose.position, position, atol=1e-9)
    assert (pose.rotation * Rotation.from_quat(yaw(degrees)).inv()).magnitude() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("target", "source", "stamp", "position", "degrees"),
    [
        ("base", "tool", 11.0, [1, 0, 0], 90),
        ("base", "tool", 10.5, [0.5, 0, 0], 45),
        ("tool", "base", 11.0, [0, 1, 0], -90),
        ("world", "tool", 10.5, [1, 0.5, 0], 135),
        ("camera", "tool", 10.5, [0.5, 0, -2], 45),
        ("tool", "camera", 11.0, [0, 1, 2], -90),
        ("world", "camera", 99.0, [1, 0, 2], 90),
        ("tool", "tool", 99.0, [0, 0, 0], 0),
        ("/world", "/tool", 10.5, [1, 0.5, 0], 135),
    ],
)
def test_by_hand(target, source, stamp, position, degrees):
    found = robot().lookup(target, source, stamp)
    assert_pose(found.pose, position, degrees)
    assert found.stamp == stamp


def test_the_latest_common_time():
    buffer = robot()
    buffer.set_transform("tool", "finger", 11.5, [0.0, 0.0, 0.1], NO_TURN)
    buffer.set_transform("tool", "finger", 12.5, [0.0, 0.0, 0.1], NO_TURN)
    found = buffer.lookup("base", "finger")
    assert found.stamp == 12.0
    assert_pose(found.pose, [2, 0, 0.1], 180)
    assert buffer.lookup("tool", "finger").stamp == 12.5
    assert buffer.lookup("world", "camera").stamp is None


@pytest.mark.parametrize("stamp", [9.999, 12.001])
def test_never_extrapolates(stamp):
    with pytest.raises(TransformError, match=r"the buffer holds 10\.0+ s to 12\.0+ s"):
        robot().lookup("world", "tool", stamp)


def test_a_single_sample_serves_its_own_time_only():
    buffer = TransformBuffer()
    buffer.set_transform("a", "b", 5.0, [1.0, 0, 0], NO_TURN)
    assert buffer.lookup("a", "b", 5.0).pose.position[0] == 1.0
    assert buffer.lookup("a", "b").stamp == 5.0
    with pytest.raises(TransformError):
        buffer.lookup("a", "b", 5.1)


@given(nanoseconds=st.integers(1_700_000_000_000_000_000, 2_000_000_000_000_000_000))
def test_the_newest_stamp_is_found_again_after_nanoseconds(nanoseconds):
    buffer = TransformBuffer()
    buffer.set_transform("base", "tool", nanoseconds / 1e9, [1.0, 0.0, 0.0], NO_TURN)
    newest = int(buffer.lookup("base", "tool").stamp * 1e9)
    assert_pose(buffer.lookup("base", "tool", newest / 1e9).pose, [1, 0, 0], 0)


def test_a_gap_above_the_common_ancestor_does_no_harm():
    buffer = TransformBuffer()
    buffer.set_transform("world", "base", 1.0, [0, 0, 0], NO_TURN)
    for frame in ("left", "right"):
        for stamp in (5.0, 6.0):
            buffer.set_transform("base", frame, stamp, [1.0, 0, 0], NO_TURN)
    assert buffer.lookup("left", "right", 5.5).stamp == 5.5
    assert buffer.lookup("left", "right").stamp == 6.0
    with pytest.raises(TransformError, match="base"):
        buffer.lookup("world", "right", 5.5)


def test_unknown_and_unconnected_frames():
    buffer = robot()
    buffer.set_transform("mars", "rover", 10.0, [0, 0, 0], NO_TURN)
    with pytest.raises(TransformError, match="moon does not exist"):
        buffer.lookup("base", "moon")
    for stamp in (None, 10.0):
        with pytest.raises(TransformError, match="not connected"):
            buffer.lookup("base", "rover", stamp)


def test_a_frame_with_two_parents_is_named():
    buffer = robot()
    for step in range(4):  # two publishers take turns
        buffer.set_transform("base" if step % 2 else "mars", "camera", 10.0 + step, [0, 0, 0], NO_TURN)
    buffer.set_transform("mars", "camera", 14.0, [0, 0, 0], NO_TURN)
    for stamp in (None, 14.0):
        with pytest.raises(TransformError, match="camera has two parents, mars and base, so that"):
            buffer.lookup("base", "camera", stamp)


def test_loops_are_refused_and_can_be_mended():
    buffer = TransformBuffer()
    buffer.set_transform("a", "b", 1.0, [0, 0, 0], NO_TURN)
    buffer.set_transform("b", "c", 1.0, [0, 0, 0], NO_TURN)
    buffer.set_transform("c", "a", 1.0, [0, 0, 0], NO_TURN)
    buffer.set_transform("x", "y", 1.0, [0, 0, 0], NO_TURN)
    for stamp in (None, 1.0):
        with pytest.raises(TransformError, match="loop"):
            buffer.lookup("x", "c", stamp)
    buffer.clear()
    buffer.set_transform("a", "b", 2.0, [0, 0, 0], NO_TURN)
    buffer.set_transform("b", "c", 2.0, [0, 0, 0], NO_TURN)
    assert buffer.lookup("a", "c").stamp == 2.0


@pytest.mark.parametrize(
    ("parent", "child", "stamp", "position", "quaternion", "says"),
    [
        ("", "b", 1.0, [0, 0, 0], NO_TURN, "empty"),
        ("a", "/", 1.0, [0, 0, 0], NO_TURN, "empty"),
        ("a", "a", 1.0, [0, 0, 0], NO_TURN, "itself"),
        ("a", "b", 1.0, [0, np.nan, 0], NO_TURN, "NaN"),
        ("a", "b", 1.0, [0, 0, 0], [0, 0, 0, np.inf], "NaN"),
        ("a", "b", np.nan, [0, 0, 0], NO_TURN, "NaN"),
        ("a", "b", 1.0, [0, 0, 0], [0, 0, 0, 0], "norm"),
        ("a", "b", 1.0, [0, 0, 0], [0, 0, 0, 1.1], "norm"),
        ("a", "b", 1.0, [0, 0], NO_TURN, "2 position"),
        ("a", "b", 13.0, [0, 0, 0], NO_TURN, "future"),
    ],
)
def test_refuses_what_is_not_a_transform(parent, child, stamp, position, quaternion, says):
    buffer = TransformBuffer()
    with pytest.raises(TransformError, match=says) as error:
        buffer.set_transform(parent, child, stamp, position, quaternion, now=10.0)
    assert "\n" not in str(error.value)
    with pytest.raises(TransformError, match="does not exist"):
        buffer.lookup("a", "b")


def test_cache_time():
    buffer = TransformBuffer()
    for stamp in range(30):
        buffer.set_transform("a", "b", float(stamp), [float(stamp), 0, 0], NO_TURN)
    with pytest.raises(TransformError, match="older"):
        buffer.set_transform("a", "b", 18.9, [0, 0, 0], NO_TURN)
    assert buffer.lookup("a", "b", 19.0).pose.position[0] == 19.0
    with pytest.raises(TransformError):
        buffer.lookup("a", "b", 18.9)


def test_out_of_order_and_repeated_stamps():
    buffer = TransformBuffer()
    for stamp, x in ((1.0, 1.0), (3.0, 3.0), (2.0, 7.0), (3.0, 9.0)):
        buffer.set_transform("a", "b", stamp, [x, 0, 0], NO_TURN)
    assert [buffer.lookup("a", "b", stamp).pose.position[0] for stamp in (1.5, 2.0, 2.5)] == [4.0, 7.0, 8.0]


def test_a_frame_may_change_its_parent():
    buffer = TransformBuffer()
    for frame in ("left", "right"):
        buffer.set_transform("base", frame, 0.0, [0, 1.0 if frame == "left" else -1.0, 0], NO_TURN, static=True)
    for stamp, hand in ((1.0, "left"), (2.0, "left"), (3.0, "right"), (4.0, "right")):
        buffer.set_transform(hand, "object", stamp, [0, 0, stamp], NO_TURN)
    assert buffer.lookup("base", "object", 1.5).pose.position.tolist() == [0, 1, 1.5]
    assert buffer.lookup("base", "object", 2.5).pose.position.tolist() == [0, 1, 2]  # between parents: the older one
    assert buffer.lookup("base", "object", 3.5).pose.position.tolist() == [0, -1, 3.5]


def test_clear_keeps_static_frames():
    buffer = robot()
    buffer.clear()
    assert buffer.lookup("world", "camera").stamp is None
    for stamp in (None, 11.0):
        with pytest.raises(TransformError, match=r"holds no data|not connected"):
            buffer.lookup("base", "tool", stamp)
    buffer.set_transform("base", "tool", 1.0, [0, 0, 0], NO_TURN)  # the clock jumped back
    assert buffer.lookup("base", "tool").stamp == 1.0


def test_two_threads():
    buffer, errors = robot(), []

    def fill():
        try:
            for k in range(500):
                buffer.set_transform("base", "tool", 12.0 + k * 0.01, [2.0, 0, 0], yaw(180))
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=fill)
    thread.start()
    for _ in range(100):
        assert_pose(buffer.lookup("base", "tool").pose, [2, 0, 0], 180)
    thread.join()
    assert not errors


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(2, 8))
def test_any_tree_agrees_with_homogeneous_matrices(seed, size):
    random = np.random.RandomState(seed)
    buffer, in_root = TransformBuffer(), [np.eye(4)]
    for child in range(1, size):
        parent = random.randint(child)
        position, rotation = random.normal(size=3), Rotation.random(random_state=random)
        link = np.eye(4)
        link[:3, :3], link[:3, 3] = rotation.as_matrix(), position
        in_root.append(in_root[parent] @ link)
        static = bool(random.randint(2))
        buffer.set_transform(f"f{parent}", f"f{child}", 3.0, position, rotation.as_quat(), static=static)
    for target, source in random.randint(size, size=(5, 2)):
        pose = buffer.lookup(f"f{target}", f"f{source}", 3.0).pose
        expected = np.linalg.inv(in_root[target]) @ in_root[source]
        np.testing.assert_allclose(pose.position, expected[:3, 3], atol=1e-9)
        np.testing.assert_allclose(pose.rotation.as_matrix(), expected[:3, :3], atol=1e-9)
