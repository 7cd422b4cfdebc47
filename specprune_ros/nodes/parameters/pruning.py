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
from specprune_ros.pruning.config import PRESETS, PruningConfig

PREFIX = "pruning."
DEFAULT_PRESET = "paper"
ROBOT = {"control_rate", "metres_per_unit"}


@dataclass(frozen=True)
class PruningSwitch:
    enabled: bool = parameter(True, "Prune; without it every inference is dense.")


DEFAULTS = (PruningSwitch(), PruningConfig.from_preset(DEFAULT_PRESET))


def declare_pruning(node: Node) -> tuple[PruningSwitch, PruningConfig]:
    """Declare `pruning.*`: fields that are not given come from `pruning.preset`, and that from DEFAULT_PRESET."""
    preset = PruningConfig.from_preset(str(override(node, PREFIX + "preset") or DEFAULT_PRESET))
    switch = declare(node, "pruning", PruningSwitch)
    config = declare(node, "pruning", PruningConfig, preset)
    if config != dataclasses.replace(preset, **{name: getattr(config, name) for name in ROBOT}):
        config = dataclasses.replace(config, preset="")
        node.set_parameters([Parameter(PREFIX + "preset", value="")])
    return switch, config


def expand_preset(changes: dict[str, Any]) -> dict[str, Any]:
    """What a change of `pruning.*` entails: a preset sets the other fields; a field set by hand clears the preset."""
    neutral = {PREFIX + name for name in ("enabled", "preset", *ROBOT)}
    by_hand = {name for name in changes if name.startswith(PREFIX)} - neutral
    cleared = {PREFIX + "preset": ""} if by_hand else {}
    preset = changes.get(PREFIX + "preset")
    if preset not in PRESETS:
        return {} if preset else cleared
    values = dataclasses.asdict(PruningConfig.from_preset(preset))
    stood_for = {PREFIX + name: value for name, value in values.items() if name not in ROBOT}
    return {name: value for name, value in stood_for.items() if name not in by_hand} | cleared


def check_preset(config: PruningConfig) -> None:
    """Raises ConfigError for a preset that does not exist."""
    if config.preset:
        PruningConfig.from_preset(config.preset)
