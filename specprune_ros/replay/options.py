# SPDX-License-Identifier: Apache-2.0
"""The replay's command line, and what can be wrong with it before a bag is read."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from specprune_ros.errors import ConfigError
from specprune_ros.parameter_file import parse_value
from specprune_ros.replay.arm_names import DEFAULT_ARMS
from specprune_ros.replay.names import Names

PROGRAM = "replay"
COMPARE = "--compare"  # a command of its own, see compare.py
BAD_INPUT, INTERRUPTED = 2, 130  # exit codes
MOST = 1e9  # of any number, seconds among them
LIMITS = ("max-error", "max-flips", "max-latency")
RANGES = dict.fromkeys(("rate", "start", "duration", "minutes", *LIMITS), MOST) | {"max-flips": 1.0}


@dataclass(frozen=True)
class Options:
    """Checked as far as that is possible without the bag."""

    bag: Path
    more_bags: tuple[Path, ...]  # of a search
    suggest: bool
    trials: int
    minutes: float
    seed: int
    params_file: Path | None
    parameters: dict[str, Any]  # of -p, --checkpoint and --device, over those of the file
    names: Names
    renamed: bool  # remapping rules were given
    arms: tuple[str, ...]
    out: Path
    every: int
    rate: float
    as_recorded: bool
    start: float
    duration: float
    instruction: str
    max_error: float | None  # cm
    max_flips: float | None  # share of steps
    max_latency: float | None  # ms
    quiet: bool

    @property
    def limits(self) -> list[str]:
        """Names of those that were given."""
        return [name for name in LIMITS if getattr(self, name.replace("-", "_")) is not None]


def parse(arguments: list[str]) -> Options:
    """Raises ConfigError, one line, for whatever is wrong with the arguments."""
    given = _parser().parse_args([word for word in arguments if word != "--ros-args"])
    parameters = dict(_assignment(text) for text in given.parameter)
    if given.checkpoint:
        parameters["model.checkpoint"] = str(given.checkpoint)
    if given.device:
        parameters["model.device"] = given.device
    if given.every < 1:
        raise ConfigError(f"--every {given.every} is outside the allowed range; allowed: at least 1")
    for name, most in RANGES.items():
        value = getattr(given, name.replace("-", "_"))
        if value is not None and not 0 <= value <= most:
            allowed = f"0 to {most:g}" if most < MOST else "at least 0"
            raise ConfigError(f"--{name} {value:g} is outside the allowed range; allowed: {allowed}")
    if len(given.bag) > 1 and not given.suggest:
        raise ConfigError("several bags are for --suggest; replay them one by one")
    if given.trials < 1:
        raise ConfigError(f"--trials {given.trials} is outside the allowed range; allowed: at least 1")
    if given.rate and given.every > 1:
        raise ConfigError("--every and --rate say different things; give one of them")
    if given.params_file and not given.params_file.is_file():
        raise ConfigError(f"--params-file {given.params_file} is not a file")
    return Options(
        bag=given.bag[0],
        more_bags=tuple(given.bag[1:]),
        suggest=given.suggest,
        trials=given.trials,
        minutes=given.minutes,
        seed=given.seed,
        params_file=given.params_file,
        parameters=parameters,
        names=Names.of(given.remap),
        renamed=bool(given.remap),
        arms=tuple(filter(None, given.arms.split(","))),
        out=given.out or Path(f"replay_{given.bag[0].stem}").resolve(),
        every=given.every,
        rate=given.rate,
        as_recorded=given.as_recorded,
        start=given.start,
        duration=given.duration,
        instruction=given.instruction,
        max_error=given.max_error,
        max_flips=given.max_flips,
        max_latency=given.max_latency,
        quiet=given.quiet,
    )


def say(text: str) -> None:
    print(f"{PROGRAM}: {' '.join(text.split())}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {PROGRAM} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        PROGRAM,
        description="Runs a recorded bag through the policy, dense and pruned, and reports what pruning does on it: "
        "report.html, report.json and chunks.mcap. No ROS graph is needed.",
        epilog="Topics, cameras, frames and joints come from the node's own parameter file; -r and -p are those of the "
        "node. A bag that was recorded with record:= or scripts/demo --record brings both along. "
        "`replay --compare A/report.json B/report.json` compares two replays.",
    )
    add = parser.add_argument
    add("bag", metavar="BAG", nargs="+", type=_path, help="folder of a rosbag2 recording, or one .mcap or .db3 file")
    add("--params-file", metavar="FILE", type=_path, help="the node's parameter file")
    add("--checkpoint", metavar="DIR", type=_path, help="OpenVLA-OFT checkpoint (default: model.checkpoint)")
    add(
        "--arms",
        default=",".join(DEFAULT_ARMS),
        help="what to compare: dense, node (the parameter file's pruning), presets, YAML files with pruning.* "
        "(default %(default)s)",
    )
    add("--out", metavar="DIR", type=_path, help="folder for the results (default replay_BAG here)")
    add("--every", metavar="N", type=int, default=1, help="infer on every N-th observation (default all)")
    add("--rate", metavar="HZ", type=float, default=0.0, help="infer at most so often, in the bag's time")
    add("--as-recorded", action="store_true", help="infer where the recorded node did, and compare the chunks")
    add("--start", metavar="S", type=float, default=0.0, help="begin so many seconds after the bag's start")
    add("--duration", metavar="S", type=float, default=0.0, help="end after so many seconds")
    add("--instruction", metavar="TEXT", default="", help="what the arm does (default: the recorded instruction)")
    add("--device", metavar="D", default="", help="torch device (default: model.device)")
    add("-r", "--remap", metavar="FROM:=TO", action="append", default=[], help="as on the node; may be repeated")
    add("-p", "--parameter", metavar="NAME:=VALUE", action="append", default=[], help="as on the node; may be repeated")
    add(
        "--max-error", metavar="CM", type=float, help="exit code 3 when a pruned arm's p99 is further (joints: degrees)"
    )
    add("--max-flips", metavar="SHARE", type=float, help="exit code 3 when grippers differ in more steps, 0 to 1")
    add("--max-latency", metavar="MS", type=float, help="exit code 3 when a pruned arm's p99 is slower")
    add("--suggest", action="store_true", help="search pruning constants on the bags instead; the last bag judges them")
    add("--trials", metavar="N", type=int, default=60, help="of the search, those of an earlier one included")
    add("--minutes", metavar="M", type=float, default=0.0, help="end the search after so long")
    add("--seed", metavar="N", type=int, default=0, help="of the search")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def _path(text: str) -> Path:
    return Path(text).expanduser().resolve()


def _assignment(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition(":=")
    if not separator or not name:
        raise ConfigError(f"-p {text} sets no parameter; write -p model.device:=cpu")
    return name, parse_value(value)
