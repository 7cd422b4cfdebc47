# SPDX-License-Identifier: Apache-2.0
"""The file that lists the arms of one process."""

import pytest

pytest.importorskip("rclpy")

from specprune_ros.errors import ConfigError
from specprune_ros.nodes.parameters.arms import read_arms

pytestmark = pytest.mark.ros

GOOD = """
arms:
  left:
    params_file: left.yaml
    remappings:
      ~/twist: /left/servo
      ~/image_primary: /left/camera
  cell/right:
"""


def test_arguments_of_each_arm(tmp_path):
    (tmp_path / "left.yaml").touch()
    (tmp_path / "arms.yaml").write_text(GOOD)
    left, right = read_arms(tmp_path / "arms.yaml")
    assert (left.namespace, right.namespace) == ("/left", "/cell/right")
    assert left.arguments == [
        "--ros-args",
        *("-r", "__ns:=/left"),
        *("--params-file", str(tmp_path / "left.yaml")),
        *("-r", "~/twist:=/left/servo"),
        *("-r", "~/image_primary:=/left/camera"),
    ]
    assert right.arguments == ["--ros-args", "-r", "__ns:=/cell/right"]


def test_parameters_of_the_process_win_over_those_of_an_arms_file(tmp_path):
    (tmp_path / "left.yaml").touch()
    (tmp_path / "arms.yaml").write_text(GOOD)
    everybody, left_alone = tmp_path / "all.yaml", tmp_path / "left_alone.yaml"
    everybody.write_text("/**: {ros__parameters: {dry_run: true}}")
    left_alone.write_text("/left/specprune_policy: {ros__parameters: {dry_run: true}}")
    own = ["policy_arms", "-p", "no:=ros", "--ros-args", "-p", "model.device:=cpu", "-r", "a:=b"]
    own += ["--params-file", str(everybody), "--params-file", str(left_alone)]
    plain, given = read_arms(tmp_path / "arms.yaml"), read_arms(tmp_path / "arms.yaml", own)
    added = ["-p", "model.device:=cpu", "--params-file", str(everybody)]
    assert given[0].arguments == [*plain[0].arguments, *added, "--params-file", str(left_alone)]
    assert given[1].arguments == [*plain[1].arguments, *added]


def test_a_parameter_file_for_none_of_the_arms_is_refused(tmp_path):
    (tmp_path / "left.yaml").touch()
    (tmp_path / "arms.yaml").write_text(GOOD)
    (tmp_path / "other.yaml").write_text("/specprune_policy: {ros__parameters: {dry_run: true}}")
    (tmp_path / "latin.yaml").write_bytes(b"# gr\xfc\xdfe")
    own = ["policy_arms", "--ros-args", "--params-file"]
    with pytest.raises(ConfigError, match="no section for /left/specprune_policy or /cell/right/specprune_policy"):
        read_arms(tmp_path / "arms.yaml", [*own, str(tmp_path / "other.yaml")])
    latin = str(tmp_path / "latin.yaml")  # ROS will say what is wrong with it
    assert latin in read_arms(tmp_path / "arms.yaml", [*own, latin])[0].arguments


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("arms: [left, right]", "lists no arms"),
        ("left: {}", "lists no arms"),
        ("arms: {left: {params: a.yaml}}", "arms.left may have params_file and remappings, nothing else"),
        ("arms: {left: a.yaml}", "arms.left may have"),
        ("arms: {left: {params_file: nowhere.yaml}}", "nowhere.yaml does not exist"),
        ("arms: {left: {remappings: [a]}}", "arms.left.remappings has to be a mapping"),
        ("arms: {left: {remappings: {~/gripper: }}}", "arms.left.remappings: ~/gripper is None; give the name of"),
        ("arms: {left: [", "is not YAML"),
        ("arms:\n  left:\n  right:\n  left: {params_file: b.yaml}", "left is there twice, again in line 4"),
        ("arms: {left: {remappings: {~/twist: /a, ~/twist: /b}}}", "~/twist is there twice, again in line 1"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, text, words):
    (tmp_path / "arms.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        read_arms(tmp_path / "arms.yaml")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_arms(tmp_path / "arms.yaml")
