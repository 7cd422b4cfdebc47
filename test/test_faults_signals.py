"""The policy node is told to end while it moves an arm."""

import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

import rclpy
from fault_bench import START_PATIENCE, WATCHDOG, Bench, start_faulty_policy
from faults import fault
from faulty_policy import SLOW

pytestmark = pytest.mark.ros

INTERRUPTED = fault(
    "Signals",
    "SIGINT or SIGTERM in the middle of an inference",
    "one last zero command, then silence; nothing is left behind",
    "lifecycle",
    "active",
    "start the node, then enable",
)


def children(pid):
    """Processes that `pid` has started."""
    return [child for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_in_the_middle_of_an_inference(number):
    context = rclpy.Context()
    context.init()
    process = start_faulty_policy(instruction=f"'{SLOW}'")
    bench = Bench(context, process)
    try:
        bench.next_chunk(timeout=START_PATIENCE)
        assert bench.enable().success
        bench.wait_until_moving()
        bench.says(INTERRUPTED)
        assert not children(process.pid)
        onset = time.time()
        process.send_signal(number)
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            bench.executor.spin_once(timeout_sec=0.02)
        errors = process.communicate(timeout=20)[1]
        assert process.returncode == 0 and "Traceback" not in errors, errors
        assert not bench.sent[-1].moves and bench.sent[-1].stamp - onset < WATCHDOG
    finally:
        bench.close()
        process.kill()
        context.shutdown()
