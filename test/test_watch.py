# SPDX-License-Identifier: Apache-2.0
"""The terminal's dashboard: what it shows of messages that a node in this process really makes."""

import io

import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray
from rich.console import Console
from session_bench import SessionBench
from std_msgs.msg import String

from specprune_ros.control.command import HoldReason
from specprune_ros.viewing.dashboard import CURES, screen
from specprune_ros.viewing.watched import STALE, Part, Watched

pytestmark = pytest.mark.ros


class Ear:
    """Feeds a `Watched` with what the bench's node says; `now`: seconds of the watcher's clock."""

    def __init__(self, bench, node=None):
        self.bench, self.now, self.heard = bench, 1000.0, 0
        self.watched = Watched(node or bench.node.get_fully_qualified_name())

    def listen(self):
        diagnostics = self.bench.node._diagnostics
        statuses = [diagnostics._message(status) for status in self.bench.node._statuses()]
        self.watched.on_diagnostics(DiagnosticArray(status=statuses), self.now)
        hear = {"action_chunk": self.watched.on_chunk, "pruning": self.watched.on_pruning}
        for name, message in self.bench.sent[self.heard :]:
            hear.get(name, lambda *_: None)(message, self.now)
        self.heard = len(self.bench.sent)

    def text(self, width=110):
        console = Console(width=width, file=io.StringIO(), record=True)
        console.print(screen(self.watched, self.now))
        return console.export_text()

    def line(self, word):
        """What stands beside a word on the screen."""
        (found,) = [line for line in self.text().splitlines() if line.strip("│ ").startswith(word)]
        return found.partition(word)[2].strip("│ ")


@pytest.fixture
def ear(monkeypatch):
    bench = SessionBench(monkeypatch)
    yield Ear(bench)
    bench.close()


def start_moving(ear):
    ear.bench.enable()
    ear.bench.infer()
    ear.bench.tick()
    ear.listen()


def test_a_moving_arm(ear):
    start_moving(ear)
    assert ear.text().splitlines()[0].split() == ["MOVING", "moving"]
    assert ear.line("instruction") == "go" and ear.line("in charge") == "policy"
    assert "coarse" in ear.line("mode") and "0 of 8 patches" in ear.line("mode")
    assert ear.line("rate") == "0.2 inferences/s"  # one in five seconds
    assert "p50 40, p99 40 ms" in ear.line("latency") and "of 200 ms, half a chunk" in ear.line("latency")
    topic = ear.bench.session.sensors.topics["primary"]
    assert "Hz" in ear.line(topic) and "0 ms old" in ear.line(topic) and "of 500 ms" in ear.line(topic)
    assert "no hold and no limit" in ear.text()


def test_off_and_dry_run(ear):
    ear.listen()
    assert ear.text().split()[0] == "OFF" and ear.line("in charge") == "nobody: motion is off"
    ear.bench.set(dry_run=True)
    start_moving(ear)
    assert ear.text().split()[:2] == ["DRY", "RUN"] and ear.line("in charge") == "nobody: dry run"


def test_a_hold_and_its_cure(ear):
    start_moving(ear)
    assert "stale input" not in ear.text()
    for _ in range(14):
        ear.bench.tick(images=False)  # the cameras are gone
    ear.bench.work()
    ear.now += 1
    ear.listen()
    assert ear.text().split()[0] == "HOLDING" and "image_primary" in ear.text().splitlines()[0]
    assert ear.line("held") == f"1 stale input  {CURES[HoldReason.STALE_INPUT]}"
    assert "is 0.70 s old" in ear.line("problem")  # what the node says itself


def test_limits_that_were_hit(ear):
    ear.bench.set(limits__max_speed=0.01)
    start_moving(ear)
    assert "limited by" in ear.text().splitlines()[0]
    first = ear.line("limited by")
    assert first == "speed 1 control periods"
    ear.bench.tick()
    ear.now += 1
    ear.listen()
    assert ear.line("limited by") == "speed 2 control periods"
    (count,) = ear.watched.limits.values()
    assert count.grew == ear.now
    ear.now += 100
    ear.listen()
    assert count.grew == ear.now - 100  # it does not grow by being told again


def test_what_is_old_is_shown_as_old(ear):
    start_moving(ear)
    ear.now += STALE - 0.1
    assert ear.text().split()[0] == "MOVING"
    ear.now += 0.2
    first = ear.text().splitlines()[0]
    assert first.split()[0] == "STALE" and "3 s without a word from /bench_" in first
    assert "MOVING" not in ear.text() and ear.line("instruction") == "go"


def test_a_node_that_is_not_there(ear):
    ear.watched = Watched("/specprune_policy")
    assert ear.text().split()[:2] == ["NOT", "HEARD"] and "Nothing heard of /specprune_policy" in ear.text()
    ear.listen()
    namespace = ear.bench.node.get_namespace()
    assert f"ros2 run specprune_ros watch --ros-args -r __ns:={namespace}" in ear.text()


def test_a_node_that_cannot_be_configured(ear):
    ear.bench.node.trigger_deactivate()
    ear.bench.node.trigger_cleanup()
    ear.bench.node._failure = "model.checkpoint is empty"
    ear.listen()
    assert ear.text().splitlines()[0].split() == ["ERROR", "model.checkpoint", "is", "empty"]


def test_counts_start_over_with_an_activation(ear):
    ear.bench.session._motion.holds["stale_input"] = 7
    ear.listen()
    assert ear.watched.holds["stale_input"].grew is None  # before this was watched
    ear.bench.session._motion.holds.clear()
    ear.listen()
    assert not ear.watched.holds


def test_every_hold_has_a_cure():
    assert set(CURES) == set(HoldReason)


def test_a_person_in_charge(ear):
    start_moving(ear)
    motion = ear.watched.parts["motion"]
    ear.watched.parts["motion"] = Part(1, "a person drives", {**motion.values, "in charge": "person"})
    assert ear.text().splitlines()[0].split()[0] == "PERSON" and ear.line("in charge") == "person"


def test_text_of_others_is_shown_as_it_is(ear):
    ear.bench.set(instruction="put [bold]it[/bold] [there")
    ear.watched.on_status(String(data="[/red] oops"), ear.now)
    start_moving(ear)
    assert ear.line("instruction") == "put [bold]it[/bold] [there" and ear.line("last word") == "[/red] oops"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_fits_the_terminal(ear, width):
    start_moving(ear)
    lines = ear.text(width).splitlines()
    assert max(map(len, lines)) <= width and len(lines) < 40
