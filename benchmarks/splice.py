# SPDX-License-Identifier: Apache-2.0
"""Where chunks meet: commanded position, velocity and acceleration with and without what the executor does there.

    scripts/env python benchmarks/splice.py --plot docs/splice.png

A hand follows a recorded LIBERO episode through the real chunk executor, at the simulator's 20 Hz. A stand-in for the
policy predicts the recording's next steps from where the hand is, off by a random velocity that is constant within a
chunk, and takes a while for it. No limits of `limits.*`, and an arm that does as it is told: what is seen is the
splicing alone. Time is simulated, so the result is the same on every machine.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from specprune_ros.control.command import Command
from specprune_ros.control.executor import ChunkExecutor, ExecutorConfig

RECORDING = Path(__file__).parents[1] / "test" / "data" / "libero_episode.npz"
STEP = 0.05  # seconds, of the recording, of a chunk and of control
CHUNK = 8  # steps
ACTIONS = 7  # numbers; three are used, in metres per step
LATENCY = 0.06, 0.14  # seconds from observation to chunk, uniform
REST = 10  # steps before the recording begins, so that all start with a chunk
NOISE = 0.03  # m/s, standard deviation per axis of a chunk's error
SEED = 0
AXES, COLORS = "xyz", ("#b5303a", "#3b7a57", "#2f5d8c")


@dataclass(frozen=True)
class Variant:
    name: str
    config: ExecutorConfig = field(default_factory=lambda: ExecutorConfig(blend_steps=0))
    waits: bool = False  # for the end of a chunk before it looks again
    by_stamp: bool = True  # a chunk's first step belongs to its observation, not to its arrival


VARIANTS = (
    Variant("wait for every chunk", waits=True, by_stamp=False),
    Variant("asynchronous,\nfrom the first step", by_stamp=False),
    Variant("asynchronous,\nby stamps"),
    Variant("by stamps, blended\n(the default)", ExecutorConfig()),
    Variant("by stamps,\nensemble", ExecutorConfig(splice="ensemble")),
)


@dataclass(frozen=True, eq=False)
class Trace:
    """Commands at every control step. Times in seconds."""

    times: np.ndarray  # (T,)
    positions: np.ndarray  # (T, 3) m, where the hand is at the start of a step
    velocities: np.ndarray  # (T, 3) m/s, during it
    seams: np.ndarray  # (N,) times at which a new chunk takes over
    pauses: int  # steps without a command

    @property
    def accelerations(self) -> np.ndarray:
        """(T, 3) m/s^2, from one step to the next; the hand starts at rest."""
        return np.diff(self.velocities, axis=0, prepend=0.0) / STEP


def drive(variant: Variant, path: np.ndarray) -> Trace:
    """Follow `path` (T, 3), a position for every step."""
    random = np.random.default_rng(SEED)
    executor = ChunkExecutor(ACTIONS, STEP, config=variant.config)
    executor.enable()
    position, velocity, until = path[0].copy(), np.zeros(3), -1.0
    pending: tuple[float, float, np.ndarray] | None = None  # seen, ready, actions
    positions, velocities, seams, pauses = [], [], [], 0
    for tick in range(len(path)):
        now = tick * STEP
        if pending is not None and pending[1] <= now:
            seen, ready, actions = pending
            stamp = seen if variant.by_stamp else ready
            assert executor.submit(actions, stamp, STEP, ready).accepted
            until = stamp + CHUNK * STEP
            seams.append(ready)
            pending = None
        if pending is None and (not variant.waits or now >= until):
            pending = now, now + random.uniform(*LATENCY), predict(path, now, position, random)
        command = executor.step(now)
        pauses += not isinstance(command, Command)
        velocity = command.action[:3] / STEP if isinstance(command, Command) else np.zeros(3)
        positions.append(position.copy())
        velocities.append(velocity)
        position += velocity * STEP
    return Trace(np.arange(len(path)) * STEP, np.array(positions), np.array(velocities), np.array(seams), pauses)


def predict(path: np.ndarray, now: float, position: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A chunk (C, A) that leads from `position` back to the path within its time, in metres per step."""
    steps = np.clip(now / STEP + np.arange(CHUNK + 1), 0, len(path) - 1)
    ahead = np.stack([np.interp(steps, np.arange(len(path)), axis) for axis in path.T], axis=1)
    actions = np.zeros((CHUNK, ACTIONS))
    actions[:, :3] = np.diff(ahead, axis=0) + (ahead[0] - position) / CHUNK + random.normal(0, NOISE, 3) * STEP
    return actions


def describe(trace: Trace, path: np.ndarray) -> str:
    error = 1e3 * np.linalg.norm(trace.positions - path, axis=1)
    acceleration = np.linalg.norm(trace.accelerations, axis=1)
    return (
        f"{np.sqrt(np.mean(error**2)):5.1f} mm off (largest {error.max():5.1f}), acceleration "
        f"{np.sqrt(np.mean(acceleration**2)):4.2f} m/s^2 (largest {acceleration.max():4.2f}), "
        f"{trace.pauses} steps without a command"
    )


def plot(traces: dict[str, Trace], path: np.ndarray, file: Path) -> None:
    """Write a PNG: a column for every trace; position, velocity, acceleration below each other."""
    figure = Figure(figsize=(3.2 * len(traces), 7.5), layout="constrained", dpi=110)
    grid = figure.subplots(3, len(traces), sharex=True, sharey="row", squeeze=False)
    rows: tuple[tuple[str, str, Callable[[Trace], np.ndarray]], ...] = (
        ("position from the start (m)", "default", lambda trace: trace.positions - path[0]),
        ("velocity (m/s)", "steps-post", lambda trace: trace.velocities),
        ("acceleration (m/s²)", "steps-post", lambda trace: trace.accelerations),
    )
    for column, (name, trace) in zip(grid.T, traces.items(), strict=True):
        column[0].set_title(name, fontsize=11)
        for axes, (_, style, values) in zip(column, rows, strict=True):
            for seam in trace.seams:
                axes.axvline(seam, color="black", linewidth=0.5, alpha=0.25)
            for label, color, series in zip(AXES, COLORS, values(trace).T, strict=True):
                axes.plot(trace.times, series, drawstyle=style, color=color, linewidth=1.2, label=label)
            axes.grid(axis="y", alpha=0.25)
        for color, series in zip(COLORS, (path - path[0]).T, strict=True):
            column[0].plot(trace.times, series, color=color, linewidth=0.8, linestyle=":")
        column[2].set_xlabel("time (s)")
    for axes, (label, *_) in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(label)
    grid[0, 0].plot([], [], color="black", linewidth=0.8, linestyle=":", label="recording")
    grid[0, 0].legend(frameon=False, fontsize=9)
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a PNG")
    options = parser.parse_args()
    with np.load(RECORDING) as recording:
        path = np.pad(recording["eef_pos"].astype(np.float64), ((REST, 0), (0, 0)), "edge")
    traces = {variant.name: drive(variant, path) for variant in VARIANTS}
    recorded = np.linalg.norm(np.diff(path, n=2, axis=0), axis=1) / STEP**2
    print(f"{'the recording':44} acceleration {np.sqrt(np.mean(recorded**2)):.2f} m/s^2 (largest {recorded.max():.2f})")
    for name, trace in traces.items():
        print(f"{' '.join(name.split()):44} {describe(trace, path)}")
    if options.plot:
        plot(traces, path, options.plot)


if __name__ == "__main__":
    main()
