# SPDX-License-Identifier: Apache-2.0
"""What callers hand to the policy by mistake is refused in one line, and the next good observation works."""

import dataclasses
import json
import shutil
from datetime import datetime

import numpy as np
import pytest
import torch
from release_checkpoint import TINY, Sizes, statistics, write_checkpoint
from safetensors.torch import load_file, save_file

from specprune_ros.errors import CheckpointError, ObservationError
from specprune_ros.policy import Observation, Policy

IMAGE = np.full((56, 56, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), Sizes(layers=6))


@pytest.fixture(scope="module")
def policy(folder):
    return Policy.from_checkpoint(folder, pruning="paper")


def observation(**changes):
    good = Observation({"primary": IMAGE, "wrist": IMAGE}, np.zeros(8), "pick up the bowl", 0.0, np.zeros(6))
    return dataclasses.replace(good, **changes)


def refused(policy, wrong) -> str:
    policy.act(observation())
    with pytest.raises(ObservationError) as error:
        policy.act(wrong)
    assert "\n" not in str(error.value)
    assert np.isfinite(policy.act(observation()).actions).all()
    return str(error.value)


WORDS = [
    None,
    3,
    2.5,
    True,
    b"pick up",
    ["pick up"],
    np.array("pick up"),
    np.array(["a", "b"]),
    {"data": "x"},
    "",
    "\ud800",
]
STAMPS = [None, "1.0", b"1", float("nan"), float("inf"), [1.0], np.array([1.0]), True, 1j, datetime(2026, 1, 1), {}]
PROPRIOS = [None, 0.0, np.array(0.0), b"12345678", "12345678", ["0"] * 8, [None] * 8, np.zeros(7), np.zeros((1, 8))]
PROPRIOS += [np.full(8, np.nan), [[0.0], 1, 2, 3, 4, 5, 6, 7], dict.fromkeys(range(8), 0.0), np.zeros(8, bool)]
TWISTS = [0.0, "123456", b"123456", ["0"] * 6, [None] * 6, np.zeros(3), np.zeros((6, 1)), [[0.0], 1, 2, 3, 4, 5]]
IMAGES = [
    None,
    0,
    np.array(7, np.uint8),
    b"jpeg",
    "image.png",
    IMAGE / 255,
    IMAGE[0],
    IMAGE[..., :1],
    np.zeros((0, 4, 3)),
]
VIEWS = [None, IMAGE, [IMAGE, IMAGE], "primary", {}, {"primary": IMAGE}, {1: IMAGE, 2: IMAGE, 3: IMAGE}]


@pytest.mark.parametrize("value", WORDS, ids=repr)
def test_instruction(policy, value):
    assert "instruction" in refused(policy, observation(instruction=value))


@pytest.mark.parametrize("value", STAMPS, ids=repr)
def test_stamp(policy, value):
    assert "stamp" in refused(policy, observation(stamp=value))
    with pytest.raises(ObservationError, match="stamp"):
        policy.observe(observation().views, value)


@pytest.mark.parametrize("value", PROPRIOS, ids=repr)
def test_proprio(policy, value):
    assert "proprio" in refused(policy, observation(proprio=value))


@pytest.mark.parametrize("value", TWISTS, ids=repr)
def test_twist(policy, value):
    assert "twist" in refused(policy, observation(twist=value))


@pytest.mark.parametrize("value", IMAGES, ids=lambda value: type(value).__name__)
def test_image(policy, value):
    assert "view 'wrist'" in refused(policy, observation(views={"primary": IMAGE, "wrist": value}))


@pytest.mark.parametrize("value", VIEWS, ids=lambda value: type(value).__name__)
def test_views(policy, value):
    assert "views" in refused(policy, observation(views=value))


@pytest.mark.parametrize("value", [None, {}, "observation", [IMAGE]], ids=lambda value: type(value).__name__)
def test_observation(policy, value):
    assert "give a policy.Observation" in refused(policy, value)


def test_a_view_too_few_says_how_to_load_the_checkpoint_for_it(policy):
    message = refused(policy, observation(views={"primary": IMAGE}))
    assert "1 views (primary)" in message and "expects 2" in message and "model.num_views" in message


@pytest.mark.parametrize("stamp", [3, np.float32(3), np.array(3.0), np.int64(3)])
def test_any_number_is_a_stamp(policy, stamp):
    chunk = policy.act(observation(stamp=stamp))
    assert chunk.stamp == 3.0 and type(chunk.stamp) is float


@pytest.mark.parametrize("proprio", [[0] * 8, (0.0,) * 8, np.zeros(8, np.float32), torch.zeros(8)])
def test_any_numbers_are_proprio(policy, proprio):
    chunks = []
    for given in (proprio, np.zeros(8)):
        policy.reset()
        chunks.append(policy.act(observation(proprio=given)).actions)
    assert (chunks[0] == chunks[1]).all()


# A checkpoint that diverged


def changed(folder, tmp_path, name, value):
    copy = shutil.copytree(folder, tmp_path / "checkpoint")
    weights = load_file(copy / "model.safetensors")
    weights[name] = value(weights[name].clone())
    save_file(weights, copy / "model.safetensors")
    return copy


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "name",
    [
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "vision_backbone.fused_featurizer.pos_embed",
        "vision_backbone.featurizer.blocks.0.ls1.scale_factor",
        "projector.fc2.bias",
    ],
)
def test_one_weight_that_is_not_finite_is_refused_by_name(folder, tmp_path, name, value):
    def put(weight):
        weight.view(-1)[-1] = value
        return weight

    with pytest.raises(CheckpointError, match="holds NaN or Inf") as error:
        Policy.from_checkpoint(changed(folder, tmp_path, name, put))
    assert name in str(error.value) and "earlier step" in str(error.value)


@pytest.mark.parametrize("component", ["action_head", "proprio_projector"])
def test_a_component_that_is_not_finite_is_refused_by_name(folder, tmp_path, component):
    copy = shutil.copytree(folder, tmp_path / "checkpoint")
    path = copy / f"{component}--100_checkpoint.pt"
    state = torch.load(path, weights_only=True)
    state["module.model.fc1.bias" if component == "action_head" else "module.fc1.bias"][0] = float("nan")
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=f"of the {component.replace('_', ' ')} holds NaN or Inf"):
        Policy.from_checkpoint(copy)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_actions_that_are_not_finite_raise(folder, tmp_path, dtype):
    name = "language_model.model.layers.1.self_attn.q_proj.weight"
    huge = changed(folder, tmp_path, name, lambda weight: weight * 1e38)
    policy = Policy.from_checkpoint(huge, dtype=dtype)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=f"NaN or Inf.*overflow in {dtype}"):
            policy.act(observation())


# Facts as arguments


def test_an_own_robot_is_described_by_arguments_alone(folder, tmp_path):
    own = shutil.copytree(folder, tmp_path / "checkpoint")
    (own / "dataset_statistics.json").write_text(json.dumps(statistics(key="lab_aloha_pick")))
    with pytest.raises(CheckpointError, match=r"chunk_length .*action_units .*: not known for unnorm_key"):
        Policy.from_checkpoint(own)
    policy = Policy.from_checkpoint(
        own,
        chunk_length=5,
        num_views=2,
        center_crop=False,
        proprio_normalization="bounds",
        action_space="absolute_joint",
        action_names=[f"joint{i}" for i in range(7)],
        action_units=["rad"] * 7,
    )
    assert policy.act(observation()).actions.shape == (5, 7)
    assert policy.action_names[6] == "joint6" and policy.action_space == "absolute_joint" and not policy.center_crop
    assert policy.proprio_range[0][0] == -1.0  # min, not q01


def test_tiny_release_still_needs_no_argument():
    assert Policy.from_checkpoint(TINY).chunk_length == 8
