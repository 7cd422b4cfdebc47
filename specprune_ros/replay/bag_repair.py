# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a bag that cannot be read, and what to do about it, in one line."""

import errno
from pathlib import Path
from typing import Any

import yaml

from specprune_ros.errors import UserError

SUFFIXES = (".mcap", ".db3")
NEWEST = 9  # version of metadata.yaml that can be read
METADATA = "metadata.yaml"
LOG = "-wal"  # of SQLite: written first, and merged when the recorder closes the file
OTHER_PROFILE = "Profile is not ros2."  # what rosbags says


class BagError(UserError):
    """A bag cannot be read, or lacks what is needed."""


def check_path(path: Path) -> None:
    """Raises BagError for what is no bag at all."""
    if not path.exists():
        raise BagError(f"{path} does not exist; give the folder or file of a bag")
    if path.suffix == ".bag" and path.is_file():
        raise BagError(f"{path} is a ROS 1 bag; convert it: rosbags-convert --src {path} --dst {path.with_suffix('')}")
    if path.suffix == ".zstd" and path.is_file():
        raise BagError(f"{path} is one compressed file of a bag; give the folder that it lies in, with {METADATA}")
    if not path.is_dir() and (path.suffix not in SUFFIXES or not path.is_file()):
        raise BagError(f"{path} is not a bag; give a folder with {METADATA}, an .mcap or a .db3 file")
    if path.is_file() and not path.stat().st_size:
        raise BagError(f"{path} is empty; its recorder was killed before it wrote anything")
    for log in sorted(path.glob(f"*.db3{LOG}")) if path.is_dir() else [Path(f"{path}{LOG}")]:
        if log.exists() and log.stat().st_size:
            database = str(log).removesuffix(LOG)
            raise BagError(
                f"{log} holds messages that are not in the bag yet: its recorder still runs, or was killed; then merge "
                f"them: sqlite3 {database} 'PRAGMA wal_checkpoint(TRUNCATE)'"
            )


def without_metadata(path: Path) -> str:
    files = _files(path)
    if not files:
        return f"{path} is not a bag: it has neither {METADATA} nor .mcap or .db3 files"
    return f"{path} has no {METADATA}, its recorder was killed; {_reindex(path, files)}"


def unreadable(path: Path, error: Exception) -> str:
    """`error`: what came of reading it."""
    if isinstance(error, PermissionError):
        return f"{path} may not be read ({error.strerror}); change its permissions"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space left to unpack {path}; free some, or set TMPDIR to a folder on another disk"
    if isinstance(error, OSError):
        return f"{path} cannot be read ({error.strerror or error}); copy it again"
    files = _files(path) if path.is_dir() else [path]
    if any(sign in str(path.absolute()) for sign in "#?%") and any(file.suffix == ".db3" for file in files):
        return f"{path} is an SQLite bag, whose path must not have #, ? or %; rename its folder"
    return (_metadata_problem(path) if path.is_dir() else "") or _damaged(path, error)


def one_by_one(path: Path) -> str:
    """What to say of a single file whose messages are compressed: only its bag's metadata tell."""
    return f"{path} has messages that are compressed one by one; give the folder that it lies in, with {METADATA}"


def other_files(path: Path, topic: str) -> str:
    """What to say when not one of the messages of `topic` is there that are promised."""
    if path.is_file():
        return f"{path} promises messages on {topic} and has none; copy it again"
    return f"{path / METADATA} does not describe the files beside it: none has {topic}; {_reindex(path, _files(path))}"


def _metadata_problem(path: Path) -> str:
    """What is wrong with a folder's metadata.yaml, "" when it is another thing."""
    files = _files(path)
    try:
        metadata: dict[str, Any] = yaml.safe_load((path / METADATA).read_text())["rosbag2_bagfile_information"]
        version, storage = metadata["version"], metadata["storage_identifier"]
        missing = [name for name in metadata["relative_file_paths"] if not (path / Path(name).name).exists()]
        too_new = version > NEWEST
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        return f"{path / METADATA} is damaged; " + (_reindex(path, files) if files else "copy the bag again")
    if too_new:
        return (
            f"{path} has metadata of version {version}, newer than {NEWEST}; convert it with the `ros2 bag "
            "convert` of ROS 2 Jazzy, or update rosbags"
        )
    if missing:
        rest = f", or leave them out: {_reindex(path, files)}" if files else ""
        return f"{path} lacks {', '.join(missing)}, which its {METADATA} names; copy the whole folder again{rest}"
    if storage not in ("mcap", "sqlite3"):
        return f"{path} is stored as {storage}, which cannot be read; convert it with `ros2 bag convert` to mcap"
    return ""


def _files(path: Path) -> list[Path]:
    return [file for suffix in SUFFIXES for file in sorted(path.glob(f"*{suffix}*"))]


def _reindex(path: Path, files: list[Path]) -> str:
    single = f", or give the file {files[0].name} in it" if files[0].suffix in SUFFIXES else ""
    return f"run `ros2 bag reindex {path}`{single}"


def _damaged(path: Path, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if reason == OTHER_PROFILE:
        return (
            f"{path} was not recorded by ROS 2, but by ROS 1 or another tool (its MCAP profile is not ros2); convert "
            "the recording it was made from with rosbags-convert, or record again with `ros2 bag record`"
        )
    files = [path] if path.is_file() else _files(path)
    repair = ""
    if any(file.suffix == ".mcap" for file in files):
        repair = "repair it with `mcap recover FILE.mcap -o NEW.mcap`, or "
    elif any(file.suffix == ".db3" for file in files):
        repair = "repair it with `sqlite3 FILE.db3 .recover`, or "
    return f"{path} is damaged or was cut off ({reason[:160]}); {repair}copy or record it again"
