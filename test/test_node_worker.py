# SPDX-License-Identifier: Apache-2.0
"""The inference thread alone: what becomes of results and errors."""

import threading
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")

from specprune_ros.errors import ObservationError
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
