# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 recording, streamed: sqlite3 and MCAP, folders and single files, compressed or not. No ROS needed."""

import struct
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinitionFormat
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.rosbag2.reader import DirectoryReader
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from specprune_ros.recording.definitions import CHUNK, STATISTICS, register_own
from specprune_ros.replay.bag_repair import BagError, check_path, one_by_one, other_files, unreadable, without_metadata
from specprune_ros.replay.bag_storage import BagReader

ZSTANDARD = bytes.fromhex("28b52ffd")  # how compressed data begins
# What a damaged file makes of the reader, beside its own error.
DAMAGE = (ReaderError, apsw.Error, struct.error, EOFError, ValueError, TypeError, KeyError, AssertionError)


@dataclass(frozen=True, eq=False)
class BagMessage:
    """A message, and when it was recorded."""

    topic: str
    time: int  # when it was recorded, nanoseconds
    message: Any
    data: bytes  # as recorded


class Bag:
    """An open recording. Leaving the `with` block closes it."""

    def __init__(self, path: Path) -> None:
        """Raises BagError, one line, for whatever is wrong with it."""
        self.path = path
        self._stack = ExitStack()
        self.malformed: Counter[str] = Counter()  # topic -> messages that do not deserialize
        try:
            check_path(path)
            self._reader = self._stack.enter_context(BagReader(path))
        except BagError:
            raise
        except FileNotFoundError:
            raise BagError(without_metadata(path)) from None
        except Exception as error:  # damaged files raise of every kind
            raise BagError(unreadable(path, error)) from None
        _settle(self._reader)
        self.types, self.counts = _inventory(self._reader.connections)
        if not sum(self.counts.values()):
            self.close()
            raise BagError(f"{path} holds no messages; record again, and look at `ros2 bag info {path}`")
        self._typestore = _typestore(self._reader.connections)
        self.start, self.end = _span(self._reader)  # of what was recorded, nanoseconds; the end is behind it

    def __enter__(self) -> "Bag":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

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

        Of a topic with several types those of the one in `types`. Raises BagError when the file is damaged.
        """
        connections = [
            connection
            for connection in self._reader.connections
            if connection.topic in topics and connection.msgtype == self.types[connection.topic]
        ]
        if not connections:
            return
        stream = self._reader.messages(connections=connections)
        read: set[str] = set()
        while True:
            try:
                connection, time, data = next(stream)
            except StopIteration:
                lost = {connection.topic for connection in connections if connection.msgcount} - read
                if lost:
                    raise BagError(other_files(self.path, min(lost))) from None
                return
            except Exception as error:  # damaged files raise of every kind
                raise BagError(unreadable(self.path, error)) from None
            read.add(connection.topic)
            try:
                message = self._typestore.deserialize_cdr(data, connection.msgtype)
            except (SerdeError, *DAMAGE):
                if self.path.is_file() and data[:4] == ZSTANDARD:
                    raise BagError(one_by_one(self.path)) from None
                self.malformed[connection.topic] += 1
                continue
            yield BagMessage(connection.topic, time, message, data)


def _span(reader: Reader) -> tuple[int, int]:
    """When the first message was recorded, and just after the last one: of a folder by its files, as metadata lie."""
    storage = reader.storage
    files = storage.storages if isinstance(storage, DirectoryReader) else []
    full = [file.metadata for file in files if file.metadata.message_count]
    start = min((file.start_time for file in full), default=reader.start_time)
    return start, max((file.end_time for file in full), default=reader.end_time)


def _settle(reader: Reader) -> None:
    """Files of a folder in the order of their times, not of the metadata, which tools that sort names as text make.

    And qualities of service that the metadata has otherwise than the files are no reason not to read a topic.
    """
    if not isinstance(reader.storage, DirectoryReader):
        return
    reader.storage.storages.sort(key=lambda file: file.metadata.start_time)
    promised = {(connection.topic, connection.msgtype): connection.ext for connection in reader.connections}
    for file in reader.storage.storages:
        for index, connection in enumerate(file.connections):
            ext = promised.get((connection.topic, connection.msgtype))
            own = connection.ext
            if (
                isinstance(ext, ConnectionExtRosbag2)
                and isinstance(own, ConnectionExtRosbag2)
                and ext.serialization_format == own.serialization_format
            ):
                file.connections[index] = connection._replace(ext=ext)


def _inventory(connections: list[Connection]) -> tuple[dict[str, str], Counter[str]]:
    """Topic -> its type, and how many messages of that it has. Of several types the one with most messages counts."""
    found: dict[str, Counter[str]] = {}
    for connection in connections:
        found.setdefault(connection.topic, Counter())[connection.msgtype] += connection.msgcount
    most = {topic: counts.most_common(1)[0] for topic, counts in found.items()}
    return {topic: kind for topic, (kind, _) in most.items()}, Counter({topic: n for topic, (_, n) in most.items()})


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
