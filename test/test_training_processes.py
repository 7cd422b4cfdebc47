# SPDX-License-Identifier: Apache-2.0
"""Training in several processes takes the steps of one: a real torchrun, on the CPU."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from test_training_train import SCHEDULE, SIZES, no_plots  # noqa: F401  the last is a fixture
from training_data import write_data

from specprune_ros.errors import UserError
from training.process_group import ProcessGroup
from training.settings import read_settings
from training.train import SETTINGS, Trainer

ROOT = Path(__file__).parents[1]
# Shares of 2 and 3 samples; both phases, dropped patches, a validation in shares.
CHANGES = SIZES | SCHEDULE | {"batch_size": 5, "localization_steps": 2, "cloning_steps": 4, "validate_every": 2}
CHANGES |= {"dropping_share": 0.5, "grounding_weight": 1.0, "held_out_share": 0.5}
TOGETHER = 4  # steps in two processes; the rest in one
EPSILON = torch.finfo(torch.float32).eps


def trainer(data, out):
    return Trainer(data, out, read_settings(SETTINGS, CHANGES), "cpu")


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "training.train", *map(str, arguments), "--device", "cpu"]
    command += ["--set", *(f"{name}={value}" for name, value in CHANGES.items())]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def rows(out):
    """Of losses.csv, without the time."""
    lines = [line.split(",") for line in (out / "losses.csv").read_text().splitlines()]
    return [
        {name: float(value) for name, value in zip(lines[0][:-1], line, strict=False) if value} for line in lines[1:]
    ]


def learnt(run):
    """Of every parameter the value, and mean and root mean square of its gradients, as the optimizer keeps them."""
    optimizer = run._optimizer
    states = [(p, optimizer.state[p]) for group in optimizer.param_groups for p in group["params"]]
    return [(p.detach(), state["exp_avg"], state["exp_avg_sq"].sqrt()) for p, state in states]


@dataclass(frozen=True)
class Threads(ProcessGroup):
    """The talk of a group without its processes."""

    said: dict = field(default_factory=dict)
    barrier: threading.Barrier | None = None

    def _everybody(self, own):
        self.said[self.rank] = own
        self.barrier.wait(60)
        values = [self.said[rank] for rank in range(self.size)]
        self.barrier.wait(60)
        return values


def in_a_group(action, size=3):
    """What `action` of each process of a group returns or raises."""
    said, barrier = {}, threading.Barrier(size)
    with ThreadPoolExecutor(size) as threads:
        futures = [threads.submit(action, Threads(rank, size, said, barrier)) for rank in range(size)]
    return [future.exception() or future.result() for future in futures]


def test_shares_and_turns_cover_everything_once():
    for samples in (3, 5, 32):
        groups = [ProcessGroup(rank, 3) for rank in range(3)]
        parts = [range(samples)[group.share(samples)] for group in groups]
        assert [item for part in parts for item in part] == list(range(samples))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert sorted(item for group in groups for item in range(samples)[group.turns]) == list(range(samples))
    gathered = in_a_group(lambda group: group.gathered({i: -i for i in range(5)[group.turns]}))
    assert [list(part.items()) for part in gathered] == [[(i, -i) for i in range(5)]] * 3


def test_the_first_process_makes_what_the_others_find(tmp_path):
    def make(group):
        path = tmp_path / "file"
        if group.is_first:
            path.write_text("made")
        return path.read_text()

    assert in_a_group(lambda group: group.in_turn(lambda: make(group))) == ["made"] * 3


@pytest.mark.parametrize("culprit, message", [(0, "no data"), (2, "process 2: no data")])
def test_the_mistake_of_one_is_raised_in_all(culprit, message):
    def make(group):
        if group.rank == culprit:
            raise UserError("no data")

    ends = in_a_group(lambda group: group.in_turn(lambda: make(group)))
    assert [(type(end), str(end)) for end in ends] == [(UserError, message)] * 3


def test_processes_that_found_other_files_stop():
    ends = in_a_group(lambda group: group.check_alike("step", 4 * group.rank))
    assert {str(end) for end in ends} == {"process 1 has step 4, process 0 has 0; give all of them the same folders"}
    assert in_a_group(lambda group: group.first_says(group.rank)) == [0, 0, 0]


def test_a_batch_smaller_than_the_group_is_refused(tmp_path):
    settings = read_settings(SETTINGS, CHANGES | {"batch_size": 2})
    with pytest.raises(UserError, match="batch_size = 2 leaves some of 3 processes without a sample"):
        Trainer(tmp_path, tmp_path, settings, "cpu", group=ProcessGroup(0, 3))


@pytest.mark.usefixtures("no_plots")
def test_two_processes_take_the_steps_of_one(tmp_path):
    data = write_data(tmp_path / "data")
    one, two = tmp_path / "one", tmp_path / "two"
    alone = trainer(data, one)
    alone.train(TOGETHER)
    finished = torchrun(data, two, "--until", TOGETHER)
    assert finished.returncode == 0, finished.stderr
    assert rows(two) == [pytest.approx(row, rel=100 * EPSILON) for row in rows(one)]
    resumed = trainer(data, two)
    assert resumed.step == TOGETHER
    ours, theirs = learnt(alone), learnt(resumed)
    largest = max(float(mean.abs().max()) for _, mean, _ in ours)
    # Adam divides by the size of the gradient: of weights without a gradient to speak of, rounding decides.
    floor = 1e-3 * max(float(size.max()) for _, _, size in ours)
    moved = TOGETHER * SCHEDULE["learning_rate"]
    for (weight, mean, size), (other_weight, other_mean, _) in zip(ours, theirs, strict=True):
        assert float((mean - other_mean).abs().max()) <= 100 * EPSILON * largest
        apart = (weight - other_weight).abs()[size > floor]
        assert not apart.numel() or float(apart.max()) <= 100 * EPSILON / 1e-3 * moved
    assert sum(int((size > floor).sum()) for *_, size in ours) > 0.5 * sum(size.numel() for *_, size in ours)
    # What is left is done by one process.
    alone.train()
    resumed.train()
    assert [row["step"] for row in rows(two)] == [2, 4, 6]
    assert rows(two) == [pytest.approx(row, rel=1e-5) for row in rows(one)]
