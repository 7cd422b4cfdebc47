# SPDX-License-Identifier: Apache-2.0
"""policy_arms as a process, over DDS: two arms, one small checkpoint."""

import subprocess
import sys

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

import rclpy
from node_server import start_node
from policy_client import CHECKPOINT, GOLDEN, INSTRUCTION, PARAMETERS, ROOT, PolicyClient, stop
from specprune_ros.srv import GetActionChunk
from std_srvs.srv import SetBool

pytestmark = pytest.mark.ros

OWN = {
    "autostart": True,
    "model.checkpoint": str(CHECKPOINT),
    "instruction": INSTRUCTION,
    "controller.output": "twist",
    "controller.step_duration": 0.5,  # chunks of four seconds: others may use all processors
    "inputs.max_age": 5.0,
    "execution.max_observation_age": 10.0,
}
PATIENCE = 120.0  # seconds


@pytest.fixture
def arms_file(tmp_path):
    parameters = {"/**/specprune_policy": {"ros__parameters": {**PARAMETERS, **OWN}}}
    (tmp_path / "arm.yaml").write_text(yaml.safe_dump(parameters))
    arms = {name: {"params_file": "arm.yaml"} for name in ("left", "right")}
    (tmp_path / "arms.yaml").write_text(yaml.safe_dump({"arms": arms}))
    return tmp_path / "arms.yaml"


def start(file):
    command = [sys.executable, "-m", "specprune_ros.nodes.policy_arms", str(file)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def clients(arms_file):
    """Of the left and the right arm; waiting for either publishes the inputs of both."""
    context = rclpy.Context()
    context.init()
    process = start(arms_file)
    left, right = (PolicyClient(context, process, f"/{name}") for name in ("left", "right"))
    publish = left.publish_inputs, right.publish_inputs

    def publish_both():
        for one in publish:
            one()

    left.publish_inputs = right.publish_inputs = publish_both
    try:
        yield left, right
        stop(process)
    finally:
        process.kill()
        context.shutdown()


def test_two_arms_of_one_model(clients):
    left, right = clients
    for client in clients:
        chunk = client.next_chunk(timeout=PATIENCE)
        assert chunk.instruction == INSTRUCTION
    for client in clients:  # from the beginning, so that both are dense, and agree with the reference
        assert client.reset().success
        chunk = client.next_chunk(lambda chunk: chunk.mode == "dense" and chunk.steps > 0, PATIENCE)
        assert np.abs(np.array(chunk.actions).reshape(8, 7) - GOLDEN["actions"]).max() < 5e-4
    assert right.enable().success
    right.next_chunk(lambda chunk: chunk.execute, PATIENCE)
    right.wait(lambda: any(np.abs(message.twist.linear.x) > 0 for message in right.heard["twist"]), "motion", PATIENCE)
    left.next_chunk(timeout=PATIENCE)
    assert not left.heard["twist"]  # motion is off: each has its own ~/enable

    chunks = left.node.create_client(GetActionChunk, "specprune_policy/get_action_chunk")
    answer = left.call(chunks, GetActionChunk.Request(timeout=PATIENCE), inputs=True)
    assert answer.success and not answer.chunk.execute and answer.chunk.in_charge == "nobody", answer.message
    takeover = right.node.create_client(SetBool, "specprune_policy/takeover")
    assert right.call(takeover, SetBool.Request(data=True)).success
    assert not right.next_chunk(lambda chunk: chunk.in_charge == "person" and chunk.steps > 0, PATIENCE).execute
    assert left.next_chunk(timeout=PATIENCE).in_charge == "nobody"  # the other arm is nobody's concern
    assert right.call(takeover, SetBool.Request(data=False)).success
    right.next_chunk(lambda chunk: chunk.execute and chunk.in_charge == "policy", PATIENCE)

    assert left.transition("deactivate") and left.transition("cleanup") and left.state() == "unconfigured"
    for _ in range(3):
        right.next_chunk(lambda chunk: chunk.execute, PATIENCE)
    assert left.set(pruning__preset="fast") == ""
    assert left.transition("configure") and left.transition("activate")
    assert left.next_chunk(timeout=PATIENCE).instruction == INSTRUCTION
    right.next_chunk(lambda chunk: chunk.execute, PATIENCE)


def test_mistakes_end_with_2(tmp_path):
    (tmp_path / "arms.yaml").write_text("arms: {left: {}, /left: {}}")
    process = start_node("specprune_ros.nodes.policy_arms", ["--", tmp_path / "arms.yaml"])
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2 and "two arms have one name" in errors and "Traceback" not in errors, errors


def test_a_parameter_file_that_rcl_cannot_read_ends_with_2(tmp_path):
    (tmp_path / "left.yaml").write_text("/**: {ros__parameters: {limits: {workspace_min: [0, -0.4, 0.02]}}}\n")
    (tmp_path / "arms.yaml").write_text("arms: {left: {params_file: left.yaml}}")
    process = start_node("specprune_ros.nodes.policy_arms", ["--", tmp_path / "arms.yaml"])
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2 and "policy_arms: " in errors and "Traceback" not in errors, errors
