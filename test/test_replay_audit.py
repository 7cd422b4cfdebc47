# SPDX-License-Identifier: Apache-2.0
"""Faults planted into a recording are found and named."""

import copy
import json

import numpy as np
import pytest
import sample_bag
from light_replay import light_replay  # noqa: F401  a fixture that every test here uses
from replay_bags import CHECKPOINT, NODE, PERIOD, SECOND, BagMaker, parameter_file

from specprune_ros.replay import camera_motion
from specprune_ros.replay.audit import Stream
from specprune_ros.replay.camera_motion import CameraMotion, swapped
from specprune_ros.replay.options import parse
from specprune_ros.replay.orientation import EFFECTS, about_motion
from specprune_ros.replay.replay import run
from specprune_ros.sensing.images import TRANSFORMS

IMAGES = 30
KEYS = ("libero_spatial_no_noops", "bridge_orig")


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    """The page costs as much as all else."""
    monkeypatch.setattr("specprune_ros.replay.results.write_page", lambda *_: None)


def findings(bag, folder, *arguments):
    """kind -> text of a replay that infers rarely."""
    words = ["--params-file", str(parameter_file(folder)), "--arms", "dense", "--every", "15", "--quiet", *arguments]
    assert run(parse([str(bag), "--out", str(folder / "out"), *words])) == 0
    report = json.loads((folder / "out" / "report.json").read_text())
    return {finding["kind"]: finding["text"] for finding in report["findings"]}


def test_a_good_recording_has_no_findings(tmp_path):
    assert findings(BagMaker(IMAGES).write(tmp_path / "bag"), tmp_path) == {}


def test_a_frozen_camera(tmp_path):
    maker = BagMaker(IMAGES)
    for index, (time, topic, kind, message) in enumerate(maker.messages):
        if topic == f"{NODE}/image_wrist" and time > SECOND:
            frozen = maker.image(time, "wrist", maker.pixels(SECOND, "wrist"))[2]
            assert frozen.header.stamp == message.header.stamp
            maker.messages[index] = (time, topic, kind, frozen)
    found = findings(maker.write(tmp_path / "bag"), tmp_path, "--every", "5")
    assert set(found) == {"frozen_camera"}
    assert f"camera wrist on {NODE}/image_wrist is frozen" in found["frozen_camera"]
    assert "from 1 s on" in found["frozen_camera"]


def test_a_pause_of_the_recorder_is_no_frozen_camera(tmp_path):
    """The arm moves before and after it, and the last picture is not seen in between."""
    maker = BagMaker(IMAGES)
    maker.drop(lambda time, _: 1.05 < time < 2.3)
    found = findings(maker.write(tmp_path / "bag"), tmp_path, "--every", "5")
    assert "gap" in found and "frozen_camera" not in found


def test_a_tf_gap(tmp_path):
    maker = BagMaker(IMAGES)
    maker.drop(lambda time, topic: topic == "/tf" and 1.0 < time < 2.0)
    found = findings(maker.write(tmp_path / "bag"), tmp_path, "--every", "3")
    assert "/tf has 1 gap, the longest of 1 s at 1 s; the node stops the arm" in found["tf_gap"]
    assert "older than the images" in found["refused"]


@pytest.mark.parametrize("behind", [0.7, -1.0])
def test_other_frames_of_tf_have_delays_of_their_own(tmp_path, behind):
    """A tag that was seen in an old image, a map that is dated ahead: neither is between base and end effector."""
    maker = BagMaker(IMAGES)
    for time, topic, kind, message in list(maker.messages):
        if topic == "/tf" and time >= SECOND:
            other = copy.deepcopy(message)
            transform = other.transforms[0]
            transform.child_frame_id = "tag"
            transform.header = maker.header(time - round(behind * SECOND), "world")
            maker.add(time, topic, kind, other)
    maker.messages.sort(key=lambda entry: entry[0])
    assert findings(maker.write(tmp_path / "bag"), tmp_path) == {}


def test_frames_of_tf_without_stamps_do_not_matter_beside_the_arm(tmp_path):
    maker = BagMaker(IMAGES)
    for time, topic, kind, message in list(maker.messages):
        if topic == "/tf":
            other = copy.deepcopy(message)
            transform = other.transforms[0]
            transform.child_frame_id = "tag"
            transform.header.stamp.sec = transform.header.stamp.nanosec = 0
            maker.add(time, topic, kind, other)
    maker.messages.sort(key=lambda entry: entry[0])
    assert findings(maker.write(tmp_path / "bag"), tmp_path) == {}


@pytest.mark.parametrize("milliseconds", [2, 5, -120])
def test_two_drivers_of_the_arms_joints_need_not_wait_for_each_other(tmp_path, milliseconds):
    """Nor need their clocks be one: what is `milliseconds` later, or earlier, is the stamp."""
    maker = BagMaker(IMAGES)
    for time, topic, kind, message in list(maker.messages):
        if topic == "/joint_states":
            other = copy.deepcopy(message)
            other.name, other.position = message.name[1:], message.position[1:]
            message.name, message.position = message.name[:1], message.position[:1]
            later = time + milliseconds * SECOND // 1000
            other.header = maker.header(later)
            maker.add(max(time, later), topic, kind, other)
    maker.messages.sort(key=lambda entry: entry[0])
    found = findings(maker.write(tmp_path / "bag"), tmp_path)
    assert not {"gap", "stamps_back"} & found.keys()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["audit"]["inputs"]["joint_states"]["rate_hz"] == pytest.approx(20, rel=0.02)


@pytest.mark.parametrize("every", [1, 20], ids=["fast", "slow"])
def test_a_driver_of_other_joints_may_be_as_slow_as_it_likes(tmp_path, every):
    maker = BagMaker(IMAGES)
    for index, (time, topic, kind, message) in enumerate(list(maker.messages)):
        if topic == "/joint_states" and index // 4 % every == 0:
            other = copy.deepcopy(message)
            other.name, other.header = ["base_wheel", "lift"], maker.header(time + 200_000)
            maker.add(time + 200_000, topic, kind, other)
    maker.messages.sort(key=lambda entry: entry[0])
    assert findings(maker.write(tmp_path / "bag"), tmp_path) == {}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["audit"]["inputs"]["joint_states"]["rate_hz"] == pytest.approx(20, rel=0.02)


def test_the_longest_of_many_gaps_is_told():
    stream = Stream("a", "/a", allowed=1.0)
    times = np.cumsum([0.1] * 20 + [0.6, 0.1] * 30 + [5.0])
    for time in times:
        stream.add(round(time * SECOND), float(time), 0.0)
    assert stream.gap_count == 31 and len(stream.gaps) == 20
    assert stream.longest == (pytest.approx(times[-2], abs=1e-3), 5.0)


def test_a_recording_of_a_looped_playback(tmp_path, capsys):
    """The stamps start over, the recorder's clock goes on."""
    maker, again = BagMaker(IMAGES // 2), BagMaker(IMAGES // 2)
    length = IMAGES // 2 * PERIOD
    maker.messages += [(time + length, *rest) for time, *rest in again.messages]
    told = findings(maker.write(tmp_path / "bag"), tmp_path)["stamps_back"]
    assert "/image_wrist, /joint_states jump back by 1.4" in told and "at 1.5 s" in told
    assert told.endswith("--duration 1.5")
    assert f"replay: error: {told}" in capsys.readouterr().err.splitlines()


def test_swapped_cameras(tmp_path):
    rules = (f"~/image_primary:={NODE}/image_wrist", f"~/image_wrist:={NODE}/image_primary")
    bag = BagMaker(IMAGES).write(tmp_path / "bag")
    found = findings(bag, tmp_path, *(word for rule in rules for word in ("-r", rule)))
    assert "frame_id is" in found["swapped_cameras"] and "may be swapped" in found["swapped_cameras"]


def test_statistics_of_another_robot(tmp_path):
    """As with a wrong unnorm_key: the arm is where the training data never was."""
    maker = BagMaker(IMAGES)
    for _, topic, _, message in maker.messages:
        if topic == "/tf":
            message.transforms[0].transform.translation.x += 3.0
    found = findings(maker.write(tmp_path / "bag"), tmp_path)
    assert "proprio[0] lies outside of the training data's" in found["proprio_range"]
    assert "model.unnorm_key" in found["proprio_range"]


# What the pictures of the sample recording say about its cameras


def turned_by(transform):
    return lambda views: {view: TRANSFORMS[transform](frame) for view, frame in views.items()}


def mirrored(*names):
    return lambda views: {view: frame[:, ::-1] if view in names else frame for view, frame in views.items()}


def exchanged(views):
    return {"primary": views["wrist"], "wrist": views["primary"]}


@pytest.fixture(scope="module")
def observed():
    return sample_bag.observations()


@pytest.fixture(scope="module")
def watched_once(observed):
    """What the motions are of pictures that come out of a transform: (mirrored, upside down) -> view -> motion."""
    assert EFFECTS.keys() == TRANSFORMS.keys()
    return {EFFECTS[name]: watched(observed, turned_by(name)) for name in EFFECTS}


@pytest.fixture
def turned(watched_once):
    """(mirrored, upside down), transform that the pictures are said to have gone through -> view -> motion."""

    def behind(shown, transform):
        motions = copy.deepcopy(watched_once[shown])
        for motion in motions.values():
            motion.transform = transform
        return motions

    return behind


def watched(observed, change, transform="none"):
    motions = {view: CameraMotion(view, transform) for view in sample_bag.VIEWS}
    for time, views, pose in observed:
        for view, frame in change(views).items():
            motions[view].add(np.ascontiguousarray(frame), pose, time)
    return motions


@pytest.mark.parametrize("names", [(), ("primary",), ("wrist",), ("primary", "wrist")], ids="+".join)
def test_handedness_of_real_pictures(watched_once, names):
    motions = {view: watched_once[view in names, False][view] for view in sample_bag.VIEWS}
    assert {view: motion.mirrored for view, motion in motions.items()} == {v: v in names for v in sample_bag.VIEWS}
    assert swapped(motions) is None
    if not names:  # LIBERO's camera looks down at the arm from before it, that on the wrist along the tool
        axis, fit = motions["primary"].axis()
        assert axis[0] < -0.8 and axis[2] < -0.25 and fit > 0.8
        assert motions["wrist"].axis()[0][2] > 0.95


def effects():
    """Every fault of the pictures behind every transform: name of the transform, fault, what the policy is shown."""
    for transform, own in EFFECTS.items():
        for fault in EFFECTS.values():
            yield transform, fault, tuple(a != b for a, b in zip(fault, own, strict=True))


def test_which_way_up_real_pictures_are(turned):
    for transform, (mirrored, upside_down), shown in effects():
        motions = turned(shown, transform)
        assert {motion.mirrored for motion in motions.values()} == {mirrored}
        assert motions["primary"].upside_down is upside_down
        assert motions["wrist"].upside_down is None  # no telling which way up it was in training


def test_a_transform_that_is_wrong_for_the_checkpoint_is_named(turned):
    """LIBERO's were trained on upright, mirrored pictures, others on what a camera sees."""
    for transform, fault, shown in effects():
        primary = {"primary": turned(shown, transform)["primary"]}
        libero, other = (about_motion(primary, {"primary": "/images"}, key) for key in KEYS)
        assert bool(libero) is (shown != (True, False))
        # Another checkpoint may have been trained on what this transform mirrors.
        assert bool(other) is (shown[1] or (shown[0] and fault[0]))
        for findings, trained in ((libero, (True, False)), (other, (False, False))):
            if findings:
                named = findings[0].text.rsplit(maxsplit=1)[1]
                assert tuple(a != b for a, b in zip(fault, EFFECTS[named], strict=True)) == trained


def test_exchanged_pictures_are_told_by_their_background(observed):
    assert swapped(watched(observed, exchanged)) == ("wrist", "primary")


def test_an_arm_that_stands_still_says_nothing(observed):
    pose = observed[0][2]
    motions = watched([(time, views, pose) for time, views, _ in observed], exchanged)
    assert swapped(motions) is None and {motion.mirrored for motion in motions.values()} == {None}


def test_pictures_that_have_nothing_to_do_with_the_motion_say_nothing(observed):
    shuffled = np.random.default_rng(0).permutation(len(observed))
    mixed = [(time, observed[other][1], pose) for (time, _, pose), other in zip(observed, shuffled, strict=True)]
    motions = watched(mixed, lambda views: views)
    assert swapped(motions) is None and {motion.mirrored for motion in motions.values()} == {None}


def test_steps_that_are_kept_do_not_grow_with_the_recording(observed, monkeypatch):
    monkeypatch.setattr(camera_motion, "MOST", 24)
    motions = watched(observed, mirrored("primary"))
    assert all(len(motion._steps) <= 24 < motion.count for motion in motions.values())


def replayed(bag, folder, *arguments):
    """kind -> texts of a replay of (a copy of) the sample bag, with random weights."""
    words = ["--checkpoint", str(CHECKPOINT), "-p", "model.device:=cpu", "-p", "model.threads:=1", "--arms", "dense"]
    assert run(parse([str(bag), "--out", str(folder / "out"), "--every", "3", "--quiet", *words, *arguments])) == 0
    found = {}
    for finding in json.loads((folder / "out" / "report.json").read_text())["findings"]:
        found.setdefault(finding["kind"], []).append(finding["text"])
    return found


def test_a_mirrored_camera_is_named(tmp_path):
    bag = sample_bag.copy(tmp_path / "bag", mirrored("primary"))
    (told,) = replayed(bag, tmp_path, "--every", "2")["mirrored_image"]
    assert "the view primary on /libero_sim/primary/image/compressed are mirrored" in told
    assert "up from below" in told and told.endswith("mirrored ones; set inputs.camera_transforms none")


def test_cameras_whose_pictures_are_exchanged_are_named(tmp_path):
    """Their frame_ids are right."""
    (told,) = replayed(sample_bag.copy(tmp_path / "bag", exchanged), tmp_path)["swapped_cameras"]
    assert "the views wrist and primary are swapped" in told and "stand still" in told


# Statistics


def two_keys(folder, change):
    """The tiny checkpoint with statistics of a second key."""
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    for path in CHECKPOINT.iterdir():
        if path.name != "dataset_statistics.json" and path.suffix != ".npz":
            (checkpoint / path.name).symlink_to(path)
    statistics = json.loads((CHECKPOINT / "dataset_statistics.json").read_text())
    other = copy.deepcopy(statistics["libero_spatial_no_noops"])
    change(other)
    statistics["libero_goal_no_noops"] = other
    (checkpoint / "dataset_statistics.json").write_text(json.dumps(statistics))
    return checkpoint


def elsewhere(entry):
    for name in ("q01", "q99", "min", "max"):
        entry["proprio"][name][0] += 3.0


def slower(entry):
    for name in ("q01", "q99", "min", "max"):
        entry["action"][name][:6] = [value / 100 for value in entry["action"][name][:6]]


@pytest.mark.parametrize("change", [elsewhere, slower])
def test_a_wrong_key_is_found_and_the_right_one_named(tmp_path, change):
    maker = BagMaker(IMAGES)
    words = ["--every", "3", "--checkpoint", str(two_keys(tmp_path, change)), "-p"]
    bag = maker.write(tmp_path / "bag")
    found = findings(bag, tmp_path, *words, "model.unnorm_key:=libero_goal_no_noops")
    assert set(found) == {"wrong_unnorm_key"}
    assert (
        "unnorm_key is libero_goal_no_noops, but the statistics of libero_spatial_no_noops fit"
        in found["wrong_unnorm_key"]
    )
    assert ("proprio[0]" if change is elsewhere else "times as far in a step") in found["wrong_unnorm_key"]
    assert findings(bag, tmp_path, *words, "model.unnorm_key:=libero_spatial_no_noops") == {}
