# SPDX-License-Identifier: Apache-2.0
"""How often a task is solved through the real nodes when a person pushes the arm aside in the middle of it.

    scripts/env python benchmarks/libero_takeover.py --episodes 10 --json FILE

Simulator and policy node run over DDS as in `scripts/demo`, and stay. From every initial state, which training never
used, there is one episode without a push and one with; when it comes, where it goes and by what the policy is told
(`~/takeover`, or the device's topic) differ from state to state.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.sort(key=lambda folder: folder == str(Path(__file__).parent))  # last, or `import libero` finds libero.py

import machine
import numpy as np
import torch
from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.parameter import Parameter
from significance import paired_rates
from std_srvs.srv import Trigger
from tqdm import tqdm

from specprune_ros.demo.demo import policy_arguments, run_episode, simulator_arguments
from specprune_ros.demo.options import OUTPUTS, Options, parse
from specprune_ros.demo.person import Person
from specprune_ros.demo.push import SERVICE, TOPIC, Push
from specprune_ros.demo.recorder import POLICY, SIMULATOR, Recorder
from specprune_ros.processes.runner import Runner, children_of_a_run, command, listening
from training.placements import EVALUATION_STATES

AFTER = 0.8, 2.0  # seconds into the episode, of about four and a half
LENGTH = 0.06, 0.12  # m
RISE = 0.02, 0.06  # m; a person does not push the hand into the table


def draw_push(state: int, by: str) -> Push:
    """Some centimetres aside, in any direction, and up a little."""
    random = np.random.default_rng(state)
    angle, length = random.uniform(0, 2 * np.pi), random.uniform(*LENGTH)
    offset = np.array([length * np.cos(angle), length * np.sin(angle), random.uniform(*RISE)]).round(3)
    return Push(round(float(random.uniform(*AFTER)), 2), offset, by)


class Episodes:
    """Nodes that stay, and one episode after the other."""

    def __init__(self, runner: Runner, options: Options) -> None:
        self._runner, self._options = runner, options
        self._recorder, self._person = Recorder(options.inputs, options.axis_angle_near), Person()
        for node in (self._recorder, self._person):
            runner.add(node)
        create = self._recorder.create_client
        self._parameters = create(SetParameters, f"{SIMULATOR}/set_parameters")
        self._resets = [create(Trigger, f"{node}/reset") for node in (SIMULATOR, POLICY)]

    def run(self, state: int, push: Push | None) -> dict[str, Any]:
        self._runner.wait(self._recorder.missing)
        scene = SetParameters.Request(parameters=[Parameter("init_state", value=state).to_parameter_msg()])
        self._call(self._parameters, scene)
        for client in self._resets:
            self._call(client, Trigger.Request())
        self._recorder.forget()
        options = dataclasses.replace(self._options, push=push)
        episode = run_episode(self._runner, self._recorder, options, self._person if push else None)
        return {
            "init_state": state,
            "solved": episode.success,
            "simulated_s": round(episode.duration, 2),
            "real_time_factor": round(float(np.mean(episode.real_time_factors)), 3),
            "age_p50_ms": round(1e3 * float(np.median(episode.ages))),
            "in_charge": dict(episode.in_charge),
            "push": episode.push or None,
        }

    def _call(self, client: Client, request: Any) -> None:
        answer: Any = client.call_async(request)
        while not answer.done():
            self._runner.spin()


def main() -> int:
    given = _parser().parse_args()
    episodes = []
    with tempfile.TemporaryDirectory() as folder:
        # Both ways of taking over in one run: the topic is there, and says nothing while ~/takeover is called.
        words = ["--push", "0", "0", "0", "0", "--push-by", TOPIC, "--output", given.output, "--out", folder]
        options = parse([*words, "--task", str(given.task), "--pruning", given.pruning])
        with children_of_a_run(Path(folder, "logs"), {}) as children:
            children.start("simulator", "specprune_ros.nodes.libero_sim", simulator_arguments(options))
            children.start("policy", "specprune_ros.nodes.policy_node", policy_arguments(options))
            with listening(children) as runner:
                runs = Episodes(runner, options)
                for index, state in enumerate(tqdm(EVALUATION_STATES[: given.episodes], unit="state")):
                    push = draw_push(state, (SERVICE, TOPIC)[index % 2])
                    episodes += [runs.run(state, None), runs.run(state, push)]
                    write(episodes, given.json)
    print(json.dumps(write(episodes, given.json), indent=1))
    return 0


def write(episodes: list[dict[str, Any]], path: Path) -> dict[str, Any]:
    """What there is so far; returns the summary."""
    alone, pushed = ([each["solved"] for each in episodes if bool(each["push"]) == push] for push in (False, True))
    summary = {"states": len(alone), **paired_rates(without=alone, with_push=pushed)}
    run = machine.describe(torch.device("cpu")) | {"command": " ".join(sys.argv)}
    machine.write({"run": run, "summary": summary, "episodes": episodes}, path)
    return summary


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Success in LIBERO with a person who takes over, and without.")
    parser.add_argument("--json", type=machine.writable, required=True)
    parser.add_argument("--task", type=int, default=3, help="of libero_spatial (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=10, help="default: %(default)s, at most 30")
    parser.add_argument("--pruning", default="paper", help="a preset, or off (default: %(default)s)")
    parser.add_argument("--output", choices=OUTPUTS, default=OUTPUTS[0], help="as of scripts/demo")
    return parser


if __name__ == "__main__":
    sys.exit(command(main, lambda text: print(f"benchmarks/libero_takeover.py: {text}", file=sys.stderr)))
