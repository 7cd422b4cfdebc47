# SPDX-License-Identifier: Apache-2.0
"""The list of faults that the tests in test_faults_*.py inject, and the table of them in docs/faults.md."""

import sys
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "faults.md"
START, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"

HOLDS, GOES_ON, OFF = "holds", "goes on", "stops; motion is off"
BY_ITSELF = "by itself"
GROUPS = (
    "Camera images",
    "Joint states",
    "Transforms",
    "Clocks",
    "Inference",
    "Instructions and parameters",
    "Other nodes",
    "Processes and the machine",
    "Signals",
    "Lifecycle",
    "Checkpoint on disk",
)
FAULTS: list["Fault"] = []


@dataclass(frozen=True)
class Fault:
    """One row of the table. /diagnostics says `words` in the message or a value of `status`."""

    group: str
    name: str
    arm: str
    status: str
    words: str
    recovery: str
    module: str  # whose test injects it

    def __str__(self) -> str:
        return self.name


def fault(group: str, name: str, arm: str, status: str, words: str, recovery: str = BY_ITSELF) -> Fault:
    """Add a row to the table."""
    assert group in GROUPS
    row = Fault(group, name, arm, status, words, recovery, sys._getframe(1).f_globals["__name__"])
    FAULTS.append(row)
    return row


def table() -> str:
    """All rows, by group, as Markdown."""
    lines = []
    for group in GROUPS:
        lines += [f"### {group}", "", "| fault | the arm | /diagnostics | recovery |", "|---|---|---|---|"]
        # By module: which tests run first does not matter.
        rows = sorted((row for row in FAULTS if row.group == group), key=lambda row: row.module)
        lines += [f"| {row.name} | {row.arm} | {_says(row)} | {row.recovery} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def _says(row: Fault) -> str:
    return f"{row.status}: “{row.words}”"
