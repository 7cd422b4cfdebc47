# SPDX-License-Identifier: Apache-2.0
"""What `ros2 bag record` has to write, so that a replay needs nothing but the bag.

`ros2 launch` runs this on the system's Python, which may have neither torch nor rosbags.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from specprune_ros.errors import ConfigError
from specprune_ros.openvla.digest import digest
from specprune_ros.parameter_file import SECTION, read_parameters
from specprune_ros.parameters import from_mapping
from specprune_ros.recording.custom_data import CHECKPOINT, DIGEST, PARAMETERS, REMAPPINGS
from specprune_ros.replay.names import Names
from specprune_ros.sensing.camera_check import info_topic
from specprune_ros.sensing.config import InputsConfig, image_input

INPUTS = "inputs."
OUTPUTS = ("~/action_chunk", "~/pruning")


def record_command(
    folder: Path, params_file: Path | None, parameters: Mapping[str, Any], rules: Sequence[tuple[str, str]]
) -> list[str]:
    """The command that records a node's inputs, instruction, chunks and statistics into the new `folder`, as MCAP.

    `parameters` count over those of the file; `rules` are (from, to), `__ns` and `__node` among them. Raises
    ConfigError when the folder exists or the parameters are wrong.
    """
    if folder.exists():
        raise ConfigError(f"record:={folder} exists; name another folder, or delete it")
    names = Names.of(f"{source}:={target}" for source, target in rules)
    merged = read_parameters(params_file.read_text(), str(params_file), names.full_name) if params_file else {}
    merged |= parameters
    inputs = _inputs(merged)
    simulated = bool(merged.get("use_sim_time", False))
    topic_of = names.compressed if inputs.image_transport == "compressed" else names.resolve
    images = [topic_of(f"~/{image_input(camera)}") for camera in inputs.cameras]
    others = ("joint_states", "/tf", "/tf_static", "~/instruction", *OUTPUTS)
    topics = [*images, *map(names.resolve, others)] + (["/clock"] if simulated else [])
    topics += [info_topic(topic) for topic in images]  # calibrations, where there are any
    checkpoint = Path(str(merged.get("model.checkpoint", ""))).expanduser()
    custom = {
        PARAMETERS: _quoted({"/**": {SECTION: merged}}),
        REMAPPINGS: _quoted([f"{source}:={target}" for source, target in rules]),
        DIGEST: digest(checkpoint),
        CHECKPOINT: checkpoint.name,
    }
    return [
        *("ros2", "bag", "record", "-s", "mcap", "-o", str(folder), "--disable-keyboard-controls"),
        *("--custom-data", *(f"{name}={value}" for name, value in custom.items())),
        *("--topics", *dict.fromkeys(topics)),
    ]


def _inputs(parameters: Mapping[str, Any]) -> InputsConfig:
    own = {name.removeprefix(INPUTS): value for name, value in parameters.items() if name.startswith(INPUTS)}
    return from_mapping(InputsConfig, own, "inputs")


def _quoted(value: Any) -> str:
    """JSON, which is YAML too, on one line and without the sign that separates the recorder's keys and values."""
    return json.dumps(value).replace("=", "\\u003d")
