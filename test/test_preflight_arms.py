# SPDX-License-Identifier: Apache-2.0
"""The preflight of several arms: a table for each, one model, and latencies that add up."""

import signal
import sys

import pytest
import yaml

pytest.importorskip("rclpy")

import rclpy
from session_bench import CARTESIAN, FakePolicy

from specprune_ros.errors import ConfigError
from specprune_ros.nodes import preflight, preflight_checks
from specprune_ros.nodes.node_process import NodeProcess
from specprune_ros.processes.heartbeat import Heartbeat

pytestmark = pytest.mark.ros


class SharedPolicy(FakePolicy):
    loaded = 0

    def __init__(self):
        super().__init__()
        type(self).loaded += 1
        self.seconds = 0.1  # twice that twice is a chunk of 0.4 s

    def sibling(self, pruning):
        return self


@pytest.fixture
def own_process(monkeypatch):
    """What a process of its own would have: signal handlers, ROS, an end."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def end(process, code):
        raise SystemExit(code)

    monkeypatch.setattr(NodeProcess, "end", end)
    monkeypatch.setattr(Heartbeat, "_arm", lambda heartbeat: None)
    opened, open_nodes = [], preflight_checks.open_nodes
    monkeypatch.setattr(preflight_checks, "open_nodes", lambda *given: opened.extend(open_nodes(*given)) or opened)
    yield
    for node in opened:
        node.destroy_node()
    rclpy.try_shutdown()
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_table_for_each_arm(own_process, monkeypatch, tmp_path, capsys):
    (tmp_path / "arm.yaml").write_text(yaml.safe_dump({"/**/specprune_policy": {"ros__parameters": CARTESIAN}}))
    arms = {name: {"params_file": "arm.yaml"} for name in ("first", "second")}
    (tmp_path / "arms.yaml").write_text(yaml.safe_dump({"arms": arms}))
    monkeypatch.setattr("specprune_ros.nodes.model.load_policy", lambda *_: SharedPolicy())
    monkeypatch.setattr(preflight_checks, "LISTENING", 0.2)
    monkeypatch.setattr(sys, "argv", ["preflight", str(tmp_path / "arms.yaml")])
    with pytest.raises(SystemExit) as ended:
        preflight.main()
    assert ended.value.code == 1  # nobody publishes
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert [table.splitlines()[0] for table in tables] == ["/first/specprune_policy", "/second/specprune_policy"]
    assert SharedPolicy.loaded == 1
    for table in tables:
        (latency,) = [line for line in table.splitlines() if line.split()[1:2] == ["latency"]]
        assert latency.startswith("warn") and "coarse 100 ms, for 2 arms in turn; a chunk lasts 400 ms" in latency


def test_an_arm_that_cannot_be_configured_ends_it(own_process, monkeypatch, capsys):
    def load(*_):
        raise ConfigError("no checkpoint there")

    monkeypatch.setattr("specprune_ros.nodes.model.load_policy", load)
    monkeypatch.setattr(sys, "argv", ["preflight"])
    with pytest.raises(SystemExit) as ended:
        preflight.main()
    assert ended.value.code == 2 and "observation" not in capsys.readouterr().out
