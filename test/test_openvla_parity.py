# SPDX-License-Identifier: Apache-2.0
"""Towers and decoder against transformers' SigLIP, DINOv2 with registers and Llama, on random weights.

The weights travel from transformers into a checkpoint in the release format and from there through the loader, so its
names, its fused matrices and its folded LayerScale are checked too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch
from release_checkpoint import Sizes, decoder_weights, projector_weights, write_checkpoint
from torch import Tensor

from specprune_ros.openvla.checkpoint import Checkpoint, load

if TYPE_CHECKING:  # importing them takes longer than the tests, in every worker that collects this file
    from transformers import Dinov2WithRegistersModel, LlamaModel, SiglipVisionModel

SMALL = Sizes()
WIDER = Sizes(
    widths=(64, 72),
    depths=(4, 5),
    heads=(4, 6),
    mlp_widths=(256, 200),
    registers=2,
    image_size=112,
    hidden=64,
    inner=172,
    layers=4,
    decoder_heads=4,
)


def dinov2(sizes: Sizes) -> Dinov2WithRegistersModel:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(
        hidden_size=sizes.widths[0],
        num_hidden_layers=sizes.depths[0],
        num_attention_heads=sizes.heads[0],
        mlp_ratio=sizes.mlp_widths[0] // sizes.widths[0],
        num_register_tokens=sizes.registers,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
    )
    return Dinov2WithRegistersModel(config)


def siglip(sizes: Sizes) -> SiglipVisionModel:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=sizes.widths[1],
        num_hidden_layers=sizes.depths[1],
        num_attention_heads=sizes.heads[1],
        intermediate_size=sizes.mlp_widths[1],
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        hidden_act="gelu",
    )
    return SiglipVisionModel(config)


def llama(sizes: Sizes) -> LlamaModel:
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=462,
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.decoder_heads,
        intermediate_size=sizes.inner,
    )
    return LlamaModel(config)


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """Weights as large as trained ones, LayerScale included, so that no part hides behind a small factor."""
    for parameter in model.parameters():
        spread = parameter.shape[-1] ** -0.5 if parameter.ndim == 2 else 0.2
        center = 1.0 if parameter.ndim == 1 and torch.all(parameter == 1) else 0.0
        torch.nn.init.normal_(parameter, center, spread)
    return model.eval().requires_grad_(False)


def fused(weights: dict[str, Tensor], names: list[str], target: str) -> dict[str, Tensor]:
    return {f"{target}.{kind}": torch.cat([weights[f"{name}.{kind}"] for name in names]) for kind in ("weight", "bias")}


def renamed(weights: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    return {f"{new}.{kind}": weights[f"{old}.{kind}"] for old, new in names.items() for kind in ("weight", "bias")}


def dinov2_release(model: Dinov2WithRegistersModel) -> dict[str, Tensor]:
    source = model.state_dict()
    positions = source["embeddings.position_embeddings"]  # transformers adds the first one to the class token
    release = {
        "cls_token": source["embeddings.cls_token"] + positions[:, :1],
        "reg_token": source["embeddings.register_tokens"],
        "pos_embed": positions[:, 1:].clone(),
        **renamed(source, {"embeddings.patch_embeddings.projection": "patch_embed.proj", "layernorm": "norm"}),
    }
    for i in range(model.config.num_hidden_layers):
        old, new = f"encoder.layer.{i}", f"blocks.{i}"
        parts = {"norm1": "norm1", "norm2": "norm2", "attention.o_proj": "attn.proj"}
        parts |= {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        release |= renamed(source, {f"{old}.{a}": f"{new}.{b}" for a, b in parts.items()})
        release |= fused(source, [f"{old}.attention.{part}_proj" for part in "qkv"], f"{new}.attn.qkv")
        for scale in (1, 2):
            release[f"{new}.ls{scale}.scale_factor"] = source[f"{old}.layer_scale{scale}.lambda1"]
    return {f"vision_backbone.featurizer.{name}": tensor for name, tensor in release.items()}


def siglip_release(model: SiglipVisionModel) -> dict[str, Tensor]:
    source = model.state_dict()
    release = {
        "pos_embed": source["embeddings.position_embedding.weight"][None],
        **renamed(source, {"embeddings.patch_embedding": "patch_embed.proj", "post_layernorm": "norm"}),
    }
    for i in range(model.config.num_hidden_layers):
        old, new = f"encoder.layers.{i}", f"blocks.{i}"
        parts = {"layer_norm1": "norm1", "layer_norm2": "norm2", "self_attn.out_proj": "attn.proj"}
        parts |= {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        release |= renamed(source, {f"{old}.{a}": f"{new}.{b}" for a, b in parts.items()})
        release |= fused(source, [f"{old}.self_attn.{part}_proj" for part in "qkv"], f"{new}.attn.qkv")
    return {f"vision_backbone.fused_featurizer.{name}": tensor for name, tensor in release.items()}


def llama_release(model: LlamaModel) -> dict[str, Tensor]:
    return {f"language_model.model.{name}": tensor for name, tensor in model.state_dict().items()}


@dataclass(frozen=True)
class Pair:
    """The same weights twice: transformers' models, and the checkpoint folder made from them."""

    sizes: Sizes
    dinov2: Dinov2WithRegistersModel
    siglip: SiglipVisionModel
    llama: LlamaModel
    ours: Checkpoint
    bfloat16: Checkpoint


@pytest.fixture(scope="module", params=[SMALL, WIDER], ids=["small", "wider"])
def pair(request, tmp_path_factory) -> Pair:
    torch.manual_seed(0)
    sizes = request.param
    models = [randomized(build(sizes)) for build in (dinov2, siglip, llama)]
    weights = dinov2_release(models[0]) | siglip_release(models[1]) | llama_release(models[2])
    weights |= projector_weights(sizes)
    # A key from the release that the decoder does not need must not disturb it.
    weights["language_model.lm_head.weight"] = decoder_weights(sizes)["language_model.lm_head.weight"]
    folder = write_checkpoint(tmp_path_factory.mktemp("release"), sizes, weights)
    return Pair(sizes, *models, load(folder), load(folder, dtype="bfloat16"))


def images(sizes: Sizes) -> Tensor:
    return torch.randn(2, 3, sizes.image_size, sizes.image_size)


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return float((ours.float() - reference).abs().max() / reference.abs().max())


def dinov2_features(pair: Pair, pixels: Tensor) -> Tensor:
    states = pair.dinov2(pixels, output_hidden_states=True).hidden_states
    return states[-2][:, 1 + pair.sizes.registers :]


def siglip_features(pair: Pair, pixels: Tensor) -> Tensor:
    return pair.siglip(pixels, output_hidden_states=True).hidden_states[-2]


@pytest.mark.parametrize("tower, features", [(0, dinov2_features), (1, siglip_features)], ids=["dinov2", "siglip"])
def test_tower(pair, tower, features):
    pixels = images(pair.sizes)
    reference = features(pair, pixels)
    assert relative_error(pair.ours.model.towers[tower](pixels), reference) < 1e-5
    assert relative_error(pair.bfloat16.model.towers[tower](pixels.bfloat16()), reference) < 0.05


def test_towers_see_each_view_alone(pair):
    pixels = images(pair.sizes)
    for tower in pair.ours.model.towers:
        torch.testing.assert_close(tower(pixels)[1:], tower(pixels[1:]), atol=1e-5, rtol=1e-5)


def test_features_are_towers_side_by_side_and_views_one_after_another(pair):
    first, second = images(pair.sizes), images(pair.sizes)
    reference = torch.cat([dinov2_features(pair, first), siglip_features(pair, second)], dim=-1)
    assert (
        relative_error(pair.ours.model.see([first, second], torch.empty(0)), torch.cat([reference[0], reference[1]]))
        < 1e-5
    )


def bidirectional(model: LlamaModel, embedded: Tensor) -> tuple[Tensor, ...]:
    """Hidden states before each layer and after the final norm; a mask of zeros adds nothing to any attention score."""
    length = embedded.shape[0]
    mask = torch.zeros(1, 1, length, length)
    output = model(inputs_embeds=embedded[None], attention_mask=mask, output_hidden_states=True, use_cache=False)
    return tuple(state[0] for state in output.hidden_states)


def run_decoder(loaded: Checkpoint, x: Tensor) -> list[Tensor]:
    decoder = loaded.model.decoder
    states = [x.to(loaded.model.dtype)]
    for layer in decoder.layers:
        states.append(layer(states[-1], decoder.rope(len(x)))[0])
    states[-1] = decoder.norm(states[-1])
    return states


def test_decoder(pair):
    embedded = torch.randn(45, pair.sizes.hidden)
    reference = bidirectional(pair.llama, embedded)
    assert len(reference) == pair.sizes.layers + 1
    causal = pair.llama(inputs_embeds=embedded[None], use_cache=False).last_hidden_state[0]
    assert relative_error(causal, reference[-1]) > 0.1  # or else the mask of zeros was ignored
    for ours, theirs in zip(run_decoder(pair.ours, embedded), reference, strict=True):
        assert relative_error(ours, theirs) < 1e-5
    assert relative_error(run_decoder(pair.bfloat16, embedded)[-1], reference[-1]) < 0.05


def test_embedding_table(pair):
    token_ids = torch.tensor([1, 5, 460])
    assert torch.equal(pair.ours.model.decoder.embed_tokens(token_ids), pair.llama.embed_tokens(token_ids))


def test_last_layer_on_some_rows_is_the_layer_on_all_rows(pair):
    decoder = pair.ours.model.decoder
    x, rope = torch.randn(30, pair.sizes.hidden), decoder.rope(30)
    some, _, _ = decoder.layers[-1](x, rope, slice(7, 19))
    torch.testing.assert_close(some, decoder.layers[-1](x, rope)[0][7:19], atol=1e-5, rtol=1e-5)


def test_layer_scale_is_folded_into_the_layer_before_it(pair):
    scale = pair.dinov2.encoder.layer[0].layer_scale1.lambda1
    plain = pair.dinov2.encoder.layer[0].attention.o_proj
    folded = pair.ours.model.towers[0].blocks[0].proj
    torch.testing.assert_close(folded.weight, plain.weight * scale[:, None])
    torch.testing.assert_close(folded.bias, plain.bias * scale)
    assert scale.abs().std() > 0.05


def test_whole_dense_pass_runs_in_bfloat16_near_float32(pair):
    pixels = [images(pair.sizes), images(pair.sizes)]
    proprio, token_ids = torch.linspace(-1, 1, 8), torch.tensor([1, 7, 8, 9, 461])
    actions = [loaded.model(pixels, proprio, token_ids, 2) for loaded in (pair.ours, pair.bfloat16)]
    assert actions[1].shape == (8, 7)
    assert actions[1].dtype == torch.float32
    assert relative_error(actions[1], actions[0]) < 0.1
