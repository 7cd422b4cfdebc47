# SPDX-License-Identifier: Apache-2.0
"""Loading takes no more host memory than it has to, and looking at a checkpoint next to none."""

import json
import shutil
import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path

import pytest
import torch
from peak_memory import alone, of_a_policy, of_loading, of_the_doctor
from release_checkpoint import Sizes, config, random_weights, write_checkpoint

from specprune_ros.quantize.quantize import quantize


@pytest.mark.parametrize(
    "dtype, sizes",
    [
        ("float32", Sizes(hidden=512, inner=1376, layers=24)),
        ("bfloat16", Sizes(hidden=768, inner=2048, layers=24)),
    ],
    ids=["float32", "bfloat16"],
)
def test_peak_host_memory_is_below_1_3_times_the_weights(tmp_path, dtype, sizes):
    folder = write_checkpoint(tmp_path, sizes, dtype=getattr(torch, dtype))
    weights, peak = alone(of_loading, folder, dtype)
    (folder / "model.safetensors").unlink()
    assert weights > 300e6
    assert peak < 1.3 * weights


SIZES = Sizes(hidden=768, inner=2048, layers=12)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Iterator[Path]:
    """A checkpoint of 170 MB, nearly all of it in the decoder's layers."""
    folder = write_checkpoint(tmp_path_factory.mktemp("large"), SIZES, dtype=torch.bfloat16)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("from_folder", [False, True], ids=["checkpoint", "quantised"])
def test_peak_host_memory_is_below_the_bf16_weights_and_one_layer(large, tmp_path, from_folder):
    """Host memory that mapped files take (at most 32 MiB) counts here."""
    layer = 2 * (4 * SIZES.hidden**2 + 3 * SIZES.hidden * SIZES.inner)
    weights = SIZES.layers * layer  # the towers are tiny
    if from_folder:
        quantize(large, tmp_path / "small", "int8_weights")
    measured = tmp_path / "small" if from_folder else large
    peak = alone(of_a_policy, measured, "int8_weights")
    print(f"peak {peak / 1e6:.0f} MB, bfloat16 weights {weights / 1e6:.0f} MB, a layer {layer / 1e6:.0f} MB")
    assert 0.5 * weights < peak < weights + layer


def test_seven_billion_weights_need_no_memory(tmp_path):
    """A file of release size, all holes: headers are read, numbers never."""
    with torch.device("meta"):
        sizes = Sizes((1024, 1152), (24, 27), (16, 16), (4096, 4304), 4, 224, 4096, 11008, 32, 32)
        weights = random_weights(sizes)
    folder = write_checkpoint(tmp_path / "small", Sizes())
    (folder / "config.json").write_text(json.dumps(config(sizes)))
    for path in folder.glob("*_checkpoint.pt"):
        path.unlink()
    header, offset = {}, 0
    for name, tensor in weights.items():
        end = offset + 2 * prod(tensor.shape)
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    peak, said = alone(of_the_doctor, folder)
    assert offset > 14e9 and peak < 1.5e9
    assert "32 layers of width 4096; stored in bfloat16" in said
    gigabytes = float(said.split(" GB in bfloat16")[0].split()[-1])
    assert 14 < gigabytes < 15.5  # lm_head has the tiny tokenizer's rows here
