# SPDX-License-Identifier: Apache-2.0
"""A policy node in a process of its own, a robot that publishes in a thread of this one, and what the node sends.

The node controls a twist at 20 Hz from chunks that last 1.6 s, so that a hold within the watchdog period is the
watchdog's doing and not the end of the chunk.
"""

import contextlib
import itertools
import math
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import rclpy
from geometry_msgs.msg import TwistStamped
from node_server import start_node
from policy_client import INSTRUCTION, PARAMETERS, PATIENCE, PolicyClient
from release_checkpoint import light_checkpoint
from rosgraph_msgs.msg import Clock

WATCHDOG = 0.5  # seconds; inputs.max_age
# Seconds on top: the inference that was running when the fault came, the next image, a control period. Judged by the
# stamps that the node puts on its commands, not by their arrival here.
TOLERANCE = 0.3
# On a busy machine image, inference, control and command wait for a processor, one after the other; the bench knows how
# long its own robot and the node's threads waited for one at a stretch.
WAITS = 4
AT_ONCE = 0.1  # seconds after the node said that it has stopped: a command that is on its way
CHUNK_SECONDS = 1.6  # 8 steps of controller.step_duration
OBSERVED = 0.4  # seconds of commands that are looked at after that
ROBOT_RATE = 20.0  # Hz
GOES = 15  # a busy machine stops the arm now and then; see `Bench.undisturbed`

BENCH = {
    "autostart": True,
    "instruction": f"'{INSTRUCTION}'",
    "model.checkpoint": light_checkpoint(),  # the node infers all the time
    "inputs.max_age": WATCHDOG,
    "inputs.frozen_after": 0.0,  # the robot's cameras show one picture for ever
    "controller.output": "twist",
    "controller.step_duration": 0.2,
}


def start_faulty_policy(anew=False, **parameters):
    """The node of faulty_policy.py; parameters on top of those of the bench. `anew`: see node_server.py."""
    arguments = []
    for name, value in {**PARAMETERS, **BENCH, **parameters}.items():
        text = "[" + ", ".join(map(str, value)) + "]" if isinstance(value, list) else str(value)
        arguments += ["-p", f"{name}:={text}"]
    return start_node("faulty_policy", arguments, anew)


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
        self._turns: list[float] = []  # when the robot published; seconds of the system clock
        self._waits: list[tuple[float, float]] = []  # seconds of the system clock, and see `_look`
        self._scheduled: dict[str, tuple[int, int]] = {}  # of the node's threads, see `_look`
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._robot, daemon=True)
        self._thread.start()

    # The robot

    def _robot(self):
        due = time.monotonic()
        while not self._closing:
            self._turns.append(time.time())
            if self.clock_offset is not None:
                now = self.node.get_clock().now().nanoseconds + round(self.clock_offset * 1e9)
                self.clock.publish(Clock(clock=rclpy.time.Time(nanoseconds=now).to_msg()))
            if self.robot_alive:
                super().publish_inputs()
            self._look()
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

    def _look(self):
        """How long a thread of the node waited for a processor at a stretch, at most, since the last look.

        That is the mean of a thread's waits in that time (proc(5), schedstat: nanoseconds of waiting, and turns). The
        inference waits often on a busy machine, for the shares of a second that nobody notices.
        """
        longest = 0.0
        with self._lock, contextlib.suppress(FileNotFoundError):  # the node has ended
            for task in Path(f"/proc/{self.process.pid}/task").iterdir() if self.process else ():
                with contextlib.suppress(OSError):  # the thread has just ended
                    waited, turns = map(int, (task / "schedstat").read_text().split()[1:])
                    before, earlier = self._scheduled.get(task.name, (waited, turns))
                    longest = max(longest, (waited - before) / max(turns - earlier, 1) / 1e9)
                    self._scheduled[task.name] = waited, turns
            self._waits.append((time.time(), longest))

    def delay(self, since):
        """By how much a busy machine excuses what is late after `since` (time.time()), in seconds.

        A node that idles or computes for too long gets nothing of it.
        """
        self._look()
        turns = [turn for turn in self._turns if turn >= since]
        gaps = (after - before for before, after in itertools.pairwise([since, *turns, time.time()]))
        waits = (wait for moment, wait in list(self._waits) if moment >= since)
        return WAITS * max(0.0, max(gaps) - 1 / ROBOT_RATE, *waits)

    def spin(self, seconds):
        until = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > until, f"{seconds} s", seconds + PATIENCE)

    def wait_until_moving(self, what="motion"):
        """Until the arm has moved for some control periods from now on."""
        since = len(self.sent)
        self.wait(lambda: sum(sent.moves for sent in self.sent[since:]) >= 5, what)

    def assert_held(self, onset, *, by_arrival=False, allowed=WATCHDOG + TOLERANCE):
        """That the arm has stopped `allowed` seconds after `onset` (time.time()) at the latest, and stays so.

        `by_arrival`: judge by when commands arrived, for faults that change the node's clock.
        """

        def late():
            moments = ((sent.arrival if by_arrival else sent.stamp) - onset for sent in self.sent if sent.moves)
            found = [moment for moment in moments if moment > allowed]
            deadline = allowed + self.delay(onset) if found else allowed
            return [moment for moment in found if moment > deadline]

        def decided():
            if late() or time.time() < onset + allowed + OBSERVED:
                return late()
            until = onset + allowed + self.delay(onset) + OBSERVED
            return time.time() > until and self.sent and not self.sent[-1].moves

        self.wait(decided, "a zero command after the fault")
        assert not late(), f"moves until {late()[-1]:.2f} s after the fault"

    def assert_moves_on(self, seconds=2.0):
        """That the arm goes on: it does not stop for `seconds`. A busy machine may need more than one go."""
        self.spin(0.2)
        since = len(self.sent)

        def went_on():
            nonlocal since
            stops = [index for index in range(since, len(self.sent)) if not self.sent[index].moves]
            since = stops[-1] + 1 if stops else since
            if len(self.sent) == since or self.sent[-1].stamp - self.sent[since].stamp < seconds:
                return False
            often = len(self.sent) - since >= seconds * 10  # half of the control rate
            since = len(self.sent)
            return often

        self.wait(went_on, f"{seconds} s of motion")

    def undisturbed(self, action):
        """The result of `action`, during which the arm moves all the time. A busy machine may need more than one go."""
        for _ in range(GOES):
            self.wait_until_moving()
            first, result = len(self.sent), action()
            if all(sent.moves for sent in self.sent[first:]):
                return result
        raise AssertionError(f"the arm stopped in each of {GOES} goes")

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
