# SPDX-License-Identifier: Apache-2.0
"""Rows of a check-up: pass, warn or fail, and what to do."""

from dataclasses import dataclass

PASS, WARN, FAIL = "pass", "warn", "fail"
SIZES = {"GB": 1e9, "MB": 1e6, "kB": 1e3}


@dataclass(frozen=True)
class Check:
    """One row."""

    name: str
    verdict: str
    detail: str  # what was found, and what to do unless the verdict is pass


def table(rows: list[Check]) -> str:
    """The checks as aligned lines."""
    width = max(len(row.name) for row in rows)
    return "\n".join(f"{row.verdict:4}  {row.name:{width}}  {row.detail}" for row in rows)


def bytes_text(count: float) -> str:
    """A size for people: 15.1 GB, 6.6 MB."""
    unit = next((unit for unit in ("GB", "MB") if count >= SIZES[unit]), "kB")
    return f"{count / SIZES[unit]:.3g} {unit}"
