# SPDX-License-Identifier: Apache-2.0
"""Bags of every kind through the policy; the same numbers each time. No ROS needed."""

import itertools
import json
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from light_replay import light_replay  # noqa: F401  a fixture that every test here uses
from replay_bags import CHECKPOINT, INSTRUCTION, NODE, PERIOD, SECOND, START, TYPES, BagMaker, parameter_file
from rosbags.rosbag2 import CompressionMode, Reader, StoragePlugin, Writer

from specprune_ros.errors import UserError
from specprune_ros.recording.definitions import CHUNK, register_own
from specprune_ros.replay.__main__ import main
from specprune_ros.replay.arms import distinct_arms
from specprune_ros.replay.bag import Bag
from specprune_ros.replay.options import parse
from specprune_ros.replay.replay import run
from specprune_ros.replay.settings import settings

SHORT = 6  # images


def replay(bag, out, *arguments, code=0):
    """report.json of a replay in this process."""
    words = [str(bag), "--params-file", str(parameter_file(out.parent)), "--out", str(out), "--quiet", *arguments]
    assert run(parse(words)) == code
    return json.loads((out / "report.json").read_text())


def actions(report, arm):
    return np.array([moment["arms"][arm]["actions"] for moment in report["moments"]])


def without_times(report):
    """What has to be the same in every run."""
    moments = [
        {
            **moment,
            "arms": {
                name: {key: value for key, value in arm.items() if "seconds" not in key}
                for name, arm in moment["arms"].items()
            },
        }
        for moment in report["moments"]
    ]
    return moments, report["noise_floor"], report["audit"], [finding["text"] for finding in report["findings"]]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """(bag, report) of the plainest recording."""
    folder = tmp_path_factory.mktemp("raw")
    bag = BagMaker(SHORT).write(folder / "bag")
    return bag, replay(bag, folder / "out", "--arms", "paper,careful")


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    """The page costs as much as all else; `raw` has one."""
    monkeypatch.setattr("specprune_ros.replay.results.write_page", lambda *_: None)


def test_arms_see_the_same_observations_each_with_its_own_history(raw):
    report = raw[1]
    assert report["inferences"] == SHORT and report["complete"]
    assert list(report["arms"]) == ["dense", "paper", "careful"]
    paper = [moment["arms"]["paper"] for moment in report["moments"]]
    assert (paper[0]["mode"], paper[0]["reason"]) == ("dense", "no_history")
    assert {entry["mode"] for entry in paper[1:]} <= {"coarse", "fine"}
    assert np.array_equal(actions(report, "dense")[0], actions(report, "paper")[0])
    assert not np.array_equal(actions(report, "dense")[1:], actions(report, "paper")[1:])
    assert {moment["arms"]["dense"]["mode"] for moment in report["moments"]} == {"off"}


def test_two_runs_give_the_same_numbers(raw, tmp_path):
    assert without_times(replay(raw[0], tmp_path / "out", "--arms", "paper,careful")) == without_times(raw[1])


def test_dense_is_what_the_policy_says_to_the_recorded_messages(raw):
    """An independent reading of the bag: no assembler, no transform buffer."""
    from scipy.spatial.transform import Rotation

    from specprune_ros.policy import Observation, Policy

    policy = Policy.from_checkpoint(raw[1]["checkpoint"])
    maker = BagMaker(SHORT)
    for index, moment in enumerate(raw[1]["moments"]):
        time = index * PERIOD
        views = {view: maker.pixels(time, view) for view in ("primary", "wrist")}
        transform = next(m for t, topic, _, m in maker.messages if t == time and topic == "/tf").transforms[0].transform
        position, turn = transform.translation, transform.rotation
        near = np.mean(policy.proprio_range, axis=0)[3:6]
        vector = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_rotvec()
        longer = vector * (1 - 2 * np.pi / np.linalg.norm(vector))
        vector = min(vector, longer, key=lambda candidate: np.linalg.norm(candidate - near))
        fingers = next(m for t, topic, _, m in maker.messages if topic == "/joint_states").position
        proprio = np.concatenate([[position.x, position.y, position.z], vector, fingers])
        expected = policy.act(Observation(views, proprio, INSTRUCTION)).actions
        np.testing.assert_allclose(moment["arms"]["dense"]["actions"], expected, atol=1e-6)


@pytest.mark.parametrize("storage", [StoragePlugin.SQLITE3, StoragePlugin.MCAP], ids=["sqlite3", "mcap"])
@pytest.mark.parametrize("mode", [CompressionMode.NONE, CompressionMode.FILE, CompressionMode.MESSAGE], ids=str)
def test_every_storage_gives_the_same(raw, tmp_path, storage, mode):
    bag = BagMaker(SHORT).write(tmp_path / "bag", storage, mode)
    report = replay(bag, tmp_path / "out", "--arms", "dense", "--every", "2")
    assert np.array_equal(actions(report, "dense"), actions(raw[1], "dense")[::2])


def test_files_are_read_in_the_order_of_their_times(raw, tmp_path):
    """Tools that sort names as text put bag_10 before bag_2, and metadata may be of other qualities of service."""
    maker, bag = BagMaker(2 * SHORT), tmp_path / "bag"
    whole = replay(maker.write(tmp_path / "whole"), tmp_path / "of_whole", "--arms", "dense")
    maker.write(bag)
    (bag / "bag.mcap").unlink()
    for name, part in (("a", 1), ("b", 0)):
        half = BagMaker(1)
        half.messages = [entry for entry in maker.messages if (entry[0] >= SHORT * PERIOD) == part]
        shutil.copy(half.write(tmp_path / name) / f"{name}.mcap", bag)
    metadata = (bag / "metadata.yaml").read_text()
    metadata = metadata.replace("- bag.mcap\n", "- a.mcap\n  - b.mcap\n", 1)
    assert metadata.count("offered_qos_profiles: []") > 4
    qos = (
        "[{history: keep_last, depth: 5, reliability: reliable, durability: volatile, deadline: {sec: 1, nsec: 0}, "
        "lifespan: {sec: 1, nsec: 0}, liveliness: automatic, liveliness_lease_duration: {sec: 1, nsec: 0}, "
        "avoid_ros_namespace_conventions: false}]"
    )
    (bag / "metadata.yaml").write_text(metadata.replace("profiles: []", f"profiles: {qos}"))
    report = replay(bag, tmp_path / "out", "--arms", "dense")
    assert [moment["stamp"] for moment in report["moments"]] == [moment["stamp"] for moment in whole["moments"]]
    assert report["audit"]["clock_jumps_s"] == []
    assert np.array_equal(actions(report, "dense"), actions(whole, "dense"))


@pytest.mark.parametrize("files", ["that overlap", "with a hole"])
def test_files_whose_times_are_not_those_of_the_metadata(tmp_path, files):
    """Writers put some messages into the next file, and `ros2 bag reindex` adds up what the files last."""
    maker, bag, late = BagMaker(2 * SHORT), tmp_path / "bag", set()
    if files == "with a hole":
        maker.drop(lambda time, _: 0.35 < time < 0.75)
    else:  # what came 5 ms before the last image of the first file is in the second one
        for index, (time, topic, *rest) in enumerate(maker.messages):
            if time == SHORT * PERIOD and topic in ("/joint_states", "/tf"):
                maker.messages[index] = (time - SECOND // 200, topic, *rest)
                late.add(maker.messages[index][:2])
        maker.messages.sort(key=lambda entry: entry[0])
    whole = replay(maker.write(tmp_path / "whole"), tmp_path / "of_whole", "--arms", "dense")
    maker.write(bag)
    (bag / "bag.mcap").unlink()
    for name, part in (("a", 0), ("b", 1)):
        half = BagMaker(1)
        half.messages = [entry for entry in maker.messages if _is_later(entry, late) == part]
        shutil.copy(half.write(tmp_path / name) / f"{name}.mcap", bag)
    metadata = (bag / "metadata.yaml").read_text().replace("- bag.mcap\n", "- a.mcap\n  - b.mcap\n", 1)
    duration = f"nanoseconds: {maker.messages[-1][0]}\n"
    assert metadata.count(duration)
    (bag / "metadata.yaml").write_text(metadata.replace(duration, f"nanoseconds: {8 * PERIOD}\n"))
    report = replay(bag, tmp_path / "out", "--arms", "dense")
    assert report["audit"]["clock_jumps_s"] == []
    assert [moment["stamp"] for moment in report["moments"]] == [moment["stamp"] for moment in whole["moments"]]


def _is_later(entry, late):
    """Whether a message is in the second file: from the image on that ends the first one, and what came just before."""
    time, topic = entry[:2]
    return time > SHORT * PERIOD or (time, topic) in late


def test_a_bag_whose_folder_has_the_suffix_of_ros_1(raw, tmp_path):
    bag = BagMaker(SHORT).write(tmp_path / "monday.bag")
    assert replay(bag, tmp_path / "out", "--arms", "dense", "--every", "3")["inferences"] == 2


def test_the_part_that_was_replayed(raw, tmp_path):
    bag = BagMaker(SHORT).write(tmp_path / "bag")
    report = replay(bag, tmp_path / "out", "--arms", "dense", "--start", "0.2", "--duration", "0.3")
    assert report["replayed_s"] == pytest.approx(0.3)


def test_an_interruption_while_a_moment_is_stored_loses_that_one_alone(tmp_path, monkeypatch):
    dump, count = pickle.dump, itertools.count()

    def interrupted(moment, file, protocol):
        if next(count) == 4:
            file.write(b"half")
            raise KeyboardInterrupt
        dump(moment, file, protocol)

    monkeypatch.setattr("specprune_ros.replay.moment.pickle.dump", interrupted)
    bag = BagMaker(SHORT).write(tmp_path / "bag")
    report = replay(bag, tmp_path / "out", "--arms", "dense", code=130)
    assert report["inferences"] == len(report["moments"]) == 4 and not report["complete"]


def test_another_type_on_a_topic_does_not_matter(raw, tmp_path):
    """Somebody published a text on it by hand."""
    maker = BagMaker(SHORT)
    path = tmp_path / "bag"
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        text = (0, "/joint_states", "std_msgs/msg/String", maker.make("std_msgs/msg/String", "hello"))
        for time, topic, kind, message in (text, *maker.messages):
            if (topic, kind) not in connections:
                connections[topic, kind] = writer.add_connection(topic, kind, typestore=TYPES)
            writer.write(connections[topic, kind], START + time, TYPES.serialize_cdr(message, kind))
    assert replay(path, tmp_path / "out", "--arms", "dense")["inferences"] == SHORT


@pytest.mark.parametrize("suffix", ["mcap", "db3"])
def test_a_single_file(raw, tmp_path, suffix):
    storage = StoragePlugin.MCAP if suffix == "mcap" else StoragePlugin.SQLITE3
    bag = BagMaker(SHORT).write(tmp_path / "bag", storage)
    report = replay(bag / f"bag.{suffix}", tmp_path / "out", "--arms", "dense", "--every", "2")
    assert np.array_equal(actions(report, "dense"), actions(raw[1], "dense")[::2])


def test_a_split_bag(raw, tmp_path):
    """As `ros2 bag record --max-bag-duration` leaves it: one folder, several files."""
    halves = []
    for half in range(2):
        maker = BagMaker(SHORT)
        maker.messages = [entry for entry in maker.messages if (entry[0] >= 3 * PERIOD) == half]
        halves.append(maker.write(tmp_path / f"half{half}", StoragePlugin.MCAP))
    bag = tmp_path / "bag"
    bag.mkdir()
    from ruamel.yaml import YAML

    metadata = [YAML(typ="safe").load((half / "metadata.yaml").read_text()) for half in halves]
    whole, second = (entry["rosbag2_bagfile_information"] for entry in metadata)
    for number, half in enumerate(halves):
        shutil.copy(half / f"half{number}.mcap", bag / f"bag_{number}.mcap")
    whole["relative_file_paths"] = ["bag_0.mcap", "bag_1.mcap"]
    whole["duration"]["nanoseconds"] = (2 * SHORT - 1) * PERIOD // 2
    whole["message_count"] += second["message_count"]
    counts = {entry["topic_metadata"]["name"]: entry["message_count"] for entry in second["topics_with_message_count"]}
    for entry in whole["topics_with_message_count"]:
        entry["message_count"] += counts.get(entry["topic_metadata"]["name"], 0)
    with (bag / "metadata.yaml").open("w") as file:
        YAML(typ="safe").dump(metadata[0], file)
    report = replay(bag, tmp_path / "out", "--arms", "dense")
    assert np.array_equal(actions(report, "dense"), actions(raw[1], "dense"))


def test_compressed_images_are_found_without_being_asked_for(raw, tmp_path):
    bag = BagMaker(SHORT, compressed=True).write(tmp_path / "bag")
    report = replay(bag, tmp_path / "out", "--arms", "dense", "--every", "2")
    assert np.array_equal(actions(report, "dense"), actions(raw[1], "dense")[::2])  # PNG loses nothing


@pytest.mark.parametrize("clock", [True, False], ids=["clock", "no_clock"])
def test_simulated_time(raw, tmp_path, clock):
    """The stamps are a year away from the recorder's clock."""
    maker = BagMaker(SHORT, simulated=True, offset=365 * 24 * 3600)
    if not clock:
        maker.drop(lambda time, topic: topic == "/clock")
    bag = maker.write(tmp_path / "bag")
    report = replay(bag, tmp_path / "out", "--arms", "dense", "-p", "use_sim_time:=true")
    np.testing.assert_allclose(actions(report, "dense"), actions(raw[1], "dense"), atol=1e-6)


def test_topics_are_remapped_as_on_the_node(raw, tmp_path):
    maker = BagMaker(SHORT)
    names = {f"{NODE}/image_primary": "/front", f"{NODE}/instruction": "/task", "/joint_states": "/arm/joint_states"}
    maker.messages = [(time, names.get(topic, topic), *rest) for time, topic, *rest in maker.messages]
    rules = ("~/image_primary:=/front", "~/instruction:=/task", "joint_states:=/arm/joint_states")
    words = [word for rule in rules for word in ("-r", rule)]
    report = replay(maker.write(tmp_path / "bag"), tmp_path / "out", "--arms", "dense", "--every", "3", *words)
    assert np.array_equal(actions(report, "dense"), actions(raw[1], "dense")[::3])


def test_start_duration_rate_and_instruction(raw, tmp_path):
    """What was said before the start still counts."""
    words = ("--arms", "dense", "--start", "0.25", "--duration", "0.2", "--instruction", "wave")
    report = replay(raw[0], tmp_path / "out", *words)
    assert [moment["time"] for moment in report["moments"]] == pytest.approx([0.3, 0.4])
    report = replay(raw[0], tmp_path / "out", "--arms", "dense", "--rate", "5")
    assert [moment["time"] for moment in report["moments"]] == pytest.approx([0.0, 0.2, 0.4])


def test_chunks_are_the_nodes_messages_on_the_recorded_stamps(raw):
    from specprune_ros.replay.bag import Bag

    path = raw[0].parent / "out" / "chunks.mcap"
    with Reader(path) as reader:
        topics = {connection.topic: connection.msgtype for connection in reader.connections}
        assert all(connection.msgdef.data for connection in reader.connections)
    assert topics["/replay/paper/overlay/wrist/compressed"] == "sensor_msgs/msg/CompressedImage"
    assert topics["/replay/careful/pruning"] == "specprune_ros/msg/PruningStats"
    with Bag(path) as bag:
        chunks = [seen.message for seen in bag.messages(["/replay/paper/action_chunk"])]
        statistics = [seen.message for seen in bag.messages(["/replay/paper/pruning"])]
    stamps = [chunk.header.stamp.sec * SECOND + chunk.header.stamp.nanosec for chunk in chunks]
    assert stamps == [moment["stamp"] for moment in raw[1]["moments"]]
    flat = np.array([chunk.actions for chunk in chunks]).reshape(actions(raw[1], "paper").shape)
    assert np.array_equal(flat, actions(raw[1], "paper")) and not any(chunk.execute for chunk in chunks)
    kept = [len(np.concatenate(moment["arms"]["paper"]["kept_final"])) for moment in raw[1]["moments"]]
    assert [len(message.kept_final_patches) for message in statistics] == kept


def test_the_node_arm_is_left_out_where_a_preset_is_the_same(raw, tmp_path):
    report = replay(raw[0], tmp_path / "out", "--arms", "node,paper", "--duration", "0.05")
    assert list(report["arms"]) == ["dense", "paper"] and report["recorded_chunks"]["arm"] == "paper"
    report = replay(raw[0], tmp_path / "out", "--arms", "node", "-p", "pruning.budget_tokens:=50", "--duration", "0.05")
    assert report["configurations"]["node"]["budget_tokens"] == 50
    assert report["configurations"]["node"]["preset"] == ""


def add_chunk(bag, index, **fields):
    """A chunk of the recorded node, on the image `index`."""
    register_own(TYPES)
    time = index * PERIOD
    empty = {"action_space": "delta_end_effector", "names": [], "units": [], "steps": 0, "actions": np.zeros(0)}
    chunk = TYPES.types[CHUNK](
        header=bag.header(time),
        ready=bag.time(time),
        sequence=index,
        dt=bag.make("builtin_interfaces/msg/Duration", 0, 50_000_000),
        **{"execute": True, "in_charge": "policy", "unnorm_key": "", "instruction": "", "mode": "", **empty, **fields},
    )
    bag.add(time, f"{NODE}/action_chunk", CHUNK, chunk)
    bag.messages.sort(key=lambda entry: entry[0])


@pytest.mark.parametrize("launched_with", ["", "open the drawer"])
def test_the_instruction_of_goals_is_that_of_the_recorded_chunks(tmp_path, launched_with):
    """~/run_policy and parameters tell the node otherwise than on ~/instruction."""
    bag = BagMaker(SHORT)
    bag.messages = [entry for entry in bag.messages if entry[1] != f"{NODE}/instruction"]
    for index in range(SHORT):
        said = "pick up the bowl" if index < 4 else "pick up the cup"
        add_chunk(bag, index, instruction=said, steps=1, actions=np.zeros(7))
    given = ["-p", f"instruction:='{launched_with}'"] if launched_with else []
    replay(bag.write(tmp_path / "bag"), tmp_path / "out", "--arms", "dense", *given)
    assert instructions(tmp_path / "out") == ["pick up the bowl"] * 4 + ["pick up the cup"] * 2
    replay(tmp_path / "bag", tmp_path / "fixed", "--arms", "dense", "--instruction", "wave", "--every", "3")
    assert set(instructions(tmp_path / "fixed")) == {"wave"}


def instructions(out):
    """What the arm dense was told."""
    with Bag(out / "chunks.mcap") as bag:
        return [seen.message.instruction for seen in bag.messages(["/replay/dense/action_chunk"])]


def test_every_image_may_be_inferred_on_however_the_cameras_are_out_of_step(tmp_path):
    """The live node is woken by each image: at 30 Hz the other camera's comes before the inputs have settled."""
    bag, step = BagMaker(1), SECOND // 30
    for index in range(12):
        for view, late in (("primary", 0), ("wrist", 12_000_000)):
            bag.add_image(PERIOD + index * step + late, view)
            bag.add_motion(PERIOD + index * step + late)
    bag.messages.sort(key=lambda entry: entry[0])
    report = replay(bag.write(tmp_path / "bag"), tmp_path / "out", "--arms", "dense")
    assert len(report["moments"]) >= 23


def test_when_a_person_was_in_charge_is_told(tmp_path):
    bag = BagMaker(SHORT)
    for index, who in enumerate(("policy", "person", "person", "policy", "person")):
        add_chunk(bag, index, execute=who == "policy", in_charge=who)
    report = replay(bag.write(tmp_path / "bag"), tmp_path / "out", "--arms", "paper")
    assert report["taken_over_s"] == [[0.1, 0.2], [0.4, 0.4]]
    (found,) = [finding for finding in report["findings"] if finding["kind"] == "taken_over"]
    assert "0.1 to 0.2 s" in found["text"]


def test_the_clock_jumps_back(tmp_path):
    """A recording of a bag that was played in a loop."""
    maker = BagMaker(SHORT, simulated=True)
    length = (2 * SHORT) * PERIOD // 2
    maker.messages += [(time + length, *rest) for time, *rest in maker.messages]
    report = replay(maker.write(tmp_path / "bag"), tmp_path / "out", "--arms", "paper", "-p", "use_sim_time:=true")
    assert report["inferences"] == 2 * SHORT
    reasons = [moment["arms"]["paper"]["reason"] for moment in report["moments"]]
    assert [index for index, reason in enumerate(reasons) if reason == "no_history"] == [0, SHORT]
    assert any("clock jumps back" in finding["text"] for finding in report["findings"])
    both = actions(report, "paper")
    assert np.array_equal(both[:SHORT], both[SHORT:])


@pytest.mark.parametrize("cameras", [("primary", "wrist"), ("wrist",)])
def test_images_without_stamps_get_the_time_of_arrival(tmp_path, cameras):
    maker = BagMaker(SHORT)
    for _, topic, _, message in maker.messages:
        if topic.endswith(cameras):
            message.header.stamp.sec = message.header.stamp.nanosec = 0
    report = replay(maker.write(tmp_path / "bag"), tmp_path / "out", "--arms", "dense")
    assert report["inferences"] == SHORT
    assert sum("have no stamp" in finding["text"] for finding in report["findings"]) == len(cameras)
    assert report["audit"]["camera_skew_s"]["max"] < PERIOD / SECOND  # not the years since 1970


def test_a_failing_inference_costs_one_frame(raw, tmp_path, monkeypatch):
    from specprune_ros.replay.arms import Arms

    infer, stamp = Arms.infer, raw[1]["moments"][2]["stamp"]

    def broken(self, observation):
        if round(observation.stamp * 10) == round(stamp / SECOND * 10):
            raise RuntimeError("the kernel exploded")
        return infer(self, observation)

    monkeypatch.setattr(Arms, "infer", broken)
    report = replay(raw[0], tmp_path / "out", "--arms", "paper")
    assert report["inferences"] == SHORT - 1 and [failure["stamp"] for failure in report["failures"]] == [stamp]
    (told,) = (finding["text"] for finding in report["findings"] if finding["kind"] == "failed")
    assert "the kernel exploded" in told and str(stamp) in told


def test_a_package_that_only_replay_needs_is_named(monkeypatch, capsys):
    def import_without(name):
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr("specprune_ros.replay.__main__._replay", lambda: import_without("rosbags.rosbag2"))
    assert main() == 2
    assert "rosbags.rosbag2 is not installed, which only replay needs; run: pip install" in capsys.readouterr().err
    monkeypatch.setattr("specprune_ros.replay.__main__._replay", lambda: import_without("specprune_ros.typo"))
    with pytest.raises(ModuleNotFoundError):
        main()


def test_interrupting_reports_what_is_there(raw, tmp_path, monkeypatch):
    from specprune_ros.replay.arms import Arms

    infer, calls = Arms.infer, []

    def interrupted(self, observation):
        calls.append(observation)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return infer(self, observation)

    monkeypatch.setattr(Arms, "infer", interrupted)
    report = replay(raw[0], tmp_path / "out", "--arms", "dense", code=130)
    assert report["inferences"] == 3 and report["complete"] is False
    assert any(finding["kind"] == "interrupted" for finding in report["findings"])
    monkeypatch.undo()
    killed = tmp_path / "out" / ".replay-killed"  # what a replay leaves that could not even clean up
    killed.mkdir()
    assert replay(raw[0], tmp_path / "out", "--arms", "dense")["complete"] is True
    assert not killed.exists()


def test_limits_give_exit_code_3_and_a_junit_file(raw, tmp_path):
    from xml.etree import ElementTree

    out = tmp_path / "out"
    limits = ("--max-error", "1000", "--max-flips", "1", "--max-latency", "0.0001")
    report = replay(raw[0], out, "--arms", "paper", "--duration", "0.15", *limits, code=3)
    suite = ElementTree.parse(out / "junit.xml").getroot()
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert suite.get("tests") == "3" and failed == ["max-latency"]
    assert [limit["limit"] for limit in report["limits"] if limit["exceeded"]] == ["max-latency"]
    replay(raw[0], out, "--arms", "paper", "--duration", "0.15", "--max-latency", "1e9")
    replay(raw[0], out, "--arms", "paper", "--duration", "0.15")
    assert not (out / "junit.xml").exists()  # that of an earlier replay would be taken for this one's


def test_no_ros_is_imported():
    code = (
        "import sys, specprune_ros.replay.replay\n"
        "bad = [name for name in sys.modules if name.split('.')[0] in ('rclpy', 'tf2_ros', 'launch')]\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Bad input: one line, exit code 2, nothing left behind


def write_truncated(folder):
    bag = BagMaker(SHORT).write(folder / "bag")
    data = (bag / "bag.mcap").read_bytes()
    (bag / "bag.mcap").write_bytes(data[: len(data) // 2])
    return bag


def write_unindexed(folder):
    bag = write_truncated(folder)
    (bag / "metadata.yaml").unlink()
    return bag


def write_corrupt_database(folder):
    bag = BagMaker(SHORT).write(folder / "bag", StoragePlugin.SQLITE3)
    data = bytearray((bag / "bag.db3").read_bytes())
    data[:100] = bytes(100)
    (bag / "bag.db3").write_bytes(data)
    return bag


def write_odd_path(folder):
    shutil.move(BagMaker(SHORT).write(folder / "bag", StoragePlugin.SQLITE3), folder / "run#3")
    return folder / "run#3"


def write_split(folder):
    """In two files, of which the second is lost."""
    bag = BagMaker(SHORT).write(folder / "bag")
    metadata = (bag / "metadata.yaml").read_text()
    assert "- bag.mcap\n" in metadata
    (bag / "metadata.yaml").write_text(metadata.replace("- bag.mcap\n", "- bag.mcap\n  - bag_1.mcap\n", 1))
    return bag


def write_metadata(change):
    def write(folder):
        bag = BagMaker(SHORT).write(folder / "bag")
        path = bag / "metadata.yaml"
        path.write_bytes(change(path.read_bytes()))
        return bag

    return write


def write_other_database(folder):
    """Its metadata tell of other versions of the types than the file."""
    bag = BagMaker(SHORT).write(folder / "bag", StoragePlugin.SQLITE3)
    metadata = bag / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("RIHS01_", "RIHS01_0"))
    return bag


def write_lost_topic(folder):
    """The metadata promise one topic that the file has not."""
    maker = BagMaker(SHORT)
    bag = maker.write(folder / "bag")
    maker.drop(lambda _, topic: topic == "/tf")
    shutil.copy(next(maker.write(folder / "other").glob("*.mcap")), bag / "bag.mcap")
    return bag


def write_other_profile(folder):
    bag = BagMaker(SHORT).write(folder / "bag")
    data = (bag / "bag.mcap").read_bytes()
    (bag / "bag.mcap").write_bytes(data.replace(b"\x04\0\0\0ros2", b"\x04\0\0\0ros1", 1))
    return bag


def write_other_clock(folder):
    """Stamps of a simulator, that the parameters say nothing of."""
    return BagMaker(SHORT, simulated=True, offset=-365 * 24 * 3600).write(folder / "bag")


def write_single_compressed(folder):
    return BagMaker(SHORT).write(folder / "bag", mode=CompressionMode.MESSAGE) / "bag.mcap"


def write_cut_off_archive(folder):
    bag = BagMaker(SHORT).write(folder / "bag", mode=CompressionMode.FILE)
    data = (bag / "bag.mcap.zstd").read_bytes()
    (bag / "bag.mcap.zstd").write_bytes(data[: len(data) // 2])
    return bag


def write_text(folder):
    (folder / "notes.txt").write_text("no bag")
    return folder / "notes.txt"


def write_folder(folder):
    (folder / "photos").mkdir()
    return folder / "photos"


def write_empty(folder):
    with Writer(folder / "bag", version=9, storage_plugin=StoragePlugin.MCAP):
        pass
    return folder / "bag"


def write_without(topic):
    def write(folder):
        maker = BagMaker(SHORT)
        maker.drop(lambda _, name: name == topic)
        return maker.write(folder / "bag")

    return write


def write_stale(folder):
    """The wrist camera stopped before the recording began."""
    maker = BagMaker(SHORT)
    for _, topic, _, message in maker.messages:
        if topic.endswith("image_wrist"):
            message.header.stamp.sec -= 60
    return maker.write(folder / "bag")


@pytest.mark.parametrize(
    ("write", "arguments", "said"),
    [
        (lambda folder: folder / "nowhere", [], "does not exist"),
        (write_text, [], "is not a bag; give a folder with metadata.yaml, an .mcap or a .db3 file"),
        (write_folder, [], "is not a bag: it has neither metadata.yaml nor .mcap or .db3 files"),
        (write_truncated, [], "is damaged or was cut off"),
        (write_unindexed, [], "its recorder was killed; run `ros2 bag reindex"),
        (write_corrupt_database, [], "is damaged or was cut off"),
        (write_empty, [], "holds no messages"),
        (write_odd_path, [], "run#3 is an SQLite bag, whose path must not have #, ? or %; rename its folder"),
        (write_split, [], "lacks bag_1.mcap, which its metadata.yaml names; copy the whole folder again, or leave"),
        (write_metadata(lambda text: b""), [], "metadata.yaml is damaged; run `ros2 bag reindex"),
        (write_metadata(lambda text: b"\xff" + text), [], "metadata.yaml is damaged; run `ros2 bag reindex"),
        (
            write_metadata(lambda text: text.replace(b"version: 9", b"version: 10")),
            [],
            "has metadata of version 10, newer than 9; convert it",
        ),
        (
            write_metadata(lambda text: text.replace(b"storage_identifier: mcap", b"storage_identifier: my_own")),
            [],
            "is stored as my_own, which cannot be read; convert it",
        ),
        (write_other_database, [], "metadata.yaml does not describe the files beside it: none has /"),
        (
            write_lost_topic,
            [],
            "metadata.yaml does not describe the files beside it: none has /tf; run `ros2 bag reindex",
        ),
        (write_other_profile, [], "was not recorded by ROS 2, but by ROS 1 or another tool"),
        (write_other_clock, [], "set use_sim_time"),
        (None, ["-p", "use_sim_time:='false'"], "use_sim_time = 'false' has the wrong type; allowed: true or false"),
        (
            None,
            ["-p", "inputs.joint_names:=[x, y]"],
            "inputs.joint_names = ['x', true] has the wrong type; allowed: a list",
        ),
        (write_single_compressed, [], "has messages that are compressed one by one; give the folder"),
        (write_cut_off_archive, [], "is damaged or was cut off (Compressed file ended before"),
        (
            write_without(f"{NODE}/image_wrist"),
            [],
            f"images of the view wrist: {NODE}/image_wrist is not there; it has {NODE}/image_primary ({SHORT} messages)"
            "; choose one with -r ~/image_wrist:=TOPIC",
        ),
        (write_without("/joint_states"), [], "joint states: /joint_states is not there; it has none of type"),
        (write_without("/tf"), [], "transforms: /tf is not there"),
        (write_without(f"{NODE}/instruction"), [], "no instruction on /specprune_policy/instruction; say"),
        (write_stale, [], "gives no observation; refused"),
        (None, ["-p", "inputs.cameras:=[primary]"], "inputs.cameras has 1 names (primary); the checkpoint expects 2"),
        (None, ["-r", f"~/image_primary:={NODE}/instruction"], "is a std_msgs/msg/String; it has"),
        (None, ["--checkpoint", "/nowhere"], "/nowhere"),
        (None, ["--arms", "most"], "--arms most is unknown; allowed: dense, node, paper"),
        (None, ["--every", "0"], "--every 0 is outside the allowed range"),
        (None, ["--start", "100"], "--start 100 is after the end of "),
        (None, ["--start", "nan"], "--start nan is outside the allowed range; allowed: at least 0"),
        (None, ["--duration", "inf"], "--duration inf is outside the allowed range"),
        (None, ["--max-flips", "20"], "--max-flips 20 is outside the allowed range; allowed: 0 to 1"),
        (None, ["--arms", "dense", "--max-error", "1"], "--max-error is a limit for pruned arms; name one with --arms"),
        (None, ["--as-recorded"], "has no recorded chunks"),
        (None, ["--out", "/proc/replay"], "/proc/replay cannot be written"),
        (None, ["-r", "nonsense"], "-r nonsense is no remapping rule"),
        (None, ["-p", "inputs.max_age:=-1"], "inputs.max_age = -1.0 is outside the allowed range"),
        (None, ["--colour", "red"], "unrecognized arguments: --colour red; see replay --help"),
    ],
)
def test_bad_input_is_refused_in_one_line(raw, tmp_path, monkeypatch, capsys, write, arguments, said):
    monkeypatch.setattr("signal.signal", lambda *_: None)  # this process belongs to pytest
    bag = write(tmp_path) if write else raw[0]
    out = tmp_path / "out"
    words = [str(bag), "--params-file", str(parameter_file(tmp_path)), "--out", str(out), "--quiet", *arguments]
    monkeypatch.setattr(sys, "argv", ["replay", *words])
    assert main() == 2
    error = capsys.readouterr().err.replace("\r", "\n")
    lines = [line for line in error.splitlines() if line.startswith("replay: ")]
    assert len(lines) == 1 and said in lines[0] and "Traceback" not in error, error
    assert not out.exists() or not any(out.iterdir())


@pytest.mark.parametrize(
    ("option", "content", "said"),
    [
        ("--params-file", b"\xff\xfe\x00", "is not text; give a parameter file"),
        (
            "--params-file",
            b"/move_group: {ros__parameters: {a: 1}}",
            "has parameters of /move_group, none of /specprune",
        ),
        (
            "--arms",
            b"/move_group: {ros__parameters: {a: 1}}",
            "has parameters of /move_group, none of /specprune_policy",
        ),
        ("--arms", b"/**: {ros__parameters: {a: 1}}", "it has no pruning.*"),
        (
            "--arms",
            b"/**: {ros__parameters: {pruning: {budget_token: 3}}}",
            "there is no parameter pruning.budget_token;",
        ),
        ("--arms", b"/**: {ros__parameters: {pruning: {preset: most}}}", "most"),
    ],
)
def test_files_that_say_nothing_of_the_node_are_refused(raw, tmp_path, option, content, said):
    path = tmp_path / "own.yaml"
    path.write_bytes(content)
    words = ["--params-file", str(parameter_file(tmp_path)), "--out", str(tmp_path / "out"), option, str(path)]
    with pytest.raises(UserError, match=re.escape(said)):
        run(parse([str(raw[0]), *words]))


@pytest.mark.parametrize("name", ["fast", "node", "dense"])
def test_a_file_that_is_called_as_an_arm_is_refused(raw, tmp_path, name):
    (tmp_path / f"{name}.yaml").write_text("/**: {ros__parameters: {pruning: {budget_tokens: 150}}}")
    with pytest.raises(UserError, match=f"would be called {name}, as an arm that is no file; rename it"):
        replay(raw[0], tmp_path / "out", "--arms", f"dense,{tmp_path / name}.yaml")


def test_a_file_may_switch_pruning_off(tmp_path):
    (tmp_path / "off.yaml").write_text("/**: {ros__parameters: {pruning: {enabled: false, preset: careful}}}")
    found = distinct_arms([str(tmp_path / "off.yaml")], settings({}), "/specprune_policy")
    assert found == {"dense": None, "off": None}


def test_arms_from_files_keep_what_the_robot_is_and_their_names(tmp_path):
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.yaml").write_text("/**: {ros__parameters: {pruning: {budget_tokens: 30}}}")
    node = settings({"pruning.control_rate": 12.5, "model.checkpoint": "/somewhere"})
    own = distinct_arms([str(tmp_path / "one" / "own.yaml")], node, "/specprune_policy")["own"]
    assert (own.budget_tokens, own.control_rate) == (30, 12.5)
    files = [str(path) for path in tmp_path.glob("*/own.yaml")]
    with pytest.raises(UserError, match="two that are called own; rename one of the files"):
        distinct_arms(files, node, "/specprune_policy")


def test_results_never_go_into_the_bag(raw, tmp_path):
    options = parse([str(raw[0]), "--params-file", str(parameter_file(tmp_path)), "--out", str(raw[0]), "--quiet"])
    with pytest.raises(UserError, match="is the folder of a bag; name another one for the results"):
        run(options)
    chunks = tmp_path / "chunks.mcap"
    chunks.write_bytes((raw[0] / f"{raw[0].name}.mcap").read_bytes())
    with pytest.raises(UserError, match="is the folder of a bag"):
        replay(chunks, tmp_path, "--arms", "dense")


def test_a_custom_type_without_a_usable_definition_does_not_matter(raw, tmp_path):
    maker = BagMaker(SHORT)
    maker.definitions["/odd"] = ("this is no definition %%", "RIHS01_" + "0" * 64)
    maker.add(0, "/odd", "lab_msgs/msg/Odd", b"\0\1\0\0abcd")
    maker.messages.sort(key=lambda entry: entry[0])
    report = replay(maker.write(tmp_path / "bag"), tmp_path / "out", "--arms", "dense", "--every", "3")
    assert np.array_equal(actions(report, "dense"), actions(raw[1], "dense")[::3])


def test_a_malformed_message_costs_only_itself(raw, tmp_path):
    maker = BagMaker(SHORT)
    index = [i for i, entry in enumerate(maker.messages) if entry[1].endswith("image_primary")][2]
    time, topic, kind, _ = maker.messages[index]
    maker.messages[index] = (time, topic, kind, b"\0\1\0\0rubbish")
    report = replay(maker.write(tmp_path / "bag"), tmp_path / "out", "--arms", "dense")
    assert report["inferences"] >= SHORT - 1  # the other camera's goes with the next one, as on the node
    assert any("do not deserialize" in finding["text"] for finding in report["findings"])


def test_no_space_left(raw, tmp_path, monkeypatch):
    import errno

    from specprune_ros.replay.moment import Spool

    def full(self, moment):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Spool, "add", full)
    out = tmp_path / "out"
    with pytest.raises(UserError, match=f"no space left for {out}; free some"):
        replay(raw[0], out, "--arms", "dense")
    assert not any(out.iterdir())


def test_a_checkpoint_in_the_home_folder(raw, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(CHECKPOINT.parent))
    given = "-p", f"model.checkpoint:=~/{CHECKPOINT.name}"
    report = replay(raw[0], tmp_path / "out", *given, "--arms", "dense", "--every", "5")
    assert report["checkpoint_digest"] == raw[1]["checkpoint_digest"] != ""


def test_a_bag_without_parameters_asks_for_them(raw, tmp_path):
    with pytest.raises(UserError, match="brings no parameters along; give the node's parameter file"):
        run(parse([str(raw[0]), "--out", str(tmp_path / "out")]))


def test_unknown_parameters_are_told(raw, tmp_path):
    report = replay(raw[0], tmp_path / "out", "--arms", "dense", "--duration", "0.05", "-p", "inputs.max_agee:=1.0")
    assert any("no parameter inputs.max_agee" in finding["text"] for finding in report["findings"])
