# SPDX-License-Identifier: Apache-2.0
"""One episode in the simulator: observe, infer, execute the chunk through the real executor, until success."""

import dataclasses
from collections import Counter

import numpy as np
from arms import Arm, GripperRun, as_seen

from specprune_ros.control.command import Command, HoldReason, Refusal
from specprune_ros.control.executor import ChunkExecutor
from specprune_ros.errors import UserError
from specprune_ros.policy import ActionChunk, Observation, Policy
from specprune_ros.sensing.twist_estimator import TwistEstimator
from specprune_ros.sim.libero_env import CAMERAS, CONTROL_RATE, LiberoEnv, simulator_action
from specprune_ros.sim.moving_object import MovingObject
from training.expert import Expert
from training.placements import TABLE
from training.policy_driver import observe
from training.scene import Scene

PERIOD = 1.0 / CONTROL_RATE
TOLERANCE = 1e-6  # seconds, of sums of steps
# The public evaluations' limits, also for variants of the suites.
MAX_STEPS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What is kept of an episode; means are over its inferences."""

    success: bool
    steps: int
    inferences: int = 0
    latency_ms: float = 0.0  # median, of this machine
    tokens: float = 0.0  # per decoder layer
    flop_share: float = 0.0  # of the decoder, against dense
    modes: dict[str, int] = dataclasses.field(default_factory=dict)
    pauses: int = 0  # steps that the arm held because there was no chunk to execute
    jerk: float = 0.0  # m/s^3, root mean square of the end effector's


def run_episode(
    env: LiberoEnv, policy: Policy | None, arm: Arm, state: np.ndarray, bowl: "Bowl | None" = None
) -> Outcome:
    """`policy` has the arm's pruning already; None for the expert. `bowl`: moves.

    Simulated time goes on for the arm's latency during an inference: what it answers arrives that much later, and the
    next one starts so that its answer is there when the running chunk ends, or as soon as it can.
    """
    env.reset_to(state)
    if bowl is not None:
        bowl.push(env)
    if policy is None:
        return _run_expert(env)
    policy.reset()
    executor = ChunkExecutor(policy.action_dim, PERIOD)
    executor.enable()
    inference = Inference(policy, executor, arm)
    motion = TwistEstimator(window=0.15, max_age=0.2)
    places, pauses = [], 0
    for step in range(step_limit(env.task.suite)):
        now = step * PERIOD
        pose = env.base_pose.inverse() @ env.eef_pose
        motion.add(now, pose.position, pose.quaternion)
        places.append(pose.position)
        inference.deliver(now)
        if inference.due(now):
            inference.start(now, observe(env, now, motion.twist(now)), _gripper(env, policy))
            inference.deliver(now)
        command = executor.step(now)
        if isinstance(command, Command):
            solved = env.step(simulator_action(command.action))
        else:
            assert command.reason in (HoldReason.NO_CHUNK, HoldReason.CHUNK_FINISHED), command
            pauses += 1
            solved = env.hold()
        if solved:
            break
    return _outcome(bool(solved), step + 1, inference.chunks, pauses, _jerk(places))


def step_limit(suite: str) -> int:
    """The most steps of an episode."""
    return next((steps for name, steps in MAX_STEPS.items() if suite.startswith(name)), max(MAX_STEPS.values()))


class Inference:
    """The one worker of a policy node: it has at most one observation at a time and answers after a latency."""

    def __init__(self, policy: Policy, executor: ChunkExecutor, arm: Arm) -> None:
        self.chunks: list[ActionChunk] = []
        self._policy, self._executor, self._arm = policy, executor, arm
        self._arrives: float | None = None
        self._end = 0.0  # of the running chunk

    def due(self, now: float) -> bool:
        """Whether an inference that starts a step later would come too late; never while one is under way."""
        return self._arrives is None and now + PERIOD + self._arm.latency > self._end + TOLERANCE

    def start(self, now: float, seen: Observation, gripper: np.ndarray) -> None:
        GripperRun.places = gripper
        self.chunks.append(self._policy.act(blinded(seen) if self._arm.blind else seen))
        self._arrives = now + self._arm.latency

    def deliver(self, now: float) -> None:
        """Hand a chunk that has arrived by now to the executor; one that came too late is lost."""
        if self._arrives is None or self._arrives > now + TOLERANCE:
            return
        chunk = self.chunks[-1]
        receipt = self._executor.submit(chunk.actions, chunk.stamp, PERIOD, min(self._arrives, now))
        assert receipt.refusal in (None, Refusal.EXPIRED), receipt
        if receipt.refusal is None:
            self._end = chunk.stamp + PERIOD * len(chunk.actions)
        self._arrives = None


@dataclasses.dataclass(frozen=True)
class Bowl:
    """The object to move slides over the table, in a direction that the seed draws. See sim/moving_object.py."""

    speed: float  # m/s
    seed: int

    def push(self, env: LiberoEnv) -> None:
        goal = Scene(env).goal
        if goal is None:
            raise UserError(f"nothing to slide: '{env.instruction}' moves no object from one place to another")
        direction = np.random.default_rng([self.seed, env.task.index, 1]).uniform(0, 2 * np.pi)
        MovingObject(env, goal[0], self.speed, direction, TABLE)


def _gripper(env: LiberoEnv, policy: Policy) -> np.ndarray:
    """(V, 2) where the gripper is in the mirrored views, as the towers see them; nan where it is not."""
    pixels = np.array([Scene(env).pixel(env.eef_pose.position, camera) for camera in CAMERAS])
    return as_seen(np.stack([1.0 - pixels[:, 0], pixels[:, 1]], axis=1), policy.center_crop)


def _jerk(places: list[np.ndarray]) -> float:
    if len(places) < 4:
        return 0.0
    jerks = np.diff(np.array(places), n=3, axis=0) / PERIOD**3
    return float(np.sqrt((jerks**2).sum(axis=1).mean()))


def blinded(observation: Observation) -> Observation:
    """The same with black images."""
    views = {camera: np.zeros_like(image) for camera, image in observation.views.items()}
    return dataclasses.replace(observation, views=views)


def _run_expert(env: LiberoEnv) -> Outcome:
    expert = Expert(env)
    limit = step_limit(env.task.suite)
    for step in range(limit):
        if expert.failed:
            return Outcome(False, step)
        if env.step(simulator_action(expert.act())):
            return Outcome(True, step + 1)
    return Outcome(False, limit)


def _outcome(success: bool, steps: int, chunks: list[ActionChunk], pauses: int, jerk: float) -> Outcome:
    reports = [chunk.pruning for chunk in chunks]
    return Outcome(
        success=success,
        steps=steps,
        inferences=len(chunks),
        latency_ms=1000 * float(np.median([chunk.seconds for chunk in chunks])),
        tokens=float(np.mean([np.mean(report.tokens_per_layer) for report in reports])),
        flop_share=float(np.mean([report.flop_share for report in reports])),
        modes=dict(Counter(report.mode for report in reports)),
        pauses=pauses,
        jerk=jerk,
    )
