# SPDX-License-Identifier: Apache-2.0
"""The parameter file as this package reads it without ROS, against what rcl's own parser makes of it."""

import pytest

from specprune_ros.parameter_file import read_parameters

NODE = "/arm/specprune_policy"
SCALARS = """
    1 +5 -3 010 08 0x1F 1_000 0b11 0o17 1.5 .5 5. 1e3 1.5e-2 1.5.2 .inf -.inf inf .nan true True off NO y Y n Yes null ~
    2024-01-01 1:30 12:30:45 "5" 'yes' x 1a e3
""".split()  # noqa: SIM905
TWICE = """
/**/specprune_policy:
  ros__parameters:
    inputs: {joint_names: [a, b], max_age: 0.3}
    instruction: one
    instruction: two
    n: {1: a, on: b}
    inputs:
      max_age: 0.4
      base_frame: world
/**:
  ros__parameters: {dry_run: true}
/**:
  ros__parameters: {autostart: false}
"""


def by_rcl(text, tmp_path):
    """What a node gets, by name."""
    import rclpy
    from rclpy.context import Context
    from rclpy.node import Node

    path = tmp_path / "arm.yaml"
    path.write_text(text)
    context = Context()
    rclpy.init(args=["--ros-args", "--params-file", str(path)], context=context)
    try:
        node = Node(
            "specprune_policy",
            namespace="arm",
            context=context,
            start_parameter_services=False,
            automatically_declare_parameters_from_overrides=True,
        )
        found = {name: node.get_parameter(name).value for name in node._parameter_overrides}
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)
    return found


def as_text(parameters):
    """Kind and value, of which nan is one, too."""
    return {name: repr(list(value) if hasattr(value, "tolist") else value) for name, value in parameters.items()}


@pytest.mark.ros
def test_scalars_are_what_rcl_takes_them_for(tmp_path):
    text = "/**:\n  ros__parameters:\n" + "".join(f"    v{i}: {scalar}\n" for i, scalar in enumerate(SCALARS))
    assert as_text(read_parameters(text, "arm.yaml", NODE)) == as_text(by_rcl(text, tmp_path))


@pytest.mark.ros
def test_a_name_twice_is_merged_as_rcl_does(tmp_path):
    assert as_text(read_parameters(TWICE, "arm.yaml", NODE)) == as_text(by_rcl(TWICE, tmp_path))


def test_a_group_twice_loses_nothing():
    found = read_parameters(TWICE, "arm.yaml", NODE)
    assert found["inputs.joint_names"] == ["a", "b"] and found["inputs.max_age"] == 0.4
    assert found["inputs.base_frame"] == "world" and found["dry_run"] is True and found["autostart"] is False
