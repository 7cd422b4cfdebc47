# SPDX-License-Identifier: Apache-2.0
"""Points or whole chunks: how smoothly an arm is driven when the node's process is late now and then.

    scripts/env python benchmarks/trajectories.py --json FILE --plot docs/trajectories.png

A policy that looks at seven joints predicts chunks of a smooth motion, which disagree a little from one to the next.
The node's own control code turns them into messages in periods of 20 ms, each of which is late by 0 to J ms. The arm's
controller, as in trajectory_controller.py, samples them at 500 Hz; what it asks of the joints is measured. For the
Cartesian outputs the same end effector follows target poses (a spring of 30 rad/s, critically damped) or twists (a
velocity loop of 20 ms). Nothing here is timed, so that the machine does not matter.
"""

import argparse
from pathlib import Path

import machine
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm
from trajectory_controller import Knot, TrajectoryController

from specprune_ros.control.action_space import ControllerConfig
from specprune_ros.control.adapters import TargetPose, joint_point
from specprune_ros.control.arm import Arm, Motion
from specprune_ros.control.executor import ExecutorConfig
from specprune_ros.control.limits import LimitsConfig
from specprune_ros.pose import Pose

JITTERS = 0, 5, 10, 20, 30  # ms
SAMPLE, PERIOD, STEP, LATENCY, CHUNK = 0.002, 0.02, 0.05, 0.08, 16
SECONDS, START = 10.0, 100.0
JOINTS = tuple(f"joint_{k}" for k in range(1, 8))
DISAGREEMENT = 0.002  # rad, from chunk to chunk
LIMITS = LimitsConfig()
SERVO_LAG = 0.02  # seconds, of the joints behind what is asked of them
JOINT_OUTPUTS = {
    "point": {"trajectory": "point"},
    "point, from the measured state": {"trajectory": "point"},
    "chunk, positions alone": {"trajectory_velocities": False},
    "chunk": {},
}


def reference(time: np.ndarray | float, phases: np.ndarray) -> np.ndarray:
    """(..., J) rad: up to 0.9 rad/s."""
    time = np.asarray(time)[..., None]
    return 0.3 * np.sin(1.5 * time + phases) + 0.1 * np.sin(4.0 * time + 2 * phases)


class Late:
    """Times of the control loop's ticks, `jitter` ms late at most, in order."""

    def __init__(self, jitter: float, random: np.random.Generator) -> None:
        ticks = START + PERIOD * np.arange(round(SECONDS / PERIOD))
        late = ticks + random.uniform(0, jitter / 1000, len(ticks)) if jitter else ticks
        self.times = np.maximum.accumulate(late) + 1e-9


def joints(output: str, jitter: float, seed: int) -> np.ndarray:
    """(N, J) what the controller asks of the joints, rad, every `SAMPLE`."""
    random = np.random.default_rng(seed)
    phases = random.uniform(0, 2 * np.pi, len(JOINTS))
    config = ControllerConfig(
        output="joint_trajectory",
        rate=1 / PERIOD,
        step_duration=STEP,
        action_space="absolute_joint",
        joint_names=JOINTS,
        gripper_dimensions=(),
        gripper_output="none",
        **JOINT_OUTPUTS[output],
    )
    arm = Arm(len(JOINTS), config, LIMITS, ExecutorConfig())
    arm.enable(0.0)
    measured = reference(START, phases)
    controller = TrajectoryController(measured)
    ticks, asked, due = list(Late(jitter, random).times), [], START + LATENCY
    for now in START + SAMPLE * np.arange(round(SECONDS / SAMPLE)):
        if now >= due:
            steps = reference(now - LATENCY + STEP * np.arange(CHUNK), phases)
            arm.executor.submit(steps + random.normal(0, DISAGREEMENT, len(JOINTS)), now - LATENCY, STEP, now)
            due = now + LATENCY
        while ticks and ticks[0] <= now:
            result = arm.tick(ticks.pop(0), joints=measured)
            if isinstance(result, Motion):
                send(controller, arm, result, now, measured if "measured" in output else None)
        asked.append(controller.sample(now))
        measured = measured + (asked[-1] - measured) * (1 - np.exp(-SAMPLE / SERVO_LAG))
    return np.array(asked)


def send(controller: TrajectoryController, arm: Arm, motion: Motion, now: float, measured: np.ndarray | None) -> None:
    """What the node would publish."""
    config = arm.space.config
    if not config.whole_chunks:
        point = joint_point(motion.joints, motion.joint_velocities, config, arm.limits)
        controller.receive(now, 0.0, [Knot(point.time_from_start, point.positions)], measured)
    elif motion.trajectory is not None:
        chunk = motion.trajectory
        velocities = config.trajectory_velocities
        knots = [
            Knot(index * chunk.period, knot.positions, knot.velocities if velocities else None)
            for index, knot in enumerate(chunk.knots)
        ]
        controller.receive(now, chunk.start, knots, measured)


def end_effector(output: str, jitter: float, seed: int) -> np.ndarray:
    """(N, 3) where the end effector is, m, every `SAMPLE`."""
    random = np.random.default_rng(seed)
    phases = random.uniform(0, 2 * np.pi, 3)
    config = ControllerConfig(output=output, rate=1 / PERIOD, step_duration=STEP, gripper_output="none")
    arm = Arm(7, config, LIMITS, ExecutorConfig())
    arm.enable(0.0)
    target = TargetPose(config)
    upright = np.array([0.0, 0.0, 0.0, 1.0])
    position, velocity = reference(START, phases) / 2, np.zeros(3)
    twist, pose = np.zeros(3), position.copy()
    ticks, path, due = list(Late(jitter, random).times), [], START + LATENCY
    for now in START + SAMPLE * np.arange(round(SECONDS / SAMPLE)):
        if now >= due:
            points = reference(now - LATENCY + STEP * np.arange(CHUNK + 1), phases) / 2
            steps = np.zeros((CHUNK, 7))
            steps[:, :3] = np.diff(points, axis=0) / config.metres_per_unit + random.normal(0, 0.02, 3)
            arm.executor.submit(steps, now - LATENCY, STEP, now)
            due = now + LATENCY
        while ticks and ticks[0] <= now:
            here = Pose(position, upright)
            result = arm.tick(ticks.pop(0), pose=here)
            if isinstance(result, Motion):
                twist, pose = result.twist[:3], target.advance(result.twist, here, arm.limits).position
        if output == "twist":
            velocity = velocity + (twist - velocity) * (1 - np.exp(-SAMPLE / SERVO_LAG))
        else:
            velocity = velocity + SAMPLE * (30.0**2 * (pose - position) - 60.0 * velocity)
        position = position + SAMPLE * velocity
        path.append(position)
    return np.array(path)


def figures(path: np.ndarray) -> dict[str, float]:
    """Of the last nine tenths: the start is not what is asked about."""
    acceleration = np.abs(np.diff(path[len(path) // 10 :], n=2, axis=0)) / SAMPLE**2
    return {"rms": float(np.sqrt((acceleration**2).mean())), "largest": float(acceleration.max())}


def measure(seeds: int) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Output -> jitter in ms -> figures of every seed. rad/s^2, or m/s^2 for `pose` and `twist`."""
    runs = [(joints, output) for output in JOINT_OUTPUTS] + [(end_effector, "pose"), (end_effector, "twist")]
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for run, output in tqdm(runs):
        found[output] = {
            str(jitter): [figures(run(output, jitter, seed)) for seed in range(seeds)] for jitter in JITTERS
        }
    return found


def plot(found: dict[str, dict[str, list[dict[str, float]]]], path: Path) -> None:
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, name in zip(axes, ("rms", "largest"), strict=True):
        for output in JOINT_OUTPUTS:
            values = np.array([[seed[name] for seed in found[output][str(jitter)]] for jitter in JITTERS])
            line = axis.plot(JITTERS, values.mean(axis=1), "o-", label=output)[0]
            axis.fill_between(JITTERS, values.min(axis=1), values.max(axis=1), color=line.get_color(), alpha=0.2)
        axis.set_yscale("log")
        axis.set_xlabel("messages are late by up to, ms")
        axis.set_ylabel(f"{'r.m.s.' if name == 'rms' else name} acceleration asked of a joint, rad/s²")
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(JOINT_OUTPUTS))
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=machine.writable)
    parser.add_argument("--plot", type=machine.writable)
    options = parser.parse_args()
    found = measure(options.seeds)
    for output, jitters in found.items():
        for jitter, seeds in jitters.items():
            rms, largest = (np.array([seed[name] for seed in seeds]) for name in ("rms", "largest"))
            print(f"{output:32s} {jitter:>3s} ms  r.m.s. {rms.mean():8.2f}  largest {largest.max():9.1f}")
    machine.write(found, options.json)
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
