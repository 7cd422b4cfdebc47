# SPDX-License-Identifier: Apache-2.0
"""What the variants cost: a diffusion head's sampler with patches kept or chosen anew, and FiLM against plain towers.

    scripts/env python benchmarks/variants.py --json FILE                  # CPU, a model of an eighth of the widths
    scripts/env python benchmarks/variants.py --device cuda --rounds 30    # a GPU, the 7B geometry

Random weights: time does not depend on their values. Every round runs every row once, in turn; the table gives medians
with minimum and maximum, and time and counted decoder operations as a share of the first row of its group.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import machine
import numpy as np
import torch
from openvla_7b import EOS_ID, LIBERO_PROMPT, OPENVLA_7B, build
from tqdm import tqdm

from specprune_ros.engine.engine import Engine
from specprune_ros.engine.precision import pack
from specprune_ros.openvla.config import DIFFUSION, DecoderConfig, ModelConfig
from specprune_ros.openvla.model import OpenVLA
from specprune_ros.pruning.config import PruningConfig

SMALL_TOWERS = tuple(
    dataclasses.replace(tower, width=tower.width // 8, mlp_width=tower.mlp_width // 8, num_heads=tower.num_heads // 8)
    for tower in OPENVLA_7B.towers
)
SMALL = dataclasses.replace(
    OPENVLA_7B,
    towers=(SMALL_TOWERS[0], SMALL_TOWERS[1]),
    decoder=DecoderConfig(32064, 512, 1376, 32, 4),
    projector_width=1088,
    head_width=512,
)

Row = tuple[str, str, Callable[[], float]]  # group, title, and an inference that returns its FLOP share


def main() -> None:
    args = parse_arguments()
    device = torch.device(args.device)
    dtype = machine.fastest_dtype(device) if args.dtype == "auto" else getattr(torch, args.dtype)
    geometry = OPENVLA_7B if device.type == "cuda" else SMALL
    sampler = dataclasses.replace(geometry, head=DIFFUSION, diffusion_steps=args.steps)
    rows = sampler_rows(packed(sampler, device, dtype)) + film_rows(geometry, device, dtype)
    result = measure(rows, device, args.rounds) | {"steps": args.steps, "machine": machine.describe(device)}
    print(table(result))
    machine.write(result, args.json)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--steps", type=int, default=10, help="denoising steps (default: 10)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=machine.writable, help="write the result here")
    return parser.parse_args()


def packed(geometry: ModelConfig, device: torch.device, dtype: torch.dtype) -> OpenVLA:
    model = build(device, dtype, geometry=geometry)
    pack(model)
    return model


def sampler_rows(model: OpenVLA) -> list[Row]:
    paper = PruningConfig.from_preset("paper")
    rows = [("sampler", "dense", inference(Engine(model, EOS_ID, True, None, 1), "off"))]
    for title, reselect in (("paper, coarse, patches kept", False), ("paper, coarse, patches chosen anew", True)):
        engine = Engine(model, EOS_ID, True, paper.changed({"reselect": reselect}), 1)
        rows.append(("sampler", title, inference(engine, "coarse")))
    return rows


def film_rows(geometry: ModelConfig, device: torch.device, dtype: torch.dtype) -> list[Row]:
    """The towers alone, on three views."""
    rows = []
    for title, film in (("plain towers", False), ("FiLM towers", True)):
        model = packed(dataclasses.replace(geometry, film=film, num_views=3), device, dtype)
        rows.append(("towers", title, towers_alone(model)))
    return rows


def inference(engine: Engine, mode: str) -> Callable[[], float]:
    size = engine.model.config
    views = list(np.random.default_rng(0).integers(0, 256, (size.num_views, 224, 224, 3), dtype=np.uint8))
    noise = np.random.default_rng(1).standard_normal((size.chunk_length, size.action_dim)).astype(np.float32)
    proprio = np.zeros(size.proprio_dim)

    def run() -> float:
        sight = engine.look(views, None)
        return engine.run(mode, LIBERO_PROMPT, sight.frames, sight.similarity, proprio, noise=noise).flop_share

    return run


def towers_alone(model: OpenVLA) -> Callable[[], float]:
    size = model.config
    pixels = [torch.zeros(size.num_views, 3, 224, 224, device=model.device)] * 2
    film = model.film(model.embed_text(torch.tensor(LIBERO_PROMPT.token_ids, device=model.device), EOS_ID))

    def run() -> float:
        with torch.inference_mode():
            model.see(pixels, film)
        return 1.0

    return run


def measure(rows: list[Row], device: torch.device, rounds: int) -> dict[str, Any]:
    seconds: list[list[float]] = [[] for _ in rows]
    shares = [run() for _, _, run in rows]  # warms up, captures
    for _ in tqdm(range(rounds), desc="measuring", unit="round"):
        for taken, (_, _, run) in zip(seconds, rows, strict=True):
            machine.synchronize(device)
            begin = time.perf_counter()
            run()
            machine.synchronize(device)
            taken.append(time.perf_counter() - begin)
    entries = []
    for (group, title, _), taken, share in zip(rows, seconds, shares, strict=True):
        first = next(times for (other, _, _), times in zip(rows, seconds, strict=True) if other == group)
        ratios = [mine / theirs for mine, theirs in zip(taken, first, strict=True)]
        entries.append(
            {
                "group": group,
                "title": title,
                "median_s": statistics.median(taken),
                "min_s": min(taken),
                "max_s": max(taken),
                "time_share": statistics.median(ratios),
                "flop_share": share,
            }
        )
    return {"rows": entries}


def table(result: dict[str, Any]) -> str:
    lines = [f"{'':<38}{'median':>10}{'min':>10}{'max':>10}{'time':>8}{'FLOPs':>8}"]
    for row in result["rows"]:
        times = "".join(f"{1000 * row[name]:>7.1f} ms" for name in ("median_s", "min_s", "max_s"))
        lines.append(
            f"{row['group'] + ': ' + row['title']:<38}{times}{row['time_share']:>8.2f}{row['flop_share']:>8.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
