# SPDX-License-Identifier: Apache-2.0
"""config/aloha.yaml as users run it: a policy process, three cameras and 14 joints over DDS, an OFT+ checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from golden_sets import golden_set
from PIL import Image as PillowImage

pytest.importorskip("rclpy")

import rclpy
from policy_client import PolicyClient, start_policy, stop
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

pytestmark = pytest.mark.ros

CONFIG = Path(__file__).parents[1] / "config" / "aloha.yaml"
GIVEN = yaml.safe_load(CONFIG.read_text())["/**/specprune_policy"]["ros__parameters"]
HEIGHT, WIDTH = 480, 640


def camera_frames() -> dict[str, np.ndarray]:
    """The recorded views, as large as an ALOHA's cameras send them."""
    views = golden_set("film").views.values()
    return {
        name: np.asarray(PillowImage.fromarray(view).resize((WIDTH, HEIGHT)))
        for name, view in zip(GIVEN["inputs"]["cameras"], views, strict=True)
    }


class Aloha(PolicyClient):
    """Publishes the recorded state, and the recorded views from three cameras."""

    def __init__(self, context, process):
        super().__init__(context, process)
        self.frames = camera_frames()
        self.images = {
            name: self.node.create_publisher(Image, f"specprune_policy/image_{name}", qos_profile_sensor_data)
            for name in self.frames
        }

    def publish_motion(self, stamp):
        joints = JointState(name=GIVEN["inputs"]["joint_names"], position=golden_set("film").record["state"].tolist())
        joints.header.stamp = stamp
        self.joints.publish(joints)

    def _image(self, view, stamp):
        image = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=WIDTH * 3, data=self.frames[view].tobytes())
        image.header.stamp = stamp
        return image


@pytest.fixture
def client():
    context = rclpy.Context()
    context.init()
    process = start_policy(
        params_file=CONFIG,
        **{"model.checkpoint": golden_set("film").folder, "model.device": "cpu", "inputs.max_age": 5.0},
        **{"inputs.max_skew": 1.0, "inputs.frozen_after": 0.0, "inputs.joint_names": None},
        **{"inputs.base_frame": None, "inputs.ee_frame": None, "dry_run": True},
    )
    try:
        client = Aloha(context, process)
        yield client
        stop(process)
    finally:
        process.kill()
        context.shutdown()


def expected_actions() -> np.ndarray:
    """What the policy itself predicts from frames that the reference's client would send it."""
    golden = golden_set("film")
    frames = {
        name: np.asarray(PillowImage.fromarray(frame).resize((256, 256), PillowImage.Resampling.BICUBIC))
        for name, frame in camera_frames().items()
    }
    observation = golden.observation
    return golden.policy().act(type(observation)(frames, observation.proprio, observation.instruction)).actions


def test_oft_plus_checkpoint_end_to_end(client):
    assert client.transition("configure"), client.statuses()
    assert client.transition("activate"), client.statuses()
    client.instruction.publish(String(data=str(golden_set("film").record["instruction"])))

    chunk = client.next_chunk()
    actions = np.array(chunk.actions).reshape(chunk.steps, -1)
    assert actions.shape == (25, 14)
    assert list(chunk.names) == GIVEN["model"]["action_names"]
    assert np.abs(actions - expected_actions()).max() < 1e-4
    stats = client.wait(lambda: client.heard["pruning"], "pruning statistics")[0]
    assert (stats.mode, len(stats.views)) == ("dense", 3)
    client.next_chunk(lambda chunk: chunk.mode == "fine")  # two end effectors: no velocity
