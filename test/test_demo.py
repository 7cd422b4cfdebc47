# SPDX-License-Identifier: Apache-2.0
"""scripts/demo as users run it, less the set-up: real ROS 2, real LIBERO, a short episode."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import yaml

from specprune_ros.policy import Observation, Policy
from specprune_ros.viewing.episode import Episode

ROOT = Path(__file__).parents[1]
TINY = ROOT / "test" / "data" / "tiny_oft"
MARK = "SPECPRUNE_DEMO_TEST"


def demo(*arguments, mark):
    command = [sys.executable, "-m", "specprune_ros.demo", *arguments]
    environment = {**os.environ, MARK: mark}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=environment)


def running(mark):
    """Processes that the demo started."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if needle in entry.read_bytes().split(b"\0"):
                found.append(entry.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.ros
@pytest.mark.sim
def test_a_short_episode(tmp_path):
    mark = str(os.getpid())
    result = demo("--seconds", "1", "--out", str(tmp_path), mark=mark)
    logs = "".join(path.read_text() for path in tmp_path.glob("logs/*.log"))
    assert result.returncode == 0, result.stderr + logs
    assert "Traceback" not in result.stderr + logs
    assert running(mark) == []
    names = {"video.mp4", "strip.png", "latency_and_speed.png", "summary.json", "logs"}
    assert {path.name for path in tmp_path.iterdir()} == names
    _check_summary(json.loads((tmp_path / "summary.json").read_text()))
    _check_video(tmp_path / "video.mp4")


@pytest.mark.ros
@pytest.mark.sim
def test_dense_and_pruned_from_the_same_state(monkeypatch, tmp_path):
    """What --compare adds to one run, whose episodes are made up here."""
    from specprune_ros.demo import demo as module
    from specprune_ros.demo.__main__ import main

    policies = {"paper": Policy.from_checkpoint(TINY, pruning="paper")}
    policies["off"] = policies["paper"].sibling("off")
    view = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    seen = [Observation({"a": view, "b": view}, np.zeros(8), "go", 0.1 * i, 0.1 * np.ones(6)) for i in range(3)]
    recorded = []

    def record(options):
        options.out.mkdir()  # for the logs
        recorded.append(options)
        return Episode("go", seen, [policies[options.pruning].act(seen[0])], [0.05], real_time_factors=[1.0])

    monkeypatch.setattr(module, "_record", record)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # this process belongs to pytest
    monkeypatch.setattr(sys, "argv", ["demo", "--compare", "--checkpoint", str(TINY), "--out", str(tmp_path)])
    assert main() == 0
    dense, pruned = recorded
    assert (dense.pruning, pruned.pruning) == ("off", "paper")
    assert replace(dense, pruning="paper", out=pruned.out) == pruned  # the same state, and all else
    parameters = [module._policy_parameters(options) for options in recorded]
    assert parameters[0]["pruning.enabled"] is False and parameters[1]["pruning.preset"] == "paper"
    for options in recorded:
        files = {"video.mp4", "strip.png", "latency_and_speed.png", "summary.json"}
        assert {path.name for path in options.out.iterdir()} == files
    both = json.loads((tmp_path / "summary.json").read_text())
    assert list(both) == ["dense", "pruned"]
    assert both["dense"]["pruning"] == "off" and both["dense"]["mode_share"] == {"off": 1.0}
    assert both["dense"]["speedup_vs_dense"] is None
    assert both["pruned"]["pruning"] == "paper" and both["pruned"]["speedup_vs_dense"]["frames"] == 1
    assert both["pruned"] == json.loads((tmp_path / "pruned" / "summary.json").read_text())
    with av.open(str(tmp_path / "video.mp4")) as one, av.open(str(tmp_path / "pruned" / "video.mp4")) as other:
        first, second = (next(video.decode(video=0)).to_ndarray(format="rgb24") for video in (one, other))
    assert first.shape == (second.shape[0], 2 * second.shape[1], 3)
    # The same view on the left and on the right, up to the noise of encoding.
    half = first.shape[1] // 2
    assert np.abs(first[70:350, 16:296].astype(int) - first[70:350, half + 16 : half + 296]).mean() < 8


@pytest.mark.ros
@pytest.mark.sim
def test_a_recording_brings_its_parameters_along(tmp_path):
    from specprune_ros.demo.demo import describe
    from specprune_ros.recording.bag_writer import BagWriter
    from specprune_ros.recording.custom_data import DIGEST, PARAMETERS, REMAPPINGS

    with BagWriter(tmp_path / "bag") as writer:
        describe(writer, {"model.checkpoint": TINY, "pruning.preset": "fast"}, {"~/image_primary": "/camera"})
    information = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    brought = information["custom_data"]
    parameters = yaml.safe_load(brought[PARAMETERS])["/**"]["ros__parameters"]
    assert parameters["pruning.preset"] == "fast" and parameters["inputs"]["cameras"] == ["primary", "wrist"]
    assert json.loads(brought[REMAPPINGS]) == ["~/image_primary:=/camera"] and brought[DIGEST]


def _check_summary(summary):
    assert summary["instruction"].startswith("pick up the black bowl") and summary["success"] is False
    assert 0.5 < summary["simulated_s"] <= 1.1 and 10 <= summary["steps"] <= 22
    assert 0.0 < summary["real_time_factor"] <= 1.05 and summary["wall_s"] >= 0.5
    assert summary["frames"] >= 5 and summary["inferences"] >= 2
    latency = summary["inference_ms"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["max"] < 10_000
    assert set(summary["mode_share"]) <= {"dense", "coarse", "fine"}
    assert sum(summary["mode_share"].values()) == pytest.approx(1.0, abs=0.01)
    assert 0 < summary["flop_share"] <= 1 and summary["patches"] == 512
    assert summary["end_effector_speed_m_s"]["max"] > 0.02  # the arm is driven
    assert summary["speedup_vs_dense"]["frames"] == summary["inferences"]
    assert summary["speedup_vs_dense"]["speedup"] > 0.1
    assert {"python", "torch", "numpy", "specprune_ros"} <= set(summary["versions"])
    assert "--seconds 1" in summary["command"]


def _check_video(path):
    with av.open(str(path)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) >= 5
    camera = np.array([frame[70:350, 16:296] for frame in (frames[0], frames[-1])], dtype=float)  # primary view
    assert camera.mean() > 40 and camera.std() > 20
    assert np.abs(camera[0] - camera[1]).mean() > 0.3  # the arm moved


@pytest.mark.sim
@pytest.mark.ros
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "99"], "has no task 99"),
        (["--suite", "nope"], "LIBERO has no suite 'nope'"),
        (["--seconds", "0"], "--seconds 0 is outside the allowed range"),
        (["--pruning", "most"], "--pruning most does not exist; allowed: off, paper, fast, careful"),
        (["--checkpoint", "/nowhere"], "/nowhere/config.json is missing"),
        (["--init-state", "50"], "has no initial state 50; known: 0 to 49"),
        (["--compare", "--pruning", "off"], "--compare needs a preset"),
        (["--push", "20", "0", "0.1", "0"], "--push after 20 s is not in the episode"),
        (["--push", "1", "0", "0.1", "nan"], "m is too far; allowed: 0.3 m"),
        (["--out", "/proc/demo"], "--out /proc/demo cannot be created"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, said, monkeypatch, capsys, tmp_path):
    from specprune_ros.demo.__main__ import main

    monkeypatch.setattr("signal.signal", lambda *_: None)  # this process belongs to pytest
    monkeypatch.setattr(sys, "argv", ["demo", "--out", str(tmp_path), *arguments])
    assert main() == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("scripts/demo: ") and error.count("\n") == 1


@pytest.mark.sim
@pytest.mark.ros
def test_a_policy_that_cannot_start_ends_the_demo(monkeypatch, capfd, tmp_path):
    from specprune_ros.demo.__main__ import main
    from specprune_ros.processes.free_domain import local_network

    for name in local_network(0):
        monkeypatch.setenv(name, os.environ[name])  # the demo chooses others, for its children and for this process
    monkeypatch.setenv(MARK, "broken")
    monkeypatch.setattr("signal.signal", lambda *_: None)  # this process belongs to pytest
    monkeypatch.setattr(sys, "argv", ["demo", "--device", "cuda:77", "--out", str(tmp_path / "out")])
    assert main() == 2
    errors = capfd.readouterr().err
    last = errors.replace("\r", "\n").strip().splitlines()[-1]
    assert last.startswith("scripts/demo: policy ended with exit code 2: ") and "cuda:77" in last
    assert last.endswith("policy.log") and "Traceback" not in errors
    assert running("broken") == []
