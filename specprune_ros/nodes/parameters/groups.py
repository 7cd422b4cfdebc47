# SPDX-License-Identifier: Apache-2.0
"""The parameters of the policy node: its groups, and those that no other part owns."""

from dataclasses import dataclass
from typing import Any

from specprune_ros.checkpoint_config import CheckpointConfig
from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.control.executor import ExecutorConfig
from specprune_ros.control.limits import LimitsConfig
from specprune_ros.control.replan import ReplanConfig
from specprune_ros.control.run import RunConfig
from specprune_ros.control.takeover import TakeoverConfig
from specprune_ros.errors import ConfigError
from specprune_ros.parameters import parameter
from specprune_ros.sensing.config import InputsConfig

LEAST_HANG = 1.0  # seconds; less happens on a busy machine
LONGEST_INSTRUCTION = 1000  # characters; it is repeated in every chunk and in the diagnostics


@dataclass(frozen=True)
class NodeConfig:
    """The parameters without a group."""

    instruction: str = parameter("", "What the arm should do, in words; also settable on ~/instruction.")
    dry_run: bool = parameter(False, "Compute and publish everything, move nothing, even when motion is enabled.")
    recording: str = parameter(
        "", "Folder into which somebody records what the node sees and does, told in results of ~/run_policy."
    )
    autostart: bool = parameter(False, "Configure and activate at start, without a lifecycle manager.", live=False)
    hang_timeout: float = parameter(
        5.0,
        "The process ends itself, with every thread's stack on stderr, when its control thread hangs for so long; "
        "0 never does, for debuggers.",
        minimum=0.0,
        maximum=600.0,
        unit="s",
    )

    def __post_init__(self) -> None:
        if 0 < self.hang_timeout < LEAST_HANG:
            raise ConfigError(
                f"hang_timeout = {self.hang_timeout:g} is too short; allowed: 0, or {LEAST_HANG:g} to 600"
            )
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
    "run": (RunConfig(),),
    "takeover": (TakeoverConfig(),),
}
