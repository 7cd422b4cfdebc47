# SPDX-License-Identifier: Apache-2.0
"""Jobs in processes of this machine and of Ray."""

import contextlib
import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import worker_jobs
from worker_jobs import Job

from specprune_ros.errors import UserError
from training.workers import JobError, Workers, run_jobs

LIMIT = 60.0  # seconds, of a busy machine
JOBS = [Job(seed) for seed in range(5)]
needs_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="needs requirements/ray.txt")
everywhere = pytest.mark.parametrize(
    "workers", [Workers(2), pytest.param(Workers(2, ray="local"), marks=needs_ray)], ids=["pool", "ray"]
)


def results(function, jobs, workers):
    collected = {}
    run_jobs(function, jobs, workers, collected.__setitem__)
    return collected


def wait_until(condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@everywhere
def test_results_are_those_of_the_jobs_alone(workers):
    assert results(worker_jobs.draw, JOBS, workers) == {job: worker_jobs.draw(job) for job in JOBS}
    with pytest.raises(JobError, match=r"^seed 2 failed$") as failure:
        results(worker_jobs.fail_at_two, JOBS, workers)
    assert isinstance(failure.value.__cause__, ValueError) and "two is too much" in str(failure.value.__cause__)
    with pytest.raises(UserError, match=r"^seed 0: checkpoint is missing; give another one$"):
        results(worker_jobs.mistake, JOBS[:1], workers)


def test_nothing_to_do_starts_nothing():
    assert results(worker_jobs.draw, [], Workers(1, ray="nowhere:1")) == {}


def test_a_killed_process_is_told_and_not_waited_for():
    with pytest.raises(UserError, match="was killed"):
        results(worker_jobs.die, JOBS[:1], Workers(1))


@pytest.mark.parametrize("ending", ["failure", "interruption"])
def test_what_ends_early_leaves_no_process(ending, request):
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever tests before left
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, handler))

    def done(job, _):
        if ending == "failure":
            raise OSError("disk full")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(LIMIT)  # the handler ends it

    before = multiprocessing.active_children()
    with pytest.raises(OSError if ending == "failure" else UserError, match=r"disk full|run the same command again"):
        run_jobs(worker_jobs.sleep, [0.0, 600.0, 601.0, 602.0], Workers(2), done)
    assert multiprocessing.active_children() == before


def test_processes_end_with_the_one_that_started_them(tmp_path):
    note = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, worker_jobs.__file__, note])
    wait_until(lambda: note.exists() and note.read_text())
    child = int(note.read_text())
    parent.kill()
    parent.wait()
    with contextlib.suppress(FileNotFoundError):
        # A child whose parent died may stay as a zombie where nobody reaps it.
        wait_until(lambda: Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z")


def test_without_ray_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install -r requirements/ray\.txt"):
        results(worker_jobs.draw, JOBS, Workers(1, ray="local"))


@needs_ray
def test_a_cluster_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:9 "):
        results(worker_jobs.draw, JOBS, Workers(1, ray="127.0.0.1:9"))
