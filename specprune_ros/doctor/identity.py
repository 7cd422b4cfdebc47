# SPDX-License-Identifier: Apache-2.0
"""What the checkpoint is: variant, sizes, step, and the memory that it needs."""

import math
from collections import Counter

import torch

from specprune_ros.checks import FAIL, PASS, WARN, Check, bytes_text
from specprune_ros.doctor.subject import Subject
from specprune_ros.errors import CheckpointError
from specprune_ros.free_memory import available_bytes
from specprune_ros.openvla.checkpoint import auto_dtype
from specprune_ros.openvla.config import DIFFUSION, ModelConfig
from specprune_ros.openvla.contents import Contents
from specprune_ros.openvla.model import OpenVLA
from specprune_ros.openvla.variant import step_of
from specprune_ros.openvla.weight_map import check_places

BYTES = {"float32": 4, "bfloat16": 2}


def check_identity(subject: Subject) -> list[Check]:
    """Rows about variant, proprio, sizes, weights and memory, as far as they could be read."""
    rows = []
    if subject.variant:
        steps = {step_of(path) for path in subject.variant.components.values()}
        step = f"; step {steps.pop()}" if steps else ""
        rows.append(Check("variant", PASS, f"{subject.variant}{step}"))
        if not subject.variant.proprio:
            detail = "none is read, for want of a proprio_projector file; copy it if the training used proprio"
            rows.append(Check("proprio", PASS, detail))
    if subject.contents:
        rows.append(Check("model", PASS, _model(subject.contents.config, subject)))
        with torch.device("meta"):
            model = OpenVLA(subject.contents.config)
        count = sum(math.prod(parameter.shape) for parameter in model.parameters())
        rows += [_weights(subject, subject.contents, model, count), _memory(count)]
    return rows


def _model(config: ModelConfig, subject: Subject) -> str:
    views = f"{config.num_views} view{'s' if config.num_views > 1 else ''} of {config.image_size} pixels"
    crop = "centre crop" if subject.facts["center_crop"].value else "no crop"
    proprio = f"{config.proprio_dim} proprio" if config.proprio_dim else "no proprio"
    steps = f", {config.diffusion_steps} denoising steps" if config.head == DIFFUSION else ""
    space = subject.facts["action_space"].value
    return f"{views} ({crop}), {proprio}, chunks of {config.chunk_length} x {config.action_dim} ({space}){steps}"


def _weights(subject: Subject, contents: Contents, model: OpenVLA, count: int) -> Check:
    """Every weight has its place and its shape, without a number being read."""
    try:
        check_places(model, contents.weights, contents.components)
    except CheckpointError as error:
        return Check("weights", FAIL, str(error))
    decoder = contents.config.decoder
    quantized = contents.variant.quantized
    stored = Counter(subject.weights.dtypes.values()) if subject.weights else Counter()
    formats = quantized.precision if quantized else ", ".join(name for name, _ in stored.most_common())
    detail = (
        f"{count / 1e6:,.4g} million parameters are used, {decoder.num_layers} layers of width "
        f"{decoder.hidden_size}; stored in {formats}; all in place"
    )
    return Check("weights", PASS, detail)


def _memory(count: int) -> Check:
    """Of the weights; whether they fit what is free here, in the format that model.dtype auto would take."""
    detail = ", ".join(f"{bytes_text(count * size)} in {name}" for name, size in BYTES.items())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = auto_dtype(device)
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else available_bytes()
    where = "on the GPU" if device == "cuda" else "here, without a GPU"
    detail += f"; {bytes_text(free)} are free {where}"
    if count * BYTES[dtype] > free:
        return Check("memory", WARN, f"{detail}: not enough for {dtype}; a larger GPU, or model.precision, is needed")
    return Check("memory", PASS, detail)
