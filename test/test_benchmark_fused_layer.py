# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of the benchmarks against the plain layer and scores; on a CPU in Triton's interpreter."""

import os
import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
pytest.importorskip("triton", reason="needs Triton, which torch for CUDA brings: pip install triton==3.7.1")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))
import fused_layer  # noqa: E402
import fused_scoring  # noqa: E402

sys.path.remove(str(BENCHMARKS))

from random_model import model_config, random_model  # noqa: E402

from specprune_ros.openvla.decoder import rotate  # noqa: E402
from specprune_ros.pruning.scores import patch_scores, text_attention  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    error = (found.double() - expected.double()).norm() / expected.double().norm()
    assert error <= DTYPES[expected.dtype], error


def random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [32, 100])
def test_gpu_kernel_of_residual_sum_and_norm(width: int, dtype: torch.dtype):
    norm = torch.nn.RMSNorm(width, eps=1e-5, device=DEVICE, dtype=dtype).requires_grad_(False)
    norm.weight.copy_(random(width, dtype=dtype))
    x, added = random(7, width, dtype=dtype), random(7, width, dtype=dtype) * 3
    total, normed = fused_layer.add_norm(x, added, norm)
    close(total, x + added)
    close(normed, norm(x + added))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gpu_kernel_of_the_rotary_embedding(dtype: torch.dtype):
    decoder = random_model(model_config(hidden=64, num_heads=4), 0, dtype).to(DEVICE).decoder
    rope, qkv = decoder.rope(9), random(9, 3 * 64, dtype=dtype)
    q, k, _ = qkv.view(9, 3, 4, 16).permute(1, 2, 0, 3)
    for found, expected in zip(fused_layer.rotate_queries_and_keys(qkv, rope, 4), (q, k), strict=True):
        close(found, rotate(expected, rope))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [48, 1030])
def test_gpu_kernel_of_swiglu(width: int, dtype: torch.dtype):
    gate_up = random(5, 2 * width, dtype=dtype)
    gate, up = gate_up.chunk(2, dim=-1)
    close(fused_layer.swiglu(gate_up), torch.nn.functional.silu(gate) * up)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [slice(None), slice(4, 9)], ids=["all", "actions"])
@torch.inference_mode()
def test_gpu_fused_layer_is_the_layer(rows: slice, dtype: torch.dtype):
    decoder = random_model(model_config(hidden=64, num_heads=4), 0, dtype).to(DEVICE).decoder
    x, rope = random(13, 64, dtype=dtype), decoder.rope(13)
    found = fused_layer.fused_layer(decoder.layers[0], x, rope, rows)
    for one, other in zip(found, decoder.layers[0](x, rope, rows), strict=True):
        close(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "length, text, count", [(150, slice(101, 118), 100), (40, slice(30, 31), 1), (64, slice(0, 64), 63)]
)
def test_gpu_kernel_of_the_scores(length: int, text: slice, count: int, dtype: torch.dtype):
    q, k = 3 * random(3, length, 16, dtype=dtype), random(length, 3, 16, dtype=dtype).transpose(0, 1)
    expected = patch_scores(text_attention(q.float(), k.float(), text)[:, :, 1 : 1 + count])
    found = fused_scoring.text_scores(q, k, text, count)
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5
