# SPDX-License-Identifier: Apache-2.0
"""Memory over a long bag: everything that a moment brings goes to the disk at once."""

import gc
import os
import sys
from pathlib import Path

from light_replay import light_replay  # noqa: F401  a fixture that every test here uses
from replay_bags import BagMaker, parameter_file

from specprune_ros.replay import replay
from specprune_ros.replay.moment import Spool
from specprune_ros.replay.options import parse

IMAGES = 60
BLOCKS = 100  # of Python's allocator for each moment; one that is kept has hundreds
GROWTH = 12 << 20  # bytes of the process, whose allocators keep a little; the frames of these moments are 16 MB


def held():
    """Blocks of Python's allocator, and resident bytes."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return sys.getallocatedblocks(), pages * os.sysconf("SC_PAGE_SIZE")


def test_memory_does_not_grow_with_the_bag(tmp_path, monkeypatch):
    bag = BagMaker(IMAGES).write(tmp_path / "bag")
    add, seen = Spool.add, {}

    def measured(self, moment):
        add(self, moment)
        if len(self) in (IMAGES // 3, IMAGES - 1):
            seen[len(self)] = held()

    monkeypatch.setattr(Spool, "add", measured)
    words = [
        "--params-file",
        str(parameter_file(tmp_path)),
        "--arms",
        "paper",
        "--quiet",
        "--out",
        str(tmp_path / "out"),
    ]
    assert replay.run(parse([str(bag), *words])) == 0
    (first, (blocks, size)), (last, (more, larger)) = seen.items()
    assert (more - blocks) / (last - first) < BLOCKS
    assert larger - size < GROWTH
