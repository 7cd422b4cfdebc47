# SPDX-License-Identifier: Apache-2.0
"""One thing that is wrong with a recording."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line for the report. `kind` says what it is about, for programs; `level` is error, warning or hint."""

    kind: str
    level: str
    text: str
