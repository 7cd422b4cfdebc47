# SPDX-License-Identifier: Apache-2.0
"""How many tokens every decoder layer works on: the configuration, scaled to the model at hand."""

import math
from dataclasses import dataclass
from enum import StrEnum

from specprune_ros.errors import ConfigError
from specprune_ros.pruning.config import PATCHES, PruningConfig


class Mode(StrEnum):
    """How an inference treats the visual tokens."""

    OFF = "off"  # pruning is switched off: dense, and nothing is scored
    DENSE = "dense"  # every token, and the scores fill the history
    COARSE = "coarse"  # few tokens: the end effector is fast
    FINE = "fine"  # more tokens: it is slow


MODES = (Mode.DENSE, Mode.COARSE, Mode.FINE)


@dataclass(frozen=True)
class ModelShape:
    """What the schedule needs to know of a model."""

    num_layers: int
    num_views: int
    patches_per_view: int

    @property
    def num_patches(self) -> int:
        return self.num_views * self.patches_per_view


@dataclass(frozen=True)
class SetSizes:
    """Patches per view in each of the three sets."""

    global_tokens: int
    dynamic_tokens: int
    local_tokens: int


@dataclass(frozen=True)
class Schedule:
    """One mode's plan, in 1-based layer numbers of the model.

    `fixed_tokens`: all that is never pruned: BOS, proprio, prompt, actions, </s>. `target`: patches that the static
    selection aims at in all views together. `budgets`: that number per view, snapped to the tile; what the budget
    selection keeps.
    """

    mode: str
    shape: ModelShape
    fixed_tokens: int
    sets: SetSizes
    target: int
    budgets: tuple[int, ...]
    local_layers: tuple[int, ...]
    global_layers: tuple[int, ...]
    update_layers: tuple[int, ...]
    prune_layers: tuple[int, ...]
    static_layer: int
    keep_ratio: float
    tile: int

    @property
    def scored_layers(self) -> frozenset[int]:
        """Layers whose text-to-vision scores are needed; a dense run needs only those that later runs use."""
        later = self.global_layers + self.update_layers
        if self.mode == Mode.DENSE:
            return frozenset(later)
        return frozenset(later + self.local_layers + (self.static_layer,) + self.prune_layers)

    def alive_per_layer(self, static: int | None = None) -> tuple[int, ...]:
        """Patches that enter each layer. `static`: what the union selection kept; by default the budget.

        Snapping starts from the unsnapped target each time, so that it does not undo the pruning of several layers.
        """
        target = self.target if static is None else static
        alive, entering = self.shape.num_patches, []
        for layer in range(1, self.shape.num_layers + 1):
            entering.append(alive)
            if self.mode == Mode.DENSE:
                continue
            if layer == self.static_layer:
                alive = sum(self.budgets) if static is None else static
            elif layer in self.prune_layers:
                target = round_half_up(self.keep_ratio * target)
                alive = snap(target, self.fixed_tokens, self.tile, alive)
        return tuple(entering)

    def tokens_per_layer(self, static: int | None = None) -> tuple[int, ...]:
        """Sequence length in every layer; arguments as in `alive_per_layer`."""
        return tuple(alive + self.fixed_tokens for alive in self.alive_per_layer(static))


def make_schedule(config: PruningConfig, shape: ModelShape, fixed_tokens: int, mode: str, tile: int = 1) -> Schedule:
    """The plan of one mode. `tile`: sequence lengths of the budget selection are snapped to multiples of it."""
    if config.static_layer >= shape.num_layers:
        raise ConfigError(
            f"pruning.static_layer = {config.static_layer}: the model has {shape.num_layers} layers; "
            f"allowed: 1 to {shape.num_layers - 1}"
        )
    factor = config.fine_factor if mode == Mode.FINE else 1.0
    grid = shape.patches_per_view / PATCHES

    def tokens(count: int, scale: float) -> int:
        return min(round_half_up(count * scale * factor * grid), shape.patches_per_view)

    sets = SetSizes(
        tokens(config.global_tokens, config.alpha),
        tokens(config.dynamic_tokens, config.alpha),
        tokens(config.local_tokens, config.alpha),
    )
    tile = tile if config.selection == "budget" else 1
    target = shape.num_views * max(1, tokens(config.budget_tokens, 1.0))
    least, extra = divmod(snap(target, fixed_tokens, tile, shape.num_patches), shape.num_views)
    return Schedule(
        mode=mode,
        shape=shape,
        fixed_tokens=fixed_tokens,
        sets=sets,
        target=target,
        budgets=tuple(least + (view < extra) for view in range(shape.num_views)),
        local_layers=config.local_layers,
        global_layers=tuple(sorted({scale_layer(layer, config, shape) for layer in config.global_layers})),
        update_layers=layers_behind_static(config.update_layers, config, shape),
        prune_layers=layers_behind_static(config.prune_layers, config, shape),
        static_layer=config.static_layer,
        keep_ratio=config.keep_ratio,
        tile=tile,
    )


def scale_layer(layer: int, config: PruningConfig, shape: ModelShape) -> int:
    """The layer at the same fraction of the model's depth."""
    return max(1, round_half_up(layer * shape.num_layers / config.depth))


def layers_behind_static(numbers: tuple[int, ...], config: PruningConfig, shape: ModelShape) -> tuple[int, ...]:
    """Layers for dynamic pruning: scaled, pushed behind the static selection where a shallow model asks for it."""
    scaled = {max(scale_layer(number, config, shape), config.static_layer + 1) for number in numbers if number > 0}
    return tuple(sorted(layer for layer in scaled if layer < shape.num_layers))


def snap(patches: int, fixed_tokens: int, tile: int, most: int) -> int:
    """The number of patches nearest to `patches`, at least 1 and at most `most`, that fills whole tiles if one can."""
    length = round_half_up((patches + fixed_tokens) / tile) * tile
    while length - fixed_tokens > most:
        length -= tile
    while length - fixed_tokens < 1:
        length += tile
    return min(length - fixed_tokens, most)


def round_half_up(value: float) -> int:
    """`rnd` of docs/method.md; Python rounds halves to even."""
    return math.floor(value + 0.5)
