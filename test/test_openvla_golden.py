# SPDX-License-Identifier: Apache-2.0
"""The dense model against the recorded reference, stage by stage, on one real LIBERO-Spatial observation.

`data/tiny_oft` is a checkpoint in the release format with random weights; `golden.npz` in it holds what the public
reference implementation computes from them in float32 on a CPU.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from specprune_ros.engine.precision import pack, store_linears
from specprune_ros.engine.precision_int8 import products_saturate
from specprune_ros.openvla.checkpoint import load
from specprune_ros.openvla.model import SequenceLayout
from specprune_ros.openvla.preprocessing import CenterCrop, LanczosProducts, resize
from specprune_ros.policy import Observation, Policy

CHECKPOINT = Path(__file__).parent / "data" / "tiny_oft"
CPU = torch.device("cpu")


def read(name):
    with np.load(CHECKPOINT / name) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def golden():
    return read("golden.npz")


@pytest.fixture(scope="module")
def loaded():
    return load(CHECKPOINT)


@pytest.fixture(scope="module")
def pixels(golden):
    """`pixel_values` (1, 12, S, S) as our towers take them: one (2 views, 3, S, S) per tower."""
    stacked = torch.from_numpy(golden["pixel_values"]).reshape(2, 2, 3, 224, 224)
    return [stacked[:, tower] for tower in range(2)]


@pytest.fixture(scope="module")
def prompt(loaded, golden):
    return loaded.tokenizer(str(golden["instruction"]))


@pytest.fixture(scope="module")
def layout(loaded, prompt):
    return SequenceLayout.of(loaded.model.config, prompt)


@pytest.fixture(scope="module")
def decoder_input(loaded, golden, prompt):
    model = loaded.model
    text = model.embed_text(torch.tensor(prompt.token_ids), loaded.tokenizer.eos_id)
    patches = torch.from_numpy(golden["projected_patches"][0])
    return model.assemble(text, patches, [model.embed_proprio(torch.from_numpy(golden["proprio_normalized"]))], None)


def assert_close(ours, reference, tolerance=1e-4):
    ours = np.asarray(ours)
    assert ours.shape == reference.shape
    assert np.abs(ours.astype(np.float64) - reference).max() <= tolerance


def levels_off(ours, reference):
    return np.abs(ours.astype(int) - reference.astype(int))


@pytest.mark.parametrize("name", ["square", "vga"])
def test_resize(name):
    arrays = read("resize_golden.npz")
    frame, expected = torch.from_numpy(arrays[f"{name}_in"]), arrays[f"{name}_out"]
    assert levels_off(resize(frame, 224).numpy(), expected).max() <= 1
    products = LanczosProducts(*frame.shape[:2], 224, torch.device("cpu"))
    assert levels_off(products(frame).numpy(), expected).max() <= 1


def test_center_crop(golden):
    frames = torch.from_numpy(np.stack([golden["primary_image"], golden["wrist_image"]]))
    reference = np.stack([golden["primary_crop"], golden["wrist_crop"]])
    assert np.array_equal(CenterCrop(224, CPU)(frames).numpy(), reference)


def test_pixel_values(loaded, golden):
    frames = torch.from_numpy(np.stack([golden["primary_crop"], golden["wrist_crop"]]))
    per_tower = [normalize(frames) for normalize in loaded.model.normalizations()]
    assert_close(torch.stack(per_tower, dim=1).reshape(1, 12, 224, 224), golden["pixel_values"], 1e-6)


def test_input_ids(prompt, golden):
    assert [list(prompt.token_ids)] == golden["input_ids"].tolist()


def test_normalized_proprio(loaded, golden):
    assert_close(loaded.normalizer.normalize_proprio(golden["state"]), golden["proprio_normalized"], 1e-12)


def test_vision_features(loaded, golden, pixels):
    features = loaded.model.see(pixels, torch.empty(0))
    reference = golden["vision_features"][0]
    # The record is rounded to float16, half a unit in the last place of each value.
    rounding = np.spacing(np.abs(reference)).astype(np.float32) / 2
    assert np.all(np.abs(features.numpy() - reference) <= rounding + 1e-5)


def test_projected_patches(loaded, golden, pixels):
    assert_close(loaded.model.projector(loaded.model.see(pixels, torch.empty(0))), golden["projected_patches"][0])


def test_sequence_layout(layout, golden):
    assert layout.length == golden["hidden_after_layer0"].shape[1]
    assert layout.num_actions == golden["action_hidden_states"].shape[1]


def test_hidden_after_layer0(loaded, golden, decoder_input, layout):
    decoder = loaded.model.decoder
    hidden, _, _ = decoder.layers[0](decoder_input, decoder.rope(layout.length))
    assert_close(hidden, golden["hidden_after_layer0"][0])


def test_action_hidden_states(loaded, golden, decoder_input, layout):
    decoder, x = loaded.model.decoder, decoder_input
    for layer in decoder.layers:
        x, _, _ = layer(x, decoder.rope(layout.length))
    assert_close(decoder.norm(x[layout.action_rows(layout.num_patches)]), golden["action_hidden_states"][0])


def test_action_head(loaded, golden):
    steps = torch.from_numpy(golden["action_hidden_states"][0]).view(8, -1)
    assert_close(loaded.model.action_head(steps), golden["normalized_actions"][0], 1e-5)


def test_dense_pass_from_pixel_values_to_actions(loaded, golden, pixels, prompt):
    proprio = torch.from_numpy(golden["proprio_normalized"])
    normalized = loaded.model(pixels, proprio, torch.tensor(prompt.token_ids), loaded.tokenizer.eos_id)
    assert_close(normalized, golden["normalized_actions"][0])
    assert_close(loaded.normalizer.unnormalize_actions(normalized), golden["actions"])


# Largest and mean error of normalised actions; tiny random weights suffer more from rounding than trained ones.
FEWER_BITS = {("int8", 8): (0.17, 0.055), ("int8", 7): (0.36, 0.13), ("int8_weights", 8): (0.13, 0.05)}


@pytest.mark.parametrize("precision", ["int8", "int8_weights"])
def test_dense_pass_in_fewer_bits(golden, pixels, prompt, precision):
    quantized = load(CHECKPOINT, prepare=lambda model: store_linears(model, precision, CPU))
    pack(quantized.model)
    proprio = torch.from_numpy(golden["proprio_normalized"])
    with torch.inference_mode():
        found = quantized.model(pixels, proprio, torch.tensor(prompt.token_ids), quantized.tokenizer.eos_id)
    error = (found - torch.from_numpy(golden["normalized_actions"][0])).abs()
    largest, mean = FEWER_BITS[precision, 7 if precision == "int8" and products_saturate() else 8]
    assert 0 < error.mean() < mean, error.mean()
    assert error.max() < largest, error.max()


def test_unnormalized_actions(loaded, golden):
    assert_close(loaded.normalizer.unnormalize_actions(golden["normalized_actions"][0]), golden["actions"], 1e-7)


@pytest.fixture
def observation(golden):
    views = {"primary": golden["primary_image"], "wrist": golden["wrist_image"]}
    return Observation(views, golden["state"], str(golden["instruction"]))


def test_policy_from_raw_observation_to_actions(golden, observation):
    policy = Policy.from_checkpoint(CHECKPOINT, unnorm_key=str(golden["unnorm_key"]))
    chunk = policy.act(observation)
    assert chunk.actions.dtype == np.float64
    assert_close(chunk.actions, golden["actions"], 5e-4)


def test_bfloat16_policy_stays_near_float32(golden, observation):
    actions = Policy.from_checkpoint(CHECKPOINT, dtype="bfloat16").act(observation).actions
    span = np.ptp(golden["actions"])
    assert_close(actions, golden["actions"], 0.05 * span)


def test_float64_policy_matches_the_float32_reference(golden, observation):
    assert_close(Policy.from_checkpoint(CHECKPOINT, dtype="float64").act(observation).actions, golden["actions"], 5e-4)
