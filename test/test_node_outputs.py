# SPDX-License-Identifier: Apache-2.0
"""What drives an arm, simulated time, overlays, compressed images, namespaces, exit codes."""

import numpy as np
import pytest

pytest.importorskip("rclpy")

import cv2
import rclpy
from node_server import start_node
from policy_client import CHECKPOINT, GOLDEN, INSTRUCTION, START_PATIENCE, PolicyClient, start_policy, stop
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

pytestmark = pytest.mark.ros

ARM = "/left"
SIM_START = 100.0  # seconds of simulated time


@pytest.fixture(scope="module")
def context():
    context = rclpy.Context()
    context.init()
    yield context
    context.shutdown()


@pytest.fixture
def start(context):
    """Starts a node that configures and activates itself, and its client."""
    processes = []

    def start(namespace="", **parameters):
        own = {"autostart": True, "model.checkpoint": CHECKPOINT, "instruction": f"'{INSTRUCTION}'"}
        processes.append(start_policy(namespace, **{**own, **parameters}))
        return PolicyClient(context, processes[-1], namespace)

    yield start
    for process in processes:
        stop(process)


def test_twist_gripper_and_overlay_in_a_namespace(start):
    client = start(
        ARM,
        **{"controller.output": "twist", "controller.rate": 50.0, "limits.max_speed": 0.1, "pruning.preset": "fast"},
    )
    overlays = []
    client.node.create_subscription(
        Image, f"{ARM}/specprune_policy/overlay/primary", overlays.append, qos_profile_sensor_data
    )
    client.next_chunk()
    assert not client.heard["twist"]  # not enabled: others may drive the arm
    assert client.enable().success
    client.next_chunk(lambda chunk: chunk.execute)

    def speeds():
        linear = [message.twist.linear for message in client.heard["twist"]]
        return np.linalg.norm([[v.x, v.y, v.z] for v in linear], axis=1) if linear else np.zeros(0)

    client.wait(lambda: len(speeds()) > 100, "twists")
    assert speeds().max() > 0.01 and speeds().max() <= 0.1 + 1e-9
    assert client.heard["twist"][-1].header.frame_id == "world"
    stamps = [message.header.stamp.sec + message.header.stamp.nanosec * 1e-9 for message in client.heard["twist"]]
    assert np.median(np.diff(stamps)) == pytest.approx(0.02, abs=0.004)

    gripper = client.wait(lambda: client.heard["gripper"], "a gripper command")[0]
    assert list(gripper.name) == ["gripper_0"] and gripper.position[0] in (0.0, 0.08) and gripper.effort[0] == 20.0

    # No images: zero velocity, at the control rate, until they are back.
    client.missing = {"primary"}
    client.wait_for_problem("motion", "holding, stale_input: image_")
    client.heard["twist"].clear()
    client.wait(lambda: len(speeds()) > 20, "zero twists")
    assert speeds().max() == 0.0
    client.good()
    client.wait(lambda: speeds().max() > 0.01, "motion")

    # Disabled: one last zero, then nothing.
    assert client.enable(False).success
    client.wait(lambda: speeds()[-1] == 0.0, "the last command")
    client.heard["twist"].clear()
    client.next_chunk()
    client.next_chunk()
    assert not client.heard["twist"]

    overlay = client.wait(lambda: overlays, "an overlay")[-1]
    assert (overlay.height, overlay.width, overlay.encoding) == (224, 224, "rgb8")

    def untouched():
        pixels = np.frombuffer(overlays[-1].data, np.uint8).reshape(224, 224, 3)
        return (pixels[20:] == GOLDEN["primary_image"][20:]).all(axis=2).mean()  # below the line of text

    client.wait(lambda: 0.1 < untouched() < 0.9, "the overlay of an inference that is not dense")


def test_simulated_time_and_a_clock_that_jumps_back(start):
    client = start(**{"use_sim_time": True, "inputs.image_transport": "compressed"})
    clock = client.node.create_publisher(Clock, "/clock", 10)
    primary, wrist = (
        client.node.create_publisher(
            CompressedImage, f"specprune_policy/image_{view}/compressed", qos_profile_sensor_data
        )
        for view in ("primary", "wrist")
    )
    time = SIM_START

    def publish_inputs():
        nonlocal time
        time += 0.05
        stamp = rclpy.time.Time(seconds=time).to_msg()
        clock.publish(Clock(clock=stamp))
        client.publish_motion(stamp)
        for view, publisher in (("primary", primary), ("wrist", wrist)):
            message = CompressedImage(format="png")
            message.header.stamp = stamp
            message.data = cv2.imencode(".png", GOLDEN[f"{view}_image"][..., ::-1])[1].tobytes()
            publisher.publish(message)

    client.publish_inputs = publish_inputs
    chunk = client.next_chunk()
    assert np.abs(np.array(chunk.actions).reshape(8, 7) - GOLDEN["actions"]).max() < 5e-4
    assert SIM_START < chunk.header.stamp.sec + chunk.header.stamp.nanosec * 1e-9 <= time
    assert client.enable().success
    client.next_chunk(lambda chunk: chunk.execute)
    client.wait(lambda: client.statuses()["motion"][1].startswith("moving"), "motion")

    time = SIM_START - 50
    chunk = client.next_chunk(lambda chunk: chunk.steps > 0 and chunk.header.stamp.sec < SIM_START)
    assert chunk.mode == "dense"  # the history is forgotten
    client.wait(lambda: client.statuses()["motion"][1].startswith("moving"), "motion after the jump")


def test_mistakes_in_arguments_exit_with_2():
    words = {
        "checkpoint folder /nowhere does not exist": ["-p", "autostart:=true", "-p", "model.checkpoint:=/nowhere"],
        "inputs.max_age = -1.0 is outside the allowed range; allowed: 0.01 to 60": ["-p", "inputs.max_age:=-1.0"],
        "pruning.preset = 'best' does not exist; allowed: paper, fast, careful": ["-p", "pruning.preset:=best"],
        "check what follows --ros-args": ["-p", "nonsense"],
    }
    for said, arguments in words.items():
        process = start_node("specprune_ros.nodes.policy_node", arguments)
        errors = process.communicate(START_PATIENCE)[1]
        assert process.returncode == 2 and said in errors and "Traceback" not in errors, errors
