# SPDX-License-Identifier: Apache-2.0
"""`record:=DIR` of the launch files: the command, and that both files use it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from replay_bags import CHECKPOINT, NODE, BagMaker, parameter_file
from ruamel.yaml import YAML

from specprune_ros.errors import ConfigError
from specprune_ros.openvla.digest import digest
from specprune_ros.replay.options import parse
from specprune_ros.replay.record_command import record_command
from specprune_ros.replay.replay import run

ROOT = Path(__file__).parents[1]
RULES = [("~/image_primary", "/camera/image"), ("~/instruction", "/sim/instruction")]


def parts(command):
    """(words before, custom data, topics) of the command."""
    custom, topics = command.index("--custom-data"), command.index("--topics")
    pairs = [word.split("=") for word in command[custom + 1 : topics]]  # as some versions of the recorder split them
    assert all(len(pair) == 2 for pair in pairs)
    return command[:custom], dict(pairs), command[topics + 1 :]


def test_what_is_recorded(tmp_path):
    words, _, topics = parts(record_command(tmp_path / "bag", parameter_file(tmp_path), {}, RULES))
    assert words[:7] == ["ros2", "bag", "record", "-s", "mcap", "-o", str(tmp_path / "bag")]
    assert "--use-sim-time" not in words
    inputs = ["/camera/image", f"{NODE}/image_wrist", "/joint_states", "/tf", "/tf_static", "/sim/instruction"]
    infos = ["/camera/camera_info", f"{NODE}/camera_info"]
    assert topics == [*inputs, f"{NODE}/action_chunk", f"{NODE}/pruning", *infos]


def test_simulated_time_compressed_images_and_a_namespace(tmp_path):
    parameters = {"use_sim_time": True, "inputs.image_transport": "compressed", "inputs.cameras": ["front"]}
    words, _, topics = parts(record_command(tmp_path / "bag", None, parameters, [("__ns", "left")]))
    assert "--use-sim-time" not in words  # a simulator that is reset would mix its episodes
    own = "/left/specprune_policy"
    outputs = [f"{own}/action_chunk", f"{own}/pruning", "/clock"]
    inputs = [f"{own}/image_front/compressed", "/left/joint_states", "/tf", "/tf_static", f"{own}/instruction"]
    assert topics == [*inputs, *outputs, f"{own}/camera_info"]


def test_compressed_images_beside_remapped_ones(tmp_path):
    parameters = {"inputs.image_transport": "compressed", "inputs.cameras": ["front"]}
    rules = [("~/image_front", "/front/color/image_raw")]
    topics = parts(record_command(tmp_path / "bag", None, parameters, rules))[2]
    assert topics[0] == "/front/color/image_raw/compressed" and "/front/color/camera_info" in topics


def test_a_recording_brings_along_what_its_replay_needs(tmp_path):
    """The command's custom data in a bag as the recorder writes it: no parameter file, no -r."""
    command = record_command(tmp_path / "new", parameter_file(tmp_path), {"pruning.preset": "careful"}, RULES)
    maker = BagMaker(2)
    renamed = {f"{NODE}/image_primary": "/camera/image", f"{NODE}/instruction": "/sim/instruction"}
    maker.messages = [(time, renamed.get(topic, topic), *rest) for time, topic, *rest in maker.messages]
    bag = maker.write(tmp_path / "bag")
    yaml = YAML(typ="safe")
    metadata = yaml.load((bag / "metadata.yaml").read_text())
    metadata["rosbag2_bagfile_information"]["custom_data"] = parts(command)[1]
    with (bag / "metadata.yaml").open("w") as file:
        yaml.dump(metadata, file)
    assert run(parse([str(bag), "--arms", "node", "--out", str(tmp_path / "out"), "--quiet"])) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["inferences"] == 2 and report["configurations"]["node"]["preset"] == "careful"
    assert report["moments"][0] and report["checkpoint_digest"] == digest(CHECKPOINT)
    assert not any("another checkpoint" in finding["text"] for finding in report["findings"])


def test_a_folder_that_exists_is_not_overwritten(tmp_path):
    with pytest.raises(ConfigError, match="exists; name another folder"):
        record_command(tmp_path, None, {}, [])


def test_the_command_needs_neither_torch_nor_rosbags():
    """`ros2 launch` runs on the system's Python."""
    script = (
        "import sys; sys.modules.update(torch=None, rosbags=None, safetensors=None, tokenizers=None, plotly=None)\n"
        "import specprune_ros.replay.record_command"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_both_launch_files_record():
    """The argument is declared, used and passed on."""
    policy, libero = ((ROOT / "launch" / f"{name}.launch.py").read_text() for name in ("policy", "libero"))
    assert all('DeclareLaunchArgument("record", default_value=""' in text for text in (policy, libero))
    assert "record_command(" in policy and "return [*_recorder(context, params_file, remappings), node]" in policy
    assert '"record": LaunchConfiguration("record")' in libero


RECORDER = """#!/usr/bin/env python3
import json, os, signal, sys
json.dump(sys.argv[1:], open(os.environ["ARGUMENTS"], "w"))
signal.sigwait({signal.SIGINT, signal.SIGTERM})
"""


def test_launch_starts_the_recorder_before_the_policy(tmp_path, monkeypatch):
    """A real launch, with something in place of `ros2` that writes down how it was called."""
    launch = pytest.importorskip("launch")
    actions = pytest.importorskip("launch.actions")
    sources = pytest.importorskip("launch.launch_description_sources")
    (tmp_path / "ros2").write_text(RECORDER)
    (tmp_path / "ros2").chmod(0o755)
    called = tmp_path / "arguments.json"
    monkeypatch.setenv("ARGUMENTS", str(called))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def look(_):
        again = actions.TimerAction(period=0.2, actions=[actions.OpaqueFunction(function=look)])
        return [actions.Shutdown(reason="seen") if called.exists() and called.read_text().endswith("]") else again]

    source = sources.PythonLaunchDescriptionSource(str(ROOT / "launch" / "policy.launch.py"))
    given = {"checkpoint": str(CHECKPOINT), "primary_image": "/front", "autostart": "false", "namespace": "left"}
    given |= {"record": str(tmp_path / "bag"), "respawn": "false"}
    service = launch.LaunchService()
    included = actions.IncludeLaunchDescription(source, launch_arguments=given.items())
    service.include_launch_description(launch.LaunchDescription([included, actions.OpaqueFunction(function=look)]))
    service.run()
    rules = [("__ns", "left"), ("~/image_primary", "/front"), ("~/image_primary/compressed", "/front/compressed")]
    expected = record_command(tmp_path / "bag", None, {"model.checkpoint": str(CHECKPOINT)}, rules)
    assert ["ros2", *json.loads(called.read_text())] == expected
