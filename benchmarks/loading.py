# SPDX-License-Identifier: Apache-2.0
"""How long a 7B checkpoint takes to load in a number format, from its own files and from a quantised folder.

    scripts/env python benchmarks/loading.py out/loading --json FILE [--precisions int8] [--layers 32]

Writes a checkpoint with random weights at the real geometry into the folder (15 GB, and as much again in small formats)
and quantises it. Every load is a process of its own and is done twice: with the files read from the disk, and with what
the system kept of them in memory. Beside each the time of only reading the bytes.
"""

import argparse
import functools
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import machine
import torch
from openvla_7b import OPENVLA_7B, build
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tqdm import tqdm

from specprune_ros.engine.precision import PRECISIONS
from specprune_ros.errors import UserError
from specprune_ros.openvla.statistics import suite_key
from specprune_ros.policy import Policy
from specprune_ros.quantize.quantize import quantize
from training.export import export

SUITE = "libero_spatial"
NANO = Path(__file__).parents[1] / "checkpoints" / "nano_libero"  # its tokenizer and statistics serve any arm of LIBERO
FIRST = "language_model.model.layers.0."
CHUNK = 1 << 24  # bytes


def main(arguments: list[str]) -> None:
    given = _parser().parse_args(arguments)
    original = given.folder / "checkpoint"
    if not original.exists():
        write_random(original, given.layers)
    rows: list[dict[str, Any]] = []
    for precision in given.precisions:
        small = given.folder / precision
        if not small.exists():
            rows.append(alone(quantised, original, small, precision))
        for folder in (original, small):
            for cached in (False, True):
                rows.append(alone(loaded, folder, precision, cached))
                print(json.dumps(rows[-1]), flush=True)
    content = {"run": machine.describe(torch.device("cpu")), "layers": given.layers, "rows": rows}
    machine.write(content, given.json)


def write_random(folder: Path, layers: int) -> None:
    """A checkpoint of the real geometry, a file per decoder layer; all layers have the same weights."""
    model = build(torch.device("cpu"), torch.bfloat16, num_layers=1)
    partial = folder.with_name(folder.name + ".part")
    key = suite_key(NANO, SUITE)
    statistics = {key: json.loads((NANO / "dataset_statistics.json").read_text())[key]}
    export(model, Tokenizer.from_file(str(NANO / "tokenizer.json")), statistics, partial, 0, torch.bfloat16)
    del model
    weights = load_file((partial / "model.safetensors").rename(partial / "model-00.safetensors"))
    places = dict.fromkeys(weights, "model-00.safetensors")
    layer = {name.removeprefix(FIRST): weights[name] for name in weights if name.startswith(FIRST)}
    for number in tqdm(range(1, layers), unit="layer", desc="writing"):
        named = {FIRST.replace("0", str(number)) + name: tensor for name, tensor in layer.items()}
        save_file(named, partial / f"model-{number:02d}.safetensors")
        places |= dict.fromkeys(named, f"model-{number:02d}.safetensors")
    (partial / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config = json.loads((partial / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = layers
    (partial / "config.json").write_text(json.dumps(config))
    partial.rename(folder)


def alone(task: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """In a new process, whose peak memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(task, *arguments).result()


def quantised(original: Path, small: Path, precision: str) -> dict[str, Any]:
    begin = time.perf_counter()
    size = quantize(original, small, precision)
    return {"task": "quantise", "precision": precision, "bytes": size, **_cost(begin)}


def loaded(folder: Path, precision: str, cached: bool) -> dict[str, Any]:
    if not cached:
        _forget(folder)
    begin = time.perf_counter()
    size = _read(folder)
    reading = time.perf_counter() - begin
    if not cached:
        _forget(folder)
    begin = time.perf_counter()
    Policy.from_checkpoint(folder, dtype="float32", precision=precision, keep_precision=True, threads=1)
    row = {"task": "load", "from": folder.name, "precision": precision, "cached": cached, "bytes": size}
    return row | {"seconds_reading_bytes": round(reading, 1), **_cost(begin)}


def _cost(begin: float) -> dict[str, float]:
    return {
        "seconds": round(time.perf_counter() - begin, 1),
        "peak_bytes": machine.peak_memory(torch.device("cpu")),
    }


def _forget(folder: Path) -> None:
    """Let the system drop what it keeps of the files in memory."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(folder: Path) -> int:
    size = 0
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as file:
            for part in iter(functools.partial(file.read, CHUNK), b""):
                size += len(part)
    return size


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Load times of a 7B checkpoint with random weights.")
    parser.add_argument("folder", type=Path, help="where the checkpoint and its quantised forms are written")
    parser.add_argument("--json", type=machine.writable, required=True)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS[1:], default=["int8"], help="default: int8")
    parser.add_argument("--layers", type=int, default=OPENVLA_7B.decoder.num_layers, help="of the decoder")
    return parser


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"benchmarks/loading.py: {error}")
