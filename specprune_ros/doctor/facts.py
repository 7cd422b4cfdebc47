# SPDX-License-Identifier: Apache-2.0
"""The facts that no weight tells: where each comes from, which are missing, and a snippet to fill in."""

from typing import Any

import yaml

from specprune_ros.checks import FAIL, PASS, Check
from specprune_ros.doctor.subject import Subject
from specprune_ros.openvla.family import KINDS, Fact
from specprune_ros.openvla.files import shown

EXAMPLES: dict[str, Any] = {
    "chunk_length": 8,
    "num_views": 2,
    "center_crop": True,
    "proprio_normalization": "quantile",
    "action_space": "delta_end_effector",
}


def check_facts(subject: Subject) -> list[Check]:
    """One row about the facts together; none before an unnorm_key is chosen."""
    if not subject.unnorm_key or any(row.name == "facts" for row in subject.problems):
        return []
    missing = missing_facts(subject)
    if missing:
        return [
            Check(
                "facts",
                FAIL,
                f"{', '.join(missing)}: no file tells, and '{subject.unnorm_key}' is not known; fill in the snippet",
            )
        ]
    if any(fact.assumed for fact in subject.facts.values()):
        detail = f"some are assumed, as the releases of '{subject.unnorm_key}' have them; see below, and compare"
        return [Check("facts", PASS, detail)]
    return [Check("facts", PASS, "all of them are stated")]


def missing_facts(subject: Subject) -> list[str]:
    """Names of the facts that neither a file nor a parameter tells."""
    return [name for name in KINDS if name not in subject.facts] if subject.unnorm_key else []


def facts_table(found: dict[str, Fact]) -> str:
    """Every fact with its value and where it was read, or that it was assumed."""
    return "\n".join(f"  {name:22} {_value(fact.value):24} {_source(name, fact)}" for name, fact in found.items())


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(value) if len(value) < 3 else f"{value[0]}, {value[1]}, ... ({len(value)})"
    return shown(value).strip('"')


def _source(name: str, fact: Fact) -> str:
    if fact.assumed:
        return f"assumed; if it is another, set model.{name}"
    return f"from the parameter model.{name}" if fact.source == "argument" else f"from {fact.source}"


def snippet(subject: Subject) -> str:
    """Parameters to fill in for the facts that are missing, as YAML for the node's parameter file."""
    dimensions = _action_dimensions(subject)
    lines = ["/**/specprune_policy:", "  ros__parameters:", "    model:"]
    for name in missing_facts(subject):
        if name in EXAMPLES:
            value = _as_parameter(name, EXAMPLES[name])
        else:
            word = "joint" if name == "action_names" else "rad"
            value = [f"{word}{i + 1}" if word == "joint" else word for i in range(dimensions)]
        text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
        lines.append(f"      {name}: {text}  # an example; {KINDS[name].allowed}")
    return "\n".join(lines)


def _as_parameter(name: str, value: Any) -> Any:
    """The parameter model.center_crop has three values: checkpoint, on, off."""
    return ("on" if value else "off") if name == "center_crop" else value


def _action_dimensions(subject: Subject) -> int:
    group = subject.statistics.get(subject.unnorm_key, {}).get("action")
    vector = group.get("min") if isinstance(group, dict) else None
    return len(vector) if isinstance(vector, list) else 7
