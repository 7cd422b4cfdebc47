# SPDX-License-Identifier: Apache-2.0
"""Latency and speed of an episode over time."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from specprune_ros.engine.stage_clock import STAGES
from specprune_ros.pruning.config import PruningConfig
from specprune_ros.viewing.episode import Episode
from specprune_ros.viewing.mode_colors import MODE_COLORS

matplotlib.use("Agg")  # no display needed

MODE_OPACITY = 0.16
LINEAR, ANGULAR = "#b5303a", "#5b4b8a"


def plot_latency_and_speed(episode: Episode, pruning: PruningConfig | None, path: Path) -> None:
    """Write a PNG: stages of every inference above, end-effector speed below, both shaded by pruning mode.

    `pruning` gives the thresholds of the fine mode; None draws none.
    """
    figure = Figure(figsize=(11, 7), layout="constrained", dpi=120)
    latency, speed = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1))
    figure.suptitle(episode.instruction, fontsize=12)
    _plot_latency(latency, episode)
    _plot_speed(speed, episode, pruning)
    for axes in (latency, speed):
        _shade_modes(axes, episode)
        axes.grid(alpha=0.25)
    modes = [mode for mode in MODE_COLORS if any(chunk.pruning.mode == mode for chunk in episode.chunks)]
    patches = [Patch(color=MODE_COLORS[mode], alpha=0.5, label=mode) for mode in modes]
    figure.legend(handles=patches, title="pruning mode", loc="outside lower center", ncols=len(modes) or 1)
    speed.set_xlabel("simulated time since motion was enabled (s)")
    speed.set_xlim(0, max(episode.duration, 1e-3))
    figure.savefig(path)


def _plot_latency(axes: Axes, episode: Episode) -> None:
    times = np.array([chunk.stamp for chunk in episode.chunks]) - episode.start
    width = float(np.median(np.diff(times))) if len(times) > 1 else 0.1
    bottom = np.zeros(len(times))
    colors = matplotlib.colormaps["cividis"](np.linspace(0.05, 0.95, len(STAGES)))
    for stage, color in zip(STAGES, colors, strict=True):
        heights = np.array([chunk.stage_seconds.get(stage, 0.0) * 1e3 for chunk in episode.chunks])
        axes.bar(times, heights, width * 0.8, bottom, align="edge", color=color, label=stage, zorder=2)
        bottom += heights
    totals = np.array([chunk.seconds * 1e3 for chunk in episode.chunks])
    axes.plot(times + width * 0.4, totals, "k_", markersize=5, label="whole inference", zorder=3)
    if len(totals):
        for quantile, style in ((50, "--"), (99, ":")):
            value = np.percentile(totals, quantile)
            axes.axhline(value, color="black", linewidth=1, linestyle=style, label=f"p{quantile}: {value:.0f} ms")
    axes.set_ylabel("inference (ms)")
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _plot_speed(axes: Axes, episode: Episode, pruning: PruningConfig | None) -> None:
    times = np.array([observation.stamp for observation in episode.observations]) - episode.start
    unknown = np.full(6, np.nan)
    twists = np.array([unknown if seen.twist is None else seen.twist for seen in episode.observations])
    angular = axes.twinx()
    lines = axes.plot(times, np.linalg.norm(twists[:, :3], axis=1), color=LINEAR, label="linear speed")
    lines += angular.plot(
        times, np.linalg.norm(twists[:, 3:], axis=1), color=ANGULAR, linewidth=1, label="angular speed"
    )
    if pruning is not None and pruning.controller:
        for side, threshold, color, label in (
            (axes, pruning.translation_threshold, LINEAR, "fine below {:g} m/s"),
            (angular, pruning.rotation_threshold, ANGULAR, "and below {:g} rad/s"),
        ):
            line = side.axhline(threshold, color=color, linestyle="--", linewidth=1, label=label.format(threshold))
            lines.append(line)
    axes.set_ylabel("end-effector speed (m/s)", color=LINEAR)
    angular.set_ylabel("angular speed (rad/s)", color=ANGULAR)
    axes.set_ylim(0, axes.get_ylim()[1])
    angular.set_ylim(0, angular.get_ylim()[1] * 1.15)  # so that the two thresholds do not lie on one line
    axes.legend(handles=lines, loc="center left", bbox_to_anchor=(1.07, 0.5), frameon=False)


def _shade_modes(axes: Axes, episode: Episode) -> None:
    """The background between an inference and the next one has the colour of its mode."""
    stamps = [chunk.stamp - episode.start for chunk in episode.chunks]
    ends = [*stamps[1:], max(episode.duration, stamps[-1])] if stamps else []
    for chunk, begin, end in zip(episode.chunks, stamps, ends, strict=True):
        axes.axvspan(begin, end, color=MODE_COLORS[chunk.pruning.mode], alpha=MODE_OPACITY, linewidth=0, zorder=0)
