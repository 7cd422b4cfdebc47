# SPDX-License-Identifier: Apache-2.0
"""Puts small bugs into the code, one at a time, and runs the tests that run the changed statement.

A bug that no test notices is a survivor. Tests run in a copy of the tree as it was at the start, and a bug exists only
in the memory of the process that runs them. What was found is kept in .venv/mutants as long as no code changes, so
that an interrupted run goes on.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from covered_lines import Coverage, digest, measured
from forked_tests import ForkedTests, OtherSource
from mutations import Mutation, mutations
from scipy.stats import binomtest
from tqdm import tqdm
from tracked_files import copy_tracked

ROOT = Path(__file__).parents[1]
STORE = ROOT / ".venv" / "mutants"
USAGE_ERROR, NO_TESTS = 4, 5  # of pytest
LEAST = 10.0  # seconds of a processor beside five times of what the tests take; what goes round for ever is noticed


@dataclass(frozen=True)
class Room:
    """Files that mutants are made of, and the quick tests, in one process, that are meant to notice them."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]


SESSION = ("test_node_session*.py", "test_node_takeover.py")
ARM = ("test_joint_arm_faults.py",)
ROOMS = {
    "pruning": Room(("pruning",), ("test_pruning_*.py", "test_method_oracle.py")),
    "control": Room(("control",), ("test_control_*.py", "test_pose.py", *ARM)),
    "sensing": Room(
        ("sensing",),
        (
            *("test_sensing_*.py", "test_decoder.py", "test_node_inputs*.py", "test_node_cameras.py"),
            *(*ARM, *SESSION),
        ),
    ),
    "nodes": Room(  # those that run in the tests' own process
        (
            *("nodes/session.py", "nodes/motion_loop.py", "nodes/worker.py", "nodes/inputs.py"),
            *("nodes/preflight_checks.py", "nodes/stamps.py", "nodes/outputs", "nodes/reporting"),
        ),
        (
            *SESSION,
            *("test_node_worker.py", "test_preflight_checks.py", "test_preflight_arms.py", "test_node_inputs*.py"),
            *("test_node_commands.py", "test_node_gripper_goals.py", "test_node_path.py"),
            "test_node_inference_record.py",
        ),
    ),
}


def main() -> int:
    """Prints each survivor as it is found, and the score of every room."""
    parser = argparse.ArgumentParser("scripts/mutants", description=__doc__)
    parser.add_argument("rooms", nargs="*", help=f"some of {', '.join(ROOMS)}; default: all")
    parser.add_argument("--sample", type=int, metavar="N", help="so many mutants of each room; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time (default %(default)s)")
    parser.add_argument("--minutes", type=float, help="stop after so long; the next call goes on")
    options = parser.parse_args()
    if unknown := set(options.rooms) - set(ROOMS):
        parser.error(f"no room {', '.join(sorted(unknown))}; known: {', '.join(ROOMS)}")

    with tempfile.TemporaryDirectory(prefix="mutants") as copy:
        copy_tracked(ROOT, Path(copy))
        os.chdir(copy)
        return try_rooms(options)


def try_rooms(options: argparse.Namespace) -> int:
    """In the copy. 1 when `--minutes` are over too early."""
    ends = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    scores = []
    for name in options.rooms or ROOMS:
        room = ROOMS[name]
        tests = sorted(str(path) for pattern in room.tests for path in Path("test").glob(pattern))
        code = digest(tests)
        coverage = measured(tests, STORE / f"{name}-{code}", ends)
        if coverage is None:
            return go_on()
        every = [mutation for path in sources(room) for mutation in mutations(path)]
        chosen = random.Random(options.seed).sample(every, min(options.sample or len(every), len(every)))
        trial = Trial(coverage, STORE / f"{name}-{code}.jsonl", options.jobs)
        if not trial.run(tqdm(chosen, desc=name, unit=" mutants"), ends):
            return go_on()
        scores.append(f"{name}: {trial.score(chosen)}; seed {options.seed}, of {len(every)} possible ones")
    print(*scores, sep="\n")
    return 0


def go_on() -> int:
    print("not done yet; the same command goes on")
    return 1


def sources(room: Room) -> Iterator[Path]:
    """The files of a room."""
    for name in room.sources:
        path = Path("specprune_ros", name)
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


class Trial:
    """Tries mutants, several at a time, and remembers what became of them."""

    def __init__(self, coverage: Coverage, store: Path, jobs: int) -> None:
        self._coverage, self._store, self._jobs = coverage, store, jobs
        self._survived: dict[str, bool] = {}
        if store.exists():
            self._survived = dict(json.loads(line) for line in store.read_text().splitlines())

    def run(self, chosen: Iterable[Mutation], ends: float) -> bool:
        """Try those that were not tried yet, and print the survivors; False when it is `ends` before all are tried."""
        running: dict[Mutation, ForkedTests] = {}
        for mutation in chosen:
            if time.monotonic() > ends:
                break
            if str(mutation) in self._survived:
                self._show(mutation)
                continue
            tests = self._coverage.tests_of(mutation.path, mutation.lines)
            if not tests:
                self._remember(mutation, True)
                continue
            files = sorted({test.partition("::")[0] for test in tests})
            limit = LEAST + 5 * sum(self._coverage.seconds[test] for test in tests)
            running[mutation] = ForkedTests(files, tests, limit, OtherSource(mutation.path, mutation.source()))
            self._wait(running, self._jobs - 1)
        else:
            self._wait(running, 0)
            return True
        self._wait(running, 0)
        return False

    def _wait(self, running: dict[Mutation, ForkedTests], most: int) -> None:
        """Until at most so many are running."""
        while len(running) > most:
            time.sleep(0.01)
            for mutation, tests in list(running.items()):
                status = tests.status()
                if status in (USAGE_ERROR, NO_TESTS):
                    sys.exit(f"pytest ended with {status} for {mutation}")
                if status is not None:
                    del running[mutation]
                    self._remember(mutation, status == 0)

    def _remember(self, mutation: Mutation, survived: bool) -> None:
        self._survived[str(mutation)] = survived
        with self._store.open("a") as store:
            store.write(json.dumps([str(mutation), survived]) + "\n")
        self._show(mutation)

    def _show(self, mutation: Mutation) -> None:
        if self._survived[str(mutation)]:
            untested = "" if self._coverage.tests_of(mutation.path, mutation.lines) else "  # no test runs this"
            tqdm.write(f"{mutation}{untested}\n{mutation.diff()}")

    def score(self, chosen: list[Mutation]) -> str:
        """How many were noticed, with the range that the sample leaves possible."""
        noticed = sum(not self._survived[str(mutation)] for mutation in chosen)
        share = binomtest(noticed, len(chosen)).proportion_ci(method="wilson")
        return (
            f"{noticed} of {len(chosen)} noticed, {noticed / len(chosen):.0%} "
            f"(95 % confidence: {share.low:.0%} to {share.high:.0%})"
        )


if __name__ == "__main__":
    sys.exit(main())
