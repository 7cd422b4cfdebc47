# SPDX-License-Identifier: Apache-2.0
"""Jobs spread over processes: of this machine, or of a Ray cluster (`--ray ADDRESS`).

A job's result must depend on the job alone, never on where or after what it ran; then it is the same everywhere.
"""

import argparse
import contextlib
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeVar

from specprune_ros.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")
Submit = Callable[[Callable[[Any], Any], Any], Future]

INSTALL = "scripts/env pip install -r requirements/ray.txt"


class JobError(Exception):
    """A job failed by a defect; the cause is chained. The message names the job."""


@dataclass(frozen=True)
class Workers:
    """Where jobs run."""

    processes: int = 1  # of this machine
    ray: str | None = None  # address of a cluster
    gpus: int = 0  # that Ray keeps for each job

    @classmethod
    def of(cls, given: argparse.Namespace) -> "Workers":
        """From the options of `add_options`, and `--device` where there is one. Raises UserError."""
        if given.processes < 1:
            raise UserError(f"--processes {given.processes} is too few; give 1 or more")
        return cls(given.processes, given.ray, int(getattr(given, "device", "cpu").startswith("cuda")))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", type=int, default=1, help="of this machine (default: %(default)s)")
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="use a Ray cluster instead: HOST:PORT, auto, or local to start one of --processes on this machine",
    )


def run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: Workers, done: Callable[[Job, Result], object]
) -> None:
    """Calls `done` with each job and what `function` makes of it, in the order in which they end.

    Workers import `function` by its name, so it must not be of the script that was started. The first job that fails
    ends the others: its own UserError is raised, with the job's name (`str`); JobError for everything else.
    """
    if not jobs:
        return
    try:
        with _pool(workers) if workers.ray is None else _cluster(workers) as submit:
            running = {submit(function, job): job for job in jobs}
            for future in as_completed(running):
                job = running.pop(future)
                done(job, _result(future, job))
    except KeyboardInterrupt:
        raise UserError("interrupted; what had ended is kept, run the same command again to go on") from None


def _result(future: Future, job: object) -> Any:
    try:
        return future.result()
    except BrokenProcessPool:
        raise UserError(
            "a process was killed, perhaps for want of memory; run the command again to go on, with fewer processes"
        ) from None
    except Exception as error:
        cause = getattr(error, "cause", error)  # what Ray wraps
        if isinstance(cause, UserError):
            raise UserError(f"{job}: {cause}") from None
        raise JobError(f"{job} failed") from error


@contextlib.contextmanager
def _pool(workers: Workers) -> Iterator[Submit]:
    """Processes of this machine. None is left when the block ends, however it does."""
    others = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")  # OpenGL and CUDA do not survive a fork
    pool = ProcessPoolExecutor(workers.processes, spawn, _prepare_process)
    try:
        yield pool.submit
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_process() -> None:
    """Ctrl-C is the parent's affair; and when it is killed, nobody wants the results any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _knock(address: str) -> None:
    """Whether anybody is there; Ray itself would try for a minute. Raises OSError, ValueError."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=10).close()


def _call(path: list[str], pickled: bytes) -> Any:
    """In a Ray process. `path`: where the process that started it imports from, in that order."""
    sys.path[:] = [*path, *(folder for folder in sys.path if folder not in path)]
    function, job = pickle.loads(pickled)
    return function(job)


@contextlib.contextmanager
def _cluster(workers: Workers) -> Iterator[Submit]:
    """Tasks of Ray. Those that still run are ended when the block ends."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # the cluster that `local` starts tells nobody
    try:
        import ray
    except ImportError:
        raise UserError(f"--ray needs Ray, which is not installed; {INSTALL}") from None
    own = {"num_cpus": workers.processes, "include_dashboard": False} if workers.ray == "local" else {}
    try:
        if ":" in workers.ray and "//" not in workers.ray:
            _knock(workers.ray)
        ray.init(workers.ray, log_to_driver=False, logging_level="ERROR", **own)
    except (OSError, ImportError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"no Ray cluster answers at {workers.ray} ({reason}); start one with: scripts/env ray start --head"
        ) from None
    try:
        task = ray.remote(num_cpus=1, num_gpus=workers.gpus)(_call)
        yield lambda function, job: task.remote(sys.path, pickle.dumps((function, job))).future()
    finally:
        ray.shutdown()
