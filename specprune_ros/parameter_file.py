# SPDX-License-Identifier: Apache-2.0
"""The node's parameter file, read as rcl reads it: sections by node name, namespaces, wildcards."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from specprune_ros.errors import ConfigError

SECTION = "ros__parameters"


class _Loader(yaml.SafeLoader):
    """What rcl's parser makes of YAML: its own numbers and booleans, no dates, and a name twice in a mapping is merged.

    `test_parameter_reading.py` compares the two.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        merged: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(problem="no name", problem_mark=key_node.start_mark)
            name = key_node.value  # whatever it looks like: `n` is no boolean there
            merged[name] = _merged(merged.get(name), self.construct_object(value_node, deep=True))
        return merged


def _merged(before: Any, value: Any) -> Any:
    if not isinstance(before, dict) or not isinstance(value, dict):
        return value
    return before | {key: _merged(before.get(key), entry) for key, entry in value.items()}


_Loader.yaml_implicit_resolvers = {}
SCALARS = (
    ("bool", r"[yY]|yes|Yes|YES|true|True|TRUE|on|On|ON|[nN]|no|No|NO|false|False|FALSE|off|Off|OFF"),
    ("int", r"[-+]?(0x[0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)"),
    ("float", r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\.?(inf|Inf|INF)|\.?(nan|NaN|NAN)"),
    ("null", ""),
)
for _kind, _text in SCALARS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_text})$"), [None])
_Loader.bool_values = _Loader.bool_values | {"y": True, "n": False}


def read_parameters(text: str, where: str, node: str) -> dict[str, Any]:
    """Parameter (`group.field`) -> value, for the node of the fully qualified name `node`.

    Every section that matches counts, a later one over an earlier one. `where` names the file in errors.
    Raises ConfigError for a file that is none of parameters.
    """
    try:
        content = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f" in line {place.line + 1}" if place else ""
        raise ConfigError(f"{where} is not YAML{line}; correct it, or take config/franka.yaml as a start") from None
    parameters: dict[str, Any] = {}
    found = False
    for name, values in sections(content):
        found = True
        if matches(name, node):
            parameters |= dict(_flat(values, ""))
    if not found:
        raise ConfigError(f"{where} has no {SECTION}; it has to look like config/franka.yaml")
    return parameters


def read_own_parameters(path: Path, node: str) -> dict[str, Any]:
    """The same of a file that is meant for this node; one without a section for it is refused with ConfigError, too."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); give a parameter file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text; give a parameter file like config/franka.yaml") from None
    parameters = read_parameters(text, str(path), node)
    if not parameters:
        others = ", ".join(name for name, _ in sections(yaml.load(text, _Loader)))
        raise ConfigError(f"{path} has parameters of {others}, none of {node}; rename the section, or write /**")
    return parameters


def parse_value(text: str) -> Any:
    """The value of `-p name:=value`."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text


def sections(content: Any, prefix: str = "") -> Iterator[tuple[str, Mapping]]:
    """The nodes that a file names, "/left/specprune_policy" or "/**", with what it says of each.

    Namespaces may be nested mappings.
    """
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        if key == SECTION:
            if isinstance(value, Mapping):
                yield prefix or "/", value
        else:
            yield from sections(value, f"{prefix}/{str(key).strip('/')}")


def matches(section: str, node: str) -> bool:
    """Whether a section is for a node: `*` stands for one part of a name, `**` for any number of them."""
    tokens = [token for token in section.split("/") if token]
    parts = {"*": r"/\w+", "**": r"(/\w+)*"}
    return re.fullmatch("".join(parts.get(token, "/" + re.escape(token)) for token in tokens), node) is not None


def _flat(values: Mapping, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
