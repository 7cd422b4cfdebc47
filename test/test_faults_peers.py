# SPDX-License-Identifier: Apache-2.0
"""Other ROS processes that are killed, come and go, and leave broken files behind."""

import itertools
import os
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from faults import GOES_ON, HOLDS, fault
from robot_process import Robots, half_made_ports

from specprune_ros.processes.shared_memory import mapped

pytestmark = pytest.mark.ros

PEERS, PROCESSES = "Other nodes", "Processes and the machine"
KILLED = fault(
    PROCESSES, "robot or simulator is killed (kill -9) and restarted, again and again", HOLDS, "motion", "holding, "
)
HALF_MADE = fault(
    PROCESSES,
    "a killed process left a half-made port file in /dev/shm, before the start or while the arm moves",
    GOES_ON,
    "inference",
    "running",
)
STORM = fault(PEERS, "other ROS processes come and go, and every other one is killed", GOES_ON, "inference", "running")
ROUNDS = 5
PASSERS_BY = 40
AT_ONCE = 4  # of them
LONGEST_GAP = 1.0  # seconds between two commands; a killed owner of a lock stopped them for 2 to 4


@pytest.fixture(scope="module")
def robots():
    with Robots() as robots:
        yield robots


def is_alive(process):
    return Path(f"/proc/{process}").exists()


@pytest.fixture
def no_gaps(bench):
    """The node commands the arm all the time, as often as the machine lets it."""
    first, since = len(bench.sent), time.time()
    yield
    stamps = [command.stamp for command in bench.sent[first:]]
    largest = max(after - before for before, after in itertools.pairwise(stamps))
    assert largest < LONGEST_GAP + bench.delay(since)


def test_node_maps_no_shared_memory(bench):
    assert mapped(bench.process.pid) == set()


@pytest.mark.usefixtures("no_gaps")
def test_robot_is_killed_again_and_again(bench, robots):
    bench.robot_alive = False
    for _ in range(ROUNDS):
        robot = robots.start()
        bench.wait_until_moving("motion with a new robot")
        os.kill(robot, signal.SIGKILL)
        bench.assert_held(time.time())
    bench.says(KILLED)


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
