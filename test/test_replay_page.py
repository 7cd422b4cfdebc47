# SPDX-License-Identifier: Apache-2.0
"""report.html in a real browser, from disk."""

import re

import numpy as np
import pytest
from browser import Browser
from replay_bags import BagMaker, parameter_file

from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.replay import page_builder
from specprune_ros.replay.differences import ChunkSpace
from specprune_ros.replay.options import parse
from specprune_ros.replay.recorded_gripper import RecordedGripper
from specprune_ros.replay.replay import run

MOMENTS = 5


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    bag, out = BagMaker(MOMENTS).write(folder / "bag"), folder / "out"
    words = ["--params-file", str(parameter_file(folder)), "--arms", "paper", "--out", str(out), "--quiet"]
    assert run(parse([str(bag), *words])) == 0
    return out / "report.html"


def space(**changed):
    return ChunkSpace(ControllerConfig(**changed), 7)


def test_the_recorded_gripper_is_read_from_the_fingers():
    """LIBERO: the second finger moves along a negative axis."""
    low, high = np.array([0.0] * 6 + [0.002, -0.04]), np.array([1.0] * 6 + [0.04, -0.002])
    gripper = RecordedGripper("end_effector", (low, high), space())
    for fingers, opening in (([0.04, -0.04], 1), ([0.002, -0.002], 0), ([0.021, -0.021], 0.5), ([0.09, -0.09], 1)):
        assert gripper.openings(np.array([0.5] * 6 + fingers)) == pytest.approx([opening])
    assert np.isnan(gripper.openings(np.zeros(0))).all()


def test_the_recorded_gripper_of_joints_is_read_as_an_action():
    names = tuple(f"joint{i}" for i in range(6))
    joints = space(action_space="absolute_joint", joint_names=names, gripper_binary=False)
    gripper = RecordedGripper("joints", (np.zeros(7), np.ones(7)), joints)
    assert gripper.openings(np.array([0.1] * 6 + [0.7])) == pytest.approx([0.7])
    assert np.isnan(RecordedGripper("none", (np.zeros(0), np.zeros(0)), joints).openings(np.zeros(0))).all()


def test_limits_that_are_exceeded_are_findings():
    limits = [
        {"arm": "paper", "limit": "max-latency", "exceeded": "88 ms at p99, allowed 50"},
        {"arm": "paper", "limit": "max-flips", "exceeded": ""},
    ]
    (finding,) = page_builder._exceeded({"limits": limits})
    assert finding == {"level": "error", "text": "--max-latency is exceeded by paper: 88 ms at p99, allowed 50"}
    assert page_builder._finding(finding).startswith('<p class="finding error">--max-latency is exceeded by paper')


def test_the_page_needs_nothing_but_itself(page):
    own = re.sub(r"<script>.*?</script>", "", page.read_text(), flags=re.S)
    assert not re.search(r"(src|href)=[\"']?(https?:|//)", own)
    assert page.stat().st_size < 30e6


def test_keys_move_scrubber_pictures_and_plots_and_clicks_move_the_scrubber(page):
    with Browser() as browser:
        browser.open(page)
        browser.wait("document.body.dataset.ready === 'yes'")
        assert browser.run("return data.moments.length") == MOMENTS
        before = browser.run("return large[0].toDataURL()")
        browser.press("right")
        browser.wait("document.body.dataset.moment === '1'")
        time = browser.run("return data.moments[1].time")
        assert browser.run("return document.getElementById('actions').layout.shapes[0].x0") == time
        assert browser.run("return document.getElementById('slider').value") == "1"
        browser.wait(f"large[0].toDataURL() !== '{before}'")
        assert browser.run("return document.getElementById('path').data[3].x.length") > 2
        browser.press("end")
        browser.wait(f"document.body.dataset.moment === '{MOMENTS - 1}'")
        browser.run("document.getElementById('latency').emit('plotly_click', {points: [{x: data.moments[2].time}]})")
        browser.wait("document.body.dataset.moment === '2'")
        assert browser.run("return document.querySelectorAll('#gallery figure').length") > 0
        recorded = (
            "return document.getElementById('actions').data.filter((line) => line.name === 'recorded arm').length"
        )
        assert browser.run(recorded) == 7  # three axes, three turns, the gripper
        for width in (1280, 520):  # nothing sticks out sideways
            browser.resize(width)
            browser.wait("document.documentElement.scrollWidth <= document.documentElement.clientWidth", 10)
        assert [line for line in browser.console() if not line.startswith(("INFO", "DEBUG"))] == []
