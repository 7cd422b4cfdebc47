# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can fix. Their message is one line: what is wrong, where, and what to do."""

import errno
from pathlib import Path


class UserError(Exception):
    """A user's mistake. Commands print the message and exit with code 2; nodes fail the lifecycle transition."""


class CheckpointError(UserError):
    """A checkpoint is missing, incomplete, or of a variant that is not supported."""


class ConfigError(UserError):
    """A configuration value is out of range, or values contradict each other."""


class ObservationError(UserError):
    """An observation does not fit the checkpoint: views, image shape or dtype, proprio, instruction."""


def no_space(problem: OSError, path: Path) -> UserError:
    """What to say about a file that could not be written."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"no space left for {path}; free some, or write to another disk")
    if problem.errno == errno.EFBIG:
        return UserError(f"no file may grow so large in {path}; raise `ulimit -f`, or write to another disk")
    return UserError(f"{path} cannot be written ({problem.strerror or problem}); name another folder")
