# SPDX-License-Identifier: Apache-2.0
"""Recorded data of the robot beside the checkpoint's statistics: ranges, constant dimensions, instructions."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from specprune_ros.checks import PASS, WARN, Check
from specprune_ros.doctor.statistics import bounds_of
from specprune_ros.doctor.subject import Subject
from specprune_ros.errors import ConfigError
from specprune_ros.openvla.statistics import Bounds

OUTSIDE = 0.05  # of the steps; q01 and q99 leave out 0.02
NAMES = {"proprio": ("proprio", "state", "qpos"), "action": ("actions", "action")}


@dataclass(frozen=True, eq=False)
class Episode:
    """T steps, in the checkpoint's units; None for what the file has not."""

    path: Path
    proprio: NDArray[np.float64] | None  # (T, P)
    action: NDArray[np.float64] | None  # (T, A)
    instructions: tuple[str, ...]


def read_episode(path: Path) -> Episode:
    """An .npz with `proprio` (T, P), `actions` (T, A) and `instruction`, or a list of instructions: .txt, .jsonl.

    Raises ConfigError, one line.
    """
    path = path.expanduser()
    try:
        if path.suffix == ".npz":
            return _of_arrays(path)
        if path.suffix in (".txt", ".jsonl"):
            return Episode(path, None, None, tuple(_listed(path)))
    except Exception as error:  # foreign files raise of every kind
        raise ConfigError(f"{path} cannot be read ({' '.join(str(error).split())[:100]}); see --help") from None
    raise ConfigError(
        f"{path} is no episode; give an .npz with proprio (T, P), actions (T, A) and instruction, or a list of "
        "instructions (.txt with one a line, .jsonl with 'task')"
    )


def check_episode(subject: Subject, episode: Episode) -> list[Check]:
    """Rows about the numbers of an episode beside the statistics; none for a list of instructions."""
    rows: list[Check] = []
    if subject.contents is None:
        return rows
    for group in ("proprio", "action"):
        numbers = getattr(episode, group)
        if numbers is not None and (group == "action" or subject.contents.config.proprio_dim):
            rows += _compare(subject, group, numbers, episode.path.name)
    return rows


def _compare(subject: Subject, group: str, numbers: NDArray[np.float64], name: str) -> list[Check]:
    found: Bounds = bounds_of(subject, group)
    if numbers.ndim != 2 or numbers.shape[1] != len(found.low):
        detail = f"{name}: {group} has shape {numbers.shape}, the checkpoint's {len(found.low)} numbers a step"
        return [Check("data", WARN, f"{detail}; record what it was trained with")]
    if not len(numbers) or not np.isfinite(numbers).all():
        what = "holds NaN or Inf" if len(numbers) else "has no steps"
        return [Check("data", WARN, f"{name}: {group} {what}; nothing can be said of it, record it again")]
    rows = []
    moved = sorted({index for step in numbers for index in found.moved(step)}) if group == "proprio" else []
    if moved:
        detail = f"{name}: proprio {moved} was constant in training and is not here; the model never sees it"
        rows.append(Check("data", WARN, f"{detail}: compare units and order"))
    scaled = found.mask & ~found.constant & ~found.flat
    outside = np.mean((numbers < found.low) | (numbers > found.high), axis=0) * scaled
    far = np.flatnonzero(outside > OUTSIDE).tolist()
    if far:
        shares = ", ".join(f"{index} in {outside[index]:.0%}" for index in far)
        detail = f"{name}: {group} outside the training data's range: {shares} of the steps"
        rows.append(Check("data", WARN, f"{detail}; check units, frames, order, or that this key is the robot's"))
    return rows or [
        Check("data", PASS, f"{name}: {len(numbers)} steps of {group} are within the training data's range")
    ]


def _of_arrays(path: Path) -> Episode:
    with np.load(path, allow_pickle=False) as data:
        arrays = {
            group: next((np.asarray(data[name], np.float64) for name in names if name in data), None)
            for group, names in NAMES.items()
        }
        instruction = str(data["instruction"]) if "instruction" in data else ""
        if "facts" in data:  # episodes of training/collect.py
            instruction = json.loads(str(data["facts"])).get("instruction", instruction)
    return Episode(path, arrays["proprio"], arrays["action"], (instruction,) if instruction else ())


def _listed(path: Path) -> Iterator[str]:
    for line in filter(None, map(str.strip, path.read_text().splitlines())):
        if path.suffix == ".jsonl":
            entry = json.loads(line)
            yield str(entry["task"] if isinstance(entry, dict) else entry)
        else:
            yield line
