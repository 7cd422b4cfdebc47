# SPDX-License-Identifier: Apache-2.0
"""Everything between *configure* and *cleanup*: policy, inputs, worker, control loop, publishers."""

import math
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from std_msgs.msg import String

from specprune_ros.checkpoint_config import CheckpointConfig
from specprune_ros.checks import PASS
from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.control.arm import Arm, Motion
from specprune_ros.control.executor import ExecutorConfig
from specprune_ros.control.limits import LimitsConfig
from specprune_ros.control.replan import ReplanConfig, Replanner
from specprune_ros.control.run import Tick
from specprune_ros.control.takeover import InCharge, Takeover, TakeoverConfig
from specprune_ros.doctor.fit import check_fits, doubts, gripper_doubt
from specprune_ros.doctor.instruction import instruction_advice
from specprune_ros.errors import UserError
from specprune_ros.msg import ActionChunk as ActionChunkMessage
from specprune_ros.nodes.control_timer import ControlTimer
from specprune_ros.nodes.inputs import Inputs
from specprune_ros.nodes.model import SharedModel, checkup
from specprune_ros.nodes.motion_loop import MotionLoop
from specprune_ros.nodes.outputs.chunks import ChunkPublisher
from specprune_ros.nodes.outputs.path import open_path
from specprune_ros.nodes.parameters.declaration import LiveParameters
from specprune_ros.nodes.parameters.groups import NodeConfig
from specprune_ros.nodes.parameters.pruning import PruningSwitch
from specprune_ros.nodes.reporting.diagnostics import Status
from specprune_ros.nodes.reporting.inference_record import InferenceRecord
from specprune_ros.nodes.reporting.latency import pauses
from specprune_ros.nodes.reporting.repeated_log import RepeatedLog
from specprune_ros.nodes.reporting.session_status import Receivers, SessionStatus
from specprune_ros.nodes.reporting.status_text import StatusText, inference_text
from specprune_ros.nodes.rivals import Rivals
from specprune_ros.nodes.subscribing import LATCHED, Listeners, clock_problem, deaf
from specprune_ros.nodes.takeover_input import TakeoverInput
from specprune_ros.nodes.tf_input import open_transforms
from specprune_ros.nodes.worker import InferenceWorker
from specprune_ros.policy import ActionChunk
from specprune_ros.pruning.config import PruningConfig
from specprune_ros.pruning.controller import ActionAwareController, Speed
from specprune_ros.sensing.assembler import Sensed
from specprune_ros.sensing.config import JOINT_STATES, TF, InputsConfig, image_input
from specprune_ros.sensing.end_effector import EndEffector
from specprune_ros.sensing.proprio import AXIS_ANGLE
from specprune_ros.sensing.robot_description import continuous_joints
from specprune_ros.stamps import NANOSECONDS

TELL_AGAIN = 1.0  # seconds
INFERENCE = "working inference"  # watched like an input: a long chunk must not hide that its successor cannot come
RECEIVER = "receiver of the commands"  # watched, so that an arm whose controller is started again starts from rest


@dataclass(frozen=True)
class Answer:
    """What became of a request, as std_srvs services tell it."""

    success: bool
    message: str


class Session:
    """Built by *configure*, on the executor's thread. Raises UserError for what the user can fix."""

    def __init__(self, node: LifecycleNode, parameters: LiveParameters, model: SharedModel, takeover: Takeover) -> None:
        """`takeover`: who took over, which outlives the session."""
        self._node, self._parameters, self._model, self._takeover = node, parameters, model, takeover
        self._warn = RepeatedLog(node.get_logger().warning)  # of what others send
        self._controller = parameters.running(ControllerConfig)
        inputs = parameters.running(InputsConfig)
        # What is open when something fails is closed: a device must not find half a session.
        with ExitStack() as opened:
            self._open_takeover(opened)
            self.policy = model.take(node, parameters.running(CheckpointConfig), self._wanted_pruning())
            check_fits(self.policy, inputs, self._controller)
            self.checkup = checkup(parameters.running(CheckpointConfig))
            self._warn_of_doubts()
            self._advise_on_instruction()
            self._watch_tf = inputs.proprio == "end_effector" or (
                self._controller.delta and self._controller.output != "action_chunk"
            )
            self._arm = self._new_arm(inputs)
            self._warm_up()
            self._record = InferenceRecord(self._chunk_seconds)
            self.run_record = InferenceRecord(self._chunk_seconds)  # of the run on ~/run_policy
            self.after_tick: Callable[[int], None] = lambda now: None  # told the time, nanoseconds; may be replaced
            # On the worker's thread; likewise.
            self.after_chunk: Callable[[ActionChunkMessage], None] = lambda message: None
            self._due = True
            self._last_now = self._clock_jumps = 0
            self._open(inputs, opened)
            self._opened = opened.pop_all()

    def _open_takeover(self, opened: ExitStack) -> None:
        """Listen to the person's device. First, so that a wrong topic is refused before the model loads."""
        self._takeover.config = self._parameters.running(TakeoverConfig)
        self._device = TakeoverInput(self._node, self._takeover.config, self._on_device)
        opened.callback(self._device.destroy)
        self._takeover.topic = self._device.topic

    def _warn_of_doubts(self) -> None:
        """What does not keep the node from running and is most likely a mistake."""
        found = [f"{row.name}: {row.detail}" for row in self.checkup if row.verdict != PASS]
        found += doubts(self._parameters.running(PruningConfig), self._controller)
        found += [gripper_doubt(self.policy, self._controller)]
        for doubt in filter(None, found):
            self._node.get_logger().warning(doubt)

    def _new_arm(self, inputs: InputsConfig) -> Arm:
        watched = [image_input(camera) for camera in inputs.cameras]
        if self._watch_tf:
            watched.append(TF)
        if (inputs.joint_names and inputs.proprio != "none") or self._controller.joint_names:
            watched.append(JOINT_STATES)
        watched += [INFERENCE, RECEIVER]
        return Arm(
            self.policy.action_dim,
            self._controller,
            self._parameters.running(LimitsConfig),
            self._parameters.running(ExecutorConfig),
            {name: inputs.max_age_of(name) for name in watched},
        )

    def _open(self, inputs: InputsConfig, opened: ExitStack) -> None:
        """Subscribe, publish, start the threads. What is made here and has to be destroyed goes into `opened`."""
        node, parameters = self._node, self._parameters
        self._transforms = open_transforms(node) if inputs.base_frame and inputs.ee_frame else None
        self.end_effector = None
        if self._transforms is not None:
            opened.callback(self._transforms.destroy)
            self.end_effector = EndEffector(self._transforms, inputs.base_frame, inputs.ee_frame)
        low, high = self.policy.proprio_range
        middle = ((low + high) / 2)[AXIS_ANGLE]  # means something with proprio end_effector alone
        self._inputs = Inputs(
            node, inputs, self.end_effector, self._controller.joint_names, middle, lambda: self._worker.wake()
        )
        opened.callback(self._inputs.destroy)
        self.sensors = self._inputs.assembler
        self._locate_cameras()
        self._publisher = ChunkPublisher(
            node, self.policy, inputs.cameras, inputs.base_frame, self._controller.step_duration
        )
        opened.callback(self._publisher.destroy)
        self._path = open_path(node, self._arm.space, self.end_effector, self._pose_skew)
        if self._path is not None:
            opened.callback(self._path.destroy)
        self._status_text = StatusText(node)
        opened.callback(self._status_text.destroy)
        self._told = ""  # the problem that ~/status told last
        self._told_at = -math.inf  # when, seconds of a steady clock
        self._mode_controller = self._new_mode_controller()
        self._motion = MotionLoop(
            node,
            self._arm,
            Replanner(parameters.running(ReplanConfig)),
            self.sensors,
            self.end_effector,
            self._takeover,
            dry_run=parameters.running(NodeConfig).dry_run,
            watch_tf=self._watch_tf,
            mode=self._wanted_mode,
            on_stop=lambda: self._publisher.publish_stop(self._motion.in_charge),
            on_due=self._on_due,
        )
        opened.callback(self._motion.destroy)
        self._urdf_joints: frozenset[str] = frozenset()
        self._set_motions()
        self._description = node.create_subscription(String, "robot_description", self._on_description, LATCHED)
        opened.callback(node.destroy_subscription, self._description)
        self._worker = InferenceWorker(
            self.policy,
            self.sensors,
            self._model.turns,
            chunk_seconds=self._chunk_seconds,
            instruction=lambda: parameters.running(NodeConfig).instruction,
            now=lambda: self._now(),
            due=lambda: self._due or self._motion.replanner.config.when == "continuous",
            on_chunk=self._on_chunk,
            on_error=self._on_inference_error,
        )
        self._listeners = Listeners(node, self._moving)
        self._report = SessionStatus(
            self.policy,
            self.warm_seconds,
            self._record,
            self._worker,
            self.sensors,
            self._transforms,
            self.end_effector,
            self._motion,
            receivers=self.receivers,
            device_problem=self._device.problem,
            clock_problem=self.clock_problem,
            rivals=lambda: self.rivals.names,
            instruction=lambda: parameters.running(NodeConfig).instruction,
        )
        self.rivals = Rivals(node, self._moving)
        opened.callback(self.rivals.destroy)
        self.timer = ControlTimer(node, self._controller.period, self._tick)
        opened.callback(self.timer.destroy)

    def _warm_up(self) -> None:
        """Run every mode before the arm depends on it, and say how long an inference takes."""
        instruction = self._parameters.running(NodeConfig).instruction
        with self._model.turns.model():
            self.warm_seconds = self.policy.warm_up(instruction)
        chunk = self._chunk_seconds
        modes = ", ".join(f"{mode} {seconds * 1e3:.0f} ms" for mode, seconds in self.warm_seconds.items())
        if self.policy.threads:
            modes += f" on {self.policy.threads} thread{'s' if self.policy.threads > 1 else ''}"
        self._node.get_logger().info(
            f"{self._parameters.running(CheckpointConfig).checkpoint}: chunks of {self.policy.chunk_length} x "
            f"{self.policy.action_dim}, {chunk:.2f} s; inference: {modes}; {self.policy.calibration}"
        )
        if self.policy.precision_problem:
            self._node.get_logger().warning(self.policy.precision_problem)
        if pauses(max(self.warm_seconds.values()), chunk):
            self._node.get_logger().warning(
                f"the arm may pause between chunks: an inference has to take less than half of a chunk's {chunk:.2f} "
                "s, with some reserve; use a GPU or pruning.preset fast"
            )

    def _on_description(self, message: String) -> None:
        try:
            self._urdf_joints = continuous_joints(message.data)
        except UserError as error:
            self._warn(f"{self._description.topic_name}: {error}")
            return
        self._set_motions()

    def _set_motions(self) -> None:
        self._motion.set_motions(self._urdf_joints | set(self._controller.continuous_joints))

    def clock_problem(self) -> str:
        """Why simulated time is none to rely on; "" when it is, or in wall time."""
        return clock_problem(self._node)

    def measured_problem(self, now: int) -> str:
        """See `MotionLoop.measured_problem`."""
        return self._motion.measured_problem(now)

    @property
    def _chunk_seconds(self) -> float:
        return self.policy.chunk_length * self._controller.step_duration

    # Lifecycle, on the executor's thread

    def start(self) -> None:
        self._record.clear()
        self._motion.clear_counts()
        self._publisher.restart()
        self.timer.start()
        self._worker.start()

    def stop(self) -> None:
        """Stop motion and inference; returns at once."""
        self._motion.stop(self._now())
        self._worker.stop()
        self.timer.stop()
        self._status_text.publish("the node is not active; motion is off")  # to late listeners, too

    def close(self, patience: float | None = None) -> None:
        """Release everything; waits for a running inference, `patience` seconds at most."""
        self._worker.close(patience)
        self._opened.close()

    def enable(self, enable: bool) -> Answer:
        """Allow or forbid motion."""
        if not enable:
            self._motion.stop(self._now())
            return Answer(True, "motion is off")
        if not self._parameters.running(NodeConfig).instruction.strip():
            return Answer(
                False, "there is no instruction; publish it on ~/instruction or set the parameter instruction"
            )
        self._motion.enable(self._now())
        dry = " (dry run: nothing moves)" if self._motion.dry_run else ""
        waiting = f"; waiting: {self._worker.problem}" if self._worker.problem else ""
        person = self._takeover.person
        waiting += f"; a person is in charge by {person}, who has to let go first" if person else ""
        return Answer(True, f"motion is on{dry}{waiting}")

    def change_hands(self) -> None:
        """A person took over, or let go: what follows from it happens at once, not in the next control period."""
        if self.timer.runs and bool(self._takeover.person) != self._arm.executor.taken:
            self._motion.tick(self._now())

    def _on_device(self) -> None:
        self._takeover.hear()
        self.change_hands()

    def want_inference(self) -> None:
        """Somebody asks for a chunk from what is seen now."""
        self._due = True
        self._worker.wake()

    @property
    def inference_problem(self) -> str:
        """Why there is no inference; "" when there is none."""
        return self._worker.problem

    def reset(self) -> None:
        """New task or scene: forget history and the running chunk, which its receiver must not go on with."""
        moving = isinstance(self._motion.result, Motion)
        self._forget()
        if moving:
            self._publisher.publish_stop(self._motion.in_charge)  # before another inference can end

    def _forget(self) -> None:
        self._worker.reset()  # first: a chunk that is just being submitted must not survive
        self._record.interrupt()
        self.run_record.interrupt()
        self._arm.executor.clear()

    def on_clock_jump(self) -> None:
        """The clock went back, or changed: nothing that was received is comparable any more."""
        self._clock_jumps += 1
        self.timer.follow_clock()
        self.sensors.clear()
        if self._transforms is not None:
            self._transforms.clear()
        if self.end_effector is not None:
            self.end_effector.clear()
        self._last_now = self._now()
        self._forget()
        self._motion.start_over(self._last_now)  # the clock may stand still from now on, and so the timer

    @property
    def _moving(self) -> LifecyclePublisher:
        """Of what moves the arm."""
        return self._motion.publisher or self._publisher.chunks

    def receivers(self) -> Receivers:
        """Who listens to what moves the arm."""
        publisher, listeners = self._moving, self._listeners
        count = listeners.count()
        return Receivers(
            publisher.topic_name, count, lambda: deaf(self._node, publisher), onlookers=tuple(listeners.onlookers)
        )

    def statuses(self) -> list[Status]:
        """For /diagnostics, on the executor's thread."""
        return self._report.statuses(self._now(), active=self.timer.runs, clock_jumps=self._clock_jumps)

    def run_tick(self, now: int) -> Tick:
        """What the last control period was like, for a run on ~/run_policy."""
        motion, receivers = self._motion, self.receivers()
        return Tick(
            now,
            motion.result,
            motion.measured.pose,
            motion.measured.joints,
            self._arm.openings,
            enabled=motion.enabled,
            receiver="" if motion.dry_run or receivers.count else receivers.topic,
            person=self._takeover.person,
        )

    @property
    def motion_is_on(self) -> bool:
        """Whether somebody has switched it on."""
        return self._motion.enabled

    @property
    def in_charge(self) -> str:
        """Who moves the arm, as in ActionChunk."""
        return self._motion.in_charge

    @property
    def continuous(self) -> np.ndarray:
        """(J,) which of the controlled joints turn without end."""
        return self._arm.continuous

    def motion_message(self) -> str:
        """What the arm does, as ~/status says it."""
        return self._report.motion_message()

    def device_problem(self) -> str:
        """Why the device by which a person takes over is not heard; "" when it is, or when there is none."""
        return self._device.problem()

    def gripper_problem(self) -> str:
        """Why the grippers do not obey; "" when that is not known."""
        return self._motion.gripper_problem

    # Parameters, on the executor's thread

    def validate(self, proposed: dict[type, Any]) -> None:
        """Raises UserError when proposed configurations do not fit the checkpoint. Changes nothing."""
        if PruningConfig in proposed:
            self.policy.check_pruning(proposed[PruningConfig])
        if LimitsConfig in proposed:
            self._arm.check_limits(proposed[LimitsConfig])

    def on_parameters(self, names: set[str]) -> None:
        """Use changed parameters."""
        parameters = self._parameters
        self._motion.set_dry_run(parameters.running(NodeConfig).dry_run, self._now())  # first: it may stop the arm
        if any(name.startswith("pruning.") for name in names):
            self._worker.set_pruning(self._wanted_pruning() or "off")
            self._mode_controller = self._new_mode_controller()
            self._locate_cameras()
        if "instruction" in names:
            self.reset()
            self._advise_on_instruction()
        self.sensors.config = parameters.running(InputsConfig)
        watchdog = self._arm.watchdog
        watchdog.max_ages = {name: self.sensors.config.max_age_of(name) for name in watchdog.max_ages}
        self._arm.limits = parameters.running(LimitsConfig)
        self._arm.executor.config = parameters.running(ExecutorConfig)
        self._motion.replanner.config = parameters.running(ReplanConfig)
        self._takeover.config = parameters.running(TakeoverConfig)
        self._motion.configure(parameters.running(ControllerConfig))
        self._set_motions()

    def _advise_on_instruction(self) -> None:
        instruction = self._parameters.running(NodeConfig).instruction
        for advice in instruction_advice(instruction, None):
            self._warn(f"the instruction {advice}")

    def _locate_cameras(self) -> None:
        pruning = self._wanted_pruning()
        self.sensors.locates_cameras = pruning is not None and pruning.history_motion == "tf"

    def _wanted_pruning(self) -> PruningConfig | None:
        enabled = self._parameters.running(PruningSwitch).enabled
        return self._parameters.running(PruningConfig) if enabled else None

    # Inference, on the worker's thread

    def _on_chunk(self, sensed: Sensed, chunk: ActionChunk) -> None:
        self._due = False
        ready = self._now()
        self._record.add(chunk, sensed.stamp, ready)
        self.run_record.add(chunk, sensed.stamp, ready)
        self._report.twist_problem = sensed.twist_problem
        self._report.moved_constants = self.policy.moved_constants(sensed.proprio)
        if not np.isfinite(chunk.actions).all():
            raise UserError("the policy predicted NaN or Inf; check the checkpoint, or set model.dtype float32")
        receipt = self._motion.submit(chunk.actions, sensed.stamp, ready)
        message = self._publisher.publish(
            sensed,
            chunk,
            ready,
            in_charge=lambda: self._motion.in_charge,
            usable=lambda: receipt.accepted and not self._motion.forbidden,
        )
        withheld = receipt.accepted and message.in_charge == InCharge.POLICY and not message.execute
        if withheld and self._motion.publisher is None:
            self._due = True  # what comes next may be executed
        self.after_chunk(message)
        if self._path is not None:
            self._path.publish(chunk, sensed.stamp, self._motion.moves)
        age = (ready - sensed.stamp) / NANOSECONDS
        self._status_text.publish(f"{inference_text(chunk, age)}; {self._report.motion_message()}")

    def _on_inference_error(self, error: Exception) -> None:
        text = "".join(traceback.format_exception(error))
        self._node.get_logger().error(f"inference failed:\n{text}", throttle_duration_sec=30.0)

    # Control, on the executor's thread

    def _tick(self) -> None:
        now = self._now()
        if now < self._last_now:
            self.on_clock_jump()
        self._last_now = now
        if not self._worker.problem:
            self._arm.watchdog.feed(INFERENCE, now / NANOSECONDS)
        if self._motion.dry_run or self.receivers().count:
            self._arm.watchdog.feed(RECEIVER, now / NANOSECONDS)
        else:
            self._arm.watchdog.lost(RECEIVER)
        self._motion.tick(now)
        self._tell_problem()
        self.after_tick(now)

    def _tell_problem(self) -> None:
        """Tell a problem at once, and again every second while it lasts."""
        problem, told, now = self._worker.problem, self._told, time.monotonic()
        self._told = problem
        if problem and (problem != told or now - self._told_at >= TELL_AGAIN):
            self._told_at = now
            self._status_text.publish(f"no inference: {problem}; {self._report.motion_message()}")

    def _on_due(self) -> None:
        if not self._due:
            self._due = True
            self._worker.wake()

    def _wanted_mode(self) -> str:
        """The pruning mode that the measured motion asks for; only needed to replan when it changes."""
        replan = self._motion.replanner.config
        if self._mode_controller is None or replan.when == "continuous" or self.end_effector is None:
            return ""
        measured = self.end_effector.twist(self._now(), self._pose_skew())
        return self._mode_controller.granularity(Speed.of(measured.twist)).mode

    def _pose_skew(self) -> int:
        """By how much a pose may be older than what it is used with, nanoseconds."""
        return int(self.sensors.config.max_skew_of(TF) * NANOSECONDS)

    def _new_mode_controller(self) -> ActionAwareController | None:
        config = self._wanted_pruning()
        return ActionAwareController(config) if config else None

    def _now(self) -> int:
        return self._node.get_clock().now().nanoseconds
