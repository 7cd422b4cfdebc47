# SPDX-License-Identifier: Apache-2.0
"""Packed weights give what nn.Linear gives, for any number of rows."""

import pytest
import torch
from torch import nn

from specprune_ros.engine.packed_linear import PackedLinear, pack_linears

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


@pytest.mark.parametrize("rows", [1, 7, 56, 281, 605])
@pytest.mark.parametrize("bias", [True, False])
def test_same_as_linear(rows: int, bias: bool):
    torch.manual_seed(rows)
    linear = nn.Linear(96, 130, bias=bias)
    x = torch.randn(rows, 96)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(x), linear(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(PackedLinear(linear)(x.view(1, rows, 96)), linear(x)[None], rtol=1e-5, atol=1e-5)


def test_packs_float32_layers_alone():
    module = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8)), nn.Linear(8, 8).double(), nn.LayerNorm(8))
    pack_linears(module)
    kinds = [type(child) for child in (module[0], module[1][0], module[2], module[3])]
    assert kinds == [PackedLinear, PackedLinear, nn.Linear, nn.LayerNorm]
