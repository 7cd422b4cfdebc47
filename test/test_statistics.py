"""Normalisation: what the statistics' bounds, masks and clipping do, and how bad statistics are refused."""

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from release_checkpoint import TINY, statistics

from specprune_ros.errors import CheckpointError, ObservationError
from specprune_ros.openvla.statistics import Normalizer, choose_key, normalizer, read_statistics

KEY = "libero_spatial_no_noops"
SIZE = 4
vectors = arrays(np.float64, SIZE, elements=st.floats(-1e3, 1e3))
unit_vectors = arrays(np.float64, SIZE, elements=st.floats(-1, 1))


def of_bounds(low, high, mask=(True,) * SIZE) -> Normalizer:
    """The same bounds for proprio and actions."""
    low, high = np.minimum(low, high), np.maximum(low, high)
    return Normalizer(low, high, low, high, np.array(mask))


@given(low=vectors, high=vectors, share=arrays(np.float64, SIZE, elements=st.floats(0, 1)))
def test_values_within_the_bounds_survive_the_round_trip(low, high, share):
    norm = of_bounds(low, high)
    values = norm.proprio_low + share * (norm.proprio_high - norm.proprio_low)
    restored = norm.unnormalize_actions(norm.normalize_proprio(values))
    np.testing.assert_allclose(restored, values, atol=1e-9)


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
    mask = np.array([True, False, True, False])
    scaled = of_bounds(low, high, mask).unnormalize_actions(actions)
    assert scaled.dtype == np.float64
    assert np.array_equal(scaled[:, ~mask], actions[:, ~mask])
    assert np.array_equal(scaled[:, mask], of_bounds(low, high).unnormalize_actions(actions)[:, mask])


def test_bounds_are_the_ends_of_the_normalized_range():
    norm = of_bounds(np.array([-2.0, 0, 1, 5]), np.array([4.0, 1, 3, 5]))
    np.testing.assert_allclose(norm.normalize_proprio(norm.proprio_low), -1)
    np.testing.assert_allclose(norm.normalize_proprio(norm.proprio_high), [1, 1, 1, -1], atol=1e-7)  # one range is 0
    np.testing.assert_allclose(norm.unnormalize_actions(np.ones((1, 4)))[0], norm.action_high, atol=1e-7)


def test_actions_are_not_clipped():
    norm = of_bounds(np.zeros(4), np.ones(4))
    np.testing.assert_allclose(norm.unnormalize_actions(np.full((1, 4), 3.0)), 2.0, atol=1e-7)


@pytest.mark.parametrize("normalization, names", [("quantile", ("q01", "q99")), ("bounds", ("min", "max"))])
def test_normalization_chooses_the_bounds(normalization, names):
    entry = statistics()
    norm = normalizer(entry, KEY, normalization)
    assert norm.proprio_low.tolist() == entry[KEY]["proprio"][names[0]]
    assert norm.proprio_high.tolist() == entry[KEY]["proprio"][names[1]]
    assert norm.action_low.tolist() == entry[KEY]["action"][names[0]]
    assert norm.action_high.tolist() == entry[KEY]["action"][names[1]]
    assert norm.action_mask.tolist() == [True] * 6 + [False]


def test_missing_mask_scales_every_dimension():
    entry = statistics()
    del entry[KEY]["action"]["mask"]
    assert normalizer(entry, KEY, "quantile").action_mask.tolist() == [True] * 7


@pytest.mark.parametrize("shape", [(), (7,), (9,), (1, 8)])
def test_proprio_of_another_shape_is_refused(shape):
    with pytest.raises(ObservationError, match=r"expects \(8,\)"):
        normalizer(statistics(), KEY, "quantile").normalize_proprio(np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_proprio_that_is_not_finite_is_refused(value):
    proprio = np.zeros(8)
    proprio[5] = value
    with pytest.raises(ObservationError, match=r"proprio\[5\] is not finite"):
        normalizer(statistics(), KEY, "quantile").normalize_proprio(proprio)


def broken(group, **changes):
    entry = statistics()
    entry[KEY][group].update(changes)
    return entry


@pytest.mark.parametrize(
    "entry, expected",
    [
        ({KEY: {"action": statistics()[KEY]["action"]}}, f"{KEY}.proprio.q01 is missing"),
        ({KEY: {}}, "q01 is missing"),
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
    assert expected in message and "copy the file again" in message and "\n" not in message


def test_unknown_normalization():
    with pytest.raises(CheckpointError, match="use one of: quantile, bounds"):
        normalizer(statistics(), KEY, "standard")


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


def test_file_of_another_content(tmp_path):
    (tmp_path / "dataset_statistics.json").write_text(json.dumps({"action": [1, 2]}))
    with pytest.raises(CheckpointError, match="does not hold statistics by unnorm_key"):
        read_statistics(tmp_path, {})
