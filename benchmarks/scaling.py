# SPDX-License-Identifier: Apache-2.0
"""How time grows with the patches kept and with the number of views, with a straight-line fit.

    scripts/env python benchmarks/scaling.py --json out/scaling.json --plot out/scaling.png

Only the static selection prunes, so that the number on the axis holds from layer 3 on. A LIBERO-size view has 256
patches, so two views span 64 to 512 kept patches in all.
"""

import argparse
import copy
import dataclasses
import statistics
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from latency import engine_run
from openvla_7b import EOS_ID, build
from tqdm import tqdm

from specprune_ros.engine.engine import Engine
from specprune_ros.engine.precision import pack
from specprune_ros.openvla.model import OpenVLA
from specprune_ros.pruning.config import PruningConfig

KEPT = (64, 128, 192, 256, 320, 384, 448, 512)  # patches in both views
VIEWS = (1, 2, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--layers", type=int, default=8, help="decoder layers (default: 8)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=machine.writable)
    parser.add_argument("--plot", type=machine.writable)
    args = parser.parse_args()
    if args.layers < 4:
        parser.error("--layers must be at least 4, so that there is something behind the static selection")
    device = torch.device(args.device)
    dtype = machine.fastest_dtype(device)
    share = device.type == "cpu"

    result: dict[str, Any] = {"kept": {}, "views": {}}
    model = build(device, dtype, num_layers=args.layers, share_layers=share)
    pack(model)
    runs = {kept: engine_run(Engine(model, EOS_ID, True, static_only(kept // 2), 1), "coarse") for kept in KEPT}
    result["kept"] = measure(runs, args.rounds, "patches kept")
    models = {views: with_views(model, views) for views in VIEWS}
    for label, config in (("dense", None), ("paper", PruningConfig.from_preset("paper"))):
        mode = "coarse" if config else "off"
        runs = {views: engine_run(Engine(models[views], EOS_ID, True, config, 1), mode) for views in VIEWS}
        result["views"][label] = measure(runs, args.rounds, f"views, {label}")
    result |= {
        "fit_kept": fit(result["kept"]),
        "fit_views": {label: fit(points) for label, points in result["views"].items()},
        "layers": args.layers,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device.type,
        "shared_layer_weights": share,
        "machine": machine.describe(device),
    }
    print(table(result))
    machine.write(result, args.json)
    if args.plot:
        plot(result, args.plot)


def static_only(per_view: int) -> PruningConfig:
    return PruningConfig(budget_tokens=per_view, prune_layers=(0,), update_layers=(0,))


def with_views(model: OpenVLA, num_views: int) -> OpenVLA:
    """The same modules for another number of views: no weight depends on it."""
    other = copy.copy(model)
    other.config = dataclasses.replace(model.config, num_views=num_views)
    return other


def measure(runs: dict[int, Any], rounds: int, label: str) -> dict[int, list[float]]:
    """Seconds of an inference for every setting, run in turn after one warm-up each."""
    seconds: dict[int, list[float]] = {key: [] for key in runs}
    for turn in tqdm(range(rounds + 1), desc=label, unit="round"):
        for key, run in runs.items():
            stages, _, _ = run()
            if turn:
                seconds[key].append(sum(stages.values()))
    return seconds


def fit(points: dict[int, list[float]]) -> dict[str, float]:
    """Straight line through the medians, and how well it fits."""
    x = np.array(list(points), dtype=float)
    y = np.array([statistics.median(values) for values in points.values()])
    slope, intercept = np.polyfit(x, y, 1)
    residual = y - (slope * x + intercept)
    return {
        "seconds_per_unit": float(slope),
        "seconds_at_zero": float(intercept),
        "r_squared": float(1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum()),
    }


def table(result: dict[str, Any]) -> str:
    lines = [f"{result['layers']} layers, {result['dtype']}, seconds: median (min to max)"]
    series = {"patches kept": (result["kept"], result["fit_kept"])}
    for label, points in result["views"].items():
        series[f"views, {label}"] = (points, result["fit_views"][label])
    for label, (points, line) in series.items():
        lines.append(f"\n{label}")
        for key, values in points.items():
            lines.append(f"  {key:>4}  {statistics.median(values):8.4f} ({min(values):.4f} to {max(values):.4f})")
        lines.append(
            f"  fit: {line['seconds_at_zero']:.4f} s + {line['seconds_per_unit'] * 1e3:.3f} ms each, "
            f"R2 {line['r_squared']:.4f}"
        )
    return "\n".join(lines)


def plot(result: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw(left, result["kept"], result["fit_kept"], "static selection")
    left.set_xlabel("patches kept, two views")
    for label, points in result["views"].items():
        draw(right, points, result["fit_views"][label], label)
    right.set_xlabel("views")
    right.set_xticks(VIEWS)
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.set_ylabel("inference, s")
        axes.legend(frameon=False)
    figure.suptitle(
        f"7B geometry, {result['layers']} decoder layers, {result['dtype']}: median with min and max, and fit"
    )
    figure.savefig(path, dpi=120)


def draw(axes: Any, points: dict[int, list[float]], line: dict[str, float], label: str) -> None:
    x = np.array(list(points), dtype=float)
    median = np.array([statistics.median(values) for values in points.values()])
    spread = [median - [min(v) for v in points.values()], [max(v) for v in points.values()] - median]
    marks = axes.errorbar(x, median, yerr=spread, fmt="o", capsize=3, label=f"{label} (R² {line['r_squared']:.3f})")
    axes.plot(x, line["seconds_at_zero"] + line["seconds_per_unit"] * x, "--", color=marks[0].get_color())


if __name__ == "__main__":
    main()
