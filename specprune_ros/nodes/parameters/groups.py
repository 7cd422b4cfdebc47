"""The parameters of the policy node: its groups, and those that no other part owns."""

from dataclasses import dataclass
from typing import Any

from specprune_ros.checkpoint_config import CheckpointConfig
from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.control.executor import ExecutorConfig
from specprune_ros.control.limits import LimitsConfig
from specprune_ros.control.replan import ReplanConfig
from specprune_ros.errors import ConfigError
from specprune_ros.parameters import parameter
from specprune_ros.sensing.config import InputsConfig

LONGEST_INSTRUCTION = 1000  # characters; it is repeated in every chunk and in the diagnostics


@dataclass(frozen=True)
class NodeConfig:
    instruction: str = parameter("", "What the arm should do, in words; also settable on ~/instruction.")
    dry_run: bool = parameter(False, "Compute and publish everything, move nothing, even when motion is enabled.")
    autostart: bool = parameter(False, "Configure and activate at start, without a lifecycle manager.", live=False)

    def __post_init__(self) -> None:
        if len(self.instruction) > LONGEST_INSTRUCTION:
            raise ConfigError(
                f"instruction has {len(self.instruction)} characters; say it in at most {LONGEST_INSTRUCTION}"
            )


# Group -> the configurations declared under it, with their defaults; `pruning` is in pruning.py.
GROUPS: dict[str, tuple[Any, ...]] = {
    "": (NodeConfig(),),
    "model": (CheckpointConfig(),),
    "inputs": (InputsConfig(),),
    "controller": (ControllerConfig(),),
    "limits": (LimitsConfig(),),
    "execution": (ExecutorConfig(),),
    "replan": (ReplanConfig(),),
}
