# SPDX-License-Identifier: Apache-2.0
"""Quantised linear layers against slow, obvious arithmetic, and the whole policy against itself in float32."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_model import model_config, random_model
from torch import Tensor, nn

from specprune_ros.engine import precision_int8
from specprune_ros.engine.precision import LAYERS, check_precision, expand_outside_decoder, pack, store_linears
from specprune_ros.engine.precision_fp8 import Fp8Linear
from specprune_ros.engine.precision_int8 import Int8Linear, beats_float32
from specprune_ros.engine.precision_rows import quantize_fp8, quantize_int8
from specprune_ros.engine.precision_weights import GROUP, Int4WeightsLinear
from specprune_ros.errors import ConfigError
from specprune_ros.openvla import checkpoint as release
from specprune_ros.openvla.stored_linear import StoredLinear
from specprune_ros.policy import Observation, Policy

pytestmark = pytest.mark.filterwarnings("ignore:this processor has no instructions")
CPU = torch.device("cpu")
TINY = Path(__file__).parent / "data" / "tiny_oft"
ERROR = {"int8": 0.015, "fp8": 0.05, "int8_weights": 0.01, "int4_weights": 0.12}  # relative, of normal numbers


def stored(kind: type[StoredLinear], linear: nn.Linear, dtype: torch.dtype = torch.float32) -> StoredLinear:
    layer = kind(linear.in_features, linear.out_features, linear.bias is not None, dtype, CPU)
    layer.store(linear.weight.detach(), 0)
    if layer.bias is not None:
        layer.bias.data.copy_(linear.bias.detach())
    return layer


def obvious_int8(x: Tensor, weight: Tensor, bias: Tensor | None, weight_bits: int = 8) -> Tensor:
    """One number after another, in float64, from the definition."""
    x, weight = x.double(), weight.double()
    scale_x = x.abs().max(dim=1, keepdim=True).values / 127
    scale_w = weight.abs().max(dim=1, keepdim=True).values / 127
    x8, w8 = (x / scale_x).round(), (weight / scale_w).round()
    if weight_bits == 7:
        w8, scale_w = (w8 / 2).round(), scale_w * 2
    y = scale_x * (x8 @ w8.T) * scale_w.T
    return y if bias is None else y + bias.double()


@pytest.fixture
def weight_bits() -> int:
    return 7 if precision_int8.products_saturate() else 8


@pytest.mark.parametrize("rows", [1, 7, 56, 290])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_int8_is_what_its_definition_says(rows: int, bias: bool, weight_bits: int):
    torch.manual_seed(rows)
    linear, x = nn.Linear(272, 130, bias=bias), torch.randn(rows, 272) * torch.rand(rows, 1).mul(10).exp()
    expected = obvious_int8(x, linear.weight, linear.bias, weight_bits)
    layer = stored(Int8Linear, linear)
    layer.pack()
    close(layer(x), expected)
    close(layer(x.view(1, rows, 272)), expected[None])


def close(actual: Tensor, expected: Tensor) -> None:
    """Within float32's rounding. A number that lies between two integers may go either way: then one step of a few."""
    error = (actual.double() - expected).norm() / expected.norm()
    assert error < 3e-4, f"relative error {error:.2e}"


def test_seven_bits_are_eight_halved_and_rounded():
    every = torch.arange(-128, 128).to(torch.int8)
    assert precision_int8.halved(every).equal((every.double() / 2).round().to(torch.int8))


@torch.inference_mode()
def test_the_extremes_do_not_saturate(weight_bits: int):
    linear = nn.Linear(512, 64, bias=False)
    linear.weight.fill_(1.0)
    layer = stored(Int8Linear, linear)
    layer.pack()
    torch.testing.assert_close(layer(torch.ones(20, 512)), torch.full((20, 64), 512.0), rtol=0.01, atol=0)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("rows", [1, 56])
@torch.inference_mode()
def test_every_format_is_near_the_linear_layer(name: str, rows: int):
    """The CUDA operators, which run on a CPU too: slowly and, in 8 bits, exactly."""
    torch.manual_seed(0)
    linear, x = nn.Linear(2 * GROUP, 96), torch.randn(rows, 2 * GROUP)
    layer = stored(LAYERS[name], linear)
    error = ((layer(x) - linear(x)).norm() / linear(x).norm()).item()
    assert ERROR[name] / 10 < error < ERROR[name]
    weight = nn.functional.linear(x, layer.weight_matrix(), linear.bias)
    assert ((weight - linear(x)).norm() / linear(x).norm()) < ERROR[name]


@torch.inference_mode()
def test_int8_on_cuda_and_on_a_cpu_are_one_definition():
    linear, x = nn.Linear(64, 48), torch.randn(30, 64)
    close(stored(Int8Linear, linear)(x), obvious_int8(x, linear.weight, linear.bias))


@pytest.mark.parametrize("name", LAYERS)
@torch.inference_mode()
def test_rows_arrive_in_any_order_and_are_scaled(name: str):
    torch.manual_seed(1)
    weight, factors = torch.randn(24, GROUP), torch.rand(24) - 0.5
    whole = LAYERS[name](GROUP, 24, False, torch.float32, CPU)
    whole.store(weight, 0)
    parts = LAYERS[name](GROUP, 24, False, torch.float32, CPU)
    for first in (16, 0, 8):
        parts.store(weight[first : first + 8], first)
    torch.testing.assert_close(parts.weight_matrix(), whole.weight_matrix(), rtol=0, atol=0)
    before = whole.weight_matrix()
    whole.scale_rows(factors)
    torch.testing.assert_close(whole.weight_matrix(), before * factors[:, None])


@given(st.integers(1, 40), st.sampled_from([GROUP, 3 * GROUP]), st.floats(1e-6, 1e6), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_four_bits_are_the_nearest_of_sixteen(channels: int, inner: int, size: float, seed: int):
    weight = torch.randn(channels, inner, generator=torch.Generator().manual_seed(seed)) * size
    layer = Int4WeightsLinear(inner, channels, False, torch.float32, CPU)
    layer.store(weight, 0)
    groups = weight.unflatten(1, (-1, GROUP))
    step = (groups.amax(2) - groups.amin(2)) / 15
    error = (layer.weight_matrix().unflatten(1, (-1, GROUP)) - groups).abs().amax(2)
    assert (error <= 0.501 * step).all()


@given(st.integers(1, 300), st.integers(1, 200), st.integers(0, 100), st.sampled_from([quantize_int8, quantize_fp8]))
@settings(max_examples=30, deadline=None)
def test_rows_are_quantised_to_their_own_range(rows: int, inner: int, seed: int, quantize):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, inner, generator=generator) * torch.rand(rows, 1, generator=generator)
    x[0] = 0
    numbers, scale = quantize(x)
    error = (numbers.float() * scale - x).abs()
    allowed = 0.501 * scale if quantize is quantize_int8 else x.abs() / 15 + scale
    assert (error <= allowed).all()


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@torch.inference_mode()
def test_nan_and_infinity_are_not_lost(poison: float):
    layer = stored(Int8Linear, nn.Linear(64, 32))
    layer.pack()
    x = torch.randn(5, 64)
    x[2, 7] = poison
    assert (~layer(x).isfinite()).any(dim=1).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("name", LAYERS)
@torch.inference_mode()
def test_what_is_quantised_and_what_is_not(name: str):
    model = random_model(model_config(hidden=2 * GROUP), seed=0, dtype=torch.float32)
    before = model.decoder.layers[0].qkv_proj.weight.detach().clone()
    store_linears(model, name, CPU)
    layers, block = model.decoder.layers[0], model.towers[0].blocks[0]
    quantised = (layers.qkv_proj, layers.o_proj, layers.gate_up_proj, layers.down_proj, block.qkv, model.projector.fc1)
    assert all(isinstance(layer, StoredLinear) for layer in quantised)
    assert isinstance(layers.qkv_proj, LAYERS[name])
    torch.testing.assert_close(layers.qkv_proj.weight_matrix(), before, rtol=0, atol=0.15 * before.abs().max().item())
    untouched = (*model.action_head.modules(), *model.proprio_projector.modules(), model.decoder.embed_tokens)
    assert not any(isinstance(layer, StoredLinear) for layer in untouched)


def test_a_checkpoint_goes_straight_into_eight_bits():
    """On the meta device first; q, k, v in parts; LayerScale folded: every weight is within half a step."""
    loaded = release.load(TINY, prepare=lambda model: store_linears(model, "int8", CPU)).model
    native = release.load(TINY).model.state_dict()
    layers = {name: part for name, part in loaded.named_modules() if isinstance(part, Int8Linear)}
    assert layers
    for name, layer in layers.items():
        error = (layer.weight_matrix() - native[f"{name}.weight"]).abs()
        assert (error <= 0.501 * layer.scale.abs()[:, None]).all(), name
    for name, weight in loaded.state_dict().items():
        if name.rsplit(".", 1)[0] not in layers or name.endswith("bias"):
            assert torch.equal(weight, native[name]), name


def test_a_policy_runs_in_eight_bits():
    policy = Policy.from_checkpoint(TINY, precision="int8")
    views = np.random.default_rng(0).integers(0, 256, (policy.num_views, 64, 64, 3), dtype=np.uint8)
    named = {f"view{number}": view for number, view in enumerate(views)}
    actions = policy.act(Observation(named, sum(policy.proprio_range) / 2, "pick up the bowl")).actions
    assert np.isfinite(actions).all()


@pytest.mark.parametrize("name, outside", [("int8", False), ("fp8", False), ("int8_weights", True)])
def test_on_a_gpu_towers_and_projector_are_small_only_where_memory_is_what_counts(name: str, outside: bool):
    model = random_model(model_config(hidden=32), seed=0, dtype=torch.float32)
    store_linears(model, name, torch.device("cuda"))
    assert all(isinstance(layer.qkv_proj, StoredLinear) for layer in model.decoder.layers)
    assert _any_small(model.towers) == _any_small(model.projector) == outside


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_on_a_gpu_what_a_folder_has_in_8_bits_outside_the_decoder_is_expanded(name: str):
    model = random_model(model_config(hidden=32), seed=0, dtype=torch.float32)
    store_linears(model, name, CPU, all_of_them=True)
    assert _any_small(model.towers) and _any_small(model.projector)
    block = model.towers[0].blocks[0]
    expected, bias = block.qkv.weight_matrix(), block.qkv.bias
    expand_outside_decoder(model)
    assert not _any_small(model.towers) and not _any_small(model.projector)
    assert all(isinstance(layer.qkv_proj, StoredLinear) for layer in model.decoder.layers)
    assert torch.equal(block.qkv.weight, expected) and torch.equal(block.qkv.bias, bias)
    assert model.projector(torch.ones(3, sum(tower.width for tower in model.config.towers))).isfinite().all()


def _any_small(module: torch.nn.Module) -> bool:
    return any(isinstance(part, StoredLinear) for part in module.modules())


def test_refusals_name_the_way_out():
    with pytest.raises(ConfigError, match="use one of: native, int8"):
        check_precision("int3", CPU)
    with pytest.raises(ConfigError, match="on a CPU use int8"):
        check_precision("fp8", CPU)
    model = random_model(model_config(hidden=20), seed=0, dtype=torch.float32)
    with pytest.raises(ConfigError, match="multiples of 8; this checkpoint has one of"):
        store_linears(model, "int8", torch.device("cuda"))


def test_a_processor_without_the_instructions_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision_int8, "_product", lambda x, *_: torch.full((len(x), 1), 32767.0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert precision_int8.products_saturate.__wrapped__()
    assert "no instructions for 8-bit products" in str(caught[0].message)


@pytest.mark.parametrize(
    "saturate, faster, precision", [(False, None, "int8"), (True, True, "int8"), (True, False, "native")]
)
def test_int8_is_used_only_where_it_pays(monkeypatch, recwarn, saturate: bool, faster: bool | None, precision: str):
    """With the instructions nothing is measured."""
    monkeypatch.setattr("specprune_ros.engine.precision.products_saturate", lambda: saturate)
    monkeypatch.setattr("specprune_ros.engine.precision.beats_float32", lambda width, rows: faster)
    policy = Policy.from_checkpoint(TINY, precision="int8")
    assert policy.precision == precision == policy.sibling("paper").precision
    assert ("VNNI" in policy.precision_problem) == saturate
    assert any("runs as native" in str(warning.message) for warning in recwarn) == (precision == "native")
    layers = [part for part in policy._model.modules() if isinstance(part, Int8Linear)]
    assert bool(layers) == (precision == "int8")


def test_int8_may_be_kept_for_a_measurement(monkeypatch):
    monkeypatch.setattr("specprune_ros.engine.precision.beats_float32", lambda width, rows: False)
    policy = Policy.from_checkpoint(TINY, precision="int8", keep_precision=True)
    assert policy.precision == "int8" and policy.precision_problem == ""


def test_whether_int8_pays_is_measured():
    assert beats_float32(64, 40) in (True, False)


def test_native_changes_nothing():
    model = random_model(model_config(), seed=0, dtype=torch.float32)
    store_linears(model, "native", CPU)
    pack(model)
    assert not any(isinstance(part, StoredLinear) for part in model.modules())


def test_fp8_asks_for_the_one_output_that_every_gpu_has(monkeypatch):
    """With scales of rows float32 comes out on Hopper alone."""

    def scaled_mm(a, b, *, scale_a, scale_b, out_dtype, use_fast_accum):
        assert out_dtype == torch.bfloat16
        return (a.float() @ b.float() * scale_a * scale_b).to(out_dtype)

    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    linear = nn.Linear(64, 32, bias=False)
    packed = Fp8Linear(64, 32, bias=False, dtype=torch.float32, device=CPU)
    packed.store(linear.weight.data, 0)
    linear.requires_grad_(False)
    x = torch.randn(5, 64)
    y = packed(x)
    assert y.dtype == torch.float32 and float((y - linear(x)).norm() / linear(x).norm()) < ERROR["fp8"]
