# SPDX-License-Identifier: Apache-2.0
"""Train a small OpenVLA-OFT by behaviour cloning, with the L1 loss on action chunks.

    scripts/env python -m training.train DATA OUT                                   # training/nano.yaml, on a CPU
    scripts/env python -m training.train DATA OUT --settings training/nano_gpu.yaml --device cuda
    scripts/env python -m training.train DATA OUT --set cloning_steps=2000 batch_size=16
    scripts/env python -m training.train DATA OUT --start COARSE    # with the weights of a run of larger patches

Run it again to go on after an interruption. OUT/checkpoint is a checkpoint in the release format, which
`Policy.from_checkpoint` loads; OUT/losses.csv and OUT/losses.png show how it went.

First the vision towers learn to locate things (`localization`), then everything learns to act. Sequence, one-position
shift, normalisation and crops are those of OpenVLA-OFT. Two options prepare a policy for pruning: the instruction's
attention learns to look at what it names (`grounding`), and some steps drop patches.
"""

import argparse
import json
import math
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tokenizers import Tokenizer
from torch import Tensor, nn
from tqdm import tqdm

from specprune_ros.errors import UserError
from specprune_ros.openvla.family import family_config
from specprune_ros.openvla.files import read_json
from specprune_ros.openvla.prompt import Prompt, PromptTokenizer
from specprune_ros.openvla.statistics import choose_key, normalizer, read_statistics
from specprune_ros.pruning.config import PATCHES, PruningConfig
from specprune_ros.pruning.schedule import ModelShape, make_schedule
from training.batched_model import Drop, Prompts, decode, see
from training.data import Batch, Samples
from training.export import export
from training.goal import METRES, GoalHead, goal_error
from training.grounding import grounding_loss, relevance_maps
from training.initialization import grown, random_model
from training.localization import LocalizationHead, localization_error, localization_loss, target_maps
from training.loss_log import LossLog
from training.settings import VOCABULARY, Settings, read_settings
from training.tokenizer import empty_token_id, train_tokenizer

SETTINGS = Path(__file__).with_name("nano.yaml")
VALIDATION_SAMPLES = 512
EXPORT_DTYPE = torch.bfloat16
FINAL_LEARNING_RATE = 0.02  # of the highest
MAX_GRADIENT = 1.0
KEPT_SHARE = 0.15, 0.6  # of a view's patches, in the steps that drop some
SHARPNESS = 0.0, 1.0, 100.0  # drawn evenly, by the instruction's attention, those with the most of it


class Trainer:
    """Model, optimizer and data of one training run, whose folder is `out`."""

    def __init__(self, data: Path, out: Path, settings: Settings, device: str, start: Path | None = None) -> None:
        self.out, self.settings = out, settings
        self.device = torch.device(device)
        out.mkdir(parents=True, exist_ok=True)
        if start and not (out / "state.pt").exists():
            for name in ("dataset_statistics.json", "tokenizer.json"):
                shutil.copy(_existing(start / name), out / name)
        self._statistics = self._kept("dataset_statistics.json", lambda: read_json(data / "dataset_statistics.json"))
        _check_unchanged(out / "settings.yaml", settings)
        key = choose_key(read_statistics(out, {}), None)
        norm = normalizer(self._statistics, key, family_config(key, {}, {}).proprio_normalization)

        self.samples = Samples(data, settings.sizes.image_size, norm, self.device)
        tokenizer = out / "tokenizer.json"
        if not tokenizer.exists():
            train_tokenizer(self.samples.instructions, VOCABULARY).save(str(tokenizer))
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._prompt_tokenizer = PromptTokenizer(out, empty_token_id(self._tokenizer))
        self._prompts: dict[str, Prompt] = {}

        schedule = settings.schedule
        config = settings.sizes.model()
        self.model = random_model(config, schedule.seed).to(self.device)
        vision_width = sum(tower.width for tower in config.towers)
        self.localization = LocalizationHead(vision_width, len(self.samples.kinds)).to(self.device)
        self.goal = GoalHead(config.action_dim * config.decoder.hidden_size).to(self.device)
        self._modules = nn.ModuleList([self.model, self.localization, self.goal])
        self._optimizer = _optimizer(self._modules, schedule.learning_rate, schedule.weight_decay)
        self.step = 0
        self.log = LossLog(out / "losses.csv")
        self._pruning = PruningConfig()
        self._resume(start)
        self._training_rows, self._validation_rows = self.samples.split(schedule.held_out_share)
        self._autocast = schedule.precision == "bfloat16" or (schedule.precision == "auto" and self._autocast_pays())

    @property
    def total_steps(self) -> int:
        return self.settings.schedule.localization_steps + self.settings.schedule.cloning_steps

    @property
    def cloning(self) -> bool:
        """Whether the towers have learnt to locate things, so that everything learns to act."""
        return self.step >= self.settings.schedule.localization_steps

    def train(self, until: int | None = None) -> None:
        """Go on to step `until`, or to the end."""
        schedule = self.settings.schedule
        last = min(until or self.total_steps, self.total_steps)
        with tqdm(initial=self.step, total=last, unit="step", mininterval=1.0) as progress:
            while self.step < last:
                self._train_step()
                progress.update()
                if self.step % schedule.validate_every == 0 or self.step == last:
                    progress.set_postfix(self.validate())
                if self.step % schedule.save_every == 0 or self.step == last:
                    self.save()

    def losses(self, batch: Batch, drop: Drop | None = None) -> dict[str, Tensor]:
        """The localisation loss; while cloning also L1 of the normalised actions, goal error and grounding."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            features = see(self.model, batch.frames)
            log_maps = self.localization(features)
            targets = self._targets(batch)
            losses = {"localization": localization_loss(log_maps, targets)}
            if self.cloning:
                prompts = self._batched(batch.instructions)
                static_layer = self._pruning.static_layer
                steps, scores = decode(
                    self.model, features, batch.proprio, prompts, self._scored_layers, drop, static_layer
                )
                losses["l1"] = (self.model.action_head(steps).float() - batch.actions).abs().mean()
                losses["goal"] = goal_error(self.goal(steps), batch.goal)
                maps = relevance_maps(batch.points, batch.is_named, self._side)
                losses["grounding"] = grounding_loss(scores, maps)
        with torch.no_grad():
            losses["pixels"] = localization_error(log_maps, targets) * self.settings.sizes.image_size
            if self.cloning:
                losses["centimetres"] = losses["goal"] * METRES * 100
        return losses

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean losses on samples of held-out episodes, centre-cropped as in inference; logged with the training's.

        `pruned_l1` is that of the patches that the instruction attends to most, as many as the preset `paper` keeps.
        """
        self._modules.eval()
        rows = self._validation_rows[:: max(1, len(self._validation_rows) // VALIDATION_SAMPLES)]
        size = self.settings.schedule.batch_size
        kept = round(self.model.config.patches_per_view * self._pruning.budget_tokens / PATCHES)
        batches = []
        for i in range(0, len(rows), size):
            batch = self.samples.batch(rows[i : i + size], None)
            losses = self.losses(batch)
            if self.cloning:
                losses["pruned_l1"] = self.losses(batch, Drop(kept, SHARPNESS[-1], seed=i))["l1"]
            batches.append(losses)
        means = (
            {name: sum(float(losses[name]) for losses in batches) / len(batches) for name in batches[0]}
            if batches
            else {}
        )
        self.log.validated(self.step, means)
        self._modules.train()
        return {name: round(value, 4) for name, value in means.items()}

    def save(self) -> None:
        """The state to go on from, the checkpoint in the release format, and the curves."""
        state = {"step": self.step, "modules": self._modules.state_dict(), "optimizer": self._optimizer.state_dict()}
        partial = self.out / "state.part"
        torch.save(state, partial)
        partial.rename(self.out / "state.pt")
        export(self.model, self._tokenizer, self._statistics, self.out / "checkpoint", self.step, EXPORT_DTYPE)
        self.log.plot(self.out / "losses.png")

    def _train_step(self) -> None:
        schedule = self.settings.schedule
        begin = time.perf_counter()
        random = np.random.default_rng([schedule.seed, self.step])  # so that resuming repeats nothing
        rows = random.choice(self._training_rows, schedule.batch_size)
        losses = self.losses(self.samples.batch(rows, random), self._drop(random))
        if self.cloning:
            loss = losses["l1"] + schedule.localization_weight * losses["localization"]
            loss = loss + schedule.goal_weight * losses["goal"] + schedule.grounding_weight * losses["grounding"]
        else:
            loss = losses["localization"]
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._modules.parameters(), MAX_GRADIENT)
        self._optimizer.step()
        self.step += 1
        values = {name: float(value.detach()) for name, value in losses.items()}
        if not all(map(math.isfinite, values.values())):
            raise UserError(f"the loss is not finite at step {self.step}; lower learning_rate and start anew")
        self.log.trained(values, time.perf_counter() - begin)

    def _learning_rate(self) -> float:
        """Linear warm-up in both phases; then constant while localising, a cosine while cloning."""
        schedule = self.settings.schedule
        step = self.step - (schedule.localization_steps if self.cloning else 0)
        warm_up = min(1.0, (step + 1) / schedule.warm_up_steps)
        if not self.cloning:
            return schedule.learning_rate * warm_up
        fall = 0.5 * (1 + math.cos(math.pi * step / schedule.cloning_steps))
        return schedule.learning_rate * warm_up * (FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * fall)

    def _drop(self, random: np.random.Generator) -> Drop | None:
        if not self.cloning or random.random() >= self.settings.schedule.dropping_share:
            return None
        kept = round(random.uniform(*KEPT_SHARE) * self.model.config.patches_per_view)
        return Drop(kept, random.choice(SHARPNESS), seed=int(random.integers(2**31)))

    @property
    def _side(self) -> int:
        return int(self.model.config.patches_per_view**0.5)

    @property
    def _scored_layers(self) -> frozenset[int]:
        """The layers whose scores the method reads."""
        config = self.model.config
        shape = ModelShape(config.decoder.num_layers, config.num_views, config.patches_per_view)
        return make_schedule(self._pruning, shape, 0, "coarse").scored_layers

    def _targets(self, batch: Batch) -> Tensor:
        return target_maps(batch.points, batch.kinds, len(self.samples.kinds), self._side)

    def _batched(self, instructions: list[str]) -> Prompts:
        for instruction in set(instructions) - set(self._prompts):
            self._prompts[instruction] = self._prompt_tokenizer(instruction)
        prompts = [self._prompts[instruction] for instruction in instructions]
        return Prompts.of(prompts, self.model, self._prompt_tokenizer.eos_id)

    def _autocast_pays(self) -> bool:
        """Whether a bfloat16 matrix product of the decoder's shape is faster here than a float32 one."""
        sizes = self.settings.sizes
        seconds = {}
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.ones(self.settings.schedule.batch_size * 256, sizes.hidden_size, dtype=dtype, device=self.device)
            weight = torch.ones(sizes.inner_size, sizes.hidden_size, dtype=dtype, device=self.device)
            times = []
            for _ in range(5):
                begin = time.perf_counter()
                float(nn.functional.linear(x, weight).sum())
                times.append(time.perf_counter() - begin)
            seconds[dtype] = min(times)
        return seconds[torch.bfloat16] < seconds[torch.float32]

    def _resume(self, start: Path | None) -> None:
        path = self.out / "state.pt"
        if not path.exists():
            if start:
                weights = torch.load(_existing(start / "state.pt"), map_location=self.device, weights_only=True)
                self._modules.load_state_dict(grown(weights["modules"], self._modules.state_dict()))
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self._modules.load_state_dict(state["modules"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.log.cut(self.step)

    def _kept(self, name: str, make: Any) -> dict[str, Any]:
        """A file of the run that later data must not change."""
        path = self.out / name
        if not path.exists():
            path.write_text(json.dumps(make(), indent=1))
        return read_json(path)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path} is missing; give the folder of a run of training.train as --start")
    return path


def _optimizer(modules: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Only matrices decay."""
    matrices = [parameter for parameter in modules.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in modules.parameters() if parameter.ndim != 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95))


def _check_unchanged(path: Path, settings: Settings) -> None:
    """A run goes on with the settings that it was started with."""
    text = yaml.safe_dump(asdict(settings), sort_keys=False)
    if not path.exists():
        path.write_text(text)
    elif path.read_text() != text:
        raise UserError(f"{path.parent} was trained with other settings ({path}); use them, or another folder")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.train", description="Train a small OpenVLA-OFT.")
    parser.add_argument("data", type=Path, help="folder that training.collect filled")
    parser.add_argument("out", type=Path, help="folder of this run")
    parser.add_argument("--settings", type=Path, default=SETTINGS, help="default: training/nano.yaml")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="change single settings")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--start", type=Path, metavar="RUN", help="folder of a run whose weights a new run starts from")
    parser.add_argument("--until", type=int, help="stop after this step; run again to go on")
    given = parser.parse_args(arguments)
    changes = {}
    for item in given.set:
        name, separator, value = item.partition("=")
        if not separator:
            raise UserError(f"--set {item} is not NAME=VALUE")
        changes[name] = yaml.safe_load(value)
    settings = read_settings(given.settings, changes)
    Trainer(given.data, given.out, settings, given.device, given.start).train(given.until)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"training.train: {error}")
