# SPDX-License-Identifier: Apache-2.0
"""docs/parameters.md says what the nodes declare."""

import re
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

import rclpy

from specprune_ros.nodes.parameters.table import markdown
from specprune_ros.nodes.policy_node import PolicyNode

pytestmark = pytest.mark.ros

DOCUMENT = Path(__file__).parents[1] / "docs" / "parameters.md"


def test_document_is_up_to_date():
    assert DOCUMENT.read_text() == markdown(), (
        "run: scripts/env python -m specprune_ros.nodes.parameters.table > docs/parameters.md"
    )


def test_document_has_every_parameter_of_the_policy_node():
    policy = markdown().partition("## libero_sim")[0]
    context = rclpy.Context()
    context.init()
    # Under another name: the services of a lifecycle node outlive it in this process.
    node = PolicyNode(context=context, cli_args=["--ros-args", "-r", "__node:=documented"])
    declared = {
        name for name in node.get_parameters_by_prefix("") if not name.startswith(("use_sim_time", "start_type"))
    }
    node.destroy_node()
    context.shutdown()
    assert set(re.findall(r"^\| `([a-z_.]+)`", policy, re.MULTILINE)) == declared


def test_rows_tell_type_default_range_unit_and_when_it_changes():
    text = markdown()
    for row in (
        "| `limits.max_speed` | double | `0.5` | 0.001 to 5 | m/s | live | Speed of the end effector. |",
        "| `limits.workspace_min` | double[] | `[-2.0, -2.0, -2.0]` | -100 to 100 | m | live | ",
        "| `model.dtype` | string | `auto` | one of auto, float32, bfloat16 |  | configure | ",
        "| `pruning.preset` | string | `paper` |",
        "| `camera_rate` | double | `10.0` | 0.1 to 20 | Hz | live | ",
    ):
        assert row in text, row
