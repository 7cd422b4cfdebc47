"""The parameters of the policy node: its groups, and those that no other part owns."""

from dataclasses import dataclass
from typing import Any

from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.control.executor import ExecutorConfig
from specprune_ros.control.limits import LimitsConfig
from specprune_ros.control.replan import ReplanConfig
from specprune_ros.engine.precision import NATIVE, PRECISIONS
from specprune_ros.errors import ConfigError
from specprune_ros.openvla.family import ACTION_SPACES, NORMALIZATIONS
from specprune_ros.parameters import parameter
from specprune_ros.sensing.config import InputsConfig

OF_CHECKPOINT = "checkpoint"  # leaves a fact to the checkpoint and what is known of its data set
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


@dataclass(frozen=True)
class CheckpointConfig:
    checkpoint: str = parameter("", "Folder of the OpenVLA-OFT checkpoint.", live=False)
    device: str = parameter("auto", "Torch device; auto takes the GPU when there is one.", live=False)
    dtype: str = parameter(
        "auto",
        "Number format of the weights; auto is bfloat16 on a GPU that computes in it, and float32 elsewhere.",
        choices=("auto", "float32", "bfloat16"),
        live=False,
    )
    precision: str = parameter(
        NATIVE,
        "Number format of the matrix products: int8 also on a CPU; fp8 on Ada and Hopper; int8_weights and "
        "int4_weights for GPUs of 12 and 8 GB. Norms, softmax, scores and head stay in dtype.",
        choices=PRECISIONS,
        live=False,
    )
    unnorm_key: str = parameter(
        "", "Data set whose statistics scale the actions; empty takes the only one.", live=False
    )
    chunk_length: int = parameter(0, "Steps per chunk; 0 takes the checkpoint's.", minimum=0, maximum=1000, live=False)
    num_views: int = parameter(0, "Camera views; 0 takes the checkpoint's.", minimum=0, maximum=16, live=False)
    center_crop: str = parameter(
        OF_CHECKPOINT,
        "Crop the centre 90 % of the area, as checkpoints trained with image augmentation need.",
        choices=(OF_CHECKPOINT, "on", "off"),
        live=False,
    )
    proprio_normalization: str = parameter(
        OF_CHECKPOINT,
        "Statistics that training mapped to [-1, 1], for proprio and actions: quantile is q01, q99, bounds min, max.",
        choices=(OF_CHECKPOINT, *NORMALIZATIONS),
        live=False,
    )
    action_space: str = parameter(
        OF_CHECKPOINT,
        "What the checkpoint's actions are; controller.action_space has to agree.",
        choices=(OF_CHECKPOINT, *ACTION_SPACES),
        live=False,
    )
    action_names: tuple[str, ...] = parameter(
        (), "Name of each action dimension; empty takes the checkpoint's.", live=False
    )
    action_units: tuple[str, ...] = parameter(
        (), "Unit of each action dimension; empty takes the checkpoint's.", live=False
    )
    tile: int = parameter(
        0,
        "Sequence lengths of pruned inferences are multiples of this; 0 measures what suits the device.",
        minimum=0,
        maximum=512,
        live=False,
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
