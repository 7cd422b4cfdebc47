# SPDX-License-Identifier: Apache-2.0
"""Memory, control ticks and latency of a soak over time."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from specprune_ros.soak.verdict import MAX_GROWTH, MAX_TICK, Series, warm_up

matplotlib.use("Agg")  # no display needed

MEMORY, NODE, MACHINE, AGE = "#2f5d8c", "#b5303a", "#b0b0b0", "#d08c2e"
ABOVE = {"loc": "lower right", "bbox_to_anchor": (1, 1), "frameon": False, "ncols": 3}  # no points to hide there


def plot(series: Series, path: Path) -> None:
    """Write a PNG."""
    figure = Figure(figsize=(11, 8), layout="constrained", dpi=120)
    memory, ticks, latency = figure.subplots(3, 1, sharex=True)
    start = series.memory[0][0]

    times, anonymous, _ = np.array(series.memory).T
    settled = warm_up(series)
    level = np.median(anonymous[times - start >= settled][:10])
    memory.plot((times - start) / 60, anonymous, color=MEMORY)
    memory.axhspan(level - MAX_GROWTH, level + MAX_GROWTH, color=MEMORY, alpha=0.1, label=f"± {MAX_GROWTH:g} MiB")
    memory.axvline(settled / 60, color="black", linewidth=0.8, linestyle=":", label="end of the warm-up")
    memory.set_ylabel("anonymous memory (MiB)")
    memory.legend(**ABOVE)

    minutes = np.array([(tick.stamp - start) / 60 for tick in series.ticks])
    gaps = np.array([tick.gap for tick in series.ticks]) * 1e3
    own = gaps - np.array([tick.machine for tick in series.ticks]) * 1e3
    ticks.plot(minutes, gaps, ".", color=MACHINE, markersize=3, label="all")
    ticks.plot(minutes, np.maximum(own, np.minimum(gaps, series.period * 1e3)), ".", color=NODE, markersize=2)
    ticks.plot([], [], ".", color=NODE, label="without waiting for the machine")
    ticks.axhline(MAX_TICK * series.period * 1e3, color="black", linewidth=0.8, linestyle="--", label="allowed")
    ticks.set_ylabel("from one control tick\nto the next (ms)")
    ticks.set_yscale("log")
    ticks.legend(**ABOVE)

    minutes = np.array([(inference[0] - start) / 60 for inference in series.inferences])
    latency.plot(minutes, [inference[2] * 1e3 for inference in series.inferences], ".", color=AGE, markersize=2)
    latency.plot(minutes, [inference[1] * 1e3 for inference in series.inferences], ".", color=MEMORY, markersize=2)
    latency.plot([], [], ".", color=AGE, label="age of the observation")
    latency.plot([], [], ".", color=MEMORY, label="inference")
    latency.set_ylabel("latency (ms)")
    latency.set_xlabel("minutes")
    latency.set_yscale("log")
    latency.legend(**ABOVE)

    for axes in (memory, ticks, latency):
        axes.grid(alpha=0.25)
    figure.savefig(path)
