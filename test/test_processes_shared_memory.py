# SPDX-License-Identifier: Apache-2.0
"""What killed processes leave in /dev/shm is removed, and nothing else; socket buffers are judged."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from specprune_ros.processes.free_domain import local_network
from specprune_ros.processes.shared_memory import is_wanted, remove_stale
from specprune_ros.processes.socket_buffers import buffer_limit, buffer_problem

CONFIG = Path(__file__).parents[1] / "config"
SEGMENT = "fastrtps_0123456789abcdef"


def make(folder, name, content=b"", age=60.0):
    path = folder / name
    path.write_bytes(content)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_what_killed_processes_left_is_removed(tmp_path):
    for name in (SEGMENT, SEGMENT + "_el", "fastrtps_port7411", "fastrtps_port7411_el", "sem.fastrtps_port7411_mutex"):
        make(tmp_path, name, b"\2\0\0\0")
    make(tmp_path, "fastrtps_port7413")  # half-made
    make(tmp_path, "sem.fastrtps_port7413_mutex")
    make(tmp_path, "fastrtps_port7415", b"\1\0\0\0")  # half-made, too
    make(tmp_path, "something_else")
    removed = remove_stale(tmp_path)
    assert names(tmp_path) == {"something_else"}
    assert len(removed) == len(set(removed)) == 8


def test_what_lives_stays(tmp_path):
    for name in (SEGMENT, SEGMENT + "_el", "fastrtps_port7411", "fastrtps_port7411_el"):
        make(tmp_path, name, b"\2\0\0\0")
    make(tmp_path, "fastrtps_port7413", age=0.0)  # somebody is just making it
    make(tmp_path, "fastrtps_00000000deadbeef_el", age=0.0)
    before = names(tmp_path)
    locks = [(tmp_path / name).open("rb") for name in (SEGMENT + "_el", "fastrtps_port7411_el")]
    for lock in locks:
        fcntl.flock(lock, fcntl.LOCK_SH)
    try:
        assert remove_stale(tmp_path) == [] and names(tmp_path) == before
    finally:
        for lock in locks:
            lock.close()


SHM = """
import rclpy
from specprune_ros.processes.shared_memory import mapped
rclpy.init()
node = rclpy.create_node("a")
print(bool(mapped()))
node.destroy_node()
"""
UDP, LOCALHOST, BOTH = (
    {"FASTRTPS_DEFAULT_PROFILES_FILE": str(CONFIG / f"{name}.xml")}
    for name in ("fastdds", "fastdds_localhost", "fastdds_shared_memory")
)


@pytest.mark.ros
@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        (UDP, False),
        (local_network(7), False),
        (LOCALHOST | {"ROS_LOCALHOST_ONLY": "1"}, True),
        (UDP | {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, True),
        (BOTH, True),
        ({"FASTRTPS_DEFAULT_PROFILES_FILE": ""}, True),
    ],
    ids=["udp", "this machine alone", "localhost only", "discovery localhost", "both", "no profile"],
)
def test_participants_use_shared_memory_where_it_is_wanted(environment, wanted):
    full = {**os.environ, **environment, "ROS_DOMAIN_ID": os.environ["ROS_DOMAIN_ID"]}
    assert is_wanted(full) == wanted
    said = subprocess.run([sys.executable, "-c", SHM], env=full, capture_output=True, text=True, timeout=120)
    assert said.stdout.split()[-1] == str(wanted), said.stderr


def test_small_socket_buffers_are_told_with_the_remedy(tmp_path):
    file = tmp_path / "rmem_max"
    file.write_text("212992\n")
    problem = buffer_problem(buffer_limit(file))
    assert "212992 bytes" in problem and "sudo sysctl -w net.core.rmem_max=4194304" in problem and "\n" not in problem
    file.write_text("4194304\n")
    assert buffer_problem(buffer_limit(file)) == ""
    assert buffer_problem(buffer_limit(tmp_path / "hidden")) == ""
