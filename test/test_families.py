# SPDX-License-Identifier: Apache-2.0
"""What is known of a robot family: from families.yaml, config.json, and arguments."""

import dataclasses

import pytest

from specprune_ros.control.action_space import ABSOLUTE_JOINT, DELTA_END_EFFECTOR
from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.config import decoder_config
from specprune_ros.openvla.family import ACTION_SPACES, KINDS, FamilyConfig, facts, families, family_config
from specprune_ros.openvla.files import Fields

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
    assert set(KINDS) == {field.name for field in dataclasses.fields(FamilyConfig)}
    for known in families().values():
        assert set(known) == {"keys"} | set(KINDS)
        assert len(known["action_names"]) == len(known["action_units"]) == len(set(known["action_names"]))
        assert all(kind.fits(known[name]) for name, kind in KINDS.items())


def test_action_spaces_are_those_that_can_be_executed():
    assert set(ACTION_SPACES) == {ABSOLUTE_JOINT, DELTA_END_EFFECTOR}


@pytest.mark.parametrize(
    "key", ["lab_aloha_pick", "my_bridge", "bridge_orig_2", "Libero_goal", "libero_goal_no_noops_mine", "libero", ""]
)
def test_a_part_of_a_known_name_says_nothing(key):
    assert facts(key, {}, {}) == {}
    with pytest.raises(CheckpointError, match="not known for unnorm_key"):
        family_config(key, {}, {})


def test_facts_say_where_they_come_from():
    found = facts("libero_goal", {"num_views": 1}, {"chunk_length": 4})
    assert (found["chunk_length"].source, found["num_views"].source) == ("argument", "config.json")
    assert found["center_crop"].source == "known for libero_goal" and found["center_crop"].assumed
    assert not found["num_views"].assumed


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


@pytest.mark.parametrize("missing", [[name] for name in OWN] + [["chunk_length", "action_units"], list(OWN)])
def test_everything_that_is_missing_is_said_at_once_with_what_is_allowed(missing):
    config = {name: value for name, value in OWN.items() if name not in missing}
    with pytest.raises(CheckpointError, match="set them as parameters model") as error:
        family_config("my_robot", config, {})
    message = str(error.value)
    assert "my_robot" in message and "\n" not in message
    for name, kind in KINDS.items():
        assert (f"{name} ({kind.allowed})" in message) == (name in missing)


WRONG = {
    "chunk_length": [0, -1, "8", 2.5, True, [8], {}],
    "num_views": [0, "2", 2.0, False],
    "center_crop": ["false", "true", "off", 0, 1, [], {}],
    "proprio_normalization": ["standard", True, 1, ["quantile"], {}],
    "action_space": ["joint", "", 3, ["absolute_joint"]],
    "action_names": ["x", [], [1, 2], [None], {}, True],
    "action_units": ["m", [0.05], [["m"]], 1.0],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in WRONG.items() for value in values])
@pytest.mark.parametrize("source", ["argument", "config.json"])
def test_a_fact_of_another_kind_is_refused_with_what_is_allowed(name, value, source):
    config, overrides = ({name: value}, {}) if source == "config.json" else ({}, {name: value})
    with pytest.raises(CheckpointError) as error:
        family_config("libero_goal", config, overrides)
    message = str(error.value)
    assert message.startswith(f"{name} ({source}) is ") and KINDS[name].allowed in message and "\n" not in message


def decoder(**values):
    return decoder_config(Fields(values, "config.json: text_config"))


def test_decoder_defaults_are_llama_2_7b():
    config = decoder(vocab_size=32064)
    assert (config.hidden_size, config.intermediate_size, config.num_layers, config.num_heads) == (4096, 11008, 32, 32)
    assert (config.vocab_size, config.rms_norm_eps, config.rope_theta) == (32064, 1e-6, 10000.0)


def test_null_counts_as_left_out():
    names = ("hidden_size", "rope_theta", "rope_scaling", "rope_parameters", "hidden_act", "head_dim", "model_type")
    assert decoder(**dict.fromkeys(names)) == decoder()


@pytest.mark.parametrize(
    "values",
    [
        {"rope_theta": 5e5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_parameters": {"rope_theta": 500000}, "rope_theta": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": 5e5, "rope_scaling": None},
        {"rope_theta": 5e5, "rope_scaling": {"type": "default"}},
    ],
)
def test_the_rotary_base_is_read_wherever_transformers_wrote_it(values):
    assert decoder(**values).rope_theta == 5e5


@pytest.mark.parametrize(
    "values",
    [
        {"num_attention_heads": 8, "num_key_value_heads": 2},
        {"num_attention_heads": 3, "num_key_value_heads": 3, "hidden_size": 32},
        {"num_attention_heads": 32, "hidden_size": 32},  # a head of one number cannot be rotated
        {"num_attention_heads": 0},
        {"num_attention_heads": "32"},
        {"hidden_size": 4096.5},
        {"hidden_size": True},
        {"head_dim": 64},
        {"num_hidden_layers": None, "vocab_size": -1},
        {"intermediate_size": [11008]},
        {"rms_norm_eps": 0},
        {"rms_norm_eps": "1e-6"},
        {"rms_norm_eps": 10**400},
        {"rope_theta": -1},
        {"rope_theta": float("nan")},
        {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": "5e5"}},
        {"rope_parameters": 5e5},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "llama3"}},
        {"rope_scaling": {"factor": 2.0}},
        {"rope_scaling": []},
        {"partial_rotary_factor": 0.5},
        {"hidden_act": "gelu"},
        {"hidden_act": True},
        {"model_type": "qwen2"},
        {"attention_bias": True},
        {"attention_bias": "false"},
        {"mlp_bias": True},
    ],
    ids=str,
)
def test_what_changes_the_maths_is_refused_by_name(values):
    with pytest.raises(CheckpointError) as error:
        decoder(**values)
    message = str(error.value)
    assert message.startswith("config.json: text_config: ") and "\n" not in message
    assert any(name in message for name in values)
