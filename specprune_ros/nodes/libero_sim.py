# SPDX-License-Identifier: Apache-2.0
"""Node `libero_sim`: the LIBERO simulator behind the topics of a real arm.

Publishes /clock, ~/<camera>/image, joint_states, /tf, /tf_static, ~/success, ~/real_time_factor and ~/instruction;
executes ~/action_chunk, or velocities on ~/twist and what ~/gripper says, as an arm behind MoveIt Servo does; ~/reset
starts a new episode. Simulated time stands still while images are rendered, so slow rendering slows time down and never
makes a stamp wrong. It goes on across resets and never jumps back.

Everything runs on one thread, which also owns the OpenGL context: messages are handled between two control steps.
"""

import sys

from specprune_ros.processes.interruption import LEAVING, end_within, heeded, leave_at_once

if __name__ == "__main__":
    leave_at_once()  # in the seconds that the imports take

import dataclasses
import faulthandler
import math
import signal
import time
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TwistStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Float64, String
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from specprune_ros.control.command import Command, Hold
from specprune_ros.control.executor import ChunkExecutor, ExecutorConfig
from specprune_ros.errors import UserError
from specprune_ros.msg import ActionChunk as ActionChunkMessage
from specprune_ros.nodes import libero_messages
from specprune_ros.nodes.parameters.declaration import LiveParameters, declare_groups
from specprune_ros.nodes.parameters.files import check_files
from specprune_ros.nodes.stamps import to_stamp
from specprune_ros.nodes.subscribing import LATCHED
from specprune_ros.sim.config import RunConfig, SceneConfig
from specprune_ros.sim.libero_env import CAMERAS, CLOSE, CONTROL_RATE, OPEN, LiberoEnv, deltas, simulator_action
from specprune_ros.stamps import NANOSECONDS, from_stamp

ACTION_DIM = 7
PERIOD = 1.0 / CONTROL_RATE  # seconds of simulated time per step
PERIOD_NS = NANOSECONDS // CONTROL_RATE
TWIST_TIMEOUT = 0.1  # seconds of simulated time that a velocity is good for
GRIPPER_MIDDLE = 0.04  # m between the fingers; commands above open
MESSAGE_TIME = 0.002  # seconds of real time that a step leaves for messages, however late it is
SIGNAL_TIME = 0.1  # seconds until a signal is noticed at the latest
# Group -> the configurations declared under it, with their defaults.
GROUPS: dict[str, tuple[Any, ...]] = {"": (SceneConfig(), RunConfig()), "execution": (ExecutorConfig(),)}


class LiberoSim(Node):
    """Owns the simulator, the clock and the chunk executor."""

    def __init__(self) -> None:
        """Raises UserError for parameters that are out of range and for scenes that do not exist."""
        super().__init__("libero_sim")
        check_files(sys.argv, self.get_fully_qualified_name())
        self._settings = LiveParameters(
            self, declare_groups(self, GROUPS), validate=self._validate, changed=self._on_changed
        )
        scene = self._settings.running(SceneConfig)
        scene.check_exists()
        self._clock_pub = self.create_publisher(Clock, "/clock", 10)
        self._tf_pub = self.create_publisher(TFMessage, "/tf", 100)
        self._tf_static_pub = self.create_publisher(TFMessage, "/tf_static", LATCHED)
        self._joints_pub = self.create_publisher(JointState, "joint_states", 10)
        self._image_pubs = {
            camera: self.create_publisher(Image, f"~/{camera}/image", qos_profile_sensor_data) for camera in CAMERAS
        }
        self._success_pub = self.create_publisher(Bool, "~/success", LATCHED)
        self._instruction_pub = self.create_publisher(String, "~/instruction", LATCHED)
        self._factor_pub = self.create_publisher(Float64, "~/real_time_factor", 10)
        self.create_subscription(ActionChunkMessage, "~/action_chunk", self._on_chunk, 10)
        self.create_subscription(TwistStamped, "~/twist", self._on_twist, 10)
        self.create_subscription(JointState, "~/gripper", self._on_gripper, 10)
        self.create_service(Trigger, "~/reset", self._on_reset)

        self._stopped = False
        self.exit_code = 0
        self._ticks = 0  # control periods since the start; time 0 means "no clock yet" in ROS
        self._chunks = ChunkExecutor(ACTION_DIM, PERIOD, config=self._settings.running(ExecutorConfig))
        self._scene = scene
        self._env = self._make_env()
        self._begin_episode()

    def run(self) -> None:
        """Simulate until `stop` is called (by a signal handler), and finish the step that is running."""
        executor = SingleThreadedExecutor()
        executor.add_node(self)
        while not self._stopped:
            # Not caught up after a slow rendering: a policy would see less time pass than on a real arm, then more.
            next_step = time.monotonic() + PERIOD / self._settings.running(RunConfig).max_real_time_factor
            self._step()
            until = max(next_step, time.monotonic() + MESSAGE_TIME)
            while not self._stopped and (left := until - time.monotonic()) > 0:
                executor.spin_once(timeout_sec=min(left, SIGNAL_TIME))

    def stop(self) -> None:
        self._stopped = True

    def destroy_node(self) -> None:
        self._env.close()
        super().destroy_node()

    @property
    def _now(self) -> float:
        """Simulated time, seconds."""
        return self._ticks * PERIOD_NS / NANOSECONDS

    @property
    def _stamp(self) -> Time:
        return to_stamp(self._ticks * PERIOD_NS)

    def _make_env(self) -> LiberoEnv:
        scene = self._scene
        return LiberoEnv(
            scene.suite,
            scene.task,
            image_size=scene.image_size,
            shadows=scene.shadows,
            anti_aliasing=scene.anti_aliasing,
            seed=scene.seed,
        )

    def _begin_episode(self) -> None:
        """Put the scene into its initial state, one period later than whatever was published before."""
        self._env.reset(self._scene.init_state)
        self._chunks.stop()
        self._twist: np.ndarray | None = None  # (6,) m/s and rad/s in the base frame
        self._twist_until = 0.0
        self._ticks += 1
        self._episode_start = self._now
        self._first_motion: float | None = None
        self._over = False
        self._measured_from = (self._ticks, time.monotonic())
        self._success_pub.publish(Bool(data=False))
        self._instruction_pub.publish(String(data=self._env.instruction))
        transforms = libero_messages.fixed_transforms(self._env, self._scene.ee_frame, self._stamp)
        self._tf_static_pub.publish(TFMessage(transforms=transforms))
        self._publish_state()
        self._publish_images()
        scene = self._scene
        self.get_logger().info(
            f"{scene.suite} task {scene.task}, initial state {scene.init_state}: {self._env.instruction}"
        )

    def _step(self) -> None:
        """One control period: act, let time pass, publish."""
        success = self._env.hold() if self._over else self._move()
        self._ticks += 1
        self._publish_state()
        self._end_episode_when_due(success)
        if self._image_due():
            self._publish_images()

    def _move(self) -> bool:
        """A velocity goes before a chunk: whoever sends it drives the arm now."""
        command = self._chunks.step(self._now)
        twist = self._twist if self._now <= self._twist_until else None
        if twist is None and isinstance(command, Hold):
            return self._env.hold()
        if self._first_motion is None:
            self._first_motion = self._now
        if twist is not None:
            return self._env.move(deltas(twist))
        assert isinstance(command, Command)
        return self._env.step(simulator_action(command.action))

    def _end_episode_when_due(self, success: bool) -> None:
        if self._over or self._first_motion is None:
            return
        elapsed, duration = self._now - self._first_motion, self._settings.running(RunConfig).duration
        if success or (duration > 0 and elapsed >= duration):
            self._over = True
            self._success_pub.publish(Bool(data=success))
            result = "solved" if success else "not solved"
            ends = self._settings.running(RunConfig).end_with_episode
            then = "the simulator ends" if ends else "the arm holds until ~/reset"
            self.get_logger().info(f"task {result} after {elapsed:.2f} s; {then}")
            if ends:
                self.exit_code = 0 if success else 1
                self.stop()

    def _publish_state(self) -> None:
        stamp = self._stamp
        self._clock_pub.publish(Clock(clock=stamp))
        self._joints_pub.publish(libero_messages.joint_state(self._env, stamp))
        transform = libero_messages.arm_transform(self._env, self._scene.ee_frame, stamp)
        self._tf_pub.publish(TFMessage(transforms=[transform]))
        if self._ticks % CONTROL_RATE == 0:
            (ticks, started), self._measured_from = self._measured_from, (self._ticks, time.monotonic())
            simulated, real = (self._ticks - ticks) * PERIOD, time.monotonic() - started
            self._factor_pub.publish(Float64(data=simulated / real))

    def _image_due(self) -> bool:
        """Whether a multiple of the camera's period lies within the control period that just passed."""
        images_per_step = self._settings.running(RunConfig).camera_rate / CONTROL_RATE
        return int(self._ticks * images_per_step + 1e-9) > int((self._ticks - 1) * images_per_step + 1e-9)

    def _publish_images(self) -> None:
        for camera, publisher in self._image_pubs.items():
            if publisher.get_subscription_count() > 0:  # rendering is what costs time here
                publisher.publish(libero_messages.image(self._env.image(camera), camera, self._stamp))

    def _on_chunk(self, message: ActionChunkMessage) -> None:
        """Hand a chunk to the executor. A chunk that cannot be executed is ignored and says why in the log."""
        if not message.execute:
            self._chunks.stop()
            return
        if message.action_space != "delta_end_effector" or len(message.actions) != message.steps * ACTION_DIM:
            self._warn(
                f"{message.steps} steps of {message.action_space[:40]!r} with {len(message.actions)} numbers; "
                f"this arm takes delta_end_effector actions of {ACTION_DIM} numbers"
            )
            return
        if not self._chunks.enabled:
            self._chunks.enable(since=self._episode_start)
        receipt = self._chunks.submit(
            np.array(message.actions).reshape(message.steps, ACTION_DIM),
            from_stamp(message.header.stamp) / NANOSECONDS,
            from_stamp(message.dt) / NANOSECONDS,
            self._now,
        )
        if not receipt.accepted:
            self._warn(f"{receipt.refusal} {receipt.detail}")

    def _on_twist(self, message: TwistStamped) -> None:
        linear, angular = message.twist.linear, message.twist.angular
        twist = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
        frame = message.header.frame_id
        if frame not in (libero_messages.WORLD, libero_messages.BASE) or not np.isfinite(twist).all():
            self._warn(
                f"{twist.tolist()} in {frame[:40]!r}; this arm takes finite velocities along the axes of "
                f"{libero_messages.BASE} or {libero_messages.WORLD}, which are the same",
                what="twist",
            )
            return
        self._twist, self._twist_until = twist, self._now + TWIST_TIMEOUT

    def _on_gripper(self, message: JointState) -> None:
        """As the policy node's controller.gripper_output command: metres between the fingers."""
        if len(message.position) != 1 or not math.isfinite(message.position[0]):
            self._warn(f"{len(message.position)} positions; this arm takes one, in metres", what="gripper command")
            return
        self._env.gripper = OPEN if message.position[0] > GRIPPER_MIDDLE else CLOSE

    def _warn(self, reason: str, what: str = "action chunk") -> None:
        self.get_logger().warning(f"{what} ignored: {reason}", throttle_duration_sec=5.0)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Start a new episode in the scene that the parameters name now."""
        before, self._scene = self._scene, self._settings.running(SceneConfig)
        try:
            if dataclasses.replace(before, init_state=self._scene.init_state) != self._scene:
                self._env.close()
                self._env = self._make_env()
        except UserError as error:
            response.message = f"{error}; the scene is as before"
            self._scene = before
            self._env = self._make_env()
        else:
            response.success, response.message = True, self._env.instruction
        self._begin_episode()
        return response

    def _validate(self, _: LiveParameters, proposed: dict) -> None:
        if SceneConfig in proposed:
            proposed[SceneConfig].check_exists()

    def _on_changed(self, names: set[str]) -> None:
        self._chunks.config = self._settings.running(ExecutorConfig)


def main() -> int:
    """Run the node until it is interrupted. Returns 2 when the user's parameters are wrong, and see
    `end_with_episode`."""
    # Not rclpy's handlers, which invalidate the publishers in the middle of a step, and no exceptions either, which get
    # lost in compiled code. While the scene is loading there is nothing to finish: a signal just ends the process.
    leave_at_once()
    faulthandler.enable()  # a crash in the renderer must not be silent
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # rcl's, for arguments and parameter files that it cannot read
        print(f"libero_sim: {str(error).partition(', at ')[0]}", file=sys.stderr)
        return 2
    try:
        node = LiberoSim()
    except UserError as error:
        print(f"libero_sim: {error}", file=sys.stderr)
        return 2

    def stop(*_: object) -> None:
        node.stop()
        end_within(LEAVING, node.exit_code)  # a new scene, or a step on a busy machine, takes longer

    for number in heeded():
        signal.signal(number, stop)
    node.run()
    end_within(LEAVING, node.exit_code)
    node.destroy_node()
    rclpy.shutdown()
    return node.exit_code


if __name__ == "__main__":
    sys.exit(main())
