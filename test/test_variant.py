# SPDX-License-Identifier: Apache-2.0
"""What a folder is, by its files alone."""

from pathlib import Path

import pytest
import torch

from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.variant import DIFFUSION, DISCRETE, L1, identify

L1_STATE = {"module.model.fc1.weight": torch.zeros(1)}
DIFFUSION_STATE = {"module.noise_predictor.mlp_resnet.fc1.weight": torch.zeros(1)}


def folder(path: Path, *files: str, head: dict | None = None, weights: bool = True, adapter: bool = False) -> Path:
    path.mkdir(exist_ok=True)
    for name in files:
        torch.save({}, path / f"{name}--7_checkpoint.pt")
    if head is not None:
        torch.save(head, path / "action_head--7_checkpoint.pt")
    if weights:
        (path / "model.safetensors").write_bytes(b"")
    if adapter:
        (path / "lora_adapter").mkdir()
    return path


def refused(*arguments) -> str:
    with pytest.raises(CheckpointError) as error:
        identify(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("film", [False, True])
@pytest.mark.parametrize("proprio", [False, True])
@pytest.mark.parametrize("head", [L1, DIFFUSION, DISCRETE])
@pytest.mark.parametrize("lora", ["none", "merged", "un-merged"])
def test_every_combination(tmp_path, film, proprio, head, lora):
    files = ["vision_backbone"] * film + ["proprio_projector"] * proprio
    files += ["noisy_action_projector"] * (head == DIFFUSION)
    state = {L1: L1_STATE, DIFFUSION: DIFFUSION_STATE, DISCRETE: None}[head]
    base = folder(tmp_path / "base") if lora == "un-merged" else None
    given = folder(tmp_path / "x", *files, head=state, weights=lora != "un-merged", adapter=lora != "none")
    variant = identify(given, base)
    assert (variant.film, variant.proprio, variant.head) == (film, proprio, head)
    assert variant.weights == (base or given)
    assert bool(variant.adapter) == (lora == "un-merged")
    assert bool(variant.leftover_adapter) == (lora == "merged")
    assert set(variant.components) == set(files) | ({"action_head"} if state else set())
    said = str(variant)
    assert ("FiLM" in said, "no proprio" in said, head in said) == (film, not proprio, True)


@pytest.mark.parametrize("state", [{"model.fc1.weight": torch.zeros(1)}, {"fc1.weight": torch.zeros(1)}])
def test_an_l1_head_without_the_wrappers_prefixes(tmp_path, state):
    assert identify(folder(tmp_path, head=state)).head == L1


def test_what_contradicts_itself_is_refused(tmp_path):
    assert "noisy_action_projector--*_checkpoint.pt is missing" in refused(folder(tmp_path / "a", head=DIFFUSION_STATE))
    only = folder(tmp_path / "b", "noisy_action_projector")
    assert "no action_head--*_checkpoint.pt" in refused(only)
    mixed = folder(tmp_path / "c", "noisy_action_projector", head=L1_STATE)
    assert "L1 head, but noisy_action_projector--7_checkpoint.pt" in refused(mixed)
    other = folder(tmp_path / "d", head={"transformer.weight": torch.zeros(1)})
    assert "'transformer.weight'" in refused(other)
    assert "does not exist" in refused(tmp_path / "nowhere")


def test_two_candidates_are_refused_with_both_names(tmp_path):
    given = folder(tmp_path, head=L1_STATE)
    torch.save(L1_STATE, given / "action_head--latest_checkpoint.pt")
    message = refused(given)
    assert "action_head--7_checkpoint.pt, action_head--latest_checkpoint.pt" in message


def test_a_base_checkpoint_is_asked_for_only_where_it_is_needed(tmp_path):
    base = folder(tmp_path / "base")
    unmerged = folder(tmp_path / "unmerged", head=L1_STATE, weights=False, adapter=True)
    assert "un-merged LoRA" in refused(unmerged) and "base_checkpoint" in refused(unmerged)
    assert "nowhere does not exist" in refused(unmerged, tmp_path / "nowhere")
    merged = folder(tmp_path / "merged", head=L1_STATE, adapter=True)
    assert "merged already" in refused(merged, base)
    plain = folder(tmp_path / "plain", head=L1_STATE)
    assert "no lora_adapter" in refused(plain, base)
