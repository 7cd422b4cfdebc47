# SPDX-License-Identifier: Apache-2.0
"""Parameter files that were given to a node and mean another one: ROS ignores them in silence."""

import difflib
import itertools
from collections.abc import Iterator, Sequence

import yaml

from specprune_ros.errors import ConfigError
from specprune_ros.parameter_file import SECTION, matches, sections

FILE = "--params-file"


def check_files(arguments: Sequence[str], node: str) -> None:
    """Raises ConfigError for a file after --params-file without a section for `node`, a name with its namespace."""
    for file in (value for option, value in ros_arguments(arguments) if option == FILE):
        named = _sections(file)
        if named is None:
            continue  # ROS has refused it already
        there = f"the file has {', '.join(named)}" if named else f"the file has no {SECTION}"
        if not any(matches(section, node) for section in named):
            raise ConfigError(f"{file}: no section for {node}, so nothing in it would have an effect; {there}")
        meant = [section for section in named if _resembles(section, node)]
        if meant and not any(matches(section, node) for section in meant):
            raise ConfigError(f"{file}: {meant[0]} would have no effect on {node}, only what is for all nodes; {there}")


def means(file: str, node: str) -> bool:
    """Whether a file has a section for `node`; also one that cannot be read, which ROS will refuse."""
    named = _sections(file)
    return named is None or any(matches(section, node) for section in named)


def ros_arguments(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every word among the ROS arguments of a command, with the one behind it."""
    in_ros = False
    for argument, following in itertools.pairwise([*arguments, ""]):
        if argument in ("--ros-args", "--"):
            in_ros = argument == "--ros-args"
        elif in_ros:
            yield argument, following


def _sections(file: str) -> list[str] | None:
    """The nodes that a file has sections for; None for one that cannot be read."""
    try:
        with open(file) as stream:
            return [section for section, _ in sections(yaml.safe_load(stream))]
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _resembles(section: str, node: str) -> bool:
    """Whether a section is for a node of about this name, in whatever namespace."""
    return bool(difflib.get_close_matches(section.rpartition("/")[2], [node.rpartition("/")[2]], 1))
