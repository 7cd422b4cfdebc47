# SPDX-License-Identifier: Apache-2.0
"""What a configured node says in /diagnostics and ~/status about its inferences, inputs, motion and memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from specprune_ros.control.command import Hold, HoldReason
from specprune_ros.nodes.model import memory_mb
from specprune_ros.nodes.motion_loop import MotionLoop
from specprune_ros.nodes.reporting.diagnostics import ERROR, OK, WARN, Status
from specprune_ros.nodes.reporting.inference_record import InferenceRecord
from specprune_ros.nodes.worker import InferenceWorker
from specprune_ros.policy import Policy
from specprune_ros.sensing.assembler import ObservationAssembler
from specprune_ros.sensing.end_effector import EndEffector, Transforms

WAITING = (HoldReason.NO_CHUNK, HoldReason.CHUNK_NOT_STARTED)  # holds that end by themselves


@dataclass(frozen=True)
class Receivers:
    """How many listen to the topic that moves the arm."""

    topic: str
    count: int
    deaf: Callable[[], str] = lambda: ""  # who subscribes and cannot hear it
    onlookers: tuple[str, ...] = ()  # who listens and moves nothing

    def silence(self) -> str:
        """Why nobody listens, and what to do."""
        remedy = "start the arm's controller, or remap the topic to its own"
        nobody = f"nobody but {', '.join(self.onlookers)}" if self.onlookers else "nobody"
        return f"{nobody} listens to {self.topic}; {self.deaf() or remedy}"


@dataclass(frozen=True)
class Told:
    """A message and how bad it is."""

    message: str
    level: bytes


class SessionStatus:
    """Reads the parts of a session; changes none. `twist_problem`: why the last observation had no twist.

    `moved_constants`: numbers of its proprio that never changed in the training data and are another now.
    """

    def __init__(
        self,
        policy: Policy,
        warm_seconds: Mapping[str, float],
        record: InferenceRecord,
        worker: InferenceWorker,
        sensors: ObservationAssembler,
        transforms: Transforms | None,
        end_effector: EndEffector | None,
        motion: MotionLoop,
        *,
        receivers: Callable[[], Receivers],
        device_problem: Callable[[], str],
        clock_problem: Callable[[], str],
        rivals: Callable[[], list[str]],
        instruction: Callable[[], str],
    ) -> None:
        self._policy, self._warm_seconds = policy, warm_seconds
        self._record, self._worker, self._sensors = record, worker, sensors
        self._transforms, self._end_effector, self._motion = transforms, end_effector, motion
        self._receivers, self._instruction = receivers, instruction
        self._device_problem, self._clock_problem, self._rivals = device_problem, clock_problem, rivals
        self.twist_problem = ""
        self.moved_constants: list[int] = []

    def statuses(self, now: int, *, active: bool, clock_jumps: int) -> list[Status]:
        """`now`: nanoseconds. `active`: whether the node is. On the executor's thread."""
        return [
            self._inference(active),
            self._inputs(now, active, clock_jumps),
            self._motion_status(),
            Status("memory", "in use", OK, dict(memory_mb(self._policy.device))),
        ]

    def motion_message(self) -> str:
        """What the arm does, from any thread."""
        return self._told_of_motion().message

    def _inference(self, active: bool) -> Status:
        values = {
            "instruction": self._instruction(),
            **self._record.values(),
            "late chunks": self._motion.late,
            "errors": self._worker.errors,
            **self._sharing(),
            **{f"warm-up {mode} ms": seconds * 1e3 for mode, seconds in self._warm_seconds.items()},
        }
        problem = self._worker.problem if active else ""
        if problem:
            return Status("inference", problem, ERROR, values)
        slower = self._policy.graph_problem or self._policy.precision_problem
        return Status("inference", slower or ("running" if active else "stopped"), WARN if slower else OK, values)

    def _sharing(self) -> dict[str, object]:
        """With several arms on one model: how long an inference waited for its turn."""
        arms = self._worker.turns.arms
        if arms < 2:
            return {}
        p50, p99 = self._worker.waits.percentiles()
        return {"arms on this model": arms, "wait for a turn p50 ms": p50 * 1e3, "wait for a turn p99 ms": p99 * 1e3}

    def _inputs(self, now: int, active: bool, clock_jumps: int) -> Status:
        values: dict[str, object] = {f"{topic} Hz": rate for topic, rate in self._sensors.rates().items()}
        for topic, (age, limit) in self._sensors.ages(now).items():
            values[f"{topic} age ms"], values[f"{topic} max age ms"] = age * 1e3, limit * 1e3
        values["images dropped (twice or out of order)"] = self._sensors.dropped()
        if clock_jumps:
            values["clock jumps"] = clock_jumps
        message, level = self._clock_problem() or self._sensors.problem(now), ERROR
        if not message and self.twist_problem:
            message, level = f"end-effector velocity is unknown: {self.twist_problem}", WARN
        if not message and self.moved_constants:
            message, level = (
                f"proprio {self.moved_constants} never changed in the training data and is another here",
                WARN,
            )
        if not message:
            message, level = self._sensors.oddity() or self._sensors.slow_joints(), WARN
        if self._transforms is not None and self._end_effector is not None:
            values["transforms refused"] = self._transforms.refused
            values["last refused transform"] = self._transforms.last_refusal
            values["TF"] = "known" if self._end_effector.newest() else "unknown"
            values["TF Hz (at most controller.rate)"] = self._end_effector.rate()
        return Status("inputs", message or "complete", level if message and active else OK, values)

    def _motion_status(self) -> Status:
        motion, receivers, told = self._motion, self._receivers(), self._told_of_motion()
        values: dict[str, object] = {
            f"receivers of {receivers.topic}": receivers.count,
            "in charge": motion.in_charge,
            "enabled": motion.enabled,
            "dry run": motion.dry_run,
            "pauses between chunks": motion.pauses,
            **{f"holds {reason}": count for reason, count in motion.holds.items()},
            **{f"limit {name}": count for name, count in motion.limits_hit.items()},
        }
        if motion.sends_chunks:
            values["trajectories sent"], values["newest trajectory s"] = motion.trajectories, motion.trajectory_seconds
        if not isinstance(motion.result, Hold):
            values["deviation m"], values["deviation rad"] = motion.result.deviation, motion.result.deviation_angle
        others = self._rivals()
        if others:
            values[f"other policy nodes on {receivers.topic}"] = ", ".join(others)
        problem = self._device_problem()
        if problem:
            return Status("motion", f"{told.message}; {problem}", max(told.level, WARN), values)
        return Status("motion", told.message, told.level, values)

    def _told_of_motion(self) -> Told:
        result = self._motion.result
        if not isinstance(result, Hold):
            dry = " (dry run)" if self._motion.dry_run else ""
            hits = result.limits_hit if self._motion.publisher is not None else ()  # else by nobody here
            hit = f"; limited by {', '.join(hits)}" if hits else ""
            troubles = "".join(
                f"; {trouble}" for trouble in (self._motion.gripper_problem, self._motion.effect_problem) if trouble
            )
            return Told(f"moving{dry}{hit}{troubles}", WARN if hit or troubles else OK)
        person = self._motion.takeover.person
        if person:
            waiting = "" if self._motion.enabled else "; motion is off"
            return Told(f"a person is in charge by {person}, nothing is sent{waiting}", WARN)
        if not self._motion.enabled:
            return Told("motion is off; call ~/enable", OK)
        receivers = self._receivers()
        if not receivers.count:
            return Told(f"holding, {receivers.silence()}", ERROR)
        detail = f": {result.detail}" if result.detail else ""
        return Told(f"holding, {result.reason}{detail}", WARN if result.reason in WAITING else ERROR)
