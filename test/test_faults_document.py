# SPDX-License-Identifier: Apache-2.0
"""docs/faults.md lists the faults that are tested. `python test/test_faults_document.py` writes its tables."""

import importlib
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from faults import DOCUMENT, END, FAULTS, START, table

pytestmark = pytest.mark.ros

HERE = Path(__file__).parent
MODULES = sorted(path.stem for path in HERE.glob("test_faults_*.py") if path.stem != Path(__file__).stem)


def current_table() -> str:
    for module in MODULES:
        importlib.import_module(module)
    return table()


def test_document_lists_the_tested_faults():
    expected = current_table()
    written = DOCUMENT.read_text().split(START)[1].split(END)[0]
    assert written == expected, "docs/faults.md is old; run: scripts/env python test/test_faults_document.py"


def test_faults_are_distinct():
    rows = current_table() and [(row.group, row.name) for row in FAULTS]
    assert len(set(rows)) == len(rows) >= 25


if __name__ == "__main__":
    before, rest = DOCUMENT.read_text().split(START)
    DOCUMENT.write_text(before + START + current_table() + END + rest.split(END)[1])
