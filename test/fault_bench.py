# SPDX-License-Identifier: Apache-2.0
"""A policy node in a process of its own, a robot that publishes in a thread of this one, and what the node sends.

The node controls a twist at 20 Hz from chunks that last 1.6 s, so that a hold within the watchdog period is the
watchdog's doing and not the end of the chunk.
"""

import math
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import rclpy
from geometry_msgs.msg import TwistStamped
from policy_client import CHECKPOINT, INSTRUCTION, PARAMETERS, ROOT, PolicyClient
from rosgraph_msgs.msg import Clock

WATCHDOG = 0.5  # seconds; inputs.max_age
# Seconds on top: the inference that was running when the fault came, the next image, a control period, and a machine
# that has other things to do. Judged by the stamps that the node puts on its commands, not by their arrival here.
TOLERANCE = 0.5
CHUNK_SECONDS = 1.6  # 8 steps of controller.step_duration
OBSERVED = 0.4  # seconds of commands that are looked at after that
ROBOT_RATE = 20.0  # Hz
PATIENCE = 40.0  # seconds until something that has to happen has happened, on a busy machine
START_PATIENCE = 300.0  # seconds until the first chunk: Python imports for a minute when others use all processors

BENCH = {
    "autostart": True,
    "instruction": f"'{INSTRUCTION}'",
    "model.checkpoint": CHECKPOINT,
    "inputs.max_age": WATCHDOG,
    "inputs.frozen_after": 0.0,  # the robot's cameras show one picture for ever
    "controller.output": "twist",
    "controller.step_duration": 0.2,
}


def start_faulty_policy(**parameters):
    """The node of faulty_policy.py; parameters on top of those of the bench."""
    arguments = []
    for name, value in {**PARAMETERS, **BENCH, **parameters}.items():
        text = "[" + ", ".join(map(str, value)) + "]" if isinstance(value, list) else str(value)
        arguments += ["-p", f"{name}:={text}"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "test"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "faulty_policy", "--ros-args", *arguments],
        env={
            "OMP_NUM_THREADS": "1",
            **os.environ,
            "PYTHONPATH": path,
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@dataclass(frozen=True)
class Sent:
    """A command of the node."""

    stamp: float  # seconds of the node's clock
    arrival: float  # seconds of this process's system clock
    speed: float  # m/s
    angular_speed: float  # rad/s

    @property
    def moves(self):
        return self.speed > 0 or self.angular_speed > 0


class Bench(PolicyClient):
    """The robot publishes until `close`; the attributes of PolicyClient break it."""

    def __init__(self, context, process):
        super().__init__(context, process)
        self.sent: list[Sent] = []
        self.stop_controller()  # the one of PolicyClient
        self.start_controller()
        self.clock = self.node.create_publisher(Clock, "/clock", 10)
        self.clock_offset: float | None = None  # seconds from wall time to simulated time, if that is published
        self.robot_alive = True
        self._closing = False
        self._thread = threading.Thread(target=self._robot, daemon=True)
        self._thread.start()

    # The robot

    def _robot(self):
        due = time.monotonic()
        while not self._closing:
            if self.clock_offset is not None:
                now = self.node.get_clock().now().nanoseconds + round(self.clock_offset * 1e9)
                self.clock.publish(Clock(clock=rclpy.time.Time(nanoseconds=now).to_msg()))
            if self.robot_alive:
                super().publish_inputs()
            due = max(due + 1 / ROBOT_RATE, time.monotonic())
            time.sleep(max(due - time.monotonic(), 0))

    def publish_inputs(self):
        """Nothing: the thread does it."""

    def good(self):
        super().good()
        self.robot_alive = True

    def close(self):
        self._closing = True
        self._thread.join()
        self.executor.shutdown()
        self.node.destroy_node()  # a latched instruction would reach the nodes of other tests

    # The arm's controller

    def start_controller(self):
        self.node.create_subscription(TwistStamped, "/specprune_policy/twist", self._on_twist, 10)

    def stop_controller(self):
        for subscription in list(self.node.subscriptions):
            if subscription.topic_name == "/specprune_policy/twist":
                self.node.destroy_subscription(subscription)

    def _on_twist(self, message):
        v, w = message.twist.linear, message.twist.angular
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        self.sent.append(Sent(stamp, time.time(), math.hypot(v.x, v.y, v.z), math.hypot(w.x, w.y, w.z)))

    # Conditions

    def spin(self, seconds):
        until = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > until, f"{seconds} s", seconds + PATIENCE)

    def wait_until_moving(self, what="motion"):
        """Until the arm has moved for some control periods from now on."""
        since = len(self.sent)
        self.wait(lambda: sum(sent.moves for sent in self.sent[since:]) >= 5, what, PATIENCE)

    def assert_held(self, onset, *, by_arrival=False, allowed=WATCHDOG + TOLERANCE):
        """That the arm has stopped `allowed` seconds after `onset` (time.time()) at the latest, and stays so.

        `by_arrival`: judge by when commands arrived, for faults that change the node's clock.
        """
        deadline = onset + allowed
        self.wait(lambda: time.time() > deadline + OBSERVED, "commands after the fault", PATIENCE)
        late = [sent for sent in self.sent if (sent.arrival if by_arrival else sent.stamp) > deadline]
        moving = [sent.stamp - onset for sent in late if sent.moves]
        assert not moving, f"moves until {moving[-1]:.2f} s after the fault"
        assert self.sent and not self.sent[-1].moves, "the last command was not zero"

    def assert_moves_on(self, seconds=2.0):
        """That the arm goes on: it does not stop for `seconds`. A busy machine may need more than one go."""
        self.spin(0.2)
        since = len(self.sent)

        def went_on():
            nonlocal since
            stops = [index for index in range(since, len(self.sent)) if not self.sent[index].moves]
            since = stops[-1] + 1 if stops else since
            return len(self.sent) > since and self.sent[-1].stamp - self.sent[since].stamp >= seconds

        self.wait(went_on, f"{seconds} s of motion", PATIENCE)
        assert len(self.sent) - since >= seconds * 10, f"{len(self.sent) - since} commands in {seconds} s"

    def says(self, fault, timeout=PATIENCE):
        """Until /diagnostics says what the fault's row in the table promises."""

        def said():
            for array in self.heard["diagnostics"][-3:]:
                for status in array.status:
                    if status.name.endswith(f": {fault.status}"):
                        texts = [status.message, *(f"{value.key}: {value.value}" for value in status.values)]
                        if any(fault.words in text for text in texts):
                            return True
            return False

        self.wait(said, f"{fault.words!r} from {fault.status}", timeout)

    def recover(self):
        """Everything is good again; the arm has to move by itself."""
        self.good()
        self.wait_until_moving("motion after the fault")
