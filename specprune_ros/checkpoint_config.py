# SPDX-License-Identifier: Apache-2.0
"""The parameters `model.*`."""

from dataclasses import dataclass
from typing import Any

from specprune_ros.engine.precision_names import NATIVE, PRECISIONS
from specprune_ros.openvla.family import ACTION_SPACES, NORMALIZATIONS
from specprune_ros.parameters import parameter

OF_CHECKPOINT = "checkpoint"  # leaves a fact to the checkpoint and what is known of its data set
CROP = {OF_CHECKPOINT: None, "on": True, "off": False}


@dataclass(frozen=True)
class CheckpointConfig:
    """Which checkpoint, how it runs, and the facts that its files do not tell."""

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
    base_checkpoint: str = parameter(
        "",
        "Folder of the checkpoint that an un-merged LoRA adapter was trained from; empty for merged checkpoints.",
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
    num_diffusion_steps: int = parameter(
        0, "Denoising steps of a diffusion head; 0 takes the checkpoint's, 50.", minimum=0, maximum=1000, live=False
    )
    num_diffusion_steps_train: int = parameter(
        0,
        "Steps that the diffusion head was trained with; 0 takes the checkpoint's, 50.",
        minimum=0,
        maximum=1000,
        live=False,
    )
    tile: int = parameter(
        0,
        "Sequence lengths of pruned inferences are multiples of this; 0 measures what suits the device.",
        minimum=0,
        maximum=512,
        live=False,
    )

    threads: int = parameter(
        0,
        "CPU threads of an inference; 0 is auto: at warm-up it measures what is fastest beside whatever else runs.",
        minimum=0,
        maximum=1024,
        live=False,
    )

    def facts(self) -> dict[str, Any]:
        """Those that are given, as arguments of `Policy.from_checkpoint`; None for the others."""
        return {
            "chunk_length": self.chunk_length or None,
            "num_views": self.num_views or None,
            "center_crop": CROP[self.center_crop],
            "proprio_normalization": _stated(self.proprio_normalization),
            "action_space": _stated(self.action_space),
            "action_names": self.action_names or None,
            "action_units": self.action_units or None,
            "num_diffusion_steps": self.num_diffusion_steps or None,
            "num_diffusion_steps_train": self.num_diffusion_steps_train or None,
        }


def _stated(value: str) -> str | None:
    return None if value == OF_CHECKPOINT else value
