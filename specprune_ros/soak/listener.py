# SPDX-License-Identifier: Apache-2.0
"""What the policy node says during a soak."""

import time

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_srvs.srv import SetBool

from specprune_ros.msg import PruningStats
from specprune_ros.soak.process import MachineDelay
from specprune_ros.soak.verdict import Series, Tick
from specprune_ros.stamps import NANOSECONDS, from_stamp

POLICY = "/specprune_policy"
DEPTH = QoSProfile(depth=1000)


class Listener(Node):
    """Everything runs on the thread that spins it. Fills `series` once there is one."""

    def __init__(self) -> None:
        super().__init__("soak_listener")
        self.series: Series | None = None
        self.delay: MachineDelay | None = None
        self.inferences = 0
        self.status = ""
        self._last_tick: float | None = None
        self.create_subscription(TwistStamped, f"{POLICY}/twist", self._on_twist, DEPTH)
        self.create_subscription(PruningStats, f"{POLICY}/pruning", self._on_pruning, DEPTH)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, DEPTH)
        self.enable = self.create_client(SetBool, f"{POLICY}/enable")

    def _on_twist(self, message: TwistStamped) -> None:
        """One per control tick, stamped by the node when the tick began."""
        stamp = from_stamp(message.header.stamp) / NANOSECONDS
        last, self._last_tick = self._last_tick, stamp
        if self.series is None or self.delay is None or last is None:
            return
        v = message.twist.linear
        gap = stamp - last
        late = gap > self.series.period
        machine = self.delay.between(last, stamp) if late else 0.0
        self.series.ticks.append(Tick(stamp, gap, machine, bool(v.x or v.y or v.z)))

    def _on_pruning(self, message: PruningStats) -> None:
        self.inferences += 1
        if self.series is not None:
            self.series.inferences.append(
                (time.time(), message.inference_seconds, message.observation_age, message.mode)
            )

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = status.name.rsplit(": ", 1)[-1]
            if name in ("inference", "motion"):
                self.status = f"{name}: {status.message}"
            if name == "inputs" and self.series is not None:
                rates = {value.key: float(value.value) for value in status.values if value.key.endswith(" Hz")}
                self.series.rates.append(rates)
