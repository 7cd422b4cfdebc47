"""The arms of an evaluation: ways to run one and the same checkpoint."""

import re
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch import Tensor

from specprune_ros.engine.forward_pass import ForwardPass
from specprune_ros.engine.pruning_run import PruningRun
from specprune_ros.errors import ConfigError
from specprune_ros.policy import Policy
from specprune_ros.pruning.config import PRESETS, PruningConfig
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


RUN_TYPES = {"random": RandomRun, "inverse": InverseRun}


@dataclass(frozen=True)
class Arm:
    """`pruning`: as for `Policy.set_pruning`. `blind`: the images are black. `expert`: no policy, but the expert.

    `run_type` is how patches are chosen.
    """

    name: str
    pruning: str | PruningConfig = "off"
    blind: bool = False
    expert: bool = False
    run_type: type[PruningRun] = PruningRun

    def apply(self, policy: Policy) -> None:
        """Let a policy prune as this arm does, from its next inference on."""
        ForwardPass.run_type = self.run_type
        policy.set_pruning(self.pruning)


def arm(name: str) -> Arm:
    """An arm by name, or `ARM:NAME=VALUE,NAME=VALUE` for any constant of the method.

    `fastv` keeps what layer 2 attends to most, `last_kept` what the last inference attended to most, `random` anything,
    `inverse` what the method attends to least; all about as many tokens as `paper`.
    Raises ConfigError that lists the known names.
    """
    base, separator, changes = name.partition(":")
    if name in UNPRUNED:
        return Arm(name, blind=name == "blind", expert=name == "expert")
    if base not in (*PRESETS, *NAMED):
        known = ", ".join((*UNPRUNED, *PRESETS, *NAMED))
        raise ConfigError(
            f"arm '{name}' is not known; use one of: {known}; or a change of a pruned one: paper:alpha=0.5"
        )
    values: dict[str, Any] = {}
    for change in BETWEEN_CHANGES.split(changes) if separator else ():
        constant, separator, value = change.partition("=")
        if not separator:
            raise ConfigError(f"arm '{name}': '{change}' is not NAME=VALUE")
        values[constant] = yaml.safe_load(value)
    preset, constants = NAMED.get(base, (base, {}))
    pruning = PruningConfig.from_preset(preset).changed(constants | values)
    return Arm(name, pruning, run_type=RUN_TYPES.get(base, PruningRun))
