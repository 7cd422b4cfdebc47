# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint folder is: the one place that decides it, by its files alone.

`config.json` says nothing of FiLM, proprio, head or LoRA; in the reference they are command-line options. So:

| file | means | its absence means |
|---|---|---|
| `vision_backbone--S_checkpoint.pt` | FiLM (OFT+); it replaces both towers | plain towers |
| `proprio_projector--S_checkpoint.pt` | a proprio token | no proprio token |
| `action_head--S_checkpoint.pt` with weights `model.*` | L1 head | no head: discrete tokens |
| the same with `noise_predictor.*`, and `noisy_action_projector--S_checkpoint.pt` | diffusion head | |
| `lora_adapter/` beside weights | LoRA merged already, the adapter is a left-over | |
| `lora_adapter/` without weights | un-merged LoRA; the base checkpoint has to be given | |
| `quantized.json` | weights quantised by `specprune-quantize`; it says all of the above | |

What no file tells: chunk length, views, crop and the like are `family.FamilyConfig`'s, diffusion steps are arguments.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.config import DIFFUSION, DISCRETE, L1
from specprune_ros.openvla.family import KINDS
from specprune_ros.openvla.files import check_folder, exists, read_json
from specprune_ros.openvla.lora import FILE as ADAPTER_FILE
from specprune_ros.openvla.quantized import Quantized, is_quantized, read_quantized
from specprune_ros.openvla.weight_containers import names_of, read_state
from specprune_ros.openvla.weight_files import has_weights

COMPONENTS = ("vision_backbone", "proprio_projector", "action_head", "noisy_action_projector")
ADAPTER = "lora_adapter"
FILM_MODULES = "base_model.model.vision_backbone.vision_backbone."  # FiLM wraps the backbone, plain OFT does not
OF_TRAINING = (*KINDS, "norm_stats", "num_diffusion_steps", "num_diffusion_steps_train")  # in config.json
L1_WEIGHTS = "model.", "layer_norm1.", "fc1."  # how names start, with or without the reference's wrapper


@dataclass(frozen=True)
class Variant:
    """What a folder is. All of it was read, nothing guessed."""

    folder: Path  # heads, statistics, tokenizer
    weights: Path  # config.json and safetensors: the folder itself, or an un-merged adapter's base checkpoint
    head: str  # L1, DIFFUSION or DISCRETE
    components: dict[str, Path] = field(default_factory=dict)  # file by name, of those in COMPONENTS that exist
    adapter: Path | None = None  # a LoRA adapter that has yet to be merged
    leftover_adapter: Path | None = None  # one that is merged already
    quantized: Quantized | None = None  # weights in a small format, with everything merged into them

    @property
    def film(self) -> bool:
        return "vision_backbone" in self.components

    @property
    def proprio(self) -> bool:
        return "proprio_projector" in self.components

    def __str__(self) -> str:
        """For people: 'FiLM towers, proprio, L1 regression, LoRA merged'."""
        if self.quantized:
            lora = f"quantised to {self.quantized.precision} from checkpoint {self.quantized.source}"
        else:
            lora = self._lora()
        towers = "FiLM towers (OFT+)" if self.film else "plain towers"
        return f"{towers}, {'proprio' if self.proprio else 'no proprio'}, {self.head} head, {lora}"

    def _lora(self) -> str:
        return "un-merged LoRA" if self.adapter else "LoRA merged" if self.leftover_adapter else "no adapter"


def identify(folder: Path, base_checkpoint: Path | None = None) -> Variant:
    """What `folder` is. `base_checkpoint`: the folder that an un-merged adapter was trained from.

    Raises CheckpointError, one line, when files are missing or contradict each other.
    """
    check_folder(folder)
    quantized = read_quantized(folder)
    if quantized:
        if base_checkpoint:
            raise CheckpointError(f"base_checkpoint is {base_checkpoint}, but {folder} is quantised; leave it out")
        files = {name: folder / file for name, file in quantized.files.items()}
        return Variant(folder, folder, quantized.head, files, quantized=quantized)
    components = {name: path for name in COMPONENTS if (path := _component(folder, name))}
    _check_steps(folder, components)
    weights, adapter, leftover = _weights(folder, base_checkpoint)
    if "vision_backbone" not in components:
        _refuse_film_without_towers(folder, adapter or leftover)
    return Variant(folder, weights, _head(folder, components), components, adapter, leftover)


def _component(folder: Path, name: str) -> Path | None:
    """The one file of a component; S is a step or 'latest'."""
    found = sorted(folder.glob(f"{name}--*_checkpoint.pt"))
    if len(found) > 1:
        raise CheckpointError(
            f"{folder} has {len(found)} candidates for one component: {', '.join(path.name for path in found)}; "
            "keep the one of the step that you want"
        )
    if not found:
        similar = sorted(path.name for path in folder.iterdir() if path.name.startswith(name))
        if similar:
            raise CheckpointError(
                f"{folder / similar[0]} is not called {name}--STEP_checkpoint.pt, which leaves open whether it "
                "belongs to this checkpoint; rename it, or move it away"
            )
        return None
    return found[0]


def _check_steps(folder: Path, components: dict[str, Path]) -> None:
    """Components of two steps were not trained together."""
    if len({step_of(path) for path in components.values()}) > 1:
        names = ", ".join(path.name for path in components.values())
        raise CheckpointError(
            f"{folder} has components of different steps: {names}; copy all of one step, or rename them if they were "
            "saved together"
        )


def step_of(component: Path) -> str:
    """The step in a component's file name, or 'latest'."""
    return component.name.rpartition("--")[2].removesuffix("_checkpoint.pt")


def _head(folder: Path, components: dict[str, Path]) -> str:
    projector = components.get("noisy_action_projector")
    if "action_head" not in components:
        if projector:
            raise CheckpointError(f"{folder} has {projector.name} but no action_head--*_checkpoint.pt; copy it")
        return DISCRETE
    path = components["action_head"]
    names = read_state(path)
    if any(name.startswith("noise_predictor.") for name in names):
        if not projector:
            raise CheckpointError(
                f"{path} is a diffusion head, but noisy_action_projector--*_checkpoint.pt is missing beside it; copy it"
            )
        return DIFFUSION
    if any(name.startswith(L1_WEIGHTS) for name in names):
        if projector:
            raise CheckpointError(
                f"{path} is an L1 head, but {projector.name} beside it belongs to a diffusion head; "
                "keep the files of one training run"
            )
        return L1
    known = "model.* (L1) or noise_predictor.* (diffusion)"
    raise CheckpointError(f"{path} has weights such as '{next(iter(names), '')}', not {known}; it is another head")


def _weights(folder: Path, base: Path | None) -> tuple[Path, Path | None, Path | None]:
    """Where config.json and safetensors are, the adapter to merge, and the one that is merged already."""
    adapter = _adapter(folder)
    if has_weights(folder) or not adapter:
        if base:
            raise CheckpointError(
                f"base_checkpoint is {base}, but {folder} needs none: "
                f"{'its LoRA is merged already' if adapter else 'it has no lora_adapter/'}; leave base_checkpoint out"
            )
        return folder, None, adapter
    if not base:
        raise CheckpointError(
            f"{folder} holds an un-merged LoRA adapter and no model.safetensors; give the checkpoint that it was "
            "trained from as base_checkpoint (for releases openvla/openvla-7b)"
        )
    check_folder(base, "base_checkpoint")
    if is_quantized(base):
        raise CheckpointError(
            f"base_checkpoint {base} is quantised, and an adapter is merged before that; give the checkpoint itself"
        )
    return base, adapter, None


def _refuse_film_without_towers(folder: Path, adapter: Path | None) -> None:
    """Raise CheckpointError when an adapter was trained around FiLM's towers, which are missing.

    With plain towers the checkpoint runs without error and is wrong. One that cannot be read says nothing.
    """
    try:
        names = names_of(adapter / ADAPTER_FILE) if adapter else []
    except CheckpointError:
        return
    if any(name.startswith(FILM_MODULES) for name in names):
        raise CheckpointError(
            f"{folder}: the adapter was trained with FiLM (OFT+), but vision_backbone--STEP_checkpoint.pt is missing; "
            "copy it"
        )


def own_config(variant: Variant, config: dict[str, Any]) -> dict[str, Any]:
    """What config.json says of the training: `config`, but an un-merged adapter's own, which need not have one.

    That of its base speaks of the base's data. Raises CheckpointError when it cannot be read.
    """
    if variant.adapter is None:
        return config
    path = variant.folder / "config.json"
    return read_json(path) if exists(path) else {}


def merged_config(variant: Variant) -> dict[str, Any]:
    """config.json of an un-merged adapter and its base in one: the sizes of the base, and what `own_config` says.

    Raises CheckpointError when one cannot be read.
    """
    base = read_json(variant.weights / "config.json")
    own = own_config(variant, base)
    sizes = {name: value for name, value in base.items() if name not in OF_TRAINING}
    return sizes | {name: own[name] for name in (*OF_TRAINING, "empty_token_id") if name in own}


def _adapter(folder: Path) -> Path | None:
    """Where the LoRA adapter is: in lora_adapter/, as the reference saves it, or among the rest, as peft does."""
    if (folder / ADAPTER).is_dir():
        return folder / ADAPTER
    return folder if exists(folder / "adapter_config.json") else None
