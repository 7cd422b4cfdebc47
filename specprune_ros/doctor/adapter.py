# SPDX-License-Identifier: Apache-2.0
"""Whether a LoRA adapter beside the weights is in them: not at all, once, or twice. Needs the base to compare with."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from specprune_ros.checks import FAIL, PASS, WARN, Check
from specprune_ros.doctor.subject import Subject
from specprune_ros.openvla.lora import FACTOR, adapter_scaling, merged
from specprune_ros.openvla.weight_containers import open_safetensors
from specprune_ros.openvla.weight_files import WeightFiles

COMPARED = 3  # weights; each is a few MB
LARGEST = 64 << 20  # numbers in a weight that is compared
TOLERANCE = 0.2  # of one adapter: bfloat16's rounding stays below


def check_adapter(subject: Subject) -> list[Check]:
    variant = subject.variant
    if variant is None:
        return []
    if variant.adapter:
        row = subject_row(subject, "un-merged; it is merged in float32 when the checkpoint loads, nothing to do")
        return [row]
    if subject.base is None:
        if variant.leftover_adapter is None:
            return []
        detail = (
            f"{variant.leftover_adapter.name}/ beside weights is a left-over of merging and is not applied again; "
            "'--base DIR' compares the weights with the base checkpoint's to be sure"
        )
        return [Check("adapter", PASS, detail)]
    compared = subject.attempt("adapter", lambda: _compare(subject))
    return [compared] if compared else []


def subject_row(subject: Subject, detail: str) -> Check:
    assert subject.variant and subject.variant.adapter
    adapter = subject.variant.adapter
    scaling = subject.attempt("adapter", lambda: adapter_scaling(adapter))
    return Check("adapter", PASS if scaling else FAIL, f"scaling {scaling or 0:g}, {detail}")


def _compare(subject: Subject) -> Check:
    """Project what the fine-tune changed on what the adapter would change: 0, 1 or 2 times."""
    assert subject.base and subject.variant
    base, tuned = WeightFiles(subject.base), WeightFiles(subject.variant.weights)
    adapter = subject.variant.leftover_adapter
    if adapter is None:
        return _without_adapter(base, tuned)
    shares = list(_shares(base, tuned, adapter))
    if not shares:
        return Check("adapter", WARN, f"{adapter} changes no weight that both checkpoints have; nothing compared")
    share = sum(shares) / len(shares)
    if abs(share - 1) < TOLERANCE:
        return Check("adapter", PASS, f"merged once into the weights ({share:.2f} times, by {len(shares)} weights)")
    if abs(share) < TOLERANCE:
        return Check(
            "adapter",
            FAIL,
            "the weights are the base's: the adapter was never merged; move model*.safetensors away and set "
            "model.base_checkpoint",
        )
    return Check(
        "adapter",
        FAIL,
        f"the weights hold the adapter {share:.2f} times, not once: merge it again, into the base of the training",
    )


def _shares(base: WeightFiles, tuned: WeightFiles, adapter: Path) -> Iterator[float]:
    scaling = adapter_scaling(adapter)
    with open_safetensors(adapter / "adapter_model.safetensors") as file:
        factors: dict[str, dict[str, str]] = {}
        for name in list(file.keys()):
            if match := FACTOR.fullmatch(name):
                factors.setdefault(f"{match['module']}.weight", {})[match["factor"]] = name
        chosen = [name for name in factors if _comparable(name, base, tuned)][:: max(1, len(factors) // 50)]
        found = 0
        for name in chosen:
            a, b = (file.get_tensor(factors[name][factor]) for factor in "AB")
            delta = merged(torch.zeros(base.shapes[name]), a, b, scaling)
            if not delta.any():
                continue  # the training never changed it
            change = _tensor(tuned, name) - _tensor(base, name)
            yield float((change * delta).sum() / (delta * delta).sum())
            found += 1
            if found == COMPARED:
                return


def _comparable(name: str, base: WeightFiles, tuned: WeightFiles) -> bool:
    """Towers are left out: with FiLM those of the merged weights are the base's, which is right."""
    shape = base.shapes.get(name)
    large = shape is None or torch.Size(shape).numel() > LARGEST
    return not large and tuned.shapes.get(name) == shape and not name.startswith("vision_backbone.")


def _without_adapter(base: WeightFiles, tuned: WeightFiles) -> Check:
    names = sorted(name for name in tuned.shapes if name.startswith(("projector.", "language_model.model.layers.0.")))
    same = [name for name in names if name in base.shapes and torch.equal(_tensor(tuned, name), _tensor(base, name))]
    if names and len(same) == len(names):
        return Check("adapter", FAIL, "projector and first layer are the base's: the fine-tune is not in these weights")
    return Check("adapter", PASS, "the weights differ from the base's, as a fine-tune's should")


def _tensor(files: WeightFiles, name: str) -> Tensor:
    return next(tensor.float() for _, tensor in files.tensors({name}))
