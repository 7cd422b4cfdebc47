# SPDX-License-Identifier: Apache-2.0
"""The control loop's timer, while the system clock is set and while simulated time comes and goes."""

import os
import shutil
import subprocess
import sys
import time

import pytest

pytest.importorskip("rclpy")

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.time import Time
from rosgraph_msgs.msg import Clock

from specprune_ros.nodes.control_timer import ControlTimer
from specprune_ros.nodes.subscribing import clock_problem

pytestmark = pytest.mark.ros

PATIENCE = 60.0  # seconds
# A system clock that can be set: by the number of seconds in a file.
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(clock, now);
  FILE *file = clock == CLOCK_REALTIME ? fopen(getenv("SET_CLOCK"), "r") : NULL;
  long by = 0;
  if (file && fscanf(file, "%ld", &by) == 1) now->tv_sec += by;
  if (file) fclose(file);
  return result;
}
"""
PROGRAM = """
import os, sys, time
import rclpy
from rclpy.executors import SingleThreadedExecutor
from specprune_ros.nodes.control_timer import ControlTimer
rclpy.init()
node = rclpy.create_node("timed")
ticks = []
timer = ControlTimer(node, 0.02, lambda: ticks.append(time.time()))
timer.start()
executor = SingleThreadedExecutor()
executor.add_node(node)
until = time.monotonic() + 60
while time.monotonic() < until and len(ticks) < 20:
    executor.spin_once(timeout_sec=0.1)
    if len(ticks) == 10:
        open(os.environ["SET_CLOCK"], "w").write("-3600")
print(len(ticks), ticks[-1] - ticks[0] < -3000)
os._exit(0)
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_it_goes_on_when_the_system_clock_is_set_back(tmp_path):
    (tmp_path / "clock.c").write_text(CLOCK)
    library = tmp_path / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "clock.c", "-ldl"], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "SET_CLOCK": str(tmp_path / "by")}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=2 * PATIENCE
    )
    assert ended.stdout.split() == ["20", "True"], ended


@pytest.fixture
def node():
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("timed", context=context)
    yield node
    node.destroy_node()
    context.shutdown()


def test_it_follows_simulated_time_while_there_is_any(node):
    ticks = []
    timer = ControlTimer(node, 10.0, lambda: ticks.append(node.get_clock().now().nanoseconds))
    node.get_clock()._set_ros_time_is_active(True)
    node.get_clock().set_ros_time_override(Time(seconds=100))
    timer.follow_clock()
    timer.start()
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    executor.spin_once(timeout_sec=0)
    assert not ticks
    node.get_clock().set_ros_time_override(Time(seconds=111))
    until = time.monotonic() + PATIENCE
    while not ticks and time.monotonic() < until:
        executor.spin_once(timeout_sec=0.01)
    assert ticks == [111 * 10**9]
    timer.destroy()


def test_a_change_of_the_clock_neither_starts_nor_stops_it(node):
    timer = ControlTimer(node, 10.0, lambda: None)
    for simulated in (True, False):
        node.get_clock()._set_ros_time_is_active(simulated)
        timer.follow_clock()
        assert timer._timer.is_canceled()
    timer.start()
    node.get_clock()._set_ros_time_is_active(True)
    timer.follow_clock()
    assert not timer._timer.is_canceled()
    timer.stop()
    assert timer._timer.is_canceled()


def test_simulated_time_needs_one_publisher(node):
    assert clock_problem(node) == ""
    node.set_parameters([Parameter("use_sim_time", value=True)])
    assert clock_problem(node).startswith("use_sim_time is true and nobody publishes /clock; start the simulator, or")
    clocks = [rclpy.create_node(name, context=node.context) for name in ("gazebo", "player")]
    for number, told in enumerate(("", "/gazebo and /player publish /clock, so that time jumps; leave one of them")):
        clocks[number].create_publisher(Clock, "/clock", 1)
        until = time.monotonic() + PATIENCE
        while node.count_publishers("/clock") <= number and time.monotonic() < until:
            time.sleep(0.01)
        assert clock_problem(node) == told
    for clock in clocks:
        clock.destroy_node()


def test_a_session_has_such_a_timer(open_bench):
    bench = open_bench()
    before = bench.session.timer._timer
    assert before.clock is bench.node.get_clock()
    bench.node.set_parameters([Parameter("use_sim_time", value=False)])
    assert bench.session.timer.runs and bench.session.timer._timer.clock is not bench.node.get_clock()
