# SPDX-License-Identifier: Apache-2.0
"""Weights, adapter, statistics and config.json of one training are used together, and no others with them."""

import json
import shutil

import numpy as np
import pytest
import torch
from golden_sets import golden_set
from safetensors.torch import load_file, save_file

from specprune_ros.doctor.__main__ import main as doctor
from specprune_ros.engine.precision import store_linears
from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.checkpoint import load
from specprune_ros.quantize.__main__ import main as quantize

KEY = "libero_object_no_noops"


@pytest.fixture
def film(tmp_path):
    return shutil.copytree(golden_set("film").folder, tmp_path / "film")


@pytest.fixture
def lora(tmp_path):
    """Folder and base of an un-merged adapter."""
    root = shutil.copytree(golden_set("lora").root, tmp_path / "lora")
    return root / "finetuned--30000_chkpt", root / "base"


PRECISION = "--precision", "int8"


def int8(model):
    store_linears(model, "int8", torch.device("cpu"))


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


@pytest.mark.parametrize("own", [{}, {"center_crop": False, "chunk_length": 4, "empty_token_id": 29872}], ids=str)
def test_an_unmerged_adapter_is_the_same_policy_quantised(lora, tmp_path, own):
    """Neither what the base's config.json says of its own training, nor its other small files, come along."""
    folder, base = lora
    edit(base / "config.json", center_crop=False, num_views=3, proprio_normalization="bounds", norm_stats={"a": {}})
    (base / "preprocessor_config.json").write_text("{}")
    if own:
        edit(folder / "config.json", **own)
    whole = load(folder, base_checkpoint=base, prepare=int8)
    (tmp_path / "arm.yaml").write_text(
        f"/**/specprune_policy:\n  ros__parameters:\n    model: {{base_checkpoint: {base}}}\n"
    )
    assert quantize([str(folder), str(tmp_path / "out"), *PRECISION, "--params-file", str(tmp_path / "arm.yaml")]) == 0
    small = load(tmp_path / "out", prepare=int8, precision="int8")
    assert (small.family, small.unnorm_key, small.model.config) == (whole.family, whole.unnorm_key, whole.model.config)
    assert small.tokenizer("pick up the bowl") == whole.tokenizer("pick up the bowl")
    state = small.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in whole.model.state_dict().items())


def test_paths_may_begin_with_the_home_folder(lora, tmp_path, monkeypatch):
    folder, base = lora
    monkeypatch.setenv("HOME", str(tmp_path))
    home = [f"~/{path.relative_to(tmp_path)}" for path in lora]
    assert quantize([home[0], "~/out", *PRECISION, "--base", home[1]]) == 0
    assert (tmp_path / "out").is_dir()
    shutil.copy(base / "model.safetensors", folder)
    shutil.copy(base / "config.json", folder)
    assert doctor([str(folder), "--base", home[1]]) == 1  # compared: the adapter was never merged


def test_a_quantised_base_is_refused(lora, tmp_path):
    folder, base = lora
    assert quantize([str(folder), str(tmp_path / "small"), *PRECISION, "--base", str(base)]) == 0
    assert "is quantised, and an adapter is merged before that" in refused(folder, tmp_path / "small")


def test_an_adapter_among_the_weights_that_was_never_merged_is_named_by_its_files(lora):
    folder, base = lora
    for path in [*base.iterdir(), *(folder / "lora_adapter").iterdir()]:
        shutil.copy(path, folder)
    shutil.rmtree(folder / "lora_adapter")
    message = refused(folder)
    assert "never merged" in message
    assert "or move adapter_model.safetensors and adapter_config.json away" in message


@pytest.mark.parametrize("shape", [(), (4,), (0,)])
def test_a_factor_that_is_no_matrix(lora, shape):
    folder, base = lora
    path = folder / "lora_adapter" / "adapter_model.safetensors"
    factors = load_file(path)
    name = next(name for name in factors if ".lora_" in name)
    save_file(factors | {name: torch.zeros(shape)}, path)
    assert f"{name} has shape {shape} and is no matrix; save the adapter again" in refused(folder, base)


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
