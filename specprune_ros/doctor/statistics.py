# SPDX-License-Identifier: Apache-2.0
"""The data set's statistics: what they say of each dimension, and what is odd about them."""

from itertools import pairwise
from typing import Any

import numpy as np

from specprune_ros.checks import FAIL, PASS, WARN, Check
from specprune_ros.doctor.fit import GRIPPER_TOLERANCE
from specprune_ros.doctor.subject import Subject
from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.family import NORMALIZATIONS
from specprune_ros.openvla.statistics import Bounds, bounds

TINY_RANGE = 1e-5  # in the checkpoint's units: less than any sensor of an arm resolves
FEW_STEPS = 1000
ROUNDING = 1e-6  # of float32 statistics written as text
GROUPS = ("action", "proprio")


def check_statistics(subject: Subject) -> list[Check]:
    """Rows for the key that is used, and one that lists the others."""
    if not subject.unnorm_key:
        return [_candidates(subject)] if subject.statistics else []
    rows: list[Check] = []
    for group in _needed(subject):
        try:
            found = bounds_of(subject, group)
        except CheckpointError as error:
            rows.append(Check("statistics", FAIL, str(error)))
            continue
        rows += _oddities(subject, group, found)
    rows += _size(subject)
    if not rows:
        normalization = normalization_of(subject)
        used = " and ".join(NORMALIZATIONS[normalization])
        rows = [Check("statistics", PASS, f"{subject.unnorm_key}: {used} of the data are mapped to -1 and 1")]
    return rows + _gripper(subject)


def bounds_of(subject: Subject, group: str) -> Bounds:
    """Raises CheckpointError when the statistics are unusable."""
    return bounds(subject.statistics[subject.unnorm_key], subject.unnorm_key, group, normalization_of(subject))


def normalization_of(subject: Subject) -> str:
    """quantile or bounds; quantile while nothing says which."""
    fact = subject.facts.get("proprio_normalization")
    return fact.value if fact else "quantile"


def statistics_table(subject: Subject) -> str:
    """A line for each dimension of the key that is used: what its numbers were in the training data."""
    lines = []
    low, high = NORMALIZATIONS[normalization_of(subject)]
    for group in _needed(subject):
        try:
            found = bounds_of(subject, group)
        except CheckpointError:
            continue
        lines.append(f"  {group:24} {low:>11} {high:>11}   ")
        for index in range(len(found.low)):
            numbers = f"{found.low[index]:11.4g} {found.high[index]:11.4g}"
            lines.append(f"    {_dimension(subject, group, index):22} {numbers}   {_note(found, index)}".rstrip())
    return "\n".join(lines)


def statistics_json(subject: Subject) -> dict[str, Any]:
    """The same for programs."""
    content: dict[str, Any] = {}
    for group in _needed(subject) if subject.unnorm_key else ():
        try:
            found = bounds_of(subject, group)
        except CheckpointError:
            continue
        content[group] = [
            {
                "name": _dimension(subject, group, index),
                "low": found.low[index],
                "high": found.high[index],
                "normalised": bool(found.mask[index]),
                "constant": bool(found.constant[index]),
            }
            for index in range(len(found.low))
        ]
    return content


def fitting_keys(subject: Subject, group: str, size: int) -> list[str]:
    """Keys whose statistics have this many dimensions."""
    return [key for key, entry in subject.statistics.items() if _length(entry, group) == size]


def _needed(subject: Subject) -> tuple[str, ...]:
    """Without a proprio projector nothing reads the proprio's statistics."""
    without = subject.variant is not None and not subject.variant.proprio
    return ("action",) if without else GROUPS


def _oddities(subject: Subject, group: str, found: Bounds) -> list[Check]:
    """Dimensions that stood still in the data, and statistics that contradict each other."""

    def warn(index: int, what: str) -> Check:
        return Check("statistics", WARN, f"{group} {_dimension(subject, group, int(index))} {what}")

    rows = []
    for index in np.flatnonzero(found.constant):
        value = f"is {found.low[index]:g} in all data"
        if group == "proprio":
            rows.append(warn(index, f"{value}: the model is given 0, as in training, whatever this robot has"))
        else:
            rows.append(warn(index, f"{value}: that is what comes out, whatever the model predicts"))
    for index in np.flatnonzero(found.flat):
        rows.append(
            warn(
                index,
                f"has q01 = q99 = {found.low[index]:g} although the data has other values: training made -1 and +1 of "
                "them; compute the statistics from data in which it moves",
            )
        )
    width = found.high - found.low
    for index in np.flatnonzero((width < TINY_RANGE) & ~found.constant & ~found.flat):
        rows.append(
            warn(
                index,
                f"moved by {width[index]:.1g} in the data, which is noise: training scaled it to [-1, 1], and this "
                "robot's value will be at one end",
            )
        )
    values = subject.statistics[subject.unnorm_key][group]
    names = [name for name in ("min", "q01", "q99", "max") if isinstance(values.get(name), list)]
    for lower, upper in pairwise(names):
        above = np.flatnonzero(np.array(values[lower]) > np.array(values[upper]) + ROUNDING)
        if above.size:
            rows.append(warn(above[0], f"has {lower} above {upper}: the file was edited, compute it anew"))
    return rows


def _size(subject: Subject) -> list[Check]:
    steps = subject.statistics[subject.unnorm_key].get("num_transitions")
    if type(steps) is int and 0 < steps < FEW_STEPS:
        return [Check("statistics", WARN, f"they are of {steps} steps only; extremes will be too narrow")]
    return []


def _gripper(subject: Subject) -> list[Check]:
    """What opens and closes: the action dimensions of that name, or those that pass through."""
    try:
        found = bounds_of(subject, "action")
    except CheckpointError:
        return []
    names = [_dimension(subject, "action", index) for index in range(len(found.low))]
    grippers = [i for i, name in enumerate(names) if "grip" in name] or np.flatnonzero(~found.mask).tolist()
    rows = []
    for index in grippers:
        low, high = found.low[index], found.high[index]
        if abs(low) < GRIPPER_TOLERANCE and abs(high - 1) < GRIPPER_TOLERANCE:
            rows.append(Check("gripper", PASS, f"action {names[index]}: 0 to 1; OpenVLA-OFT's data closes with 0"))
        else:
            detail = (
                f"action {names[index]} goes from {low:.3g} to {high:.3g}, not from 0 (closed) to 1 (open) as in "
                "OpenVLA-OFT's data; set controller.gripper_closed_value and gripper_open_value to what yours does"
            )
            rows.append(Check("gripper", WARN, detail))
    return rows


def _candidates(subject: Subject) -> Check:
    keys = ", ".join(f"{key} ({_length(entry, 'action')} actions)" for key, entry in sorted(subject.statistics.items()))
    return Check("statistics", WARN, f"none is chosen yet: {keys}")


def _length(entry: Any, group: str) -> int:
    values = entry.get(group) if isinstance(entry, dict) else None
    vector = (values.get("q01") or values.get("min")) if isinstance(values, dict) else None
    return len(vector) if isinstance(vector, list) else 0


def _dimension(subject: Subject, group: str, index: int) -> str:
    fact = subject.facts.get("action_names") if group == "action" else None
    return f"{index} {fact.value[index]}" if fact and index < len(fact.value) else str(index)


def _note(found: Bounds, index: int) -> str:
    notes = []
    if found.constant[index]:
        notes.append("constant")
    elif found.flat[index]:
        notes.append("quantiles equal")
    if not found.mask[index]:
        notes.append("not normalised (mask)")
    return ", ".join(notes)
