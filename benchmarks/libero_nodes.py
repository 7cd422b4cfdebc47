# SPDX-License-Identifier: Apache-2.0
"""One task through the real nodes over DDS, and directly through `Policy.act`, from the same initial states.

    scripts/env python benchmarks/libero_nodes.py CHECKPOINT --task 3 --episodes 10 --no-shadows --json FILE

Through the nodes simulated time goes on during an inference and messages take their time; directly it stands still.
Both start from initial states that training never used, so the success rates must agree within chance.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.sort(key=lambda folder: folder == str(Path(__file__).parent))  # last, or `import libero` finds libero.py

import machine
import torch
from arms import arm
from closed_loop import run_episode, step_limit
from significance import paired_rates
from tqdm import tqdm

from specprune_ros.errors import UserError
from specprune_ros.openvla.statistics import suite_key
from specprune_ros.policy import Policy
from specprune_ros.sim.libero_env import CONTROL_RATE, LiberoEnv
from training.placements import EVALUATION_STATES

ROOT = Path(__file__).parents[1]
SUITE = "libero_spatial"


def main(arguments: list[str]) -> None:
    given = _parser().parse_args(arguments)
    states = EVALUATION_STATES[: given.episodes]
    chosen = arm(given.pruning)
    key = suite_key(given.checkpoint, SUITE)
    policy = Policy.from_checkpoint(given.checkpoint, unnorm_key=key, pruning=chosen.pruning)
    shadows = not given.no_shadows
    env = LiberoEnv(SUITE, given.task, image_size=256, shadows=shadows, anti_aliasing=shadows)
    episodes = []
    for state in tqdm(states, unit="episode"):
        direct = run_episode(env, policy, chosen, env.task.initial_state(state))
        nodes = _through_nodes(given, state)
        episodes.append({"init_state": state, "direct": direct.success, "direct_steps": direct.steps, **nodes})
    env.close()
    direct, nodes = ([bool(episode[name]) for episode in episodes] for name in ("direct", "nodes"))
    summary = {"episodes": len(episodes), **paired_rates(direct=direct, nodes=nodes)}
    run = machine.describe(torch.device("cpu"))
    machine.write({"run": run, "summary": summary, "episodes": episodes}, given.json)
    print(json.dumps(summary, indent=1))


def _through_nodes(given: argparse.Namespace, state: int) -> dict[str, bool | int | float]:
    """What `scripts/demo` says of one episode."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "specprune_ros.demo", "--out", folder, "--checkpoint", given.checkpoint]
        command += ["--task", str(given.task), "--init-state", str(state), "--pruning", given.pruning]
        command += [
            "--no-shadows" if given.no_shadows else "--shadows",
            "--seconds",
            str(step_limit("libero_spatial") / CONTROL_RATE),
        ]
        subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
        summary = json.loads((Path(folder) / "summary.json").read_text())
    return {
        "nodes": summary["success"],
        "nodes_steps": summary["steps"],
        "real_time_factor": summary["real_time_factor"],
        "inference_p50_ms": summary["inference_ms"]["p50"],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Success through the ROS nodes and directly.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--json", type=machine.writable, required=True)
    parser.add_argument("--task", type=int, default=3, help="of libero_spatial (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=10, help="default: %(default)s, at most 30")
    parser.add_argument("--pruning", default="paper", help="a preset, or off (default: %(default)s)")
    parser.add_argument("--no-shadows", action="store_true", help="render as the data was collected with this option")
    return parser


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"benchmarks/libero_nodes.py: {error}")
