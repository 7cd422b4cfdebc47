# SPDX-License-Identifier: Apache-2.0
"""The containers that weights come in, the folders that are no checkpoint, and files that cannot be read."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from release_checkpoint import Sizes, random_heads, write_checkpoint, write_heads, write_shards
from safetensors.torch import load_file, save_file

from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.checkpoint import load
from specprune_ros.openvla.files import check_folder, read_json, trouble
from specprune_ros.openvla.lora import adapter_scaling
from specprune_ros.openvla.weight_containers import read_state
from specprune_ros.openvla.weight_files import WeightFiles, has_weights, weight_names

NOBODY = 65534
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1234\n"
STATE = {"fc1.weight": torch.arange(6.0).view(2, 3), "fc1.bias": torch.ones(2, dtype=torch.bfloat16)}
HEAD = "action_head--100_checkpoint.pt"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    torch.manual_seed(0)
    return write_checkpoint(tmp_path_factory.mktemp("good"), Sizes())


@pytest.fixture(scope="module")
def expected(good):
    return load(good).model.state_dict()


@pytest.fixture
def folder(good, tmp_path):
    """A copy of a good checkpoint, for a test to change."""
    return shutil.copytree(good, tmp_path / "checkpoint")


def loads_the_same(folder, expected):
    found = load(folder).model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def refused(action, *arguments) -> str:
    with pytest.raises(CheckpointError) as error:
        action(*arguments)
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    return message


@contextlib.contextmanager
def as_nobody(*paths: Path, mode: int = 0):
    """File permissions count, although the tests may run as root. `paths` get `mode` for a while."""
    modes = [path.stat().st_mode for path in paths]
    for path in paths:
        path.chmod(mode)
    user = os.geteuid()
    with contextlib.suppress(PermissionError):  # not root: permissions count anyway
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        for path, before in zip(paths, modes, strict=True):
            path.chmod(before)


# What torch.save writes


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state},
        lambda state: {"model": state, "epoch": 3, "optimizer": {"state": {}, "lr": 0.1}, "args": {}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
        lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
        lambda state: {f"_orig_mod.module.{name}": torch.nn.Parameter(value) for name, value in state.items()},
    ],
    ids=["plain", "nested", "trainer", "ddp", "compiled", "both", "parameters"],
)
def test_a_state_dict_is_found_in_what_people_save(tmp_path, zipped, wrap):
    torch.save(wrap(STATE), tmp_path / HEAD, _use_new_zipfile_serialization=zipped)
    found = read_state(tmp_path / HEAD)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in STATE.items())


class Unsafe:
    def __reduce__(self):
        return os.system, ("touch /tmp/specprune_unsafe",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "content, expected",
    [
        ([1, 2], "does not hold a state dict"),
        ({}, "does not hold a state dict"),
        ({"fc1.weight": "text"}, "does not hold a state dict"),
        ({"epoch": 3}, "does not hold a state dict"),
        ({1: torch.ones(1)}, "does not hold a state dict"),
        ({"model": STATE, "ema": STATE}, "several state dicts (model, ema)"),
        ({"fc1.weight": torch.ones(2), "module.fc1.weight": torch.ones(2)}, "twice"),
        ({"fc1.weight": torch.ones(2, dtype=torch.int8)}, "quantised"),
        ({"fc1.weight": Unsafe()}, "holds more than plain tensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_torch_file_of_other_content_is_refused(tmp_path, zipped, content, expected):
    torch.save(content, tmp_path / HEAD, _use_new_zipfile_serialization=zipped)
    assert expected in refused(read_state, tmp_path / HEAD)
    assert not Path("/tmp/specprune_unsafe").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.95, 0.5, 0.02])
def test_a_truncated_torch_file(tmp_path, zipped, share):
    path = tmp_path / HEAD
    torch.save({"fc1.weight": torch.ones(100, 100)}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "copy the file again" in refused(read_state, path) or not zipped


def test_safetensors_called_a_torch_file(tmp_path):
    save_file(STATE, tmp_path / HEAD)
    assert "a safetensors file under another name" in refused(read_state, tmp_path / HEAD)


@pytest.mark.parametrize(
    "content", [b"hello world, no weights", b"\x89HDF\r\n", b"PK\x03\x04rubbish", b"\x80\x02rubbish"]
)
def test_rubbish_is_no_torch_file(tmp_path, content):
    (tmp_path / HEAD).write_bytes(content)
    assert str(tmp_path / HEAD) in refused(read_state, tmp_path / HEAD)


# The model's weights


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_model_bin(folder, expected, zipped):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    loads_the_same(folder, expected)


@pytest.mark.parametrize("indexed", [True, False])
def test_shards_of_pytorch_model_bin(folder, expected, indexed):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {f"pytorch_model-{i + 1:05d}-of-00003.bin": names[i::3] for i in range(3)}
    for shard, keys in shards.items():
        torch.save({key: weights[key] for key in keys}, folder / shard)
    if indexed:
        weight_map = {key: shard for shard, keys in shards.items() for key in keys}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    loads_the_same(folder, expected)


@pytest.mark.parametrize("count", [1, 4])
def test_shards_without_the_index(folder, expected, count):
    write_shards(folder, load_file(folder / "model.safetensors"), count)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").unlink()
    loads_the_same(folder, expected)


def test_shards_without_the_index_have_to_be_complete(folder):
    write_shards(folder, load_file(folder / "model.safetensors"), 4)
    for name in ("model.safetensors", "model.safetensors.index.json", "model-00003-of-00004.safetensors"):
        (folder / name).unlink()
    assert "model-00003-of-00004.safetensors is missing" in refused(load, folder)


@pytest.mark.parametrize("prefix", ["base_model.model.", "module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_names_with_a_wrappers_prefix(folder, expected, prefix):
    weights = load_file(folder / "model.safetensors")
    save_file({prefix + name: tensor for name, tensor in weights.items()}, folder / "model.safetensors")
    loads_the_same(folder, expected)


def test_an_index_whose_shards_are_gone_says_nothing_beside_a_single_file(folder, expected):
    write_shards(folder, load_file(folder / "model.safetensors"), 2)
    for path in folder.glob("model-*"):
        path.unlink()
    loads_the_same(folder, expected)


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("index", [True, False])
def test_a_single_file_beside_shards_is_refused_with_both_names(folder, keep, index):
    write_shards(folder, load_file(folder / "model.safetensors"), 2)
    for path in sorted(folder.glob("model-*"))[keep:]:
        path.unlink()
    if not index:
        (folder / "model.safetensors.index.json").unlink()
    message = refused(load, folder)
    assert "model.safetensors and model-00001-of-00002.safetensors" in message


def test_two_containers_are_refused_with_both_names(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    assert "model.safetensors and pytorch_model.bin" in refused(load, folder)


def test_two_sets_of_shards_are_refused_with_both_names(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    write_shards(folder, weights, 2)
    write_shards(folder, weights, 3)
    message = refused(load, folder)
    assert "model-00001-of-00002.safetensors" in message and "model-00001-of-00003.safetensors" in message


@pytest.mark.parametrize("shard", ["../model.safetensors", "", "..", 3, None])
def test_an_index_that_leaves_the_folder(folder, shard):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    assert "no file of its folder" in refused(load, folder)


def test_weights_in_two_shards(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for i in (1, 2):
        save_file(weights, folder / f"model-{i:05d}-of-00002.safetensors")
    assert "in two files" in refused(load, folder)


def test_a_file_under_another_name_is_named(folder):
    (folder / "model.safetensors").rename(folder / "openvla.safetensors")
    message = refused(load, folder)
    assert "no model.safetensors" in message and "openvla.safetensors" in message


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(folder, dtype):
    weights = load_file(folder / "model.safetensors")
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    save_file(weights | {name: weights[name].to(dtype)}, folder / "model.safetensors")
    message = refused(load, folder)
    assert name in message and "floating point" in message


def test_lora_factors_among_the_weights(folder):
    weights = load_file(folder / "model.safetensors")
    weights["language_model.model.layers.0.mlp.up_proj.lora_A.default.weight"] = torch.zeros(2, 2)
    save_file({f"base_model.model.{name}": value for name, value in weights.items()}, folder / "model.safetensors")
    assert "merge_and_unload" in refused(load, folder)


def test_dtypes_are_read_from_the_header(folder):
    files = WeightFiles(folder)
    assert set(files.dtypes.values()) == {"float32"} and files.dtypes.keys() == files.shapes.keys()
    assert weight_names(folder) == ["model.safetensors"] and has_weights(folder)


# Components


@pytest.mark.parametrize(
    "name",
    ["action_head.pt", "action_head--100_checkpoint.pth", "action_head--100_checkpoint (1).pt", f"{HEAD}.incomplete"],
)
def test_a_head_under_another_name_is_not_taken_for_a_missing_one(folder, name):
    (folder / HEAD).rename(folder / name)
    message = refused(load, folder)
    assert name in message and "rename it" in message


@pytest.mark.parametrize("step", ["200", "latest"])
def test_components_of_two_steps_are_refused_with_their_names(folder, step):
    (folder / HEAD).unlink()
    heads = random_heads(Sizes())
    write_heads(folder, {"action_head": heads["action_head"]}, step=step)
    message = refused(load, folder)
    assert f"action_head--{step}_checkpoint.pt" in message and "proprio_projector--100_checkpoint.pt" in message


# Folders that are no checkpoint


def test_a_hub_id_in_place_of_a_folder():
    for name in ("someone/openvla-7b-oft", "https://huggingface.co/someone/openvla-7b-oft"):
        message = refused(load, name)
        assert "hf download someone/openvla-7b-oft --local-dir" in message


def test_a_folder_that_does_not_exist(tmp_path):
    message = refused(load, tmp_path / "nowhere")
    assert "does not exist; give the folder that holds config.json" in message and "hub" not in message


def test_the_folder_above(folder, tmp_path):
    assert f"but {folder} does; give that folder" in refused(load, tmp_path)


def test_a_folder_of_the_hub_cache(folder, tmp_path):
    snapshots = tmp_path / "models--someone--oft" / "snapshots"
    snapshots.mkdir(parents=True)
    folder.rename(snapshots / "0123abcd")
    assert f"but {snapshots / '0123abcd'} does" in refused(load, snapshots.parent)


def test_links_into_the_hub_cache_load(folder, expected, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in folder.iterdir():
        (linked / path.name).symlink_to(path)
    loads_the_same(linked, expected)


FILES = [
    "config.json",
    "dataset_statistics.json",
    "tokenizer.json",
    "model.safetensors",
    HEAD,
    "preprocessor_config.json",
]


def with_preprocessor(folder):
    content = {"means": [[0.485, 0.456, 0.406], [0.5] * 3], "stds": [[0.229, 0.224, 0.225], [0.5] * 3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))


@pytest.mark.parametrize("name", [*FILES, "proprio_projector--100_checkpoint.pt"])
def test_a_link_that_leads_nowhere(folder, name):
    with_preprocessor(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("../../blobs/0123abcd")
    message = refused(load, folder)
    assert f"{folder / name} is a link to ../../blobs/0123abcd, which does not exist" in message and "cp -rL" in message


def test_a_folder_that_is_a_link_to_nowhere(tmp_path):
    (tmp_path / "checkpoint").symlink_to("/mnt/disk/checkpoint")
    assert "is a link to /mnt/disk/checkpoint, which does not exist" in refused(load, tmp_path / "checkpoint")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "is a link to" in refused(load, tmp_path / "loop")


@pytest.mark.parametrize("name", FILES)
def test_a_git_lfs_pointer_in_any_file(folder, name):
    (folder / name).write_text(LFS_POINTER)
    message = refused(load, folder)
    assert str(folder / name) in message and "git lfs pull" in message


@pytest.mark.parametrize("name", FILES)
def test_an_empty_file(folder, name):
    (folder / name).write_text("")
    assert f"{folder / name} is empty; copy the file again" in refused(load, folder)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_place_of_a_file(folder, name):
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    assert f"{folder / name} is a folder, not a file" in refused(load, folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_may_not_be_read(good, name):
    # Beside the tests' own temporary folder, which nobody else may enter.
    folder = Path(shutil.copytree(good, f"/tmp/specprune_permissions_{os.getpid()}"))
    try:
        with_preprocessor(folder)
        folder.chmod(0o755)
        for path in folder.iterdir():
            path.chmod(0o644)
        with as_nobody(folder / name):
            message = refused(load, folder)
        assert f"{folder / name} may not be read by this user" in message and "chmod" in message
    finally:
        shutil.rmtree(folder)


def test_a_folder_that_may_not_be_read(tmp_path):
    folder = Path(f"/tmp/specprune_closed_{os.getpid()}")
    (folder / "checkpoint").mkdir(parents=True)
    try:
        for closed in (folder, folder / "checkpoint"):
            with as_nobody(closed):
                assert "may not be read by this user" in refused(check_folder, folder / "checkpoint")
        with as_nobody(folder / "checkpoint", mode=0o644):  # as 'chmod -R 644' leaves it: to be listed, not entered
            assert "may not be read by this user" in refused(check_folder, folder / "checkpoint")
    finally:
        shutil.rmtree(folder)


# JSON


def test_json_as_an_editor_of_another_system_writes_it(tmp_path):
    (tmp_path / "a.json").write_bytes('\ufeff{"a": "ü"}'.encode())
    assert read_json(tmp_path / "a.json") == {"a": "ü"}


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"b": {"a": 1, "a": 1}}'])
def test_a_name_twice_in_one_object(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert "has 'a' twice" in refused(read_json, tmp_path / "a.json")


@pytest.mark.parametrize("text", ["[]", "null", "3", '"a"', "true"])
def test_json_that_is_no_object(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert "does not hold a JSON object" in refused(read_json, tmp_path / "a.json")


def test_json_that_is_too_deep(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    assert "is not readable JSON" in refused(read_json, tmp_path / "a.json")


def test_nothing_is_wrong_with_a_good_file(folder):
    assert [trouble(path) for path in folder.iterdir()] == [""] * len(list(folder.iterdir()))


# The adapter's configuration


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"r": True}, "r is true; it has to be a whole number"),
        ({"r": "32"}, 'r is "32"'),
        ({"r": None}, "r is missing"),
        ({"lora_alpha": "16"}, 'lora_alpha is "16"'),
        ({"lora_alpha": float("nan")}, "lora_alpha is NaN"),
        ({"lora_alpha": 0}, "lora_alpha is 0"),
        ({"use_rslora": "false"}, 'use_rslora is "false"'),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
        ({"use_dora": True}, "use_dora is True"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern is"),
        ({"peft_type": "IA3"}, 'peft_type is "IA3"'),
        ({"peft_type": 3}, "peft_type is 3"),
    ],
    ids=str,
)
def test_an_adapter_that_is_not_plain_lora_is_refused_by_name(tmp_path, changes, expected):
    plain = {"peft_type": "LORA", "r": 32, "lora_alpha": 16, "use_rslora": False}
    (tmp_path / "adapter_config.json").write_text(json.dumps(plain))
    assert adapter_scaling(tmp_path) == 0.5
    (tmp_path / "adapter_config.json").write_text(json.dumps(plain | changes))
    assert expected in refused(adapter_scaling, tmp_path)
