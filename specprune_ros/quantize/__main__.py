# SPDX-License-Identifier: Apache-2.0
"""`ros2 run specprune_ros quantize DIR OUT --precision int8`, or `python -m specprune_ros.quantize`.

Makes a folder that loads in half the time and is as small as its weights in memory. The arithmetic is that of loading
DIR with `model.precision`: the actions are the same. --help and a wrong option are answered before torch is imported.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from specprune_ros.checkpoint_config import CheckpointConfig
from specprune_ros.checks import bytes_text
from specprune_ros.engine.precision_names import NATIVE, PRECISIONS
from specprune_ros.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, 1 with a line on stderr, or 130 when interrupted."""
    given = _parser().parse_args(arguments)
    try:
        size = _quantize(given)
    except (UserError, OSError) as error:
        print(f"quantize: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("quantize: interrupted; nothing was written", file=sys.stderr)
        return 130
    print(f"{given.out}: {bytes_text(size)} in {given.precision}; set model.checkpoint and model.precision to it")
    return 0


def _quantize(given: argparse.Namespace) -> int:
    from specprune_ros.doctor.robot import read_robot
    from specprune_ros.openvla.files import expanded
    from specprune_ros.quantize.quantize import quantize

    model = read_robot(given.params_file).model if given.params_file else CheckpointConfig()
    base = given.base or model.base_checkpoint
    return quantize(
        expanded(given.folder), expanded(given.out), given.precision, model, expanded(base) if base else None
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quantize",
        description="Writes a checkpoint's weights in a small number format, in a folder that loads in half the time.",
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
