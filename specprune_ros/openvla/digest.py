# SPDX-License-Identifier: Apache-2.0
"""A short name for the content of a checkpoint folder."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

SAMPLE = 1 << 20  # bytes at either end of a file; reading all of 15 GB would take a minute
SUFFIXES = (".json", ".safetensors", ".pt")


def digest(folder: Path) -> str:
    """16 hexadecimal digits, from every file's name, size and ends. "" for a folder that cannot be read."""
    try:
        return digest_of(sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES))
    except OSError:
        return ""


def digest_of(paths: Iterable[Path]) -> str:
    """The same of some files, in this order. Raises OSError."""
    total = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        total.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            total.update(file.read(SAMPLE))
            file.seek(max(size - SAMPLE, 0))
            total.update(file.read(SAMPLE))
    return total.hexdigest()[:16]
