# SPDX-License-Identifier: Apache-2.0
"""Latency of pruned against dense inference at the real 7B geometry, side by side in one run.

    scripts/env python benchmarks/latency.py --quick                     # CPU, all 32 layers, under 5 minutes
    scripts/env python benchmarks/latency.py --quick --precision int8    # the same and 8 bits, in one run
    scripts/env python benchmarks/latency.py --device cuda --rounds 50   # a GPU

Weights are random: time does not depend on their values. On a CPU all decoder layers share one set of weights (0.8 GB,
far larger than any cache), so that the model fits into memory. Every round runs every variant once, in turn; the table
gives medians with minimum and maximum.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from openvla_7b import EOS_ID, LIBERO_PROMPT, build
from reference_dense import reference_dense
from tqdm import tqdm

from specprune_ros.engine.calibration import calibrate
from specprune_ros.engine.engine import Engine
from specprune_ros.engine.flops import decoder_flops, vision_flops
from specprune_ros.engine.precision import check_precision, choose_precision, pack, store_linears
from specprune_ros.engine.precision_names import NATIVE, PRECISIONS
from specprune_ros.engine.stage_clock import STAGES
from specprune_ros.errors import UserError
from specprune_ros.openvla.model import OpenVLA, SequenceLayout
from specprune_ros.pruning.config import PruningConfig

QUICK_SECONDS = 280.0
QUICK = ("dense", "paper", "fast")
# A whole inference; returns its stage times in seconds, tokens per layer and FLOP share.
Run = Callable[[], tuple[dict[str, float], tuple[int, ...], float]]
COLUMNS = ("median", "min", "max", "speed-up", "FLOPs", "floor", "x floor")


@dataclass
class Variant:
    """One way to run an inference."""

    name: str
    title: str
    run: Run
    precision: str = NATIVE  # that it really runs in
    seconds: list[float] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)
    tokens: tuple[int, ...] = ()
    flop_share: float = 1.0


def main() -> None:
    args = parse_arguments()
    device = torch.device(args.device)
    dtype = machine.fastest_dtype(device) if args.dtype == "auto" else getattr(torch, args.dtype)
    share = device.type == "cpu"
    print(
        f"building the 7B geometry, {args.layers} layers, {dtype}{', layers share one set of weights' if share else ''}"
    )
    small, small_precision = None, NATIVE
    if args.precision != NATIVE:  # the small one first: its large form is gone when the other one comes
        small = build(device, dtype, num_layers=args.layers, share_layers=share)
        small_precision = choose_precision(args.precision, small.config, device).precision
        store_linears(small, small_precision, device)
        pack(small)
    model = build(device, dtype, num_layers=args.layers, share_layers=share)
    pack(model)
    tile = args.tile or calibrate(model).tile
    variants = make_variants(model, tile, args.quick)
    if small:
        variants += make_variants(small, tile, args.quick, args.precision, small_precision)
    if not args.quick:  # on a CPU ours is packed by now, and the reference's way needs plain weights of its own
        plain = build(device, dtype, num_layers=args.layers, share_layers=share) if share else model
        variants.insert(0, Variant("reference", "reference-style dense", reference_run(plain)))
    precisions = {NATIVE, small_precision} if small else {NATIVE}
    rates = {precision: machine.matmul_rate(device, dtype, precision) for precision in precisions}
    for _ in measure(variants, device, args.rounds, QUICK_SECONDS if args.quick else None):
        result = summarize(variants, model, device, dtype, share, rates) | {"tile": tile}
        machine.write(result, args.json)  # after every round, so that an end in the middle leaves something
    print(table(result))
    if args.plot:
        plot(result, args.plot)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--layers", type=int, default=32, help="decoder layers (default: 32, the real depth)")
    parser.add_argument(
        "--rounds", type=int, default=0, help="rounds (default: 3 on a CPU, 2 with --quick, 50 on a GPU)"
    )
    parser.add_argument("--tile", type=int, default=0, help="sequence-length tile (default: measured)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=NATIVE,
        help="measure every variant in this number format too (NAME_int8 ...), turn by turn with the native ones",
    )
    parser.add_argument("--quick", action="store_true", help="dense, paper and fast only; ends within 5 minutes")
    parser.add_argument("--json", type=machine.writable, help="write the result here")
    parser.add_argument("--plot", type=machine.writable, help="write a picture here")
    args = parser.parse_args()
    if args.layers < 4:
        parser.error("--layers must be at least 4, so that there is something behind the static selection")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA GPU; use --device cpu or fix the driver")
    try:
        check_precision(args.precision, torch.device(args.device))
    except UserError as error:
        parser.error(str(error))
    args.rounds = args.rounds or (50 if args.device == "cuda" else 2 if args.quick else 3)
    return args


def make_variants(model: OpenVLA, tile: int, quick: bool, suffix: str = "", precision: str = NATIVE) -> list[Variant]:
    """Our dense path, and the presets in their modes; `quick`: few of them. `suffix`: of the names."""
    paper = PruningConfig.from_preset("paper")
    static_only = paper.changed({"prune_layers": (0,), "update_layers": (0,)})
    dense = Engine(model, EOS_ID, True, None, tile)
    variants = [
        Variant("dense", "dense (ours)", engine_run(dense, "off")),
        Variant(
            "static_only", "paper, static only", engine_run(Engine(model, EOS_ID, True, static_only, tile), "coarse")
        ),
        *(
            Variant(name, f"{preset}, {mode}", engine_run(Engine(model, EOS_ID, True, config, tile), mode))
            for name, preset, mode, config in (
                ("paper", "paper", "coarse", paper),
                ("paper_fine", "paper", "fine", paper),
                ("careful", "careful", "coarse", PruningConfig.from_preset("careful")),
                ("fast", "fast", "coarse", PruningConfig.from_preset("fast")),
            )
        ),
    ]
    chosen = [variant for variant in variants if not quick or variant.name in QUICK]
    for variant in chosen:
        variant.precision = precision
        if suffix:
            variant.name, variant.title = f"{variant.name}_{suffix}", f"{variant.title}, {suffix}"
    return chosen


def camera_frames(num_views: int, seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (num_views, 256, 256, 3), dtype=np.uint8))


def engine_run(engine: Engine, mode: str) -> Run:
    """A whole inference as Policy.act does it: camera frames in, actions on the host."""
    size = engine.model.config
    views = camera_frames(size.num_views, 1)
    reference = engine.prepare(camera_frames(size.num_views, 0))
    proprio = np.zeros(size.proprio_dim)

    def run() -> tuple[dict[str, float], tuple[int, ...], float]:
        begin = time.perf_counter()
        sight = engine.look(views, reference)
        looked = time.perf_counter()
        result = engine.run(mode, LIBERO_PROMPT, sight.frames, sight.similarity, proprio)
        stages = result.stage_seconds
        stages["preprocess"] += looked - begin
        return stages, result.tokens_per_layer, result.flop_share

    return run


def reference_run(model: OpenVLA) -> Run:
    engine = Engine(model, EOS_ID, True, None, tile=1)  # prepares the frames
    views = camera_frames(model.config.num_views, 1)
    layout = SequenceLayout.of(model.config, LIBERO_PROMPT)
    token_ids = torch.tensor(LIBERO_PROMPT.token_ids, device=model.device)
    text = model.embed_text(token_ids, EOS_ID)
    proprio = torch.zeros(model.config.proprio_dim, device=model.device)
    normalizations = model.normalizations()
    tokens = (layout.length,) * model.config.decoder.num_layers

    def run() -> tuple[dict[str, float], tuple[int, ...], float]:
        frames = engine.prepare(views)
        actions, _attentions = reference_dense(model, normalizations, layout, frames, proprio, text)
        actions.cpu()
        return {}, tokens, 1.0

    return run


def measure(variants: list[Variant], device: torch.device, rounds: int, limit: float | None) -> Iterator[int]:
    """Warm every variant where that is cheap, then run them in turn; yields after every round.

    `limit`: seconds in which a further round has to fit.
    """
    begin = time.perf_counter()
    if device.type == "cuda":
        for variant in variants:
            for _ in range(5):
                variant.run()
    progress = tqdm(total=rounds * len(variants), desc="measuring", unit="inference")
    for done in range(rounds):
        elapsed = time.perf_counter() - begin
        if limit and done and elapsed * (done + 1) / done > limit:
            break
        for variant in variants:
            progress.set_postfix_str(variant.title)
            machine.synchronize(device)
            start = time.perf_counter()
            stages, variant.tokens, variant.flop_share = variant.run()
            machine.synchronize(device)
            variant.seconds.append(time.perf_counter() - start)
            variant.stages.append(stages)
            progress.update()
        yield done + 1
    progress.close()


def summarize(
    variants: list[Variant],
    model: OpenVLA,
    device: torch.device,
    dtype: torch.dtype,
    share: bool,
    rates: dict[str, float],
) -> dict[str, Any]:
    """Everything that is printed, plotted and written as JSON. `rates`: of matrix products, by precision."""
    config = model.config
    rows = {}
    for variant in variants:
        flops = vision_flops(config) + decoder_flops(config.decoder, variant.tokens, config.num_actions)
        median, rate = statistics.median(variant.seconds), rates[variant.precision]
        rows[variant.name] = {
            "title": variant.title,
            "precision": variant.precision,
            "median_s": median,
            "min_s": min(variant.seconds),
            "max_s": max(variant.seconds),
            "p99_s": float(np.percentile(variant.seconds, 99)),
            "runs": len(variant.seconds),
            "stages_s": {
                stage: statistics.median(stages[stage] for stages in variant.stages)
                for stage in STAGES
                if variant.stages[0]
            },
            "tokens_per_layer": variant.tokens,
            "flop_share": variant.flop_share,
            "floor_s": flops / rate,
            "over_floor": median / (flops / rate),
        }
    dense = rows["dense"]["median_s"]
    return {
        "speedup": {name: dense / row["median_s"] for name, row in rows.items()},
        "flop_share": {name: row["flop_share"] for name, row in rows.items()},
        "selection_share": {
            name: row["stages_s"]["selection"] / row["median_s"] for name, row in rows.items() if row["stages_s"]
        },
        "variants": rows,
        "matmul_flops_per_second": rates[NATIVE],
        "matmul_rates": rates,
        "peak_memory_bytes": machine.peak_memory(device),
        "layers": config.decoder.num_layers,
        "shared_layer_weights": share,
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "machine": machine.describe(device),
    }


def table(result: dict[str, Any]) -> str:
    """The result as text."""
    unit, scale = ("ms", 1e3) if result["device"] == "cuda" else ("s", 1.0)
    where = result["machine"].get("gpu", result["machine"]["processor"])
    lines = [
        f"{where}, {result['dtype']}, {result['layers']} layers"
        + (" sharing one set of weights" if result["shared_layer_weights"] else ""),
        f"matrix products: {result['matmul_flops_per_second'] / 1e12:.3g} TFLOP/s; "
        f"peak memory {result['peak_memory_bytes'] / 1e9:.1f} GB",
        "",
        f"{'whole inference, ' + unit:<24}" + "".join(f"{head:>9}" for head in COLUMNS),
    ]
    for name, row in result["variants"].items():
        median, low, high, floor = (row[key] * scale for key in ("median_s", "min_s", "max_s", "floor_s"))
        lines.append(
            f"{row['title']:<24}{median:>9.2f}{low:>9.2f}{high:>9.2f}{result['speedup'][name]:>8.2f}x"
            f"{row['flop_share']:>9.1%}{floor:>9.2f}{row['over_floor']:>9.2f}"
        )
    lines += ["", f"{'stage, median ' + unit:<24}" + "".join(f"{stage:>12}" for stage in STAGES)]
    for row in result["variants"].values():
        if row["stages_s"]:
            times = "".join(f"{row['stages_s'][stage] * scale:>12.3f}" for stage in STAGES)
            lines.append(f"{row['title']:<24}{times}")
    lines += ["", "tokens per layer"]
    for row in result["variants"].values():
        lines.append(f"{row['title']:<24}{runs_of(row['tokens_per_layer'])}")
    return "\n".join(lines)


def runs_of(tokens: tuple[int, ...]) -> str:
    """(605, 605, 281) -> '605 x2, 281 x1'."""
    groups: list[list[int]] = []
    for count in tokens:
        if groups and groups[-1][0] == count:
            groups[-1][1] += 1
        else:
            groups.append([count, 1])
    return ", ".join(f"{count} x{layers}" for count, layers in groups)


def plot(result: dict[str, Any], path: Path) -> None:
    """Stacked stages per variant, with the arithmetic floor and the speed-up over dense."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    unit, scale = ("ms", 1e3) if result["device"] == "cuda" else ("s", 1.0)
    rows = list(result["variants"].items())[::-1]
    figure = Figure(figsize=(9, 0.6 * len(rows) + 1.8), layout="constrained")
    axes = figure.subplots()
    colours = {stage: f"C{number}" for number, stage in enumerate(STAGES)}
    for position, (name, row) in enumerate(rows):
        left = 0.0
        for stage in STAGES if row["stages_s"] else ():
            width = row["stages_s"][stage] * scale
            axes.barh(position, width, left=left, color=colours[stage], label=stage if position == 0 else None)
            left += width
        median, low, high = (row[key] * scale for key in ("median_s", "min_s", "max_s"))
        axes.barh(position, median - left, left=left, color="lightgrey", label="not split" if position == 0 else None)
        axes.errorbar(median, position, xerr=[[median - low], [high - median]], color="black", capsize=3)
        axes.plot([row["floor_s"] * scale] * 2, [position - 0.4, position + 0.4], "k:", lw=1.5)
        axes.annotate(f"  {result['speedup'][name]:.2f}x", (high, position), va="center")
    axes.set_yticks(range(len(rows)), [row["title"] for _, row in rows])
    axes.set_xlabel(f"whole inference, {unit} (median; whiskers: minimum and maximum; dotted: arithmetic floor)")
    axes.set_xlim(right=axes.get_xlim()[1] * 1.1)
    where = result["machine"].get("gpu", result["machine"]["processor"])
    axes.set_title(
        f"OpenVLA-OFT 7B geometry, {result['layers']} layers, {result['dtype']}, {where}; speed-up over our dense"
    )
    handles = [Patch(color=colours[stage]) for stage in STAGES]
    axes.legend(handles, STAGES, ncols=len(STAGES), loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
