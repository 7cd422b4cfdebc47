# SPDX-License-Identifier: Apache-2.0
"""Limits of age and of stamps apart, which are inclusive; eras, rates, oddities, cameras in an observation."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from specprune_ros.errors import ConfigError, ObservationError
from specprune_ros.sensing.assembler import ObservationAssembler
from specprune_ros.sensing.config import InputsConfig
from specprune_ros.sensing.end_effector import EndEffector, PoseMotion
from specprune_ros.sensing.joints import JointInput, JointMotion
from specprune_ros.sensing.transforms import BufferedTransforms

MS = 1_000_000
SECOND = 1000 * MS
START = 1000 * SECOND
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def stamped(nanoseconds, frame=""):
    stamp = SimpleNamespace(sec=nanoseconds // SECOND, nanosec=nanoseconds % SECOND)
    return SimpleNamespace(stamp=stamp, frame_id=frame)


def image(stamp, pixels=PIXELS, frame="lens"):
    height, width = pixels.shape[:2]
    return SimpleNamespace(
        header=stamped(stamp, frame), height=height, width=width, encoding="rgb8", step=3 * width, data=pixels.tobytes()
    )


def joints(stamp, **positions):
    return SimpleNamespace(header=stamped(stamp), name=list(positions), position=list(positions.values()))


def pose(stamp, x=0.0, child="hand", z=0.3):
    header = stamped(stamp, "base")
    place = SimpleNamespace(
        translation=SimpleNamespace(x=x, y=0.0, z=z), rotation=SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0)
    )
    return SimpleNamespace(transforms=[SimpleNamespace(header=header, child_frame_id=child, transform=place)])


class Inputs:
    """An assembler of cameras a and b, with a clock of arrivals."""

    def __init__(self, end_effector=None, controlled=(), **config):
        self.arrival = 50.0
        self.config = InputsConfig(**{"cameras": ("a", "b"), "max_age": 0.5, "max_skew": 0.125, **config})
        topics = {camera: f"/{camera}/image" for camera in self.config.cameras}
        self.sensors = ObservationAssembler(
            self.config,
            topics,
            "/joint_states",
            end_effector,
            controlled,
            np.zeros(3),
            arrival=lambda: self.arrival,
        )

    def see(self, a=None, b=None):
        for camera, stamp in (("a", a), ("b", b)):
            if stamp is not None:
                assert self.sensors.add_image(camera, image(stamp), stamp)

    def refused(self, now, says):
        with pytest.raises(ObservationError, match=re.escape(says)):
            self.sensors.assemble(now)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"base_frame": "base", "ee_frame": "base"}, "inputs.base_frame and inputs.ee_frame are both base; name"),
        ({"joint_names": ("a", "b", "a")}, "inputs.joint_names has a twice"),
    ],
)
def test_what_cannot_be_meant_is_refused(config, says):
    with pytest.raises(ConfigError, match=says):
        InputsConfig(**config)
    assert InputsConfig(base_frame="", ee_frame="").ee_frame == ""


def test_an_image_may_be_as_old_as_the_limit():
    inputs = Inputs()
    inputs.see(START, START)
    assert inputs.sensors.assemble(START + SECOND // 2).stamp == START
    inputs.refused(START + SECOND // 2 + MS, "newest image on /a/image is 0.50 s old (inputs.max_age 0.5 s)")
    assert "0.50 s old" in inputs.sensors.problem(START + SECOND // 2 + MS)
    assert inputs.sensors.problem(START + SECOND // 2) == ""


def test_stamps_from_another_start_of_time_are_told_so():
    inputs = Inputs()
    inputs.see(START, START)
    inputs.refused(START + 86_401 * SECOND, "s old (inputs.max_age 0.5 s); let its driver stamp by the system clock")
    inputs.refused(START + 86_399 * SECOND, "s old (inputs.max_age 0.5 s); check the camera, or the clock")


def test_an_image_may_be_as_far_ahead_as_the_limit():
    inputs = Inputs()
    inputs.see(START, START)
    assert inputs.sensors.assemble(START - SECOND // 8).stamp == START
    inputs.refused(START - SECOND // 8 - MS, "image on /a/image is stamped 0.13 s in the future")


def test_images_may_be_as_far_apart_as_the_limit():
    inputs = Inputs()
    inputs.see(a=START, b=START - SECOND // 8)
    assert inputs.sensors.assemble(START).stamp == START - SECOND // 8
    inputs = Inputs()
    inputs.see(a=START, b=START - SECOND // 8 - MS)
    inputs.refused(START, "image on /a/image is 0.126 s apart from the other cameras' (inputs.max_skew 0.125 s)")


def test_a_camera_with_a_skew_of_its_own_is_not_waited_for():
    inputs = Inputs(own_limits=("image_b.max_skew=0.2",))
    inputs.see(a=START, b=START - 150 * MS)
    assert inputs.sensors.assemble(START).stamp == START
    inputs = Inputs(own_limits=("image_b.max_skew=0.2",))
    inputs.see(a=START - 100 * MS)
    inputs.see(a=START, b=START - 250 * MS)
    assert inputs.sensors.assemble(START).stamp == START - 50 * MS == inputs.sensors.newest_common_stamp(START)


def test_the_newest_pair_and_only_once():
    inputs = Inputs()
    for k in range(4):
        inputs.see(a=START + 30 * k * MS, b=START + (30 * k - 10) * MS)
    now = START + 100 * MS
    found = inputs.sensors.assemble(now)
    assert found.stamp == START + 80 * MS and set(found.views) == {"a", "b"}
    assert np.array_equal(found.views["a"], PIXELS) and found.proprio.size == 0 and found.twist is None
    assert inputs.sensors.assemble(now, newer_than=found.stamp) is None
    assert inputs.sensors.assemble(now, newer_than=found.stamp - 1).stamp == found.stamp


def test_what_came_before_a_jump_of_the_clock_is_dropped():
    inputs = Inputs()
    era = inputs.sensors.era
    inputs.see(START, START)
    inputs.sensors.clear()
    inputs.refused(START, "no image on /a/image yet; start the camera or remap ~/image_a")
    assert not inputs.sensors.add_image("a", image(START), START, era)  # it was decoded meanwhile
    assert inputs.sensors.add_image("a", image(START), START, inputs.sensors.era)
    assert inputs.sensors.newest_stamps() == {"image_a": START, "image_b": None}


def test_an_image_without_a_stamp_has_that_of_its_arrival():
    inputs = Inputs()
    for camera in "ab":
        inputs.sensors.add_image(camera, image(0), START)
    assert inputs.sensors.assemble(START).stamp == START


def test_rates_and_what_came_twice():
    inputs = Inputs(controlled=("j",))
    for k in range(5):
        inputs.see(a=START + k * 100 * MS)
        inputs.sensors.add_joints(joints(START + k * 100 * MS, j=0.0), START)
        inputs.arrival += 0.1
    assert not inputs.sensors.add_image("a", image(START + 400 * MS), START)
    rates = inputs.sensors.rates()
    assert rates == {"/a/image": pytest.approx(10.0), "/b/image": 0.0, "/joint_states": pytest.approx(8.0)}
    assert inputs.sensors.dropped() == 1 and "nothing received; start its publisher" in inputs.sensors.silence("/b")
    assert inputs.sensors.needs_joints and not Inputs().sensors.needs_joints
    assert inputs.sensors.newest_stamps()["joint_states"] == START + 400 * MS


def test_a_frozen_or_misnamed_camera_is_odd():
    inputs = Inputs(frozen_after=1.0, max_age=10.0)
    for k in range(3):
        inputs.see(a=START + k * SECOND)
        noisy = PIXELS ^ np.uint8(k)
        inputs.sensors.add_image("b", image(START + k * SECOND, noisy), START)
        inputs.sensors.assemble(START + k * SECOND)
    assert "image on /a/image has been the same picture for 2.0 s" in inputs.sensors.oddity()
    inputs.sensors.topics["b"] = "/a/image"
    assert inputs.sensors.oddity() == "the views a and b read the same topic /a/image; check the remapping"
    inputs = Inputs(cameras=("front", "wrist"))
    for camera, frame in (("front", "wrist_optical"), ("wrist", "optical")):
        message = image(START)
        message.header.frame_id = frame
        inputs.sensors.add_image(camera, message, START)
    inputs.sensors.assemble(START)
    assert "the view front gets images whose frame_id is wrist_optical, which names" in inputs.sensors.oddity()
    inputs = Inputs()
    assert inputs.sensors.oddity() == ""
    region = SimpleNamespace(width=0, height=0, x_offset=0, y_offset=0)
    info = SimpleNamespace(width=64, height=48, binning_x=0, binning_y=0, roi=region, k=np.eye(3).ravel())
    inputs.sensors.add_camera_info("b", info)
    inputs.see(START, START)
    inputs.sensors.assemble(START)
    assert "image on /b/image is 30x20, but /b/camera_info says 64x48" in inputs.sensors.oddity()


def test_images_are_turned_and_resized_as_configured():
    inputs = Inputs(camera_transforms=("none", "rotate_180"), resize_first=18)
    inputs.see(START, START)
    views = inputs.sensors.assemble(START).views
    assert views["a"].shape == views["b"].shape == (18, 18, 3)
    assert np.array_equal(views["b"], views["a"][::-1, ::-1])


@pytest.fixture
def end_effector():
    transforms = BufferedTransforms()
    for k in range(40):
        transforms.add(pose(START + 10 * k * MS, x=0.002 * k), False, START + 10 * k * MS)
        transforms.add(pose(START + 10 * k * MS, x=1.0, child="lens"), False, START + 10 * k * MS)
    return EndEffector(transforms, "base", "hand")


LAST = START + 390 * MS


def test_proprio_and_twist_are_of_the_observations_stamp(end_effector):
    inputs = Inputs(end_effector, proprio="end_effector", joint_names=("f",))
    inputs.sensors.add_joints(joints(START + 250 * MS, f=0.02), START)
    inputs.see(START + 200 * MS, START + 200 * MS)
    found = inputs.sensors.assemble(START + 200 * MS)
    assert found.proprio == pytest.approx([0.04, 0, 0.3, 0, 0, 0, 0.02], abs=1e-9)
    assert found.twist == pytest.approx([0.2, 0, 0, 0, 0, 0], abs=1e-6) and found.twist_problem == ""
    assert Inputs().sensors._motion(START, np.zeros(0))[1].problem == "no end effector frame is configured"


def test_an_image_waits_for_a_pose_that_comes_more_seldom(end_effector):
    inputs = Inputs(end_effector, proprio="end_effector", max_skew=0.05)
    for stamp in (START + 400 * MS, START + 500 * MS):
        inputs.see(stamp, stamp)
    assert inputs.sensors.assemble(START + 500 * MS).stamp == START + 400 * MS
    inputs.see(START + 900 * MS, START + 900 * MS)
    # The older image that a pose covers is still young enough: 0.5 s.
    assert inputs.sensors.assemble(START + 900 * MS).stamp == START + 400 * MS
    with pytest.raises(ObservationError, match="older than the images"):
        inputs.sensors.assemble(START + 901 * MS)


def test_an_older_pair_is_taken_only_when_every_camera_has_one(end_effector):
    for other, taken in ((LAST - 300 * MS, True), (None, False)):
        inputs = Inputs(end_effector, proprio="none", max_skew=0.5)
        inputs.sensors.config = inputs.config
        inputs.see(a=LAST - 300 * MS, b=other)
        inputs.see(a=LAST + 900 * MS, b=LAST + 900 * MS)
        until = inputs.sensors._covered(LAST + 900 * MS, LAST, LAST + 50 * MS)
        assert (until == LAST - 300 * MS) == taken, other


def test_cameras_are_located_when_they_are_asked_for(end_effector):
    inputs = Inputs(end_effector)
    inputs.see(START + 200 * MS, START + 200 * MS)
    assert inputs.sensors.assemble(START + 200 * MS).cameras == {} and inputs.sensors.oddity() == ""
    inputs.sensors.locates_cameras = True
    region = SimpleNamespace(width=0, height=0, x_offset=0, y_offset=0)
    matrix = [30.0, 0, 14.5, 0, 30.0, 9.5, 0, 0, 1]
    info = SimpleNamespace(width=30, height=20, binning_x=0, binning_y=0, roi=region, k=matrix)
    inputs.sensors.add_camera_info("a", info)
    found = inputs.sensors.assemble(START + 200 * MS)
    assert set(found.cameras) == {"a"} and found.cameras["a"].pose[:3, 3] == pytest.approx([1.0, 0, 0.3])
    assert "/b/camera_info has no calibration" in inputs.sensors.oddity()
    inputs.sensors.add_camera_info("b", info)
    assert set(inputs.sensors.assemble(START + 200 * MS).cameras) == {"a", "b"} and inputs.sensors.oddity() == ""
    nowhere = Inputs()
    nowhere.sensors.locates_cameras = True
    nowhere.see(START, START)
    assert nowhere.sensors.assemble(START).cameras == {} and "needs inputs.base_frame" in nowhere.sensors.oddity()


# The end effector


def test_a_pose_may_be_as_old_as_the_skew(end_effector):
    assert end_effector.pose(LAST + 100 * MS, 100 * MS).position[0] == pytest.approx(0.078)
    with pytest.raises(ObservationError, match=r"TF base -> hand is 0\.10 s older"):
        end_effector.pose(LAST + 100 * MS + 2000, 100 * MS)
    assert end_effector.pose_of("lens", START + 100 * MS, 0).position[0] == pytest.approx(1.0)
    assert end_effector.covered_until(100 * MS) == pytest.approx(LAST + 100 * MS, abs=1000)
    end_effector._transforms.clear()
    assert end_effector.covered_until(100 * MS) is None and end_effector.newest() is None


def test_new_poses_are_counted_once(end_effector, monkeypatch):
    clock = [10.0]
    monkeypatch.setattr("specprune_ros.sensing.end_effector.time", SimpleNamespace(monotonic=lambda: clock[0]))
    for k in range(5):
        now = LAST + (k + 1) * 100 * MS
        end_effector._transforms.add(pose(now), False, now)
        for _ in range(3):
            assert end_effector.newest().stamp == pytest.approx(now, abs=1000)
        clock[0] += 0.1
    assert end_effector.rate() == pytest.approx(4 / 0.5)


def test_a_pose_becomes_a_command_after_a_second_and_without_jumps(monkeypatch):
    clock, transforms = [10.0], BufferedTransforms()
    monkeypatch.setattr("specprune_ros.sensing.end_effector.time", SimpleNamespace(monotonic=lambda: clock[0]))
    end_effector = EndEffector(transforms, "base", "hand")

    def hear(x):
        clock[0] += 0.05
        now = round(clock[0] * SECOND)
        transforms.add(pose(now, x), False, now)

    def problem():
        try:
            end_effector.settled()
        except ObservationError as error:
            return str(error)
        return ""

    hear(0.0)
    assert end_effector.settled().position[0] == 0.0  # nobody has said how it can move
    end_effector.set_motion(PoseMotion(1.0, 1.0))
    problems = []
    for _ in range(21):
        hear(0.0)
        problems.append(problem())
    assert all("is listened to for a second" in text for text in problems[:20]) and problems[20] == ""
    hear(0.07)  # 1.2 m/s for 0.08 s, and noise
    assert problem() == ""
    hear(0.5)
    assert "jumps by 0.430 m and 0.000 rad, faster than limits.max_speed 1 m/s" in problem()
    end_effector.vouch()
    assert "jumps" not in problem()
    end_effector.set_motion(PoseMotion(100.0, 1.0))  # a live limit
    for _ in range(21):
        hear(0.5)
        problem()
    hear(3.0)
    assert problem() == ""
    end_effector.clear()
    assert "listened to" in problem()


def test_static_transforms_need_no_listening():
    transforms = BufferedTransforms()
    transforms.add(pose(0, 0.3), True, START)
    end_effector = EndEffector(transforms, "base", "hand")
    end_effector.set_motion(PoseMotion(1.0, 1.0))
    assert end_effector.settled().position[0] == 0.3 and end_effector.covered_until(0) is None
    assert end_effector.pose(START + 1000 * SECOND, 0).position[0] == 0.3


def test_refused_transforms_are_counted():
    transforms = BufferedTransforms()
    transforms.add(pose(START, x=float("nan")), False, START)
    assert transforms.refused == 1 and "NaN" in transforms.last_refusal


# Joints


def joint_input(**motions):
    made = JointInput(("a", "b"), "/joint_states")
    made.set_motions({name: JointMotion(speed) for name, speed in motions.items()})
    return made


def test_joints_may_be_as_far_away_as_the_skew():
    made = joint_input()
    made.add(joints(START, a=1.0, b=2.0), START, 0.0)
    assert made.positions(("b", "a"), START + 100, 100, 0.0).tolist() == [2.0, 1.0]
    assert made.positions(("a",), START - 100, 100, 0.0).tolist() == [1.0]
    for stamp in (START + 101, START - 101):
        with pytest.raises(ObservationError, match="joint a on /joint_states is"):
            made.positions(("a",), stamp, 100, 0.0)


def test_the_slowest_joint_counts():
    made = joint_input()
    for k in range(11):
        made.add(joints(START + k, a=0.0), START + k, 0.1 * k)
        if k % 2 == 0:
            made.add(joints(START + k, b=0.0), START + k, 0.1 * k)
    assert made.rate(1.0) == pytest.approx(5.0) and made.slowest(("a", "b"), 1.0) == ("b", pytest.approx(5.0))
    assert made.newest_stamp() == START + 10 and made.newest_stamp(("a",)) == START + 10
    made.add(joints(START + 99, a=0.0), START + 99, 1.2)
    assert made.newest_stamp() == START + 10 and made.newest_stamp(("a",)) == START + 99


def test_joint_velocities_are_the_slope_over_the_last_tenth_of_a_second():
    made = JointInput(("a", "b"), "/joint_states")
    made.set_motions({"a": JointMotion(9.0), "b": JointMotion(9.0, continuous=True)})
    assert made.velocities(("a", "b")).tolist() == [0.0, 0.0]
    for k in range(21):  # at 100 Hz; a goes faster and faster, b wraps at pi
        seconds = 0.01 * k
        wrapped = (3.0 + 2.0 * seconds + np.pi) % (2 * np.pi) - np.pi
        stamp = START + k * 10 * MS
        made.add(joints(stamp, a=seconds**2, b=wrapped), stamp, seconds)
    # The slope of a parabola over a window is that of its middle, 0.15 s.
    assert made.velocities(("a", "b")) == pytest.approx([0.3, 2.0], abs=0.011)
    made.add(joints(START + 210 * MS, a=float("nan")), START + 210 * MS, 0.21)
    assert made.velocities(("a",)).tolist() == [0.0]


def test_an_assembler_tells_the_velocities_of_the_joints_that_are_controlled():
    inputs = Inputs(controlled=("a", "b"), proprio="none")
    for k in range(11):
        inputs.sensors.add_joints(joints(START + k * 10 * MS, b=0.1 * k, a=-0.2 * k), START)
    assert inputs.sensors.measured_joint_velocities() == pytest.approx([-20.0, 10.0])
    nothing = Inputs(proprio="none")
    assert nothing.sensors.measured_joint_velocities().shape == (0,) and nothing.sensors.slow_joints() == ""


def test_after_a_jump_of_the_clock_a_joint_has_to_settle_again():
    made = joint_input(a=1.0)
    for k in range(11):
        made.add(joints(START + k * 100 * MS, a=0.0), START, 0.1 * k)
    made.clear()
    made.add(joints(START, a=3.0), START, 1.1)  # no jump of the joint: nothing is remembered
    with pytest.raises(ObservationError, match="joint a on /joint_states is listened to for a second"):
        made.settled_positions(("a",), START, SECOND, 1.1)


def test_settled_joints_have_been_heard_for_a_second():
    made = joint_input(a=1.0)
    for k in range(11):
        made.add(joints(START + k * 100 * MS, a=0.0, b=5.0 * k), START + k * 100 * MS, 0.1 * k)
        if k < 10:
            with pytest.raises(ObservationError, match="joint a on /joint_states is listened to for a second"):
                made.settled_positions(("a", "b"), START + k * 100 * MS, SECOND, 0.1 * k)
    assert made.settled_positions(("a", "b"), START + SECOND, SECOND, 1.0).tolist() == [0.0, 50.0]
    made.add(joints(START + 1100 * MS, a=3.0), START, 1.1)
    with pytest.raises(ObservationError, match=r"joint a on /joint_states jumps between 0\.000 and 3\.000 rad"):
        made.positions(("a",), START + SECOND, SECOND, 1.1)
    made.forget_contradictions(1.1)
    assert made.positions(("a",), START + SECOND, SECOND, 1.1).tolist() == [0.0]
    made.clear()
    assert made.newest_stamp() is None
    with pytest.raises(ObservationError, match="no joint positions on /joint_states yet"):
        made.positions(("a",), START, SECOND, 1.2)
