# SPDX-License-Identifier: Apache-2.0
"""Normalisation: what the statistics' bounds, masks and clipping do, and how bad statistics are refused."""

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from release_checkpoint import TINY, statistics

from specprune_ros.errors import CheckpointError, ObservationError
from specprune_ros.openvla.statistics import (
    EPSILON,
    Bounds,
    Normalizer,
    choose_key,
    normalizer,
    read_statistics,
    suite_key,
)

KEY = "libero_spatial_no_noops"
SIZE = 4
vectors = arrays(np.float64, SIZE, elements=st.floats(-1e3, 1e3))
unit_vectors = arrays(np.float64, SIZE, elements=st.floats(-1, 1))


def of_bounds(low, high, mask=(True,) * SIZE) -> Normalizer:
    """The same bounds for proprio and actions."""
    low, high = np.minimum(low, high), np.maximum(low, high)
    bounds = Bounds(low, high, np.array(mask), low == high, high)
    return Normalizer(bounds, bounds)


@given(low=vectors, high=vectors, share=arrays(np.float64, SIZE, elements=st.floats(0, 1)))
def test_values_within_the_bounds_survive_the_round_trip(low, high, share):
    norm = of_bounds(low, high)
    values = norm.proprio.low + share * (norm.proprio.high - norm.proprio.low)
    restored = norm.unnormalize_actions(norm.normalize_proprio(values))
    np.testing.assert_allclose(restored, values, atol=2 * EPSILON)


@given(low=vectors, high=vectors, normalized=unit_vectors)
def test_normalized_values_survive_the_round_trip(low, high, normalized):
    assume(np.all(np.abs(high - low) > 1e-3))
    norm = of_bounds(low, high)
    np.testing.assert_allclose(norm.normalize_proprio(norm.unnormalize_actions(normalized)), normalized, atol=1e-8)


@given(low=vectors, high=vectors, values=arrays(np.float64, SIZE, elements=st.floats(-1e9, 1e9)))
def test_proprio_is_clipped(low, high, values):
    normalized = of_bounds(low, high).normalize_proprio(values)
    assert np.all(np.abs(normalized) <= 1)


@given(low=vectors, high=vectors, values=st.tuples(vectors, vectors))
def test_proprio_keeps_its_order(low, high, values):
    norm = of_bounds(low, high)
    smaller, larger = np.minimum(*values), np.maximum(*values)
    assert np.all(norm.normalize_proprio(smaller) <= norm.normalize_proprio(larger))


@given(low=vectors, high=vectors, actions=arrays(np.float64, (3, SIZE), elements=st.floats(-5, 5)))
def test_masked_actions_pass_through_and_the_others_are_scaled(low, high, actions):
    assume(np.all(low != high))  # else they are constant
    mask = np.array([True, False, True, False])
    scaled = of_bounds(low, high, mask).unnormalize_actions(actions)
    assert scaled.dtype == np.float64
    assert np.array_equal(scaled[:, ~mask], actions[:, ~mask])
    assert np.array_equal(scaled[:, mask], of_bounds(low, high).unnormalize_actions(actions)[:, mask])


def test_bounds_are_the_ends_of_the_normalized_range():
    norm = of_bounds(np.array([-2.0, 0, 1, 5]), np.array([4.0, 1, 3, 5]))
    np.testing.assert_allclose(norm.normalize_proprio(norm.proprio.low), [-1, -1, -1, 0])  # the last is constant
    np.testing.assert_allclose(norm.normalize_proprio(norm.proprio.high), [1, 1, 1, 0], atol=1e-7)
    np.testing.assert_allclose(norm.unnormalize_actions(np.ones((1, 4)))[0], norm.action.high, atol=1e-7)


def test_actions_are_not_clipped():
    norm = of_bounds(np.zeros(4), np.ones(4))
    np.testing.assert_allclose(norm.unnormalize_actions(np.full((1, 4), 3.0)), 2.0, atol=1e-7)


@pytest.mark.parametrize("normalization, names", [("quantile", ("q01", "q99")), ("bounds", ("min", "max"))])
def test_normalization_chooses_the_bounds(normalization, names):
    entry = statistics()
    norm = normalizer(entry, KEY, normalization)
    assert norm.proprio.low.tolist() == entry[KEY]["proprio"][names[0]]
    assert norm.proprio.high.tolist() == entry[KEY]["proprio"][names[1]]
    assert norm.action.low.tolist() == entry[KEY]["action"][names[0]]
    assert norm.action.high.tolist() == entry[KEY]["action"][names[1]]
    assert norm.action.mask.tolist() == [True] * 6 + [False]


def test_missing_mask_scales_every_dimension():
    entry = statistics()
    del entry[KEY]["action"]["mask"]
    assert normalizer(entry, KEY, "quantile").action.mask.tolist() == [True] * 7


@pytest.mark.parametrize("shape", [(), (7,), (9,), (1, 8)])
def test_proprio_of_another_shape_is_refused(shape):
    with pytest.raises(ObservationError, match=r"expected \(8,\) numbers"):
        normalizer(statistics(), KEY, "quantile").normalize_proprio(np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_proprio_that_is_not_finite_is_refused(value):
    proprio = np.zeros(8)
    proprio[5] = value
    with pytest.raises(ObservationError, match=r"proprio\[5\] is not finite"):
        normalizer(statistics(), KEY, "quantile").normalize_proprio(proprio)


@pytest.mark.parametrize(
    "value",
    [None, b"12345678", "12345678", ["1"] * 8, [None] * 8, [True] * 8, [1j] * 8, {}],
)
def test_proprio_that_is_not_numbers_is_refused(value):
    with pytest.raises(ObservationError, match=r"^proprio (is|has) .*expected \(8,\) numbers"):
        normalizer(statistics(), KEY, "quantile").normalize_proprio(value)


# Constant and masked dimensions


def changed(group, index, **values):
    """Statistics whose `group` has these values at one dimension."""
    entry = statistics()
    for name, value in values.items():
        entry[KEY][group][name][index] = value
    return entry


@pytest.mark.parametrize("normalization", ["quantile", "bounds"])
@pytest.mark.parametrize("noise", [0.0, 1e-9, -1e-9, 1e-6, 1e-3, 1.0])
def test_a_constant_proprio_is_0_as_in_training_whatever_the_noise(normalization, noise):
    norm = normalizer(changed("proprio", 6, q01=0.3, q99=0.3, min=0.3, max=0.3), KEY, normalization)
    proprio = np.zeros(8)
    proprio[6] = 0.3 + noise
    assert norm.normalize_proprio(proprio)[6] == 0


def test_only_a_constant_dimension_is_0():
    entry = changed("proprio", 6, q01=-1, q99=1, min=0.0, max=0.0)  # the quantiles do not matter
    proprio = np.full(8, 0.25)
    expected = normalizer(statistics(), KEY, "quantile").normalize_proprio(proprio)
    expected[6] = 0
    assert normalizer(entry, KEY, "quantile").normalize_proprio(proprio).tolist() == expected.tolist()


def test_without_min_and_max_equal_quantiles_are_constant():
    entry = changed("proprio", 6, q01=0.3, q99=0.3)
    for name in ("min", "max"):
        del entry[KEY]["proprio"][name]
    assert normalizer(entry, KEY, "quantile").normalize_proprio(np.full(8, 0.3))[6] == 0


@pytest.mark.parametrize("value, expected", [(0.0, -1), (1e-6, -1), (-1e-6, -1), (0.02, -1), (0.039, 1), (0.04, 1)])
def test_noise_does_not_flip_a_dimension_whose_quantiles_are_equal(value, expected):
    """Training saw -1, and +1 where the number was not the usual one."""
    norm = normalizer(changed("proprio", 6, q01=0.0, q99=0.0, min=0.0, max=0.04), KEY, "quantile")
    proprio = np.zeros(8)
    proprio[6] = value
    assert norm.normalize_proprio(proprio)[6] == expected


@pytest.mark.parametrize("mask", [True, False])
def test_a_constant_action_is_what_it_was_in_the_data(mask):
    entry = changed("action", 2, q01=0.7, q99=0.7, min=0.7, max=0.7)
    entry[KEY]["action"]["mask"][2] = mask
    actions = normalizer(entry, KEY, "quantile").unnormalize_actions(np.random.default_rng(0).uniform(-1, 1, (5, 7)))
    assert actions[:, 2].tolist() == [0.7] * 5


def test_a_constant_proprio_that_moves_on_this_robot_is_named():
    bounds = normalizer(changed("proprio", 6, q01=0.3, q99=0.3, min=0.3, max=0.3), KEY, "quantile").proprio
    proprio = np.zeros(8)
    for value, expected in ((0.3, []), (0.3 + 1e-4, []), (0.31, [6]), (-5.0, [6])):
        proprio[6] = value
        assert bounds.moved(proprio) == expected


def test_masked_proprio_passes_through_clipped():
    entry = broken("proprio", mask=[True] * 6 + [False] * 2)
    proprio = np.array([0.1] * 6 + [0.3, -7.0])
    normalized = normalizer(entry, KEY, "quantile").normalize_proprio(proprio)
    assert normalized[6:].tolist() == [0.3, -1.0]
    assert normalized[:6].tolist() == normalizer(statistics(), KEY, "quantile").normalize_proprio(proprio)[:6].tolist()


def broken(group, **changes):
    entry = statistics()
    entry[KEY][group].update(changes)
    return entry


def test_null_counts_as_left_out():
    low = normalizer(broken("action", min=None, max=None, mask=None), KEY, "quantile").action.low
    assert np.array_equal(low, normalizer(statistics(), KEY, "quantile").action.low)
    with pytest.raises(CheckpointError, match=r"action.min is missing \(there is q01, q99"):
        normalizer(broken("action", min=None, max=None), KEY, "bounds")


@pytest.mark.parametrize(
    "entry, expected",
    [
        ({KEY: {"action": statistics()[KEY]["action"]}}, f"{KEY}.proprio is missing"),
        ({KEY: {}}, "proprio is missing"),
        ({KEY: statistics()[KEY] | {"proprio": None}}, f"{KEY}.proprio is missing"),
        ({KEY: statistics()[KEY] | {"proprio": [1, 2]}}, f"{KEY}.proprio is [1, 2], not an object"),
        ({KEY: statistics()[KEY] | {"action": "none"}}, f'{KEY}.action is "none", not an object'),
        (broken("action", mask=["true"] * 6 + ["false"]), f'{KEY}.action.mask is ["true"'),
        (broken("proprio", mask=[1] * 8), f"{KEY}.proprio.mask is [1"),
        (broken("proprio", mask="true"), f'{KEY}.proprio.mask is "true"'),
        (
            broken("action", q01=statistics()[KEY]["action"]["q99"], q99=[0.0] * 7),
            "action.q01[0] is 0.5, above q99[0], 0",
        ),
        (broken("proprio", min=[9.0] * 8), f"{KEY}.proprio.min[0] is 9, above max[0], 1"),
        (broken("proprio", max=[1.0] * 7), f"{KEY}.proprio has bounds of unequal length (max has 7)"),
        (broken("action", q99=[]), f"{KEY}.action.q99 is not a list of finite numbers"),
        (broken("action", q99=[True] * 7), f"{KEY}.action.q99 is not a list of finite numbers"),
        (broken("action", q99=[10**400] * 7), f"{KEY}.action.q99 is not a list of finite numbers"),
        (broken("action", q99=[[1.0]] * 7), f"{KEY}.action.q99 is not a list of finite numbers"),
        (broken("action", q99=None), f"{KEY}.action.q99 is missing"),
        (broken("action", q99=[1.0] * 6), f"{KEY}.action has bounds of unequal length"),
        (broken("action", mask=[True]), f"{KEY}.action.mask has 1 entries, not 7"),
        (broken("proprio", q01="0.1"), f"{KEY}.proprio.q01 is not a list of finite numbers"),
        (broken("proprio", q01=["a"] * 8), f"{KEY}.proprio.q01 is not a list of finite numbers"),
        (broken("proprio", q01=[float("nan")] * 8), f"{KEY}.proprio.q01 is not a list of finite numbers"),
        (broken("proprio", q01=0.1), f"{KEY}.proprio.q01 is not a list of finite numbers"),
    ],
)
def test_bad_statistics_are_refused_in_one_line(entry, expected):
    with pytest.raises(CheckpointError) as error:
        normalizer(entry, KEY, "quantile")
    message = str(error.value)
    assert expected in message and "\n" not in message
    assert any(remedy in message for remedy in ("copy the file", "without quotes", "swap them"))


def test_only_key_need_not_be_named():
    assert choose_key({"a": {}}, None) == "a"
    assert choose_key({"a": {}, "b": {}}, "b") == "b"


@pytest.mark.parametrize("key", [None, "c"])
def test_key_that_cannot_be_chosen_lists_the_known_ones(key):
    with pytest.raises(CheckpointError, match="one of: a, b"):
        choose_key({"b": {}, "a": {}}, key)


def test_file_replaces_norm_stats():
    assert list(read_statistics(TINY, {"norm_stats": {"old": {}}})) == [KEY]


def test_norm_stats_without_the_file(tmp_path):
    assert list(read_statistics(tmp_path, {"norm_stats": {"old": {}}})) == ["old"]
    with pytest.raises(CheckpointError, match="no norm_stats"):
        read_statistics(tmp_path, {"norm_stats": {}})


def test_statistics_without_a_key_around_them(tmp_path):
    entry = json.loads((TINY / "dataset_statistics.json").read_text())[KEY]
    (tmp_path / "dataset_statistics.json").write_text(json.dumps(entry))
    with pytest.raises(CheckpointError, match="no unnorm_key around its statistics; write"):
        read_statistics(tmp_path, {})


@pytest.mark.parametrize("names", [("min", "max"), ("q01", "q99")])
def test_statistics_without_a_key_are_known_by_any_of_their_numbers(tmp_path, names):
    (tmp_path / "dataset_statistics.json").write_text(json.dumps({"action": {name: [0.0] for name in names}}))
    with pytest.raises(CheckpointError, match="no unnorm_key around its statistics"):
        read_statistics(tmp_path, {})


def test_an_empty_file_is_not_a_missing_one(tmp_path):
    (tmp_path / "dataset_statistics.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"dataset_statistics.json is empty; copy"):
        read_statistics(tmp_path, {})


@pytest.mark.parametrize("usual", [1.0, float(np.float32(0.04))])
def test_noise_does_not_decide_where_the_data_has_outliers_below_alone(usual):
    vectors = {"q01": [usual], "q99": [usual], "max": [usual], "min": [0.0]}
    norm = normalizer({"k": {"proprio": vectors, "action": vectors}}, "k", "quantile")
    for value in (0.0, usual - 1e-9, usual, usual + 1e-9, round(usual, 2), usual + 1e-4):
        assert norm.normalize_proprio([value]).tolist() == [-1.0]


def test_statistics_of_another_normalisation_say_what_is_there():
    statistics = {"k": {"action": {"mean": [0.0], "std": [1.0]}}}
    with pytest.raises(CheckpointError, match=r"q01 is missing \(there is mean, std\)"):
        normalizer(statistics, "k", "quantile", proprio=False)


def test_file_of_another_content(tmp_path):
    (tmp_path / "dataset_statistics.json").write_text(json.dumps({"action": [1, 2]}))
    with pytest.raises(CheckpointError, match="does not hold statistics by unnorm_key"):
        read_statistics(tmp_path, {})


def test_a_suite_finds_its_statistics_without_a_config(tmp_path):
    (tmp_path / "dataset_statistics.json").write_text(json.dumps({"libero_goal_no_noops": {}, "b": {}}))
    assert suite_key(tmp_path, "libero_goal") == "libero_goal_no_noops"


def test_a_suite_takes_its_own_of_several_statistics_or_the_only_ones(tmp_path):
    (tmp_path / "config.json").write_text("{}")

    def key(suite, *known):
        (tmp_path / "dataset_statistics.json").write_text(json.dumps({name: {} for name in known}))
        return suite_key(tmp_path, suite)

    both = "libero_spatial_no_noops", "libero_object_no_noops"
    assert key("libero_object_swap", *both) == "libero_object_no_noops"
    assert key("libero_object", "my_kitchen") == "my_kitchen"
    with pytest.raises(CheckpointError, match="several statistics"):
        key("libero_goal", *both)
