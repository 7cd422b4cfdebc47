# SPDX-License-Identifier: Apache-2.0
"""Whole inferences, one after another."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from oracle import formulas
from oracle.controller import Controller
from oracle.decoder import Array, EagerModel
from oracle.heads import predict
from specprune_ros.camera import Camera
from specprune_ros.openvla.model import OpenVLA
from specprune_ros.openvla.prompt import PROMPT, PromptTokenizer
from specprune_ros.openvla.statistics import Normalizer
from specprune_ros.policy import Observation
from specprune_ros.pruning.config import PruningConfig


@dataclass
class Outcome:
    """What one inference did. Patches are counted over all views."""

    mode: str
    reason: str
    actions: Array  # (C, A), checkpoint units
    kept_static: set[int]
    kept_final: set[int]
    set_sizes: list[tuple[int, int, int]] = field(default_factory=list)  # per view: global, dynamic, local
    alive_per_layer: list[int] = field(default_factory=list)  # tokens
    kept_after: dict[int, set[int]] = field(default_factory=dict)  # patches, by prune layer
    scores: dict[int, dict[int, float]] = field(default_factory=dict)  # by layer, by patch
    hidden: Array = field(default_factory=lambda: np.empty(0))  # of the action rows


@dataclass
class Token:
    """One token of the sequence."""

    vector: Array
    patch: int | None = None
    is_instruction: bool = False
    position: int = 0


@dataclass
class Seen:
    """Frames (V, S, S, 3) uint8, as the towers see them, and each view's camera where it is known."""

    frames: NDArray[np.uint8]
    cameras: list[Camera | None]


class OraclePolicy:
    """`see`: frames (V, S, S, 3) uint8 as the towers see them, and the prompt's ids -> (V * P, hidden) patches."""

    def __init__(
        self,
        model: OpenVLA,
        tokenizer: PromptTokenizer,
        normalizer: Normalizer,
        config: PruningConfig,
        see: Callable[[NDArray[np.uint8], tuple[int, ...]], Array],
        tile: int = 1,
    ):
        self.model = EagerModel(model)
        self.tokenizer, self.normalizer, self.see = tokenizer, normalizer, see
        self.config, self.tile = config, tile if config.selection == "budget" else 1
        self.controller = Controller(config)
        self.patches_per_view = model.config.patches_per_view
        self.views = range(model.config.num_views)
        self.instruction: str | None = None
        self.reset()

    def reset(self) -> None:
        self.controller.reset()
        self.frames: list[tuple[float, Seen]] = []
        self.last_seen: Seen | None = None
        self.past_scores: list[list[float]] = []
        self.confidence: dict[int, float] = {}
        self.last_stamp = -np.inf

    def remember(self, stamp: float, seen: Seen) -> None:
        """At most one frame per control step; stamps jitter, so nine tenths of a step are enough."""
        if self.frames and stamp == self.frames[-1][0]:
            self.frames[-1] = (stamp, seen)
        elif not self.frames or abs(stamp - self.frames[-1][0]) >= 0.9 / self.config.control_rate:
            self.frames.append((stamp, seen))

    def observe(self, frames: NDArray[np.uint8], stamp: float, cameras: list[Camera | None]) -> None:
        self.remember(stamp, Seen(frames, cameras))

    def act(self, observation: Observation, noise: Array | None = None) -> Outcome:
        is_new = self.instruction is not None and observation.instruction != self.instruction
        if is_new or observation.stamp < self.last_stamp:
            self.reset()
        self.instruction, self.last_stamp = observation.instruction, observation.stamp

        frames = np.stack(list(observation.views.values()))
        seen = Seen(frames, [observation.cameras.get(name) for name in observation.views])
        similarity = self._similarity(seen, observation)
        self._move_history(seen)
        dynamic = [[value < self.config.similarity_threshold for value in view] for view in similarity]
        share = max(sum(view) / len(view) for view in dynamic)
        mode, reason = self.controller.decide(observation.twist, share)

        proprio = self.normalizer.normalize_proprio(observation.proprio)
        outcome = self._predict(mode, frames, proprio, observation.instruction, similarity, noise)
        outcome.reason = reason
        outcome.actions = self.normalizer.unnormalize_actions(outcome.actions)
        self.remember(observation.stamp, seen)
        self.last_seen = seen
        return outcome

    def _displacement(self, now: Seen, before: Seen, view: int) -> list[tuple[float, float]]:
        still = [(0.0, 0.0)] * self.patches_per_view
        if self.config.history_motion == "flow":
            return formulas.in_steps(formulas.flow_displacement(now.frames[view], before.frames[view]))
        if self.config.history_motion == "none" or not (now.cameras[view] and before.cameras[view]):
            return still
        grid, height = math.isqrt(self.patches_per_view), self.config.motion_plane_height
        plane = formulas.in_steps(formulas.plane_displacement(now.cameras[view], before.cameras[view], height, grid))
        return formulas.likelier(now.frames[view], before.frames[view], plane)

    def _move_history(self, seen: Seen) -> None:
        if self.last_seen is None or self.config.history_motion == "none":
            return
        displacements = [self._displacement(seen, self.last_seen, view) for view in self.views]
        for number, scores in enumerate(self.past_scores):
            parts = [scores[v * self.patches_per_view : (v + 1) * self.patches_per_view] for v in self.views]
            moved = [formulas.moved_scores(*pair) for pair in zip(parts, displacements, strict=True)]
            self.past_scores[number] = [score for view in moved for score in view]

    def _similarity(self, seen: Seen, observation: Observation) -> list[list[float]]:
        if not self.frames:
            return [[1.0] * self.patches_per_view for _ in self.views]
        speed = 0.0 if observation.twist is None else float(np.linalg.norm(observation.twist[:3]))
        wanted = observation.stamp - formulas.reference_delay(self.config, speed)
        _, reference = min(self.frames, key=lambda entry: (abs(entry[0] - wanted), -entry[0]))
        return [
            formulas.cosine_similarity(
                seen.frames[view], reference.frames[view], self._displacement(seen, reference, view)
            )
            for view in self.views
        ]

    def _predict(
        self,
        mode: str,
        frames: NDArray[np.uint8],
        proprio: Array,
        instruction: str,
        similarity: list[list[float]],
        noise: Array | None,
    ) -> Outcome:
        """All passes of the decoder that the head asks for; the first one selects, or with `reselect` every one."""
        patches = self.see(frames, self.tokenizer(instruction).token_ids)
        selecting: list[Outcome] = []

        def decode(own: list[Array], actions: list[Array]) -> Array:
            tokens = self._sequence(patches, proprio, instruction, own, actions)
            if selecting and not self.config.reselect:
                return self._repeat(tokens, selecting[0])
            selecting.append(self._infer(mode, tokens, similarity))
            return selecting[-1].hidden

        actions = predict(self.model, decode, noise)
        outcome = selecting[-1]
        self._remember(outcome.scores)
        outcome.actions = actions
        outcome.alive_per_layer = selecting[0].alive_per_layer
        return outcome

    def _sequence(
        self, patches: Array, proprio: Array, instruction: str, own: list[Array], actions: list[Array]
    ) -> list[Token]:
        """[BOS] [patches] [proprio] [the head's own] [prompt after BOS] [C x A action tokens] [</s>]"""
        token_ids = self.tokenizer(instruction).token_ids
        words = self._instruction_tokens(instruction)
        tokens = [Token(self.model.embed(token_ids[0]))]
        tokens += [Token(vector, patch=patch) for patch, vector in enumerate(patches)]
        tokens += [Token(self.model.project_proprio(proprio))] if len(proprio) else []
        tokens += [Token(vector) for vector in own]
        tokens += [Token(self.model.embed(token_ids[j]), is_instruction=j in words) for j in range(1, len(token_ids))]
        tokens += [Token(vector) for vector in actions]
        tokens += [Token(self.model.embed(self.tokenizer.eos_id))]
        for position, token in enumerate(tokens):
            token.position = position
        return tokens

    def _instruction_tokens(self, instruction: str) -> set[int]:
        """Tokens of the prompt, BOS being 0, that overlap the instruction's characters."""
        words = instruction.strip().lower()
        start = PROMPT.index("{")
        stop = start + len(words)
        encoding = self.tokenizer._tokenizer.encode(PROMPT.format(instruction=words), add_special_tokens=False)
        return {
            number
            for number, (a, b) in enumerate(encoding.offsets, start=1)
            if any(start <= c < stop for c in range(a, b))
        }

    def _infer(self, mode: str, tokens: list[Token], similarity: list[list[float]]) -> Outcome:
        config, num_layers = self.config, self.model.config.decoder.num_layers
        update_layers = formulas.inner_layers(config, config.update_layers, num_layers)
        prune_layers = formulas.inner_layers(config, config.prune_layers, num_layers)
        num_patches = self.patches_per_view * len(self.views)
        others = len(tokens) - num_patches
        everything = set(range(num_patches))
        outcome = Outcome(mode, "", np.empty(0), everything, everything)
        scores = outcome.scores
        importance = dict.fromkeys(range(num_patches), 0.0)
        unsnapped = num_patches

        for layer in range(1, num_layers + 1):
            outcome.alive_per_layer.append(len(tokens))
            attention = self._run_layer(layer, tokens)
            rows = [row for row, token in enumerate(tokens) if token.is_instruction]
            columns = [column for column, token in enumerate(tokens) if token.patch is not None]
            alive = [token.patch for token in tokens if token.patch is not None]
            scores[layer] = dict(zip(alive, formulas.patch_scores(attention, rows, columns), strict=True))

            if mode == "dense":
                if layer in update_layers:
                    self.confidence[layer] = formulas.confidence(config, attention, rows, columns)
                continue
            if layer == config.static_layer:
                outcome.kept_static = self._static_selection(mode, scores, similarity, others, outcome)
                outcome.kept_final = outcome.kept_static
                unsnapped = self._unsnapped(mode, len(outcome.kept_static))
                tokens = without_dropped(tokens, outcome.kept_static)
            if layer in update_layers:
                beta, weight = config.importance_rate, formulas.rank_weights(config, scores[layer])
                for patch in alive:
                    importance[patch] = (1 - beta) * importance[patch] + beta * weight[patch] * self.confidence[layer]
            if layer in prune_layers:
                unsnapped = formulas.rnd(config.keep_ratio * unsnapped)
                count = formulas.snapped(unsnapped, others, self.tile, len(alive))
                outcome.kept_final = set(sorted(alive, key=lambda patch: (-importance[patch], patch))[:count])
                outcome.kept_after[layer] = outcome.kept_final
                tokens = without_dropped(tokens, outcome.kept_final)

        outcome.hidden = self._action_hidden(tokens)
        return outcome

    def _repeat(self, tokens: list[Token], selected: Outcome) -> Array:
        """A pass with the patches of an earlier one: the static set from the start, then what each layer kept."""
        tokens = without_dropped(tokens, selected.kept_static)
        for layer in range(1, self.model.config.decoder.num_layers + 1):
            self._run_layer(layer, tokens)
            if layer in selected.kept_after:
                tokens = without_dropped(tokens, selected.kept_after[layer])
        return self._action_hidden(tokens)

    def _run_layer(self, layer: int, tokens: list[Token]) -> Array:
        """Every token takes part; returns the attention (heads, L, L)."""
        vectors = np.stack([token.vector for token in tokens])
        outputs, attention = self.model.layer(layer, vectors, [token.position for token in tokens])
        for token, output in zip(tokens, outputs, strict=True):
            token.vector = output
        return attention

    def _action_hidden(self, tokens: list[Token]) -> Array:
        """The prompt's last token and all action tokens but the last: </s> and one action token stay behind them."""
        stop = len(tokens) - 2
        rows = tokens[stop - self.model.config.num_actions : stop]
        return self.model.final_norm(np.stack([token.vector for token in rows]))

    def _static_selection(
        self,
        mode: str,
        scores: dict[int, dict[int, float]],
        similarity: list[list[float]],
        others: int,
        outcome: Outcome,
    ) -> set[int]:
        config, per_view = self.config, self.patches_per_view
        history = formulas.rolling_history(config, self.past_scores)
        budgets = self._budgets(mode, others)
        kept: set[int] = set()
        for view in self.views:
            first = view * per_view
            view_history = history[first : first + per_view]
            local = [[scores[layer][first + i] for i in range(per_view)] for layer in config.local_layers]
            sets = [
                formulas.global_set(config, mode, view_history),
                formulas.dynamic_set(config, mode, similarity[view]),
                formulas.local_set(config, mode, local),
            ]
            outcome.set_sizes.append((len(sets[0]), len(sets[1]), len(sets[2])))
            if config.selection == "union":
                chosen = set.union(*sets)
            else:
                order = formulas.budget_order(config, mode, sets, view_history, local)
                chosen = set(order[: budgets[view]])
            kept |= {first + patch for patch in chosen}
        return kept

    def _budgets(self, mode: str, others: int) -> list[int]:
        """Patches to keep per view in the budget selection. `others`: tokens that are no patches."""
        num_views, most = len(self.views), self.patches_per_view * len(self.views)
        total = formulas.snapped(self._unsnapped(mode, most), others, self.tile, most)
        return [total // num_views + (1 if view < total % num_views else 0) for view in self.views]

    def _unsnapped(self, mode: str, union: int) -> int:
        """Patches that the static selection keeps, in all views, if no tile is asked for."""
        if self.config.selection == "union":
            return union
        return len(self.views) * formulas.budget_per_view(self.config, mode, self.patches_per_view)

    def _remember(self, scores: dict[int, dict[int, float]]) -> None:
        """A layer that a patch did not reach adds 0."""
        layers = formulas.global_layers(self.config, self.model.config.decoder.num_layers)
        num_patches = self.patches_per_view * len(self.views)
        mean = [sum(scores[layer].get(patch, 0.0) for layer in layers) / len(layers) for patch in range(num_patches)]
        self.past_scores.insert(0, mean)


def without_dropped(tokens: list[Token], kept: set[int]) -> list[Token]:
    return [token for token in tokens if token.patch is None or token.patch in kept]
