# SPDX-License-Identifier: Apache-2.0
"""What a pruning configuration refuses, what the presets hold, and what they cost at the 7B geometry."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from random_model import model_config, random_checkpoint

from specprune_ros.engine.flops import decoder_flops, scoring_flops
from specprune_ros.errors import ConfigError, UserError
from specprune_ros.openvla.config import DecoderConfig
from specprune_ros.policy import Policy
from specprune_ros.pruning.config import PRESETS, PruningConfig
from specprune_ros.pruning.schedule import ModelShape, Schedule, make_schedule

# A mistake, and what the message must name: the field, its value, the allowed range.
MISTAKES = [
    ({"budget_tokens": 300}, "pruning.budget_tokens", "300", "1 to 256"),
    ({"budget_tokens": 0}, "pruning.budget_tokens", "0", "1 to 256"),
    ({"global_tokens": 257}, "pruning.global_tokens", "257", "0 to 256"),
    ({"dynamic_tokens": 1000}, "pruning.dynamic_tokens", "1000", "0 to 256"),
    ({"local_tokens": -1}, "pruning.local_tokens", "-1", "0 to 256"),
    ({"alpha": 0.0}, "pruning.alpha", "0", "0.05 to 4"),
    ({"alpha": float("nan")}, "pruning.alpha", "nan", "0.05 to 4"),
    ({"fine_factor": 0.5}, "pruning.fine_factor", "0.5", "1 to 8"),
    ({"similarity_threshold": -0.1}, "pruning.similarity_threshold", "-0.1", "0 to 1"),
    ({"translation_threshold": -0.4}, "pruning.translation_threshold", "-0.4", "0 to 10"),
    ({"rotation_threshold": -2.0}, "pruning.rotation_threshold", "-2.0", "0 to 100"),
    ({"translation_threshold": float("inf")}, "pruning.translation_threshold", "inf", "0 to 10"),
    ({"exit_factor": 0.9}, "pruning.exit_factor", "0.9", "1 to 10"),
    ({"scene_cut_share": 1.5}, "pruning.scene_cut_share", "1.5", "0 to 1"),
    ({"keep_ratio": 0.0}, "pruning.keep_ratio", "0", "0.1 to 1"),
    ({"rank_slope": 1.0}, "pruning.rank_slope", "1.0", "0.0001 to 0.15"),
    ({"importance_rate": -0.2}, "pruning.importance_rate", "-0.2", "0 to 1"),
    ({"history_length": 0}, "pruning.history_length", "0", "1 to 64"),
    ({"history_decay": 1.1}, "pruning.history_decay", "1.1", "0 to 1"),
    ({"refresh_interval": -1}, "pruning.refresh_interval", "-1", "0 to 10000"),
    ({"control_rate": 0.0}, "pruning.control_rate", "0", "0.1 to 1000"),
    ({"frame_slope": 1.0}, "pruning.frame_slope", "1.0", "-100 to 0"),
    ({"selection": "best"}, "pruning.selection", "best", "union, budget"),
    ({"confidence": "sure"}, "pruning.confidence", "sure", "entropy, mean_std, none"),
    ({"global_layers": [15, 33]}, "pruning.global_layers", "33", "1 to 32"),
    ({"prune_layers": [5, 40]}, "pruning.prune_layers", "40", "1 to 32"),
    ({"update_layers": [5, 33]}, "pruning.update_layers", "33", "1 to 32"),
    ({"local_layers": [1, 33]}, "pruning.local_layers", "33", "1 to 32"),
    ({"local_layers": [0, 1]}, "pruning.local_layers", "0", "at least 1"),
    ({"prune_layers": [-5]}, "pruning.prune_layers", "-5", "at least 0"),
    ({"static_layer": 32}, "pruning.static_layer", "32", "2 (last of local_layers) to 31"),
    ({"static_layer": 1}, "pruning.static_layer", "1", "2 (last of local_layers) to 31"),
    ({"prune_layers": [2, 5]}, "pruning.prune_layers", "2", "3 to 32"),
    ({"update_layers": [10]}, "pruning.update_layers", "10", "at least one layer up to 5"),
    ({"local_layers": []}, "pruning.local_layers", "empty", "at least one"),
    ({"alpha": "much"}, "pruning.alpha", "much", "0.05 to 4"),
    ({"controller": 1}, "pruning.controller", "1", "true or false"),
    ({"prune_layers": 5}, "pruning.prune_layers", "5", "list"),
    ({"budget": 5}, "pruning.budget", "is not a parameter", "budget_tokens"),
]


@pytest.mark.parametrize(("values", "field", "value", "allowed"), MISTAKES, ids=[f"{f}={v}" for _, f, v, _ in MISTAKES])
def test_mistake_is_refused_with_field_value_and_range(values: dict, field: str, value: str, allowed: str):
    assert_refused(lambda: PruningConfig().changed(values), field, value, allowed)


def assert_refused(call: Callable[[], object], *parts: str) -> None:
    """It raises a user error of one line that holds every part."""
    with pytest.raises(ConfigError) as caught:
        call()
    message = str(caught.value)
    assert isinstance(caught.value, UserError)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("name", ["papers", "", "off ", "../paper"])
def test_preset_that_does_not_exist(name: str):
    assert_refused(lambda: PruningConfig.from_preset(name), "pruning.preset", f"'{name}'", "paper, fast, careful")


def test_model_with_too_few_layers_is_named_when_the_configuration_is_set():
    policy = Policy(random_checkpoint(model_config(num_layers=6), 0), "off")
    deep = PruningConfig(static_layer=6, prune_layers=(0,), update_layers=(0,))
    assert_refused(lambda: policy.set_pruning(deep), "pruning.static_layer", "6", "the model has 6 layers", "1 to 5")
    assert policy.pruning is None


# Presets


@pytest.mark.parametrize("name", PRESETS)
def test_preset_loads_and_knows_its_name(name: str):
    assert PruningConfig.from_preset(name).preset == name


def test_paper_preset_is_the_defaults():
    assert PruningConfig.from_preset("paper") == dataclasses.replace(PruningConfig(), preset="paper")


def test_defaults_are_the_constants_of_the_paper():
    config = PruningConfig()
    assert (config.global_tokens, config.local_tokens, config.dynamic_tokens, config.alpha) == (30, 24, 20, 0.8)
    assert (config.local_layers, config.static_layer, config.global_layers) == ((1, 2), 2, (15, 32))
    assert config.prune_layers == config.update_layers == (5, 10, 15, 20)
    assert (config.keep_ratio, config.importance_rate, config.similarity_threshold) == (0.9, 0.2, 0.996)
    assert (config.frame_offset, config.frame_slope, config.frame_margin) == (7.0, -1.0, 4)
    assert (config.history_length, config.refresh_interval) == (1, 0)
    assert config.fine_factor == pytest.approx(40 / 24)
    # 0.4 and 0.2 action units per 20 Hz step, of 0.05 m and 0.5 rad, of which a measured arm does 0.23
    assert config.translation_threshold == pytest.approx(0.23 * 0.4 * 0.05 * 20, rel=0.1)
    assert config.rotation_threshold == pytest.approx(0.23 * 0.2 * 0.5 * 20, rel=0.1)


def test_a_changed_value_makes_it_no_preset_and_leaves_the_original():
    paper = PruningConfig.from_preset("paper")
    changed = paper.changed({"alpha": 1, "prune_layers": [10, 20]})
    assert (changed.preset, changed.alpha, changed.prune_layers) == ("", 1.0, (10, 20))
    assert (paper.preset, paper.alpha) == ("paper", 0.8)


def test_ranks_stay_apart_in_float32_at_the_steepest_slope():
    slope = next(field for field in dataclasses.fields(PruningConfig) if field.name == "rank_slope").metadata["maximum"]
    weights = 1 / (1 + np.exp(np.float32(slope) * np.arange(512, dtype=np.float32)))
    assert (np.diff(weights.astype(np.float32)) < 0).all()


# Costs at the 7B geometry: 32 layers, 2 views of 256 patches, a LIBERO prompt of 35 tokens

SEVEN_B = ModelShape(num_layers=32, num_views=2, patches_per_view=256)
ACTIONS, PROMPT, WORDS = 56, 35, 20
FIXED = 1 + 1 + (PROMPT - 1) + ACTIONS + 1  # BOS, proprio, prompt after BOS, actions, </s>


def seven_b(preset: str, mode: str, tile: int = 1) -> Schedule:
    return make_schedule(PruningConfig.from_preset(preset), SEVEN_B, FIXED, mode, tile)


def flop_share(plan: Schedule) -> float:
    """Decoder operations, with the scores, over those of a dense inference."""
    tokens = plan.tokens_per_layer()
    spent = decoder_flops(DecoderConfig(), tokens, ACTIONS)
    spent += scoring_flops(DecoderConfig(), [tokens[layer - 1] for layer in plan.scored_layers], WORDS)
    return spent / decoder_flops(DecoderConfig(), (FIXED + 512,) * 32, ACTIONS)


def test_sequence_is_605_tokens_dense():
    assert set(seven_b("paper", "dense").tokens_per_layer()) == {605}


def test_paper_coarse_reaches_the_papers_numbers():
    plan = seven_b("paper", "coarse")
    alive = plan.alive_per_layer()
    assert alive == (512,) * 2 + (188,) * 3 + (169,) * 5 + (152,) * 5 + (137,) * 5 + (123,) * 12
    assert alive[2] == pytest.approx(197, rel=0.05)
    # "19 % more dynamically": fewer on average over the layers that dynamic pruning reaches
    assert 1 - np.mean(alive[2:]) / alive[2] == pytest.approx(0.19, abs=0.05)
    assert flop_share(plan) <= 0.43


@pytest.mark.parametrize(
    ("preset", "mode", "kept", "share"),
    [
        ("paper", "coarse", 188, 0.428),
        ("paper", "fine", 314, 0.580),
        ("fast", "coarse", 120, 0.331),
        ("fast", "fine", 200, 0.414),
        ("careful", "coarse", 256, 0.508),
        ("careful", "fine", 426, 0.713),
    ],
)
def test_cost_of_a_preset(preset: str, mode: str, kept: int, share: float):
    plan = seven_b(preset, mode)
    assert plan.alive_per_layer()[2] == kept
    assert flop_share(plan) == pytest.approx(share, abs=0.002)


def test_dense_costs_its_scores_more_than_no_pruning():
    assert 1 < flop_share(seven_b("paper", "dense")) < 1.001


@pytest.mark.parametrize("tile", [16, 32, 64, 128])
def test_every_pruned_length_fills_the_tiles(tile: int):
    lengths = seven_b("paper", "coarse", tile).tokens_per_layer()
    assert all(length % tile == 0 for length in lengths[2:])
    assert abs(lengths[2] - (FIXED + 188)) <= tile / 2


def test_sets_scale_with_alpha_and_mode():
    coarse, fine = seven_b("paper", "coarse").sets, seven_b("paper", "fine").sets
    assert (coarse.global_tokens, coarse.dynamic_tokens, coarse.local_tokens) == (24, 16, 19)
    assert (fine.global_tokens, fine.dynamic_tokens, fine.local_tokens) == (40, 27, 32)


def test_layers_scale_with_the_depth():
    plan = make_schedule(PruningConfig(), ModelShape(8, 2, 256), FIXED, "coarse")
    assert (plan.global_layers, plan.prune_layers, plan.update_layers) == ((4, 8), (3, 4, 5), (3, 4, 5))
    assert seven_b("paper", "coarse").global_layers == (15, 32)
