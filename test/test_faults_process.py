# SPDX-License-Identifier: Apache-2.0
"""Inferences that fail, a disk that is full."""

import contextlib
import os
import resource
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")

from fault_bench import CHUNK_SECONDS
from faults import GOES_ON, HOLDS, fault
from faulty_policy import BUG, HANGING, NO_GRAPHS, NOT_A_NUMBER, OUT_OF_MEMORY, TOO_LARGE
from policy_client import INSTRUCTION

pytestmark = pytest.mark.ros

INFERENCE, PROCESSES = "Inference", "Processes and the machine"

FAILURES = [
    (fault(INFERENCE, "out of memory (injected)", HOLDS, "inference", "ran out of memory"), OUT_OF_MEMORY),
    (fault(INFERENCE, "unexpected exception (injected)", HOLDS, "inference", "please report it"), BUG),
    (fault(INFERENCE, "the model predicts NaN (injected)", HOLDS, "inference", "predicted NaN or Inf"), NOT_A_NUMBER),
]
TOO_LATE = fault(
    INFERENCE,
    "inference takes longer than a chunk (injected)",
    "runs the chunk to its end, then holds",
    "motion",
    "holding, chunk_finished",
)
LIMITED = fault(
    INFERENCE,
    "the model predicts absurdly large actions (injected)",
    "moves at its limits, or holds with limits.on_violation hold",
    "motion",
    "limited by",
)
NOT_CAPTURED = fault(
    INFERENCE,
    "CUDA graphs cannot be captured (injected)",
    "goes on, with slower inferences",
    "inference",
    "graphs could not be captured",
    "cleanup, configure, activate, enable",
)
NOT_READ = fault(
    PROCESSES, "who reads its log stops reading (Ctrl-S in a terminal, a pager)", GOES_ON, "inference", "running"
)
DISK_FULL = fault(PROCESSES, "disk is full: no file can be written", GOES_ON, "inference", "running")


@pytest.fixture
def instructed(bench):
    """The bench, with its own instruction afterwards."""
    yield bench
    assert bench.set(instruction=INSTRUCTION) == ""
    bench.wait_until_moving("motion after the fault")


@pytest.mark.parametrize(("row", "instruction"), FAILURES, ids=[str(row) for row, _ in FAILURES])
def test_failing_inference(instructed, row, instruction):
    assert instructed.set(instruction=instruction) == ""
    instructed.assert_held(time.time())
    instructed.says(row)
    instructed.wait_for_problem("motion", "holding")


def test_late_inference(instructed):
    assert instructed.set(instruction=HANGING) == ""
    instructed.says(TOO_LATE)
    held = instructed.sent[-1].stamp
    last = [chunk for chunk in instructed.heard["chunk"] if chunk.execute and chunk.steps][-1].header.stamp
    moved = max(sent.stamp for sent in instructed.sent if sent.moves and sent.stamp <= held)
    assert moved <= last.sec + last.nanosec * 1e-9 + CHUNK_SECONDS + 0.1


def test_graphs_that_cannot_be_captured(instructed):
    assert instructed.set(instruction=NO_GRAPHS) == ""
    instructed.says(NOT_CAPTURED)
    instructed.wait_until_moving()


def test_absurd_actions(instructed):
    assert instructed.set(instruction=TOO_LARGE) == ""
    instructed.says(LIMITED)
    instructed.wait_until_moving()
    speeds = np.array([(sent.speed, sent.angular_speed) for sent in instructed.sent[-20:]])
    assert (speeds <= np.array([0.5, 1.5]) + 1e-9).all()
    assert instructed.set(limits__on_violation="hold") == ""
    instructed.assert_held(time.time())
    instructed.wait_for_problem("motion", "holding, limit")
    assert instructed.set(limits__on_violation="clamp") == ""


@contextlib.contextmanager
def full(pipe):
    """Nothing more goes into a pipe, which is read when the block ends; the node's own writes in it are lost."""
    writer = os.open(f"/proc/self/fd/{pipe.fileno()}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x")  # to the last byte
        yield
    finally:
        os.close(writer)
        os.set_blocking(pipe.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            while os.read(pipe.fileno(), 1 << 16):
                pass
        os.set_blocking(pipe.fileno(), True)


def test_log_that_nobody_reads(bench):
    with full(bench.process.stderr):
        assert "instruction" in bench.set(instruction="")
        assert bench.set(instruction=BUG) == ""  # logs a traceback
        bench.assert_held(time.time())
        bench.wait_for_problem("inference", "please report it")
        assert bench.set(instruction=INSTRUCTION) == ""
        bench.wait_until_moving("motion after the log could not be written")
        bench.assert_moves_on()
        bench.says(NOT_READ)


def test_full_disk(bench):
    """No file of the process may grow, as on a full disk; the log is what the node writes."""
    limits = resource.prlimit(bench.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(bench.process.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        assert "instruction" in bench.set(instruction="")
        assert bench.set(instruction=BUG) == ""  # logs a traceback
        bench.wait_for_problem("inference", "please report it")
        assert bench.set(instruction=INSTRUCTION) == ""
        bench.wait_until_moving("motion after the log could not be written")
        bench.assert_moves_on()
        bench.says(DISK_FULL)
    finally:
        resource.prlimit(bench.process.pid, resource.RLIMIT_FSIZE, limits)
