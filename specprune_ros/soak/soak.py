# SPDX-License-Identifier: Apache-2.0
"""`scripts/soak`: starts a robot and a policy node, records for some minutes, and says whether the node passed."""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from specprune_ros.errors import ConfigError
from specprune_ros.processes.runner import FAILED, RunFailed, Runner, children_of_a_run, command, listening
from specprune_ros.soak import robot
from specprune_ros.soak.listener import POLICY, Listener
from specprune_ros.soak.plot import plot
from specprune_ros.soak.process import MachineDelay, memory
from specprune_ros.soak.verdict import Series, summary

ROOT = Path(__file__).parents[2]
MIN_MINUTES, MAX_MINUTES = 0.5, 7 * 24 * 60.0
CONTROL_RATE = 20.0  # Hz
MEMORY_PERIOD = 1.0  # seconds
# Bytes; glibc returns buffers from this size on as soon as they are freed. Otherwise it keeps those of images at times,
# the node's memory swings by 8 MiB, and a leak of 5 cannot be seen. Inferences take longer so (mallopt(3)).
RETURN_FROM = str(128 << 10)
RATES = {**{f"image_{name}": robot.CAMERA_RATE for name in robot.CAMERAS}, "joint_states": robot.MOTION_RATE}


def main() -> int:
    """Exit code: see `runner.command`; 1 also when the node did not pass."""
    return command(lambda: _soak(_parse(sys.argv[1:])), say)


def _soak(options: argparse.Namespace) -> int:
    return _report(options, _record(options))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see scripts/soak --help")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(
        "scripts/soak",
        description="Runs the policy node in a process of its own at full input rate: two 640x480 cameras at 30 Hz, "
        "joint states and TF at 100 Hz, over DDS with config/fastdds.xml. Passes when memory does not grow by more "
        "than 5 MiB after the warm-up and the node misses no control tick for more than two periods by its own fault.",
        epilog="The default checkpoint is tiny and has random weights. Freed memory goes back to the system at once, "
        "so that a leak shows; inferences take longer so than they do in operation.",
    )
    add = parser.add_argument
    add("--minutes", metavar="N", type=float, default=10.0, help="how long (default %(default)g)")
    add("--checkpoint", metavar="DIR", type=Path, default=ROOT / "test/data/tiny_oft", help="OpenVLA-OFT checkpoint")
    add("--out", metavar="DIR", type=Path, default=ROOT / "out/soak", help="folder for the results (default out/soak)")
    options = parser.parse_args(arguments)
    if not MIN_MINUTES <= options.minutes <= MAX_MINUTES:
        raise ConfigError(
            f"--minutes {options.minutes:g} is outside the allowed range; allowed: {MIN_MINUTES:g} to {MAX_MINUTES:g}"
        )
    try:
        (options.out / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {options.out} cannot be created ({error.strerror}); name another folder") from None
    return options


def _record(options: argparse.Namespace) -> Series:
    """Nothing is left running, whatever happens."""
    # One thread: the robot needs a processor, too.
    own = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": RETURN_FROM}
    with children_of_a_run(options.out / "logs", own) as children:
        policy = children.start("policy", "specprune_ros.nodes.policy_node", _policy_arguments(options.checkpoint))
        children.start("robot", "specprune_ros.soak.robot", _robot_arguments())
        with listening(children) as runner:
            listener = Listener()
            runner.add(listener)
            return _series(runner, listener, policy, options.minutes * 60)


def _series(runner: Runner, listener: Listener, policy: int, seconds: float) -> Series:
    """What the node does in `seconds`. `policy`: its process ID."""
    runner.wait(lambda: "" if listener.inferences else f"the first inference ({listener.status})")
    runner.enable(listener.enable, True)
    series = Series(1 / CONTROL_RATE, RATES)
    listener.delay, listener.series = MachineDelay(policy), series
    start = due = time.monotonic()
    form = "{desc}: {percentage:3.0f}% |{bar}| {n:.0f}/{total:.0f} s{postfix}"
    with tqdm(total=seconds, desc="soak", bar_format=form, mininterval=5.0) as bar:
        while (elapsed := time.monotonic() - start) < seconds:
            runner.spin()
            if time.monotonic() >= due:
                due += MEMORY_PERIOD
                series.memory.append((time.time(), *memory(policy)))
                bar.n = min(elapsed, seconds)
                bar.set_postfix_str(f", {series.memory[-1][1]:.1f} MiB, {listener.status}", refresh=False)
                bar.update(0)
    listener.delay.close()
    if not series.ticks or not series.inferences:
        raise RunFailed(f"the node sent no commands ({listener.status}); see its log")
    return series


def _policy_arguments(checkpoint: Path) -> list[str]:
    parameters = {
        "autostart": "true",
        "instruction": "'pick up the black bowl and place it on the plate'",
        "model.checkpoint": str(checkpoint.resolve()),
        "inputs.cameras": f"[{', '.join(robot.CAMERAS)}]",
        "inputs.joint_names": f"[{', '.join(robot.FINGERS)}]",
        "inputs.base_frame": robot.BASE,
        "inputs.ee_frame": robot.HAND,
        "controller.output": "twist",
        "controller.rate": str(CONTROL_RATE),
    }
    return ["--ros-args", *(word for name, value in parameters.items() for word in ("-p", f"{name}:={value}"))]


def _robot_arguments() -> list[str]:
    remaps = (f"image_{camera}:={POLICY}/image_{camera}" for camera in robot.CAMERAS)
    return ["--ros-args", *(word for remap in remaps for word in ("-r", remap))]


def _report(options: argparse.Namespace, series: Series) -> int:
    found = summary(series)
    machine = {"processors": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    facts = {"minutes": options.minutes, "checkpoint": str(options.checkpoint), **machine}
    (options.out / "soak.json").write_text(json.dumps({**facts, **found}, indent=2) + "\n")
    plot(series, options.out / "soak.png")
    for line in _lines(found):
        say(line)
    for failure in found["failures"]:
        say(f"FAILED: {failure}")
    say(f"{'failed' if found['failures'] else 'passed'}; soak.json and soak.png are in {options.out}")
    return FAILED if found["failures"] else 0


def _lines(found: dict[str, Any]) -> list[str]:
    """The summary in a few words."""
    used, ticks, inference = found["memory"], found["ticks"], found["inference"]
    return [
        f"memory {used['anonymous_last_mib']:.0f} MiB, {used['anonymous_growth_mib']:+.1f} MiB since the warm-up "
        f"(with files and shared memory {used['resident_last_mib']:.0f}, {used['resident_growth_mib']:+.1f})",
        f"{ticks['count']} control ticks, {ticks['held']} of them holds; late by p50 {ticks['late_p50_ms']:.1f}, "
        f"p99 {ticks['late_p99_ms']:.1f}, max {ticks['late_max_ms']:.0f} ms; longest gap "
        f"{ticks['longest_gap_periods']:.2f} periods, {ticks['longest_own_gap_periods']:.2f} by the node itself",
        f"{inference['count']} inferences at {inference['rate_hz']:.1f} Hz: p50 {inference['p50_ms']:.0f}, p99 "
        f"{inference['p99_ms']:.0f}, max {inference['max_ms']:.0f} ms; "
        + ", ".join(f"{mode} {count}" for mode, count in inference["modes"].items()),
        "inputs: " + ", ".join(f"{topic} {rate:.1f} Hz" for topic, rate in found["input_rates_hz"].items()),
    ]


def say(text: str) -> None:
    tqdm.write(f"scripts/soak: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
