# SPDX-License-Identifier: Apache-2.0
"""What a data folder holds: README.md for people, dataset_statistics.json for training and for the checkpoint."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from training.episodes import Episode, episode_paths, read_episode

SUITES = "libero_spatial", "libero_object", "libero_goal"
OTHER_SUITES = "libero_4_task_suites"  # their name in the statistics, with facts that are known for LIBERO
NORMALIZED = [True] * 6 + [False]  # the gripper is 0 or 1 already

CARD = """# Demonstrations of {suites}

Recorded in simulation with a scripted expert that reads the simulator's state (`training/expert.py`). Executed actions
carry correlated Gaussian noise, so that the data holds recoveries; labels are the expert's clean actions. Where the
placement says "policy", a half-trained policy moved the arm in bursts instead (`training/policy_driver.py`). Only
successful episodes are kept. File format: `training/episodes.py`. Initial states 20 to 49 of each task, and wide
placements with seeds from 1000000 on, are left for evaluation.

{episodes} episodes, {steps} steps at 20 Hz, {megabytes:.1f} MB.

| suite | task | placement | episodes | steps | failed |
|---|---|---|---|---|---|
{rows}

Noise (standard deviation, action units): {noises}.
Versions: {versions}.
Made by: `{commands}`
"""


def write_summary(folder: Path, commands: list[str]) -> None:
    """Write README.md and dataset_statistics.json for all episodes of `folder`. `commands` made it."""
    paths = episode_paths(folder)
    if not paths:
        return
    by_key: dict[str, list[Episode]] = defaultdict(list)
    rows = []
    counts: Counter[tuple[str, int, str]] = Counter()
    steps: Counter[tuple[str, int, str]] = Counter()
    noises: Counter[float] = Counter()
    versions: set[str] = set()
    for path in tqdm(paths, "statistics", unit="episode", mininterval=1.0):
        episode = read_episode(path, frames=False)
        facts = episode.facts
        kind = ("wide" if facts["wide"] else "standard") + ("-policy" if "policy" in facts else "")
        group = (facts["suite"], facts["task"], kind)
        counts[group] += 1
        steps[group] += len(episode.actions)
        noises[facts["noise"]] += 1
        versions.add(", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
        by_key[statistics_key(facts["suite"])].append(episode)
    for suite, task, kind in sorted(counts):
        failed = len(list((folder / suite / f"task{task}").glob(f"{kind}-[0-9]*.failed")))
        group = (suite, task, kind)
        rows.append(f"| {suite} | {task} | {kind} | {counts[group]} | {steps[group]} | {failed} |")
    suites = sorted({suite for suite, _, _ in counts})
    statistics = {key: summarize(episodes) for key, episodes in sorted(by_key.items())}
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics, indent=1))
    card = CARD.format(
        suites=", ".join(suites),
        episodes=len(paths),
        steps=sum(steps.values()),
        megabytes=sum(path.stat().st_size for path in paths) / 1e6,
        rows="\n".join(rows),
        noises=", ".join(f"{noise:g} in {count} episodes" for noise, count in sorted(noises.items())),
        versions="; ".join(sorted(versions)),
        commands="`, `".join(_commands(folder, commands)),
    )
    (folder / "README.md").write_text(card)


def statistics_key(suite: str) -> str:
    """What the public checkpoints call the statistics of a suite; variants count as their suite."""
    return next((key for key in SUITES if suite.startswith(key)), OTHER_SUITES) + "_no_noops"


def summarize(episodes: list[Episode]) -> dict[str, Any]:
    """One entry of dataset_statistics.json: the arm stands elsewhere in each suite, so each has one of its own."""
    actions = np.concatenate([episode.actions for episode in episodes])
    proprio = np.concatenate([episode.proprio for episode in episodes])
    return {
        "action": _moments(actions) | {"mask": NORMALIZED},
        "proprio": _moments(proprio),
        "num_transitions": len(actions),
        "num_trajectories": len(episodes),
    }


def _moments(values: np.ndarray) -> dict[str, list[float]]:
    values = values.astype(np.float64)
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    return {
        "mean": values.mean(axis=0).tolist(),
        "std": values.std(axis=0).tolist(),
        "min": values.min(axis=0).tolist(),
        "max": values.max(axis=0).tolist(),
        "q01": low.tolist(),
        "q99": high.tolist(),
    }


def _commands(folder: Path, new: list[str]) -> list[str]:
    """The commands that made the folder so far, and the new ones."""
    log = folder / "commands.txt"
    known = log.read_text().splitlines() if log.exists() else []
    commands = known + [command for command in new if command not in known]
    log.write_text("\n".join(commands) + "\n")
    return commands
