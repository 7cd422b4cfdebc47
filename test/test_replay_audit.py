# SPDX-License-Identifier: Apache-2.0
"""Faults planted into a recording are found and named."""

import json

import pytest
from replay_bags import NODE, SECOND, BagMaker, parameter_file

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
