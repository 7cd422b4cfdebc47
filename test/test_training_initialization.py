# SPDX-License-Identifier: Apache-2.0
"""Weights of a trained run in a finer or deeper model."""

from dataclasses import replace

import pytest
import torch
from random_model import model_config

from specprune_ros.errors import UserError
from training.initialization import grown, random_model


def deeper(config, num_layers):
    return replace(config, decoder=replace(config.decoder, num_layers=num_layers))


def finer(config):
    towers = tuple(
        replace(tower, patch_size=tower.patch_size // 2, num_patches=4 * tower.num_patches) for tower in config.towers
    )
    return replace(config, towers=towers)


def grow(source, config):
    model = random_model(config, seed=1)
    # As a run holds it: the model is one of several modules.
    state = {f"0.{name}": tensor for name, tensor in source.state_dict().items()}
    wanted = {f"0.{name}": tensor for name, tensor in model.state_dict().items()}
    model.load_state_dict({name[2:]: tensor for name, tensor in grown(state, wanted).items()})
    return model.eval()


def outputs(model, frames):
    pixels = [normalize(frames) for normalize in model.normalizations()]
    return model(pixels, torch.ones(model.config.proprio_dim), torch.tensor([1, 5, 6, 7]), 2)


@pytest.mark.parametrize("num_layers", [3, 4, 5])
def test_new_layers_change_nothing(num_layers):
    config = model_config(num_layers=3)
    source = random_model(config, seed=0).eval()
    frames = torch.randint(0, 256, (2, config.image_size, config.image_size, 3), dtype=torch.uint8)
    model = grow(source, deeper(config, num_layers))
    torch.testing.assert_close(outputs(model, frames), outputs(source, frames), rtol=1e-4, atol=1e-5)


def test_a_small_patch_is_seen_as_a_large_one():
    config = model_config(num_layers=3)
    source = random_model(config, seed=0).eval()
    model = grow(source, finer(config))
    size, patch = config.image_size, config.towers[0].patch_size
    picture = torch.rand(1, 3, size // 2, size // 2)
    enlarged = picture.repeat_interleave(2, 2).repeat_interleave(2, 3)
    for old, new in zip(source.towers, model.towers, strict=True):
        seen = new.patch_embed(picture[:, :, : patch // 2 * 2, : patch // 2 * 2])
        torch.testing.assert_close(
            seen[..., :1, :1], old.patch_embed(enlarged[:, :, :patch, :patch]), rtol=1e-4, atol=1e-5
        )
        side = int(old.pos_embed.shape[1] ** 0.5)
        pooled = torch.nn.functional.avg_pool2d(new.pos_embed.transpose(1, 2).unflatten(2, (2 * side, -1)), 2)
        close = (pooled.flatten(2).transpose(1, 2) - old.pos_embed).norm() / old.pos_embed.norm()
        assert close < 0.6  # random embeddings are rough: interpolation smooths them
    assert outputs(model, torch.zeros(2, size, size, 3, dtype=torch.uint8)).isfinite().all()


def test_other_differences_are_named():
    config = model_config(num_layers=3)
    wider = replace(config, projector_width=config.projector_width + 1)
    with pytest.raises(UserError, match="only patch_size, image_size and num_layers may differ"):
        grow(random_model(config, seed=0), wider)


def test_weights_of_another_kind_of_model_are_told():
    config = model_config(num_layers=3)
    model = random_model(config, seed=0)
    state = {f"0.{name}": tensor for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=r"have no 0\.action_head\."):
        grown({name: tensor for name, tensor in state.items() if "action_head" not in name}, state)
