# SPDX-License-Identifier: Apache-2.0
"""Weights, adapter, statistics and config.json of one training are used together, and no others with them."""

import json
import shutil

import numpy as np
import pytest
import torch
from golden_sets import golden_set
from safetensors.torch import save_file

from specprune_ros.doctor.__main__ import main as doctor
from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.checkpoint import load

KEY = "libero_object_no_noops"


@pytest.fixture
def film(tmp_path):
    return shutil.copytree(golden_set("film").folder, tmp_path / "film")


@pytest.fixture
def lora(tmp_path):
    """Folder and base of an un-merged adapter."""
    root = shutil.copytree(golden_set("lora").root, tmp_path / "lora")
    return root / "finetuned--30000_chkpt", root / "base"


def refused(folder, base=None, **arguments) -> str:
    with pytest.raises(CheckpointError) as error:
        load(folder, base_checkpoint=base, **arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def edit(path, **changes):
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))


def add_adapter(folder, rank, alpha, module="vision_backbone.vision_backbone.featurizer.blocks.0.block.attn.qkv"):
    (folder / "lora_adapter").mkdir(exist_ok=True)
    edit(folder / "lora_adapter" / "adapter_config.json", peft_type="LORA", r=rank, lora_alpha=alpha)
    name = f"base_model.model.{module}.lora_"
    factors = {f"{name}A.weight": torch.ones(rank, 4), f"{name}B.weight": torch.ones(4, rank)}
    save_file(factors, folder / "lora_adapter" / "adapter_model.safetensors")


def film_rank(folder):
    state = torch.load(next(folder.glob("vision_backbone--*")), weights_only=True)
    return next(len(tensor) for name, tensor in state.items() if ".lora_A." in name)


def test_an_adapter_of_another_rank_does_not_scale_films_towers(film):
    rank = film_rank(film)
    add_adapter(film, rank, min(rank, 16))
    kept = load(film).model.state_dict()
    shutil.rmtree(film / "lora_adapter")
    plain = load(film).model.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in plain.items())
    add_adapter(film, 4 * rank, 16)
    message = refused(film)
    assert f"are of rank {rank}, but r in" in message and f"is {4 * rank}; copy both files" in message


@pytest.mark.parametrize("merged", [True, False])
def test_films_towers_are_missed_where_its_adapter_is(film, lora, merged):
    folder, base = (film, None) if merged else lora
    for file in folder.glob("vision_backbone--*"):
        file.unlink()
    add_adapter(folder, 4, 4)
    assert "vision_backbone--STEP_checkpoint.pt is missing; copy it" in refused(folder, base)
    if merged:  # one that cannot be read says nothing
        (folder / "lora_adapter" / "adapter_model.safetensors").write_bytes(b"")
        assert load(folder).model.config.film is False


def test_facts_of_the_training_win_over_those_of_its_base(lora):
    folder, base = lora
    edit(base / "config.json", center_crop=False, proprio_normalization="bounds")
    found = load(folder, base_checkpoint=base)
    assert found.family.center_crop and found.facts["center_crop"].assumed
    edit(folder / "config.json", center_crop=False, chunk_length=4)
    edit(base / "config.json", center_crop=True)
    family = load(folder, base_checkpoint=base).family
    assert (family.center_crop, family.chunk_length) == (False, 4)


def test_facts_of_an_unknown_robot_are_read_beside_the_adapter(lora, capsys):
    folder, base = lora
    whole = load(folder, base_checkpoint=base)
    statistics = json.loads((folder / "dataset_statistics.json").read_text())
    (folder / "dataset_statistics.json").write_text(json.dumps({"my_robot": statistics[KEY]}))
    assert "not known" in refused(folder, base)
    told = {name: getattr(whole.family, name) for name in whole.facts}
    told = {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}
    edit(folder / "config.json", **told)
    assert load(folder, base_checkpoint=base).unnorm_key == "my_robot"
    doctor([str(folder), "--base", str(base), "--json"])
    checks = {row["name"]: row for row in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["facts"]["verdict"] == "pass"


def test_statistics_of_the_base_are_not_those_of_the_training(lora):
    folder, base = lora
    statistics = json.loads((folder / "dataset_statistics.json").read_text())
    (folder / "dataset_statistics.json").unlink()
    edit(base / "config.json", norm_stats=statistics)
    assert "dataset_statistics.json is missing" in refused(folder, base)
    edit(folder / "config.json", norm_stats=statistics)
    assert load(folder, base_checkpoint=base).unnorm_key == KEY


def test_proprio_of_zeros_does_not_serve_a_proprio_projector(film):
    path = film / "dataset_statistics.json"
    statistics = json.loads(path.read_text())
    (entry,) = statistics.values()
    entry["proprio"] = {
        name: np.zeros_like(values).tolist() for name, values in entry["proprio"].items() if name != "mask"
    }
    path.write_text(json.dumps(statistics))
    assert "has a proprio projector, but the proprio of" in refused(film)
    next(film.glob("proprio_projector--*")).unlink()
    assert load(film).model.config.proprio_dim == 0
