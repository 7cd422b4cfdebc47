# SPDX-License-Identifier: Apache-2.0
"""The policy node as users run it: a real process, real DDS, a real checkpoint with tiny weights."""

import math
import re
import time

import numpy as np
import pytest

from specprune_ros.policy import Observation, Policy

pytest.importorskip("rclpy")

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from policy_client import CHECKPOINT, GOLDEN, INSTRUCTION, PARAMETERS, PolicyClient, start_policy, stop
from sensor_msgs.msg import CameraInfo, JointState
from std_msgs.msg import String

pytestmark = pytest.mark.ros

STEP = 0.2  # seconds; chunks of 8 steps last longer than an inference on a busy machine
EVERYTHING = {"primary", "wrist", "joints", "TF"}


@pytest.fixture(scope="module")
def context():
    context = rclpy.Context()
    context.init()
    yield context
    context.shutdown()


@pytest.fixture(scope="module")
def node(context):
    """A dense node, configured and activated after every mistake one can make. Module-wide: starting takes seconds."""
    process = start_policy(**{"pruning.enabled": False, "controller.step_duration": STEP})
    try:
        client = PolicyClient(context, process)
        bring_up(client)
        yield client
        client.good()
        stop(process)
    finally:
        process.kill()


def bring_up(client):
    """What the user gets wrong fails the transition with one line, and can be fixed."""
    client.missing = EVERYTHING
    assert client.state() == "unconfigured"
    assert not client.transition("activate") and client.state() == "unconfigured"

    assert not client.transition("configure") and client.state() == "unconfigured"
    client.wait_for_problem("lifecycle", "model.checkpoint is empty")

    assert client.set(model__checkpoint="/nowhere", inputs__camera_transforms=["none", "none"]) == ""
    assert not client.transition("configure")
    client.wait_for_problem("lifecycle", "/nowhere does not exist")

    assert client.set(model__checkpoint=str(CHECKPOINT), inputs__cameras=["one", "two", "three"]).startswith("inputs.")
    assert client.set(model__checkpoint=str(CHECKPOINT), model__unnorm_key="bridge") == ""
    assert not client.transition("configure")
    client.wait_for_problem("lifecycle", "libero_spatial_no_noops")

    assert client.set(model__unnorm_key="", inputs__joint_names=["panda_finger_joint1"]) == ""
    assert not client.transition("configure")
    client.wait_for_problem("lifecycle", "7 numbers; the checkpoint expects 8: name 2 joints")

    assert client.set(inputs__joint_names=["panda_finger_joint1", "panda_finger_joint2"]) == ""
    assert not client.enable().success
    assert client.transition("configure") and client.state() == "inactive"
    assert client.transition("activate") and client.state() == "active"

    client.wait_for_problem("inference", "no instruction")
    assert not client.enable().success
    client.instruction.publish(String(data=INSTRUCTION))


@pytest.fixture
def running(node):
    node.good()
    node.next_chunk()
    yield node
    node.good()
    node.enable(False)


def test_missing_inputs_are_named(node):
    node.missing = EVERYTHING
    node.wait_for_problem("inference", "specprune_policy/image_primary yet; start the camera or remap")
    node.missing = {"wrist", "joints", "TF"}
    node.wait_for_problem("inference", "no image on /specprune_policy/image_wrist yet")
    node.missing = {"joints", "TF"}
    node.wait_for_problem("inference", "no joint positions on /joint_states yet")
    node.missing = {"TF"}
    node.wait_for_problem("inference", "frame world does not exist")


def test_chunk_equals_the_policy(running):
    running.wait(lambda: any(math.isfinite(s.v_t) for s in running.heard["pruning"]), "a velocity")
    chunk = running.next_chunk()
    policy = Policy.from_checkpoint(CHECKPOINT)
    views = {"primary": GOLDEN["primary_image"], "wrist": GOLDEN["wrist_image"]}
    expected = policy.act(Observation(views, GOLDEN["state"], INSTRUCTION))
    actions = np.array(chunk.actions).reshape(chunk.steps, -1)
    assert np.abs(actions - expected.actions).max() < 1e-5
    assert np.abs(actions - GOLDEN["actions"]).max() < 5e-4
    assert chunk.header.frame_id == "world" and chunk.action_space == "delta_end_effector"
    assert chunk.names == list(policy.action_names) and chunk.units == list(policy.action_units)
    assert (chunk.dt.sec, chunk.dt.nanosec) == (0, round(STEP * 1e9))
    assert chunk.instruction == INSTRUCTION and chunk.unnorm_key == policy.unnorm_key and chunk.mode == "off"
    assert not chunk.execute

    def stats():
        return next((s for s in running.heard["pruning"] if s.header.stamp == chunk.header.stamp), None)

    report = running.wait(stats, "statistics of the same chunk")
    assert report.sequence == chunk.sequence and report.views == ["primary", "wrist"]
    assert list(report.kept_final) == [256, 256] and report.flop_share == pytest.approx(1.0)
    assert report.v_t == pytest.approx(0.0, abs=1e-6)
    assert 0 < report.observation_age < 30  # seconds; on a busy machine, too


def test_motion_is_off_until_enabled(running):
    assert running.enable().success
    first = running.next_chunk(lambda chunk: chunk.execute)
    running.wait(lambda: running.statuses()["motion"][1].startswith("moving"), "motion")
    assert running.enable(False).success
    running.heard["chunk"].clear()
    later = running.next_chunk()
    assert not later.execute and later.sequence > first.sequence
    running.wait(lambda: "motion is off" in running.statuses()["motion"][1], "the diagnostics")


def test_disabling_tells_whoever_executes_chunks(running):
    running.enable()
    running.next_chunk(lambda chunk: chunk.execute)
    running.heard["chunk"].clear()
    running.enable(False)
    running.wait(lambda: any(chunk.steps == 0 for chunk in running.heard["chunk"]), "the stop")
    after = running.heard["chunk"]
    assert not any(chunk.execute for chunk in after[[chunk.steps for chunk in after].index(0) :])


def test_dry_run_moves_nothing(running):
    assert running.set(dry_run=True) == ""
    assert "dry run" in running.enable().message
    running.wait(lambda: running.statuses()["motion"][1].startswith("moving"), "computed motion")
    assert not running.next_chunk().execute
    assert running.set(dry_run=False) == ""
    running.next_chunk(lambda chunk: chunk.execute)


def test_status_is_one_line_for_people(running):
    lines = []
    running.node.create_subscription(String, "specprune_policy/status", lines.append, 10)

    def says(pattern):
        return any(re.fullmatch(pattern, line.data) for line in lines)

    inference = r"off \(pruning_off\): 512 of 512 patches kept, inference \d+ ms, observation \d+ ms old; "
    running.wait(lambda: says(inference + "motion is off; call ~/enable"), "a line")
    assert running.enable().success
    running.wait(lambda: says(inference + "moving.*"), "motion")
    running.missing = {"wrist"}
    running.wait(
        lambda: says(r"no inference: newest image on \S+ is .* old .*; holding, stale_input: image_.*"), "a hold"
    )


def test_slow_inferences_and_holds_are_counted(running):
    """Simulated here by images that are old when they come: older than a chunk lasts."""
    assert running.enable().success
    running.wait(lambda: running.statuses()["motion"][1].startswith("moving"), "motion")
    misses = int(running.values("inference")["deadline misses"])
    assert running.set(inputs__max_age=5.0) == ""
    running.offset = -9 * STEP
    running.wait(lambda: int(running.values("inference")["deadline misses"]) > misses, "deadline misses")
    assert running.set(inputs__max_age=PARAMETERS["inputs.max_age"]) == ""
    running.missing = EVERYTHING
    running.wait(lambda: int(running.values("motion").get("holds stale_input", 0)) > 0, "a counted hold")
    assert float(running.values("inference")["latency p50 ms"]) > 0
    assert int(running.values("inference")["mode off (pruning_off)"]) > 0


def test_an_input_may_have_limits_of_its_own(running):
    own = ["image_wrist.max_age=20", "image_wrist.max_skew=10"]
    assert "names no input; known: image_primary, image_wrist" in running.set(inputs__own_limits=["wrist.max_age=1"])
    assert running.set(inputs__own_limits=own) == ""
    running.enable()

    def moves_with_an_old_picture():
        running.good()
        running.next_chunk(lambda chunk: chunk.execute)
        running.missing.add("wrist")
        gone = time.monotonic()
        running.wait(lambda: time.monotonic() > gone + 2 * PARAMETERS["inputs.max_age"], "time to pass")
        running.heard["chunk"].clear()
        running.heard["diagnostics"].clear()

        def moves():
            moving = running.statuses().get("motion", (0, ""))[1].startswith("moving")
            return moving and any(chunk.execute for chunk in running.heard["chunk"])

        running.wait(lambda: moves() or time.monotonic() > gone + 9, "motion, or the end of the wrist's own limits")
        return moves()

    assert any(moves_with_an_old_picture() for _ in range(10))  # a busy machine needs more than one go
    assert running.set(inputs__own_limits=[]) == ""
    running.wait_for_problem("motion", "image_wrist: ")
    running.good()


def test_odd_cameras_are_warned_about(running):
    infos = running.node.create_publisher(CameraInfo, "specprune_policy/camera_info", 10)

    def says(words, info):
        infos.publish(info)
        return words in running.statuses()["inputs"][1]

    running.wait(lambda: says("is 224x224, but", CameraInfo(width=640, height=480)), "the wrong size")
    assert running.statuses()["inputs"][0] == DiagnosticStatus.WARN
    assert running.set(inputs__frozen_after=0.5) == ""
    running.wait(lambda: says("has been the same picture", CameraInfo(width=224, height=224)), "the frozen camera")
    assert running.set(inputs__frozen_after=0.0) == ""
    running.wait(lambda: running.statuses()["inputs"] == (DiagnosticStatus.OK, "complete"), "nothing odd")
    assert running.set(pruning__enabled=True, pruning__history_motion="tf") == ""
    running.wait(lambda: says("has no calibration", CameraInfo(width=224, height=224)), "the camera without a place")
    assert running.set(pruning__enabled=False, pruning__history_motion="none") == ""
    running.wait(lambda: running.statuses()["inputs"] == (DiagnosticStatus.OK, "complete"), "nothing odd")


def nan_joint(joints: JointState):
    joints.position = [0.0, math.nan, 0.0]


# test_faults_inputs.py has all of them, judged by the commands; these are judged by the chunks.
FAULTS = {
    "one camera stops": (lambda client: client.missing.add("wrist"), "image_wrist is"),
    "NaN joint": (
        lambda client: setattr(client, "change_joints", nan_joint),
        "panda_finger_joint1 on /joint_states is nan",
    ),
    "future": (lambda client: setattr(client, "offset", 5.0), "in the future; synchronise the clocks"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_hold_are_told_and_end(running, fault):
    apply, words = FAULTS[fault]
    running.enable()
    running.wait(lambda: running.statuses()["motion"][1].startswith("moving"), "motion before the fault")
    apply(running)
    running.wait_for_problem("inference", words)
    running.wait_for_problem("motion", "holding")
    running.good()
    running.next_chunk(lambda chunk: chunk.execute)
    running.wait(lambda: running.statuses()["motion"][1].startswith("moving"), "motion after the fault")


def test_live_parameters_are_all_or_nothing(running):
    assert "pruning.alpha" in running.set(pruning__enabled=True, pruning__alpha=-1.0)
    assert running.next_chunk().mode == "off"
    assert "pruning.preset = 'best' does not exist; allowed: paper, fast, careful" in running.set(
        pruning__preset="best"
    )
    late = {"static_layer": 8, "prune_layers": [0], "update_layers": [0]}
    assert "model has 8 layers" in running.set(**{f"pruning__{name}": value for name, value in late.items()})
    assert running.set(pruning__enabled=True, pruning__preset="fast") == ""
    stats = running.heard["pruning"]
    stats.clear()
    running.wait(lambda: any(s.preset == "fast" and s.mode in ("fine", "coarse") for s in stats), "the preset fast")
    assert running.set(pruning__alpha=0.5) == ""
    stats.clear()
    running.wait(lambda: any(s.preset == "" and s.mode != "off" for s in stats), "a configuration set by hand")
    assert running.set(pruning__enabled=False) == ""
    running.next_chunk(lambda chunk: chunk.mode == "off")


def test_new_instruction_resets_and_an_empty_one_is_refused(running):
    assert running.set(pruning__enabled=True) == ""
    running.next_chunk(lambda chunk: chunk.mode in ("fine", "coarse"))
    running.instruction.publish(String(data="open the drawer"))
    first = running.next_chunk(lambda chunk: chunk.instruction == "open the drawer")
    assert first.mode == "dense"
    running.instruction.publish(String(data=" "))
    assert "instruction is empty" in running.set(instruction="")
    assert running.next_chunk().instruction == "open the drawer"
    assert running.reset().success
    running.next_chunk(lambda chunk: chunk.mode == "dense")
    assert running.set(instruction=INSTRUCTION, pruning__enabled=False) == ""
    running.next_chunk(lambda chunk: chunk.instruction == INSTRUCTION)


def test_deactivate_stops_and_everything_can_start_again(running):
    running.enable()
    running.next_chunk(lambda chunk: chunk.execute)
    assert running.transition("deactivate") and running.state() == "inactive"
    running.heard["chunk"].clear()
    until = time.monotonic() + 1.0
    running.wait(lambda: time.monotonic() > until, "a second")
    assert not any(chunk.execute for chunk in running.heard["chunk"]) and not running.enable().success
    assert running.transition("cleanup") and running.state() == "unconfigured"
    assert not running.transition("activate")
    assert running.transition("configure") and running.transition("activate")
    assert not running.next_chunk().execute
