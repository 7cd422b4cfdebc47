# SPDX-License-Identifier: Apache-2.0
"""Bags as recorders leave them: types without a definition, logs that were not merged, folders that are locked."""

import contextlib
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
from replay_bags import BagMaker
from rosbags.rosbag2 import StoragePlugin

from specprune_ros.errors import UserError
from specprune_ros.replay.bag import Bag

ODD = "lab_msgs/msg/Odd"


def with_odd_type(folder, storage):
    maker = BagMaker(1)
    maker.definitions["/odd"] = ("int32 x\n", "RIHS01_" + "0" * 64)
    maker.add(0, "/odd", ODD, b"\0\1\0\0abcd")
    maker.messages.sort(key=lambda entry: entry[0])
    return maker.write(folder / "bag", storage)


def assert_readable(bag):
    with Bag(bag) as opened:
        assert opened.counts["/odd"] == 1 and opened.types["/odd"] == ODD
        assert [message.topic for message in opened.messages(["/joint_states"])] == ["/joint_states"] * 2


@pytest.mark.parametrize("encoding", ["", "unknown"])
def test_sqlite_with_a_type_whose_definition_was_not_found(tmp_path, encoding):
    """rosbag2 writes "" where a type's file is not installed, and "unknown" for events of services."""
    bag = with_odd_type(tmp_path, StoragePlugin.SQLITE3)
    with contextlib.closing(sqlite3.connect(bag / "bag.db3")) as database, database:
        change = "UPDATE message_definitions SET encoding = ? WHERE topic_type = ?"
        assert database.execute(change, [encoding, ODD]).rowcount == 1
    assert_readable(bag)


def test_mcap_with_a_type_whose_definition_was_not_found(tmp_path):
    bag = with_odd_type(tmp_path, StoragePlugin.MCAP)
    content = (bag / "bag.mcap").read_bytes()
    known, unknown = b"ros2msg", b"unknown"
    schema = ODD.encode() + len(known).to_bytes(4, "little") + known
    assert content.count(schema) == 2  # with the messages, and in the summary
    (bag / "bag.mcap").write_bytes(content.replace(schema, schema.replace(known, unknown)))
    assert_readable(bag)
    assert_readable(bag / "bag.mcap")


@pytest.mark.parametrize("of", ["folder", "folder without metadata", "file"])
def test_sqlite_whose_log_was_not_merged(tmp_path, of):
    """Its recorder was killed: what is in the log alone would silently be missing."""
    bag = BagMaker(1).write(tmp_path / "bag", StoragePlugin.SQLITE3)
    database = sqlite3.connect(bag / "bag.db3")
    database.execute("PRAGMA journal_mode=WAL")
    with database:
        database.execute("INSERT INTO messages SELECT id + 1000, topic_id, timestamp, data FROM messages")
    killed = shutil.copytree(bag, tmp_path / "killed")
    database.close()
    if of == "folder without metadata":
        (killed / "metadata.yaml").unlink()
    path = killed / "bag.db3" if of == "file" else killed
    with pytest.raises(UserError, match=r"bag.db3-wal holds messages that are not in the bag yet") as error:
        Bag(path)
    assert str(error.value).endswith(f"sqlite3 {killed / 'bag.db3'} 'PRAGMA wal_checkpoint(TRUNCATE)'")
    with contextlib.closing(sqlite3.connect(killed / "bag.db3")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if of == "folder without metadata":
        with pytest.raises(UserError, match=r"has no metadata.yaml, its recorder was killed"):
            Bag(path)
    with Bag(killed / "bag.db3") as opened:
        assert opened.counts["/joint_states"] == 4


def test_a_folder_that_may_not_be_entered():
    """Asked as another user where this one is root, who may enter everything."""
    with tempfile.TemporaryDirectory() as name:
        locked = Path(name) / "locked"
        bag = BagMaker(1).write(locked / "bag")
        Path(name).chmod(0o755)
        locked.chmod(0)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            with pytest.raises(UserError, match="may not be read"):
                Bag(bag)
        finally:
            if root:
                os.seteuid(0)
            locked.chmod(0o755)
