"""The arms of an evaluation: ways to run one and the same checkpoint."""

from dataclasses import dataclass
from typing import Any

import yaml

from specprune_ros.errors import ConfigError
from specprune_ros.pruning.config import PRESETS, PruningConfig

# Static selection by one criterion alone, at the coarse mode's 94 of 256 patches a view, and nothing after it.
ONE_CRITERION: dict[str, Any] = {"selection": "union", "alpha": 1.0, "prune_layers": [0], "controller": False}
ONE_CRITERION |= {"global_tokens": 0, "dynamic_tokens": 0, "local_tokens": 0}

NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "no_global": ("paper", {"global_tokens": 0}),
    "no_dynamic": ("paper", {"dynamic_tokens": 0}),
    "no_local": ("paper", {"local_tokens": 0}),
    "no_layer_pruning": ("paper", {"prune_layers": [0]}),
    "no_controller": ("paper", {"controller": False}),
    "mean_std_confidence": ("paper", {"confidence": "mean_std"}),
    "no_confidence": ("paper", {"confidence": "none"}),
    # Equal tokens: the method's selection, and others', with the same number of patches from the same layer on.
    "static_only": ("paper", {"prune_layers": [0], "controller": False}),
    "fastv": ("paper", ONE_CRITERION | {"local_layers": [2], "local_tokens": 94}),
    "last_kept": ("paper", ONE_CRITERION | {"global_tokens": 94}),
}
UNPRUNED = ("dense", "blind", "expert")


@dataclass(frozen=True)
class Arm:
    """`pruning`: as for `Policy.set_pruning`. `blind`: the images are black. `expert`: no policy, but the expert."""

    name: str
    pruning: str | PruningConfig = "off"
    blind: bool = False
    expert: bool = False


def arm(name: str) -> Arm:
    """An arm by name, or `PRESET:NAME=VALUE,NAME=VALUE` for any constant of the method.

    `fastv` keeps what layer 2 attends to most, `last_kept` what the last inference attended to most.
    Raises ConfigError that lists the known names.
    """
    if name in UNPRUNED:
        return Arm(name, blind=name == "blind", expert=name == "expert")
    if name in PRESETS:
        return Arm(name, PruningConfig.from_preset(name))
    if name in NAMED:
        preset, constants = NAMED[name]
        return Arm(name, PruningConfig.from_preset(preset).changed(constants))
    preset, separator, changes = name.partition(":")
    if not separator or preset not in PRESETS:
        known = ", ".join((*UNPRUNED, *PRESETS, *NAMED))
        raise ConfigError(f"arm '{name}' is not known; use one of: {known}; or a change of a preset: paper:alpha=0.5")
    values: dict[str, Any] = {}
    for change in changes.split(","):
        constant, separator, value = change.partition("=")
        if not separator:
            raise ConfigError(f"arm '{name}': '{change}' is not NAME=VALUE")
        values[constant] = yaml.safe_load(value)
    return Arm(name, PruningConfig.from_preset(preset).changed(values))
