# SPDX-License-Identifier: Apache-2.0
"""What the numbers were measured on, and how fast it multiplies matrices."""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks run from a checkout, without PYTHONPATH

from specprune_ros.engine.precision import LAYERS, pack, stored
from specprune_ros.engine.precision_names import NATIVE
from specprune_ros.openvla.checkpoint import auto_dtype

ROUNDS = 5


def describe(device: torch.device) -> dict[str, Any]:
    """Processor or GPU, driver, versions, commit and command."""
    facts: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "commit": _output(["git", "rev-parse", "--short", "HEAD"]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
        facts["driver"] = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return facts


@torch.inference_mode()
def matmul_rate(device: torch.device, dtype: torch.dtype, precision: str = NATIVE) -> float:
    """Best rate of a linear layer with the decoder's shape, as the engine runs it, operations per second."""
    length, hidden, inner = 256, 4096, 22016
    a = torch.randn(length, hidden, device=device, dtype=dtype)
    linear = nn.Linear(hidden, inner, bias=False, device=device, dtype=dtype).requires_grad_(False)
    layer = nn.Sequential(linear if precision == NATIVE else stored(linear, LAYERS[precision]))
    pack(layer)
    rates = []
    for _ in range(ROUNDS + 1):
        synchronize(device)
        begin = time.perf_counter()
        repeat = 20 if device.type == "cuda" else 1
        for _ in range(repeat):
            layer(a)
        synchronize(device)
        rates.append(repeat * 2 * length * hidden * inner / (time.perf_counter() - begin))
    return max(rates)


def fastest_dtype(device: torch.device) -> torch.dtype:
    """As the node chooses on a GPU; on a CPU whichever multiplies faster. Without AVX-512 bfloat16 takes minutes."""
    if device.type == "cuda":
        return getattr(torch, auto_dtype(str(device)))
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.float32
    return max((torch.float32, torch.bfloat16), key=lambda dtype: matmul_rate(device, dtype))


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU's allocator, or the process's largest resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def writable(name: str) -> Path:
    """Type of an option: a file to write. Its folder is made at once: after an hour is late to find it missing."""
    path = Path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot make the folder of {name}: {error.strerror}") from error
    return path


def write(result: dict[str, Any], path: Path | None) -> None:
    """The result as JSON, where a file is given."""
    if path:
        path.write_text(json.dumps(result, indent=1) + "\n")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
