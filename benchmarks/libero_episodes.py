# SPDX-License-Identifier: Apache-2.0
"""Episodes of a closed-loop evaluation: what each process of `libero.py` does."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from arms import Arm, arm
from closed_loop import Bowl, Outcome, run_episode
from libero_results import Job

from specprune_ros.openvla.statistics import suite_key
from specprune_ros.policy import Policy
from specprune_ros.sim.libero_env import LiberoEnv
from training.placements import EVALUATION_SEED, standard_state, wide_state

IMAGE_SIZE = 256  # px


@dataclass(frozen=True)
class Setup:
    """What all jobs have in common."""

    checkpoint: Path
    device: str
    dtype: str
    shadows: bool
    bowl_speed: float  # m/s


@dataclass(frozen=True)
class Work:
    """One episode, for one process: the arms that have not run it yet."""

    setup: Setup
    job: Job
    arms: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.job.suite}, task {self.job.task}, {self.job.placement}, episode {self.job.episode}"


def run(work: Work) -> dict[str, Outcome]:
    """All missing arms of one episode."""
    job = work.job
    env = _environment(job.suite, job.task, work.setup.shadows)
    place = wide_state if job.placement.startswith("wide") else standard_state
    state = place(env, EVALUATION_SEED + job.episode)
    bowl = Bowl(work.setup.bowl_speed, EVALUATION_SEED + job.episode) if work.setup.bowl_speed else None
    outcomes = {}
    for name in work.arms:
        chosen = arm(name)
        torch.manual_seed(1000 * job.task + job.episode)  # of the arms that draw patches
        outcomes[name] = run_episode(env, _policy(work.setup, job.suite, chosen), chosen, state, bowl)
    return outcomes


@lru_cache(maxsize=1)
def _environment(suite: str, task: int, shadows: bool) -> LiberoEnv:
    """The simulator of the last job, if it was of the same task."""
    return LiberoEnv(suite, task, image_size=IMAGE_SIZE, shadows=shadows, anti_aliasing=shadows)


@lru_cache(maxsize=2)
def _loaded(setup: Setup, key: str, precision: str) -> Policy:
    torch.set_num_threads(1)  # processes share the cores
    return Policy.from_checkpoint(
        setup.checkpoint, setup.device, setup.dtype, unnorm_key=key, precision=precision, keep_precision=True
    )


def _policy(setup: Setup, suite: str, chosen: Arm) -> Policy | None:
    if chosen.expert:
        return None
    policy = _loaded(setup, suite_key(setup.checkpoint, suite), chosen.precision)
    chosen.apply(policy)
    return policy
