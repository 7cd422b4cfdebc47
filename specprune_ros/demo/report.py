# SPDX-License-Identifier: Apache-2.0
"""Video, plot and summary of an episode, in one folder."""

import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specprune_ros.demo.speedup import measure_speedup
from specprune_ros.demo.summary import summarize
from specprune_ros.openvla.preprocessing import seen_side
from specprune_ros.policy import Policy
from specprune_ros.viewing.episode import Episode
from specprune_ros.viewing.plots import plot_latency_and_speed
from specprune_ros.viewing.strip import plot_strip
from specprune_ros.viewing.video import write_video
from specprune_ros.viewing.video_frame import Timing, VideoFrame


def write_report(
    episode: Episode,
    dense: Policy,
    pruned: Policy | None,
    folder: Path,
    facts: dict[str, Any],
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Write video.mp4, strip.png, latency_and_speed.png and summary.json; returns what the summary holds.

    The policies are those of the episode, without and with pruning, for the speed-up on its frames; `pruned` is None
    when the episode ran without. `facts` go into the summary as they are. `progress` is told what comes next.
    """
    progress("writing the video")
    stamps = [observation.stamp for observation in episode.observations]
    period = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.1
    write_video(folder / "video.mp4", draw_frames(episode, dense), 1 / period)
    progress("drawing the pictures")
    plot_strip(episode, dense, folder / "strip.png")
    plot_latency_and_speed(episode, pruned.pruning if pruned else None, folder / "latency_and_speed.png")
    speedup = None
    if pruned is not None:
        progress("measuring the speed-up against dense on the same frames")
        speedup = measure_speedup(dense, pruned, episode.observations, {chunk.stamp for chunk in episode.chunks})
    summary = {**summarize(episode), "speedup_vs_dense": speedup, **facts}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def draw_side_by_side(episodes: list[Episode], policy: Policy, period: float) -> Iterator[NDArray[np.uint8]]:
    """Pictures of several episodes beside one another, every `period` seconds; one that is over keeps its last."""
    sides = [_held(episode, draw_frames(episode, policy), period) for episode in episodes]
    for _ in range(round(max(episode.duration for episode in episodes) / period) + 1):
        yield np.hstack([next(side) for side in sides])


def _held(episode: Episode, frames: Iterator[NDArray[np.uint8]], period: float) -> Iterator[NDArray[np.uint8]]:
    """The newest picture every `period` seconds, and the last one for ever."""
    newest, time = next(frames), 0.0
    for observation, picture in zip(episode.observations[1:], frames, strict=True):
        while time + period / 2 < observation.stamp - episode.start:
            yield newest
            time += period
        newest = picture
    yield from itertools.repeat(newest)


def draw_frames(episode: Episode, policy: Policy) -> Iterator[NDArray[np.uint8]]:
    """One picture per observation. The policy says how its view is cropped and cut into patches."""
    crop = seen_side(policy.center_crop)
    picture = VideoFrame(policy.num_views, policy.patch_grid, crop)
    factor = float(np.mean(episode.real_time_factors)) if episode.real_time_factors else math.nan
    for observation in episode.observations:
        index = episode.newest_chunk(observation.stamp)
        chunk, age = (episode.chunks[index], episode.ages[index]) if index >= 0 else (None, math.nan)
        yield picture.draw(observation, chunk, Timing(observation.stamp - episode.start, age, factor))
