# SPDX-License-Identifier: Apache-2.0
"""What a number format does to the actions and to the choice of patches, on recorded observations.

    scripts/env python -m training.collect HELD_OUT --first 1000000 --episodes 3 --wide
    scripts/env python benchmarks/precision_error.py CHECKPOINT HELD_OUT --json FILE --precision int8
    scripts/env python benchmarks/precision_error.py CHECKPOINT HELD_OUT --json FILE --parts  # which cost most

Every episode is replayed in native precision and in the other, with the same arm and an inference per chunk: how far
apart the arm would be at the end of a chunk, in what share of the steps the gripper differs, and what share of the
patches that native precision keeps the other keeps too. `--exact` multiplies 8-bit numbers exactly where the processor
cannot (no VNNI), slowly. `--parts` quantises one kind of matrix at a time, all others staying native.
"""

import argparse
import itertools
import re
import sys

import machine
import numpy as np
import torch
from arms import Arm, arm
from libero_open_loop import error_of, key_of, observed_steps, recording_parser, recordings
from torch import Tensor
from tqdm import tqdm

from specprune_ros.engine import precision as precisions
from specprune_ros.engine.precision_int8 import Int8Linear
from specprune_ros.errors import UserError
from specprune_ros.openvla import checkpoint as release
from specprune_ros.policy import ActionChunk, Observation, Policy
from training.episodes import read_episode

# What is quantised alone, by a pattern of names.
PARTS = {
    "everything": "",
    "DINOv2 tower": r"^towers\.0",
    "SigLIP tower": r"^towers\.1",
    "projector": r"^projector",
    "q, k, v": r"layers.*qkv_proj",
    "attention output": r"layers.*o_proj",
    "gate, up": r"layers.*gate_up_proj",
    "down": r"layers.*down_proj",
    "first two layers": r"layers\.[01]\.",
    "last two layers": r"layers\.(LAST)\.",
}


def main(arguments: list[str]) -> None:
    given = _parser().parse_args(arguments)
    if given.exact:
        Int8Linear.pack = lambda layer: None  # type: ignore[method-assign]
        torch._int_mm = _exact_product  # type: ignore[assignment]
    paths = recordings(given)
    key = key_of(given, paths)
    native = Policy.from_checkpoint(given.checkpoint, given.device, given.dtype, unnorm_key=key)
    whole = Policy.from_checkpoint(
        given.checkpoint, given.device, given.dtype, unnorm_key=key, precision=given.precision, keep_precision=True
    )
    small = {"": whole} if not given.parts else {f", {part}": partly(given, key, PARTS[part]) for part in PARTS}
    rows: dict[str, list[dict[str, float]]] = {name + part: [] for name in given.arms for part in small}
    for path in tqdm(paths, unit="episode"):
        steps = itertools.islice(observed_steps(read_episode(path), native, None), given.inferences)
        observations = [step.observation for step in steps]
        for name in given.arms:
            expected = _replay(native, arm(name), observations)
            for part, policy in small.items():
                found = _replay(policy, arm(name), observations)
                rows[name + part] += [error_of(*pair) | agreement(*pair) for pair in zip(found, expected, strict=True)]
    summary = {name: summarize(measured) for name, measured in rows.items()}
    content = {
        "run": machine.describe(torch.device(given.device)),
        "episodes": len(paths),
        "precision": given.precision,
        "exact": given.exact,
        "arms": summary,
    }
    machine.write(content, given.json)
    for name, row in summary.items():
        print(name, ", ".join(f"{key} {value:.3g}" for key, value in row.items()))


def partly(given: argparse.Namespace, key: str, part: str) -> Policy:
    """A policy in which the matrices whose name matches are in `given.precision`."""
    loaded = release.load(given.checkpoint, given.device, given.dtype, key)
    depth = loaded.model.config.decoder.num_layers
    part = part.replace("LAST", f"{depth - 2}|{depth - 1}")
    for parent, child, linear in precisions.linears(loaded.model):
        name = next(name for name, module in loaded.model.named_modules() if module is linear)
        if re.search(part, name):
            setattr(parent, child, precisions.stored(linear, precisions.LAYERS[given.precision]))
    precisions.pack(loaded.model)
    return Policy(loaded)


def agreement(chunk: ActionChunk, native: ActionChunk) -> dict[str, float]:
    """Shares of native precision's patches that are kept too, after the static selection and at the end."""
    shares = {}
    for stage in ("kept_static", "kept_final"):
        kept, wanted = (
            {(view, patch) for view, patches in enumerate(getattr(c.pruning, stage)) for patch in patches.tolist()}
            for c in (chunk, native)
        )
        shares[stage] = len(kept & wanted) / len(wanted)
    return shares


def summarize(rows: list[dict[str, float]]) -> dict[str, float]:
    summary: dict[str, float] = {"inferences": len(rows)}
    for name in ("centimetres", "degrees", "gripper_flips", "kept_static", "kept_final"):
        values = np.array([row[name] for row in rows])
        summary[name] = float(values.mean())
        summary[f"{name}_worst_5_percent"] = float(np.quantile(values, 0.05 if name.startswith("kept") else 0.95))
    return summary


def _replay(policy: Policy, chosen: Arm, observations: list[Observation]) -> list[ActionChunk]:
    chosen.apply(policy)
    return [policy.act(observation) for observation in observations]


def _exact_product(a: Tensor, b: Tensor) -> Tensor:
    """Of 8-bit numbers: float64 holds every sum."""
    return a.double() @ b.double()


def _parser() -> argparse.ArgumentParser:
    parser = recording_parser("What a number format does to actions and kept patches.")
    parser.add_argument("--precision", choices=precisions.PRECISIONS[1:], default="int8", help="default: %(default)s")
    parser.add_argument("--arms", nargs="+", default=["dense", "paper", "fast"], help="see benchmarks/arms.py")
    parser.add_argument("--inferences", type=int, default=None, help="at most this many per episode (default: all)")
    parser.add_argument("--parts", action="store_true", help="one kind of matrix at a time")
    parser.add_argument("--exact", action="store_true", help="8-bit numbers multiplied exactly")
    return parser


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"benchmarks/precision_error.py: {error}")
