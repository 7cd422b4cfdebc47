# SPDX-License-Identifier: Apache-2.0
"""Every source file names its licence in its first lines."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_every_source_file_names_its_licence():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.splitlines() if name.endswith((".py", "CMakeLists.txt"))]
    paths += [path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix]
    silent = [path for path in paths if path.is_file() and "SPDX-License-Identifier: Apache-2.0" not in _head(path)]
    assert not silent, f"add '# SPDX-License-Identifier: Apache-2.0' to {', '.join(map(str, silent))}"


def _head(path: Path) -> str:
    return path.read_text()[:200]
