# SPDX-License-Identifier: Apache-2.0
"""A copy of what is in the repository, as a fresh checkout of it has it."""

import shutil
import subprocess
from pathlib import Path


def copy_tracked(root: Path, copy: Path, without: tuple[str, ...] = ()) -> None:
    """The files that git tracks or would add, as they are now, but those whose names begin like one of `without`."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate", "-z"]
    names = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (root / name).exists() and not name.startswith(without):  # and not deleted
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, copy / name, follow_symlinks=False)
