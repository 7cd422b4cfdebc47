# SPDX-License-Identifier: Apache-2.0
"""`pruning.*`: every field of PruningConfig, and a switch. Choosing a preset sets the fields that it stands for.

Facts about the robot are of no preset: they neither follow from one nor clear it.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.parameter import Parameter

from specprune_ros.nodes.parameters.declaration import declare, override
from specprune_ros.parameters import parameter
from specprune_ros.pruning.config import DEFAULT_PRESET, PRESETS, ROBOT, PruningConfig

PREFIX = "pruning."


@dataclass(frozen=True)
class PruningSwitch:
    """`pruning.enabled`."""

    enabled: bool = parameter(True, "Prune; without it every inference is dense.")


DEFAULTS = (PruningSwitch(), PruningConfig.from_preset(DEFAULT_PRESET))


def declare_pruning(node: Node) -> tuple[PruningSwitch, PruningConfig]:
    """Declare `pruning.*`: fields that are not given come from `pruning.preset`, and that from DEFAULT_PRESET."""
    preset = PruningConfig.from_preset(str(override(node, PREFIX + "preset") or DEFAULT_PRESET))
    switch = declare(node, "pruning", PruningSwitch)
    config = declare(node, "pruning", PruningConfig, preset)
    if config != preset.on_robot_of(config):
        config = dataclasses.replace(config, preset="")
        node.set_parameters([Parameter(PREFIX + "preset", value="")])
    return switch, config


def expand_preset(changes: dict[str, Any], current: dict[str, Any]) -> dict[str, Any]:
    """What a change of `pruning.*` entails: a preset sets the fields that were not given with it.

    A field that gets another value by hand clears the preset's name.
    """
    neutral = {PREFIX + name for name in ("enabled", "preset", *ROBOT)}
    given = {name: value for name, value in changes.items() if name.startswith(PREFIX) and name not in neutral}
    preset = changes.get(PREFIX + "preset")
    if preset and preset not in PRESETS:
        return {}  # to be refused
    expected = current
    if preset:
        values = dataclasses.asdict(PruningConfig.from_preset(preset))
        expected = {PREFIX + name: value for name, value in values.items()}
    cleared = {PREFIX + "preset": ""} if any(value != expected.get(name) for name, value in given.items()) else {}
    if not preset:
        return cleared
    return {name: value for name, value in expected.items() if name not in given and name not in neutral} | cleared


def check_preset(config: PruningConfig) -> None:
    """Raises ConfigError for a preset that does not exist."""
    if config.preset:
        PruningConfig.from_preset(config.preset)
