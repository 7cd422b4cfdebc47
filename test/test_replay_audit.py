# SPDX-License-Identifier: Apache-2.0
"""Faults planted into a recording are found and named."""

import copy
import json

import numpy as np
import pytest
import sample_bag
from light_replay import light_replay  # noqa: F401  a fixture that every test here uses
from replay_bags import CHECKPOINT, NODE, SECOND, BagMaker, parameter_file

from specprune_ros.replay import camera_motion
from specprune_ros.replay.camera_motion import CameraMotion, swapped
from specprune_ros.replay.options import parse
from specprune_ros.replay.replay import run

IMAGES = 30


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
    found = findings(maker.write(tmp_path / "bag"), tmp_path, "--every", "1")
    assert set(found) == {"frozen_camera"}
    assert f"camera wrist on {NODE}/image_wrist is frozen" in found["frozen_camera"]
    assert "from 1 s on" in found["frozen_camera"]


def test_a_tf_gap(tmp_path):
    maker = BagMaker(IMAGES)
    maker.drop(lambda time, topic: topic == "/tf" and 1.0 < time < 2.0)
    found = findings(maker.write(tmp_path / "bag"), tmp_path, "--every", "1")
    assert "/tf has 1 gap, the longest of 1 s at 1 s; the node stops the arm" in found["tf_gap"]
    assert "older than the images" in found["refused"]


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


def mirrored(*names):
    return lambda views: {view: frame[:, ::-1] if view in names else frame for view, frame in views.items()}


def exchanged(views):
    return {"primary": views["wrist"], "wrist": views["primary"]}


@pytest.fixture(scope="module")
def observed():
    return sample_bag.observations()


def watched(observed, change, transform="none"):
    motions = {view: CameraMotion(view, transform) for view in sample_bag.VIEWS}
    for time, views, pose in observed:
        for view, frame in change(views).items():
            motions[view].add(np.ascontiguousarray(frame), pose, time)
    return motions


@pytest.mark.parametrize("names", [(), ("primary",), ("wrist",), ("primary", "wrist")], ids="+".join)
def test_handedness_of_real_pictures(observed, names):
    motions = watched(observed, mirrored(*names))
    assert {view: motion.mirrored for view, motion in motions.items()} == {v: v in names for v in sample_bag.VIEWS}
    assert swapped(motions) is None
    if not names:  # LIBERO's camera looks down at the arm from before it, that on the wrist along the tool
        axis, fit = motions["primary"].axis()
        assert axis[0] < -0.8 and axis[2] < -0.25 and fit > 0.8
        assert motions["wrist"].axis()[0][2] > 0.95


def test_a_transform_that_mirrors_is_taken_into_account(observed):
    assert not any(
        motion.mirrored for motion in watched(observed, mirrored(*sample_bag.VIEWS), "flip_horizontal").values()
    )
    turned = watched(observed, lambda views: {view: frame[::-1, ::-1] for view, frame in views.items()}, "rotate_180")
    assert {motion.mirrored for motion in turned.values()} == {False}


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
    (told,) = replayed(bag, tmp_path, "--every", "1")["mirrored_image"]
    assert "the view primary on /libero_sim/primary/image/compressed are mirrored" in told
    assert "up from below" in told and "turns them back" in told


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
    words = ["--every", "2", "--checkpoint", str(two_keys(tmp_path, change)), "-p"]
    bag = maker.write(tmp_path / "bag")
    found = findings(bag, tmp_path, *words, "model.unnorm_key:=libero_goal_no_noops")
    assert set(found) == {"wrong_unnorm_key"}
    assert (
        "unnorm_key is libero_goal_no_noops, but the statistics of libero_spatial_no_noops fit"
        in found["wrong_unnorm_key"]
    )
    assert ("proprio[0]" if change is elsewhere else "times as far in a step") in found["wrong_unnorm_key"]
    assert findings(bag, tmp_path, *words, "model.unnorm_key:=libero_spatial_no_noops") == {}
