# SPDX-License-Identifier: Apache-2.0
"""In which number format the matrix products run: of the decoder's layers, the vision towers and the patch projector.

Everything else stays as it is in every precision: embeddings, norms, softmax, scores, proprio projector, head. On a GPU
`int8` and `fp8` are of the decoder alone: towers and projector are too small to gain by it, and lose time (on an H100
the towers' 3.7 ms became 10.7).

torchao was tried first (0.18 beside torch 2.13). On a CPU its eager 8-bit layers take 40 times as long as float32, and
compiled they become the oneDNN operators that `precision_int8` calls; on a GPU they call the operators that are called
here. So it would be a dependency without use, and its tensor subclasses hide what a graph capture needs to see.
"""

import warnings
from dataclasses import dataclass

import torch
from torch import nn

from specprune_ros.engine.fusing import fuse_layers
from specprune_ros.engine.packed_linear import pack_linears
from specprune_ros.engine.precision_fp8 import Fp8Linear
from specprune_ros.engine.precision_int8 import NO_VNNI, Int8Linear, beats_float32, products_saturate
from specprune_ros.engine.precision_names import NATIVE, PRECISIONS
from specprune_ros.engine.precision_weights import Int4WeightsLinear, Int8WeightsLinear
from specprune_ros.engine.side_stream import SideStream
from specprune_ros.errors import ConfigError
from specprune_ros.openvla.config import ModelConfig
from specprune_ros.openvla.model import OpenVLA
from specprune_ros.openvla.stored_linear import StoredLinear

LAYERS: dict[str, type[StoredLinear]] = {
    "int8": Int8Linear,
    "fp8": Fp8Linear,
    "int8_weights": Int8WeightsLinear,
    "int4_weights": Int4WeightsLinear,
}
DECODER_ALONE = ("int8", "fp8")  # on a GPU
FP8_CAPABILITY = (8, 9)
ALIGNMENT = {"int8": 8, "fp8": 16}  # of both sizes of a matrix, on CUDA


def check_precision(precision: str, device: torch.device) -> None:
    """Raises ConfigError when the device cannot run it."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision '{precision}' is unknown; use one of: {', '.join(PRECISIONS)}")
    if precision == "int8" and device.type == "cpu" and not torch.backends.mkldnn.is_available():
        raise ConfigError("precision int8 on a CPU needs a torch with oneDNN; use precision native")
    if precision == "fp8":
        if device.type != "cuda":
            raise ConfigError("precision fp8 needs an NVIDIA GPU; on a CPU use int8")
        capability = torch.cuda.get_device_capability(device)
        if capability < FP8_CAPABILITY:
            raise ConfigError(
                f"precision fp8 needs compute capability 8.9 (Ada, Hopper), {device} has "
                f"{capability[0]}.{capability[1]}; use int8"
            )


@dataclass(frozen=True)
class Choice:
    """The precision that runs, and what is wrong with it; "" when all is well."""

    precision: str
    problem: str = ""


def choose_precision(precision: str, config: ModelConfig, device: torch.device) -> Choice:
    """int8 on a CPU without the instructions for it is native where that is faster for this model, with a warning.

    Elsewhere what was asked for. Raises ConfigError as `check_precision`.
    """
    check_precision(precision, device)
    if precision != "int8" or device.type != "cpu":
        return Choice(precision)
    with device:  # the model may be made on another one just now
        slow = products_saturate()
        faster = not slow or beats_float32(config.decoder.hidden_size, config.num_patches)
    if not slow:
        return Choice(precision)
    if faster:
        return Choice(precision, f"{NO_VNNI}: precision int8 runs with 7-bit weights and gains less speed")
    problem = f"{NO_VNNI}, and float32 is faster for this model: precision int8 runs as native"
    warnings.warn(problem, stacklevel=2)
    return Choice(NATIVE, problem)


def store_linears(model: OpenVLA, precision: str, device: torch.device, *, all_of_them: bool = False) -> None:
    """Replace the linear layers that run in `precision` on `device`, one by one. `all_of_them`: as a folder has them.

    A model on the meta device gets its weights later; weights that exist are stored now.

    Raises ConfigError for a matrix that the device cannot multiply; ask `check_precision` first.
    """
    if precision == NATIVE:
        return
    in_decoder = set(model.decoder.modules())
    decoder_alone = precision in DECODER_ALONE and device.type == "cuda" and not all_of_them
    for parent, name, linear in linears(model):
        if parent in in_decoder or not decoder_alone:
            setattr(parent, name, stored(linear, _layer_type(precision, linear, parent in in_decoder, device)))


def linears(model: OpenVLA) -> list[tuple[nn.Module, str, nn.Linear]]:
    """The layers that a precision is about: parent, name in it, layer."""
    blocks = [block for tower in model.towers for block in tower.get_submodule("blocks").children()]
    return [
        (parent, name, child)
        for part in (model.decoder.layers, *blocks, model.projector)
        for parent in part.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
    ]


def pack(model: OpenVLA) -> str:
    """Lay all weights out as the device wants them. Nothing can be stored or saved afterwards.

    Returns why inferences are slower than they could be on this device, in one line; "" when all is well.
    """
    if model.device.type == "cuda":
        model.run_towers = SideStream(model.device)
        expand_outside_decoder(model)
    for module in model.modules():
        if isinstance(module, StoredLinear):
            module.pack()
    pack_linears(model)
    return fuse_layers(model)


def expand_outside_decoder(model: OpenVLA) -> None:
    """What a folder has in `DECODER_ALONE` runs in the model's own number format there."""
    in_decoder = set(model.decoder.modules())
    for parent in [module for module in model.modules() if module not in in_decoder]:
        for name, child in parent.named_children():
            if isinstance(child, Int8Linear | Fp8Linear):
                linear = nn.Linear(child.in_features, child.out_features, child.bias is not None, device="meta")
                linear.weight = nn.Parameter(child.weight_matrix().to(model.dtype), requires_grad=False)
                if child.bias is not None:
                    linear.bias = child.bias
                setattr(parent, name, linear)


def _layer_type(precision: str, linear: nn.Linear, in_decoder: bool, device: torch.device) -> type[StoredLinear]:
    """Four bits for the decoder alone, where nearly all weights are, and where groups fit."""
    if precision == "int4_weights" and not (in_decoder and Int4WeightsLinear.fits(linear.in_features)):
        return Int8WeightsLinear
    alignment = ALIGNMENT.get(precision, 1) if device.type == "cuda" else 1
    if linear.in_features % alignment or linear.out_features % alignment:
        raise ConfigError(
            f"precision {precision} needs matrix sizes that are multiples of {alignment}; this checkpoint has one of "
            f"{linear.out_features} x {linear.in_features}; use precision native"
        )
    return LAYERS[precision]


def stored(linear: nn.Linear, kind: type[StoredLinear]) -> StoredLinear:
    """The same layer with its weight in another format; on the meta device it has none yet."""
    weight, bias = linear.weight.detach(), linear.bias
    layer = kind(linear.in_features, linear.out_features, bias is not None, weight.dtype, weight.device)
    if not weight.is_meta:
        layer.store(weight, 0)
        if layer.bias is not None and bias is not None:
            layer.bias.data.copy_(bias.detach())
    return layer.train(linear.training)
