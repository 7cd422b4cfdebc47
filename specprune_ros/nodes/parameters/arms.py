# SPDX-License-Identifier: Apache-2.0
"""The file that lists the arms of one process: for each its parameters and its remappings.

arms:
  left:                             # the arm's namespace
    params_file: left.yaml          # beside this file, or an absolute path
    remappings:
      ~/image_primary: /left/cameras/primary/color/image_raw
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from specprune_ros.errors import ConfigError
from specprune_ros.nodes.parameters.files import FILE, means, ros_arguments

KEYS = ("params_file", "remappings")
NODE = "specprune_policy"
SETTING = ("-p", "--param", FILE)


@dataclass(frozen=True)
class ArmArguments:
    """One arm: its namespace, and the ROS arguments of its node."""

    namespace: str
    arguments: list[str]


class _Loader(yaml.SafeLoader):
    """YAML would keep the last of two entries of one name, and an arm would be missing without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [str(key.value) for key, _ in node.value]
        for i, (name, (key, _)) in enumerate(zip(names, node.value, strict=True)):
            if name in names[:i]:
                raise yaml.constructor.ConstructorError(
                    problem=f"{name} is there twice, again in line {key.start_mark.line + 1}"
                )
        return super().construct_mapping(node, deep)


def read_arms(path: Path, own: Sequence[str] = ()) -> list[ArmArguments]:
    """`own`: arguments of the process, whose parameters win over the arms' files, as they do for a single node.

    Raises ConfigError, one line, for whatever is wrong with the file.
    """
    try:
        content = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); give the file that lists the arms") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not YAML ({str(error).splitlines()[0]})") from None
    arms = content.get("arms") if isinstance(content, dict) else None
    if not isinstance(arms, dict) or not arms:
        raise ConfigError(f"{path} lists no arms; it needs 'arms:' and below it a namespace for each arm")
    parameters = [(option, value) for option, value in ros_arguments(own) if option in SETTING]
    nodes = [_node(str(name)) for name in arms]
    for option, file in parameters:
        if option == FILE and not any(means(file, node) for node in nodes):
            raise ConfigError(f"{file}: no section for {' or '.join(nodes)}, so nothing in it would have an effect")
    return [_arm(path, str(name), {} if given is None else given, parameters) for name, given in arms.items()]


def _node(name: str) -> str:
    """The full name of an arm's node."""
    return f"/{name.strip('/')}/{NODE}"


def _arm(path: Path, name: str, given: Any, parameters: Sequence[tuple[str, str]]) -> ArmArguments:
    where = f"{path}: arms.{name}"
    if not isinstance(given, dict) or not set(given) <= set(KEYS):
        raise ConfigError(f"{where} may have {' and '.join(KEYS)}, nothing else")
    arguments = ["--ros-args", "-r", f"__ns:=/{name.strip('/')}"]
    file, remappings = given.get("params_file"), given.get("remappings") or {}
    if file is not None:
        found = path.parent / Path(str(file)).expanduser()
        if not found.is_file():
            raise ConfigError(f"{where}.params_file: {found} does not exist")
        arguments += ["--params-file", str(found)]
    if not isinstance(remappings, dict):
        raise ConfigError(f"{where}.remappings has to be a mapping of names to topics")
    for source, target in remappings.items():
        if not isinstance(target, str) or not target:
            raise ConfigError(f"{where}.remappings: {source} is {target!r}; give the name of a topic")
        arguments += ["-r", f"{source}:={target}"]
    for option, value in parameters:
        if option != FILE or means(value, _node(name)):
            arguments += [option, value]
    return ArmArguments(f"/{name.strip('/')}", arguments)
