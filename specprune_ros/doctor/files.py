# SPDX-License-Identifier: Apache-2.0
"""Whether every file of the folder can be read at all."""

from pathlib import Path

from specprune_ros.checks import FAIL, PASS, WARN, Check, bytes_text
from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.files import read_json, trouble
from specprune_ros.openvla.variant import ADAPTER
from specprune_ros.openvla.weight_files import has_weights

OF_A_CHECKPOINT = (".json", ".safetensors", ".pt", ".bin", ".model")
UNFINISHED = (".part", ".partial", ".incomplete", ".tmp", ".crdownload", ".aria2")
UNUSED = ("generation_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer_config.json")


def check_files(folder: Path) -> list[Check]:
    """A row for every file that is damaged or unfinished; one row when none is."""
    rows, size, count = [], 0, 0
    paths = _files(folder)
    if (folder / ADAPTER).is_dir():
        try:
            paths += _files(folder / ADAPTER)
        except OSError as error:  # one that is merged already nobody else enters
            wrong = f"{error.filename} cannot be read ({error.strerror}); 'chmod -R a+rX' it"
            rows.append(Check("files", WARN, wrong))
    for path in paths:
        if path.name.endswith(UNFINISHED):
            rows.append(Check("files", WARN, f"{path.name} is half downloaded; fetch it again, or delete it"))
            continue
        if path.suffix not in OF_A_CHECKPOINT:
            continue
        wrong = trouble(path) or _json_trouble(path)
        if wrong:
            merged = path.parent != folder and has_weights(folder)  # nobody reads a merged adapter
            unused = path.name in UNUSED or merged
            rows.append(Check("files", WARN if unused else FAIL, f"{path.name} {wrong}{' (unused)' if unused else ''}"))
        else:
            size, count = size + path.stat().st_size, count + 1
    return rows or [Check("files", PASS, f"{count} files, {bytes_text(size)}, all of them readable")]


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if not path.is_dir()]


def _json_trouble(path: Path) -> str:
    if path.suffix != ".json":
        return ""
    try:
        read_json(path)
    except CheckpointError as error:
        return str(error).removeprefix(f"{path} ")
    return ""
