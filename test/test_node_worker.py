# SPDX-License-Identifier: Apache-2.0
"""The inference thread alone: what becomes of results and errors."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")

from specprune_ros.errors import ObservationError
from specprune_ros.nodes.turns import Turns
from specprune_ros.nodes.worker import InferenceWorker
from specprune_ros.sensing.assembler import Sensed

pytestmark = pytest.mark.ros


class SlowPolicy:
    """A policy whose inferences last until the test says so, and fail when it says so."""

    def __init__(self):
        self.calls = []
        self.started, self.finish = threading.Event(), threading.Event()
        self.error = None

    def act(self, observation):
        self.calls.append(("act", observation.instruction, observation.stamp))
        self.started.set()
        assert self.finish.wait(60)
        if self.error is not None:
            raise self.error
        return observation.stamp

    def observe(self, views, stamp, cameras=None):
        self.calls.append(("observe", stamp))

    def reset(self):
        self.calls.append(("reset",))

    def set_pruning(self, pruning):
        self.calls.append(("set_pruning", pruning))


class Frames:
    """Sensors with one frame at a time."""

    stamp = 1_000_000_000
    problem = ""

    def assemble(self, now, newer_than=None):
        if self.problem:
            raise ObservationError(self.problem)
        return Sensed(self.stamp, {}, np.zeros(0), None, "") if newer_than is None or self.stamp > newer_than else None


@pytest.fixture
def bench():
    class Bench:
        policy, frames = SlowPolicy(), Frames()
        chunks, errors = [], []
        instruction, due = "go", True

        def wait(self, condition):
            deadline = time.monotonic() + 60
            while not condition():
                assert time.monotonic() < deadline
                time.sleep(0.005)

    bench = Bench()
    bench.chunks, bench.errors = [], []
    bench.worker = InferenceWorker(
        bench.policy,
        bench.frames,
        Turns(),
        chunk_seconds=0.4,
        instruction=lambda: bench.instruction,
        now=lambda: 0,
        due=lambda: bench.due,
        on_chunk=lambda sensed, chunk: bench.chunks.append(chunk),
        on_error=bench.errors.append,
    )
    yield bench
    bench.policy.finish.set()
    bench.worker.close()


def test_one_inference_per_frame_and_never_a_queue(bench):
    bench.worker.start()
    assert bench.policy.started.wait(60)
    for stamp in (2, 3, 4):  # three frames during one inference
        bench.frames.stamp = stamp * 1_000_000_000
        bench.worker.wake()
    bench.policy.finish.set()
    bench.wait(lambda: len(bench.chunks) == 2)
    assert bench.chunks == [1.0, 4.0]


def test_a_change_of_pruning_that_fails_is_tried_again(bench):
    given, accept = [], bench.policy.set_pruning

    def set_pruning(pruning):
        given.append(pruning)
        if len(given) < 3:
            raise RuntimeError("CUDA out of memory")
        accept(pruning)

    bench.policy.set_pruning = set_pruning
    bench.policy.finish.set()
    bench.worker.set_pruning("fast")
    bench.worker.start()
    for stamp in range(2, 6):
        bench.frames.stamp = stamp * 1_000_000_000
        bench.worker.step()
    assert given == ["fast"] * 3 and bench.policy.calls[0] == ("set_pruning", "fast") and bench.worker.problem == ""


@pytest.mark.parametrize("interruption", ["stop", "reset"])
def test_the_result_of_an_interrupted_inference_is_dropped(bench, interruption):
    bench.worker.start()
    assert bench.policy.started.wait(60)
    begin = time.monotonic()
    getattr(bench.worker, interruption)()
    assert time.monotonic() - begin < 4  # does not wait for the inference, which lasts until it is told to end
    bench.policy.finish.set()
    if interruption == "reset":  # the newest frame is looked at again, without history
        bench.wait(lambda: bench.chunks == [1.0])
        assert bench.policy.calls.count(("reset",)) == 2
    else:
        time.sleep(0.3)
        assert bench.chunks == []


def test_frames_between_inferences_are_remembered(bench):
    bench.due = False
    bench.policy.finish.set()
    bench.worker.start()
    bench.wait(lambda: ("observe", 1.0) in bench.policy.calls)
    bench.due = True  # and the same frame is good enough to infer on
    bench.worker.wake()
    bench.wait(lambda: bench.chunks == [1.0])


def test_errors_are_told_and_end(bench):
    bench.policy.finish.set()
    bench.policy.error = RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
    bench.worker.start()
    bench.wait(lambda: bench.errors)
    assert "ran out of memory" in bench.worker.problem and bench.worker.errors >= 1
    bench.policy.error = None
    bench.frames.stamp += 1
    bench.worker.wake()
    bench.wait(lambda: bench.chunks)
    assert bench.worker.problem == ""

    bench.frames.problem = "no image"
    bench.wait(lambda: bench.worker.problem == "no image")
    bench.frames.problem, bench.instruction = "", ""
    bench.wait(lambda: "no instruction" in bench.worker.problem)


def test_pruning_changes_between_inferences(bench):
    bench.worker.start()
    assert bench.policy.started.wait(60)
    bench.worker.set_pruning("off")
    assert ("set_pruning", "off") not in bench.policy.calls
    bench.policy.finish.set()
    bench.wait(lambda: ("set_pruning", "off") in bench.policy.calls)


@pytest.fixture
def still(bench, monkeypatch):
    """A worker that gets no turn: `bench.worker.step()` is what a turn would do."""
    bench.policy.finish.set()
    bench.worker.close()
    bench.worker.start()
    return bench


def test_a_frame_is_inferred_once_and_after_a_reset_again(still):
    for _ in range(3):
        still.worker.step()
    assert still.chunks == [1.0] and still.policy.calls == [("reset",), ("act", "go", 1.0)]
    still.worker.reset()
    still.worker.step()
    assert still.chunks == [1.0, 1.0] and still.policy.calls.count(("reset",)) == 2


def test_a_frame_is_remembered_once(still):
    still.due = False
    for _ in range(3):
        still.worker.step()
    assert still.policy.calls == [("reset",), ("observe", 1.0)] and still.chunks == []
    still.frames.stamp += 1_000_000_000
    still.worker.step()
    assert still.policy.calls[-1] == ("observe", 2.0)


def test_an_observation_has_what_was_sensed(still, monkeypatch):
    views, cameras, seen = {"a": np.zeros((2, 2, 3), np.uint8)}, {"a": object()}, []
    sensed = Sensed(5_500_000_000, views, np.array([1.0]), np.arange(6.0), "", cameras)
    monkeypatch.setattr(still.frames, "assemble", lambda now, newer_than=None: sensed, raising=False)
    monkeypatch.setattr(still.policy, "act", seen.append)
    still.worker.step()
    (found,) = seen
    assert found.views is views and found.proprio is sensed.proprio and found.twist is sensed.twist
    assert (found.stamp, found.instruction, found.cameras) == (5.5, "go", cameras)


def test_problems_have_words(still):
    still.frames.problem = "no image"
    still.worker.step()
    assert still.worker.problem == "no image" and still.worker.errors == 0
    still.frames.problem = " "
    still.frames.assemble = lambda *_: (_ for _ in ()).throw(ObservationError(""))
    still.worker.step()
    assert still.worker.problem == "ObservationError"
    still.worker.stop()
    assert still.worker.problem == ""


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), ObservationError("too late")])
def test_an_inference_that_fails_while_it_is_stopped_leaves_no_problem(still, monkeypatch, error):
    def fail(_):
        still.worker.stop()
        raise error

    monkeypatch.setattr(still.policy, "act", fail)
    still.worker.step()
    assert still.worker.problem == ""
    still.worker.start()
    assert still.worker.problem == ""


def test_an_unexpected_error_is_one_line_and_resets(still):
    still.policy.error = ValueError("first line\nsecond line")
    still.worker.step()
    assert still.worker.problem.startswith("inference failed (ValueError: first line); the log has the traceback")
    assert still.worker.errors == 1 and len(still.errors) == 1
    still.policy.error = None
    still.worker.step()  # the same frame, without history
    assert still.chunks == [1.0] and still.policy.calls.count(("reset",)) == 2 and still.worker.problem == ""


def test_pruning_is_set_once(still):
    still.worker.set_pruning("off")
    still.worker.step()
    still.worker.step()
    assert still.policy.calls == [("set_pruning", "off"), ("reset",), ("act", "go", 1.0)]


def test_a_problem_of_the_chunks_use_is_told(still):
    def refuse(sensed, chunk):
        raise ObservationError("not a number")

    still.worker._on_chunk = refuse
    still.worker.step()
    assert still.worker.problem == "not a number" and still.worker.errors == 0


class RecordedTurns:
    """Turns that come when the test says so."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda worker, *given: self.calls.append((name, *given))


@pytest.fixture
def recorded(bench):
    """A worker, what it asks of its turns, and a clock at 100 s."""
    turns = RecordedTurns()
    bench.policy.finish.set()
    worker = InferenceWorker(
        bench.policy,
        bench.frames,
        turns,
        chunk_seconds=0.4,
        instruction=lambda: bench.instruction,
        now=lambda: 1_250_000_000,
        due=lambda: bench.due,
        on_chunk=lambda sensed, chunk: bench.chunks.append(chunk),
        on_error=bench.errors.append,
    )
    return worker, turns.calls


def test_what_wakes_the_thread(recorded, bench):
    worker, calls = recorded
    assert calls == [("add",)] and not worker.active
    worker.step()
    assert not bench.policy.calls  # before it is started
    for action in (worker.start, worker.reset, lambda: worker.set_pruning("off"), worker.wake):
        calls.clear()
        action()
        assert calls == [("wake",)]
    calls.clear()
    bench.policy.error = RuntimeError("broken")
    worker.step()
    assert calls == [("wake",), ("quiet",)]  # it does not spin on what fails
    calls.clear()
    worker.close(0.5)
    assert calls == [("remove", 0.5)] and not worker.active


def test_a_chunk_is_urgent_from_its_observation_on(recorded, bench, monkeypatch):
    monkeypatch.setattr("specprune_ros.nodes.worker.time", SimpleNamespace(monotonic=lambda: 100.0))
    worker, _ = recorded
    assert worker.urgency() == (False, 0.0)
    worker.start()
    bench.due = False
    worker.step()
    assert worker.urgency() == (True, 0.0)  # frames that are remembered have no end
    bench.due = True
    worker.step()
    assert worker.urgency() == (False, pytest.approx(100.0 + 0.4 - 0.25))


def test_how_long_inferences_waited(recorded, bench):
    worker, _ = recorded
    worker.start()
    worker.step(0.5)
    worker.step(0.7)  # nothing new
    bench.frames.stamp += 1_000_000_000
    bench.due = False
    worker.step(0.9)  # only remembered
    assert worker.waits.count == 1 and worker.waits.maximum == 0.5
    bench.due = True
    worker.step()
    assert worker.waits.percentiles()[0] == 0.25  # that one did not wait
