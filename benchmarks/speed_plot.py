# SPDX-License-Identifier: Apache-2.0
"""What speed buys: success over the latency, and over that of the dense model on the same hardware, as one picture.

    scripts/env python benchmarks/speed_plot.py results/libero_latency.json docs/speed.png --speed-up 1.47

The file is one of `libero.py --latency`, with the arms of ARMS. `--speed-up`: how much faster `paper` is than dense on
one machine; 1.47 is the paper's on an A800 (109 and 74 ms). It names none for `fast`, which has no curve on the right.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from libero_results import look

ARMS = ("dense", "paper", "fast")


def main() -> None:
    parser = argparse.ArgumentParser(description="Success over latency as one picture.")
    parser.add_argument("results", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--speed-up", type=float, default=1.47, help="of paper over dense (default: %(default)s)")
    given = parser.parse_args()
    draw(json.loads(given.results.read_text())["summary"], given.speed_up, given.picture)


def draw(summary: dict[str, Any], speed_up: float, path: Path) -> None:
    """`summary`: an entry per ARM@SECONDS."""
    from matplotlib.figure import Figure

    curves = {name: sorted(_points(summary, name)) for name in ARMS}
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    own, equal = figure.subplots(1, 2, sharey=True)
    for number, (name, points) in enumerate(curves.items()):
        latency, rate, below, above = (list(column) for column in zip(*points, strict=True))
        style = {"fmt": look(number) + "-", "capsize": 3, "ms": 4, "label": name}
        aside = 2 * (number - 1)  # or the bars would hide one another
        own.errorbar([x + aside for x in latency], rate, [below, above], **style)
        if name != "fast":
            equal.plot([x * (speed_up if name == "paper" else 1.0) for x in latency], rate, look(number) + "-", ms=4)
    own.set(xlabel="latency of an inference, ms", ylabel="episodes solved, % (95 % interval)", ylim=(-3, 103))
    equal.set(xlabel=f"latency of dense on the same machine, ms ({speed_up:g}x)")
    for axes in (own, equal):
        axes.grid(alpha=0.3)
        axes.set_xlim(-10, None)
    own.legend(loc="lower left")
    figure.savefig(path, dpi=120)


def _points(summary: dict[str, Any], name: str) -> list[tuple[float, float, float, float]]:
    """Latency in ms, success in %, and how far its interval reaches below and above."""
    rows = [(arm.partition("@"), row) for arm, row in summary.items()]
    return [
        (
            1000 * float(latency),
            100 * row["rate"],
            100 * max(0.0, row["rate"] - row["interval"][0]),
            100 * max(0.0, row["interval"][1] - row["rate"]),
        )
        for (arm, _, latency), row in rows
        if arm == name
    ]


if __name__ == "__main__":
    main()
