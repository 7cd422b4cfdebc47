# SPDX-License-Identifier: Apache-2.0
"""The preflight table, with and without a world around it."""

import re

import pytest

pytest.importorskip("rclpy")

import rclpy
from node_server import start_node
from policy_client import CHECKPOINT, INSTRUCTION, START_PATIENCE, PolicyClient, start_policy
from std_msgs.msg import Int32

pytestmark = pytest.mark.ros

MODULE = "specprune_ros.nodes.preflight"
OWN = {"model.checkpoint": CHECKPOINT, "instruction": f"'{INSTRUCTION}'"}


def verdicts(output):
    """Name of the check -> (verdict, detail)."""
    rows = re.findall(r"^(pass|warn|fail)  (\S+) +(\S.*)$", output, re.MULTILINE)
    return {name: (verdict, detail) for verdict, name, detail in rows}


def preflight_of_a_good_robot(**changed):
    """(exit code, what was printed)"""
    context = rclpy.Context()
    context.init()
    try:
        process = start_policy(module=MODULE, **OWN, **{"inputs.frozen_after": 1.0, **changed})
        client = PolicyClient(context, process)
        while process.poll() is None:
            client.publish_inputs()
            client.executor.spin_once(timeout_sec=0.05)
        output = process.communicate(START_PATIENCE)[0]
    finally:
        process.kill()
        context.shutdown()
    return process.returncode, output


def test_everything_is_ready():
    for _ in range(5):  # on a busy machine the robot of this test is slow, and preflight says so
        code, output = preflight_of_a_good_robot()
        if "Hz is slow" not in output and "older than the images" not in output:
            break
    found = verdicts(output)
    assert code == 0, output
    assert found["checkpoint"][1].startswith("libero_spatial_no_noops: 2 views, 8 proprio, chunks of 8 x 7")
    inputs = ("/joint_states", "/specprune_policy/image_wrist", "/specprune_policy/action_chunk", "velocity")
    for name in (*inputs, "gripper"):
        assert found[name][0] == "pass", output
    assert found["memory"][0] == "pass" and "free MiB" in found["memory"][1]
    assert found["units"] == ("pass", "steps of 0.05 s in pruning.* and controller.*")
    assert found["cameras"][0] == "warn" and "same picture for" in found["cameras"][1]  # the client's never change
    assert found["observation"] == ("pass", "primary 224x224, wrist 224x224; proprio within the training data's range")


def test_an_arm_that_is_driven_by_velocities_is_listened_to_until_it_is_believed():
    for _ in range(5):  # likewise
        _, output = preflight_of_a_good_robot(**{"controller.output": "twist"})
        if "Hz is slow" not in output and "older than the images" not in output:
            break
    assert verdicts(output)["arm"] == ("pass", "what is measured of it does not contradict itself"), output


def test_what_is_missing_is_named():
    changed = {
        "controller.output": "twist",
        "controller.gripper_closed_value": 1.0,
        "controller.gripper_open_value": -1.0,
        "instruction": "''",
        "controller.step_duration": 0.1,
        "pruning.metres_per_unit": 1.0,
    }
    # In a namespace of its own: a client of another test in this process may still be listening elsewhere.
    with rclpy.Context() as context:
        other = rclpy.create_node("number", context=context)
        other.create_publisher(Int32, "/nobody/specprune_policy/instruction", 1)
        process = start_policy("/nobody", MODULE, **{**OWN, **changed})
        output = process.communicate(timeout=START_PATIENCE)[0]
        other.destroy_node()
    found = verdicts(output)
    assert process.returncode == 1, output
    assert "start its publisher, or remap it" in found["/nobody/specprune_policy/image_primary"][1]
    for name in ("observation", "/nobody/joint_states", "/nobody/specprune_policy/twist"):
        assert found[name][0] == "fail", output
    assert found["instruction"][0] == "warn" and "/number publishes std_msgs/msg/Int32 on" in found["instruction"][1]
    gripper = "training data's gripper actions go from 0 to 1"
    for words in ("pruning.control_rate is 20 Hz, but", "pruning.metres_per_unit is 1, but", gripper):
        assert words in output


def test_a_missing_checkpoint_exits_with_2():
    process = start_node(MODULE, [])
    errors = process.communicate(START_PATIENCE)[1]
    assert process.returncode == 2 and "model.checkpoint is empty" in errors
