# SPDX-License-Identifier: Apache-2.0
"""Bags written with rosbags: MCAP, with the definitions of every type."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from specprune_ros.errors import UserError, no_space
from specprune_ros.recording.definitions import register_own

FOREVER = QosTime(9223372036, 854775807)
LATCHED = Qos(
    QosHistory.KEEP_LAST,
    1,
    QosReliability.RELIABLE,
    QosDurability.TRANSIENT_LOCAL,
    FOREVER,
    FOREVER,
    QosLiveliness.AUTOMATIC,
    FOREVER,
    False,
)


class BagWriter:
    """A new bag folder. Leaving the `with` block completes it; after an error it stays without metadata."""

    def __init__(self, path: Path, latched: Iterable[str] = ()) -> None:
        """`latched`: topics whose messages a player has to keep. Raises UserError when `path` exists."""
        if path.exists():
            raise UserError(f"{path} exists; name another folder for the bag, or delete it")
        self.types = get_typestore(Stores.ROS2_JAZZY)
        register_own(self.types)
        self._latched = set(latched)
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> "BagWriter":
        self._writer.open()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self._writer.__exit__(kind, error, trace)
        except OSError as problem:
            raise no_space(problem, self._writer.path) from problem

    def set_custom_data(self, key: str, value: str) -> None:
        self._writer.set_custom_data(key, value)

    def add_topic(self, topic: str, kind: str) -> None:
        """Announce a topic, which then is in the bag even without messages. `kind`: as std_msgs/msg/String."""
        if topic not in self._connections:
            qos = [LATCHED] if topic in self._latched else []
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self.types, offered_qos_profiles=qos
            )

    def write(self, topic: str, kind: str, time: int, message: Any) -> None:
        """A message of the writer's `types`, recorded at `time`, nanoseconds."""
        self.write_raw(topic, kind, time, self.types.serialize_cdr(message, kind))

    def write_raw(self, topic: str, kind: str, time: int, data: bytes | memoryview) -> None:
        """A serialized message. Raises UserError when the disk is full."""
        self.add_topic(topic, kind)
        try:
            self._writer.write(self._connections[topic], time, data)
        except OSError as problem:
            raise no_space(problem, self._writer.path) from problem
