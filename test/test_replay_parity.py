# SPDX-License-Identifier: Apache-2.0
"""What the live node saw and said over DDS, recorded, comes out of the replay again, to the last bit."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from observed_policy import FOLDER, as_arrays
from replay_bags import CHECKPOINT, MAX_AGE, NODE, PARAMETERS, BagMaker, parameter_file

rclpy = pytest.importorskip("rclpy")
pytestmark = pytest.mark.ros

CHUNKS = 8


@pytest.fixture(scope="module")
def seen_live(tmp_path_factory):
    """Folder with what the live node's policy was given."""
    return tmp_path_factory.mktemp("observations")


@pytest.fixture(scope="module")
def bag(tmp_path_factory, seen_live):
    """Recorded from a live policy node, whose arm moves and whose cameras see something new in every picture."""
    from policy_client import INSTRUCTION, PolicyClient, start_policy, stop
    from std_msgs.msg import String

    from specprune_ros.demo.bag_recorder import BagRecorder
    from specprune_ros.recording.bag_writer import BagWriter
    from specprune_ros.recording.custom_data import PARAMETERS as PARAMETERS_KEY

    path = tmp_path_factory.mktemp("live") / "bag"
    context = rclpy.Context()
    context.init()
    own = {"model.checkpoint": str(CHECKPOINT), "autostart": "true", "model.threads": 1, "inputs.max_age": MAX_AGE}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(seen_live))
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        process = start_policy(module="observed_policy", anew=True, **own)
    client = PolicyClient(context, process)
    try:
        with BagWriter(path, latched=("/tf_static", f"{NODE}/instruction")) as writer:
            writer.set_custom_data(PARAMETERS_KEY, PARAMETERS)
            images = [f"{NODE}/image_{view}" for view in ("primary", "wrist")]
            recorder = BagRecorder(
                writer, images, f"{NODE}/instruction", NODE, simulated=False, compress=False, context=context
            )
            client.executor.add_node(recorder)
            client.instruction.publish(String(data=INSTRUCTION))
            _play(client)
            recorder.destroy_node()
        stop(process)
    finally:
        process.kill()
        client.executor.shutdown()
        context.shutdown()
    return path


def _play(client):
    """Publish motion, wait until it has arrived, then the pictures; until there are enough chunks."""
    start = time.monotonic()
    tick = 0

    def picture(view):
        def change(image):
            image.data = BagMaker.pixels(tick * 100_000_000, view).tobytes()

        return change

    def move(transform):
        seconds = time.monotonic() - start
        transform.transform.translation.x += 0.1 * float(np.sin(2 * seconds))
        transform.transform.translation.z += 0.1 * float(np.cos(3 * seconds))

    client.change_image = {view: picture(view) for view in ("primary", "wrist")}
    client.change_transform = move
    # Node and recorder have to hear the same from the first message on.
    topics = (client.tf, client.joints, client.instruction, *client.images.values())
    # The node hears instructions twice: latched ones, and volatile ones.
    listeners = {topic: 3 if topic is client.instruction else 2 for topic in topics}
    client.wait(
        lambda: all(topic.get_subscription_count() == count for topic, count in listeners.items()),
        "node and recorder",
        inputs=False,
    )
    _spin(client, 1.0)
    start = time.monotonic()
    more = CHUNKS + 2  # the recorder may hear the first ones later than this client
    while len([chunk for chunk in client.heard["chunk"] if chunk.steps]) < more:
        assert time.monotonic() - start < 300, client.statuses()
        for _ in range(3):
            client.publish_motion(client.node.get_clock().now().to_msg())
            _spin(client, 0.03)
        stamp = client.node.get_clock().now().to_msg()
        client.publish_motion(stamp)
        _spin(client, 0.1)  # also on a busy machine it has arrived then, so that the node cannot miss it
        for view, publisher in client.images.items():
            publisher.publish(client._image(view, stamp))
        _spin(client, 0.1)
        tick += 1


def _spin(client, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        client.executor.spin_once(timeout_sec=0.01)


def test_chunks_and_what_they_came_from_are_the_same(bag, seen_live, tmp_path, monkeypatch):
    from specprune_ros.recording.definitions import CHUNK, STATISTICS
    from specprune_ros.replay.arms import Arms
    from specprune_ros.replay.bag import Bag
    from specprune_ros.replay.options import parse
    from specprune_ros.replay.replay import run

    out, infer, observations = tmp_path / "out", Arms.infer, []

    def remembered(self, observation):
        observations.append(observation)
        return infer(self, observation)

    monkeypatch.setattr(Arms, "infer", remembered)
    assert run(parse([str(bag), "--as-recorded", "--arms", "node", "--out", str(out), "--quiet"])) == 0
    assert len(observations) >= CHUNKS
    for observation in observations:
        own, live = as_arrays(observation), np.load(seen_live / f"{round(observation.stamp * 1e9)}.npz")
        assert set(own) == set(live.files)
        # To the last bit; but a slope that BLAS fits depends on where its arrays lie in memory.
        np.testing.assert_allclose(own.pop("twist"), live["twist"], rtol=0, atol=1e-12)
        for name, values in own.items():
            assert values.dtype == live[name].dtype and np.array_equal(values, live[name]), name
    assert any(len(as_arrays(observation)["twist"]) for observation in observations)
    report = json.loads((out / "report.json").read_text())
    with Bag(bag) as recording:
        assert {CHUNK, STATISTICS} <= set(recording.types.values())
        chunks = {_stamp(seen.message): seen.message for seen in recording.messages([f"{NODE}/action_chunk"])}
        told = {_stamp(seen.message): seen.message for seen in recording.messages([f"{NODE}/pruning"])}
    recorded = report["recorded_chunks"]
    assert recorded["equal"] == recorded["compared"] == report["inferences"] == len(chunks) >= CHUNKS
    modes = set()
    moments = report["moments"]
    heard = [moment["stamp"] in told for moment in moments]
    assert heard[2:] == [True] * (len(moments) - 2)  # the recorder may hear this topic later than the chunks
    for moment in moments[heard.index(True) :]:
        mine, chunk, statistics = moment["arms"][recorded["arm"]], chunks[moment["stamp"]], told[moment["stamp"]]
        assert np.array_equal(np.ravel(mine["actions"]), chunk.actions)
        assert (mine["mode"], mine["reason"]) == (statistics.mode, statistics.reason)
        speeds = statistics.v_t, statistics.v_r, statistics.v_z  # the report rounds
        for name, value in zip(("v_t", "v_r", "v_z"), speeds, strict=True):
            assert np.isnan(value) if mine[name] is None else mine[name] == pytest.approx(value, rel=1e-5)
        assert np.array_equal(np.concatenate(mine["kept_final"]), statistics.kept_final_patches)
        modes.add(mine["mode"])
    assert "dense" in modes and len(modes) > 1  # the history and the measured motion were at work


def test_another_frame_would_be_noticed(bag, tmp_path):
    """The comparison above can fail: one picture mirrored, and no chunk is equal any more."""
    from specprune_ros.replay.options import parse
    from specprune_ros.replay.replay import run

    out = tmp_path / "out"
    words = ["-p", "inputs.camera_transforms:=[none, flip_horizontal]", "--arms", "node", "--out", str(out), "--quiet"]
    assert run(parse([str(bag), "--as-recorded", *words])) == 0
    recorded = json.loads((out / "report.json").read_text())["recorded_chunks"]
    assert recorded["compared"] >= CHUNKS and recorded["equal"] == 0


def _stamp(message):
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


def test_parameters_are_read_as_rcl_reads_them(tmp_path):
    """The same file by a real node in several namespaces, and by the replay."""
    from rclpy.node import Node

    from specprune_ros.parameter_file import read_parameters

    text = """
/**: {ros__parameters: {a: 1, b: star, e: 1e3, f: yes, g: [1, 2], h: [a, b], i: "on", j: 012, k: .5}}
/**/specprune_policy: {ros__parameters: {b: starstarname, c: 1}}
arm:
  specprune_policy: {ros__parameters: {c: 2, n: {deep: 1.5}, n.flat: 3}}
/arm/*: {ros__parameters: {d: onestar, c: 9}}
specprune_policy: {ros__parameters: {root: 1, c: 5}}
arm/specprune_policy: {ros__parameters: {slash: 1}}
"*": {ros__parameters: {z: 1}}
other: {ros__parameters: {never: 1}}
"""
    path = parameter_file(tmp_path, text)
    context = rclpy.Context()
    context.init()
    try:
        for namespace in ("", "/arm", "/arm/left"):
            arguments = ["--ros-args", "--params-file", str(path)]
            node = Node("specprune_policy", context=context, namespace=namespace, cli_args=arguments)
            expected = {name: parameter.value for name, parameter in node._parameter_overrides.items()}
            node.destroy_node()
            assert read_parameters(text, "file", f"{namespace}/specprune_policy") == expected, namespace
    finally:
        context.shutdown()
