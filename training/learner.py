# SPDX-License-Identifier: Apache-2.0
"""What learns: the model, and the heads of the auxiliary tasks, which are dropped later."""

import torch
from torch import nn

from specprune_ros.openvla.config import ModelConfig
from specprune_ros.openvla.prompt import Prompt, PromptTokenizer
from specprune_ros.pruning.config import PruningConfig
from specprune_ros.pruning.schedule import ModelShape, make_schedule
from training.batched_model import Drop, Prompts, decode, see
from training.data import Batch
from training.goal import METRES, GoalHead, goal_error
from training.grounding import grounding_loss, relevance_maps
from training.initialization import random_model
from training.localization import LocalizationHead, localization_error, localization_loss, target_maps
from training.process_group import Mean


class Learner(nn.Module):
    """First the vision towers learn to locate things, then everything learns to act (`cloning`)."""

    def __init__(self, config: ModelConfig, num_kinds: int, seed: int, tokenizer: PromptTokenizer) -> None:
        super().__init__()
        self.model = random_model(config, seed)
        self.localization = LocalizationHead(sum(tower.width for tower in config.towers), num_kinds)
        self.goal = GoalHead(config.action_dim * config.decoder.hidden_size)
        self.pruning = PruningConfig()
        self.cloning = False
        self.autocast = False  # to bfloat16
        self._tokenizer = tokenizer
        self._known_prompts: dict[str, Prompt] = {}

    @property
    def saved(self) -> nn.ModuleList:
        """The parts, under the names that a run's state has."""
        return nn.ModuleList([self.model, self.localization, self.goal])

    def begin(self, cloning: bool) -> None:
        """A phase; only parameters that learn in it require a gradient."""
        self.cloning = cloning
        self.requires_grad_(cloning)
        for part in (*self.model.towers, self.localization):
            part.requires_grad_(True)

    def forward(self, batch: Batch, drop: Drop | None = None) -> dict[str, Mean]:
        """The localisation loss; while cloning also L1 of the normalised actions, goal error and grounding."""
        with torch.autocast(batch.frames.device.type, torch.bfloat16, enabled=self.autocast):
            features = see(self.model, batch.frames)
            log_maps = self.localization(features)
            targets = target_maps(batch.points, batch.kinds, log_maps.shape[2], self._side)
            losses = {"localization": localization_loss(log_maps, targets)}
            if self.cloning:
                prompts = self.prompts(batch.instructions)
                static_layer = self.pruning.static_layer
                steps, scores = decode(
                    self.model, features, batch.proprio, prompts, self._scored_layers, drop, static_layer
                )
                losses["l1"] = Mean.of((self.model.action_head(steps).float() - batch.actions).abs())
                losses["goal"] = goal_error(self.goal(steps), batch.goal)
                maps = relevance_maps(batch.points, batch.is_named, self._side)
                losses["grounding"] = grounding_loss(scores, maps)
        with torch.no_grad():
            losses["pixels"] = _scaled(localization_error(log_maps, targets), self.model.config.image_size)
            if self.cloning:
                losses["centimetres"] = _scaled(losses["goal"], METRES * 100)
        return losses

    def prompts(self, instructions: list[str]) -> Prompts:
        """One per sample."""
        for instruction in set(instructions) - set(self._known_prompts):
            self._known_prompts[instruction] = self._tokenizer(instruction)
        prompts = [self._known_prompts[instruction] for instruction in instructions]
        return Prompts.of(prompts, self.model, self._tokenizer.eos_id)

    @property
    def _side(self) -> int:
        return int(self.model.config.patches_per_view**0.5)

    @property
    def _scored_layers(self) -> frozenset[int]:
        """The layers whose scores the method reads."""
        config = self.model.config
        shape = ModelShape(config.decoder.num_layers, config.num_views, config.patches_per_view)
        return make_schedule(self.pruning, shape, 0, "coarse").scored_layers


def _scaled(mean: Mean, factor: float) -> Mean:
    return Mean(mean.total.detach() * factor, mean.count)
