# SPDX-License-Identifier: Apache-2.0
"""Who is in charge of the arm: the policy, a person, or nobody."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from specprune_ros.parameters import check, parameter

SERVICE = "~/takeover"


class InCharge(StrEnum):
    """As in ActionChunk.msg."""

    POLICY = "policy"
    PERSON = "person"
    NOBODY = "nobody"  # motion is off, or a dry run


@dataclass(frozen=True)
class TakeoverConfig:
    """A device by which a person takes over, beside `~/takeover`."""

    topic: str = parameter(
        "",
        "Topic of a teleoperation device: a person is in charge while messages arrive on it, whatever they say; empty: "
        "~/takeover alone. Not a topic that this node publishes.",
        live=False,
    )
    message: str = parameter(
        "twist",
        "Messages of takeover.topic: twist (geometry_msgs/TwistStamped), joint_trajectory "
        "(trajectory_msgs/JointTrajectory) or joint_state (sensor_msgs/JointState, of a leader arm).",
        choices=("twist", "joint_trajectory", "joint_state"),
        live=False,
    )
    release_after: float = parameter(
        0.5,
        "The device has let go when it is silent for longer; more than its period.",
        minimum=0.02,
        maximum=60.0,
        unit="s",
    )
    release: str = parameter(
        "silence",
        "What gives the arm back after the device took over: its silence, or service: ~/takeover with false, so that "
        "a device that fails does not set the arm in motion.",
        choices=("silence", "service"),
    )

    def __post_init__(self) -> None:
        check(self, "takeover")


class Takeover:
    """Remembers who took over. Calls come from the executor's thread; `person` may be read from any.

    Times are those of a steady clock: a ROS clock that jumps must not give an arm back that a person holds.
    """

    def __init__(
        self, config: TakeoverConfig = TakeoverConfig(), arrival: Callable[[], float] = time.monotonic
    ) -> None:
        self.config = config  # may be replaced
        self.topic = ""  # as resolved, for messages
        self._arrival = arrival
        self._by_hand = False
        self._heard: float | None = None

    def take(self) -> None:
        """A person takes over until `release`."""
        self._by_hand = True

    def hear(self) -> None:
        """The device sent something."""
        self._heard = self._arrival()
        self._by_hand = self._by_hand or self.config.release == "service"

    def release(self) -> str:
        """Give the arm back. Answers who still keeps it; "" when nobody does.

        What is refused must not happen later: a device that keeps the arm until it is released goes on keeping it.
        """
        self._by_hand = self._by_hand and self.config.release == "service" and self._device_sends
        return self.person

    @property
    def _device_sends(self) -> bool:
        return self._heard is not None and self._arrival() - self._heard <= self.config.release_after

    @property
    def person(self) -> str:
        """By what a person is in charge, "~/takeover" or the device's topic; "" when none is."""
        if self._device_sends:
            return self.topic or self.config.topic
        return SERVICE if self._by_hand else ""
