# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's weights in a small number format, written into a folder of their own."""

import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError

from specprune_ros.checkpoint_config import CheckpointConfig
from specprune_ros.engine.precision import store_linears
from specprune_ros.errors import ConfigError, no_space
from specprune_ros.openvla import checkpoint as release
from specprune_ros.openvla.contents import Contents, read_contents
from specprune_ros.openvla.digest import digest
from specprune_ros.openvla.files import exists, trouble
from specprune_ros.openvla.quantized import write_quantized
from specprune_ros.openvla.variant import merged_config

NOT_COPIED = (".index.json", "adapter_config.json")


def quantize(
    folder: Path, out: Path, precision: str, model: CheckpointConfig | None = None, base: Path | None = None
) -> int:
    """Write `out`, a new folder, and return its size in bytes. `model`: facts that the checkpoint does not state.

    Raises UserError, one line; then there is no `out`.
    """
    if exists(out):
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
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for path in folder.glob("*.json"):
            if not path.name.endswith(NOT_COPIED) and not trouble(path):  # what was needed is read already
                shutil.copyfile(path, part / path.name)
        if contents.variant.adapter:
            (part / "config.json").write_text(json.dumps(merged_config(contents.variant), indent=2) + "\n")
        write_quantized(part, loaded.model, _manifest(contents, precision))
        part.rename(out)
    except OSError as error:
        raise no_space(error, out) from error
    except SafetensorError as error:  # it has the system's error as text alone
        raise ConfigError(f"{out} cannot be written ({error}); free some space, or write to another disk") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
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
