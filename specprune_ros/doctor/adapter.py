# SPDX-License-Identifier: Apache-2.0
"""Whether a LoRA adapter beside the weights is in them: not at all, once, or twice. Best told with the base."""

import torch
from torch import Tensor

from specprune_ros.checks import FAIL, PASS, WARN, Check
from specprune_ros.doctor.subject import Subject
from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.files import check_folder
from specprune_ros.openvla.lora import adapter_scaling
from specprune_ros.openvla.merged_adapter import NEVER, SURE, TWICE, presence
from specprune_ros.openvla.weight_files import WeightFiles

TOLERANCE = 0.2  # of one adapter: bfloat16's rounding stays below


def check_adapter(subject: Subject) -> list[Check]:
    """At most one row; none without an adapter and without a base to compare with."""
    variant = subject.variant
    if variant is None or variant.quantized:
        return []
    if variant.adapter:
        row = _unmerged(subject, "un-merged; it is merged in float32 when the checkpoint loads, nothing to do")
        return [row]
    if subject.base is None and variant.leftover_adapter is None:
        return []
    compared = subject.attempt("adapter", lambda: _compare(subject))
    return [compared] if compared else []


def _unmerged(subject: Subject, detail: str) -> Check:
    assert subject.variant and subject.variant.adapter
    adapter = subject.variant.adapter
    scaling = subject.attempt("adapter", lambda: adapter_scaling(adapter))
    return Check("adapter", PASS if scaling else FAIL, f"scaling {scaling or 0:g}, {detail}")


def _compare(subject: Subject) -> Check:
    """Project the weights, or what the fine-tune changed of the base's, on what the adapter would change."""
    assert subject.variant
    if subject.base:
        check_folder(subject.base, "base_checkpoint")
    base = WeightFiles(subject.base) if subject.base else None
    tuned = WeightFiles(subject.variant.weights)
    adapter = subject.variant.leftover_adapter
    if adapter is None:
        assert base
        return _without_adapter(base, tuned)
    try:
        found = presence(tuned, adapter, base)
    except CheckpointError:
        if base:
            raise
        found = None  # nobody reads a left-over; what is wrong with its files has rows of its own
    if base and found is None:
        return Check("adapter", WARN, f"{adapter} changes no weight that both checkpoints have; nothing compared")
    if found is None or found.error > SURE:
        detail = (
            f"{adapter.name}/ beside weights is a left-over of merging and is not applied again; "
            "'--base DIR' compares the weights with the base checkpoint's to be sure"
        )
        return Check("adapter", PASS, detail)
    how = f"{found.times:.2f} times, by {found.compared} weights{'' if base else '; --base DIR tells for sure'}"
    if abs(found.times - 1) < TOLERANCE:
        return Check("adapter", PASS, f"{adapter.name}/ is merged once into the weights ({how})")
    if abs(found.times) < TOLERANCE:
        return Check(
            "adapter",
            FAIL,
            f"the weights are the base's: the adapter was never merged ({how}); move model*.safetensors away and set "
            "model.base_checkpoint",
        )
    return Check(
        "adapter",
        FAIL if base or not NEVER <= found.times <= TWICE else WARN,
        f"the weights hold the adapter not once ({how}): merge it again, into the base of the training",
    )


def _without_adapter(base: WeightFiles, tuned: WeightFiles) -> Check:
    names = sorted(name for name in tuned.shapes if name.startswith(("projector.", "language_model.model.layers.0.")))
    same = [name for name in names if name in base.shapes and torch.equal(_tensor(tuned, name), _tensor(base, name))]
    if names and len(same) == len(names):
        return Check("adapter", FAIL, "projector and first layer are the base's: the fine-tune is not in these weights")
    return Check("adapter", PASS, "the weights differ from the base's, as a fine-tune's should")


def _tensor(files: WeightFiles, name: str) -> Tensor:
    return next(tensor.float() for _, tensor in files.tensors({name}))
