# SPDX-License-Identifier: Apache-2.0
"""Puts small bugs into the code, one at a time, and runs the tests that run the changed function.

A bug that no test notices is a survivor. Files stay as they are: a bug exists in the memory of the process that runs
the tests. What was found is kept in .venv/mutants as long as no code changes, so that an interrupted run goes on.
"""

import argparse
import importlib
import json
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from covered_lines import Coverage, digest, measured
from forked_tests import ForkedTests, OtherSource
from mutations import Mutation, mutations
from scipy.stats import binomtest
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
STORE = ROOT / ".venv" / "mutants"
USAGE_ERROR, NO_TESTS = 4, 5  # of pytest
PATIENCE = 20.0  # seconds for the tests beside five times of what they take; a mutant that hangs is noticed

# Room -> its files; of the nodes those that run in the tests' own process.
ROOMS = {
    "pruning": ["pruning"],
    "control": ["control"],
    "sensing": ["sensing"],
    "nodes": [
        *("nodes/session.py", "nodes/motion_loop.py", "nodes/worker.py", "nodes/inputs.py", "nodes/preflight.py"),
        *("nodes/stamps.py", "nodes/outputs", "nodes/reporting"),
    ],
}
# Quick tests in one process; which of them run a line is measured.
TESTS = [
    *("test_pruning_*.py", "test_method_oracle.py", "test_control_*.py", "test_sensing_*.py", "test_decoder.py"),
    *("test_joint_arm_faults.py", "test_node_inputs.py", "test_node_session.py", "test_node_worker.py"),
    *("test_preflight_checks.py", "test_node_commands.py", "test_node_inference_record.py"),
]


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

    os.chdir(ROOT)
    files = sorted(str(path.relative_to(ROOT)) for name in TESTS for path in (ROOT / "test").glob(name))
    code = digest(ROOT)
    coverage = measured(ROOT, files, STORE / f"coverage-{code}.json")
    for module in coverage.modules:
        with suppress(Exception):  # some can only be imported by the one that did
            importlib.import_module(module)
    trial = Trial(coverage, STORE / f"results-{code}.jsonl", options.jobs)
    ends = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    scores = []
    for room in options.rooms or ROOMS:
        every = [mutation for path in sources(room) for mutation in mutations(path)]
        chosen = random.Random(options.seed).sample(every, min(options.sample or len(every), len(every)))
        if not trial.run(tqdm(chosen, desc=room, unit=" mutants"), ends):
            print("not done yet; the same command goes on")
            return 1
        scores.append(f"{room}: {trial.score(chosen)}; seed {options.seed}, of {len(every)} possible ones")
    print(*scores, sep="\n")
    return 0


def sources(room: str) -> Iterator[Path]:
    """The files of a room."""
    for name in ROOMS[room]:
        path = ROOT / "specprune_ros" / name
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
            tests = self._coverage.tests_of(mutation.path, mutation.body)
            if not tests:
                self._remember(mutation, True)
                continue
            files = sorted({test.partition("::")[0] for test in tests})
            limit = PATIENCE + 5 * sum(self._coverage.seconds[test] for test in tests)
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
            untested = "" if self._coverage.tests_of(mutation.path, mutation.body) else "  # no test runs this"
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
