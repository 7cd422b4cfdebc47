# SPDX-License-Identifier: Apache-2.0
"""Whether the robot's parameter file fits the checkpoint."""

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path

from specprune_ros.checkpoint_config import CheckpointConfig
from specprune_ros.checks import FAIL, PASS, WARN, Check
from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.doctor.fit import check_fits, doubts, gripper_doubt, proprio_numbers
from specprune_ros.doctor.statistics import fitting_keys
from specprune_ros.doctor.subject import Subject
from specprune_ros.errors import CheckpointError, ConfigError
from specprune_ros.openvla.contents import Contents
from specprune_ros.parameter_file import read_parameters
from specprune_ros.parameters import configured, full_name
from specprune_ros.pruning.config import DEFAULT_PRESET, PruningConfig
from specprune_ros.sensing.config import InputsConfig

NODE = "/specprune_policy"


@dataclass(frozen=True)
class Robot:
    """The parameters that have to do with the checkpoint."""

    model: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    inputs: InputsConfig = dataclasses.field(default_factory=InputsConfig)
    controller: ControllerConfig = dataclasses.field(default_factory=ControllerConfig)
    pruning: PruningConfig = dataclasses.field(default_factory=lambda: PruningConfig.from_preset(DEFAULT_PRESET))
    instruction: str = ""
    unknown: tuple[str, ...] = ()  # misspelled parameters of these groups


def read_robot(path: Path) -> Robot:
    """The parameters of a file for the policy node. Raises ConfigError, one line."""
    try:
        text = path.expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); give the node's parameter file") from None
    parameters = read_parameters(text, str(path), NODE)
    if not parameters:
        raise ConfigError(f"{path} has no parameters for {NODE}; write them below /**/specprune_policy")
    preset = str(parameters.get("pruning.preset") or DEFAULT_PRESET)
    groups = {
        "model": CheckpointConfig(),
        "inputs": InputsConfig(),
        "controller": ControllerConfig(),
        "pruning": PruningConfig.from_preset(preset),
    }
    configs = {group: configured(default, group, parameters) for group, default in groups.items()}
    known = {full_name(group, field.name) for group, config in configs.items() for field in dataclasses.fields(config)}
    unknown = sorted(
        name for name in parameters if name.partition(".")[0] in groups and name not in known | {"pruning.enabled"}
    )
    hints = tuple(f"{name}{_hint(name, known)}" for name in unknown)
    return Robot(**configs, instruction=str(parameters.get("instruction", "")), unknown=hints)


def check_robot(subject: Subject, robot: Robot) -> list[Check]:
    """Rows of what does not fit; one row when everything does."""
    rows = [Check("parameters", WARN, f"there is no parameter {name}; the node ignores it") for name in robot.unknown]
    rows += [Check("units", WARN, doubt) for doubt in doubts(robot.pruning, robot.controller)]
    variant = subject.variant
    if variant and variant.quantized:
        try:
            variant.quantized.check(robot.model.precision)
        except CheckpointError as error:
            rows.append(Check("robot", FAIL, str(error)))
    if variant and robot.model.base_checkpoint and variant.adapter is None:
        detail = (
            f"model.base_checkpoint is {robot.model.base_checkpoint}, but {subject.folder} needs none; leave it out"
        )
        rows.append(Check("robot", FAIL, detail))
    if subject.contents:
        model = _Outline(subject.contents)
        try:
            check_fits(model, robot.inputs, robot.controller)
            doubt = gripper_doubt(model, robot.controller)
        except ConfigError as error:
            rows.append(Check("robot", FAIL, str(error)))
            doubt = ""
        if doubt:
            rows.append(Check("gripper", WARN, doubt))
    if not rows and subject.contents:
        rows = [Check("robot", PASS, "cameras, proprio, action space and units of the parameter file fit")]
    return rows + _keys(subject, robot)


def _keys(subject: Subject, robot: Robot) -> list[Check]:
    """Of several statistics, those that this robot's proprio fits."""
    if len(subject.statistics) < 2:
        return []
    size = sum(proprio_numbers(robot.inputs))
    fitting = fitting_keys(subject, "proprio", size)
    names = ", ".join(sorted(fitting)) or "none"
    return [
        Check("unnorm_key", PASS if fitting else WARN, f"statistics for this robot's {size} proprio numbers: {names}")
    ]


class _Outline:
    """What parameters have to fit, of a checkpoint that is not loaded."""

    def __init__(self, contents: Contents):
        self.num_views = contents.config.num_views
        self.proprio_dim = contents.config.proprio_dim
        self.action_space = contents.family.action_space
        self.action_range = contents.normalizer.action.low, contents.normalizer.action.high


def _hint(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {near[0]}?)" if near else ""
