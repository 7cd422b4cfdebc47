# SPDX-License-Identifier: Apache-2.0
"""The demo's command line, and what can be wrong with it before anything starts."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import yaml
from tqdm import tqdm

from specprune_ros.demo.push import SERVICE, TOPIC, Push
from specprune_ros.errors import ConfigError
from specprune_ros.openvla.family import family_config
from specprune_ros.openvla.files import read_json
from specprune_ros.openvla.statistics import normalizer, read_statistics, suite_key
from specprune_ros.parameters import from_mapping
from specprune_ros.pruning.config import PRESETS
from specprune_ros.sensing.config import InputsConfig
from specprune_ros.sensing.proprio import AXIS_ANGLE
from specprune_ros.sim.libero_tasks import find_task

PROGRAM = "scripts/demo"
ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "libero.yaml"
SHIPPED = ROOT / "checkpoints" / "nano_libero"
UNSEEN_STATE = 20  # the shipped policy was trained on the initial states before
OUTPUTS = ("action_chunk", "twist")
FARTHEST_PUSH = 0.3  # m
MAX_SECONDS = 120.0  # of simulated time: the frames stay in memory, 4 MB a second


@dataclass(frozen=True)
class Options:
    """Checked as far as that is possible without loading the model."""

    checkpoint: Path
    suite: str
    task: int
    init_state: int
    shadows: bool
    seconds: float
    device: str
    dtype: str
    pruning: str  # a preset, or "off"
    compare: bool
    push: Push | None
    output: str  # what drives the arm, OUTPUTS
    record: str  # raw or jpeg images in the bag; "" for no bag
    out: Path
    unnorm_key: str
    axis_angle_near: np.ndarray  # (3,) see `proprio.axis_angle`
    inputs: InputsConfig


def parse(arguments: list[str]) -> Options:
    """Raises UserError, one line, for whatever is wrong with the arguments and the files that they name."""
    given = _parser().parse_args(arguments)
    if not 0.5 <= given.seconds <= MAX_SECONDS:
        raise ConfigError(f"--seconds {given.seconds:g} is outside the allowed range; allowed: 0.5 to {MAX_SECONDS:g}")
    if given.pruning not in ("off", *PRESETS):
        raise ConfigError(f"--pruning {given.pruning} does not exist; allowed: off, {', '.join(PRESETS)}")
    if given.compare and given.record:
        raise ConfigError("--record writes the bag of one run; leave --compare out")
    if given.compare and given.pruning == "off":
        raise ConfigError("--compare needs a preset to compare with dense; leave --pruning off out")
    find_task(given.suite, given.task).initial_state(given.init_state)
    key, near = _statistics(given.checkpoint, given.suite)
    device = _own_device() if given.device == "auto" else given.device
    return Options(
        checkpoint=given.checkpoint,
        suite=given.suite,
        task=given.task,
        init_state=given.init_state,
        shadows=given.checkpoint != SHIPPED if given.shadows is None else given.shadows,
        seconds=given.seconds,
        device=device,
        dtype="bfloat16" if device.startswith("cuda") else "float32",
        pruning=given.pruning,
        compare=given.compare,
        push=_push(given.push, given.push_by, given.seconds),
        output=given.output,
        record=given.record,
        out=_folder(given.out),
        unnorm_key=key,
        axis_angle_near=near,
        inputs=from_mapping(InputsConfig, _policy_parameters()["inputs"], "inputs"),
    )


def say(text: str) -> None:
    tqdm.write(f"{PROGRAM}: {text}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {PROGRAM} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        PROGRAM,
        description="Runs LIBERO behind ROS 2 topics in one process and the policy node in another, drives the arm "
        "with the published chunks for one episode, and leaves a video, two pictures and a summary.",
        epilog=f"The default checkpoint, {SHIPPED.relative_to(ROOT)}, is small and knows 25 tasks of three "
        "suites; its README.md says which, and how often it solves them.",
    )
    add = parser.add_argument
    add(
        "--checkpoint",
        metavar="DIR",
        type=_path,
        default=SHIPPED,
        help="OpenVLA-OFT checkpoint",
    )
    add("--suite", metavar="NAME", default="libero_spatial", help="LIBERO suite (default %(default)s)")
    add("--task", metavar="N", type=int, default=3, help="task of the suite (default %(default)s)")
    add(
        "--init-state",
        metavar="N",
        type=int,
        default=UNSEEN_STATE,
        help="initial state of the task (default %(default)s, which the shipped policy was not trained on)",
    )
    add(
        "--shadows",
        action=argparse.BooleanOptionalAction,
        help="render shadows and smooth edges, for twice the time (default: on, but off for the shipped policy, which "
        "was trained without)",
    )
    add(
        "--seconds",
        metavar="S",
        type=float,
        default=15.0,
        help="simulated time after which the episode ends when the task is not solved before (default %(default)g)",
    )
    add("--device", default="auto", help="torch device (default: the GPU when there is one)")
    add("--pruning", metavar="PRESET", default="paper", help=f"{', '.join(PRESETS)} or off (default %(default)s)")
    add("--compare", action="store_true", help="run dense too, from the same state, and show both in one video")
    add(
        "--push",
        metavar=("S", "X", "Y", "Z"),
        type=float,
        nargs=4,
        help="after S seconds a person takes over, pushes the arm aside by X Y Z metres, and lets go",
    )
    add(
        "--push-by",
        choices=(SERVICE, TOPIC),
        default=SERVICE,
        help="the person calls ~/takeover, or the device's topic alone takes over (default %(default)s)",
    )
    add(
        "--output",
        choices=OUTPUTS,
        default=OUTPUTS[0],
        help="controller.output: the simulator executes chunks, or velocities from the node's own control loop, within "
        "its limits (default %(default)s)",
    )
    add(
        "--record",
        metavar="IMAGES",
        nargs="?",
        const="raw",
        default="",
        choices=("raw", "jpeg"),
        help="also write a bag for scripts/replay, with raw or jpeg images (default raw)",
    )
    add("--out", metavar="DIR", type=_path, default=ROOT / "out/demo", help="folder for the results (default out/demo)")
    return parser


def _own_device() -> str:
    import torch  # takes seconds, which --help and a wrong option need not wait for

    return "cuda" if torch.cuda.is_available() else "cpu"


def _path(text: str) -> Path:
    return Path(text).expanduser().resolve()


def _statistics(checkpoint: Path, suite: str) -> tuple[str, np.ndarray]:
    """The statistics' key, and the middle of the axis-angle in the proprio."""
    raw = read_json(checkpoint / "config.json")
    statistics = read_statistics(checkpoint, raw)
    key = suite_key(checkpoint, suite)
    norm = normalizer(statistics, key, family_config(key, raw, {}).proprio_normalization)
    return key, ((norm.proprio.low + norm.proprio.high) / 2)[AXIS_ANGLE]


def _push(numbers: list[float] | None, by: str, seconds: float) -> Push | None:
    if numbers is None:
        return None
    after, offset = numbers[0], np.array(numbers[1:])
    if not 0 <= after < seconds:
        raise ConfigError(f"--push after {after:g} s is not in the episode; allowed: 0 to --seconds {seconds:g}")
    if not np.linalg.norm(offset) <= FARTHEST_PUSH:
        raise ConfigError(f"--push {offset.tolist()} m is too far; allowed: {FARTHEST_PUSH:g} m")
    return Push(after, offset, by)


def _folder(out: Path) -> Path:
    try:
        (out / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be created ({error.strerror}); name another folder") from None
    return out


def _policy_parameters() -> dict:
    return yaml.safe_load(CONFIG.read_text())["/**/specprune_policy"]["ros__parameters"]
