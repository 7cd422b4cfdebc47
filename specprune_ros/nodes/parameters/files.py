# SPDX-License-Identifier: Apache-2.0
"""Parameter files that were given to a node and mean another one: ROS ignores them in silence."""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from specprune_ros.errors import ConfigError

PARAMETERS = "ros__parameters"


def check_files(arguments: Sequence[str], node: str) -> None:
    """Raises ConfigError for a file after --params-file without a section for `node`, a name with its namespace."""
    for file in _files(arguments):
        try:
            with open(file) as stream:
                content = yaml.safe_load(stream)
        except (OSError, yaml.YAMLError):
            continue  # ROS has refused it already
        sections = list(_sections(content))
        there = f"the file has {', '.join(sections)}" if sections else f"the file has no {PARAMETERS}"
        if not any(_matches(section, node) for section in sections):
            raise ConfigError(f"{file}: no section for {node}, so nothing in it would have an effect; {there}")
        meant = [section for section in sections if _resembles(section, node)]
        if meant and not any(_matches(section, node) for section in meant):
            raise ConfigError(f"{file}: {meant[0]} would have no effect on {node}, only what is for all nodes; {there}")


def _files(arguments: Sequence[str]) -> Iterator[str]:
    in_ros = False
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument in ("--ros-args", "--"):
            in_ros = argument == "--ros-args"
        elif in_ros and argument == "--params-file":
            yield following


def _sections(content: Any, prefix: str = "") -> Iterator[str]:
    """The nodes that a file names: "/left/specprune_policy", "/**"; namespaces may be nested mappings."""
    if not isinstance(content, dict):
        return
    for name, value in content.items():
        if name == PARAMETERS:
            yield prefix or "/"
        else:
            yield from _sections(value, f"{prefix}/{str(name).strip('/')}")


def _resembles(section: str, node: str) -> bool:
    """Whether a section is for a node of about this name, in whatever namespace."""
    return bool(difflib.get_close_matches(section.rpartition("/")[2], [node.rpartition("/")[2]], 1))


def _matches(section: str, node: str) -> bool:
    """`**` stands for any number of names, `*` for one."""
    pattern = ""
    for part in section.strip("/").split("/"):
        pattern += {"**": "(/[^/]+)*", "*": "/[^/]+"}.get(part, "/" + re.escape(part))
    return re.fullmatch(pattern, node) is not None
