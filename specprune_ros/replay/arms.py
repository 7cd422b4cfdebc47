# SPDX-License-Identifier: Apache-2.0
"""The arms of the comparison: one set of weights, a policy with its own pruning and history for each."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from specprune_ros.doctor.fit import check_fits
from specprune_ros.errors import ConfigError
from specprune_ros.nodes.model import load_policy
from specprune_ros.parameter_file import read_own_parameters
from specprune_ros.policy import ActionChunk, Observation, Policy
from specprune_ros.pruning.config import PRESETS, ROBOT, PruningConfig
from specprune_ros.replay.arm_names import DEFAULT_ARMS, DENSE, NODE
from specprune_ros.replay.jpeg import encoded
from specprune_ros.replay.settings import PRUNING, Settings, settings

JPEG_QUALITY = 95  # compressed_image_transport's default


def pruning_of(arm: str, node: Settings, node_name: str) -> PruningConfig | None:
    """The configuration of an arm: dense, node, a preset, or a YAML file with `pruning.*`.

    Raises ConfigError for anything else.
    """
    if arm == DENSE or (arm == NODE and not node.pruning_enabled):
        return None
    if arm == NODE:
        return node.pruning
    if arm in PRESETS:
        return PruningConfig.from_preset(arm).on_robot_of(node.pruning)
    path = Path(arm).expanduser()
    if path.suffix in (".yaml", ".yml") and path.is_file():
        given = read_own_parameters(path, node_name)
        own = {name: value for name, value in given.items() if name.startswith(PRUNING)}
        robot = {PRUNING + name: getattr(node.pruning, name) for name in ROBOT}
        found = settings({**robot, **own})
        if found.unknown or not own:
            problem = f"there is no parameter {found.unknown[0]}" if found.unknown else f"it has no {PRUNING}*"
            raise ConfigError(f"--arms {path}: {problem}; docs/parameters.md lists what there is")
        return found.pruning if found.pruning_enabled else None
    raise ConfigError(f"--arms {arm} is unknown; allowed: {', '.join(DEFAULT_ARMS)}, or a YAML file with pruning.*")


def distinct_arms(names: Iterable[str], node: Settings, node_name: str) -> dict[str, PruningConfig | None]:
    """Arm -> its configuration, dense first. `node` is left out where another arm is the same."""
    chosen = {name: pruning_of(name, node, node_name) for name in dict.fromkeys((DENSE, *names))}
    others = [config for name, config in chosen.items() if name != NODE]
    if NODE in chosen and chosen[NODE] in others:
        del chosen[NODE]
    titles = [Path(name).stem if name.endswith((".yaml", ".yml")) else name for name in chosen]
    for name, title in zip(chosen, titles, strict=True):
        if title != name and title in (DENSE, NODE, *PRESETS):
            raise ConfigError(f"--arms {name} would be called {title}, as an arm that is no file; rename it")
    if twice := [title for title in titles if titles.count(title) > 1]:
        raise ConfigError(f"--arms has two that are called {twice[0]}; rename one of the files")
    return dict(zip(titles, chosen.values(), strict=True))


class Arms:
    """Infers with every arm on the same observation."""

    def __init__(self, node: Settings, configs: dict[str, PruningConfig | None]) -> None:
        """Loads the checkpoint. Raises CheckpointError or ConfigError, one line, when something does not fit."""
        self.configs = configs
        self.dense = load_policy(node.model, None)
        check_fits(self.dense, node.inputs, node.controller)
        self.policies: dict[str, Policy] = {
            name: self.dense if config is None else self.dense.sibling(config) for name, config in configs.items()
        }
        self.warm_seconds: dict[str, dict[str, float]] = {}
        self._count = 0

    def warm_up(self, instruction: str) -> None:
        """Run every mode of every arm before anything is timed."""
        self.warm_seconds = {name: policy.warm_up(instruction) for name, policy in self.policies.items()}

    def infer(self, observation: Observation) -> dict[str, ActionChunk]:
        """Every arm's chunk. The arms take turns in being first, so that nothing favours one."""
        names = list(self.policies)
        first = self._count % len(names)
        self._count += 1
        chunks = {name: self.policies[name].act(observation) for name in names[first:] + names[:first]}
        return {name: chunks[name] for name in names}

    def observe(self, observation: Observation) -> None:
        """Remember the frames of an observation without an inference."""
        for policy in self.policies.values():
            policy.observe(observation.views, observation.stamp, observation.cameras)

    def reset(self) -> None:
        for policy in self.policies.values():
            policy.reset()

    def dense_after_jpeg(self, observation: Observation) -> NDArray[np.float64]:
        """(C, A) what dense says when the images have gone through JPEG once (more)."""
        views = {name: jpeg_round_trip(frame) for name, frame in observation.views.items()}
        return self.dense.act(replace(observation, views=views)).actions


def jpeg_round_trip(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) RGB uint8, encoded and decoded at the quality that image_transport uses."""
    decoded = cv2.imdecode(encoded(frame, JPEG_QUALITY), cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)
