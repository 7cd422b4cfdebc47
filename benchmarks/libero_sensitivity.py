# SPDX-License-Identifier: Apache-2.0
"""What the method's constants do: action error against dense over each of them, the others at the preset's values.

    scripts/env python benchmarks/libero_sensitivity.py CHECKPOINT HELD_OUT --json FILE
    scripts/env python benchmarks/libero_sensitivity.py CHECKPOINT HELD_OUT --json FILE --constants alpha history_length

HELD_OUT holds recorded episodes that were never trained on, see libero_open_loop.py. Beside FILE a plot is written,
with a panel per constant; its bars are of the difference from the preset, on the same inferences. Only in the union
selection does `alpha` decide how many patches are kept: all runs use it.
"""

import argparse
import math
import sys
from pathlib import Path

import machine
import torch
from arms import arm
from libero_open_loop import key_of, measure, recording_parser, recordings, summarize

from specprune_ros.errors import UserError
from specprune_ros.policy import Policy

VALUES: dict[str, tuple[float, ...]] = {
    "alpha": (0.3, 0.5, 0.8, 1.2, 2.0),
    "similarity_threshold": (0.9, 0.96, 0.99, 0.996, 0.999),
    "history_length": (1, 2, 4, 8),
    "history_decay": (0.3, 0.5, 0.7, 0.9, 1.0),
    "refresh_interval": (0, 2, 5, 10, 20),
    "translation_threshold": (0.02, 0.05, 0.1, 0.2, 0.4),
    "rotation_threshold": (0.1, 0.25, 0.5, 1.0, 2.0),
}
BASE = "paper:selection=union"
ALSO = {"history_decay": "history_length=4"}  # what a constant needs in order to matter
COLUMNS = 4


def main(arguments: list[str]) -> None:
    given = _parser().parse_args(arguments)
    paths = recordings(given)
    names = {(constant, value): _arm(constant, value) for constant in given.constants for value in VALUES[constant]}
    policy = Policy.from_checkpoint(given.checkpoint, given.device, given.dtype, unnorm_key=key_of(given, paths))
    arms = [arm(name) for name in dict.fromkeys([BASE, *names.values()])]
    measured = measure(policy, arms, paths, given.json.with_suffix(".rows.json"))
    rows = {name: summarize(of_arm, measured[BASE]) for name, of_arm in measured.items()}
    curves = {
        constant: [{"value": value, **rows[names[constant, value]]} for value in VALUES[constant]]
        for constant in given.constants
    }
    run = machine.describe(torch.device(given.device))
    content = {"run": run, "episodes": len(paths), "preset": {"arm": BASE, **rows[BASE]}, "constants": curves}
    machine.write(content, given.json)
    _plot(curves, given.json.with_suffix(".png"))


def _arm(constant: str, value: float) -> str:
    also = f",{ALSO[constant]}" if constant in ALSO else ""
    return f"{BASE},{constant}={value}{also}"


def _plot(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    from matplotlib.figure import Figure

    rows = math.ceil(len(curves) / COLUMNS)
    columns = min(COLUMNS, len(curves))
    figure = Figure(figsize=(4 * columns, 3.2 * rows), layout="constrained")
    panels = iter(figure.subplots(rows, columns, squeeze=False).flat)
    for (constant, points), axes in zip(curves.items(), panels, strict=False):
        places = range(len(points))
        errors = [2 * point["more_centimetres_standard_error"] for point in points]
        axes.errorbar(places, [point["centimetres"] for point in points], errors, fmt="o-", capsize=3, color="#b5303a")
        axes.set(xlabel=constant, xticks=places, ylim=(0, 1.2 * max(point["centimetres"] for point in points)))
        axes.set_xticklabels([f"{point['value']:g}" for point in points])
        axes.set_ylabel("cm from dense", color="#b5303a")
        axes.grid(alpha=0.3)
        tokens = axes.twinx()
        tokens.plot(places, [point["tokens"] for point in points], "s--", color="#5b4b8a")
        tokens.set_ylabel("tokens per decoder layer", color="#5b4b8a")
        tokens.set_ylim(0, 1.2 * max(point["tokens"] for point in points))
    for axes in panels:
        axes.remove()
    figure.suptitle("bars: twice the standard error of the difference from the preset", fontsize=10)
    figure.savefig(path, dpi=120)


def _parser() -> argparse.ArgumentParser:
    parser = recording_parser("Action error against dense over the method's constants.")
    parser.add_argument("--constants", nargs="+", choices=VALUES, default=list(VALUES), help="default: all")
    return parser


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"benchmarks/libero_sensitivity.py: {error}")
