# SPDX-License-Identifier: Apache-2.0
"""What training saves is what the policy runs."""

import json

import numpy as np
import pytest
import torch
from training_data import episode, write_data

from specprune_ros.errors import ConfigError
from specprune_ros.policy import Observation, Policy
from training.batched_model import decode, see
from training.episodes import episode_paths, read_episode
from training.export import export
from training.initialization import random_model
from training.settings import read_settings
from training.train import SETTINGS, Trainer

SIZES = {"image_size": 56, "patch_size": 14, "tower_width": 16, "tower_depth": 2, "tower_heads": 2}
SIZES |= {"projector_width": 16}
SIZES |= {"hidden_size": 24, "inner_size": 32, "num_layers": 3, "num_heads": 2, "head_width": 16}
SCHEDULE = {"batch_size": 4, "localization_steps": 2, "cloning_steps": 2, "precision": "float32", "held_out_share": 0.5}


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    data = write_data(tmp_path_factory.mktemp("data"))
    trainer = Trainer(data, tmp_path_factory.mktemp("run"), read_settings(SETTINGS, SIZES | SCHEDULE), "cpu")
    trainer.train()
    return trainer


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.05)])
def test_the_policy_acts_as_the_trained_model_does(trainer, tmp_path, dtype, tolerance):
    """But for a pixel here and there: training resizes by torch, the policy by products, within 1 of 255."""
    folder = tmp_path / "checkpoint"
    export(trainer.model, trainer._tokenizer, trainer._statistics, folder, trainer.step, dtype)
    policy = Policy.from_checkpoint(folder)
    assert policy.chunk_length == 8 and policy.num_views == 2 and policy.patch_grid == (4, 4) and policy.center_crop

    with torch.no_grad():
        batch = trainer.samples.batch(np.array([5]), None)
        features = see(trainer.model, batch.frames)
        steps, _ = decode(trainer.model, features, batch.proprio, trainer.learner.prompts(batch.instructions))
        expected = trainer.model.action_head(steps).float()[0]
    recorded = read_episode(episode_paths(trainer.samples.folder)[0])  # as the video gives it back
    observation = Observation(
        {view: frames[5] for view, frames in recorded.frames.items()},
        recorded.proprio[5].astype(np.float64),
        recorded.facts["instruction"],
    )
    actions = policy.act(observation).actions
    np.testing.assert_allclose(actions, policy._normalizer.unnormalize_actions(expected.numpy()), atol=tolerance)


def test_a_new_export_replaces_the_old_one(trainer, tmp_path):
    for step in (7, 8):
        export(trainer.model, trainer._tokenizer, trainer._statistics, tmp_path / "c", step, torch.bfloat16)
    names = {path.name for path in (tmp_path / "c").iterdir()}
    assert "action_head--8_checkpoint.pt" in names and "action_head--7_checkpoint.pt" not in names
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_pruning_runs_on_an_exported_checkpoint(trainer):
    policy = Policy.from_checkpoint(trainer.out / "checkpoint", pruning="paper")
    recorded = episode(0)
    for step in range(2):
        views = {view: frames[step] for view, frames in recorded.frames.items()}
        chunk = policy.act(Observation(views, recorded.proprio[step], "pick up the bowl", 0.4 * step))
    assert chunk.pruning.mode in ("coarse", "fine") and chunk.pruning.flop_share < 1


@pytest.mark.parametrize("name", ["nano.yaml", "nano_coarse.yaml", "nano_gpu.yaml"])
def test_shipped_sizes_fit_into_the_repository(name, tmp_path):
    sizes = read_settings(SETTINGS.with_name(name)).sizes
    assert sizes.num_layers >= 12
    model = random_model(sizes.model(), 0)
    extra = sum(p.numel() for tower in model.towers for p in tower.blocks[-1].parameters())
    weights = 2 * (sum(parameter.numel() for parameter in model.parameters()) + extra)
    assert weights < 24.8e6


def test_the_settings_say_what_is_wrong(tmp_path):
    with pytest.raises(ConfigError, match="batch_sice is not a parameter"):
        read_settings(SETTINGS, {"batch_sice": 3})
    with pytest.raises(ConfigError, match="is not a multiple of"):
        read_settings(SETTINGS, {"image_size": 100})
    with pytest.raises(ConfigError, match="does not divide"):
        read_settings(SETTINGS, {"num_heads": 7})
    path = tmp_path / "bad.yaml"
    path.write_text(json.dumps({"size": {}}))
    with pytest.raises(ConfigError, match="size is not a group"):
        read_settings(path)
