# SPDX-License-Identifier: Apache-2.0
"""What fusing more of a decoder layer could gain: its parts, and the whole layer under torch.compile.

    scripts/env python benchmarks/fusion.py --json out/fusion.json
    scripts/env python benchmarks/fusion.py --device cuda --rounds 50

One layer of the 7B geometry, at lengths of dense and pruned inferences. Matrix products and attention stay what they
are; all else (RMSNorm, residual sums, rotary embedding, SwiGLU's product) is the most that fusing it could save.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import machine
import torch
import torch.nn.functional as F
from openvla_7b import build
from tqdm import tqdm

from specprune_ros.engine.packed_linear import pack_linears
from specprune_ros.openvla.decoder import DecoderLayer, Rope, rotate

LENGTHS = (605, 290, 216)  # dense; about those of `paper` (281) and `fast` (213) behind the static selection


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=machine.writable)
    args = parser.parse_args()
    device = torch.device(args.device)
    dtype = machine.fastest_dtype(device)
    model = build(device, dtype, num_layers=1)
    decoder = model.decoder
    layer = decoder.layers[0]
    assert isinstance(layer, DecoderLayer)
    unpacked = build(device, dtype, num_layers=1).decoder.layers[0]
    compiled = torch.compile(unpacked, dynamic=False, options={"freezing": True})  # lays the weights out by itself
    pack_linears(model)

    lengths: dict[int, dict[str, list[float]]] = {}
    for length in LENGTHS:
        x = torch.randn(length, decoder.config.hidden_size, dtype=dtype, device=device)
        rope = decoder.rope(length)
        runs = parts(layer, x, rope) | {
            "whole layer": lambda x=x, rope=rope: layer(x, rope),
            "whole layer, compiled": lambda x=x, rope=rope: compiled(x, rope),
        }
        lengths[length] = measure(runs, args.rounds, device, f"{length} tokens")
    result = {"seconds": lengths, "dtype": str(dtype).removeprefix("torch."), "machine": machine.describe(device)}
    print(table(lengths))
    machine.write(result, args.json)


def parts(layer: DecoderLayer, x: torch.Tensor, rope: Rope) -> dict[str, Callable[[], Any]]:
    """The layer taken apart, each part on tensors of its own."""
    heads = x.shape[1] // layer.num_heads
    q, k, v = torch.randn(3, layer.num_heads, x.shape[0], heads, dtype=x.dtype, device=x.device)
    gate, up = layer.gate_up_proj(x).chunk(2, dim=-1)
    inner = F.silu(gate) * up
    return {
        "matrix products": lambda: [layer.qkv_proj(x), layer.o_proj(x), layer.gate_up_proj(x), layer.down_proj(inner)],
        "attention": lambda: F.scaled_dot_product_attention(q[None], k[None], v[None]),
        "RMSNorm": lambda: [layer.input_norm(x), layer.post_attention_norm(x)],
        "residual sums": lambda: [x + x, x + x],
        "rotary embedding": lambda: [rotate(q, rope), rotate(k, rope)],
        "SwiGLU product": lambda: F.silu(gate) * up,
    }


def measure(
    runs: dict[str, Callable[[], Any]], rounds: int, device: torch.device, label: str
) -> dict[str, list[float]]:
    """Seconds of every run, in turn, after two rounds of warm-up (the first compiles)."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in tqdm(range(rounds + 2), desc=label, unit="round"):
        for name, run in runs.items():
            machine.synchronize(device)
            begin = time.perf_counter()
            run()
            machine.synchronize(device)
            if turn > 1:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def table(lengths: dict[int, dict[str, list[float]]]) -> str:
    lines = []
    for length, seconds in lengths.items():
        whole = statistics.median(seconds["whole layer"])
        lines.append(f"\n{length} tokens: milliseconds, median (min to max), share of the whole layer")
        for name, values in seconds.items():
            median = statistics.median(values)
            spread = f"({min(values) * 1e3:.2f} to {max(values) * 1e3:.2f})"
            lines.append(f"  {name:<22} {median * 1e3:8.2f} {spread:<20} {median / whole:6.1%}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
