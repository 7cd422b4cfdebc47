# SPDX-License-Identifier: Apache-2.0
"""Which stamp an observation has, and what becomes of transforms without one; without ROS."""

import contextlib
import re
from types import SimpleNamespace

import numpy as np
import pytest

from specprune_ros.errors import ObservationError
from specprune_ros.sensing.assembler import ObservationAssembler
from specprune_ros.sensing.config import InputsConfig
from specprune_ros.sensing.end_effector import EndEffector, PoseMotion
from specprune_ros.sensing.joints import JointMotion
from specprune_ros.sensing.peers import UnknownPeers
from specprune_ros.sensing.robot_description import continuous_joints
from specprune_ros.sensing.transforms import LOOP_PAUSE, BufferedTransforms

MILLISECOND = 1_000_000
START = 1_000_000 * MILLISECOND
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def stamped(nanoseconds):
    stamp = SimpleNamespace(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
    return SimpleNamespace(stamp=stamp, frame_id="")


def image(stamp):
    fields = {"height": 20, "width": 30, "encoding": "rgb8", "step": 90, "data": PIXELS.tobytes()}
    return SimpleNamespace(header=stamped(stamp), **fields)


def joints(stamp, position=0.02):
    return SimpleNamespace(header=stamped(stamp), name=["finger"], position=[position])


def transform(stamp, x=0.5, parent="base", child="hand"):
    header = stamped(stamp)
    header.frame_id = parent
    place = SimpleNamespace(
        translation=SimpleNamespace(x=x, y=0.0, z=0.3), rotation=SimpleNamespace(x=0, y=0, z=0, w=1)
    )
    return SimpleNamespace(transforms=[SimpleNamespace(header=header, child_frame_id=child, transform=place)])


def assembler(peers=None, **limits):
    config = InputsConfig(cameras=("primary",), proprio="joints", joint_names=("finger",), **limits)
    return ObservationAssembler(config, {"primary": "/cam"}, "/joint_states", None, (), np.zeros(3), peers=peers)


def inputs_in_order(camera_ms, joint_ms, until_ms):
    """(time, what) of cameras and joints that publish at their periods, the joints out of step with the images."""
    images = [(t, "image") for t in range(0, until_ms, camera_ms)]
    return sorted([*images, *((t, "joints") for t in range(11, until_ms, joint_ms))])


@pytest.mark.parametrize(("joint_ms", "least"), [(10, 28), (100, 8), (150, 5)])
def test_a_seldom_joint_makes_observations_later_and_not_impossible(joint_ms, least):
    """Shipped limits of a Franka: at 10 Hz every third image used to be an error that stopped the arm."""
    sensors, seen = assembler(max_age=0.3, max_skew=0.05), None
    stamps = []
    for time, what in inputs_in_order(33, joint_ms, 1200):
        now = START + time * MILLISECOND
        if what == "image":
            sensors.add_image("primary", image(now), now)
        else:
            sensors.add_joints(joints(now), now)
        if time > 200:
            sensed = sensors.assemble(now, seen)  # raises nothing
            if sensed is not None:
                stamps.append(seen := sensed.stamp)
                assert now - sensed.stamp <= 300 * MILLISECOND
    assert len(stamps) >= least and stamps == sorted(set(stamps))


def test_joints_that_end_are_named_after_max_age():
    sensors = assembler(max_age=0.3, max_skew=0.05)
    sensors.add_joints(joints(START), START)
    for time in range(0, 800, 33):
        sensors.add_image("primary", image(START + time * MILLISECOND), START)
    with pytest.raises(ObservationError, match="joint finger on /joint_states is"):
        sensors.assemble(START + 800 * MILLISECOND)


@pytest.mark.parametrize(
    ("period_ms", "controlled", "advice"),
    [
        (200, (), "comes at 5.0 Hz, .*; publish it faster, or set inputs.own_limits .joint_states.max_skew=0.12]"),
        (1000, (), "comes at 1.0 Hz, .*inputs.own_limits .joint_states.max_skew=0.60, joint_states.max_age=1.20]"),
        (1000, ("arm",), "comes at 1.0 Hz, .*; publish it faster$"),  # the arm's own joints must not get that old
        (90, (), None),
    ],
)
def test_the_slow_joint_is_named_with_what_to_set(period_ms, controlled, advice):
    clock = [0.0]
    config = InputsConfig(cameras=("primary",), proprio="joints", joint_names=("finger",), max_skew=0.05, max_age=0.5)
    sensors = ObservationAssembler(
        config, {"primary": "/cam"}, "/joint_states", None, controlled, np.zeros(3), arrival=lambda: clock[0]
    )
    for k in range(20):
        clock[0] = k * period_ms / 1000
        now = START + k * period_ms * MILLISECOND
        sensors.add_joints(joints(now), now)
    assert re.search(advice, sensors.slow_joints()) if advice else sensors.slow_joints() == ""
    clock[0] += 2.1 * period_ms / 1000  # it has stopped, which no setting helps
    assert sensors.slow_joints() == ""


def test_a_loop_is_forgotten_after_its_pause():
    """Its publisher may be gone; what it has left in the buffer must not refuse everything for ever."""
    clock = [0.0]
    transforms = BufferedTransforms(lambda: clock[0])
    transforms.add(transform(START), False, START)
    transforms.add(transform(START, parent="hand", child="base"), False, START)
    with pytest.raises(ObservationError, match="loop"):
        transforms.lookup("base", "hand", None)
    clock[0] = LOOP_PAUSE
    transforms.add(transform(START + 1), False, START)
    assert transforms.lookup("base", "hand", None).stamp == START + 1


def test_an_arm_that_is_not_moved_in_joint_space_has_no_measured_joints():
    config = InputsConfig(cameras=("primary",), proprio="none")
    sensors = ObservationAssembler(config, {"primary": "/cam"}, "/joint_states", None, (), np.zeros(3))
    assert sensors.measured_joints(START).shape == sensors.measured_joint_velocities().shape == (0,)


def test_an_arm_is_where_it_was_measured_for_max_age_and_no_longer():
    config = InputsConfig(cameras=("primary",), proprio="none", max_age=0.5)
    sensors = ObservationAssembler(config, {"primary": "/cam"}, "/joint_states", None, ("finger",), np.zeros(3))
    sensors.add_joints(joints(START), START)
    assert sensors.measured_joints(START + 500 * MILLISECOND).tolist() == [0.02]
    with pytest.raises(ObservationError, match=r"joint finger on /joint_states is -0\.501 s away"):
        sensors.measured_joints(START + 501 * MILLISECOND)


def test_a_publisher_of_another_quality_of_service_is_named():
    class Mismatch(UnknownPeers):
        def mismatch(self, topic):
            return f"/driver publishes on {topic}, but best effort"

    sensors = assembler(Mismatch())
    with pytest.raises(ObservationError, match="/driver publishes on /cam, but best effort"):
        sensors.assemble(START)
    sensors.add_image("primary", image(START), START)
    with pytest.raises(ObservationError, match="/driver publishes on /joint_states, but best effort"):
        sensors.assemble(START)


def test_transforms_without_a_stamp_age_from_their_arrival():
    transforms = BufferedTransforms()
    end_effector = EndEffector(transforms, "base", "hand")
    for k in range(20):
        transforms.add(transform(0), static=False, now=START + k * 20 * MILLISECOND)
    last = START + 380 * MILLISECOND
    assert end_effector.newest().stamp == pytest.approx(last, abs=1000)
    with pytest.raises(ObservationError, match=r"6\.00 s older than the images"):
        end_effector.pose(last + 6000 * MILLISECOND, 100 * MILLISECOND)


def test_only_what_came_on_tf_static_is_static():
    transforms = BufferedTransforms()
    end_effector = EndEffector(transforms, "base", "hand")
    transforms.add(transform(0), static=True, now=START)
    assert end_effector.newest().stamp is None
    transforms.add(transform(START), static=False, now=START)  # the same frame on /tf: from now on it ages
    assert end_effector.newest().stamp == pytest.approx(START, abs=1000)


def test_a_pose_that_jumps_is_not_made_a_command(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("specprune_ros.sensing.end_effector.time.monotonic", lambda: clock[0])
    transforms = BufferedTransforms()
    end_effector = EndEffector(transforms, "base", "hand")
    end_effector.set_motion(PoseMotion(0.5, 1.5))
    end_effector.set_adopting(False)

    def period(*places):
        clock[0] += 0.02
        for x in places:
            now = round(clock[0] * 1e9)
            transforms.add(transform(now, x), static=False, now=now)
        try:
            return end_effector.settled()
        except ObservationError as error:
            return str(error)

    assert "listened to for a second" in [period(0.5) for _ in range(40)][-1]
    assert [period(0.5 + 0.005 * k) for k in range(20)][-1].position[0] == pytest.approx(0.595)  # 0.25 m/s
    assert "TF base -> hand jumps by" in period(0.0)
    assert all(isinstance(period(0.0), str) for _ in range(100))  # the other publisher alone: still not while it moves
    end_effector.vouch()
    assert [period(0.0) for _ in range(60)][-1].position[0] == 0.0


def test_enable_vouches_for_a_pose_that_nobody_has_looked_at_since(monkeypatch):
    """The arm was jogged while the node was inactive, and the control loop has not run yet."""
    clock = [100.0]
    monkeypatch.setattr("specprune_ros.sensing.end_effector.time.monotonic", lambda: clock[0])
    transforms = BufferedTransforms()
    end_effector = EndEffector(transforms, "base", "hand")
    end_effector.set_motion(PoseMotion(0.5, 1.5))
    for x in (0.0, 0.3):
        for _ in range(60):
            clock[0] += 0.02
            transforms.add(transform(now := round(clock[0] * 1e9), x), static=False, now=now)
            if not x:
                with contextlib.suppress(ObservationError):
                    end_effector.settled()
    end_effector.vouch()
    end_effector.set_adopting(False)
    with pytest.raises(ObservationError, match="listened to for a second"):
        end_effector.settled()
    clock[0] += 1.0
    assert end_effector.settled().position[0] == 0.3


@pytest.mark.parametrize("ahead", [0.0, 0.3, 0.45])
def test_commands_are_made_from_the_newest_position_also_of_a_clock_that_is_ahead(ahead):
    now = [100.0]
    inputs = InputsConfig(cameras=("primary",))
    sensors = ObservationAssembler(
        inputs, {"primary": "/cam"}, "/joint_states", None, ("a",), np.zeros(3), arrival=lambda: now[0]
    )
    sensors.set_joint_motions({"a": JointMotion(1.0)})

    def hear(position, stamp):
        header = SimpleNamespace(stamp=SimpleNamespace(sec=int(stamp), nanosec=round(stamp % 1 * 1e9)))
        message = SimpleNamespace(header=header, name=["a"], position=[position])
        sensors.add_joints(message, round(now[0] * 1e9))

    for k in range(150):
        now[0] += 0.01
        hear(0.01 * k, now[0] + ahead)
    assert sensors.measured_joints(round(now[0] * 1e9))[0] == pytest.approx(1.49)
    hear(0.0, now[0] + 1.0)  # from before the simulator was reset, perhaps: never believed
    for _ in range(150):
        now[0] += 0.01
        hear(1.5, now[0] + ahead)
        assert sensors.measured_joints(round(now[0] * 1e9))[0] == pytest.approx(1.5)
        assert sensors._proprio_positions(round((now[0] + ahead) * 1e9)).tolist() in ([], [1.5], [1.49])


def test_continuous_joints_of_a_urdf():
    urdf = (
        """<robot name="arm"><joint name="joint_1" type="continuous"/><joint name="joint_2" type="revolute"/></robot>"""
    )
    assert continuous_joints(urdf) == {"joint_1"}
    with pytest.raises(ObservationError, match="publish a URDF"):
        continuous_joints("no robot")
