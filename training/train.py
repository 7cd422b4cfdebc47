# SPDX-License-Identifier: Apache-2.0
"""Train a small OpenVLA-OFT by behaviour cloning, with the L1 loss on action chunks.

    scripts/env python -m training.train DATA OUT                                   # training/nano.yaml, on a CPU
    scripts/env python -m training.train DATA OUT --settings training/nano_gpu.yaml --device cuda
    scripts/env python -m training.train DATA OUT --set cloning_steps=2000 batch_size=16
    scripts/env python -m training.train DATA OUT --start COARSE    # with the weights of a run of larger patches
    scripts/env python -m training.train DATA OUT --start checkpoints/nano_libero    # or of a checkpoint
    scripts/env torchrun --nproc-per-node 8 -m training.train DATA OUT --settings training/nano_gpu.yaml    # eight GPUs

Run it again to go on after an interruption. OUT/checkpoint is a checkpoint in the release format, which
`Policy.from_checkpoint` loads; OUT/losses.csv and OUT/losses.png show how it went. Under torchrun the processes share
each batch and take the same steps as one process would, so a run may go on with another number of them.

First the vision towers learn to locate things (`localization`), then everything learns to act. Sequence, one-position
shift, normalisation and crops are those of OpenVLA-OFT. Two options prepare a policy for pruning: the instruction's
attention learns to look at what it names (`grounding`), and some steps drop patches.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
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
from specprune_ros.openvla.checkpoint import load
from specprune_ros.openvla.family import family_config
from specprune_ros.openvla.files import read_json
from specprune_ros.openvla.prompt import PromptTokenizer
from specprune_ros.openvla.statistics import Normalizer, normalizer
from specprune_ros.pruning.config import PATCHES
from training.batched_model import Drop
from training.data import Samples
from training.export import export
from training.initialization import grown
from training.learner import Learner
from training.loss_log import LossLog
from training.process_group import ALONE, ProcessGroup, is_first_process, joined_group
from training.settings import VOCABULARY, Settings, read_settings
from training.tokenizer import empty_token_id, extended, train_tokenizer

SETTINGS = Path(__file__).with_name("nano.yaml")
VALIDATION_SAMPLES = 512
EXPORT_DTYPE = torch.bfloat16
FINAL_LEARNING_RATE = 0.02  # of the highest
MAX_GRADIENT = 1.0
KEPT_SHARE = 0.15, 0.6  # of a view's patches, in the steps that drop some
MODEL = "0."  # first of the parts of `Learner.saved`
SHARPNESS = 0.0, 1.0, 100.0  # drawn evenly, by the instruction's attention, those with the most of it


class Trainer:
    """Model, optimizer and data of one training run, whose folder is `out`."""

    def __init__(
        self,
        data: Path,
        out: Path,
        settings: Settings,
        device: str,
        start: Path | None = None,
        group: ProcessGroup = ALONE,
    ) -> None:
        """Raises UserError. Of a group, the first process must have returned from here before the others begin."""
        self.out, self.settings = out, settings
        self.device = group.device(device)
        self._group = group
        if settings.schedule.batch_size < group.size:
            raise UserError(
                f"batch_size = {settings.schedule.batch_size} leaves some of {group.size} processes without a sample"
            )
        out.mkdir(parents=True, exist_ok=True)
        self._statistics = _kept(out / "dataset_statistics.json", lambda: _statistics(data, start))
        _check_unchanged(out / "settings.yaml", settings)
        norms = {key: _normalizer(self._statistics, key) for key in self._statistics}
        self.samples = Samples(data, settings.sizes.image_size, norms, self.device)
        self._tokenizer = _tokenizer(out / "tokenizer.json", self.samples.instructions, start)
        prompts = PromptTokenizer(out, empty_token_id(self._tokenizer))

        schedule = settings.schedule
        self.learner = Learner(settings.sizes.model(), len(self.samples.kinds), schedule.seed, prompts).to(self.device)
        self.model = self.learner.model
        self._optimizer = _optimizer(self.learner.saved, schedule.learning_rate, schedule.weight_decay)
        self.step = 0
        self._derived: nn.Module | None = None  # the learner, of this phase
        self.log = LossLog(out / "losses.csv")
        self._resume(start)
        self._training_rows, self._validation_rows = self.samples.split(schedule.held_out_share)

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
        self._agree()
        self._enter_phase()
        quiet = not self._group.is_first
        with tqdm(initial=self.step, total=last, unit="step", mininterval=1.0, disable=quiet) as progress:
            while self.step < last:
                self._train_step()
                self._enter_phase()
                progress.update()
                if self.step % schedule.validate_every == 0 or self.step == last:
                    progress.set_postfix(self.validate())
                if self._group.is_first and (self.step % schedule.save_every == 0 or self.step == last):
                    self.save()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean losses on samples of held-out episodes, centre-cropped as in inference; logged with the training's.

        `pruned_l1` is that of the patches that the instruction attends to most, as many as the preset `paper` keeps.
        """
        rows = self._validation_rows[:: max(1, len(self._validation_rows) // VALIDATION_SAMPLES)]
        size = self.settings.schedule.batch_size
        batches = np.split(rows, range(size, len(rows), size)) if len(rows) else []
        own = {i: self._validate_batch(batches[i], seed=i * size) for i in range(len(batches))[self._group.turns]}
        losses = list(self._group.gathered(own).values())
        means = {name: sum(batch[name] for batch in losses) / len(losses) for name in losses[0]} if losses else {}
        if self._group.is_first:
            self.log.validated(self.step, means)
        return {name: round(value, 4) for name, value in means.items()}

    def save(self) -> None:
        """The state to go on from, the checkpoint in the release format, and the curves."""
        state = {
            "step": self.step,
            "modules": self.learner.saved.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
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
        share = self._group.share(schedule.batch_size)
        batch = self.samples.batch(rows, random, share)
        losses, means = self._group.shares(self._derived(batch, self._drop(random, share)))
        if self.learner.cloning:
            loss = losses["l1"] + schedule.localization_weight * losses["localization"]
            loss = loss + schedule.goal_weight * losses["goal"] + schedule.grounding_weight * losses["grounding"]
        else:
            loss = losses["localization"]
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self._optimizer.zero_grad(set_to_none=True)
        (self._group.size * loss).backward()  # averaged, these are the gradients of the sum
        nn.utils.clip_grad_norm_(self.learner.parameters(), MAX_GRADIENT)
        self._optimizer.step()
        self.step += 1
        values = dict(zip(losses, means.tolist(), strict=True))
        if not all(map(math.isfinite, values.values())):
            raise UserError(f"the loss is not finite at step {self.step}; lower learning_rate and start anew")
        if self._group.is_first:
            self.log.trained(values, time.perf_counter() - begin)

    def _validate_batch(self, rows: np.ndarray, seed: int) -> dict[str, float]:
        batch = self.samples.batch(rows, None)
        losses = self.learner(batch)
        if self.learner.cloning:
            kept = round(self.model.config.patches_per_view * self.learner.pruning.budget_tokens / PATCHES)
            losses["pruned_l1"] = self.learner(batch, Drop(kept, SHARPNESS[-1], seed))["l1"]
        return {name: float(mean.value) for name, mean in losses.items()}

    def _agree(self) -> None:
        """On what the processes found, and on what each would choose for itself."""
        found = self.step, len(self._training_rows), len(self._validation_rows)
        self._group.check_alike("step, training and validation samples", found)
        precision = self.settings.schedule.precision
        pays = precision == "bfloat16" or (precision == "auto" and self._autocast_pays())
        self.learner.autocast = self._group.first_says(pays)

    def _enter_phase(self) -> None:
        """Which parameters learn from here on."""
        if self._derived is None or self.learner.cloning != self.cloning:
            self.learner.begin(self.cloning)
            self._derived = self._group.derived(self.learner)

    def _learning_rate(self) -> float:
        """Linear warm-up in both phases; then constant while localising, a cosine while cloning."""
        schedule = self.settings.schedule
        step = self.step - (schedule.localization_steps if self.cloning else 0)
        warm_up = min(1.0, (step + 1) / schedule.warm_up_steps)
        if not self.cloning:
            return schedule.learning_rate * warm_up
        fall = 0.5 * (1 + math.cos(math.pi * step / schedule.cloning_steps))
        return schedule.learning_rate * warm_up * (FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * fall)

    def _drop(self, random: np.random.Generator, share: slice = slice(None)) -> Drop | None:
        """For a share of a batch."""
        if not self.cloning or random.random() >= self.settings.schedule.dropping_share:
            return None
        kept = round(random.uniform(*KEPT_SHARE) * self.model.config.patches_per_view)
        sharpness, seed = random.choice(SHARPNESS), int(random.integers(2**31))
        first, stop, _ = share.indices(self.settings.schedule.batch_size)
        return Drop(kept, sharpness, seed, before=first, after=self.settings.schedule.batch_size - stop)

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
                saved = self.learner.saved
                saved.load_state_dict(grown(_weights(start, saved.state_dict()), saved.state_dict()))
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.learner.saved.load_state_dict(state["modules"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        if self._group.is_first:
            self.log.cut(self.step)


def _statistics(data: Path, start: Path | None) -> dict[str, Any]:
    """Those of the data; what the weights to start from were trained with stays as it was."""
    known = read_json(_existing(start / "dataset_statistics.json")) if start else {}
    return read_json(data / "dataset_statistics.json") | known


def _normalizer(statistics: dict[str, Any], key: str) -> Normalizer:
    return normalizer(statistics, key, family_config(key, {}, {}).proprio_normalization)


def _tokenizer(path: Path, instructions: list[str], start: Path | None) -> Tokenizer:
    """The run's own, which later data must not change."""
    if not path.exists():
        known = Tokenizer.from_file(str(_existing(start / "tokenizer.json"))) if start else None
        tokenizer = extended(known, instructions, VOCABULARY) if known else train_tokenizer(instructions, VOCABULARY)
        tokenizer.save(str(path))
    return Tokenizer.from_file(str(path))


def _kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A file of the run that later data must not change."""
    if not path.exists():
        path.write_text(json.dumps(make(), indent=1))
    return read_json(path)


def _weights(start: Path, fresh: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a run; or of a checkpoint, which has no heads of the auxiliary tasks: they stay `fresh`."""
    if (start / "state.pt").exists():
        return torch.load(start / "state.pt", map_location="cpu", weights_only=True)["modules"]
    key = next(iter(read_json(_existing(start / "dataset_statistics.json"))))  # any: weights have none
    model = load(_existing(start / "config.json").parent, unnorm_key=key).model.state_dict()
    return {name: tensor for name, tensor in fresh.items() if not name.startswith(MODEL)} | {
        f"{MODEL}{name}": tensor for name, tensor in model.items()
    }


def _existing(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path} is missing; give the folder of a run of training.train or a checkpoint as --start")
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
    parser.add_argument(
        "--start", type=Path, metavar="RUN", help="run or checkpoint whose weights a new run starts from"
    )
    parser.add_argument("--until", type=int, help="stop after this step; run again to go on")
    given = parser.parse_args(arguments)
    changes = {}
    for item in given.set:
        name, separator, value = item.partition("=")
        if not separator:
            raise UserError(f"--set {item} is not NAME=VALUE")
        changes[name] = yaml.safe_load(value)
    settings = read_settings(given.settings, changes)
    with joined_group() as group:
        trainer = group.in_turn(lambda: Trainer(given.data, given.out, settings, given.device, given.start, group))
        trainer.train(given.until)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"training.train: {error}" if is_first_process() else 1)
