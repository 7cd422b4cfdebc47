# SPDX-License-Identifier: Apache-2.0
"""Collect demonstrations of LIBERO-Spatial, -Object and -Goal with the scripted expert.

    scripts/env python -m training.collect DATA --episodes 50 --processes 2            # LIBERO's initial states
    scripts/env python -m training.collect DATA --episodes 200 --processes 2 --wide    # random placements
    scripts/env python -m training.collect DATA --suites libero_spatial_swap libero_spatial_with_mug
    scripts/env python -m training.collect DATA --suites libero_goal libero_object --episodes 50
    scripts/env python -m training.collect DATA --policy CHECKPOINT    # a half-trained policy drives at times (DAgger)

    scripts/env python -m training.collect HELD_OUT --first 1000000 --episodes 5 --wide                # for evaluation

Run it again to go on after an interruption, or with more episodes: what is there stays. An episode depends on suite,
task, index, the kind of placement and the policy alone, so a data set can be made again. Only successful episodes are
kept.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from specprune_ros.errors import UserError
from training.data_card import write_summary
from training.pick_and_place import known_tasks
from training.placements import EVALUATION_SEED
from training.recording import Block, is_tried, record_block
from training.workers import Workers, add_options, run_jobs

BLOCK = 10  # episodes that a process takes at a time; making the simulator costs as much as half an episode


def main(arguments: list[str]) -> None:
    given = _parser().parse_args(arguments)
    first, last = given.first, given.first + given.episodes
    if given.episodes < 1 or first < 0 or first < EVALUATION_SEED < last:
        raise UserError(
            f"episodes {first} to {last - 1} are not allowed; those from {EVALUATION_SEED} on are for evaluation, "
            "collect them into a folder of their own"
        )
    blocks = [block for block in _blocks(given) if block.indices]
    _collect(blocks, Workers.of(given))
    write_summary(given.folder, [" ".join(["python -m training.collect", *arguments])])


def _collect(blocks: list[Block], workers: Workers) -> None:
    solved = tried = 0
    with tqdm(total=sum(len(block.indices) for block in blocks), desc="collecting", unit="episode") as progress:

        def done(_: Block, successes: list[bool]) -> None:
            nonlocal solved, tried
            solved, tried = solved + sum(successes), tried + len(successes)
            progress.update(len(successes))
            progress.set_postfix_str(f"{solved} of {tried} solved")

        run_jobs(record_block, blocks, workers, done)


def _blocks(given: argparse.Namespace) -> Iterator[Block]:
    """What is still missing."""
    indices = tuple(range(given.first, given.first + given.episodes))
    policy = given.policy and given.policy.resolve()  # a worker may be elsewhere
    tasks = [(suite, task) for suite in given.suites for task in given.tasks or known_tasks(suite)]
    for suite, task in tasks:
        whole = Block(given.folder.resolve(), suite, task, given.wide, not given.no_shadows, policy, indices)
        left = [i for i in whole.indices if not is_tried(whole, i)]
        for start in range(0, len(left), BLOCK):
            yield replace(whole, indices=tuple(left[start : start + BLOCK]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.collect", description="Collect demonstrations.")
    parser.add_argument("folder", type=Path, help="data folder; made when it does not exist")
    parser.add_argument("--episodes", type=int, default=50, help="episodes tried per task (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="index of the first one (default: %(default)s)")
    parser.add_argument("--suites", nargs="+", default=["libero_spatial"], help="default: %(default)s")
    parser.add_argument("--tasks", nargs="+", type=int, help="default: all that the expert knows")
    parser.add_argument("--wide", action="store_true", help="random placements (libero_spatial only)")
    parser.add_argument("--no-shadows", action="store_true", help="renders in a third of the time; looks different")
    parser.add_argument("--policy", type=Path, metavar="CHECKPOINT", help="drives at times; the expert labels")
    add_options(parser)
    return parser


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"training.collect: {error}")
