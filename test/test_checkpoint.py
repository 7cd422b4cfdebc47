# SPDX-License-Identifier: Apache-2.0
"""The loader: files and shards, memory, and every way in which a checkpoint folder can be wrong."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from golden_sets import golden_set
from release_checkpoint import (
    Sizes,
    config,
    random_heads,
    random_weights,
    statistics,
    write_checkpoint,
    write_heads,
    write_shards,
)
from safetensors.torch import load_file, save_file

from specprune_ros.errors import CheckpointError
from specprune_ros.openvla import checkpoint as loader
from specprune_ros.openvla import weight_containers
from specprune_ros.openvla.checkpoint import load
from specprune_ros.openvla.family import KINDS
from specprune_ros.openvla.files import Fields
from specprune_ros.openvla.image_config import PixelScale
from specprune_ros.openvla.model_sizes import _tower_config

SIZES = Sizes()
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1234\n"
WEB_PAGE = "<!DOCTYPE html>\n<html><body>Sign in to download</body></html>\n"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    torch.manual_seed(0)
    return write_checkpoint(tmp_path_factory.mktemp("good"), SIZES)


@pytest.fixture
def folder(good, tmp_path):
    """A copy of a good checkpoint, for a test to break."""
    return shutil.copytree(good, tmp_path / "checkpoint")


def refused(folder, limit=400, **arguments) -> str:
    with pytest.raises(CheckpointError) as error:
        load(folder, **arguments)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < limit
    return message


def edit_json(path: Path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder, drop=(), **changes):
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in (weights | changes).items() if k not in drop}, folder / "model.safetensors")


def parameters(checkpoint):
    return checkpoint.model.state_dict()


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


# Files


@pytest.mark.parametrize("count", [2, 5])
def test_shards_give_the_same_weights_as_one_file(good, folder, count):
    write_shards(folder, load_file(folder / "model.safetensors"), count)
    (folder / "model.safetensors").unlink()
    assert_same(parameters(load(folder)), parameters(load(good)))


def test_mapping_files_anew_gives_the_same_weights(good, monkeypatch):
    expected = parameters(load(good))
    monkeypatch.setattr(weight_containers, "MAPPED_BYTES", 1)
    assert_same(parameters(load(good)), expected)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_heads_with_and_without_module_prefix(folder, prefix):
    heads = random_heads(SIZES)
    write_heads(folder, heads, prefix=prefix)
    model = load(folder).model
    assert torch.equal(model.action_head.fc2.weight, heads["action_head"]["model.fc2.weight"])
    assert torch.equal(
        model.action_head.blocks[1].linear.bias, heads["action_head"]["model.mlp_resnet_blocks.1.ffn.1.bias"]
    )
    assert torch.equal(model.proprio_projector.fc1.weight, heads["proprio_projector"]["fc1.weight"])


@pytest.mark.parametrize("step", [9999, "latest"])
def test_two_steps_of_a_head_are_refused_with_both_names(folder, step):
    write_heads(folder, random_heads(SIZES), step=step)
    message = refused(folder)
    for name in (f"proprio_projector--{step}_checkpoint.pt", "proprio_projector--100_checkpoint.pt"):
        assert name in message


def test_a_half_downloaded_file_beside_the_heads_does_not_count(folder):
    (folder / "action_head--20000_checkpoint.pt.part").write_text("half a file")
    load(folder)


def test_heads_without_a_step_are_found(folder):
    for path in list(folder.glob("*--100_*")):
        path.rename(folder / path.name.replace("100", "latest"))
    load(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_weights_arrive_in_the_dtype_asked_for(good, dtype):
    assert {tensor.dtype for tensor in parameters(load(good, dtype=dtype)).values()} == {getattr(torch, dtype)}


def test_loaded_model_is_for_inference(good):
    model = load(good).model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_sizes_come_from_the_checkpoint(tmp_path):
    sizes = Sizes(action_dim=14, proprio_dim=14, registers=1)
    folder = write_checkpoint(
        tmp_path, sizes, chunk_length=3, num_views=3, action_names=["j"] * 14, action_units=["rad"] * 14
    )
    config = load(folder).model.config
    assert (config.action_dim, config.proprio_dim, config.chunk_length, config.num_views) == (14, 14, 3, 3)
    assert config.image_size == 56 and config.patches_per_view == 16
    assert [tower.depth for tower in config.towers] == [2, 2]  # one less than the checkpoint holds
    assert [tower.num_registers for tower in config.towers] == [1, 0]


def test_overrides_win_over_the_checkpoint(good):
    loaded = load(good, overrides={"num_views": 1, "chunk_length": 4, "center_crop": False})
    assert (loaded.model.config.num_views, loaded.model.config.chunk_length) == (1, 4)
    assert loaded.family.center_crop is False


def test_statistics_from_config_json(good, folder):
    entry = json.loads((folder / "dataset_statistics.json").read_text())
    (folder / "dataset_statistics.json").unlink()
    edit_json(folder / "config.json", norm_stats=entry)
    assert (load(folder).normalizer.action.low == load(good).normalizer.action.low).all()


def test_unused_weights_are_not_needed(good, folder):
    unused = [
        name
        for name in load_file(folder / "model.safetensors")
        if "lm_head" in name or "attn_pool" in name or "featurizer.norm." in name or "featurizer.blocks.2." in name
    ]
    assert len(unused) > 20
    keep = "vision_backbone.featurizer.blocks.2.norm1.weight", "vision_backbone.fused_featurizer.blocks.2.norm1.weight"
    edit_weights(folder, drop=set(unused) - set(keep))
    assert_same(parameters(load(folder)), parameters(load(good)))


# Bad input: files


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("~nobody_of_this_name/checkpoint", "home folder of a user whom this machine does not know"),
        ("x" * 300, "cannot be read (File name too long)"),
    ],
    ids=["user", "long"],
)
def test_a_name_that_cannot_be_a_folder(good, name, said):
    assert said in refused(name)
    assert said in refused(golden_set("lora").folder, base_checkpoint=name)


def test_missing_folder(tmp_path):
    assert "does not exist" in refused(tmp_path / "nowhere")


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "model.safetensors").write_text("x")
    assert "give the folder" in refused(tmp_path / "model.safetensors")


def test_missing_config(folder):
    (folder / "config.json").unlink()
    assert "config.json is missing" in refused(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", LFS_POINTER, WEB_PAGE, "\xff\xfe"])
def test_config_that_is_not_json(folder, content):
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    message = refused(folder)
    remedy = {LFS_POINTER: "git lfs pull", WEB_PAGE: "download the file itself"}.get(content, "copy the file again")
    assert f"{folder}/config.json" in message and remedy in message


def test_missing_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "no model.safetensors, no shards and no pytorch_model.bin; copy the weights" in refused(folder)


@pytest.mark.parametrize("share", [0.999, 0.5, 0.001])
def test_half_copied_weights(folder, share):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    message = refused(folder)
    assert f"{path} is not a complete safetensors file" in message and "copy the file again" in message


def test_half_copied_shard(folder):
    write_shards(folder, load_file(folder / "model.safetensors"), 3)
    (folder / "model.safetensors").unlink()
    path = folder / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path} is not a complete safetensors file" in refused(folder)


def test_missing_shard(folder):
    write_shards(folder, load_file(folder / "model.safetensors"), 3)
    (folder / "model.safetensors").unlink()
    (folder / "model-00003-of-00003.safetensors").unlink()
    assert "model-00003-of-00003.safetensors is missing; copy the whole" in refused(folder)


@pytest.mark.parametrize("content", [{}, {"weight_map": {}}, {"weight_map": ["a"]}])
def test_index_without_shards(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    assert "has no weight_map" in refused(folder)


@pytest.mark.parametrize(
    "content, expected",
    [(LFS_POINTER, "git lfs pull"), (WEB_PAGE, "web page"), ("", "is empty")],
    ids=["lfs", "html", "empty"],
)
@pytest.mark.parametrize("name", ["model.safetensors", "action_head--100_checkpoint.pt"])
def test_file_of_another_kind(folder, name, content, expected):
    (folder / name).write_text(content)
    message = refused(folder)
    assert str(folder / name) in message and expected in message


def test_renamed_torch_file(folder):
    shutil.copy(folder / "action_head--100_checkpoint.pt", folder / "model.safetensors")
    assert "call it pytorch_model.bin, or convert it to safetensors" in refused(folder)


def test_half_copied_head(folder):
    path = folder / "action_head--100_checkpoint.pt"
    path.write_bytes(path.read_bytes()[:2000])
    assert f"{path} is not a complete torch.save file; copy the file again" in refused(folder)


@pytest.mark.parametrize("content", [[1, 2], {"fc1.weight": "text"}])
def test_head_that_is_no_state_dict(folder, content):
    torch.save(content, folder / "proprio_projector--100_checkpoint.pt")
    assert "does not hold a state dict of tensors" in refused(folder)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.empty(4, 4, device="meta"), "without its numbers, as of a model that was offloaded"),
        (torch.eye(4).to_sparse(), "sparse"),
    ],
    ids=["meta", "sparse"],
)
def test_head_that_is_not_whole(folder, tensor, said):
    torch.save({"fc1.weight": tensor}, folder / "proprio_projector--100_checkpoint.pt")
    assert f"weight fc1.weight was saved {said}; save the whole tensor" in refused(folder)


def test_head_that_would_run_code_is_not_loaded(folder):
    torch.save(torch.nn.Linear(2, 2), folder / "action_head--100_checkpoint.pt")
    assert "holds more than plain tensors" in refused(folder)


def test_missing_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in refused(folder)


def test_tokenizer_of_a_larger_vocabulary(folder):
    edit_json(folder / "config.json", empty_token_id=29871)
    message = refused(folder)
    assert "token 29871" in message and "vocab_size is 462" in message


# Bad input: statistics


def test_unknown_unnorm_key_lists_the_known_ones(folder):
    both = statistics() | statistics(key="libero_object_no_noops")
    (folder / "dataset_statistics.json").write_text(json.dumps(both))
    message = refused(folder, unnorm_key="libero_goal_no_noops")
    assert "libero_object_no_noops, libero_spatial_no_noops" in message
    assert "libero_object_no_noops, libero_spatial_no_noops" in refused(folder)
    assert load(folder, unnorm_key="libero_object_no_noops").unnorm_key == "libero_object_no_noops"


def test_missing_statistics(folder):
    (folder / "dataset_statistics.json").unlink()
    assert "dataset_statistics.json is missing" in refused(folder)


@pytest.mark.parametrize("group, dims", [("action", (6, 8)), ("action", (14, 8)), ("proprio", (7, 7))])
def test_statistics_of_another_dimension(folder, group, dims):
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics(*dims)))
    message = refused(folder)
    assert f"{group} dimensions but dataset_statistics.json has {min(dims) if dims[0] != 14 else 14}" in message
    assert "unnorm_key" in message


def test_unknown_robot_family(folder):
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics(key="my_robot")))
    message = refused(folder, limit=1000)
    assert "not known for unnorm_key 'my_robot'; set them as parameters model.*" in message
    assert all(f"{name} (" in message for name in KINDS)


def test_action_names_of_another_length(folder):
    edit_json(folder / "config.json", action_names=["x", "y"])
    message = refused(folder)
    assert "action_names has 2 entries but the checkpoint has 7 action dimensions" in message


# Bad input: variants


def test_another_model(folder):
    edit_json(folder / "config.json", model_type="llama")
    assert 'model_type is "llama"; give the folder of an OpenVLA-OFT checkpoint' in refused(folder)


def test_single_tower(folder):
    edit_json(folder / "config.json", use_fused_vision_backbone=False)
    assert "single vision tower" in refused(folder)


def test_activations_of_other_towers(folder):
    edit_json(folder / "config.json", timm_override_act_layers=[None, "quick_gelu"])
    assert 'timm_override_act_layers is [null, "quick_gelu"]; only [null, null] is supported' in refused(folder)


def test_grouped_query_attention(folder):
    changed = config(SIZES)["text_config"] | {"num_key_value_heads": 2}
    edit_json(folder / "config.json", text_config=changed)
    assert "grouped-query attention" in refused(folder)


# Bad input: weights


@pytest.mark.parametrize(
    "name",
    [
        "vision_backbone.featurizer.pos_embed",
        "vision_backbone.featurizer.reg_token",
        "vision_backbone.featurizer.cls_token",
        "vision_backbone.featurizer.blocks.1.ls2.scale_factor",
        "vision_backbone.fused_featurizer.pos_embed",
        "vision_backbone.fused_featurizer.blocks.0.mlp.fc1.weight",
        "projector.fc1.weight",
        "projector.fc3.bias",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.1.self_attn.k_proj.weight",
        "language_model.model.layers.0.mlp.up_proj.weight",
    ],
)
def test_missing_weight(folder, name):
    edit_weights(folder, drop=[name])
    message = refused(folder)
    assert "missing" in message and "checkpoint" in message


def test_missing_head_weight(folder):
    heads = random_heads(SIZES)
    del heads["action_head"]["model.fc2.weight"]
    write_heads(folder, heads)
    assert "action_head.fc2.weight is missing" in refused(folder)


@pytest.mark.parametrize(
    "name",
    [
        "vision_backbone.featurizer.norm_pre.weight",
        "vision_backbone.fused_featurizer.cls_token",
        "vision_backbone.fused_featurizer.blocks.0.ls1.scale_factor",
        "language_model.model.layers.0.self_attn.q_proj.bias",
        "language_model.model.layers.2.input_layernorm.weight",
        "film.weight",
    ],
)
def test_weight_without_a_place(folder, name):
    edit_weights(folder, **{name: torch.zeros(3)})
    message = refused(folder)
    assert f"weight {name} has no place in this model" in message and "not supported" in message


@pytest.mark.parametrize(
    "name, shape",
    [
        ("language_model.model.layers.0.self_attn.q_proj.weight", (16, 32)),
        ("language_model.model.embed_tokens.weight", (100, 32)),
        ("vision_backbone.featurizer.blocks.0.attn.qkv.weight", (24, 24)),
        ("projector.fc3.bias", (3,)),
    ],
)
def test_weight_of_another_shape(folder, name, shape):
    edit_weights(folder, **{name: torch.zeros(shape)})
    message = refused(folder)
    assert f"weight {name} has shape {shape}, not" in message and "config.json" in message


def test_action_head_of_another_hidden_size(folder):
    write_heads(folder, random_heads(Sizes(hidden=16)))
    message = refused(folder)
    assert "of the action head has shape" in message and "not of the same checkpoint" in message


def test_tower_of_another_image_size(folder):
    edit_json(folder / "config.json", image_sizes=[112, 112])
    assert "image_sizes 112 does not fit the 16 patches of vision_backbone.featurizer" in refused(folder)


@pytest.mark.parametrize("heads", [[], [5, 4], [2]])
def test_tower_of_unknown_head_count(folder, heads):
    edit_json(folder / "config.json", vision_num_heads=heads)
    assert "set vision_num_heads in config.json" in refused(folder)


@pytest.mark.parametrize(("width", "blocks", "whole"), [(1024, 23, 24), (1152, 26, 27), (1024, 25, 24)])
def test_tower_that_is_not_whole(width, blocks, whole):
    prefix = "vision_backbone.featurizer."
    shapes = {f"{prefix}blocks.{k}.norm1.weight": (width,) for k in range(blocks)}
    shapes[f"{prefix}pos_embed"] = (1, 256, width)
    with pytest.raises(CheckpointError, match=f"vision tower 0 has {blocks} of {whole} blocks"):
        _tower_config(Fields({}, "config.json"), shapes, 0, PixelScale((0.5,) * 3, (0.5,) * 3))


def test_tower_with_a_block_that_has_no_number(folder):
    edit_weights(folder, **{"vision_backbone.featurizer.blocks.x.norm1.weight": torch.zeros(4)})
    assert "vision_backbone.featurizer.blocks.x.norm1.weight" in refused(folder)


def test_swapped_towers(tmp_path):
    """SigLIP in the place of DINOv2 would be normalised wrongly; it is refused, not run."""
    weights = random_weights(SIZES)
    first, second = "vision_backbone.featurizer.", "vision_backbone.fused_featurizer."
    swapped = {
        name.replace(first, "x.").replace(second, first).replace("x.", second): value for name, value in weights.items()
    }
    assert "reg_token is missing" in refused(write_checkpoint(tmp_path, SIZES, swapped))


# Bad input: machine


def test_too_little_memory(good, monkeypatch):
    monkeypatch.setattr(loader, "available_bytes", lambda: 100_000)
    message = refused(good)
    assert "GB" in message and "float32" in message and "use bfloat16" in message


def test_unknown_device(good):
    assert "device 'tpu9' is unknown; use cpu or cuda" in refused(good, device="tpu9")
    assert "device 'mps' is not supported; use cpu or cuda" in refused(good, device="mps")


def test_missing_gpu(good, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch sees no CUDA GPU" in refused(good, device="cuda")


def test_gpu_of_too_high_a_number(good, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "device 'cuda:3' does not exist: torch sees 1 CUDA GPUs" in refused(good, device="cuda:3")


def test_unknown_dtype(good):
    assert "dtype 'float16' is not supported; use one of: float32, bfloat16" in refused(good, dtype="float16")


@pytest.mark.parametrize("computes_in_bfloat16, expected", [(True, "bfloat16"), (False, "float32")])
def test_auto_dtype_is_bfloat16_only_where_the_gpu_computes_in_it(monkeypatch, computes_in_bfloat16, expected):
    def supported(including_emulation=True):
        return including_emulation or computes_in_bfloat16  # a T4 emulates it, slower than float32

    monkeypatch.setattr(loader, "_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert loader.auto_dtype("cuda:0") == expected
    assert loader.auto_dtype("cpu") == "float32"


def test_sizes_that_are_not_the_weights_are_told_before_memory_is(good, folder):
    """A text_config left out means Llama-2 7B, whose 27 GB are not what is wrong here."""
    for text_config in (None, {}, config(SIZES)["text_config"] | {"num_hidden_layers": 3}):
        edit_json(folder / "config.json", text_config=text_config)
        assert "config.json and the weights" in refused(folder) or "weights are missing" in refused(folder)
