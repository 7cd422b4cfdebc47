# SPDX-License-Identifier: Apache-2.0
"""Jobs for test_training_workers.py, which other processes import."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from specprune_ros.errors import UserError
from training.workers import Workers, run_jobs


@dataclass(frozen=True)
class Job:
    seed: int

    def __str__(self) -> str:
        return f"seed {self.seed}"


def draw(job: Job) -> list[float]:
    return np.random.default_rng(job.seed).random(3).tolist()


def fail_at_two(job: Job) -> int:
    if job.seed == 2:
        raise ValueError("two is too much")
    return job.seed


def mistake(job: Job) -> None:
    raise UserError("checkpoint is missing; give another one")


def die(job: Job) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def write_id_and_sleep(path: Path) -> None:
    path.write_text(str(os.getpid()))
    time.sleep(600)


if __name__ == "__main__":
    import worker_jobs

    run_jobs(worker_jobs.write_id_and_sleep, [Path(sys.argv[1])], Workers(), print)
