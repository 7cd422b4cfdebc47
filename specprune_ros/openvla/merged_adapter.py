# SPDX-License-Identifier: Apache-2.0
"""Whether the LoRA adapter that lies beside weights is in them: not at all, once, or twice."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.lora import FILE, adapter_factors, adapter_scaling, check_factors, merged
from specprune_ros.openvla.variant import ADAPTER
from specprune_ros.openvla.weight_containers import open_safetensors
from specprune_ros.openvla.weight_files import BACKBONE, Weights

COMPARED = 6  # weights; each is some MB
LARGEST = 64 << 20  # numbers in a weight that is compared
SURE = 0.05  # of one adapter: an error below which something is said without the base
NEVER, TWICE = 0.3, 1.7  # times, between what is certainly wrong and what may be another training's left-over


@dataclass(frozen=True)
class Presence:
    """How often an adapter is in some weights."""

    times: float
    error: float  # its standard deviation; 0 where the base was there to compare with
    compared: int  # weights


def presence(tuned: Weights, adapter: Path, base: Weights | None = None) -> Presence | None:
    """Project the weights, or what they have more than `base`, on what the adapter would add to them.

    Without the base, its weights are noise: they have next to nothing in common with the one direction, among millions,
    that the adapter adds. Towers are left out: with FiLM those of merged weights are the base's, which is right.
    None where nothing can be compared. Raises CheckpointError for an adapter that cannot be read.
    """
    scaling, factors = adapter_scaling(adapter), adapter_factors(adapter)
    names = [name for name, pair in factors.items() if pair.keys() == {"A", "B"} and _comparable(name, tuned, base)]
    common = total = 0.0
    found = 0
    with open_safetensors(adapter / FILE) as file:
        for name in names[:: max(1, len(names) // 50)]:
            a, b = (file.get_tensor(factors[name][factor]) for factor in "AB")
            check_factors(f"{adapter / FILE}: {name}", tuned.shapes[name], tuple(a.shape), tuple(b.shape))
            added = merged(torch.zeros(tuned.shapes[name]), a, b, scaling)
            if not added.any():
                continue  # the training never changed it
            stored = _tensor(tuned, name)
            weight, kept = stored.float(), added
            if base is not None:
                before = _tensor(base, name).float()
                # As the weights' format keeps it: bfloat16 loses most of a very light training.
                kept = (before + added).to(stored.dtype).float() - before
                weight = weight - before
            variance = 1.0 if base is not None else float(weight.var())
            if not variance > 0:
                continue
            common += float((weight * added).sum()) / variance
            total += float((kept * added).sum()) / variance
            found += 1
            if found == COMPARED:
                break
    if not total > 0:
        return None
    return Presence(common / total, 0.0 if base is not None else 1 / math.sqrt(total), found)


def check_presence(weights: Weights, adapter: Path) -> None:
    """Raises CheckpointError where an adapter beside weights is certainly not in them, or more than once.

    One that cannot be read, or that changes too little to be seen, says nothing.
    """
    try:
        found = presence(weights, adapter)
    except CheckpointError:
        return
    if found is None or found.error > SURE:
        return
    name = f"{adapter.name}/" if adapter.name == ADAPTER else f"{FILE} and adapter_config.json"
    elsewhere = f"move {name} away if it belongs to other weights"
    if found.times < NEVER:
        raise CheckpointError(
            f"{weights} does not hold the adapter of {name} beside it, which was never merged into these "
            f"weights: move model*.safetensors away and give the base as base_checkpoint, or {elsewhere}"
        )
    if found.times > TWICE:
        raise CheckpointError(
            f"{weights} holds the adapter of {name} beside it {found.times:.1f} times: merge it once, into "
            f"the base of its training, or {elsewhere}"
        )


def _comparable(name: str, tuned: Weights, base: Weights | None) -> bool:
    shape = tuned.shapes.get(name)
    if shape is None or math.prod(shape) > LARGEST or name.startswith(BACKBONE):
        return False
    return base is None or base.shapes.get(name) == shape


def _tensor(weights: Weights, name: str) -> Tensor:
    return next(tensor for _, tensor in weights.tensors({name}))
