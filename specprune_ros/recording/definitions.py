# SPDX-License-Identifier: Apache-2.0
"""The definitions of this package's messages, for bags that come without."""

import os
import sys
from pathlib import Path

from rosbags.typesys import get_types_from_msg
from rosbags.typesys.store import Typestore

from specprune_ros.errors import UserError

CHUNK, STATISTICS = "specprune_ros/msg/ActionChunk", "specprune_ros/msg/PruningStats"


def register_own(store: Typestore) -> None:
    """Add the types that `store` does not have yet."""
    for kind in (CHUNK, STATISTICS):
        if kind not in store.types:
            types = get_types_from_msg(_definition(kind), kind)
            store.register({name: fields for name, fields in types.items() if name not in store.types})


def _definition(kind: str) -> str:
    name = kind.rpartition("/")[2] + ".msg"
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    shares = [Path(prefix, "share", "specprune_ros", "msg") for prefix in (*prefixes, sys.prefix)]
    for folder in (Path(__file__).parents[2] / "msg", *shares):
        if (folder / name).is_file():
            return (folder / name).read_text()
    raise UserError(f"{name} of specprune_ros is not installed; install the package again")
