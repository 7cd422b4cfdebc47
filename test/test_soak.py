# SPDX-License-Identifier: Apache-2.0
"""When a soak passes, and what the machine is blamed for."""

import os
import subprocess
import sys
import threading
import time

import pytest

from specprune_ros.soak.plot import plot
from specprune_ros.soak.process import MachineDelay
from specprune_ros.soak.verdict import Series, Tick, summary

PERIOD = 0.05
START = 1000.0
RATES = {"image_primary": 30.0}


def series(seconds=300, growth=0.0, gaps=(), machine=0.0, rate=30.0):
    """A soak of `seconds`; memory grows by `growth` MiB per minute; `gaps` are put among ticks that are on time."""
    result = Series(PERIOD, RATES)
    times = [START + second for second in range(seconds)]
    result.memory = [(t, 300 + growth * (t - START) / 60, 500.0) for t in times]
    result.inferences = [(t, 0.03, 0.05, "coarse") for t in times]
    result.rates = [{"/specprune_policy/image_primary Hz": rate} for _ in times]
    result.ticks = [Tick(START + k * PERIOD, PERIOD, 0.0, True) for k in range(seconds * 20)]
    result.ticks += [Tick(START + 100 + k, gap, machine, True) for k, gap in enumerate(gaps)]
    return result


def test_a_quiet_node_passes():
    found = summary(series())
    assert found["failures"] == []
    assert found["memory"]["warm_up_s"] == 60 and found["ticks"]["late_max_ms"] == pytest.approx(0)
    assert found["inference"]["rate_hz"] == pytest.approx(1.0) and found["inference"]["modes"] == {"coarse": 300}


def test_growth_counts_after_the_warm_up():
    assert "memory grew by" in summary(series(growth=2.0))["failures"][0]
    assert summary(series(growth=1.0))["failures"] == []
    warming = series()
    warming.memory = [(t, a + 100 * (t - START >= 50), r) for t, a, r in warming.memory]
    assert summary(warming)["failures"] == []


def test_late_ticks_fail_unless_the_machine_is_to_blame():
    late = summary(series(gaps=[0.12]))
    assert late["failures"] == ["the node missed control ticks for 2.4 periods; allowed: 2"]
    assert summary(series(gaps=[0.09]))["failures"] == []
    excused = summary(series(gaps=[0.5], machine=0.45))
    assert excused["failures"] == [] and excused["ticks"]["gaps_over_2_periods"] == 1
    assert excused["ticks"]["longest_gap_periods"] == pytest.approx(10)
    assert excused["ticks"]["longest_own_gap_periods"] == pytest.approx(1)


def test_less_than_the_full_input_is_no_soak():
    assert summary(series(rate=20.0))["failures"] == [
        "image_primary came at 20.0 Hz instead of 30: not the full input rate"
    ]
    silent = series()
    silent.rates = []
    assert len(summary(silent)["failures"]) == 1


def test_plot(tmp_path):
    plot(series(gaps=[0.2], machine=0.1), tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 10_000


ALLOCATE = """
import os
from specprune_ros.soak.process import memory
before = memory(os.getpid())
block = b"x" * (64 << 20)
after = memory(os.getpid())
print(*before, *after)
"""


def test_memory_of_a_process():
    # In a process of its own: this one may serve the block from memory that earlier tests have left free.
    told = subprocess.run([sys.executable, "-c", ALLOCATE], capture_output=True, text=True, check=True).stdout
    before, resident, after, _ = map(float, told.split())
    assert 0 < before <= resident and 60 < after - before < 70


def test_waiting_for_a_processor_is_the_machines_fault():
    delay = MachineDelay(os.getpid())
    try:
        time.sleep(0.3)
        start = time.time()
        busy = [threading.Thread(target=sum, args=(range(3_000_000),)) for _ in range(2)]
        for thread in busy:
            thread.start()
        time.sleep(0.3)
        end = time.time()
        assert 0 <= delay.between(start, end) <= end - start + 0.1
        assert delay.between(end + 50, end + 51) == pytest.approx(1.0)  # nothing was sampled: nobody ran
    finally:
        delay.close()
