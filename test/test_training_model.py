"""The batched forward pass is OpenVLA's own, sample by sample."""

import pytest
import torch
from random_model import model_config, random_checkpoint

from training.batched_model import Prompts, decode, see

INSTRUCTIONS = ("pick up the bowl", "open the drawer", "put the moka pot on the stove and turn the stove on")


@pytest.fixture(scope="module")
def checkpoint():
    return random_checkpoint(model_config(num_layers=3), seed=1)


def test_every_sample_gets_what_it_would_get_alone(checkpoint):
    model, config = checkpoint.model, checkpoint.model.config
    random = torch.Generator().manual_seed(0)
    size = config.image_size
    frames = torch.randint(0, 256, (3, config.num_views, size, size, 3), generator=random, dtype=torch.uint8)
    proprio = torch.rand(3, config.proprio_dim, generator=random, dtype=model.dtype)
    prompts = [checkpoint.tokenizer(instruction) for instruction in INSTRUCTIONS]
    assert len({len(prompt.token_ids) for prompt in prompts}) == 3  # or there would be no padding to test
    eos_id = checkpoint.tokenizer.eos_id

    features = torch.cat(
        [
            tower(normalize(frames.flatten(0, 1)).to(model.dtype))
            for tower, normalize in zip(model.towers, model.normalizations(), strict=True)
        ],
        dim=-1,
    ).unflatten(0, frames.shape[:2])
    together = model.action_head(decode(model, features, proprio, Prompts.of(prompts, model, eos_id))).float()
    for i, prompt in enumerate(prompts):
        pixels = [normalize(frames[i]) for normalize in model.normalizations()]
        alone = model(pixels, proprio[i], torch.tensor(prompt.token_ids), eos_id)
        torch.testing.assert_close(together[i], alone, rtol=1e-5, atol=1e-6)


def test_see_keeps_samples_and_views_apart(checkpoint):
    model = checkpoint.model.float()
    size = model.config.image_size
    frames = torch.randint(0, 256, (2, 2, size, size, 3), dtype=torch.uint8)
    features = see(model, frames)
    assert features.shape == (2, 2, model.config.patches_per_view, sum(t.width for t in model.config.towers))
    swapped = see(model, frames.flip(0))
    torch.testing.assert_close(swapped.flip(0), features)
