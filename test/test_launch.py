# SPDX-License-Identifier: Apache-2.0
"""The launch files under ROS's launch, which is in ROS installs only: what is started, and what ends what.

The executables are stand-ins that write down how they were started: launch files are about processes, not about models.
"""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="launch is in ROS installs only, not in the wheels")

pytestmark = pytest.mark.ros

ROOT = Path(__file__).parents[1]
# Ends with the next of its exit codes as soon as there is one, or when it is told to.
EXECUTABLE = """#!{python}
import json, pathlib, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
name, folder = pathlib.Path(__file__).name, pathlib.Path("{folder}")
with (folder / f"{{name}}.started").open("a") as file:
    file.write(json.dumps(sys.argv) + "\\n")
codes = folder / f"{{name}}.codes"
while not (left := codes.read_text().split() if codes.exists() else []):
    time.sleep(0.1)
time.sleep(0.5)  # others have to start
codes.write_text(" ".join(left[1:]))
sys.exit(int(left[0]))
"""
# A policy that is not there at first, then is not active, then moves the arm until the task is solved.
ROS2 = """#!/bin/bash
echo "$@" >> {folder}/calls
case $(wc -l < {folder}/calls) in
  1) exit 1 ;;
  2) echo 'response: success=False' ;;
  *) echo 'response: success=True' && echo 0 > {folder}/libero_sim.codes ;;
esac
"""
LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
arguments = dict(word.split(":=", 1) for word in sys.argv[2:])
included = IncludeLaunchDescription(PythonLaunchDescriptionSource(sys.argv[1]), launch_arguments=arguments.items())
service = LaunchService()
service.include_launch_description(LaunchDescription([included]))
sys.exit(service.run())
"""


class Prefix:
    """A ROS prefix with this package in it."""

    def __init__(self, folder: Path):
        self.folder = folder
        share, library = folder / "share" / "specprune_ros", folder / "lib" / "specprune_ros"
        index = folder / "share" / "ament_index" / "resource_index" / "packages"
        for made in (share, library, index, folder / "bin"):
            made.mkdir(parents=True)
        (index / "specprune_ros").touch()
        for name in ("launch", "config"):
            (share / name).symlink_to(ROOT / name)
        for name in ("policy", "libero_sim", "policy_arms"):
            self._write(library / name, EXECUTABLE.format(python=sys.executable, folder=folder))
        self._write(folder / "bin" / "ros2", ROS2.format(folder=folder))

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def launch(self, file: str, *arguments: str, **codes: str) -> subprocess.CompletedProcess:
        """Run a launch file until it ends. `codes`: executable -> the codes that it ends with, time after time."""
        for name, text in codes.items():
            (self.folder / f"{name}.codes").write_text(text)
        environment = {
            **os.environ,
            "AMENT_PREFIX_PATH": f"{self.folder}:{os.environ['AMENT_PREFIX_PATH']}",
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "ROS_LOG_DIR": str(self.folder / "log"),
        }
        command = [sys.executable, "-c", LAUNCH, ROOT / "launch" / file, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    def started(self, name: str) -> list[list[str]]:
        """The arguments of every start of an executable."""
        path = self.folder / f"{name}.started"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def prefix(tmp_path):
    return Prefix(tmp_path)


@pytest.mark.parametrize(("simulator", "code"), [("0", 0), ("1", 1)], ids=["solved", "not solved"])
def test_libero_ends_with_the_episode(prefix, simulator, code):
    done = prefix.launch("libero.launch.py", "checkpoint:=/models/libero", "enable:=false", libero_sim=simulator)
    assert done.returncode == code, done.stderr
    (policy,), (sim,) = prefix.started("policy"), prefix.started("libero_sim")
    assert "~/action_chunk:=/specprune_policy/action_chunk" in sim
    for rule in ("instruction:=/libero_sim/instruction", "image_primary:=/libero_sim/primary/image"):
        assert f"~/{rule}" in policy
    assert not (prefix.folder / "calls").exists()


def test_libero_takes_the_statistics_of_the_suite(prefix, tmp_path):
    both = {"libero_spatial_no_noops": {}, "libero_object_no_noops": {}}
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "dataset_statistics.json").write_text(json.dumps(both))
    for suite, key in (("", "libero_spatial_no_noops"), ("libero_object", "libero_object_no_noops")):
        done = prefix.launch("libero.launch.py", f"checkpoint:={tmp_path}", f"suite:={suite}", libero_sim="0")
        assert done.returncode == 0, done.stderr
        given = parameter_files(prefix.started("policy")[-1])
        assert any(f"unnorm_key: {key}" in text for text in given)


def test_libero_renders_as_it_is_told(prefix):
    arguments = ("libero.launch.py", "checkpoint:=/models/libero", "enable:=false")
    assert prefix.launch(*arguments, "shadows:=false", libero_sim="0").returncode == 0
    given = parameter_files(prefix.started("libero_sim")[-1])
    assert all(any(f" {name}: false" in text for text in given) for name in ("shadows", "anti_aliasing"))
    refused = prefix.launch(*arguments, "shadows:=none", libero_sim="0")
    assert refused.returncode != 0 and "shadows:=none is neither true nor false" in refused.stderr + refused.stdout


def parameter_files(words: list[str]) -> list[str]:
    return [Path(file).read_text() for name, file in itertools.pairwise(words) if name == "--params-file"]


def test_libero_enables_the_policy_as_soon_as_it_is_active(prefix):
    done = prefix.launch("libero.launch.py", "checkpoint:=/models/libero", "task:=5")
    assert done.returncode == 0, done.stderr
    calls = (prefix.folder / "calls").read_text().splitlines()
    assert calls == ["service call /specprune_policy/enable std_srvs/srv/SetBool {data: true}"] * 3


@pytest.mark.parametrize("name", ["policy", "policy_arms"])
@pytest.mark.parametrize(
    ("codes", "arguments", "starts", "code"),
    [
        ("2", (), 1, 1),  # wrong parameters do not get better by themselves
        ("0", (), 1, 0),  # it was told to end
        ("1 1 0", (), 3, 0),  # crashes
        ("1", ("respawn:=false",), 1, 1),
    ],
    ids=["wrong parameters", "told to end", "crashes", "a crash without respawn"],
)
def test_launch_ends_or_starts_it_again(prefix, name, codes, arguments, starts, code):
    file, own = ("policy", []) if name == "policy" else ("arms", [f"arms:={ROOT / 'config/arms.yaml'}"])
    arguments = (*own, "checkpoint:=/models/mine", *arguments)
    done = prefix.launch(f"{file}.launch.py", *arguments, **{name: codes})
    assert done.returncode == code, done.stderr
    assert len(prefix.started(name)) == starts
    for words in prefix.started(name):
        assert "model.checkpoint" in Path(words[words.index("--params-file") + 1]).read_text()


def test_missing_parameter_file_ends_the_launch(prefix):
    done = prefix.launch("policy.launch.py", "checkpoint:=/models/mine", "params_file:=/nowhere.yaml")
    assert done.returncode == 1 and "/nowhere.yaml does not exist" in done.stdout + done.stderr
    assert not prefix.started("policy")
