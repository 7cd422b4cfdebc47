# SPDX-License-Identifier: Apache-2.0
"""Runs cosmic-ray on a sample of the mutants of some rooms; called by scripts/mutants, in cosmic-ray's environment."""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.modules import find_modules
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import TestOutcome
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
PACKAGE = "specprune_ros"
TIMEOUT = 600.0  # seconds; a mutant that hangs is noticed

# Room -> its files, and the tests that are meant to notice what goes wrong in them.
ROOMS = {
    "pruning": (["pruning"], ["test_pruning_config.py", "test_pruning_properties.py", "test_method_oracle.py"]),
    "control": (["control"], ["test_control_*.py", "test_joint_arm_faults.py"]),
    "sensing": (
        ["sensing"],
        ["test_sensing_*.py", "test_node_inputs.py", "test_node_session.py", "test_joint_arm_faults.py"],
    ),
    "nodes": (  # the part that runs in the tests' own process
        [
            "nodes/session.py",
            "nodes/motion_loop.py",
            "nodes/worker.py",
            "nodes/preflight.py",
            "nodes/outputs",
            "nodes/reporting",
        ],
        [
            "test_node_session.py",
            "test_node_worker.py",
            "test_preflight_checks.py",
            "test_node_commands.py",
            "test_node_inference_record.py",
        ],
    ),
}


def main() -> int:
    """Prints each survivor as it is found, and the score of every room. Returns 0."""
    parser = argparse.ArgumentParser("scripts/mutants", description=__doc__)
    parser.add_argument("rooms", nargs="*", default=list(ROOMS), help=f"some of {', '.join(ROOMS)} (default: all)")
    parser.add_argument("--sample", type=int, default=60, metavar="N", help="mutants per room (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default %(default)s)")
    options = parser.parse_args()
    if unknown := set(options.rooms) - set(ROOMS):
        parser.error(f"no room {', '.join(sorted(unknown))}; known: {', '.join(ROOMS)}")
    for room in options.rooms:
        run(room, options.sample, options.seed)
    return 0


def run(room: str, sample: int, seed: int) -> None:
    """One room, in a copy of the last commit."""
    sources, tests = ROOMS[room]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", copy], cwd=ROOT, check=True)
        os.chdir(copy)
        files = sorted(str(path.relative_to(copy)) for name in tests for path in (copy / "test").glob(name))
        command = f"{ROOT}/scripts/env python -m pytest -x -q -p no:cacheprovider -p no:xdist {' '.join(files)}"
        if subprocess.run(command, shell=True, stdout=subprocess.DEVNULL).returncode:
            sys.exit(f"the tests of {room} fail without any mutant; run: {command}")
        with use_db(str(Path(folder, "session.sqlite")), WorkDB.Mode.create) as database:
            modules = find_modules([Path(PACKAGE, source) for source in sources])
            init(modules, database, {})
            items = [item for item in database.work_items if item.mutations[0].operator_name != "core/RemoveDecorator"]
        chosen = random.Random(seed).sample(items, min(sample, len(items)))
        outcomes: Counter[TestOutcome] = Counter()
        for item in tqdm(chosen, desc=room, unit="mutant"):
            result = mutate_and_test(item.mutations, command, TIMEOUT)
            outcomes[result.test_outcome] += 1
            if result.test_outcome == TestOutcome.SURVIVED:
                where = item.mutations[0]
                tqdm.write(f"survived: {where.module_path}:{where.start_pos[0]} {where.operator_name}\n{result.diff}")
        survived = outcomes[TestOutcome.SURVIVED]
        killed = outcomes[TestOutcome.KILLED]
        print(f"{room}: {killed} of {killed + survived} killed, of {len(items)} possible mutants, seed {seed}")
        os.chdir(ROOT)
        subprocess.run(["git", "worktree", "remove", "--force", copy], cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main())
