# SPDX-License-Identifier: Apache-2.0
"""A parameter file that means another node is refused; values of the wrong type are explained."""

import pytest

pytest.importorskip("rclpy")

import rclpy
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter

from specprune_ros.errors import ConfigError
from specprune_ros.nodes.parameters.files import check_files
from specprune_ros.nodes.policy_node import PolicyNode

pytestmark = pytest.mark.ros

NODE = "/left/specprune_policy"


def write(tmp_path, text):
    file = tmp_path / "parameters.yaml"
    file.write_text(text)
    return str(file)


def section(name):
    return f"{name}:\n  ros__parameters:\n    instruction: go\n"


@pytest.mark.parametrize(
    "name",
    [
        "/left/specprune_policy",
        "left/specprune_policy",
        "/**",
        "/**/specprune_policy",
        "/*/specprune_policy",
        "/left/*",
    ],
)
def test_sections_that_fit_have_an_effect(tmp_path, name):
    check_files(["policy", "--ros-args", "--params-file", write(tmp_path, section(name))], NODE)
    # and ROS sees it the same way
    assert instruction(tmp_path) == "go"


def test_nested_namespaces_fit(tmp_path):
    write(tmp_path, "left:\n  specprune_policy:\n    ros__parameters:\n      instruction: go\n")
    assert instruction(tmp_path) == "go"


@pytest.mark.parametrize("name", ["specprune_policy", "/left/specprune", "/right/specprune_policy", "/*", "/left"])
def test_sections_of_other_nodes_are_refused(tmp_path, name):
    file = write(tmp_path, section(name))
    with pytest.raises(ConfigError) as error:
        instruction(tmp_path)
    there = name if name.startswith("/") else f"/{name}"
    assert file in str(error.value) and f"no section for {NODE}" in str(error.value)
    assert f"the file has {there}" in str(error.value)


@pytest.mark.parametrize("name", ["specprune_policy", "/left/specprune_polcy", "/right/specprune_policy", "specprune"])
def test_what_is_for_all_nodes_does_not_excuse_a_section_that_misses_this_one(tmp_path, name):
    everybody = "/**:\n  ros__parameters:\n    use_sim_time: true\n"
    file = write(tmp_path, everybody + section(name))
    with pytest.raises(ConfigError) as error:
        instruction(tmp_path)
    there = name if name.startswith("/") else f"/{name}"
    assert f"{file}: {there} would have no effect on {NODE}" in str(error.value)
    both = write(tmp_path, everybody + section(name) + section("/left/specprune_policy"))  # one file for several arms
    check_files(["--ros-args", "--params-file", both], NODE)
    other = write(tmp_path, everybody + section("/left/servo_node"))
    check_files(["--ros-args", "--params-file", other], NODE)


def test_a_file_without_any_section_is_refused(tmp_path):
    # rcl itself refuses most of these
    with pytest.raises(ConfigError, match="has no ros__parameters"):
        check_files(["--ros-args", "--params-file", write(tmp_path, "limits:\n  max_speed: 0.1\n")], NODE)


def test_files_of_somebody_else_are_no_concern(tmp_path):
    check_files(["--params-file", write(tmp_path, section("/other"))], NODE)
    check_files(["--ros-args", "--", "--params-file", write(tmp_path, section("/other"))], NODE)
    check_files(["--ros-args", "--params-file", "/nowhere.yaml"], NODE)


def instruction(tmp_path):
    """What a policy node in namespace left reads from parameters.yaml."""
    return in_node(["--params-file", str(tmp_path / "parameters.yaml"), "-r", "__ns:=/left"])


def in_node(arguments):
    context = rclpy.Context()
    context.init()
    node = None
    try:
        node = PolicyNode(context=context, cli_args=["--ros-args", *arguments])
        return node.get_parameter("instruction").value
    finally:
        if node is not None:
            node.destroy_node()
        context.shutdown()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("instruction", "true", "instruction = true has the wrong type; allowed: a text; quote one that YAML takes"),
        ("instruction", "3", "instruction = 3 has the wrong type"),
        ("inputs.cameras", "primary", "inputs.cameras = 'primary' is not a list; write ['primary']"),
        ("controller.gripper_dimensions", "6", "controller.gripper_dimensions = 6 is not a list; write [6]"),
        ("limits.workspace_min", "['a', 'b', 'c']", "limits.workspace_min = ['a', 'b', 'c'] has the wrong type"),
        ("controller.rate", "'fifty'", "controller.rate = 'fifty' has the wrong type; allowed: "),
        ("inputs.own_limits", "[1]", "inputs.own_limits = [1] has the wrong type; allowed: a list of texts"),
        ("limits.max_speed", "[0.5]", "limits.max_speed = [0.5] has the wrong type; allowed: 0.001 to 5"),
        ("dry_run", "1", "dry_run = 1 has the wrong type; allowed: true or false"),
        (
            "model.center_crop",
            "on",
            "model.center_crop = true has the wrong type; allowed: one of checkpoint, on, off; quote it",
        ),
    ],
)
def test_wrong_types_are_told_in_the_files_own_terms(name, value, words):
    with pytest.raises(ConfigError) as error:
        in_node(["-p", f"{name}:={value}"])
    assert words in str(error.value) and "\n" not in str(error.value) and "tuple" not in str(error.value)


def test_wrong_types_are_told_while_it_runs():
    context = rclpy.Context()
    context.init()
    node = PolicyNode(context=context)
    try:
        for name, value in (("instruction", True), ("inputs.cameras", "primary"), ("limits.max_speed", "fast")):
            (service,) = (service for service in node.services if service.srv_type is SetParameters)
            message = Parameter(name, value=value).to_parameter_msg()
            request = SetParameters.Request(parameters=[message])
            (result,) = service.callback(request, SetParameters.Response()).results
            assert not result.successful and name in result.reason, result.reason
    finally:
        node.destroy_node()
        context.shutdown()
