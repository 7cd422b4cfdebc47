# SPDX-License-Identifier: Apache-2.0
"""Other ROS processes that are killed, come and go, and leave broken files behind."""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from faults import GOES_ON, HOLDS, fault
from geometry_msgs.msg import TwistStamped
from robot_process import Robots, half_made_ports

from specprune_ros.processes.shared_memory import mapped
from specprune_ros.soak.process import MachineDelay

pytestmark = pytest.mark.ros

TWIST = "/specprune_policy/twist"
PEERS, PROCESSES = "Other nodes", "Processes and the machine"
KILLED = fault(
    PROCESSES,
    "cameras, the robot's driver or both are killed (kill -9) at any moment and restarted, again and again",
    HOLDS,
    "motion",
    "holding, ",
)
HALF_MADE = fault(
    PROCESSES,
    "a killed process left a half-made port file in /dev/shm, before the start or while the arm moves",
    GOES_ON,
    "inference",
    "running",
)
STORM = fault(PEERS, "other ROS processes come and go, and every other one is killed", GOES_ON, "inference", "running")
KILLS = int(os.environ.get("PEER_KILLS", "5"))  # of the proof in docs/faults.md: 200
PASSERS_BY = 40
AT_ONCE = 4  # of them
# Seconds between two commands, by the node's stamps, less what the machine kept the node waiting for a processor. A
# killed owner of a lock in shared memory stopped them for 2 to 4.
LONGEST_GAP = 0.5
LATE = 0.1  # seconds: two control periods


@pytest.fixture(scope="module")
def robots():
    with Robots() as robots:
        yield robots


def is_alive(process):
    return Path(f"/proc/{process}").exists()


class Gaps:
    """Listens to the node's commands; `seconds` between them are the node's own."""

    def __init__(self, bench):
        self.seconds = []
        self._last, self._delay = None, MachineDelay(bench.process.pid)
        self._bench, self._heard = bench, bench.node.create_subscription(TwistStamped, TWIST, self._on_twist, 10)

    def _on_twist(self, message):
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        if self._last is not None:
            late = stamp - self._last > LATE
            waited = self._delay.between(self._last, stamp) if late else 0.0
            self.seconds.append(max(stamp - self._last - waited, 0.0))
        self._last = stamp

    def close(self):
        self._bench.node.destroy_subscription(self._heard)
        self._delay.close()


@pytest.fixture
def no_gaps(bench):
    """The node commands the arm all the time, as often as the machine lets it."""
    gaps = Gaps(bench)
    yield gaps
    gaps.close()
    assert len(gaps.seconds) > 10 and max(gaps.seconds) < LONGEST_GAP


def test_node_maps_no_shared_memory(bench):
    assert mapped(bench.process.pid) == set()


def test_cameras_and_driver_are_killed_again_and_again(bench, robots, no_gaps):
    bench.robot_alive = False
    alive = {kind: robots.start(kind) for kind in ("cameras", "driver")}
    for _ in range(KILLS):
        bench.wait_until_moving("motion with a new robot")
        bench.spin(random.uniform(0.0, 0.3))
        for kind in (killed := random.choice([["cameras"], ["driver"], ["cameras", "driver"]])):
            os.kill(alive[kind], signal.SIGKILL)
        bench.assert_held(time.time())
        alive.update({kind: robots.start(kind) for kind in killed})
    for process in alive.values():
        os.kill(process, signal.SIGKILL)
    bench.says(KILLED)
    told = ", ".join(f"p{share:g} {np.percentile(no_gaps.seconds, share) * 1e3:.0f}" for share in (50, 99, 99.9, 100))
    print(f"{KILLS} kills, {len(no_gaps.seconds)} commands; ms from one to the next: {told}")


@pytest.mark.usefixtures("no_gaps")
def test_half_made_ports_while_moving(bench, robots):
    with half_made_ports():
        bench.assert_moves_on(1.0)
        bench.robot_alive = False
        robots.start()  # its participant is new
        bench.wait_until_moving("motion with the robot that came later")
        bench.says(HALF_MADE)


@pytest.mark.usefixtures("no_gaps")
def test_storm_of_processes(bench, robots):
    passing = []
    for number in range(PASSERS_BY):
        passing.append(robots.start("killed" if number % 2 else "passer_by"))
        bench.wait(lambda: sum(map(is_alive, passing)) < AT_ONCE, "the end of a process")
    bench.wait_until_moving("motion after the storm")
    bench.says(STORM)
