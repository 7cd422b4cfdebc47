# SPDX-License-Identifier: Apache-2.0
"""docs/parameters.md, from the dataclasses that the nodes declare their parameters from.

scripts/env python -m specprune_ros.nodes.parameters.table > docs/parameters.md
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from specprune_ros.nodes import libero_sim
from specprune_ros.nodes.parameters.declaration import ros_types
from specprune_ros.nodes.parameters.groups import GROUPS
from specprune_ros.nodes.parameters.pruning import DEFAULTS
from specprune_ros.parameters import allowed, full_name

HEAD = """\
# Parameters

Generated from the code by `python -m specprune_ros.nodes.parameters.table`. A running node tells the same:
`ros2 param list /specprune_policy`, `ros2 param describe /specprune_policy NAME`.

*live* parameters change at once, all or nothing: what a node cannot do is refused with the reason. The others take
effect at the next *configure*: `ros2 lifecycle set /specprune_policy deactivate`, then `cleanup`, `configure` and
`activate`. A misspelled name in a parameter file is warned about at the start. Beside these there are `use_sim_time`,
and on a configured policy `qos_overrides.TOPIC.subscription.*` (reliability, depth ...) of cameras, joint states and
/tf.
"""
PRUNING = """\
Choosing `pruning.preset` (paper, fast, careful) sets the other constants of the method, except those set with it, and
`control_rate` and `metres_per_unit`, which are facts about the robot. Setting another one by hand clears `preset`.
The defaults are the preset `paper`. Their meaning: [method.md](method.md).
"""
COLUMNS = "| parameter | type | default | allowed | unit | change | description |\n|---|---|---|---|---|---|---|\n"


def markdown() -> str:
    """The whole document."""
    policy = {}
    for group, defaults in GROUPS.items():
        policy[group] = defaults
        if group == "inputs":
            policy["pruning"] = DEFAULTS
    parts = [HEAD, "## specprune_policy\n", *_sections(policy), "## libero_sim\n", *_sections(libero_sim.GROUPS)]
    return "\n".join(parts)


def _sections(groups: Mapping[str, tuple[Any, ...]]) -> list[str]:
    """A table for every group."""
    sections = []
    for group, defaults in groups.items():
        rows = [_row(group, config, field) for config in defaults for field in dataclasses.fields(config)]
        title = f"### {group}\n\n" if group else ""
        sections.append(title + (PRUNING + "\n" if group == "pruning" else "") + COLUMNS + "".join(rows))
    return sections


def _row(group: str, config: Any, field: dataclasses.Field) -> str:
    meta = field.metadata
    limited = meta["choices"] or meta["minimum"] is not None or meta["maximum"] is not None
    cells = (
        f"`{full_name(group, field.name)}`",
        ros_types(type(config))[field.name].name.lower().replace("_array", "[]"),
        f"`{_text(getattr(config, field.name))}`",
        allowed(field) if limited else "",
        meta["unit"],
        "live" if meta["live"] else "configure",
        meta["description"],
    )
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"


def _text(value: Any) -> str:
    """A value as YAML has it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, float):
        text = f"{value:.6g}"
        return text if "." in text or "e" in text else f"{text}.0"
    return str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) and value else repr(value)


if __name__ == "__main__":
    print(markdown(), end="")
