# SPDX-License-Identifier: Apache-2.0
"""The policy node is told to end: while it moves an arm, and before that; or it hangs."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

import rclpy
from ament_index_python.packages import get_package_prefix
from fault_bench import WATCHDOG, Bench, start_faulty_policy
from faults import fault
from faulty_policy import FROZEN, SLOW, SLOW_SECONDS
from policy_client import CHECKPOINT, PATIENCE, START_PATIENCE, PolicyClient, start_policy, stop
from robot_process import half_made_ports

pytestmark = pytest.mark.ros

INTERRUPTED = fault(
    "Signals",
    "SIGINT, SIGTERM or SIGHUP (its terminal is gone) in the middle of an inference",
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
SUSPENDED = fault(
    "Signals",
    "SIGTSTP (Ctrl-Z)",
    "one last zero command, then the process stops",
    "motion",
    "motion is off; call ~/enable",
    "continue the process (fg), then enable",
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
MOMENTS = int(os.environ.get("STOP_MOMENTS", "0"))
LAST_MOMENT = 12.0  # seconds after the start
TOLD = ("[INFO]", "[WARN]", "loading weights")  # what a node that is well says
PATIENT = {"inputs.max_age": 5.0, "inputs.max_skew": 2.0}  # for a busy machine; the arm only has to move
# Says when it is there, then stays there.
STUCK = """
import sys, time
from specprune_ros.nodes import model, policy_node
def load(*_, **__):
    print("loading", flush=True)
    for _ in range(6000):  # a signal just before one long sleep would be heeded behind it
        time.sleep(0.1)
model.Policy.from_checkpoint = load
sys.exit(policy_node.main())
"""


def children(pid):
    """Processes that `pid` has started."""
    return [child for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


@contextlib.contextmanager
def moving_policy(**parameters):
    """A node in a process of its own that moves the arm, and who talks to it."""
    context = rclpy.Context()
    context.init()
    process = start_faulty_policy(**parameters)
    bench = Bench(context, process)
    try:
        bench.next_chunk(timeout=START_PATIENCE)
        assert bench.enable().success
        bench.wait_until_moving()
        yield process, bench
    finally:
        bench.close()
        process.kill()
        context.shutdown()


def test_ctrl_z_while_moving():
    with moving_policy() as (process, bench):
        process.send_signal(signal.SIGTSTP)
        bench.wait(lambda: state(process.pid) == "T", "a stopped process")
        bench.wait(lambda: not bench.sent[-1].moves, "a zero command")
        process.send_signal(signal.SIGCONT)
        bench.says(SUSPENDED)
        bench.next_chunk()
        assert not bench.sent[-1].moves
        assert bench.enable().success
        bench.wait_until_moving()
        stop(process)


def state(pid):
    """One letter, see proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_signal_in_the_middle_of_an_inference(number):
    with moving_policy(instruction=f"'{SLOW}'") as (process, bench):
        bench.says(INTERRUPTED)
        relays = children(process.pid)  # of its output; nothing else
        assert all(Path(f"/proc/{relay}/comm").read_text() == "cat\n" for relay in relays)
        onset = time.time()
        process.send_signal(number)
        process.send_signal(signal.SIGINT)  # a terminal sends one to all, and so does `ros2 launch`
        while process.poll() is None or bench.sent[-1].moves:
            assert time.time() < onset + PATIENCE
            bench.executor.spin_once(timeout_sec=0.02)
        errors = process.communicate(PATIENCE)[1]
        assert process.returncode == 0 and "Traceback" not in errors, errors
        bench.wait(lambda: not any(Path(f"/proc/{relay}").exists() for relay in relays), "the end of the relays")
        assert not bench.sent[-1].moves and bench.sent[-1].stamp - onset < WATCHDOG + bench.delay(onset)


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


BAG = Path(__file__).parents[1] / "examples" / "libero_bag" / "libero_bag.mcap"
EXECUTABLE = "import sys; from specprune_ros.executables import {0}; sys.exit({0}())"  # as pip and CMake write it


@pytest.mark.parametrize(
    ("code", "command"),
    [
        *((0, ("-c", EXECUTABLE.format(name))) for name in ("policy", "libero_sim")),
        (130, ("-c", EXECUTABLE.format("preflight"))),  # no verdict is no pass
        (130, ("-c", EXECUTABLE.format("replay"), str(BAG))),  # without one it answers before it imports
        (0, ("-m", "specprune_ros.nodes.policy_node")),
    ],
    ids=lambda value: value[1].split()[-1] if isinstance(value, tuple) else value,
)
def test_signal_during_the_imports(code, command):
    process = start(*command, "--ros-args", "-p", "autostart:=true")
    # Python has started and is importing: what takes the time is far from done when torch or rclpy is mapped.
    while "torch" not in (maps := Path(f"/proc/{process.pid}/maps").read_text()) and "rclpy" not in maps:
        assert process.poll() is None
        time.sleep(0.01)
    returned, errors = end(process, signal.SIGINT)
    assert returned == code and errors in ("", "replay: interrupted; nothing was written\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("name", "code"), [("policy", 0), ("libero_sim", 0), ("preflight", 130)])
def test_signal_while_python_starts(name, code, number):
    """Nothing of ours has run yet: the executable's first line keeps the signal for it."""
    path = Path(get_package_prefix("specprune_ros"), "lib", "specprune_ros", name)
    process = subprocess.Popen([path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # Python is there, and has not opened the executable: the script is in its arguments only.
    while Path(f"/proc/{process.pid}/exe").resolve() != Path(sys.executable).resolve():
        assert process.poll() is None
    assert end(process, number) == (code, "")


def test_nothing_large_is_imported_before_signals_are_heeded():
    script = "import sys, specprune_ros.executables; print({'torch', 'rclpy', 'numpy'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()\n"
    )


def test_a_crash_in_compiled_code_is_not_silent():
    crash = "import faulthandler; from specprune_ros.nodes.node_process import NodeProcess; NodeProcess()"
    process = start("-c", f"{crash}; faulthandler._sigsegv()")
    errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in errors and 'File "<string>"' in errors


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


@pytest.mark.skipif(not MOMENTS, reason="the tests above know their moments; STOP_MOMENTS=20 tries random ones")
def test_signal_at_any_moment():
    """Also while it imports, loads, warms up, and in the middle of inferences that move the arm."""
    context = rclpy.Context()
    context.init()
    bench, took = Bench(context, process=None), []
    try:
        for number in range(MOMENTS):
            bench.process = process = start_faulty_policy(anew=True, instruction=f"'{SLOW}'", **PATIENT)
            if number % 2:  # while it starts
                state, moment = "started", random.uniform(0.0, LAST_MOMENT)
                bench.spin(moment)
            else:
                bench.next_chunk(timeout=START_PATIENCE)
                assert bench.enable().success
                bench.wait_until_moving()
                state, moment = "moved", random.uniform(0.0, 2 * SLOW_SECONDS)
                bench.spin(moment)
            before = time.monotonic()
            code, errors = end(process, random.choice([signal.SIGINT, signal.SIGTERM]))
            took.append((time.monotonic() - before, state, moment))
            said = [line for line in errors.splitlines() if line and not any(word in line for word in TOLD)]
            assert (code, said) == (0, []), f"{took[-1]}: {errors}"
    finally:
        bench.close()
        context.shutdown()
        for seconds, state, moment in sorted(took):
            print(f"told {moment:.1f} s after it {state}: ended after {seconds:.2f} s")


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
