"""How far each arm's actions are from the dense ones on the same recorded observations: the sensitive measure.

    scripts/env python -m training.collect HELD_OUT --first 1000000 --episodes 5 --wide
    scripts/env python benchmarks/libero_open_loop.py CHECKPOINT HELD_OUT --json FILE --arms paper fast fastv

Every episode is replayed with an inference per chunk, so that histories fill as they do on a robot. All arms are
compared with the first, on the same inferences. Beside FILE a plot of the error over the tokens kept is written.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import machine
import numpy as np
import torch
from arms import Arm, arm
from libero_results import look
from scipy.spatial.transform import Rotation
from significance import grouped_mean
from tqdm import tqdm

from specprune_ros.errors import UserError
from specprune_ros.policy import ActionChunk, Observation, Policy
from specprune_ros.sensing.twist_estimator import TwistEstimator
from specprune_ros.sim.libero_env import CONTROL_RATE
from training.episodes import Episode, episode_paths, read_episode
from training.expert import METRES_PER_UNIT, RADIANS_PER_UNIT

MEASURES = ("centimetres", "degrees", "gripper_flips")


def main(arguments: list[str]) -> None:
    given = _parser().parse_args(arguments)
    arms = [arm(name) for name in given.arms]
    paths = recordings(given)
    policy = Policy.from_checkpoint(given.checkpoint, given.device, given.dtype)
    summary = measure(policy, arms, paths)
    content = {"run": machine.describe(torch.device(given.device)), "episodes": len(paths), "arms": summary}
    given.json.write_text(json.dumps(content, indent=1))
    _plot(summary, given.json.with_suffix(".png"))
    for name, row in summary.items():
        print(name, ", ".join(f"{key} {value:.3g}" for key, value in row.items()))


def recordings(given: argparse.Namespace) -> list[Path]:
    """The episodes that the options of `recording_parser` name. Raises UserError when there is none."""
    paths = episode_paths(given.data)[: given.episodes]
    if not paths:
        raise UserError(f"{given.data} holds no episodes; collect some with python -m training.collect {given.data}")
    return paths


def measure(policy: Policy, arms: list[Arm], paths: list[Path]) -> dict[str, dict[str, float]]:
    """Arm -> means over all inferences of the recorded episodes: errors, tokens, FLOPs, and how much farther from
    dense than the first arm (`more_centimetres`)."""
    errors: dict[str, list[list[dict[str, float]]]] = {chosen.name: [] for chosen in arms}
    for number, path in enumerate(tqdm(paths, unit="episode")):
        observations = list(_observations(read_episode(path), policy.chunk_length))
        dense = _replay(policy, Arm("dense"), observations)
        for chosen in arms:
            torch.manual_seed(number)  # of the arms that draw patches
            chunks = _replay(policy, chosen, observations)
            # The first inference of every episode is dense, whatever the arm.
            errors[chosen.name].append([_error(*pair) for pair in zip(chunks[1:], dense[1:], strict=True)])
    first = errors[arms[0].name]
    return {name: _summarize(episodes, first) for name, episodes in errors.items()}


def _observations(episode: Episode, stride: int) -> Iterator[Observation]:
    """Every `stride`-th step of a recording, with the velocity that its poses show."""
    motion = TwistEstimator()
    for step, proprio in enumerate(episode.proprio.astype(np.float64)):
        motion.add(step / CONTROL_RATE, proprio[:3], Rotation.from_rotvec(proprio[3:6]).as_quat())
        if step % stride == 0:
            now = step / CONTROL_RATE
            views = {view: frames[step] for view, frames in episode.frames.items()}
            yield Observation(views, proprio, episode.facts["instruction"], now, motion.twist(now))


def _replay(policy: Policy, chosen: Arm, observations: list[Observation]) -> list[ActionChunk]:
    chosen.apply(policy)
    return [policy.act(observation) for observation in observations]


def _error(chunk: ActionChunk, dense: ActionChunk) -> dict[str, float]:
    """Of one chunk against the dense one: how far apart the arm would end, and what share of the steps flips."""
    apart = (chunk.actions - dense.actions)[:, :6].sum(axis=0)
    flips = (chunk.actions[:, 6] > 0.5) != (dense.actions[:, 6] > 0.5)
    return {
        "centimetres": 100 * METRES_PER_UNIT * float(np.linalg.norm(apart[:3])),
        "degrees": float(np.degrees(RADIANS_PER_UNIT * np.linalg.norm(apart[3:]))),
        "gripper_flips": float(flips.mean()),
        "tokens": float(np.mean(chunk.pruning.tokens_per_layer)),
        "flop_share": chunk.pruning.flop_share,
    }


def _summarize(episodes: list[list[dict[str, float]]], first: list[list[dict[str, float]]]) -> dict[str, float]:
    """Means; for the errors their 95th percentile too, and the mean's standard error, inferences of an episode being
    alike."""

    def values(rows: list[list[dict[str, float]]], name: str) -> list[np.ndarray]:
        return [np.array([row[name] for row in episode]) for episode in rows]

    summary: dict[str, float] = {"inferences": sum(map(len, episodes))}
    for name in episodes[0][0]:
        groups = values(episodes, name)
        summary[name], standard_error = grouped_mean(groups)
        if name in MEASURES:
            summary[f"{name}_standard_error"] = standard_error
            summary[f"{name}_p95"] = float(np.quantile(np.concatenate(groups), 0.95))
    own, other = values(episodes, "centimetres"), values(first, "centimetres")
    differences = [a - b for a, b in zip(own, other, strict=True)]
    summary["more_centimetres"], summary["more_centimetres_standard_error"] = grouped_mean(differences)
    return summary


def _plot(summary: dict[str, dict[str, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4), layout="constrained")
    for axes, measure in zip(figure.subplots(1, len(MEASURES)), MEASURES, strict=True):
        for number, (name, row) in enumerate(summary.items()):
            error = 2 * row[f"{measure}_standard_error"]
            axes.errorbar(row["tokens"], row[measure], yerr=error, fmt=look(number), capsize=3, label=name)
        axes.set(xlabel="tokens per decoder layer", ylabel=measure.replace("_", " ") + " from dense", ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=120)


def _parser() -> argparse.ArgumentParser:
    parser = recording_parser("Action error against dense on recorded observations.")
    parser.add_argument("--arms", nargs="+", default=["paper", "careful", "fast"], help="see benchmarks/arms.py")
    return parser


def recording_parser(description: str) -> argparse.ArgumentParser:
    """The options of every comparison on recorded observations."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path, help="folder of training.collect, of episodes never trained on")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=None, help="at most this many (default: all)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", default="float32", help="default: %(default)s")
    return parser


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"benchmarks/libero_open_loop.py: {error}")
