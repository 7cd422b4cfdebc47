# SPDX-License-Identifier: Apache-2.0
"""The example configurations of real arms: a node takes every line. (config/libero.yaml: test_libero_sim_node.py.)"""

from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy")

import rclpy
from rclpy.parameter import Parameter

from specprune_ros.control.action_space import ActionSpace, ControllerConfig
from specprune_ros.control.limits import LimitsConfig
from specprune_ros.doctor.fit import doubts
from specprune_ros.nodes.parameters.arms import read_arms
from specprune_ros.nodes.policy_node import PolicyNode
from specprune_ros.pruning.config import PruningConfig

pytestmark = pytest.mark.ros

CONFIG = Path(__file__).parents[1] / "config"
ACTION_DIMS = {"franka": 7, "ur": 7, "aloha": 14}


def test_all_examples_are_tested():
    assert {path.stem for path in CONFIG.glob("*.yaml")} - {"libero", "arms"} == set(ACTION_DIMS)


def test_the_arms_share_a_model_and_no_topic():
    left, right = read_arms(CONFIG / "arms.yaml")
    rules = [{rule for rule in arm.arguments if rule.startswith("~/")} for arm in (left, right)]
    assert len(rules[0]) == len(rules[1]) == 4 and not rules[0] & rules[1]
    assert left.namespace == "/left" and all(f":={left.namespace}/" in rule for rule in rules[0])


@pytest.mark.parametrize("arm", ACTION_DIMS)
def test_node_takes_every_line(arm, capfd):
    path = CONFIG / f"{arm}.yaml"
    context = rclpy.Context()
    context.init()
    # In a namespace, as for one of several arms: the file has to apply there too.
    arguments = ["--ros-args", "--params-file", str(path), "-r", f"__ns:=/{arm}_example"]
    node = PolicyNode(context=context, cli_args=arguments)
    try:
        declared = node.parameters.declared
        given = yaml.safe_load(path.read_text())["/**/specprune_policy"]["ros__parameters"]
        for group, values in given.items():
            for name, value in values.items() if isinstance(values, dict) else [("", values)]:
                found = node.get_parameter(f"{group}.{name}".rstrip(".")).value
                assert (list(found) if isinstance(value, list) else found) == value, f"{group}.{name}"
        assert doubts(declared(PruningConfig), declared(ControllerConfig)) == []
        space = ActionSpace(declared(ControllerConfig), ACTION_DIMS[arm])  # raises when they do not fit
        joints = declared(LimitsConfig).joint_count
        assert joints in (None, len(space.arm))
        # Another preset keeps what the file says about the robot.
        rate = declared(PruningConfig).control_rate
        assert node.set_parameters([Parameter("pruning.preset", value="fast")])[0].successful
        assert (declared(PruningConfig).preset, declared(PruningConfig).control_rate) == ("fast", rate)
    finally:
        node.destroy_node()
        context.shutdown()
    assert "there is no parameter" not in capfd.readouterr().err
