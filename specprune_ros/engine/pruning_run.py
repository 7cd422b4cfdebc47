# SPDX-License-Identifier: Apache-2.0
"""The method inside one forward pass: what happens between the decoder's layers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from specprune_ros.openvla.decoder import Rope
from specprune_ros.openvla.model import SequenceLayout
from specprune_ros.pruning.config import PruningConfig
from specprune_ros.pruning.dynamic_pruning import layer_importance, update_importance
from specprune_ros.pruning.ranking import top_indices
from specprune_ros.pruning.schedule import Mode, ModelShape, Schedule, layers_behind_static
from specprune_ros.pruning.score_history import ScoreHistory
from specprune_ros.pruning.scores import CONFIDENCE, patch_scores, text_attention
from specprune_ros.pruning.static_selection import Evidence, choose_sets, select_budget, select_union


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The tensors of a `PruningState` at one time."""

    window: Tensor  # (N, V, P) scores
    confidence: Tensor  # (update layers,)


class PruningState:
    """What one inference leaves to the next: scores of earlier inferences, and each update layer's confidence."""

    def __init__(self, config: PruningConfig, shape: ModelShape, device: torch.device):
        self.history = ScoreHistory(
            shape.num_views, shape.patches_per_view, config.history_length, config.history_decay, device
        )
        self.confidence = torch.ones(len(layers_behind_static(config.update_layers, config, shape)), device=device)

    def reset(self) -> None:
        self.history.reset()
        self.confidence.fill_(1.0)

    def snapshot(self) -> Snapshot:
        return Snapshot(self.history.window.clone(), self.confidence.clone())

    def restore(self, snapshot: Snapshot) -> None:
        self.history.window.copy_(snapshot.window)
        self.confidence.copy_(snapshot.confidence)


class PruningRun:
    """Which tokens are alive on their way through the decoder, and what the scored layers said of them.

    `x`: (L, hidden) and `rope`: cosine and sine (L, head_dim) of the tokens alive. `alive`: ascending indices over all
    views' patches. Kept tokens keep the positions that they had. For repeating what was dropped: `static_rope`, the
    rope of what the static selection kept, and `dropped`, by layer, the positions kept after it and their rope.
    """

    def __init__(
        self,
        config: PruningConfig,
        schedule: Schedule,
        state: PruningState,
        layout: SequenceLayout,
        similarity: Tensor,
        x: Tensor,
        rope: Rope,
    ):
        self.x, self.rope, self.static_rope = x, rope, rope
        self.dropped: dict[int, tuple[Tensor, Rope]] = {}
        self.alive = self.kept_static = torch.arange(layout.num_patches, device=x.device)
        self.set_sizes = self.alive.new_zeros(3, schedule.shape.num_views)
        self._config, self._schedule, self._state, self._layout = config, schedule, state, layout
        self._similarity = similarity
        self._views = (schedule.shape.num_views, schedule.shape.patches_per_view)
        self._entering = schedule.alive_per_layer()
        self._local: list[Tensor] = []
        self._importance = torch.zeros(layout.num_patches, dtype=torch.float64, device=x.device)
        self._history = torch.zeros(layout.num_patches, device=x.device)

    def after_layer(self, number: int, q: Tensor, k: Tensor) -> None:
        """Score a layer (1-based) by its queries and keys (heads, L, head_dim), then drop what the schedule says."""
        schedule, count = self._schedule, len(self.alive)
        attention = text_attention(q, k, self._layout.instruction_rows(count))[:, :, 1 : 1 + count]
        scores = self._scores(attention)
        if number in schedule.global_layers:
            self._history = self._history.index_add(0, self.alive, scores / len(schedule.global_layers))
        if number in schedule.update_layers:
            self._update(schedule.update_layers.index(number), attention, scores)
        if schedule.mode == Mode.DENSE:
            return
        if number in schedule.local_layers:
            self._local.append(scores.view(self._views))
        if number == schedule.static_layer:
            self._keep(self._select_static())
            self.kept_static, self.static_rope = self.alive, self.rope
        elif number in schedule.prune_layers and self._entering[number] < count:
            kept = top_indices(self._importance, self._entering[number])
            self._keep(kept)
            self.dropped[number] = kept, self.rope

    def finish(self) -> None:
        """Hand the scores of this inference to the next ones."""
        self._state.history.add(self._history.view(self._views))

    def _scores(self, attention: Tensor) -> Tensor:
        return patch_scores(attention)

    def _update(self, slot: int, attention: Tensor, scores: Tensor) -> None:
        """Dense passes measure a layer's confidence, the others use it for the running importance."""
        if self._schedule.mode == Mode.DENSE:
            self._state.confidence[slot] = CONFIDENCE[self._config.confidence](attention)
        else:
            layer = layer_importance(scores, self._state.confidence[slot], self._config.rank_slope)
            self._importance = update_importance(self._importance, layer, self._config.importance_rate)

    def _evidence(self) -> Evidence:
        return Evidence(self._state.history.scores(), self._similarity, tuple(self._local))

    def _select_static(self) -> Tensor:
        evidence = self._evidence()
        sets = choose_sets(evidence, self._schedule.sets, self._config.similarity_threshold)
        self.set_sizes = sets.sizes
        if self._config.selection == "budget":
            return select_budget(sets, evidence, self._schedule.sets, self._schedule.budgets)
        kept = select_union(sets)
        self._entering = self._schedule.alive_per_layer(static=len(kept))
        return kept

    def _keep(self, kept: Tensor) -> None:
        """Drop the patches that are not in `kept`, ascending positions among those alive."""
        count = len(self.alive)
        self.x = keep_patches(self.x, kept, count)
        self.rope = keep_patches(self.rope[0], kept, count), keep_patches(self.rope[1], kept, count)
        self.alive, self._importance = self.alive[kept], self._importance[kept]


def keep_patches(rows: Tensor, kept: Tensor, count: int) -> Tensor:
    """The patches are rows 1..count; everything else stays."""
    return torch.cat([rows[:1], rows[1 : 1 + count].index_select(0, kept), rows[1 + count :]])
