# SPDX-License-Identifier: Apache-2.0
"""The policy node is told to end: while it moves an arm, and before that; or it hangs."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

import rclpy
from fault_bench import WAITS, WATCHDOG, Bench, start_faulty_policy
from faults import fault
from faulty_policy import FROZEN, SLOW
from policy_client import CHECKPOINT, PATIENCE, START_PATIENCE, PolicyClient, start_policy
from robot_process import half_made_ports

pytestmark = pytest.mark.ros

INTERRUPTED = fault(
    "Signals",
    "SIGINT or SIGTERM in the middle of an inference",
    "one last zero command, then silence; nothing is left behind",
    "lifecycle",
    "active",
    "start the node, then enable",
)

LOADING = fault(
    "Signals",
    "SIGINT or SIGTERM while it imports, waits to be configured, loads the model or captures graphs",
    "does not move; the process ends silently",
    "lifecycle",
    "unconfigured",
    "start the node",
)
HANGS = fault(
    "Processes and the machine",
    "the process hangs in compiled code that holds Python's global lock (injected)",
    "ends the process after `hang_timeout`; the arm's controller has to stop by itself",
    "lifecycle",
    "active",
    "start the node (respawn, systemd), then enable",
)
HANG_TIMEOUT = 2.0  # seconds
PATIENT = {"inputs.max_age": 5.0, "inputs.max_skew": 2.0}  # for a busy machine; the arm only has to move
# Says when it is there, then stays there.
STUCK = """
import sys, time
from specprune_ros.nodes import model, policy_node
def load(*_, **__):
    print("loading", flush=True)
    time.sleep(600)
model.Policy.from_checkpoint = load
sys.exit(policy_node.main())
"""


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
        while process.poll() is None or bench.sent[-1].moves:
            assert time.time() < onset + PATIENCE
            bench.executor.spin_once(timeout_sec=0.02)
        errors = process.communicate()[1]
        assert process.returncode == 0 and "Traceback" not in errors, errors
        assert not bench.sent[-1].moves and bench.sent[-1].stamp - onset < WATCHDOG + WAITS * bench.delay(onset)
    finally:
        bench.close()
        process.kill()
        context.shutdown()


def end(process, number):
    """Signal it; what it wrote to stderr since it was started."""
    process.send_signal(number)
    try:
        errors = process.communicate(timeout=PATIENCE)[1]
    finally:
        process.kill()
    return process.returncode, errors


def start(*command):
    return subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )


@pytest.mark.parametrize("module", ["policy_node", "preflight", "libero_sim"])
def test_signal_during_the_imports(module):
    process = start("-m", f"specprune_ros.nodes.{module}", "--ros-args", "-p", "autostart:=true")
    # Python has started and is importing: what takes the time is far from done when torch or rclpy is mapped.
    while "torch" not in (maps := Path(f"/proc/{process.pid}/maps").read_text()) and "rclpy" not in maps:
        assert process.poll() is None
        time.sleep(0.01)
    assert end(process, signal.SIGINT) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_the_model_is_loading(number):
    process = start("-c", STUCK, "--ros-args", "-p", "autostart:=true", "-p", f"model.checkpoint:={CHECKPOINT}")
    assert process.stdout.readline() == "loading\n"
    assert end(process, number) == (0, "")


def test_signal_while_unconfigured():
    context = rclpy.Context()
    context.init()
    process = start_policy()
    client = PolicyClient(context, process)
    try:
        assert client.state() == "unconfigured"
        client.wait(lambda: "lifecycle" in client.statuses(), "diagnostics")
        assert LOADING.words in client.statuses()["lifecycle"][1]
        assert end(process, signal.SIGINT) == (0, "")
    finally:
        process.kill()
        client.node.destroy_node()
        context.shutdown()


def test_half_made_ports_before_the_start_and_a_hang():
    context = rclpy.Context()
    context.init()
    with half_made_ports():
        process = start_faulty_policy(**PATIENT)
        bench = Bench(context, process)
        try:
            bench.next_chunk(timeout=START_PATIENCE)
            assert bench.enable().success
            bench.wait_until_moving()
            bench.says(HANGS)
            assert bench.set(hang_timeout=HANG_TIMEOUT) == ""
            with contextlib.suppress(AssertionError):  # the node may hang before it answers
                bench.set(instruction=FROZEN)
            errors = process.communicate(timeout=PATIENCE)[1]
            assert process.returncode == 1
            assert "Timeout (0:00:02)" in errors and "faulty_policy.py" in errors
        finally:
            bench.close()
            process.kill()
            context.shutdown()
