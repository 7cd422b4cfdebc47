"""One episode in the simulator: observe, infer, execute the chunk through the real executor, until success."""

import dataclasses
from collections import Counter

import numpy as np
from arms import Arm

from specprune_ros.control.command import Command
from specprune_ros.control.executor import ChunkExecutor
from specprune_ros.policy import ActionChunk, Observation, Policy
from specprune_ros.sensing.twist_estimator import TwistEstimator
from specprune_ros.sim.libero_env import CONTROL_RATE, LiberoEnv, simulator_action
from training.expert import Expert
from training.policy_driver import observe

PERIOD = 1.0 / CONTROL_RATE
MAX_STEPS = 220  # the public evaluations' limit for LIBERO-Spatial


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What is kept of an episode; means are over its inferences."""

    success: bool
    steps: int
    inferences: int = 0
    latency_ms: float = 0.0  # median
    tokens: float = 0.0  # per decoder layer
    flop_share: float = 0.0  # of the decoder, against dense
    modes: dict[str, int] = dataclasses.field(default_factory=dict)


def run_episode(env: LiberoEnv, policy: Policy | None, arm: Arm, state: np.ndarray) -> Outcome:
    """`policy` has the arm's pruning already; None for the expert. Time stands still during an inference."""
    env.reset_to(state)
    if policy is None:
        return _run_expert(env)
    policy.reset()
    executor = ChunkExecutor(policy.action_dim, PERIOD)
    executor.enable()
    motion = TwistEstimator()
    chunks: list[ActionChunk] = []
    for step in range(MAX_STEPS):
        now = step * PERIOD
        pose = env.base_pose.inverse() @ env.eef_pose
        motion.add(now, pose.position, pose.quaternion)
        if step % policy.chunk_length == 0:
            seen = observe(env, now, motion.twist(now))
            chunks.append(policy.act(blinded(seen) if arm.blind else seen))
            receipt = executor.submit(chunks[-1].actions, now, PERIOD, now)
            assert receipt.refusal is None, receipt
        command = executor.step(now)
        assert isinstance(command, Command), command
        if env.step(simulator_action(command.action)):
            return _outcome(True, step + 1, chunks)
    return _outcome(False, MAX_STEPS, chunks)


def blinded(observation: Observation) -> Observation:
    """The same with black images."""
    views = {camera: np.zeros_like(image) for camera, image in observation.views.items()}
    return dataclasses.replace(observation, views=views)


def _run_expert(env: LiberoEnv) -> Outcome:
    expert = Expert(env)
    for step in range(MAX_STEPS):
        if expert.failed:
            return Outcome(False, step)
        if env.step(simulator_action(expert.act())):
            return Outcome(True, step + 1)
    return Outcome(False, MAX_STEPS)


def _outcome(success: bool, steps: int, chunks: list[ActionChunk]) -> Outcome:
    reports = [chunk.pruning for chunk in chunks]
    return Outcome(
        success=success,
        steps=steps,
        inferences=len(chunks),
        latency_ms=1000 * float(np.median([chunk.seconds for chunk in chunks])),
        tokens=float(np.mean([np.mean(report.tokens_per_layer) for report in reports])),
        flop_share=float(np.mean([report.flop_share for report in reports])),
        modes=dict(Counter(report.mode for report in reports)),
    )
