# SPDX-License-Identifier: Apache-2.0
"""Files of a checkpoint folder: what is wrong with one that cannot be read, and JSON whose values are of their kind."""

import json
import math
import os
from pathlib import Path
from typing import Any

from specprune_ros.errors import CheckpointError

POINTERS = (b"version https://git-lfs", b"# xet version")


def trouble(path: Path) -> str:
    """What keeps a file from being read or what it is instead, and how to fix it; "" when nothing is found."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError:
        if path.is_symlink():
            return (
                f"is a link to {path.readlink()}, which does not exist; copy the folder with 'cp -rL' from where the "
                "links lead somewhere"
            )
        return "is missing; copy the whole checkpoint folder"
    except PermissionError:
        return "may not be read by this user; 'chmod -R a+rX' its folder, or run as the user who owns it"
    except IsADirectoryError:
        return "is a folder, not a file; copy the file again"
    except OSError as error:
        return f"cannot be read ({error.strerror}); copy the file again"
    if not start:
        return "is empty; copy the file again"
    if start.startswith(POINTERS):
        return "is a Git LFS pointer, not the file itself; run 'git lfs pull' in its folder"
    if start.lstrip().startswith(b"<") and b"\0" not in start:
        return "is a web page, not the file itself; download the file itself"
    if start.startswith(b"PK") and path.suffix == ".safetensors":
        return "is a torch.save file under another name; call it pytorch_model.bin, or convert it to safetensors"
    return ""


def check_folder(folder: Path, what: str = "checkpoint folder") -> None:
    """Raises CheckpointError, with the folder that may be meant, when this one is no checkpoint's."""
    try:
        if not folder.is_dir():
            raise CheckpointError(f"{what} {folder} {_no_folder(folder)}")
        os.stat(f"{folder}/.")  # a folder may be listed and not entered
        names = {path.name for path in folder.iterdir()}
        inside = sorted(path.parent for path in folder.glob("*/config.json"))
        inside += sorted(path.parent for path in folder.glob("snapshots/*/config.json"))
    except PermissionError:
        raise CheckpointError(
            f"{what} {folder} may not be read by this user; 'chmod -R a+rX' it, or run as the user who owns it"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{what} {folder} cannot be read ({error.strerror}); give another folder") from None
    if inside and "config.json" not in names and not names & {"lora_adapter", "adapter_config.json"}:
        raise CheckpointError(f"{what} {folder} holds no config.json, but {inside[0]} does; give that folder")


def expanded(path: str | Path) -> Path:
    """With the home folder for ~. Raises CheckpointError for one of an unknown user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise CheckpointError(f"{path} is in the home folder of a user whom this machine does not know") from None


def _no_folder(folder: Path) -> str:
    if folder.is_symlink():
        return f"is a link to {folder.readlink()}, which does not exist; mount or copy what it points to"
    if folder.exists():
        return "is a file; give the folder that holds config.json"
    text = str(folder)
    if text.startswith(("http:", "https:", "hf:")) or (text.count("/") == 1 and not folder.is_absolute()):
        return (
            "does not exist; if it is the name of a repository on the hub, download that first: 'hf download "
            f"{'/'.join(text.split('/')[-2:])} --local-dir FOLDER', and give FOLDER"
        )
    return "does not exist; give the folder that holds config.json"


def exists(path: Path) -> bool:
    """Whether a folder has an entry of this name, be it a link that leads nowhere or a file that may not be read."""
    return path.is_symlink() or path.exists()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises CheckpointError when the file is missing, cannot be read, or is not a JSON object."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_without_repetition)
    except _RepeatedName as error:
        raise CheckpointError(f"{path} has '{error}' twice; keep one") from None
    except (ValueError, OSError, RecursionError) as error:
        wrong = trouble(path) or f"is not readable JSON ({' '.join(str(error).split())[:100]}); copy the file again"
        raise CheckpointError(f"{path} {wrong}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object; copy the file again")
    return content


class _RepeatedName(Exception):
    pass


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedName(next(name for name in names if names.count(name) > 1))
    return content


class Fields:
    """The values of one JSON object, each of the kind that is asked for; null counts as left out.

    Every method raises CheckpointError that names the file, the value and what is allowed.
    """

    def __init__(self, values: dict[str, Any], where: str):
        self._values, self.where = values, where

    def only(self, name: str, supported: tuple[Any, ...]) -> None:
        """Refuse any other value than these; one that is left out means the first."""
        value = self._values.get(name)
        if value is not None and not any(type(value) is type(known) and value == known for known in supported):
            raise self.refuse(name, f"only {' or '.join(dict.fromkeys(map(shown, supported)))} is supported")

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def object(self, name: str) -> "Fields":
        value = self._get(name, {}, lambda x: isinstance(x, dict), "an object {...}")
        return Fields(value, f"{self.where}: {name}")

    def text(self, name: str, default: str) -> str:
        result: str = self._get(name, default, lambda x: isinstance(x, str), "a text in quotes")
        return result

    def flag(self, name: str, default: bool) -> bool:
        result: bool = self._get(name, default, lambda x: isinstance(x, bool), "true or false, without quotes")
        return result

    def count(self, name: str, default: int, least: int = 1) -> int:
        allowed = f"a whole number of at least {least}"
        result: int = self._get(name, default, lambda x: type(x) is int and x >= least, allowed)
        return result

    def positive(self, name: str, default: float) -> float:
        return float(self._get(name, default, lambda x: is_number(x) and x > 0, "a number above 0"))

    def counts(self, name: str, default: list[int]) -> list[int]:
        allowed = "a list of a whole number for each tower"
        result: list[int] = self._get(
            name, default, lambda x: _is_list(x, lambda y: type(y) is int and y >= 1), allowed
        )
        return result

    def numbers(self, name: str) -> list[list[float]]:
        """A list of lists of numbers, empty when left out."""
        allowed = "a list of lists of numbers"
        result: list[list[float]] = self._get(
            name, [], lambda x: _is_list(x, lambda y: _is_list(y, is_number)), allowed
        )
        return result

    def refuse(self, name: str, what_to_do: str) -> CheckpointError:
        """The error to raise for a value that is of its kind and still not supported."""
        return CheckpointError(f"{self.where}: {name} is {shown(self._values.get(name))}; {what_to_do}")

    def _get(self, name: str, default: Any, fits: Any, allowed: str) -> Any:
        value = self._values.get(name)
        if value is None:
            return default
        if not fits(value):
            raise self.refuse(name, f"it has to be {allowed}")
        return value


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number beyond float
        return False


def shown(value: Any) -> str:
    """A value of any kind as JSON, short enough for a message."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_list(value: Any, fits: Any) -> bool:
    return isinstance(value, list) and all(fits(entry) for entry in value)
