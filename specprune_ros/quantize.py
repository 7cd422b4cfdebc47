# SPDX-License-Identifier: Apache-2.0
"""`ros2 run specprune_ros quantize DIR OUT --precision int8`, or `python -m specprune_ros.quantize`.

Makes a folder that loads in seconds and is as small as its weights in memory. The arithmetic is that of loading DIR
with `model.precision`: the actions are the same.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from specprune_ros.checkpoint_config import CheckpointConfig
from specprune_ros.checks import bytes_text
from specprune_ros.doctor.robot import read_robot
from specprune_ros.engine.precision import store_linears
from specprune_ros.engine.precision_names import NATIVE, PRECISIONS
from specprune_ros.errors import ConfigError, UserError
from specprune_ros.openvla import checkpoint as release
from specprune_ros.openvla.contents import Contents, read_contents
from specprune_ros.openvla.digest import digest
from specprune_ros.openvla.quantized import write_quantized

NOT_COPIED = (".index.json", "adapter_config.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 with a line on stderr."""
    given = _parser().parse_args(arguments)
    try:
        model = read_robot(given.params_file).model if given.params_file else CheckpointConfig()
        base = given.base or (Path(model.base_checkpoint) if model.base_checkpoint else None)
        size = quantize(given.folder.expanduser(), given.out.expanduser(), given.precision, model, base)
    except (UserError, OSError) as error:
        print(f"quantize: {error}", file=sys.stderr)
        return 1
    print(f"{given.out}: {bytes_text(size)} in {given.precision}; set model.checkpoint and model.precision to it")
    return 0


def quantize(
    folder: Path, out: Path, precision: str, model: CheckpointConfig | None = None, base: Path | None = None
) -> int:
    """Write `out`, a new folder, and return its size in bytes. `model`: facts that the checkpoint does not state.

    Raises UserError, one line; then there is no `out`.
    """
    if out.exists():
        raise ConfigError(f"{out} exists; give the name of a new folder")
    stated = model or CheckpointConfig()
    arguments = stated.unnorm_key or None, stated.facts(), base
    contents = read_contents(folder, *arguments)
    if contents.variant.quantized:
        raise ConfigError(f"{folder} is quantised already; give the checkpoint that it was made from")

    loaded = release.load(
        folder, "cpu", "float32", *arguments, lambda model: store_linears(model, precision, torch.device("cpu"))
    )
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for home in dict.fromkeys((contents.variant.weights, folder)):
        for path in home.glob("*.json"):
            if not path.name.endswith(NOT_COPIED):
                shutil.copyfile(path, part / path.name)
    write_quantized(part, loaded.model, _manifest(contents, precision))
    part.rename(out)
    return sum(path.stat().st_size for path in out.iterdir())


def _manifest(contents: Contents, precision: str) -> dict[str, object]:
    variant = contents.variant
    source = digest(variant.folder)
    if variant.weights != variant.folder:
        source += "+" + digest(variant.weights)
    return {
        "precision": precision,
        "source": source,
        "head": variant.head,
        "files": {name: path.name for name, path in variant.components.items()},
        "components": {
            name: {key: tensor.shape for key, tensor in state.items()} for name, state in contents.components.items()
        },
        "weights": contents.weights.shapes,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quantize",
        description="Writes a checkpoint's weights in a small number format, into a folder that loads in seconds.",
    )
    add = parser.add_argument
    add("folder", metavar="DIR", type=Path, help="folder of the checkpoint")
    add("out", metavar="OUT", type=Path, help="folder to make")
    add("--precision", choices=[name for name in PRECISIONS if name != NATIVE], required=True)
    add("--base", metavar="DIR", type=Path, help="the checkpoint that an un-merged LoRA adapter was trained from")
    add(
        "--params-file", metavar="YAML", type=Path, help="the node's parameters, where the checkpoint leaves facts open"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
