# SPDX-License-Identifier: Apache-2.0
"""rosbags' reader, for bags whose message definitions it does not know how to read; ours needs none of them.

rosbag2 writes the encoding "" where a type's definition is not installed, and "unknown" for types of odd names, such as
the events of services; rosbags 0.11 then takes the whole bag for damaged.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apsw
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.reader import DirectoryReader
from rosbags.rosbag2.storage_mcap import McapReader, Schema
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

ENCODINGS = "ros2msg", "ros2idl"
COLUMN = "encoding"  # of the table message_definitions


class _Schemas(dict[int, Schema]):
    def __setitem__(self, number: int, schema: Schema) -> None:
        known = (*ENCODINGS, "omgidl", "")
        super().__setitem__(number, schema if schema.encoding in known else schema._replace(encoding=""))


class _Mcap(McapReader):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.schemas = _Schemas()


class _Sqlite(Sqlite3Reader):
    def _open(self) -> None:
        apsw.connection_hooks.append(_trace)
        try:
            super()._open()
        finally:
            apsw.connection_hooks.remove(_trace)
        if self.dbconn is not None:
            self.dbconn.row_trace = None


def _trace(connection: apsw.Connection) -> None:
    connection.row_trace = _with_known_encoding


def _with_known_encoding(cursor: apsw.Cursor, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row of message definitions with another encoding becomes one of "ros2msg"."""
    names = [column[0] for column in cursor.get_description()]
    if COLUMN not in names or row[names.index(COLUMN)] in ENCODINGS:
        return row
    return tuple(ENCODINGS[0] if name == COLUMN else value for name, value in zip(names, row, strict=True))


class _Directory(DirectoryReader):
    STORAGE_PLUGINS: Mapping[str, type[Any]] = {"mcap": _Mcap, "sqlite3": _Sqlite}


class BagReader(Reader):
    """A folder, an .mcap or a .db3 file."""

    STORAGE_PLUGINS: Mapping[str, type[Any]] = {"dir": _Directory, ".mcap": _Mcap, ".db3": _Sqlite}
