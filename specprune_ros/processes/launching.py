# SPDX-License-Identifier: Apache-2.0
"""What the launch files share. Needs ROS's launch, which nothing else in this package does."""

from collections.abc import Callable

from launch import LaunchContext
from launch.actions import SetEnvironmentVariable, Shutdown
from launch.events.process import ProcessExited
from launch.substitutions import EnvironmentVariable, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

PROFILES = "FASTRTPS_DEFAULT_PROFILES_FILE"
WRONG_PARAMETERS = 2  # exit code
RESPAWN_DELAY = 2.0  # seconds


def fast_dds(profile: str) -> SetEnvironmentVariable:
    """Use `profile`, a file of config/, unless the user has set one.

    Without it camera frames are lost, and a killed process can stop the commands of one that lives.
    """
    own = PathJoinSubstitution([FindPackageShare("specprune_ros"), "config", profile])
    return SetEnvironmentVariable(PROFILES, EnvironmentVariable(PROFILES, default_value=own))


def ending(what: str, respawn: bool) -> Callable[[ProcessExited, LaunchContext], list | None]:
    """For a Node's `on_exit`: the launch ends with `what`, with 1 after an error.

    With `respawn` it goes on after a crash; wrong parameters do not get better by themselves.
    """

    def on_exit(event: ProcessExited, context: LaunchContext) -> list | None:
        if context.is_shutdown:
            return None
        if event.returncode == 0:
            return [Shutdown(reason=f"{what} has ended")]
        if event.returncode == WRONG_PARAMETERS or not respawn:
            # An exception is how launch ends with 1.
            raise RuntimeError(f"{what} ended with exit code {event.returncode}; its last line says why")
        return None  # started again

    return on_exit
