# SPDX-License-Identifier: Apache-2.0
"""report.json: every number of a replay, and the verdict in words."""

import math
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from specprune_ros.pruning.config import PRESETS
from specprune_ros.replay.arm_names import DENSE, NODE
from specprune_ros.replay.differences import Differences
from specprune_ros.replay.finding import Finding
from specprune_ros.replay.measurements import EXPECTED, FLOOR, Measurements, column, mean

FORMAT = 3  # of report.json
SAFE = 2 * EXPECTED  # share of inferences above the floor up to which an arm counts as within the noise
FEW = 20  # inferences below which no verdict is given
WORST = 10
TYPICAL = 50  # percentile


def summarize(found: Measurements) -> dict[str, Any]:
    """The comparison of the arms: floor, and for every arm differences, cost and seams. Plain values for JSON."""
    floor, typical = found.floor(), found.floor(TYPICAL)
    return {
        "inferences": len(found.times),
        "shared_steps": int(np.median(found.shared)) if found.shared else 0,
        "noise_floor": {
            "percentile": FLOOR,
            "centimetres": number(floor["centimetres"]),
            "degrees": number(floor["degrees"]),
            "gripper_steps": number(floor["gripper"]),
            "typical": {measure: number(typical[measure]) for measure in ("centimetres", "degrees")},
            "consecutive": _spread(found.consecutive),
            "jpeg": _spread(found.jpeg),
        },
        "arms": {arm: _arm(found, arm, floor) for arm in found.arms},
    }


def _arm(found: Measurements, arm: str, floor: dict[str, float]) -> dict[str, Any]:
    seconds = np.array(found.seconds[arm]) * 1e3
    dense = np.array(found.seconds[DENSE]) * 1e3
    exceeding = found.exceeding(arm, floor)
    seams = np.array(found.seams[arm])
    delays = found.flip_delays[arm]
    return {
        "latency_ms": {
            "p50": number(np.percentile(seconds, 50)) if len(seconds) else None,
            "p99": number(np.percentile(seconds, 99)) if len(seconds) else None,
            "max": number(seconds.max()) if len(seconds) else None,
            "stages_p50": {
                stage: number(float(np.median(values)) * 1e3) for stage, values in found.stages[arm].items()
            },
        },
        "speedup": number(np.median(dense) / np.median(seconds)) if len(seconds) else None,
        "flop_share": number(np.mean(found.flops[arm])) if found.flops[arm] else None,
        "from_dense_at_chunk_end": _spread(found.whole[arm]),
        "from_dense_over_shared_steps": _spread(found.window[arm]),
        "above_noise_share": number(exceeding.mean()) if exceeding.size else None,
        "above_jpeg_share": number(found.exceeding(arm, found.jpeg_floor()).mean()) if exceeding.size else None,
        "gripper": {
            "differing_steps_share": number(mean(found.whole[arm], "gripper")),
            "flips_with_dense": len(delays),
            "flip_delay_steps": {"mean": number(np.mean(delays)), "min": min(delays), "max": max(delays)}
            if delays
            else None,
            "flips_missed": found.flips_missed[arm],
            "flips_added": found.flips_added[arm],
        },
        "seam": _percentiles(seams[np.isfinite(seams)]),
        "mode_share": {mode: number(count / len(seconds)) for mode, count in found.modes[arm].most_common()},
        "reasons": dict(found.reasons[arm].most_common()),
        "tokens_per_layer": {
            mode: [number(value) for value in total / found.modes[arm][mode]]
            for mode, total in found.tokens[arm].items()
        },
        "worst": found.worst(arm, WORST) if arm != DENSE else [],
    }


def _spread(values: Differences) -> dict[str, Any]:
    return {measure: _percentiles(column(values, measure)) for measure in ("centimetres", "degrees")} | {
        "gripper_steps": number(mean(values, "gripper"))
    }


def _percentiles(values: np.ndarray) -> dict[str, float | None]:
    names = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    return {name: number(np.percentile(values, rank)) if values.size else None for name, rank in names.items()}


def number(value: Any) -> float | None:
    """Six significant digits; None for what is not finite."""
    return float(f"{float(value):.6g}") if math.isfinite(value) else None


@dataclass(frozen=True)
class Verdict:
    """Three sentences."""

    safe: str
    faster: str
    advice: str
    chosen: str  # the arm to use, "" when nothing can be said

    def sentences(self) -> list[str]:
        return [self.safe, self.faster, self.advice]


def verdict(comparison: dict[str, Any], findings: Iterable[Finding]) -> Verdict:
    """Is pruning safe on this recording, how much faster, what to set."""
    count, arms, floor = comparison["inferences"], comparison["arms"], comparison["noise_floor"]
    pruned = {name: arm for name, arm in arms.items() if name != DENSE}
    if count < FEW:
        text = f"{count} inference{' is' if count == 1 else 's are'} too few for a verdict; replay at least {FEW}"
        return Verdict(text + ".", _fastest(pruned), "Replay a longer part of the recording.", "")
    if not pruned:
        return Verdict("Only dense was run, so nothing was compared.", "", "Name other arms with --arms.", "")
    within = {name: arm for name, arm in pruned.items() if within_noise(arm, floor)}
    limit = " or ".join(
        f"{floor[measure]:.2g} {unit}"
        for measure, unit in (("centimetres", "cm"), ("degrees", "degrees"))
        if floor[measure]
    )
    best = max(within, key=lambda name: within[name]["speedup"]) if within else ""
    if best:
        others = [name for name in pruned if name not in within]
        beyond = f"; {', '.join(others)} exceed{'s' if len(others) == 1 else ''} it more often" if others else ""
        safe = (
            f"On this recording {best} stays within dense's own noise: it exceeds that ({limit}) in "
            f"{within[best]['above_noise_share']:.0%} of {count} inferences, dense itself by definition in "
            f"{EXPECTED:.0%}{beyond}{_usually(within[best], floor)}."
        )
        faster = f"{best} is {within[best]['speedup']:.2f} times as fast as dense here ({_latency(arms, best)})."
        advice = f"Set {_setting(best)}, and watch the first runs: a recording cannot show what the arm does with it."
        if within[best]["speedup"] <= 1:
            advice = "Pruning does not pay on this machine: leave it off with pruning.enabled false."
            best = ""
    else:
        nearest = min(pruned, key=lambda name: pruned[name]["above_noise_share"])
        safe = (
            f"On this recording no pruned arm stays within dense's own noise ({limit}); {nearest} comes nearest and "
            f"exceeds it in {pruned[nearest]['above_noise_share']:.0%} of {count} inferences."
        )
        faster = (
            f"{nearest} is {pruned[nearest]['speedup']:.2f} times as fast as dense here ({_latency(arms, nearest)})."
        )
        advice = "Look at the worst moments below before you prune; pruning.preset careful keeps most patches."
    if any(finding.level == "error" for finding in findings):
        advice = "First repair what the audit of the recording names: its numbers may be about a fault. " + advice
    return Verdict(safe, faster, advice, best)


def within_noise(arm: dict[str, Any], floor: dict[str, Any]) -> bool:
    """Whether an arm's report says that it differs from dense no more than dense from itself.

    Both ends of the distribution count: a floor that a few restless moments make wide does not hide an arm that is
    always a little off.
    """
    gripper = arm["gripper"]["differing_steps_share"] or 0.0
    apart = arm["from_dense_over_shared_steps"]
    usual = all(
        (apart[measure]["p50"] or 0.0) <= (floor["typical"][measure] or 0.0) for measure in ("centimetres", "degrees")
    )
    return bool(usual and arm["above_noise_share"] <= SAFE and gripper <= SAFE * 0.1 + (floor["gripper_steps"] or 0.0))


def _usually(arm: dict[str, Any], floor: dict[str, Any]) -> str:
    """The medians, side by side."""
    for measure, unit in (("centimetres", "cm"), ("degrees", "degrees")):
        own, dense, jpeg = (
            spread[measure]["p50"]
            for spread in (arm["from_dense_over_shared_steps"], floor["consecutive"], floor["jpeg"])
        )
        if own is not None and jpeg is not None:
            two = "" if dense is None else f"two dense chunks in a row by {dense:.2g} {unit}, and "
            return f"; usually it differs by {own:.2g} {unit}, {two}dense after JPEG by {jpeg:.2g} {unit}"
    return ""


def _fastest(pruned: dict[str, Any]) -> str:
    if not pruned:
        return ""
    name = max(pruned, key=lambda arm: pruned[arm]["speedup"] or 0.0)
    return f"{name} is {pruned[name]['speedup'] or math.nan:.2f} times as fast as dense here."


def _latency(arms: dict[str, Any], name: str) -> str:
    dense, own = (arms[arm]["latency_ms"]["p50"] for arm in (DENSE, name))
    return f"median {_milliseconds(dense)} against {_milliseconds(own)}"


def _milliseconds(value: float) -> str:
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _setting(arm: str) -> str:
    if arm == NODE:
        return "what the node has now"
    return f"pruning.preset {arm}" if arm in PRESETS else f"the constants of {arm}"


def machine(device: str) -> dict[str, Any]:
    """Where it ran."""
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    return {
        "device": gpu or device,
        "processor": _processor(),
        "torch_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as info:
            return next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def exceeded(
    comparison: dict[str, Any], max_error: float | None, max_flips: float | None, max_latency: float | None
) -> list[tuple[str, str, str]]:
    """(arm, limit, "" or by what it is exceeded) for every limit that was given and every pruned arm."""
    checks = []
    for name, arm in comparison["arms"].items():
        if name == DENSE:
            continue
        at_end = arm["from_dense_at_chunk_end"]
        measure, unit = ("degrees", "degrees") if at_end["centimetres"]["p99"] is None else ("centimetres", "cm")
        limits = (
            ("max-error", max_error, at_end[measure]["p99"], f"{unit} from dense at p99"),
            ("max-flips", max_flips, arm["gripper"]["differing_steps_share"], "of the gripper steps differ"),
            ("max-latency", max_latency, arm["latency_ms"]["p99"], "ms at p99"),
        )
        for limit, allowed, value, unit in limits:
            if allowed is not None:
                over = value is None or value > allowed
                checks.append((name, limit, f"{value} {unit}, allowed {allowed:g}" if over else ""))
    return checks
