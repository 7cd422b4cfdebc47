# SPDX-License-Identifier: Apache-2.0
"""The recorded checkpoints of every variant, unpacked, and one dense pass through each with all that it computes.

`data/golden/*.tar.xz`: tiny checkpoints written by the public reference's own saver, and in `golden.npz` what it
computes from them, stage by stage, in float32 on a CPU.
"""

import atexit
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from specprune_ros.openvla.checkpoint import Checkpoint, load
from specprune_ros.openvla.diffusion_head import DiffusionHead, timestep_token
from specprune_ros.openvla.discrete_head import DiscreteHead
from specprune_ros.policy import Observation, Policy

ARCHIVES = Path(__file__).parent / "data" / "golden"
VIEWS = ("primary_image", "left_wrist_image", "right_wrist_image", "wrist_image")  # in the checkpoints' order
SUBFOLDERS = {"lora": "finetuned--30000_chkpt"}
NAMES = ("film", "diffusion", "discrete", "one_view", "lora")

STEPWISE = ("noise_pred", "predicted_x0", "samples_after_step", "timesteps", "timestep_embeddings")

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GoldenSet:
    """One archive: the checkpoint's folder, what else loading it needs, and the record."""

    name: str
    root: Path
    record: dict[str, NDArray]
    arguments: dict[str, object] = field(default_factory=dict)  # of Policy.from_checkpoint

    @property
    def folder(self) -> Path:
        return self.root / SUBFOLDERS.get(self.name, "")

    @property
    def views(self) -> dict[str, NDArray[np.uint8]]:
        return {name: self.record[name] for name in VIEWS if name in self.record}

    @property
    def observation(self) -> Observation:
        return Observation(self.views, self.record.get("state"), str(self.record["instruction"]))

    @property
    def noise(self) -> NDArray[np.float32] | None:
        return self.record.get("initial_noise")

    def load(self, **changes) -> Checkpoint:
        arguments = self.arguments | changes
        base = arguments.pop("base_checkpoint", None)
        return load(self.folder, overrides=arguments, base_checkpoint=base)

    def policy(self, **changes) -> Policy:
        return Policy.from_checkpoint(self.folder, **(self.arguments | changes))


@cache
def golden_set(name: str) -> GoldenSet:
    """Unpacked for this process; copy the folder before you change something in it."""
    with tarfile.open(ARCHIVES / f"{name}.tar.xz") as archive:
        archive.extractall(_scratch(), filter="data")
    root = _scratch() / name
    with np.load(root / "golden.npz") as arrays:
        record = dict(arrays)
    arguments: dict[str, object] = {}
    if name == "lora":
        arguments["base_checkpoint"] = root / "base"
    if name == "diffusion":
        arguments["num_diffusion_steps"] = int(record["num_diffusion_steps_inference"])
        arguments["num_diffusion_steps_train"] = int(record["num_diffusion_steps_train"])
    return GoldenSet(name, root, record, arguments)


@cache
def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="golden_sets_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Trace:
    """A dense pass from the recorded pixels to the actions; `values` holds what the record has, by its names.

    A diffusion head is led along the recorded samples, so that every step is checked for itself: in these random
    weights an error of one step grows 15-fold in the next, whoever computes it.
    """

    def __init__(self, checkpoint: Checkpoint, golden: GoldenSet):
        self.values: dict[str, Array] = {}
        self._model, self._record = checkpoint.model, golden.record
        self._steps: dict[str, list[Array]] = {}
        prompt = checkpoint.tokenizer(str(golden.record["instruction"]))
        token_ids = torch.tensor(prompt.token_ids)
        self.values["input_ids"] = token_ids[None].numpy()
        proprio = checkpoint.normalizer.normalize_proprio(golden.record.get("state"))
        if "state" in golden.record:
            self.values["proprio_normalized"] = proprio
        hooks = [module.register_forward_hook(hook) for module, hook in self._hooks()]
        noise = None if golden.noise is None else torch.from_numpy(golden.noise)
        pixels = torch.from_numpy(golden.record["pixel_values"])
        pixels = pixels.view(len(golden.views), 2, 3, *pixels.shape[2:])
        towers = [pixels[:, tower] for tower in range(2)]
        with torch.inference_mode(), self._led():
            actions = self._model(
                towers, torch.from_numpy(proprio).float(), token_ids, checkpoint.tokenizer.eos_id, noise
            )
        for hook in hooks:
            hook.remove()
        for name, steps in self._steps.items():
            self._of_steps(name, steps)
        self.values["normalized_actions"] = actions[None].numpy()
        self.values["actions"] = checkpoint.normalizer.unnormalize_actions(actions.numpy())

    def _hooks(self):
        model = self._model
        for index, tower in enumerate(model.towers):
            yield tower.patch_embed, self._keep(f"patch_embed_tower{index}_view0", lambda x: x[:1].flatten(2).mT)
            if model.config.film:
                yield tower.blocks[0], self._keep(f"film_block0_out_tower{index}_view0", lambda x: x[:1])
                yield tower.blocks[-1], self._keep(f"film_output_block_tower{index}_view0", lambda x: x[:1])
                yield model.film.towers[index][0].scale, self._keep(f"film_gamma_tower{index}_block0", batched)
                yield model.film.towers[index][0].shift, self._keep(f"film_beta_tower{index}_block0", batched)
        yield model.projector, self._keep("projected_patches", batched)
        yield model.projector, self._keep_input("vision_features", batched)
        if model.config.proprio_dim:
            yield model.proprio_projector, self._keep("proprio_token", lambda x: x)
        yield model.decoder.layers[0], self._keep_step("hidden_after_layer0", lambda x: x[0])
        yield model.decoder.layers[0], self._keep_step("input_sequence", lambda x: x, of_input=True)
        yield model.decoder.norm, self._keep_step("action_hidden_states", lambda x: x)
        if model.config.film:
            yield model.film.towers[0][0].scale, self._keep_input("average_language_embedding", batched)
        if isinstance(model.action_head, DiffusionHead):
            yield model.action_head.noisy_action_projector, self._keep_step("noisy_action_tokens", lambda x: x)
        if isinstance(model.action_head, DiscreteHead):
            yield model.action_head.lm_head, self._keep("logits", lambda x: x)

    def _keep(self, name: str, view):
        def hook(module, inputs, output):
            self.values[name] = view(output).numpy()

        return hook

    def _keep_input(self, name: str, view):
        def hook(module, inputs, output):
            self.values[name] = view(inputs[0]).numpy()

        return hook

    def _keep_step(self, name: str, view, of_input: bool = False):
        def hook(module, inputs, output):
            self._steps.setdefault(name, []).append(view(inputs[0] if of_input else output).numpy())

        return hook

    def _of_steps(self, name: str, steps: list[Array]) -> None:
        """Which of a sampler's passes the record holds, under which names."""
        first, last = steps[0][None], steps[-1][None]
        if name in STEPWISE:
            self.values[name] = np.stack(steps)
        elif name == "noisy_action_tokens":
            self.values["noisy_action_tokens_step0"] = steps[0]
        elif name == "input_sequence":
            self.values[name] = first
        elif name == "hidden_after_layer0" and len(steps) > 1:
            self.values |= {name: first, f"{name}_last_step": last}
        elif name == "action_hidden_states" and len(steps) > 1:
            self.values |= {name: last, f"{name}_step0": first}
        else:
            self.values[name] = last

    @contextmanager
    def _led(self) -> Iterator[None]:
        """Let a sampler go on from the recorded sample of every step, and keep its own."""
        head = self._model.action_head
        if not isinstance(head, DiffusionHead):
            yield
            return
        original = head.denoise

        def denoise(sample: torch.Tensor, predicted: torch.Tensor, timestep: int) -> torch.Tensor:
            step = len(self._steps.setdefault("noise_pred", []))
            for name, value in (
                ("noise_pred", predicted),
                ("predicted_x0", head.clean(sample, predicted, head.alphas[timestep])),
                ("samples_after_step", original(sample, predicted, timestep)),
                ("timesteps", torch.tensor(timestep)),
                ("timestep_embeddings", timestep_token(timestep, head.hidden, sample.device)[0]),
            ):
                self._steps.setdefault(name, []).append(value.numpy())
            return torch.from_numpy(self._record["samples_after_step"][step])

        head.denoise = denoise
        try:
            yield
        finally:
            del head.denoise
        self.values["alphas_cumprod"] = np.array(head.alphas)


def batched(x: torch.Tensor) -> torch.Tensor:
    return x[None]
