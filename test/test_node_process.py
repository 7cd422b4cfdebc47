# SPDX-License-Identifier: Apache-2.0
"""The process around a node: what feeds systemd's watchdog, and that nothing keeps it when it is told to end."""

import os
import socket
import subprocess
import sys

import pytest

pytest.importorskip("rclpy")

pytestmark = pytest.mark.ros

# Its control timer hangs once the file argv[1] is there. hang_timeout 0: it does not end itself.
HANGING = """
import pathlib, sys, time
from types import SimpleNamespace
from rclpy.node import Node
from specprune_ros.nodes.node_process import NodeProcess
from specprune_ros.nodes.parameters.groups import NodeConfig
class Hanging(Node):
    session = None
    parameters = SimpleNamespace(running=lambda _: NodeConfig(hang_timeout=0.0))
    def __init__(self):
        super().__init__("hanging")
        self.create_timer(0.05, self.tick)
    def tick(self):
        if pathlib.Path(sys.argv[1]).exists():
            print("hangs", flush=True)
            time.sleep(600)
process = NodeProcess()
process.run(process.start(Hanging))
"""
# As Fast DDS does when a peer appears just then: never comes back, and holds Python's global lock.
KEPT = """
import ctypes, sys
from specprune_ros.nodes.node_process import NodeProcess
class Kept:
    def stop(self):
        print("holds", flush=True)
    def destroy_node(self):
        ctypes.PyDLL(None).usleep(int(600e6))
process = NodeProcess()
process.node = Kept()
process.end(0)
"""
START_ALONE = """
from specprune_ros.errors import UserError
try:
    process.start(Hanging)
except UserError as error:
    print("refused:", error)
"""
PATIENCE = 300.0  # seconds; Python imports for a minute when others use all processors
LONG = 1.5  # seconds without a beat; there are four in one


def test_the_control_loop_feeds_the_watchdog(tmp_path):
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(PATIENCE)
        process = subprocess.Popen(
            [sys.executable, "-c", HANGING, str(tmp_path / "hang")],
            env={**os.environ, "NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10000000"},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            told = [systemd.recv(100)]
            while told.count(b"WATCHDOG=1") < 5:
                told.append(systemd.recv(100))
            assert b"READY=1" in told
            (tmp_path / "hang").touch()
            assert process.stdout.readline() == "hangs\n"
            systemd.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    systemd.recv(100)  # of the time before
            systemd.settimeout(LONG)
            with pytest.raises(TimeoutError):
                systemd.recv(100)
        finally:
            process.kill()
            process.communicate()


def test_leaving_ros_does_not_keep_the_process():
    ended = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "holds\n", "")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "ROS_LOG_DIR",
            "/proc/nowhere",
            "failed to initialize logging: Failed to create log directory '/proc/nowhere'",
        ),
        ("ROS_STATIC_PEERS", "no address", "error creating node: Unable to resolve peer no address"),
    ],
)
def test_an_environment_in_which_ros_cannot_work_is_told_in_a_line(variable, value, said):
    command = [sys.executable, "-c", HANGING.replace("process.run(process.start(Hanging))", START_ALONE)]
    environment = {**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", variable: value}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.stdout.startswith(f"refused: {said}"), ended
    assert ended.stdout.endswith("; check what follows --ros-args and the variables ROS_*\n") and not ended.returncode
