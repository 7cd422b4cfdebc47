# SPDX-License-Identifier: Apache-2.0
"""Folders of quantised weights: written, read back, refused."""

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from specprune_ros.checkpoint_config import CheckpointConfig
from specprune_ros.doctor.report import examine
from specprune_ros.doctor.robot import Robot
from specprune_ros.engine.precision import LAYERS, store_linears
from specprune_ros.errors import UserError
from specprune_ros.openvla import quantized
from specprune_ros.openvla.checkpoint import Checkpoint, load
from specprune_ros.openvla.digest import digest
from specprune_ros.policy import Policy
from specprune_ros.quantize.__main__ import main
from specprune_ros.quantize.quantize import quantize

TINY = Path(__file__).parent / "data" / "tiny_oft"
SHARD = "quantized-00001.safetensors"


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """The tiny checkpoint in int8, in several files."""
    out = tmp_path_factory.mktemp("quantized") / "tiny_int8"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantized, "SHARD_BYTES", 50_000)
        assert main([str(TINY), str(out), "--precision", "int8"]) == 0
    return out


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy, for a test to change."""
    return shutil.copytree(good, tmp_path / "copy")


def loaded(folder: Path, precision: str = "int8", dtype: str = "float32") -> Checkpoint:
    cpu = torch.device("cpu")
    return load(folder, dtype=dtype, prepare=lambda model: store_linears(model, precision, cpu), precision=precision)


def refused(folder: Path, precision: str = "int8") -> str:
    with pytest.raises(UserError) as error:
        loaded(folder, precision)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_same(ours: Checkpoint, theirs: Checkpoint) -> None:
    state, wanted = ours.model.state_dict(), theirs.model.state_dict()
    assert state.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert state[name].dtype == tensor.dtype, name
        assert torch.equal(state[name].view(torch.uint8), tensor.view(torch.uint8)), name
    assert ours.model.config == theirs.model.config
    assert ours.family == theirs.family and ours.unnorm_key == theirs.unnorm_key


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_loads_as_the_checkpoint_itself_does(good, dtype):
    assert len(list(good.glob("quantized-*.safetensors"))) > 2
    assert_same(loaded(good, dtype=dtype), loaded(TINY, dtype=dtype))


@pytest.mark.parametrize("precision", [name for name in LAYERS if name != "int8"])
def test_every_precision_comes_back(tmp_path, precision):
    quantize(TINY, tmp_path / "out", precision)
    assert_same(loaded(tmp_path / "out", precision), loaded(TINY, precision))


def test_it_names_its_source_and_the_doctor_knows_it(good):
    report = examine(good, Robot(CheckpointConfig(precision="int8")), fits=False)
    assert report.verdict != "fail", report.text()
    assert f"quantised to int8 from checkpoint {digest(TINY)}" in report.text()
    assert "stored in int8; all in place" in report.text()


def test_a_policy_runs_from_it_whatever_pays_here(good, monkeypatch):
    monkeypatch.setattr("specprune_ros.engine.precision.products_saturate", lambda: True)
    monkeypatch.setattr("specprune_ros.engine.precision.beats_float32", lambda width, rows: False)
    assert Policy.from_checkpoint(good, precision="int8").precision == "int8"


def test_another_precision_is_refused(good):
    for precision in ("native", "int4_weights"):
        message = refused(good, precision)
        assert f"holds weights in int8, but precision is {precision}; set model.precision to int8" in message


def edited(folder: Path, **changes) -> Path:
    path = folder / quantized.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize("version", [2, None, "1", True])
def test_another_version_is_refused(folder, version):
    assert "this version reads 1; make the folder anew" in refused(edited(folder, format=version))


@pytest.mark.parametrize("change", [{"head": "other"}, {"files": 3}, {"weights": {"a": "b"}}, {"precision": None}])
def test_a_damaged_manifest_is_refused(folder, change):
    assert "make the folder anew with specprune-quantize" in refused(edited(folder, **change))


def test_facts_may_be_added_later(folder, good):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chunk_length": 5}))
    assert loaded(folder).model.config.chunk_length == 5


def test_missing_foreign_and_changed_files_are_refused(folder, good):
    (folder / SHARD).unlink()
    assert "is missing; make the folder anew" in refused(folder)
    shutil.copy(good / SHARD, folder)
    weights = load_file(folder / SHARD)
    name = next(iter(weights))

    save_file(weights | {"towers.9.weight": torch.ones(2)}, folder / SHARD)
    assert "weight towers.9.weight has no place in this model" in refused(folder)
    save_file(weights | {name: weights[name].flatten()[1:]}, folder / SHARD)
    assert f"weight {name} is" in refused(folder)
    save_file(weights | {name: weights[name] + 1}, folder / SHARD)
    assert "weight files that were changed" in refused(folder)
    content = (good / SHARD).read_bytes()
    (folder / SHARD).write_bytes(content[: len(content) // 2])
    assert "not a complete safetensors file" in refused(folder)


@pytest.mark.parametrize("size", [1_000, 100_000], ids=["small files", "weights"])
def test_a_disk_that_is_full_gets_one_line_and_nothing_is_left(tmp_path, capsys, size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        code = main([str(TINY), str(tmp_path / "out"), "--precision", "int8"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("quantize: ")]
    assert code == 1 and len(lines) == 1 and f"{tmp_path / 'out'}" in lines[0] and "another disk" in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing(tmp_path, capsys, monkeypatch):
    def interrupted(folder, *_):
        (folder / "quantized-00001.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("specprune_ros.quantize.quantize.write_quantized", interrupted)
    assert main([str(TINY), str(tmp_path / "out"), "--precision", "int8"]) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_links_that_lead_nowhere(tmp_path, capsys):
    """One in place of the new folder is in the way, one to a file that nobody reads is not."""
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert main([str(TINY), str(tmp_path / "link"), "--precision", "int8"]) == 1
    assert "exists; give the name of a new folder" in capsys.readouterr().err
    folder = shutil.copytree(TINY, tmp_path / "checkpoint")
    (folder / "special_tokens_map.json").symlink_to(tmp_path / "nowhere")
    assert main([str(folder), str(tmp_path / "out"), "--precision", "int8"]) == 0


def test_it_is_made_once_and_from_a_checkpoint(good, tmp_path, capsys):
    assert main([str(TINY), str(good), "--precision", "int8"]) == 1
    assert "exists; give the name of a new folder" in capsys.readouterr().err
    assert main([str(good), str(tmp_path / "again"), "--precision", "int8"]) == 1
    assert "is quantised already" in capsys.readouterr().err
    assert main([str(tmp_path / "nothing"), str(tmp_path / "out"), "--precision", "int8"]) == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="is quantised; leave it out"):
        load(good, base_checkpoint=TINY, precision="int8")
