# SPDX-License-Identifier: Apache-2.0
"""Parameter files that were given to a node and mean another one: ROS ignores them in silence."""

import difflib
from collections.abc import Iterator, Sequence

import yaml

from specprune_ros.errors import ConfigError
from specprune_ros.parameter_file import SECTION, matches, sections


def check_files(arguments: Sequence[str], node: str) -> None:
    """Raises ConfigError for a file after --params-file without a section for `node`, a name with its namespace."""
    for file in _files(arguments):
        try:
            with open(file) as stream:
                content = yaml.safe_load(stream)
        except (OSError, ValueError, yaml.YAMLError):
            continue  # ROS has refused it already
        named = [section for section, _ in sections(content)]
        there = f"the file has {', '.join(named)}" if named else f"the file has no {SECTION}"
        if not any(matches(section, node) for section in named):
            raise ConfigError(f"{file}: no section for {node}, so nothing in it would have an effect; {there}")
        meant = [section for section in named if _resembles(section, node)]
        if meant and not any(matches(section, node) for section in meant):
            raise ConfigError(f"{file}: {meant[0]} would have no effect on {node}, only what is for all nodes; {there}")


def means(file: str, node: str) -> bool:
    """Whether a file has a section for `node`; also one that cannot be read, which ROS will refuse."""
    try:
        with open(file) as stream:
            content = yaml.safe_load(stream)
    except (OSError, ValueError, yaml.YAMLError):
        return True
    return any(matches(section, node) for section, _ in sections(content))


def _files(arguments: Sequence[str]) -> Iterator[str]:
    in_ros = False
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument in ("--ros-args", "--"):
            in_ros = argument == "--ros-args"
        elif in_ros and argument == "--params-file":
            yield following


def _resembles(section: str, node: str) -> bool:
    """Whether a section is for a node of about this name, in whatever namespace."""
    return bool(difflib.get_close_matches(section.rpartition("/")[2], [node.rpartition("/")[2]], 1))
