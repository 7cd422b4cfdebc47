# SPDX-License-Identifier: Apache-2.0
"""The batched forward pass is OpenVLA's own, sample by sample.

In float64, so that only a different computation can differ: sums of some hundred terms of size 1, added in another
order by another processor, differ by 1e-13. Attention and actions are float32 and get its rounding.
"""

import pytest
import torch
from random_model import model_config, random_checkpoint

from specprune_ros.pruning.scores import patch_scores, text_attention
from training.batched_model import Drop, Prompts, decode, see

FLOAT32 = torch.finfo(torch.float32).eps
REORDERED = 1e-11  # absolute, of float64 hidden states around 1; a wrong row or mask differs by 0.01 and more

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
    steps, _ = decode(model, features, proprio, Prompts.of(prompts, model, eos_id))
    together = model.action_head(steps).float()
    for i, prompt in enumerate(prompts):
        pixels = [normalize(frames[i]) for normalize in model.normalizations()]
        alone = model(pixels, proprio[i], torch.tensor(prompt.token_ids), eos_id)
        torch.testing.assert_close(together[i], alone, rtol=2 * FLOAT32, atol=2 * FLOAT32)


def test_see_keeps_samples_and_views_apart():
    model = random_checkpoint(model_config(), seed=1, dtype=torch.float32).model
    size = model.config.image_size
    frames = torch.randint(0, 256, (2, 2, size, size, 3), dtype=torch.uint8)
    features = see(model, frames)
    assert features.shape == (2, 2, model.config.patches_per_view, sum(t.width for t in model.config.towers))
    swapped = see(model, frames.flip(0))
    torch.testing.assert_close(swapped.flip(0), features, rtol=0, atol=256 * FLOAT32 * features.abs().max().item())


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 1e6])
def test_dropped_patches_and_scores_are_those_of_one_sample_alone(checkpoint, sharpness):
    model, config = checkpoint.model, checkpoint.model.config
    eos_id, per_view, kept = checkpoint.tokenizer.eos_id, config.patches_per_view, 5
    random = torch.Generator().manual_seed(1)
    width = sum(tower.width for tower in config.towers)
    features = torch.randn(3, config.num_views, per_view, width, generator=random, dtype=model.dtype)
    proprio = torch.rand(3, config.proprio_dim, generator=random, dtype=model.dtype)
    prompts = [checkpoint.tokenizer(instruction) for instruction in INSTRUCTIONS]
    batched = Prompts.of(prompts, model, eos_id)
    steps, scores = decode(model, features, proprio, batched, frozenset({1, 3}), Drop(kept, sharpness, 7), 2)
    assert [layer.values.shape[2] for layer in scores] == [per_view, kept]

    for i, prompt in enumerate(prompts):
        text = model.embed_text(torch.tensor(prompt.token_ids), eos_id)
        patches = model.projector(features[i].flatten(0, 1))
        x = model.assemble(text, patches, [model.embed_proprio(proprio[i])], None)
        cos, sin = model.decoder.rope(len(x))
        behind = 1 + config.num_patches  # the proprio token
        alive = torch.arange(len(x))
        early = torch.zeros(config.num_views, per_view, dtype=torch.float64)
        for number, layer in enumerate(model.decoder.layers, start=1):
            x, q, k = layer(x, (cos[alive], sin[alive]))
            words = torch.arange(len(alive))[(alive >= behind)][prompt.instruction]
            words = slice(int(words[0]), int(words[-1]) + 1)
            values = patch_scores(text_attention(q, k, words))[1 : (alive < behind).sum()].view(config.num_views, -1)
            if number in (1, 3):
                torch.testing.assert_close(scores[number // 2].values[i], values, rtol=64 * FLOAT32, atol=FLOAT32 / 64)
            if number <= 2:
                early += values
            if number == 2:
                chosen = scores[1].patches[i]
                if sharpness == 1e6:  # noise decides nothing
                    assert torch.equal(chosen, early.topk(kept).indices.sort().values)
                chosen = torch.cat([1 + view * per_view + patches for view, patches in enumerate(chosen)])
                rows = torch.cat([torch.tensor([0]), chosen, torch.arange(behind, len(x))])
                x, alive = x[rows], rows
        first = 1 + config.num_views * kept + len(prompt.token_ids) - 1
        alone = model.decoder.norm(x[first : first + config.num_actions]).view(config.chunk_length, -1)
        torch.testing.assert_close(steps[i], alone, rtol=0, atol=REORDERED)


def test_patches_are_drawn_by_attention(checkpoint):
    model, config = checkpoint.model, checkpoint.model.config
    prompts = Prompts.of([checkpoint.tokenizer(INSTRUCTIONS[0])], model, checkpoint.tokenizer.eos_id)
    width = sum(tower.width for tower in config.towers)
    features = torch.randn(1, config.num_views, config.patches_per_view, width, dtype=model.dtype)
    proprio = torch.zeros(1, config.proprio_dim, dtype=model.dtype)

    def drawn(sharpness, seed):
        _, scores = decode(model, features, proprio, prompts, frozenset({3}), Drop(4, sharpness, seed), 2)
        return scores[0].patches.flatten().tolist()

    assert drawn(0.0, 1) == drawn(0.0, 1) != drawn(0.0, 2)
    counts = torch.zeros(config.patches_per_view)
    for seed in range(60):
        counts[drawn(0.0, seed)[:4]] += 1
    assert counts.max() < 60 / 2  # drawn evenly, none is preferred
