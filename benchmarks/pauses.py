# SPDX-License-Identifier: Apache-2.0
"""How old actions are when they are executed, and how often the arm pauses, over the latency. No model, no simulator.

    scripts/env python benchmarks/pauses.py [--chunk 8] [--json FILE]

The loop of `libero.py --latency` and the real chunk executor at LIBERO's 20 Hz: an inference starts so that its chunk
is there when the running one ends, or as soon as it can. The result is exact and the same on every machine.
"""

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.sort(key=lambda folder: folder == str(Path(__file__).parent))  # last, or `import libero` finds libero.py

import machine
import numpy as np
from arms import Arm
from closed_loop import PERIOD, Inference

from specprune_ros.control.command import Command
from specprune_ros.control.executor import ChunkExecutor

LATENCIES = (0.0, 0.05, 0.074, 0.1, 0.109, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)  # s; 0.074 and 0.109: paper and dense, A800
STEPS = 400


class Chunks:
    """Stands in for a policy: chunks without motion."""

    def __init__(self, length: int) -> None:
        self._actions = np.zeros((length, 7))

    def act(self, seen: Any) -> Any:
        return SimpleNamespace(stamp=seen.stamp, actions=self._actions)


def measure(latency: float, chunk: int) -> dict[str, float | None]:
    executor = ChunkExecutor(7, PERIOD)
    executor.enable()
    inference = Inference(Chunks(chunk), executor, Arm("", latency=latency))  # type: ignore[arg-type]  # a stand-in
    ages: list[float] = []
    waited = 0  # steps for the first chunk
    for step in range(STEPS):
        now = step * PERIOD
        inference.deliver(now)
        if inference.due(now):
            inference.start(now, SimpleNamespace(stamp=now), np.empty(0))  # type: ignore[arg-type]  # no picture
            inference.deliver(now)
        command = executor.step(now)
        if isinstance(command, Command):
            ages.append(now - command.stamp)
        elif not ages:
            waited += 1
    return {
        "latency": latency,
        "age": float(np.mean(ages)) if ages else None,
        "pauses": 1 - len(ages) / (STEPS - waited) if ages else 1.0,
        "inferences_per_second": len(inference.chunks) / (STEPS * PERIOD),
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Age of actions and pauses over the latency.")
    parser.add_argument("--chunk", type=int, default=8, help="steps per chunk (default: %(default)s)")
    parser.add_argument("--json", type=machine.writable)
    given = parser.parse_args(arguments)
    rows = [measure(latency, given.chunk) for latency in LATENCIES]
    machine.write({"chunk": given.chunk, "rows": rows}, given.json)
    print(
        "| latency, ms | age of an action when it is executed, ms | steps without an action, after the first chunk "
        "| inferences per second |"
    )
    print("|---|---|---|---|")
    for row in rows:
        age = "none executed" if row["age"] is None else f"{1000 * row['age']:.0f}"
        print(f"| {1000 * row['latency']:.0f} | {age} | {row['pauses']:.0%} | {row['inferences_per_second']:.1f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
