# SPDX-License-Identifier: Apache-2.0
"""Clocks that jump, change or stop."""

import time

import pytest

pytest.importorskip("rclpy")

from faults import HOLDS, fault

pytestmark = pytest.mark.ros

TIME = "Clocks"
SIMULATED = -1000.0  # seconds from wall time to simulated time
JUMP = 50.0  # seconds

CLOCK_BACK = fault(TIME, "simulated clock jumps back (a restart, a reset)", HOLDS, "inputs", "clock jumps: ")
NO_CLOCK = fault(
    TIME,
    "use_sim_time is set and nobody publishes /clock",
    HOLDS,
    "inference",
    "or set use_sim_time on every node",
)
INPUTS_IN_ANOTHER_TIME = fault(
    TIME,
    "inputs are stamped in wall time, the node uses simulated time",
    HOLDS,
    "inference",
    "in the future; synchronise the clocks, or set use_sim_time",
    "when all nodes use one clock",
)


def stop_since(bench, onset):
    """Until the node has told the arm to stop after `onset`, judged by arrival: its clock is what is broken."""
    stops = bench.wait(
        lambda: [sent for sent in bench.sent if sent.arrival >= onset and not sent.moves], "a zero twist"
    )
    assert stops[0].arrival - onset < 1.0 + bench.delay(onset)


@pytest.fixture
def simulated(bench):
    """The bench in simulated time, moving."""
    bench.clock_offset = bench.offset = SIMULATED
    assert bench.set(use_sim_time=True) == ""
    bench.wait_until_moving("motion in simulated time")
    yield bench
    bench.clock_offset = None
    bench.good()
    assert bench.set(use_sim_time=False) == ""
    bench.wait_until_moving("motion in wall time")


def test_clock_jumps_back(simulated):
    simulated.clock_offset = simulated.offset = SIMULATED - JUMP
    stop_since(simulated, time.time())
    simulated.wait_until_moving("motion after the jump")
    simulated.says(CLOCK_BACK)


def test_nobody_publishes_the_clock(bench):
    onset = time.time()
    assert bench.set(use_sim_time=True) == ""
    stop_since(bench, onset)
    bench.says(NO_CLOCK)
    bench.assert_held(onset, by_arrival=True)
    assert bench.set(use_sim_time=False) == ""
    bench.recover()


def test_inputs_in_another_time(simulated):
    simulated.offset = 0.0
    onset = time.time()
    simulated.assert_held(onset, by_arrival=True)
    simulated.says(INPUTS_IN_ANOTHER_TIME)
    simulated.offset = SIMULATED
    simulated.wait_until_moving("motion after the fault")
