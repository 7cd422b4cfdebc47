# SPDX-License-Identifier: Apache-2.0
"""The arms of an evaluation: ways to run one and the same checkpoint."""

import math
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from specprune_ros.engine.forward_pass import ForwardPass
from specprune_ros.engine.precision import check_precision
from specprune_ros.engine.precision_names import NATIVE
from specprune_ros.engine.pruning_run import PruningRun
from specprune_ros.errors import ConfigError
from specprune_ros.openvla.preprocessing import seen_side
from specprune_ros.policy import Policy
from specprune_ros.pruning.config import PRESETS, PruningConfig
from specprune_ros.pruning.scores import patch_scores, text_attention
from specprune_ros.pruning.static_selection import Evidence

# Selection by one criterion alone, once. Over all layers, 72 of 256 patches a view are as many tokens as `paper` has,
# which starts with 94 and drops more from layer to layer; modes and their factor are the same.
ONE_CRITERION: dict[str, Any] = {"selection": "union", "alpha": 1.0, "prune_layers": [0]}
ONE_CRITERION |= {"global_tokens": 0, "dynamic_tokens": 0, "local_tokens": 0}
EQUAL_TOKENS = 72

NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "no_global": ("paper", {"global_tokens": 0}),
    "no_dynamic": ("paper", {"dynamic_tokens": 0}),
    "no_local": ("paper", {"local_tokens": 0}),
    "no_layer_pruning": ("paper", {"prune_layers": [0]}),
    "no_controller": ("paper", {"controller": False}),
    "mean_std_confidence": ("paper", {"confidence": "mean_std"}),
    "no_confidence": ("paper", {"confidence": "none"}),
    "random": ("paper", {}),
    "inverse": ("paper", {}),
    "fastv": ("paper", ONE_CRITERION | {"local_layers": [2], "local_tokens": EQUAL_TOKENS}),
    "last_kept": ("paper", ONE_CRITERION | {"global_tokens": EQUAL_TOKENS}),
}
UNPRUNED = ("dense", "blind", "expert")
BETWEEN_CHANGES = re.compile(r",(?![^\[]*\])")  # a comma that is not inside a list


class RandomRun(PruningRun):
    """The method's schedule, with random numbers for everything that speaks for a patch."""

    def _scores(self, attention: Tensor) -> Tensor:
        return torch.rand(attention.shape[-1], device=attention.device)

    def _evidence(self) -> Evidence:
        method = super()._evidence()
        local = tuple(map(torch.rand_like, method.local))
        return Evidence(torch.rand_like(method.history), torch.rand_like(method.similarity), local)


class InverseRun(PruningRun):
    """The method's schedule, keeping what it would drop: worse than `random` where attention says what matters."""

    def _scores(self, attention: Tensor) -> Tensor:
        return 1.0 / (super()._scores(attention) + 1e-9)


class ActionHistoryRun(PruningRun):
    """The history remembers what the action tokens attended to, not the instruction (VLA-Pruner, arXiv 2511.16449)."""

    def after_layer(self, number: int, q: Tensor, k: Tensor) -> None:
        history, alive, layers = self._history, self.alive, self._schedule.global_layers
        super().after_layer(number, q, k)
        if number in layers:
            attention = text_attention(q, k, self._layout.action_rows(len(alive)))[:, :, 1 : 1 + len(alive)]
            self._history = history.index_add(0, alive, patch_scores(attention) / len(layers))


class GripperRun(PruningRun):
    """In place of the patches that changed, those nearest to the gripper."""

    places = np.full((2, 2), np.nan)  # (V, 2) x, y of the gripper, 0 to 1 over what the towers see; nan out of view

    def _evidence(self) -> Evidence:
        method = super()._evidence()
        side = math.isqrt(method.similarity.shape[1])
        middle = (torch.arange(side) + 0.5) / side
        row, column = torch.meshgrid(middle, middle, indexing="ij")
        x, y = torch.from_numpy(self.places).float().T[..., None]
        far = ((column.flatten() - x) ** 2 + (row.flatten() - y) ** 2) / 4  # below 1, and so "changed"; nan is not
        return Evidence(method.history, torch.where(far.isnan(), 1.0, far), method.local)


def as_seen(places: np.ndarray, center_crop: bool) -> np.ndarray:
    """Places (V, 2), 0 to 1 over the whole view, over what the towers see of it; nan where they do not see it."""
    side = seen_side(center_crop)
    seen = 0.5 + (places - 0.5) / side
    inside = ((seen >= 0) & (seen <= 1)).all(axis=-1, keepdims=True)
    return np.where(inside, seen, np.nan)


class WristRun(PruningRun):
    """Only the last view is pruned."""

    def _select_static(self) -> Tensor:
        kept = super()._select_static()
        others = (self._views[0] - 1) * self._views[1]
        kept = torch.cat([torch.arange(others), kept[kept >= others]])
        self._entering = self._schedule.alive_per_layer(static=len(kept))
        return kept


RUN_TYPES: dict[str, type[PruningRun]] = {"random": RandomRun, "inverse": InverseRun}
WAYS: dict[str, type[PruningRun]] = {"action": ActionHistoryRun, "gripper": GripperRun, "wrist": WristRun}


@dataclass(frozen=True)
class Arm:
    """`pruning`: as for `Policy.set_pruning`. `blind`: the images are black. `expert`: no policy, but the expert.

    `run_type` is how patches are chosen. `latency`: simulated seconds from an observation to its chunk. `precision` is
    the number format of the policy that it wants.
    """

    name: str
    pruning: str | PruningConfig = "off"
    blind: bool = False
    expert: bool = False
    run_type: type[PruningRun] = PruningRun
    latency: float = 0.0
    precision: str = NATIVE

    def apply(self, policy: Policy) -> None:
        """Let a policy prune as this arm does, from its next inference on."""
        ForwardPass.run_type = self.run_type
        policy.set_pruning(self.pruning)


def arm(name: str) -> Arm:
    """As `_timeless_arm`; `ARM@SECONDS` is an arm whose inferences take that long in simulated time."""
    timeless, at, latency = name.partition("@")
    chosen = _timeless_arm(timeless)
    if not at:
        return chosen
    try:
        seconds = float(latency)
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds < math.inf:
        raise ConfigError(f"arm '{name}': the latency '{latency}' is not a number of seconds, 0 or more")
    return replace(chosen, name=name, latency=seconds)


def with_latencies(names: list[str], latencies: list[str], scales: list[float]) -> list[str]:
    """ARM@SECONDS for every arm and latency; the arms themselves without any."""
    if not latencies:
        return names
    timed = []
    for latency in (part for given in latencies for part in given.split(",")):
        name, named, seconds = latency.rpartition("=")
        if named and name not in names:
            raise ConfigError(f"--latency {latency}: '{name}' is not one of --arms")
        try:
            values = [float(seconds) * scale for scale in scales]
        except ValueError:
            raise ConfigError(f"--latency {latency}: '{seconds}' is not a number of seconds") from None
        timed += [f"{timeless}@{value:.4g}" for timeless in ([name] if named else names) for value in values]
    return list(dict.fromkeys(timed))


def _timeless_arm(name: str) -> Arm:
    """An arm by name, `ARM:NAME=VALUE,NAME=VALUE` for any constant of the method, `WAY/ARM` for a way to choose,
    `ARM+int8` for a number format.

    `fastv` keeps what layer 2 attends to most, `last_kept` what the last inference attended to most, `random` anything,
    `inverse` what the method attends to least; all about as many tokens as `paper`. Ways: `action` remembers the
    attention of the action tokens, `gripper` takes patches around it for those that changed, `wrist` prunes that view
    alone, and not between layers.
    Raises ConfigError that lists the known names.
    """
    if "+" in name:
        base, _, precision = name.rpartition("+")
        check_precision(precision, torch.device("cpu"))  # a mistake should not wait for its turn
        return replace(_timeless_arm(base), name=name, precision=precision)
    *ways, rest = name.split("/")
    base, separator, changes = rest.partition(":")
    if name in UNPRUNED:
        return Arm(name, blind=name == "blind", expert=name == "expert")
    if base not in (*PRESETS, *NAMED) or not set(ways) <= set(WAYS):
        known = ", ".join((*UNPRUNED, *PRESETS, *NAMED))
        raise ConfigError(
            f"arm '{name}' is not known; use one of: {known}; or a change of a pruned one: paper:alpha=0.5; "
            f"or one with a way to choose ({', '.join(WAYS)}): gripper/paper"
        )
    values: dict[str, Any] = {}
    for change in BETWEEN_CHANGES.split(changes) if separator else ():
        constant, separator, value = change.partition("=")
        if not separator:
            raise ConfigError(f"arm '{name}': '{change}' is not NAME=VALUE")
        values[constant] = yaml.safe_load(value)
    preset, constants = NAMED.get(base, (base, {}))
    if "wrist" in ways:
        constants = constants | {"prune_layers": [0]}
    pruning = PruningConfig.from_preset(preset).changed(constants | values)
    bases = (*(WAYS[way] for way in ways), RUN_TYPES.get(base, PruningRun))
    run_type = bases[0] if len(bases) == 1 or bases[1:] == (PruningRun,) else type(name, bases, {})
    return Arm(name, pruning, run_type=run_type)
