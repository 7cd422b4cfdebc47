# SPDX-License-Identifier: Apache-2.0
"""Success rates of a checkpoint in the LIBERO simulator, dense and pruned, from the same initial states.

    scripts/env python benchmarks/libero.py CHECKPOINT --json FILE --arms dense paper fastv --tasks 0 2 3 --episodes 30
    scripts/env python benchmarks/libero.py CHECKPOINT --json FILE --placement wide --arms dense blind expert
    scripts/env python benchmarks/libero.py CHECKPOINT --json FILE --arms dense paper:alpha=0.5 paper:alpha=1.2
    scripts/env python benchmarks/libero.py CHECKPOINT --json FILE --latency dense=0.109 paper=0.074 --latency-scale 1 2

Episodes start from initial states and placements that training never used (`training/placements.py`). The policy runs
through `Policy.act`, its chunks through the real chunk executor; there is no ROS in between. Simulated time stands
still during an inference, or goes on for `--latency`. Run it again to go on after an interruption, or with more arms:
finished episodes stay in FILE. Beside FILE a table and a plot are written.
"""

import argparse
import itertools
import sys
from pathlib import Path

sys.path.sort(key=lambda folder: folder == str(Path(__file__).parent))  # last, or `import libero` finds this file

import machine
import torch
from arms import arm, with_latencies
from closed_loop import Outcome
from libero_episodes import Setup, Work, run
from libero_results import Job, Results, latency_plot, plot, table
from tqdm import tqdm

from specprune_ros.errors import UserError
from training.policy_driver import weights_digest
from training.workers import Workers, add_options, run_jobs


def main(arguments: list[str]) -> None:
    given = _parser().parse_args(arguments)
    device = torch.device(given.device)
    given.arms = with_latencies(given.arms, given.latency, given.latency_scale)
    for name in given.arms:
        arm(name)  # a mistake should not wait for its turn
    results = Results(given.json, weights_digest(given.checkpoint))
    setup = Setup(given.checkpoint.resolve(), given.device, given.dtype, not given.no_shadows, given.bowl_speed)
    works = _missing(given, setup, results)
    results.content["runs"].append(machine.describe(device))
    with tqdm(total=len(works), unit="episode") as progress:

        def done(work: Work, outcomes: dict[str, Outcome]) -> None:
            results.add(work.job, outcomes)
            results.write()
            progress.update()

        run_jobs(run, works, Workers.of(given), done)
    results.write(summary=True)
    summary = results.content["summary"]
    given.json.with_suffix(".md").write_text(table(summary) + "\n")
    draw = latency_plot if any("@" in name for name in summary) else plot
    draw(summary, given.json.with_suffix(".png"))
    print(table(summary))


def _missing(given: argparse.Namespace, setup: Setup, results: Results) -> list[Work]:
    works = []
    placement = f"{given.placement}, bowl at {given.bowl_speed:g} m/s" if given.bowl_speed else given.placement
    for suite, task, episode in itertools.product(given.suites, given.tasks, range(given.episodes)):
        job = Job(suite, task, placement, episode)
        arms = tuple(name for name in given.arms if not results.has(job, name))
        if arms:
            works.append(Work(setup, job, arms))
    return works


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Success rates in the LIBERO simulator.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "--json", type=machine.writable, required=True, help="results; a table and a plot are written beside it"
    )
    parser.add_argument("--arms", nargs="+", default=["dense", "paper"], help="see arms.py; default: dense paper")
    parser.add_argument("--suites", nargs="+", default=["libero_spatial"], help="default: %(default)s")
    parser.add_argument("--tasks", nargs="+", type=int, default=list(range(10)), help="default: all ten")
    parser.add_argument("--episodes", type=int, default=30, help="per task and arm (default: %(default)s)")
    parser.add_argument("--placement", choices=("standard", "wide"), default="standard", help="default: %(default)s")
    parser.add_argument(
        "--bowl-speed",
        type=float,
        default=0.0,
        help="m/s: what is to be moved slides until it is touched (tasks 0 to 2, 6, 8)",
    )
    parser.add_argument(
        "--latency",
        nargs="+",
        default=[],
        metavar="[ARM=]SECONDS",
        help="let simulated time go on during an inference: this long for every arm, or ARM=SECONDS for one",
    )
    parser.add_argument(
        "--latency-scale", nargs="+", type=float, default=[1.0], help="on machines this many times as slow, each"
    )
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", default="float32", help="default: %(default)s")
    parser.add_argument("--no-shadows", action="store_true", help="render as the data was collected with this option")
    add_options(parser)
    return parser


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"benchmarks/libero.py: {error}")
