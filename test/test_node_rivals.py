# SPDX-License-Identifier: Apache-2.0
"""Another policy node, under another name, publishes on the topic that moves this node's arm."""

import time

import pytest

pytest.importorskip("rclpy")

from client_bench import ClientBench
from geometry_msgs.msg import TwistStamped
from specprune_ros.msg import PruningStats

from specprune_ros.control.command import HoldReason
from specprune_ros.nodes import rivals
from specprune_ros.nodes.preflight_checks import checks
from specprune_ros.nodes.reporting.diagnostics import ERROR, OK

pytestmark = pytest.mark.ros


@pytest.fixture
def bench(monkeypatch):
    bench = ClientBench(monkeypatch, "another_policy")
    bench.topic = bench.session._motion.publisher.topic_name
    yield bench
    bench.close()


def appears(bench, kind=PruningStats):
    """Publishers of the other node: what moves the arm, and its statistics, here under any name."""
    bench.twists = bench.other.create_publisher(TwistStamped, bench.topic, 1)
    bench.stats = bench.other.create_publisher(kind, "why_not_this", 10)
    bench.spin_until(lambda: bench.node.count_publishers(bench.topic) == 2)
    if kind is PruningStats:
        bench.spin_until(lambda: bench.node._statuses() and bench.session.rivals.names)
        bench.spin_until(lambda: bench.stats.get_subscription_count() == 1)


def says(bench, in_charge):
    before = dict(bench.session.rivals._drove)
    bench.stats.publish(PruningStats(in_charge=in_charge))
    bench.spin_until(lambda: bench.session.rivals._drove != before)


def lifecycle(bench):
    return bench.node._statuses()[0]


def test_one_that_stands_by_is_named_and_nothing_else(bench):
    appears(bench)
    name = bench.other.get_fully_qualified_name()
    assert bench.session.rivals.names == [name] and lifecycle(bench).level == OK
    assert bench.status("motion").values[f"other policy nodes on {bench.topic}"] == name
    row = next(row for row in checks(bench.session, bench.node) if row.name == bench.topic)
    assert row.verdict == "warn" and row.detail.startswith(f"{name} can drive the same arm; enable one")
    assert bench.enable().success


def test_one_that_drives_switches_motion_off(bench, monkeypatch):
    appears(bench)
    assert bench.enable().success
    bench.infer()
    bench.tick()
    assert bench.speeds()[-1] > 0
    says(bench, "policy")
    told = lifecycle(bench)
    name = bench.other.get_fully_qualified_name()
    assert told.level == ERROR and told.message.startswith(
        f"{name} drives the same arm by {bench.topic}; switch its motion off"
    )
    assert bench.speeds()[-1] == 0 and bench.session._motion.result.reason == HoldReason.DISABLED
    refused = bench.enable()
    assert not refused.success and refused.message == told.message
    says(bench, "nobody")
    assert lifecycle(bench).level == OK and bench.enable().success
    says(bench, "policy")
    monkeypatch.setattr(rivals, "DRIVES_FOR", 0.0)  # it has been silent for long
    assert lifecycle(bench).level == OK


def test_one_that_is_gone_is_forgotten(bench):
    appears(bench)
    says(bench, "policy")
    bench.other.destroy_publisher(bench.twists)
    bench.spin_until(lambda: bench.node._statuses() and not bench.session.rivals.names)
    assert lifecycle(bench).level == OK
    assert not [s for s in bench.node.subscriptions if s.topic_name == bench.stats.topic_name]


def test_a_device_that_drives_the_arm_is_no_rival(bench):
    appears(bench, TwistStamped)
    until = time.monotonic() + 0.2
    bench.spin_until(lambda: bench.node._statuses() and time.monotonic() > until)
    assert bench.session.rivals.names == []
