# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 recording, streamed: sqlite3 and MCAP, folders and single files, compressed or not. No ROS needed."""

import os
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from specprune_ros.errors import UserError
from specprune_ros.recording.definitions import CHUNK, STATISTICS, register_own

SUFFIXES = (".mcap", ".db3")
# What a damaged file makes of the reader, beside its own error.
DAMAGE = (ReaderError, apsw.Error, struct.error, EOFError, ValueError, TypeError, KeyError, AssertionError)


class BagError(UserError):
    """A bag cannot be read, or lacks what is needed."""


@dataclass(frozen=True, eq=False)
class BagMessage:
    topic: str
    time: int  # when it was recorded, nanoseconds
    message: Any
    data: bytes  # as recorded


class Bag:
    """An open recording. Leaving the `with` block closes it."""

    def __init__(self, path: Path) -> None:
        """Raises BagError, one line, for whatever is wrong with it."""
        self.path = path
        _check_path(path)
        self._stack = ExitStack()
        self.malformed: Counter[str] = Counter()  # topic -> messages that do not deserialize
        try:
            self._reader = self._stack.enter_context(Reader(path))
        except FileNotFoundError:
            raise BagError(_without_metadata(path)) from None
        except PermissionError as error:
            raise BagError(f"{path} may not be read ({error.strerror}); change its permissions") from None
        except OSError as error:
            raise BagError(f"{path} cannot be read ({error.strerror or error})") from None
        except Exception as error:  # damaged files raise of every kind
            raise BagError(_damaged(path, error)) from None
        self.types: dict[str, str] = {connection.topic: connection.msgtype for connection in self._reader.connections}
        self.counts: Counter[str] = Counter()
        for connection in self._reader.connections:
            self.counts[connection.topic] += connection.msgcount
        if not sum(self.counts.values()):
            self.close()
            raise BagError(f"{path} holds no messages; record again, and look at `ros2 bag info {path}`")
        self._typestore = _typestore(self._reader.connections)

    def __enter__(self) -> "Bag":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    @property
    def start(self) -> int:
        """When the first message was recorded, nanoseconds."""
        return self._reader.start_time

    @property
    def end(self) -> int:
        """Just after the last message was recorded, nanoseconds."""
        return self._reader.end_time

    @property
    def custom_data(self) -> dict[str, str]:
        """What the recorder wrote into the metadata beside the messages."""
        return dict(self._reader.storage.metadata.custom or {})

    def of_type(self, kinds: Collection[str]) -> list[str]:
        """Topics of these message types, sorted, with the number of their messages in words."""
        return [
            f"{topic} ({self.counts[topic]} messages)" for topic, kind in sorted(self.types.items()) if kind in kinds
        ]

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """The messages of these topics as they were recorded; those that do not deserialize are only counted.

        Raises BagError when the file turns out to be damaged.
        """
        connections = [connection for connection in self._reader.connections if connection.topic in topics]
        if not connections:
            return
        stream = self._reader.messages(connections=connections)
        while True:
            try:
                connection, time, data = next(stream)
            except StopIteration:
                return
            except OSError as error:
                raise BagError(f"{self.path} cannot be read ({error.strerror or error})") from None
            except Exception as error:  # damaged files raise of every kind
                raise BagError(_damaged(self.path, error)) from None
            try:
                message = self._typestore.deserialize_cdr(data, connection.msgtype)
            except (SerdeError, *DAMAGE):
                self.malformed[connection.topic] += 1
                continue
            yield BagMessage(connection.topic, time, message, data)


def _check_path(path: Path) -> None:
    if not path.exists():
        raise BagError(f"{path} does not exist; give the folder or file of a bag")
    if path.suffix == ".bag":
        raise BagError(f"{path} is a ROS 1 bag; convert it: rosbags-convert --src {path} --dst {path.with_suffix('')}")
    if path.suffix == ".zstd":
        raise BagError(f"{path} is one compressed file of a bag; give the folder that it lies in, with metadata.yaml")
    if path.is_file() and path.suffix not in SUFFIXES:
        raise BagError(f"{path} is not a bag; give a folder with metadata.yaml, an .mcap or a .db3 file")
    if path.is_file() and not os.path.getsize(path):
        raise BagError(f"{path} is empty; its recorder was killed before it wrote anything")


def _without_metadata(path: Path) -> str:
    files = [file for suffix in SUFFIXES for file in sorted(path.glob(f"*{suffix}*"))]
    if not files:
        return f"{path} is not a bag: it has neither metadata.yaml nor .mcap or .db3 files"
    return (
        f"{path} has no metadata.yaml, its recorder was killed; run `ros2 bag reindex {path}`, or give the file "
        f"{files[0].name} in it"
    )


def _damaged(path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    mcap = path.suffix == ".mcap" or any(path.glob("*.mcap")) if path.exists() else False
    repair = "`mcap recover FILE.mcap -o NEW.mcap`" if mcap else "`sqlite3 FILE.db3 .recover`"
    return f"{path} is damaged or was cut off ({reason[:160]}); repair it with {repair}, or copy or record it again"


def _typestore(connections: list[Connection]) -> Typestore:
    """ROS 2's own types and this package's; definitions of other types, which may be missing or wrong, do not matter.

    A chunk that another version of this package recorded is read by the definition that came with it.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    for connection in connections:
        own = connection.msgtype in (CHUNK, STATISTICS) and connection.msgtype not in store.types
        if own and connection.msgdef.format == MessageDefinitionFormat.MSG:
            try:
                types = get_types_from_msg(connection.msgdef.data, connection.msgtype)
                store.register({name: fields for name, fields in types.items() if name not in store.types})
            except Exception:
                continue
    register_own(store)
    return store
