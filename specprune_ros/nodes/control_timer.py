# SPDX-License-Identifier: Apache-2.0
"""The timer of the control loop: by simulated time where the node has it, otherwise by a clock that nobody sets.

rclpy's own choice is the node's clock. When that is the system clock and NTP sets it back, such a timer waits until the
clock has caught up, and the arm goes on with the last command.
"""

from collections.abc import Callable

from rclpy.clock import Clock, ClockType
from rclpy.node import Node


class ControlTimer:
    """Calls `tick` every `period` seconds between `start` and `stop`. Belongs to the executor's thread."""

    def __init__(self, node: Node, period: float, tick: Callable[[], None]) -> None:
        self._node, self._period, self._tick = node, period, tick
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.runs = False
        self._make()

    def start(self) -> None:
        self.runs = True
        self._timer.reset()

    def stop(self) -> None:
        self.runs = False
        self._timer.cancel()

    def follow_clock(self) -> None:
        """The node may have got another kind of time, or lost it."""
        if self._simulated() != (self._timer.clock is not self._steady):
            self.destroy()
            self._make()

    def destroy(self) -> None:
        self._node.destroy_timer(self._timer)

    def _simulated(self) -> bool:
        return bool(self._node.get_clock().ros_time_is_active)

    def _make(self) -> None:
        clock = self._node.get_clock() if self._simulated() else self._steady
        self._timer = self._node.create_timer(self._period, self._tick, clock=clock)
        if not self.runs:
            self._timer.cancel()
