# SPDX-License-Identifier: Apache-2.0
"""Other ROS processes that are killed, come and go, and leave broken files behind."""

import itertools
import os
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from fault_bench import PATIENCE
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
LONGEST_GAP = 2.0  # seconds between two commands, on a busy machine; a killed owner of a lock stopped them for 2 to 4


@pytest.fixture(scope="module")
def robots():
    with Robots() as robots:
        yield robots


def is_alive(process):
    return Path(f"/proc/{process}").exists()


def largest_gap(sent):
    stamps = [command.stamp for command in sent]
    return max(after - before for before, after in itertools.pairwise(stamps))


def test_node_maps_no_shared_memory(bench):
    assert mapped(bench.process.pid) == set()


def test_robot_is_killed_again_and_again(bench, robots):
    bench.robot_alive = False
    since = len(bench.sent)
    for _ in range(ROUNDS):
        robot = robots.start()
        bench.wait_until_moving("motion with a new robot")
        os.kill(robot, signal.SIGKILL)
        bench.assert_held(time.time())
    bench.says(KILLED)
    assert largest_gap(bench.sent[since:]) < LONGEST_GAP


def test_half_made_ports_while_moving(bench, robots):
    since = len(bench.sent)
    with half_made_ports():
        bench.assert_moves_on(1.0)
        bench.robot_alive = False
        robots.start()  # its participant is new
        bench.wait_until_moving("motion with the robot that came later")
        bench.says(HALF_MADE)
    assert largest_gap(bench.sent[since:]) < LONGEST_GAP


def test_storm_of_processes(bench, robots):
    since = len(bench.sent)
    passing = []
    for number in range(PASSERS_BY):
        passing.append(robots.start("killed" if number % 2 else "passer_by"))
        bench.wait(lambda: sum(map(is_alive, passing)) < AT_ONCE, "the end of a process", PATIENCE)
    bench.wait_until_moving("motion after the storm")
    bench.says(STORM)
    assert largest_gap(bench.sent[since:]) < LONGEST_GAP
