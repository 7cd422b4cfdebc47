# SPDX-License-Identifier: Apache-2.0
"""A simulated arm of seven joints with its driver, and the control loop that moves it, in one process and one clock."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np

from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.control.adapters import joint_hold, joint_point
from specprune_ros.control.arm import Arm, Motion
from specprune_ros.control.executor import ExecutorConfig
from specprune_ros.control.limits import LimitsConfig
from specprune_ros.errors import ObservationError
from specprune_ros.sensing.assembler import ObservationAssembler
from specprune_ros.sensing.config import InputsConfig
from specprune_ros.sensing.joints import JointMotion
from specprune_ros.sensing.peers import UnknownPeers

SECOND = 1_000_000_000
PERIOD = 0.02
NAMES = tuple(f"joint_{k}" for k in range(1, 8))
CONTINUOUS = ("joint_1", "joint_7")  # the driver reports them from -pi to pi
ENDLESS = np.array([name in CONTINUOUS for name in NAMES])
SPEED, ACCELERATION, LEAD = 1.0, 10.0, 0.2
MAX_AGE = 0.2  # of joint states
CONFIG = ControllerConfig(
    output="joint_trajectory",
    rate=1 / PERIOD,
    step_duration=0.05,
    action_space="absolute_joint",
    joint_names=NAMES,
    gripper_dimensions=(),
    gripper_output="none",
    trajectory_time=0.06,
    max_lead_angle=LEAD,
)
LIMITS = LimitsConfig(
    joint_min=(-2 * math.pi,),
    joint_max=(2 * math.pi,),
    max_joint_speed=(SPEED,),
    max_joint_acceleration=(ACCELERATION,),
)


def apart(a, b):
    """(J,) rad between positions: on the circle for joints that turn without end."""
    difference = np.asarray(a) - np.asarray(b)
    return np.abs(np.where(ENDLESS, np.remainder(difference + np.pi, 2 * np.pi) - np.pi, difference))


def joint_state(stamp, positions):
    """Duck-typed sensor_msgs/JointState. `stamp`: seconds, or None for a driver that leaves it empty."""
    nanoseconds = 0 if stamp is None else round(stamp * SECOND)
    header = SimpleNamespace(stamp=SimpleNamespace(sec=nanoseconds // SECOND, nanosec=nanoseconds % SECOND))
    return SimpleNamespace(header=header, name=list(NAMES), position=[float(p) for p in positions])


class SimulatedArm:
    """Follows trajectories as joint_trajectory_controller does, with a servo that lags; not while it is `deaf`."""

    LAG = 0.04  # seconds

    def __init__(self, position):
        self.position = np.array(position, dtype=float)
        self._setpoint, self._goal, self._left = self.position.copy(), self.position.copy(), 0.0
        self._chunk, self._now, self._turns, self.deaf = None, 0.0, np.zeros(7), False

    def obey(self, point):
        """Go to the point's positions, by the short way where a joint turns without end."""
        if self.deaf:
            return
        difference = point.positions - self._setpoint
        turns = np.where(ENDLESS, np.round(difference / (2 * np.pi)), 0.0)
        self._goal, self._left, self._chunk = point.positions - 2 * np.pi * turns, point.time_from_start, None

    def follow(self, chunk, now):
        """Be where the trajectory says at its times, which `step` goes on from `now` with."""
        if self.deaf:
            return
        difference = chunk.at(now).positions - self._setpoint
        self._turns = np.where(ENDLESS, np.round(difference / (2 * np.pi)), 0.0)
        self._chunk, self._now = chunk, now

    def step(self, seconds):
        if self._chunk is not None:
            self._now += seconds
            self._goal, self._left = self._chunk.at(self._now).positions - 2 * np.pi * self._turns, 0.0
        share = 1.0 if self._left <= seconds else seconds / self._left
        self._setpoint = self._setpoint + share * (self._goal - self._setpoint)
        self._left = max(self._left - seconds, 0.0)
        self.position = self.position + (self._setpoint - self.position) * (1 - math.exp(-seconds / self.LAG))

    def encoders(self):
        return np.where(ENDLESS, np.remainder(self.position + np.pi, 2 * np.pi) - np.pi, self.position)


class Publishers(UnknownPeers):
    def publishers(self, topic):
        return "/driver, /joint_state_publisher"


class Loop:
    """What MotionLoop does in a control period, without ROS. `points`: what was sent to the arm."""

    def __init__(self, arm: SimulatedArm, continuous=CONTINUOUS, trajectory="point", max_age=MAX_AGE, lead=LEAD):
        self.robot, self.now = arm, 1000.0
        config = dataclasses.replace(CONFIG, trajectory=trajectory, max_lead_angle=lead)
        self.arm = Arm(7, config, LIMITS, ExecutorConfig(max_observation_age=10.0), {"joint_states": max_age})
        self.arm.set_continuous(continuous)
        inputs = InputsConfig(cameras=("primary",), own_limits=(f"joint_states.max_age={max_age}",))
        self.sensors = ObservationAssembler(
            inputs,
            {"primary": "/cam"},
            "/joint_states",
            None,
            NAMES,
            np.zeros(3),
            arrival=lambda: self.now,
            peers=Publishers(),
        )
        self.sensors.set_joint_motions(
            {name: JointMotion(SPEED, name in continuous, max_age, SPEED / ACCELERATION) for name in NAMES}
        )
        self.result, self.points, self.last = None, [], None

    def hear(self, message):
        self.sensors.add_joints(message, round(self.now * SECOND))

    def enable(self):
        self.sensors.vouch()
        self.arm.enable(self.now)

    def chunk(self, targets, steps=100):
        """A chunk that asks for `targets` (7,) all the time."""
        return self.arm.executor.submit(np.tile(targets, (steps, 1)), self.now, 0.05, self.now)

    def tick(self):
        """One control period; the point that was sent, or None."""
        now, problem, joints = round(self.now * SECOND), "", None
        newest = self.sensors.newest_stamps()["joint_states"]
        if newest is None:
            self.arm.watchdog.lost("joint_states")
        else:
            self.arm.watchdog.feed("joint_states", newest / SECOND)
        self.sensors.set_adopting(not self.arm.executor.enabled)
        try:
            joints = self.sensors.measured_joints(now)
        except ObservationError as error:
            problem = str(error)
        coasting = self.arm.coasts(self.now)
        before, self.result = self.result, self.arm.tick(self.now, joints=joints, problem=problem)
        self.sensors.tell(isinstance(self.result, Motion) or coasting)
        point = None
        if isinstance(self.result, Motion) and self.arm.space.config.whole_chunks:
            if self.result.trajectory is not None:
                self.robot.follow(self.result.trajectory, self.now)
            point = SimpleNamespace(positions=self.result.joints)
            self.points.append(point)
            return point
        if isinstance(self.result, Motion):
            point = joint_point(self.result.joints, self.result.joint_velocities, CONFIG, LIMITS, self.arm.continuous)
        elif isinstance(before, Motion) and self.arm.stop is not None:
            point = joint_hold(self.arm.stop, CONFIG)
        if point is not None:
            self.points.append(point)
            self.robot.obey(point)
        return point
