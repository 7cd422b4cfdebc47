# SPDX-License-Identifier: Apache-2.0
"""The package builds with colcon and pip, and its parts agree with each other."""

import ast
import configparser
import os
import py_compile
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import pytest

from scripts.tracked_files import copy_tracked
from specprune_ros.nodes.parameters.groups import NodeConfig

ROOT = Path(__file__).parents[1]
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.py"))
LISTED = {"policy", "policy_arms", "libero_sim", "preflight", "doctor", "quantize", "replay", "watch"}
MADE = ROOT / ".venv/build" / ROOT.name  # where scripts/env has built the interfaces
SCRIPTS = [ROOT / "scripts" / name for name in ("demo", "env", "replay", "test")]


def executables() -> set[str]:
    """Those that setup.cfg lists, as ROS calls them."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    scripts = config["options.entry_points"]["console_scripts"].split("\n")
    pairs = dict(line.split(" = ") for line in scripts if line.startswith("specprune-"))
    names = {name.removeprefix("specprune-").replace("-", "_"): entry for name, entry in pairs.items()}
    assert names == {name: f"specprune_ros.executables:{name}" for name in names}
    return set(names)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A colcon workspace whose interfaces are compiled once, for every way to install them.

    It starts from the sources that scripts/env has generated, with their times: make generates what is out of date.
    """
    folder = tmp_path_factory.mktemp("workspace")
    copy_tracked(ROOT, folder / "src/specprune_ros", without=("test/",))
    for generated in MADE.glob("rosidl_*/"):
        shutil.copytree(generated, folder / "build/specprune_ros" / generated.name)
    colcon(folder, "copied")
    return folder


def colcon(workspace: Path, install: str, *options: str) -> None:
    prefixes = os.environ["AMENT_PREFIX_PATH"].replace(":", ";")
    # scripts/env has compiled the same interfaces with the same options: that takes a minute of a processor.
    launcher = f"{ROOT}/test/reuse_objects.sh;{MADE}"
    cmake_options = [
        f"-DCMAKE_PREFIX_PATH={prefixes}",
        f"-DPython3_EXECUTABLE={sys.executable}",
        "-DBUILD_TESTING=OFF",
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_C_COMPILER_LAUNCHER={launcher}",
        f"-DCMAKE_CXX_COMPILER_LAUNCHER={launcher}",
    ]
    # What was copied for one install base is in the way of the links of another.
    shutil.rmtree(workspace / "build/specprune_ros/ament_cmake_python", ignore_errors=True)
    command = ["colcon", "build", "--install-base", install, *options, "--cmake-args", *cmake_options]
    run(*command, cwd=workspace)


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output of a command that has to succeed."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_version_and_licence_agree() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    package = ElementTree.parse(ROOT / "package.xml").getroot()
    assert package.findtext("version") == config["metadata"]["version"]
    assert package.findtext("name") == config["metadata"]["name"]
    assert package.findtext("license") == config["metadata"]["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text()


def test_every_listed_executable_exists() -> None:
    tree = ast.parse((ROOT / "specprune_ros/executables.py").read_text())
    functions = {f.name: f for f in tree.body if isinstance(f, ast.FunctionDef) and not f.name.startswith("_")}
    assert set(functions) == executables() == LISTED
    for function in functions.values():
        (module,) = re.findall(r"'(specprune_ros[.\w]+)'", ast.unparse(function))
        source = ROOT / f"{module.replace('.', '/')}.py"
        assert source.is_file() and re.search(r"\ndef main\(.*\) -> int:", source.read_text()), module


def test_systemd_unit_fits_the_node(tmp_path: Path) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "config/specprune_policy.service")
    service = unit["Service"]
    assert service["Type"] == "notify" and service["KillSignal"] == "SIGINT"
    assert float(service["WatchdogSec"]) > NodeConfig().hang_timeout  # the node's own end says where it hangs
    assert service["RestartPreventExitStatus"] == "2"
    command = service["ExecStart"].replace("$$", "$").replace("\\\n", " ")
    script = re.fullmatch(r"/bin/bash -c '(.*)'", command, re.DOTALL)
    assert script is not None
    run("bash", "-n", "-c", script.group(1), cwd=ROOT)
    if shutil.which("systemd-analyze"):  # what it does not understand it tells on stderr, and exits with 0
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
        verify = ["systemd-analyze", "verify", "--user", ROOT / "config/specprune_policy.service"]
        found = subprocess.run(verify, env=environment, capture_output=True, text=True, check=False)
        assert (found.returncode, found.stderr) == (0, "")
    assert "lib/specprune_ros/policy" in command and "policy" in executables()


def test_requirements_are_pinned() -> None:
    pinned = re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements/constraints.txt").read_text(), re.MULTILINE)
    for group in ("base", "ros", "sim", "dev"):
        lines = (ROOT / f"requirements/{group}.txt").read_text().splitlines()
        names = {line.lower().replace("_", "-") for line in lines if line and line[0] not in "#-"}
        assert names <= set(pinned), names - set(pinned)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_script_prints_help_at_once(script: Path, tmp_path: Path) -> None:
    assert os.access(script, os.X_OK)
    (tmp_path / "torch.py").write_text("raise AssertionError('seconds pass before this is imported')\n")
    said = run(script, "--help", cwd=ROOT, PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    assert re.search("^usage: ", said, re.IGNORECASE | re.MULTILINE)


HELP = """
import sys
from specprune_ros import executables
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    try:
        getattr(executables, name)()
    except SystemExit as end:
        assert end.code == 0
    assert "torch" not in sys.modules, f"{name} imports torch first, which takes seconds"
"""


@pytest.mark.ros
def test_executables_print_help_at_once() -> None:
    names = sorted(LISTED - {"policy", "libero_sim"})  # these take ROS arguments only
    said = run(sys.executable, "-c", HELP, *names, cwd=ROOT)
    assert re.findall(r"^usage: (\w+)", said, re.MULTILINE) == names


def test_env_refuses_another_ros_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "share/rclpy").mkdir(parents=True)
    environment = {**os.environ, "ROS_DISTRO": "humble", "AMENT_PREFIX_PATH": str(tmp_path)}
    done = subprocess.run([ROOT / "scripts/env", "true"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "humble" in done.stderr


def test_launch_files_are_there() -> None:
    assert {path.name for path in LAUNCH_FILES} >= {"policy.launch.py", "libero.launch.py"}


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_file_compiles(path: Path, tmp_path: Path) -> None:
    py_compile.compile(str(path), cfile=str(tmp_path / "compiled.pyc"), doraise=True)


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_file_describes(path: Path) -> None:
    pytest.importorskip("launch_ros", reason="launch is in ROS installs only, not in the wheels")
    sources = pytest.importorskip("launch.launch_description_sources")
    description = sources.get_launch_description_from_python_launch_file(str(path))
    assert description.entities


def test_launch_ends_with_the_policy() -> None:
    """Launch is in ROS installs only; here: nothing activates the node again and again, nobody waits for a dead one."""
    text = (ROOT / "launch/policy.launch.py").read_text()
    assert "OnStateTransition" not in text and 'overrides["autostart"]' in text
    for path in (ROOT / f"launch/{name}.launch.py" for name in ("policy", "libero", "arms")):
        tree = ast.parse(path.read_text())
        nodes = [call for call in ast.walk(tree) if isinstance(call, ast.Call) and ast.unparse(call.func) == "Node"]
        exits = [ast.unparse(word.value) for call in nodes for word in call.keywords if word.arg == "on_exit"]
        assert len(exits) == len(nodes) > 0 and all(each.startswith("ending(") for each in exits), path


@pytest.mark.ros
@pytest.mark.parametrize("install", ["copied", "symlinked"])
def test_colcon_build(workspace: Path, install: str) -> None:
    if install == "symlinked":
        colcon(workspace, install, "--symlink-install")
    prefix = workspace / install / "specprune_ros"
    (packages,) = prefix.glob("lib/python3*/*-packages")
    script = (
        "import specprune_ros.parameters as own, specprune_ros.msg as generated\n"
        "from specprune_ros.action import RunPolicy\n"
        "RunPolicy.Goal(time_limit=1.0)\n"
        "print(generated.ActionChunk(sequence=7).sequence, own.__file__, generated.__file__)"
    )
    libraries = f"{prefix}/lib:{os.environ.get('LD_LIBRARY_PATH', '')}"
    # -P: not from the folder that the command runs in.
    output = run(sys.executable, "-P", "-c", script, cwd=workspace, PYTHONPATH=str(packages), LD_LIBRARY_PATH=libraries)
    assert output.split() == [
        "7",
        str(packages / "specprune_ros/parameters.py"),
        str(packages / "specprune_ros/msg/__init__.py"),
    ]

    for executable in executables():
        assert os.access(prefix / "lib/specprune_ros" / executable, os.X_OK), executable
    share = prefix / "share/specprune_ros"
    for file in [*LAUNCH_FILES, *(ROOT / "config").glob("**/*.*"), *(ROOT / "config/pruning").glob("*.yaml")]:
        assert (share / file.relative_to(ROOT)).is_file(), file


def build_wheel(source: Path, target: Path, **environment: str) -> list[str]:
    """Names of the files in the wheel that pip makes from `source`."""
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        target,
        source,
    ]
    run(*command, cwd=source, **environment)
    (wheel,) = target.glob("specprune_ros-*.whl")
    return zipfile.ZipFile(wheel).namelist()


@pytest.mark.ros
def test_wheel_with_ros_brings_interfaces_and_executables(workspace: Path, tmp_path: Path) -> None:
    temporary, extra = tmp_path / "temporary", tmp_path / "extra.cfg"
    temporary.mkdir()
    (temporary / "cmake").symlink_to(workspace / "build/specprune_ros")
    extra.write_text(f"[build]\nbuild_temp = {temporary}\n")
    shutil.rmtree(workspace / "build/specprune_ros/ament_cmake_python")
    source = workspace / "src/specprune_ros"
    names = build_wheel(source, tmp_path / "wheel", DIST_EXTRA_CONFIG=str(extra))
    assert not [*source.glob("build/temp*")] and any((temporary / "stage").iterdir())
    assert "specprune_ros/msg/_action_chunk.py" in names
    assert "specprune_ros/action/_run_policy.py" in names
    assert "specprune_ros/srv/_get_action_chunk.py" in names
    assert "specprune_ros/parameters.py" in names
    assert any(re.search(r"data/lib/libspecprune_ros__.*\.so$", name) for name in names)
    for executable in executables():
        assert any(name.endswith(f"data/lib/specprune_ros/{executable}") for name in names), executable
    assert any(name.endswith("share/ament_index/resource_index/packages/specprune_ros") for name in names)


def test_wheel_without_ros_is_pure_python(tmp_path: Path) -> None:
    copy_tracked(ROOT, tmp_path / "source", without=("test/",))
    names = build_wheel(tmp_path / "source", tmp_path / "wheel", AMENT_PREFIX_PATH="")
    assert not any(name.endswith(".so") for name in names)
    assert "specprune_ros/pruning/presets/paper.yaml" in names
    assert any(name.endswith("data/share/specprune_ros/config/fastdds.xml") for name in names)
    assert any(name.endswith("data/share/specprune_ros/config/pruning/paper.yaml") for name in names)
