# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can fix. Their message is one line: what is wrong, where, and what to do."""


class UserError(Exception):
    """A user's mistake. Commands print the message and exit with code 2; nodes fail the lifecycle transition."""


class CheckpointError(UserError):
    """A checkpoint is missing, incomplete, or of a variant that is not supported."""


class ConfigError(UserError):
    """A configuration value is out of range, or values contradict each other."""


class ObservationError(UserError):
    """An observation does not fit the checkpoint: views, image shape or dtype, proprio, instruction."""
