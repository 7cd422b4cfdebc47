# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels against the plain layers; on a CPU in Triton's interpreter."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
pytest.importorskip("triton", reason="needs Triton, which torch for CUDA brings")

from random_model import model_config, random_model

from specprune_ros.engine import fused_layers, fusing, kernels, weight_kernels
from specprune_ros.engine.kernels import Product
from specprune_ros.engine.precision import LAYERS, store_linears, stored
from specprune_ros.engine.precision_rows import FP8, quantize_fp8, quantize_int8
from specprune_ros.engine.precision_weights import SmallWeightsLinear
from specprune_ros.openvla.decoder import rotate

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
needs_gpu = pytest.mark.skipif(
    DEVICE.type == "cpu", reason="needs a GPU: Triton's interpreter rounds e4m3 down and multiplies no bfloat16"
)
KINDS = [pytest.param("int8"), pytest.param("fp8", marks=needs_gpu)]
QUANTIZE = {"int8": quantize_int8, "fp8": quantize_fp8}
STEP = {"int8": 1 / 127, "fp8": 1 / 8}  # between neighbouring numbers: of the row's largest, of the number itself


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    error = (found.double() - expected.double()).norm() / expected.double().norm()
    assert error <= DTYPES[expected.dtype], error


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE, dtype)


def random_norm(width: int, dtype: torch.dtype = torch.float32) -> torch.nn.RMSNorm:
    norm = torch.nn.RMSNorm(width, eps=1e-5, device=DEVICE, dtype=dtype).requires_grad_(False)
    norm.weight.copy_(random(width, dtype=dtype))
    return norm


def random_product(length: int, width: int) -> tuple[Product, torch.Tensor]:
    """Numbers with scales; and what they are."""
    numbers = random(length, width) * 1000
    rows, columns = random(length, 1).abs() / 100, random(width).abs() / 100
    return Product(numbers.int(), rows, columns), numbers.int() * rows * columns


def assert_quantized(found: kernels.Quantized, expected: torch.Tensor, precision: str) -> None:
    """As the plain quantisation does it; next to a rounding edge the neighbour will do, but not often."""
    numbers, scale = QUANTIZE[precision](expected)
    torch.testing.assert_close(found.scale, scale, rtol=1e-5, atol=0)
    one, other = found.numbers.float() * found.scale, numbers.float() * scale
    step = STEP[precision] * (expected.abs().amax(1, keepdim=True) if precision == "int8" else expected.abs())
    assert ((one - other).abs() <= 1.01 * step + 1e-6).all()
    assert (one - other).abs().gt(1e-4 * step + 1e-6).float().mean() < 0.01


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [32, 100])
def test_gpu_kernel_of_residual_sum_and_norm(width: int, dtype: torch.dtype):
    norm = random_norm(width, dtype)
    x, added = random(7, width, dtype=dtype), random(7, width, dtype=dtype) * 3
    total, normed = kernels.add_norm(x, added, norm)
    close(total, x + added)
    close(normed, norm(x + added))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gpu_kernel_of_the_rotary_embedding(dtype: torch.dtype):
    decoder = random_model(model_config(hidden=64, num_heads=4), 0, dtype).to(DEVICE).decoder
    rope, qkv = decoder.rope(9), random(9, 3 * 64, dtype=dtype)
    q, k, _ = qkv.view(9, 3, 4, 16).permute(1, 2, 0, 3)
    for found, expected in zip(kernels.rotated(qkv, rope, 4), (q, k), strict=True):
        close(found, rotate(expected, rope))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [48, 2060])
def test_gpu_kernel_of_swiglu(width: int, dtype: torch.dtype):
    gate_up = random(5, 2 * width, dtype=dtype)
    gate, up = gate_up.chunk(2, dim=-1)
    close(kernels.swiglu(gate_up), torch.nn.functional.silu(gate) * up)


@pytest.mark.parametrize("precision", KINDS)
def test_gpu_kernels_that_scale_and_quantise(precision: str):
    kind, norm, x = LAYERS[precision].number_format, random_norm(60), random(7, 60)
    assert_quantized(kernels.quantize(x, kind), x, precision)
    assert_quantized(kernels.quantize(x, kind, norm), norm(x), precision)
    product, added = random_product(7, 60)
    close(kernels.add_product(x, product), x + added)
    total, normed = kernels.add_norm_quantize(x, product, norm, kind)
    close(total, x + added)
    assert_quantized(normed, norm(x + added), precision)
    product, gate_up = random_product(7, 2 * 60)
    gate, up = gate_up.chunk(2, dim=-1)
    assert_quantized(kernels.swiglu_quantize(product, kind), torch.nn.functional.silu(gate) * up, precision)
    assert_quantized(kernels.quantize(torch.zeros_like(x), kind), torch.zeros_like(x), precision)


@pytest.mark.parametrize("precision", KINDS)
def test_gpu_nothing_that_is_no_number_gets_lost(precision: str):
    """Else a broken model or frame would come out as actions that look right."""
    kind, x = LAYERS[precision].number_format, random(4, 60)
    x[1, 7], x[2, 3] = float("nan"), float("inf")
    for quantized in (kernels.quantize(x, kind), kernels.quantize(x, kind, random_norm(60))):
        assert quantized.scale.isfinite().flatten().tolist() == [True, False, False, True]
    product, _ = random_product(4, 2 * 60)
    product.rows[1] = float("nan")
    assert kernels.swiglu_quantize(product, kind).scale.isfinite().flatten().tolist() == [True, False, True, True]


def test_gpu_kernel_that_scales_and_rotates():
    rope = random_model(model_config(hidden=64, num_heads=4, num_layers=2), 0, torch.float32).to(DEVICE).decoder.rope(9)
    product, qkv = random_product(9, 3 * 64)
    q, k, v = qkv.view(9, 3, 4, 16).permute(1, 2, 0, 3)
    for found, expected in zip(
        kernels.scaled_and_rotated(product, rope, 4), (rotate(q, rope), rotate(k, rope), v), strict=True
    ):
        close(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [slice(None), slice(4, 9)], ids=["all", "actions"])
@torch.inference_mode()
def test_gpu_fused_layer_is_the_layer(rows: slice, dtype: torch.dtype):
    decoder = random_model(model_config(hidden=64, num_heads=4), 0, dtype).to(DEVICE).decoder
    x, rope = random(13, 64, dtype=dtype), decoder.rope(13)
    found = fused_layers.fused(decoder.layers[0])(x, rope, rows)
    for one, other in zip(found, decoder.layers[0](x, rope, rows), strict=True):
        close(one, other)


@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize("rows", [slice(None), slice(20, 25)], ids=["all", "actions"])
@torch.inference_mode()
def test_gpu_fused_layer_of_8_bits_is_as_near_to_the_exact_one_as_the_plain_one(rows: slice, precision: str):
    """Both round at other places, so they are compared with the exact layer, and with each other."""
    model = random_model(model_config(hidden=64, num_heads=4, num_layers=2), 0, torch.float32).to(DEVICE)
    x, rope = random(29, 64), model.decoder.rope(29)
    exact = model.decoder.layers[0](x, rope, rows)
    store_linears(model, precision, DEVICE)
    plain = model.decoder.layers[0](x, rope, rows)
    found = fused_layers.fused(model.decoder.layers[0])(x, rope, rows)
    for one, other, truth in zip(found, plain, exact, strict=True):
        scale = truth.norm()
        assert (one - truth).norm() <= 1.3 * (other - truth).norm() + 1e-6 * scale
        assert (one - other).norm() / scale < 0.06


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_gpu)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows, inner, columns", [(3, 128, 40), (130, 256, 129)])
@pytest.mark.parametrize("precision", ["int8_weights", "int4_weights"])
@torch.inference_mode()
def test_gpu_kernel_of_small_weights(
    precision: str, rows: int, inner: int, columns: int, bias: bool, dtype: torch.dtype
):
    linear = torch.nn.Linear(inner, columns, bias, DEVICE, dtype)
    small = stored(linear, LAYERS[precision])
    expected = torch.nn.functional.linear(
        x := random(rows, inner, dtype=dtype), small.weight_matrix().to(dtype), linear.bias
    )
    small.kernel = weight_kernels.PRODUCTS[type(small)]
    close(small(x[None])[0], expected)


def test_gpu_kernel_of_8_bit_weights_takes_any_inner_size():
    small = stored(torch.nn.Linear(72, 40, False, DEVICE), LAYERS["int8_weights"])
    x = random(5, 72)
    close(weight_kernels.int8_product(x, small), x @ small.weight_matrix().t())


@pytest.mark.parametrize("precision", ["int8_weights", "int4_weights"])
@torch.inference_mode()
def test_gpu_small_weights_get_their_kernels_and_activations_keep_their_format(precision: str):
    model = random_model(model_config(hidden=128, num_heads=4, num_layers=2), 0, torch.float32).to(DEVICE)
    store_linears(model, precision, DEVICE)
    x, rope = random(13, 128), model.decoder.rope(13)
    expected = model.decoder.layers[0](x, rope)
    assert fusing.try_and_fuse(model) == ""
    small = [module for module in model.modules() if isinstance(module, SmallWeightsLinear)]
    assert small and all(linear.kernel for linear in small)
    for one, other in zip(model.decoder.layers[0](x, rope), expected, strict=True):
        close(one, other)


@torch.inference_mode()
def test_gpu_layers_are_fused_and_the_model_does_what_it_did():
    model = random_model(model_config(hidden=64, num_heads=4, num_layers=2), 0, torch.float32).to(DEVICE)
    x, rope = random(13, 64), model.decoder.rope(13)
    expected = [layer(x, rope) for layer in model.decoder.layers]
    assert fusing.try_and_fuse(model) == ""
    assert all(isinstance(layer, fused_layers.FusedLayer) for layer in model.decoder.layers)
    for layer, results in zip(model.decoder.layers, expected, strict=True):
        for one, other in zip(layer(x, rope), results, strict=True):
            close(one, other)


@pytest.mark.parametrize(
    "broken, problem",
    [
        (lambda gate_up: torch.zeros_like(gate_up[:, : gate_up.shape[1] // 2]), "their result is off by"),
        (lambda gate_up: gate_up[:, : gate_up.shape[1] // 2] * float("nan"), "their result is off by nan"),
        (lambda gate_up: 1 / 0, "division by zero"),
    ],
    ids=["wrong", "nan", "raises"],
)
def test_gpu_layers_stay_plain_when_the_kernels_do_not_do_it(broken, problem: str, monkeypatch):
    model = random_model(model_config(hidden=64, num_heads=4, num_layers=2), 0, torch.float32).to(DEVICE)
    before = list(model.decoder.layers)
    monkeypatch.setattr(kernels, "swiglu", broken)
    said = fusing.try_and_fuse(model)
    assert said.startswith("decoder layers run without their Triton kernels") and problem in said
    assert "\n" not in said
    assert list(model.decoder.layers) == before


def test_nothing_is_fused_on_a_cpu():
    model = random_model(model_config(hidden=64, num_heads=4, num_layers=2), 0, torch.float32)
    before = list(model.decoder.layers)
    assert fusing.fuse_layers(model) == ""
    assert list(model.decoder.layers) == before


def test_gpu_kinds_of_the_kernels_are_those_of_the_formats():
    assert set(kernels.LIMIT) == {LAYERS["int8"].number_format, FP8}
