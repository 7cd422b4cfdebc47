# SPDX-License-Identifier: Apache-2.0
"""`ros2 run specprune_ros doctor DIR`, or `python -m specprune_ros.doctor DIR`: what is this checkpoint, does it run?

Reads headers and small files only: no GPU, no ROS graph, and no memory for the weights are needed. --help and a wrong
option are answered before torch is imported.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from specprune_ros.checks import FAIL
from specprune_ros.errors import UserError

if TYPE_CHECKING:
    from specprune_ros.doctor.report import Report


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings. Returns 0 when nothing fails, 1 when something does, 2 when an argument is wrong."""
    given = _parser().parse_args(arguments)
    try:
        report = _examine(given)
    except UserError as error:
        print(f"doctor: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report.json(), indent=2) if given.json else report.text())
    return 1 if report.verdict == FAIL else 0


def _examine(given: argparse.Namespace) -> "Report":
    from specprune_ros.doctor.episode import read_episode
    from specprune_ros.doctor.report import examine
    from specprune_ros.doctor.robot import Robot, read_robot
    from specprune_ros.openvla.files import expanded

    robot = read_robot(given.params_file) if given.params_file else Robot()
    if given.unnorm_key:
        robot = dataclasses.replace(robot, model=dataclasses.replace(robot.model, unnorm_key=given.unnorm_key))
    if given.instruction is not None:
        robot = dataclasses.replace(robot, instruction=given.instruction)
    episodes = [read_episode(path) for path in given.data]
    base = expanded(given.base) if given.base else None
    return examine(expanded(given.folder), robot, episodes, base, fits=bool(given.params_file))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="doctor",
        description="Says what an OpenVLA-OFT checkpoint is, what is wrong with it, and what to do. Loads no weights.",
        epilog="Exits with 0 when nothing fails, 1 when something does, and 2 when an argument is wrong.",
    )
    add = parser.add_argument
    add("folder", metavar="DIR", type=Path, help="folder of the checkpoint")
    add(
        "--params-file",
        metavar="YAML",
        type=Path,
        help="the node's parameters: does it fit this robot?",
    )
    add(
        "--data",
        metavar="EPISODE",
        type=Path,
        action="append",
        default=[],
        help="compare with recorded data: .npz with proprio (T, P), actions (T, A) and instruction, or the data's "
        "instructions as .txt or .jsonl; may be given several times",
    )
    add("--base", metavar="DIR", type=Path, help="the checkpoint it was fine-tuned from: is the adapter merged?")
    add("--unnorm-key", metavar="KEY", help="data set whose statistics to look at (default: the only one)")
    add("--instruction", metavar="TEXT", help="advise on this instruction")
    add("--json", action="store_true", help="print the findings as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
