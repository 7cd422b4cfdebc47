"""What is known of a robot family: from families.yaml, config.json, and arguments."""

import dataclasses
from importlib import resources

import pytest
import yaml

from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.config import FamilyConfig, decoder_config, family_config
from specprune_ros.openvla.statistics import BOUNDS

OWN = {
    "chunk_length": 10,
    "num_views": 2,
    "center_crop": False,
    "proprio_normalization": "bounds",
    "action_space": "absolute_joint",
    "action_names": ["j1", "j2"],
    "action_units": ["rad", "rad"],
}


@pytest.mark.parametrize(
    "key",
    [
        "libero_spatial_no_noops",
        "libero_object_no_noops",
        "libero_goal_no_noops",
        "libero_10_no_noops",
        "libero_4_task_suites_no_noops",
    ],
)
def test_libero(key):
    family = family_config(key, {}, {})
    assert (family.chunk_length, family.num_views, len(family.action_names)) == (8, 2, 7)
    assert family.proprio_normalization == "quantile"
    assert family.action_space == "delta_end_effector"
    assert family.center_crop


def test_aloha():
    family = family_config("aloha1_put_X_into_pot_300_demos", {}, {})
    assert (family.chunk_length, family.num_views, len(family.action_names)) == (25, 3, 14)
    assert family.proprio_normalization == "bounds"
    assert family.action_space == "absolute_joint"


def test_bridge():
    family = family_config("bridge_orig", {}, {})
    assert (family.chunk_length, family.num_views, len(family.action_names)) == (5, 1, 7)
    assert family.proprio_normalization == "quantile"


def test_every_family_is_complete():
    text = resources.files("specprune_ros.openvla").joinpath("families.yaml").read_text()
    for facts in yaml.safe_load(text).values():
        assert set(facts) == {"match"} | {field.name for field in dataclasses.fields(FamilyConfig)}
        assert len(facts["action_names"]) == len(facts["action_units"]) == len(set(facts["action_names"]))
        assert facts["proprio_normalization"] in BOUNDS
        assert facts["action_space"] in ("delta_end_effector", "absolute_joint")


def test_config_json_comes_before_the_family_and_arguments_before_both():
    config = {"chunk_length": 16, "center_crop": False, "action_names": list("abcdefg")}
    family = family_config("libero_goal", config, {"chunk_length": 4, "num_views": None})
    assert family.chunk_length == 4
    assert family.num_views == 2  # None says nothing
    assert family.center_crop is False
    assert family.action_names == tuple("abcdefg")


def test_own_robot_is_described_by_config_json():
    family = family_config("my_robot", OWN, {})
    assert dataclasses.asdict(family) == {k: tuple(v) if isinstance(v, list) else v for k, v in OWN.items()}


@pytest.mark.parametrize("missing", OWN)
def test_unknown_family_names_what_to_add(missing):
    config = {name: value for name, value in OWN.items() if name != missing}
    with pytest.raises(CheckpointError, match=f'add "{missing}" to the checkpoint\'s config.json') as error:
        family_config("my_robot", config, {})
    assert "my_robot" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["chunk_length", "num_views"])
@pytest.mark.parametrize("value", [0, -1, "8", 2.5, True])
def test_counts_are_whole_numbers_of_at_least_one(name, value):
    with pytest.raises(CheckpointError, match=f"{name} is .*; set a whole number of at least 1"):
        family_config("libero_goal", {}, {name: value})


def test_decoder_defaults_are_llama_2_7b():
    config = decoder_config({"vocab_size": 32064})
    assert (config.hidden_size, config.intermediate_size, config.num_layers, config.num_heads) == (4096, 11008, 32, 32)
    assert (config.vocab_size, config.rms_norm_eps, config.rope_theta) == (32064, 1e-6, 10000.0)


def test_decoder_with_grouped_queries_is_refused():
    with pytest.raises(CheckpointError, match="grouped-query attention"):
        decoder_config({"num_attention_heads": 8, "num_key_value_heads": 2})
