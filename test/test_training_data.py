# SPDX-License-Identifier: Apache-2.0
"""Demonstration files, samples and crops."""

import json

import numpy as np
import pytest
import torch
from training_data import INSTRUCTIONS, episode, write_data

from specprune_ros.openvla import preprocessing
from specprune_ros.openvla.preprocessing import CenterCrop
from specprune_ros.openvla.statistics import normalizer
from training.data import DataError, Samples, crop, cropped_points
from training.data_card import statistics_key
from training.episodes import VIEWS, read_episode, write_episode

KEY = statistics_key("synthetic")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def statistics(folder):
    return {KEY: normalizer(json.loads((folder / "dataset_statistics.json").read_text()), KEY, "quantile")}


def test_an_episode_survives_its_file(tmp_path):
    written = episode(3)
    write_episode(tmp_path / "a" / "b.npz", written)
    read = read_episode(tmp_path / "a" / "b.npz")
    np.testing.assert_array_equal(read.actions, written.actions)
    np.testing.assert_array_equal(read.proprio, written.proprio)
    np.testing.assert_array_equal(read.points, written.points.astype(np.float32))
    np.testing.assert_array_equal(read.goal, written.goal.astype(np.float32))
    assert read.facts == written.facts
    for view in VIEWS:  # the video loses little, and no frame
        assert read.frames[view].shape == written.frames[view].shape
        assert np.abs(read.frames[view].astype(int) - written.frames[view]).mean() < 3
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.npz"]


def test_statistics_are_those_of_all_steps(folder):
    entry = json.loads((folder / "dataset_statistics.json").read_text())[KEY]
    actions = np.concatenate([episode(seed).actions for seed in range(4)])
    np.testing.assert_allclose(entry["action"]["q99"], np.quantile(actions, 0.99, axis=0), atol=1e-6)
    np.testing.assert_allclose(entry["action"]["mean"], actions.mean(axis=0), atol=1e-6)
    assert entry["action"]["mask"] == [True] * 6 + [False]
    assert entry["num_transitions"] == 80 and entry["num_trajectories"] == 4
    assert "4 episodes, 80 steps" in (folder / "README.md").read_text()


def test_statistics_are_named_as_the_public_checkpoints_name_them():
    assert statistics_key("libero_goal_swap") == "libero_goal_no_noops"
    assert statistics_key("libero_10") == "libero_4_task_suites_no_noops"


def test_every_suite_has_statistics_of_its_own_and_is_normalized_with_them(tmp_path):
    folder = write_data(write_data(tmp_path, 2), 2, suite="libero_object", shift=5.0)
    known = json.loads((folder / "dataset_statistics.json").read_text())
    assert [known[key]["num_trajectories"] for key in (KEY, "libero_object_no_noops")] == [2, 2]
    norms = {key: normalizer(known, key, "quantile") for key in known}
    samples = Samples(folder, 56, norms, CPU)
    batch = samples.batch(samples.split(0)[0], None)
    per_suite = batch.proprio.reshape(2, -1, 8)  # libero_object first: files are sorted
    torch.testing.assert_close(per_suite[0], per_suite[1], atol=1e-5, rtol=0)
    assert (per_suite.abs() < 1).float().mean() > 0.8
    with pytest.raises(DataError, match="no statistics of libero_object_no_noops"):
        Samples(folder, 56, {KEY: norms[KEY]}, CPU)


def test_chunks_stay_inside_their_episode(folder):
    samples = Samples(folder, 56, statistics(folder), CPU)
    training, held_out = samples.split(0.0)
    assert len(training) == 4 * (20 - 8 + 1) and len(held_out) == 0
    batch = samples.batch(np.array([12]), None)  # the last chunk of the first episode
    norm = statistics(folder)[KEY]
    np.testing.assert_allclose(
        norm.unnormalize_actions(batch.actions[0].numpy()),
        np.clip(
            episode(0).actions[12:20],
            *[np.where(norm.action.mask, b, e) for b, e in ((norm.action.low, 0), (norm.action.high, 1))],
        ),
        atol=1e-5,
    )
    np.testing.assert_allclose(batch.proprio[0], norm.normalize_proprio(episode(0).proprio[12]), atol=1e-6)
    assert batch.instructions == [INSTRUCTIONS[0]]
    assert samples.kinds == ["bowl", "gripper"] and batch.kinds.tolist() == [[0, 0, 1]]


def test_held_out_episodes_stay_held_out(folder):
    samples = Samples(folder, 56, statistics(folder), CPU)
    for share in (0.2, 0.5, 0.9):
        training, held_out = samples.split(share)
        assert not set(training // 20) & set(held_out // 20)
        assert set(samples.split(0.9)[1]) >= set(held_out)


def test_frames_are_decoded_once_and_again_for_other_episodes(tmp_path):
    folder = write_data(tmp_path, 2)
    Samples(folder, 56, statistics(folder), CPU)
    (cache,) = folder.glob(".frames-*")
    before = cache.stat().st_mtime_ns
    Samples(folder, 56, statistics(folder), CPU)
    assert cache.stat().st_mtime_ns == before
    write_data(folder, 3)
    assert len(Samples(folder, 56, statistics(folder), CPU).split(0)[0]) == 39
    assert [path.name for path in folder.glob(".frames-*")] != [cache.name]


def test_frames_of_a_torch_without_lanczos_are_the_same(tmp_path, monkeypatch):
    folders = write_data(tmp_path / "new", 2), write_data(tmp_path / "old", 2)
    expected = Samples(folders[0], 28, statistics(folders[0]), CPU).batch(np.arange(13), None).frames
    monkeypatch.setattr(preprocessing, "TORCH_HAS_LANCZOS", False)
    monkeypatch.setattr(torch.nn.functional, "interpolate", None)
    found = Samples(folders[1], 28, statistics(folders[1]), CPU).batch(np.arange(13), None).frames
    assert (found.int() - expected.int()).abs().max() <= 2  # either within 1 of Pillow's


def test_a_folder_without_episodes_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no episodes"):
        Samples(tmp_path, 56, {}, CPU)


def test_the_middle_crop_is_the_one_of_inference():
    frames = torch.randint(0, 256, (2, 2, 56, 56, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    middle = torch.full((2, 2, 2), (1 - 0.9**0.5) / 2)
    expected = CenterCrop(56, CPU)(frames.flatten(0, 1)).unflatten(0, (2, 2))
    difference = crop(frames, middle).int() - expected.int()
    assert difference.abs().max() <= 1 and (difference != 0).float().mean() < 0.01  # rounding alone


def test_points_move_with_the_crop():
    size = 112
    frames = torch.zeros(1, 1, size, size, 3, dtype=torch.uint8)
    frames[0, 0, 40:44, 60:64] = 255  # centre at 62, 42 pixels
    points = torch.tensor([[[[62 / size, 42 / size], [0.999, 0.5], [float("nan")] * 2]]])
    corners = torch.tensor([[[0.01, 0.045]]])
    moved = cropped_points(points, corners, size)[0, 0]
    cropped = crop(frames, corners)[0, 0, ..., 0].float()
    weights = cropped / cropped.sum()
    centre = [(weights.sum(dim=axis) @ (torch.arange(size) + 0.5)) / size for axis in (0, 1)]
    torch.testing.assert_close(moved[0], torch.stack(centre), atol=1e-3, rtol=0)
    assert moved[1:].isnan().all()  # cropped away, and never seen
