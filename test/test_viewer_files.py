# SPDX-License-Identifier: Apache-2.0
"""config/policy.rviz and config/foxglove.json name topics, types and fields that the node has."""

import importlib
import json
import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy")

from rclpy.qos import DurabilityPolicy, QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from session_bench import SessionBench

pytestmark = pytest.mark.ros

CONFIG = Path(__file__).parents[1] / "config"
RVIZ = yaml.safe_load((CONFIG / "policy.rviz").read_text())
FOXGLOVE = json.loads((CONFIG / "foxglove.json").read_text())
SHOWS = {  # rviz class -> message type
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
    "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
    "rviz_default_plugins/RobotModel": "std_msgs/msg/String",
}
LAYERS = {  # Foxglove panel -> message type of its topic
    "3D": "visualization_msgs/msg/MarkerArray",
    "Image": "sensor_msgs/msg/Image",
    "DiagnosticSummary": "diagnostic_msgs/msg/DiagnosticArray",
}


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as monkeypatch:
        bench = SessionBench(monkeypatch)
        bench.infer()
        yield bench
        bench.close()


@pytest.fixture(scope="module")
def topics(bench):
    """Name in the root namespace -> (type, quality of service of its publisher), of all that the node publishes."""
    name, namespace = bench.node.get_name(), bench.node.get_namespace()
    found = {}
    for topic, (kind,) in bench.node.get_publisher_names_and_types_by_node(name, namespace):
        own = [info for info in bench.node.get_publishers_info_by_topic(topic) if info.node_name == name]
        found[topic.removeprefix(namespace)] = kind, own[0].qos_profile
    return found


def get_message(name):
    """The class of "std_msgs/msg/String"."""
    package, _, kind = name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), kind)


def displays():
    shown = [display for display in RVIZ["Visualization Manager"]["Displays"] if display["Class"] in SHOWS]
    assert [display["Class"].rpartition("/")[2] for display in shown] == ["RobotModel", "MarkerArray", "Image", "Image"]
    return shown


@pytest.mark.parametrize("display", displays(), ids=lambda display: display["Name"])
def test_rviz_display_hears_the_topic(display, topics):
    described = display.get("Topic") or display["Description Topic"]
    wanted = QoSProfile(
        depth=described["Depth"],
        reliability=ReliabilityPolicy[described["Reliability Policy"].upper().replace(" ", "_")],
        durability=DurabilityPolicy[described["Durability Policy"].upper().replace(" ", "_")],
    )
    if described["Value"] == "/robot_description":  # not the node's: robot_state_publisher's, latched
        assert wanted.durability == DurabilityPolicy.TRANSIENT_LOCAL
        return
    kind, offered = topics[described["Value"]]
    assert kind == SHOWS[display["Class"]]
    assert qos_check_compatible(offered, wanted)[0] != QoSCompatibility.ERROR


def paths():
    """Message paths of the Foxglove panels that read fields."""
    found = []
    for config in FOXGLOVE["configById"].values():
        found += [path["value"] for path in config.get("paths", [])]
        found += [config["topicPath"]] if "topicPath" in config else []
    assert len(found) >= 10
    return found


@pytest.mark.parametrize("path", paths())
def test_foxglove_path_leads_to_a_plain_value(path, topics, bench):
    (topic,) = [topic for topic in topics if path.startswith(f"{topic}.")]
    value = {"kind": topics[topic][0]}
    for part in re.split(r"\.(?![^{]*})", path.removeprefix(f"{topic}.")):
        field, index, condition = re.fullmatch(r"(\w+)(\[[\d:]+\])?(?:\{(.*)\})?", part).groups()
        kind = get_message(value["kind"]).get_fields_and_field_types()[field]
        if index:
            kind = re.fullmatch(r"sequence<(.*)>", kind).group(1)
        if condition:
            name, text = re.fullmatch(r'(\w+)=="(.*)"', condition).groups()
            assert name == "name"
            assert text in {f"specprune_policy: {status.name}" for status in bench.node._statuses()}
        value = {"kind": re.sub(r"^(\w+)/(\w+)$", r"\1/msg/\2", kind)}
    assert "/" not in value["kind"], f"{path} is a {value['kind']}"


def test_foxglove_topics_have_the_type_of_their_panel(topics):
    named = []
    for panel, config in FOXGLOVE["configById"].items():
        kind = panel.partition("!")[0]
        mine = [*config.get("topics", {}), *filter(None, [config.get("imageMode", {}).get("imageTopic")])]
        mine += [config["topicToRender"]] if "topicToRender" in config else []
        for topic in mine:
            assert topics[topic][0] == LAYERS[kind], (panel, topic)
        named += mine
    assert len(named) == 4


def test_foxglove_layout_has_every_panel_once():
    def panels(part):
        return [part] if isinstance(part, str) else panels(part["first"]) + panels(part["second"])

    assert sorted(panels(FOXGLOVE["layout"])) == sorted(FOXGLOVE["configById"])
