# SPDX-License-Identifier: Apache-2.0
"""Video, plot, speed-up and summary of an episode that the tiny checkpoint answered."""

import json
import math
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from specprune_ros.demo.report import draw_frames, draw_side_by_side, write_report
from specprune_ros.demo.speedup import measure_speedup
from specprune_ros.demo.summary import percentiles, summarize
from specprune_ros.policy import Observation, Policy
from specprune_ros.viewing.episode import Episode
from specprune_ros.viewing.plots import plot_latency_and_speed
from specprune_ros.viewing.video import write_video

CHECKPOINT = Path(__file__).parent / "data" / "tiny_oft"
FRAMES = 8


@pytest.fixture(scope="module")
def pruned():
    return Policy.from_checkpoint(CHECKPOINT, pruning="paper")


@pytest.fixture(scope="module")
def dense():
    return Policy.from_checkpoint(CHECKPOINT)


@pytest.fixture(scope="module")
def episode(pruned):
    """A bright square crosses both views, ever faster; an inference on every other frame."""
    generator = np.random.default_rng(1)
    background = generator.integers(40, 120, (256, 256, 3), dtype=np.uint8)
    episode = Episode("pick up the bowl", real_time_factors=[0.5, 0.7], success=True, wall_seconds=2.0)
    for number in range(FRAMES):
        frame = background.copy()
        frame[100:140, 20 * number : 20 * number + 40] = 250
        twist = None if number == 0 else np.array([0.03 * number, 0, 0, 0, 0, 0.05])
        seen = Observation(
            {"primary": frame, "wrist": frame}, np.zeros(8), episode.instruction, 3 + 0.1 * number, twist
        )
        episode.observations.append(seen)
        if number % 2 == 0:
            episode.chunks.append(pruned.act(seen))
            episode.ages.append(0.05)
    return episode


def beginning(episode, frames):
    count = -(-frames // 2)
    return Episode(episode.instruction, episode.observations[:frames], episode.chunks[:count], episode.ages[:count])


def test_newest_chunk(episode):
    assert episode.newest_chunk(2.9) == -1
    assert episode.newest_chunk(episode.start) == episode.newest_chunk(episode.start + 0.1) == 0
    assert episode.newest_chunk(99.0) == FRAMES // 2 - 1
    assert episode.duration == pytest.approx(0.1 * (FRAMES - 1))


def test_summary(episode):
    summary = summarize(episode)
    assert summary["success"] is True and summary["frames"] == FRAMES and summary["inferences"] == FRAMES // 2
    assert summary["real_time_factor"] == 0.6
    assert summary["mode_share"]["dense"] == 0.25  # the first one: there is no history yet
    assert sum(summary["mode_share"].values()) == pytest.approx(1.0)
    assert summary["reasons"]["dense: no_history"] == 1
    assert summary["patches"] == summary["kept"]["dense"]["after_last_layer"] == 512
    assert summary["kept"]["fine"]["after_last_layer"] < summary["kept"]["fine"]["after_static_selection"] < 512
    assert 0 < summary["flop_share"] < 1
    assert 0 < summary["inference_ms"]["p50"] <= summary["inference_ms"]["p99"] <= summary["inference_ms"]["max"]
    assert summary["end_effector_speed_m_s"]["max"] == pytest.approx(0.21)
    json.dumps(summary, allow_nan=False)


def test_summary_of_an_episode_without_inferences(episode):
    summary = summarize(Episode("wait", observations=episode.observations))
    assert summary["inferences"] == 0 and summary["inference_ms"]["p50"] is None and summary["mode_share"] == {}
    json.dumps(summary, allow_nan=False)


def test_percentiles_of_nothing():
    assert percentiles([]) == {"p50": None, "p99": None, "max": None}


def test_frames_show_the_views_and_change(episode, dense):
    first, *_, last = frames = list(draw_frames(episode, dense))
    assert len(frames) == FRAMES
    assert all(frame.shape == first.shape and frame.dtype == np.uint8 for frame in frames)
    assert first.shape[0] % 2 == first.shape[1] % 2 == 0
    assert (first != last).mean() > 0.02


def test_a_frame_before_the_first_inference(episode, dense):
    waiting = Episode("wait", observations=episode.observations[:1])
    (frame,) = draw_frames(waiting, dense)
    assert frame.std() > 10


def test_video_decodes(tmp_path):
    frames = [np.full((64, 96, 3), 30 * number, np.uint8) for number in range(1, 6)]
    assert write_video(tmp_path / "video.mp4", iter(frames), 7.5) == 5
    with av.open(str(tmp_path / "video.mp4")) as video:
        assert float(video.streams.video[0].average_rate) == 7.5
        decoded = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert [image.shape for image in decoded] == [(64, 96, 3)] * 5
    assert [round(image.mean() / 30) for image in decoded] == [1, 2, 3, 4, 5]


def test_no_frames_no_video(tmp_path):
    assert write_video(tmp_path / "video.mp4", [], 10.0) == 0
    assert not (tmp_path / "video.mp4").exists()


@pytest.mark.parametrize("chunks", [0, 1])
def test_plot_of_few_chunks(episode, pruned, tmp_path, chunks):
    short = Episode(episode.instruction, episode.observations, episode.chunks[:chunks])
    plot_latency_and_speed(short, pruned.pruning, tmp_path / "plot.png")
    check_plot(tmp_path / "plot.png")


def check_plot(path):
    picture = np.asarray(Image.open(path).convert("RGB"))
    assert picture.shape[1] > 1000 and picture.std() > 10


def test_speedup_repeats_the_episodes_modes(episode, pruned, dense):
    modes = [chunk.pruning.mode for chunk in episode.chunks]
    stamps = {chunk.stamp for chunk in episode.chunks}
    measured = measure_speedup(dense, pruned, episode.observations, stamps)
    assert measured["frames"] == len(modes)
    assert {mode: pairs["frames"] for mode, pairs in measured["per_mode"].items()} == {m: modes.count(m) for m in modes}
    assert measured["speedup"] == pytest.approx(measured["dense_p50_ms"] / measured["pruned_p50_ms"], rel=0.01)


def test_side_by_side_shows_the_same_time_and_keeps_the_last_picture(episode, dense):
    long, short = beginning(episode, 4), beginning(episode, 2)
    whole, half = list(draw_frames(long, dense)), list(draw_frames(short, dense))
    frames = list(draw_side_by_side([long, short], dense, 0.1))
    assert len(frames) == 4
    width = whole[0].shape[1]
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame[:, :width], whole[i])
        np.testing.assert_array_equal(frame[:, width:], half[min(i, 1)])
    assert len(list(draw_side_by_side([long, short], dense, 0.05))) == 7


def test_report(episode, pruned, dense, tmp_path):
    said = []
    summary = write_report(episode, dense, pruned, tmp_path, {"task": 3}, said.append)
    written = {"video.mp4", "strip.png", "latency_and_speed.png", "summary.json"}
    assert {path.name for path in tmp_path.iterdir()} == written
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["task"] == 3 and math.isfinite(summary["speedup_vs_dense"]["speedup"]) and said
    check_plot(tmp_path / "latency_and_speed.png")


def test_report_without_pruning(episode, dense, tmp_path):
    assert write_report(beginning(episode, 2), dense, None, tmp_path, {}, str)["speedup_vs_dense"] is None
    check_plot(tmp_path / "latency_and_speed.png")
