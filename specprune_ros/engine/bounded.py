# SPDX-License-Identifier: Apache-2.0
"""Dictionaries that hold a limited number of entries."""

from typing import Any


def make_room(entries: dict[Any, Any], limit: int) -> None:
    """Drop the oldest entries, so that one more fits into `limit`."""
    while len(entries) >= limit:
        del entries[next(iter(entries))]
