# SPDX-License-Identifier: Apache-2.0
"""Two arms in two simulators: from one model in one process (policy_arms), against a policy node each.

    scripts/env python benchmarks/several_arms.py CHECKPOINT --json FILE

Everything runs over DDS on this machine, simulators included, so that the two ways have the same company. They take
turns, `--rounds` times. Memory is that of the policy's processes: resident, and proportional (pages that several
processes share, such as libraries, are divided among them).
"""

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.sort(key=lambda folder: folder == str(Path(__file__).parent))  # last, or `import libero` finds libero.py

import machine
import torch
import yaml

from specprune_ros.openvla.statistics import suite_key
from specprune_ros.processes.children import ChildProcesses
from specprune_ros.processes.runner import Runner, children_of_a_run, command, listening

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config" / "libero.yaml"
ARMS = ("left", "right")
TASKS = {"left": 3, "right": 5}
WAYS = ("one process", "two processes")


def remappings(arm: str) -> dict[str, str]:
    """Of the arm's policy: inputs of its own simulator, which has a clock and frames of its own."""
    sim = f"/{arm}/libero_sim"
    return {
        "~/image_primary": f"{sim}/primary/image",
        "~/image_wrist": f"{sim}/wrist/image",
        "~/instruction": f"{sim}/instruction",
    } | {topic: f"/{arm}{topic}" for topic in ("/clock", "/tf", "/tf_static")}


def rules(mapping: dict[str, str]) -> list[str]:
    return [word for source, target in mapping.items() for word in ("-r", f"{source}:={target}")]


def parameters(given: argparse.Namespace) -> dict[str, str]:
    return {
        "model.checkpoint": str(given.checkpoint.resolve()),
        "model.unnorm_key": suite_key(given.checkpoint, "libero_spatial"),
        "model.threads": str(given.threads),
        "pruning.preset": given.preset,
        "autostart": "true",
    }


def start(children: ChildProcesses, way: str, given: argparse.Namespace, folder: Path) -> list[int]:
    """Simulators and policies; the process IDs of the policies."""
    for arm in ARMS:
        own = {"task": TASKS[arm], "shadows": "false", "anti_aliasing": "false", "camera_rate": 5.0}
        arguments = ["--ros-args", "--params-file", str(CONFIG), "-r", f"__ns:=/{arm}"]
        arguments += [word for name, value in own.items() for word in ("-p", f"{name}:={value}")]
        topics = {topic: f"/{arm}{topic}" for topic in ("/clock", "/tf", "/tf_static")}
        topics["~/action_chunk"] = f"/{arm}/specprune_policy/action_chunk"
        children.start(f"simulator_{arm}", "specprune_ros.nodes.libero_sim", [*arguments, *rules(topics)])
    settings = [word for name, value in parameters(given).items() for word in ("-p", f"{name}:={value}")]
    if way == "one process":
        file = folder / "arms.yaml"
        arms = {arm: {"params_file": str(CONFIG), "remappings": remappings(arm)} for arm in ARMS}
        file.write_text(yaml.safe_dump({"arms": arms}))
        return [children.start("policies", "specprune_ros.nodes.policy_arms", [str(file), "--ros-args", *settings])]
    return [
        children.start(
            f"policy_{arm}",
            "specprune_ros.nodes.policy_node",
            ["--ros-args", "--params-file", str(CONFIG), "-r", f"__ns:=/{arm}", *rules(remappings(arm)), *settings],
        )
        for arm in ARMS
    ]


class Heard:
    """Statistics of both arms' inferences, and their ~/enable."""

    def __init__(self) -> None:
        from rclpy.node import Node
        from specprune_ros.msg import PruningStats
        from std_msgs.msg import Float64
        from std_srvs.srv import SetBool

        self.node = Node("benchmark")
        self.stats: dict[str, list[Any]] = defaultdict(list)
        self.factors: dict[str, list[float]] = defaultdict(list)
        self.enables = {}
        for arm in ARMS:
            self.node.create_subscription(PruningStats, f"/{arm}/specprune_policy/pruning", self.stats[arm].append, 50)
            hear = self.factors[arm].append
            self.node.create_subscription(
                Float64, f"/{arm}/libero_sim/real_time_factor", lambda message, hear=hear: hear(message.data), 10
            )
            self.enables[arm] = self.node.create_client(SetBool, f"/{arm}/specprune_policy/enable")

    def missing(self) -> str:
        silent = [arm for arm in ARMS if len(self.stats[arm]) < 3]
        return f"inferences of {' and '.join(silent)}" if silent else ""

    def clear(self) -> None:
        for values in (*self.stats.values(), *self.factors.values()):
            values.clear()


def memory(processes: list[int]) -> dict[str, float]:
    """MiB, summed over the processes."""
    resident = proportional = 0.0
    for process in processes:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines[1:]}
        resident, proportional = resident + sizes["Rss"], proportional + sizes["Pss"]
    return {"resident_mib": resident, "proportional_mib": proportional}


def measure(runner: Runner, heard: Heard, processes: list[int], seconds: float) -> dict[str, Any]:
    runner.wait(heard.missing)
    for client in heard.enables.values():
        runner.enable(client, True)
    heard.clear()
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        runner.spin()
    result: dict[str, Any] = memory(processes)
    for arm in ARMS:
        stats = heard.stats[arm]
        result[arm] = {
            "inferences_per_s": len(stats) / seconds,
            "inference_p50_ms": 1e3 * statistics.median(message.inference_seconds for message in stats),
            "age_p50_ms": 1e3 * statistics.median(message.observation_age for message in stats),
            "real_time_factor": statistics.median(heard.factors[arm]) if heard.factors[arm] else None,
        }
    return result


def run(way: str, given: argparse.Namespace) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory() as folder,
        children_of_a_run(Path(folder, "logs"), {}) as children,
    ):
        processes = start(children, way, given, Path(folder))
        with listening(children) as runner:
            heard = Heard()
            runner.add(heard.node)
            result = measure(runner, heard, processes, given.seconds)
        logs = "".join(path.read_text() for path in Path(folder, "logs").glob("polic*.log"))
        return {"threads": [int(count) for count in re.findall(r"on (\d+) thread", logs)], **result}


def main() -> int:
    given = _parser().parse_args()
    rounds = []
    for number in range(given.rounds):
        for way in WAYS if number % 2 == 0 else WAYS[::-1]:
            rounds.append({"way": way, **run(way, given)})
            print(json.dumps(rounds[-1]), flush=True)
    facts = machine.describe(torch.device("cpu")) | {"cores": os.cpu_count()}
    machine.write({"run": facts, "rounds": rounds}, given.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Two arms from one model, against two nodes.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--json", type=machine.writable, required=True)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="of both ways (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of an inference, 0: as nodes measure (default: 1)")
    parser.add_argument("--preset", default="paper", help="default: %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(command(main, lambda text: print(f"benchmarks/several_arms.py: {text}", file=sys.stderr)))
