# SPDX-License-Identifier: Apache-2.0
"""No import from a lower room to a higher one; the contracts are in pyproject.toml."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_import_contracts_hold():
    cli = pytest.importorskip("importlinter.cli")
    assert cli.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def test_every_room_is_in_the_contract():
    contract = (ROOT / "pyproject.toml").read_text().partition('name = "One direction')[2].partition("[[")[0]
    rooms = {path.stem for path in (ROOT / "specprune_ros").iterdir() if path.suffix == ".py" or path.is_dir()}
    for room in sorted(rooms - {"__init__", "__pycache__"}):
        assert room in contract, f"give specprune_ros/{room} a floor in pyproject.toml's layers"
