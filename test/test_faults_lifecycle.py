# SPDX-License-Identifier: Apache-2.0
"""Lifecycle abuse, and checkpoints that change on disk."""

import json
import shutil
import time

import pytest

pytest.importorskip("rclpy")

from fault_bench import AT_ONCE
from faults import GOES_ON, OFF, fault
from faulty_policy import SLOW
from policy_client import INSTRUCTION
from release_checkpoint import light_checkpoint

pytestmark = pytest.mark.ros

LIFECYCLE, DISK = "Lifecycle", "Checkpoint on disk"
REFUSED = "the transition is refused"
AGAIN = "configure again when the files are good"

FOREIGN = fault(LIFECYCLE, "configure, activate or cleanup while active", GOES_ON, "lifecycle", "active", REFUSED)
NOT_CONFIGURED = fault(
    LIFECYCLE, "activate or enable before configure", OFF, "lifecycle", "unconfigured", "configure first"
)
MID_INFERENCE = fault(
    LIFECYCLE, "deactivate in the middle of an inference", OFF, "lifecycle", "inactive", "activate, enable"
)
CLEANUP_MID_INFERENCE = fault(
    LIFECYCLE,
    "cleanup in the middle of an inference",
    OFF,
    "lifecycle",
    "unconfigured",
    "configure, activate, enable",
)
IN_A_ROW = fault(LIFECYCLE, "ten deactivations and activations in a row", OFF, "lifecycle", "active", "enable")


@pytest.fixture
def node(bench):
    """The bench; active again afterwards, whatever the test did."""
    yield bench
    bench.good()
    assert bench.set(model__checkpoint=str(light_checkpoint()), instruction=INSTRUCTION) == ""
    if bench.state() == "unconfigured":
        assert bench.transition("configure")
    if bench.state() == "inactive":
        assert bench.transition("activate")


def assert_starts_again(bench):
    """From unconfigured to moving."""
    assert bench.transition("configure") and bench.transition("activate")
    bench.spin(0.5)
    assert not bench.sent[-1].moves  # nothing moves without ~/enable
    assert bench.enable().success
    bench.recover()


def test_transitions_that_active_does_not_have(node):
    names = ("configure", "activate", "cleanup")
    assert not any(node.undisturbed(lambda: [node.transition(name) for name in names]))
    assert node.state() == "active"
    node.says(FOREIGN)
    node.assert_moves_on(1.0)


def test_nothing_starts_before_configure(node):
    assert node.transition("deactivate")
    node.assert_held(time.time(), allowed=AT_ONCE)
    assert not node.transition("deactivate") and node.transition("cleanup")
    assert not any(node.transition(name) for name in ("activate", "deactivate", "cleanup"))
    assert not node.enable().success and node.reset().success
    node.says(NOT_CONFIGURED)
    assert_starts_again(node)


def slow_inference(bench):
    """Until the arm moves by chunks that take most of a second each."""
    assert bench.set(instruction=SLOW) == ""
    bench.next_chunk(lambda chunk: chunk.instruction == SLOW and chunk.execute)
    bench.wait_until_moving("motion by slow inference")


def test_deactivate_in_the_middle_of_an_inference(node):
    slow_inference(node)
    assert node.transition("deactivate")
    onset = time.time()
    node.heard["chunk"].clear()
    node.assert_held(onset, allowed=AT_ONCE)
    node.spin(1.0)  # in which the inference ends
    assert not any(chunk.execute for chunk in node.heard["chunk"]) and not node.sent[-1].moves
    node.says(MID_INFERENCE)
    assert node.set(instruction=INSTRUCTION) == "" and node.transition("activate")
    assert node.enable().success
    node.recover()


def test_cleanup_in_the_middle_of_an_inference(node):
    slow_inference(node)
    assert node.transition("deactivate")
    onset = time.time()
    assert node.transition("cleanup")
    node.assert_held(onset, allowed=AT_ONCE)
    node.says(CLEANUP_MID_INFERENCE)
    assert node.set(instruction=INSTRUCTION) == ""
    assert_starts_again(node)


def test_transitions_in_a_row(node):
    for _ in range(10):
        assert node.transition("deactivate") and node.transition("activate")
    node.assert_held(time.time(), allowed=AT_ONCE)
    node.says(IN_A_ROW)
    assert node.enable().success
    node.recover()


def removed(folder):
    shutil.rmtree(folder)


def cut_short(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])


def broken_json(folder):
    (folder / "config.json").write_text('{"hidden_size": ')


def without_statistics(folder):
    (folder / "dataset_statistics.json").unlink()


def statistics_of_another_robot(folder):
    path = folder / "dataset_statistics.json"
    statistics = json.loads(path.read_text())
    for entry in statistics.values():
        entry["action"] = {name: values[:3] for name, values in entry["action"].items() if isinstance(values, list)}
    path.write_text(json.dumps(statistics))


def web_page(folder):
    (folder / "model.safetensors").write_text("<!DOCTYPE html><html>rate limited</html>")


CHANGED = [
    (fault(DISK, "folder is gone", OFF, "lifecycle", "does not exist", AGAIN), removed),
    (fault(DISK, "weights are cut short", OFF, "lifecycle", "not a complete safetensors file", AGAIN), cut_short),
    (fault(DISK, "weights are a web page", OFF, "lifecycle", "is a web page", AGAIN), web_page),
    (fault(DISK, "config.json is cut short", OFF, "lifecycle", "config.json", AGAIN), broken_json),
    (fault(DISK, "statistics are gone", OFF, "lifecycle", "dataset_statistics.json", AGAIN), without_statistics),
    (
        fault(DISK, "statistics of a robot with fewer joints", OFF, "lifecycle", "dataset_statistics.json", AGAIN),
        statistics_of_another_robot,
    ),
]


def test_checkpoint_changed_between_cleanup_and_configure(node, tmp_path):
    folder = tmp_path / "checkpoint"
    assert node.transition("deactivate")
    onset = time.time()
    assert node.transition("cleanup")
    node.assert_held(onset, allowed=AT_ONCE)
    assert node.set(model__checkpoint=str(folder)) == ""
    for row, change in CHANGED:
        shutil.copytree(light_checkpoint(), folder, dirs_exist_ok=True)
        change(folder)
        assert not node.transition("configure") and node.state() == "unconfigured", row
        node.says(row)
    shutil.copytree(light_checkpoint(), folder, dirs_exist_ok=True)
    assert_starts_again(node)


OVERWRITTEN = fault(
    DISK, "files are cut short while the model runs", GOES_ON, "inference", "running", "needs nothing: all is in memory"
)


def test_checkpoint_overwritten_while_active(node, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(light_checkpoint(), folder)
    assert node.set(model__checkpoint=str(folder)) == ""
    assert node.transition("deactivate") and node.transition("cleanup")
    assert_starts_again(node)
    for path in folder.iterdir():
        with path.open("r+b") as file:
            file.truncate(0)  # in place: a mapped file would end the process with SIGBUS
    node.assert_moves_on()
    node.says(OVERWRITTEN)
