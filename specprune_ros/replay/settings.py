# SPDX-License-Identifier: Apache-2.0
"""The node's configuration, from its parameter file, without a node."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from specprune_ros.checkpoint_config import CheckpointConfig
from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.errors import ConfigError
from specprune_ros.nodes.parameters.groups import GROUPS, NodeConfig
from specprune_ros.parameters import configured, full_name, shown
from specprune_ros.pruning.config import DEFAULT_PRESET, PruningConfig
from specprune_ros.sensing.config import InputsConfig

PRUNING = "pruning."
ENABLED = PRUNING + "enabled"
PRESET = PRUNING + "preset"
ELSEWHERE = ("use_sim_time", ENABLED)  # parameters that no configuration group has
OPEN_ENDED = ("qos_overrides.",)


@dataclass(frozen=True)
class Settings:
    """What the replay needs of the node's parameters."""

    node: NodeConfig
    model: CheckpointConfig
    inputs: InputsConfig
    controller: ControllerConfig
    pruning: PruningConfig
    pruning_enabled: bool
    continuous: bool  # the node infers on every observation that it has time for
    use_sim_time: bool
    unknown: tuple[str, ...]  # names that the node would warn of


def settings(parameters: Mapping[str, Any]) -> Settings:
    """`parameters`: full name -> value. Raises ConfigError that names the parameter, as the node does."""
    known = set(ELSEWHERE)
    configs: dict[type, Any] = {}
    for group, defaults in GROUPS.items():
        for default in defaults:
            configs[type(default)] = configured(default, group, parameters)
            known |= _names(default, group)
    base = PruningConfig.from_preset(str(parameters.get(PRESET) or DEFAULT_PRESET))
    pruning = configured(base, "pruning", parameters)
    known |= _names(base, "pruning")
    if pruning != base.on_robot_of(pruning):
        pruning = dataclasses.replace(pruning, preset="")
    return Settings(
        node=configs[NodeConfig],
        model=configs[CheckpointConfig],
        inputs=configs[InputsConfig],
        controller=configs[ControllerConfig],
        pruning=pruning,
        pruning_enabled=_flag(parameters, ENABLED, True),
        continuous=parameters.get("replan.when", "continuous") == "continuous",
        use_sim_time=_flag(parameters, "use_sim_time", False),
        unknown=tuple(sorted(name for name in parameters if name not in known and not name.startswith(OPEN_ENDED))),
    )


def _names(config: Any, group: str) -> set[str]:
    return {full_name(group, field.name) for field in dataclasses.fields(config)}


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise ConfigError(f"{name} = {shown(value)} has the wrong type; allowed: true or false, without quotes")
    return value
