# SPDX-License-Identifier: Apache-2.0
"""A few moments of an episode in one picture."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from specprune_ros.openvla.preprocessing import seen_side
from specprune_ros.policy import Policy
from specprune_ros.viewing.episode import Episode
from specprune_ros.viewing.mode_colors import MODE_COLORS
from specprune_ros.viewing.patch_drawing import draw_kept

matplotlib.use("Agg")  # no display needed

MOMENTS = 6
SIDE = 2.1  # inches of a view
DRAWN = 336  # px, side at which patches are drawn; small images would show blurred edges


def plot_strip(episode: Episode, policy: Policy, path: Path) -> None:
    """Write a PNG: views (rows) with the patches kept after the static selection, at inferences (columns).

    The policy says how its views are cropped and cut into patches.
    """
    chunks = [episode.chunks[i] for i in np.linspace(0, len(episode.chunks) - 1, MOMENTS).round().astype(int)]
    crop = seen_side(policy.center_crop)
    seen = {observation.stamp: observation for observation in episode.observations}
    figure = Figure(figsize=(SIDE * MOMENTS, SIDE * policy.num_views + 0.7), layout="constrained", dpi=100)
    figure.suptitle(episode.instruction, fontsize=12)
    grid = figure.subplots(policy.num_views, MOMENTS, squeeze=False)
    for column, chunk in zip(grid.T, chunks, strict=True):
        observation = seen[min(seen, key=lambda stamp: abs(stamp - chunk.stamp))]
        report = chunk.pruning
        for axes, frame, kept in zip(column, observation.views.values(), report.kept_static, strict=True):
            axes.imshow(draw_kept(_enlarged(frame), kept, policy.patch_grid, crop))
            axes.set_axis_off()
        kept, every = sum(map(len, report.kept_static)), sum(report.patches)
        title = f"{chunk.stamp - episode.start:.1f} s, {report.mode}: {kept} of {every}"
        column[0].set_title(title, color=MODE_COLORS[report.mode], fontsize=9, weight="bold")
    figure.savefig(path)


def _enlarged(frame: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize((DRAWN, DRAWN), Image.Resampling.BICUBIC))
