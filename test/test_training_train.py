# SPDX-License-Identifier: Apache-2.0
"""A whole, tiny training run."""

import json

import numpy as np
import pytest
import torch
from training_data import write_data

from specprune_ros.errors import UserError
from training.loss_log import LossLog
from training.settings import read_settings
from training.train import EXPORT_DTYPE, SETTINGS, Trainer, main

SIZES = {
    "image_size": 56,
    "patch_size": 14,
    "tower_width": 32,
    "tower_depth": 2,
    "tower_heads": 2,
    "projector_width": 32,
}
SIZES |= {"hidden_size": 32, "inner_size": 64, "num_layers": 3, "num_heads": 2, "head_width": 32}
SCHEDULE = {"batch_size": 16, "precision": "float32", "held_out_share": 0.0, "learning_rate": 2e-3, "warm_up_steps": 5}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def trainer(data, out, start=None, **changes):
    return Trainer(data, out, read_settings(SETTINGS, SIZES | SCHEDULE | changes), "cpu", start)


@pytest.fixture
def no_plots(monkeypatch):
    """A picture of the losses costs more than the steps of a short run; `test_all_losses_fall` looks at one."""
    monkeypatch.setattr(LossLog, "plot", lambda *_: None)


def test_all_losses_fall(data, tmp_path):
    run = trainer(data, tmp_path, localization_steps=40, cloning_steps=60, validate_every=10, save_every=1000)
    run.train()
    rows = run.log.rows()
    assert [int(row["step"]) for row in rows] == list(range(10, 101, 10))
    assert float(rows[3]["samples_pixels"]) < 0.7 * float(rows[0]["samples_pixels"])
    last_l1 = np.mean([float(row["samples_l1"]) for row in rows[-3:]])  # of three, for batches differ
    assert last_l1 < 0.95 * float(rows[4]["samples_l1"])
    assert float(rows[-1]["samples_centimetres"]) < 0.5 * float(rows[4]["samples_centimetres"])
    assert (tmp_path / "losses.png").stat().st_size > 1000
    assert (tmp_path / "checkpoint" / "action_head--100_checkpoint.pt").exists()


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(data, tmp_path, no_plots):
    options = {"localization_steps": 3, "cloning_steps": 5, "validate_every": 2}
    whole = trainer(data, tmp_path / "whole", save_every=100, **options)
    whole.train()
    trainer(data, tmp_path / "parts", save_every=2, **options).train(until=4)
    resumed = trainer(data, tmp_path / "parts", save_every=2, **options)
    assert resumed.step == 4 and resumed.cloning
    resumed.train()
    for (name, one), two in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, msg=name)
    rows = [[row["step"], row["samples_l1"]] for row in resumed.log.rows()]
    assert rows == [[row["step"], row["samples_l1"]] for row in whole.log.rows()]


def test_validation_is_on_held_out_episodes(data, tmp_path, no_plots):
    run = trainer(data, tmp_path, held_out_share=0.5, localization_steps=0, cloning_steps=2)
    run.train()
    assert float(run.log.rows()[-1]["held_out_l1"]) > 0
    assert not np.intersect1d(run._training_rows, run._validation_rows).size


def test_other_settings_do_not_go_on_with_a_run(data, tmp_path):
    trainer(data, tmp_path, batch_size=3)
    with pytest.raises(UserError, match="trained with other settings"):
        trainer(data, tmp_path, batch_size=4)


def test_the_command_line_names_mistakes(data, tmp_path):
    with pytest.raises(UserError, match="not NAME=VALUE"):
        main([str(data), str(tmp_path), "--set", "batch_size"])
    with pytest.raises(UserError, match="is outside the allowed range"):
        main([str(data), str(tmp_path), "--set", "batch_size=0"])


def test_a_finer_run_starts_from_a_coarse_one_and_is_prepared_for_pruning(data, tmp_path, no_plots):
    coarse = trainer(data, tmp_path / "coarse", localization_steps=5, cloning_steps=5)
    coarse.train()
    options = {"patch_size": 7, "num_layers": 4, "localization_steps": 0, "cloning_steps": 40, "validate_every": 20}
    options |= {"dropping_share": 0.5, "grounding_weight": 1.0, "held_out_share": 0.5}
    fine = trainer(data, tmp_path / "fine", start=tmp_path / "coarse", **options)
    old, new = (run.model.proprio_projector.state_dict() for run in (coarse, fine))
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert (tmp_path / "fine" / "tokenizer.json").read_text() == (tmp_path / "coarse" / "tokenizer.json").read_text()
    dropped = [fine._drop(np.random.default_rng([0, step])) for step in range(40)]
    assert 10 < sum(drop is not None for drop in dropped) < 30
    fine.train()
    first, last = fine.log.rows()
    assert float(last["samples_grounding"]) < 0.9 * float(first["samples_grounding"])
    assert float(last["held_out_pruned_l1"]) > 0
    trainer(data, tmp_path / "fine", start=tmp_path / "nowhere", **options)  # going on needs no start any more
    with pytest.raises(UserError, match="as --start"):
        trainer(data, tmp_path / "new", start=tmp_path / "nowhere", **options)


def test_a_run_starts_from_a_checkpoint(data, tmp_path, no_plots):
    first = trainer(data, tmp_path / "first", localization_steps=1, cloning_steps=1)
    first.train()
    checkpoint = tmp_path / "first" / "checkpoint"
    second = trainer(data, tmp_path / "second", start=checkpoint, localization_steps=0, cloning_steps=1, seed=1)
    for (name, one), two in zip(first.model.state_dict().items(), second.model.state_dict().values(), strict=True):
        assert torch.equal(one.to(EXPORT_DTYPE).float(), two), name
    statistics = (tmp_path / "second" / "dataset_statistics.json").read_text()
    assert json.loads(statistics) == json.loads((checkpoint / "dataset_statistics.json").read_text())
    second.train()
    other = write_data(tmp_path / "other", 2, suite="libero_object", instruction="put the quince in the jar")
    third = trainer(other, tmp_path / "third", start=tmp_path / "second" / "checkpoint", cloning_steps=1)
    known = json.loads(statistics)
    assert third._statistics == known | json.loads((other / "dataset_statistics.json").read_text())
    words = third._tokenizer.encode("put the quince").tokens
    assert words == ["▁put", "▁the", "▁quince"]
    with pytest.raises(UserError, match="has the shape"):
        trainer(data, tmp_path / "wider", start=checkpoint, hidden_size=64)
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(UserError, match="safetensors"):
        trainer(data, tmp_path / "fourth", start=checkpoint)
