# SPDX-License-Identifier: Apache-2.0
"""How far each arm's actions are from the dense ones on the same recorded observations: the sensitive measure.

    scripts/env python -m training.collect HELD_OUT --first 1000000 --episodes 5 --wide
    scripts/env python benchmarks/libero_open_loop.py CHECKPOINT HELD_OUT --json FILE --arms paper fast fastv

Every episode is replayed with an inference per chunk, so that histories fill as they do on a robot. All arms are
compared with the first, on the same inferences. Beside FILE a plot of the error over the tokens kept is written.
"""

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.sort(key=lambda folder: folder == str(Path(__file__).parent))  # last, or `import libero` finds libero.py

import machine
import numpy as np
import torch
from arms import Arm, GripperRun, arm, as_seen
from libero_results import look
from scipy.spatial.transform import Rotation
from significance import grouped_mean
from torch import Tensor
from tqdm import tqdm

from specprune_ros.camera import Camera
from specprune_ros.engine.bounded import make_room
from specprune_ros.errors import UserError
from specprune_ros.openvla.model import OpenVLA
from specprune_ros.openvla.statistics import suite_key
from specprune_ros.policy import ActionChunk, Observation, Policy
from specprune_ros.pose import Pose
from specprune_ros.pruning.config import PruningConfig
from specprune_ros.sensing.twist_estimator import TwistEstimator
from specprune_ros.sim.libero_env import CONTROL_RATE, LiberoEnv
from training.episodes import Episode, episode_paths, read_episode
from training.expert import METRES_PER_UNIT, RADIANS_PER_UNIT
from training.policy_driver import matrix, mirrored_camera

REMEMBERED = 64  # inferences, more than an episode has
MEASURES = ("centimetres", "degrees", "gripper_flips")


def main(arguments: list[str]) -> None:
    given = _parser().parse_args(arguments)
    arms = [arm(name) for name in given.arms]
    pairs = list(zip(given.pairs[::2], given.pairs[1::2], strict=False))
    if len(given.pairs) % 2 or not set(given.pairs) <= set(given.arms):
        raise UserError("--pairs takes arms of --arms, two for each comparison: first second ...")
    paths = recordings(given)
    policy = Policy.from_checkpoint(given.checkpoint, given.device, given.dtype, unnorm_key=key_of(given, paths))
    rows = measure(policy, arms, paths, given.json.with_suffix(".rows.json"))
    summary = {name: summarize(of_arm, rows[arms[0].name]) for name, of_arm in rows.items()}
    content = {"run": machine.describe(torch.device(given.device)), "episodes": len(paths), "arms": summary}
    content["pairs"] = [_pair(first, second, rows) for first, second in pairs]
    machine.write(content, given.json)
    _plot(summary, given.json.with_suffix(".png"))
    for name, row in summary.items():
        print(name, ", ".join(f"{key} {value:.3g}" for key, value in row.items()))


def recordings(given: argparse.Namespace) -> list[Path]:
    """The episodes that the options of `recording_parser` name. Raises UserError when there is none."""
    paths = episode_paths(given.data)[: given.episodes]
    if not paths:
        raise UserError(f"{given.data} holds no episodes; collect some with python -m training.collect {given.data}")
    return paths


def key_of(given: argparse.Namespace, paths: list[Path]) -> str:
    """The checkpoint's statistics for the recordings' suite. Raises UserError when they are of several."""
    suites = {read_episode(path, frames=False).facts["suite"] for path in paths}
    keys = {suite_key(given.checkpoint, suite) for suite in suites}
    if len(keys) > 1:
        raise UserError(f"{given.data} holds recordings of {', '.join(sorted(suites))}; give a folder of one of them")
    return keys.pop()


def measure(
    policy: Policy, arms: list[Arm], paths: list[Path], store: Path | None = None
) -> dict[str, list[list[dict[str, float]]]]:
    """Arm -> episode -> inference -> error, tokens and FLOPs. `store`: a file to go on from and to write to."""
    known: dict[str, dict[str, list[dict[str, float]]]] = {}  # by episode, by arm
    if store is not None and store.exists():
        known = json.loads(store.read_text())
    cameras = Cameras() if any(needs_cameras(chosen) for chosen in arms) else None
    for number, path in enumerate(tqdm(paths, unit="episode")):
        rows = known.setdefault(f"{path.parent.name}/{path.name}", {})
        missing = [chosen for chosen in arms if chosen.name not in rows]
        if not missing:
            continue
        steps = list(observed_steps(read_episode(path), policy, cameras))
        with remembered_towers():
            dense = _replay(policy, Arm("dense"), steps)
            for chosen in missing:
                torch.manual_seed(number)  # of the arms that draw patches
                chunks = _replay(policy, chosen, steps)
                # The first inference of every episode is dense, whatever the arm.
                rows[chosen.name] = [error_of(*pair) for pair in zip(chunks[1:], dense[1:], strict=True)]
                if store is not None:
                    store.write_text(json.dumps(known))
    return {chosen.name: [rows[chosen.name] for rows in known.values()] for chosen in arms}


@contextmanager
def remembered_towers() -> Iterator[None]:
    """Within it the vision towers run once for the same pixels, which are the same for every arm."""
    see, features = OpenVLA.see, {}

    def remembered(model: OpenVLA, pixels: list[Tensor], film: Tensor) -> Tensor:
        if model.device.type != "cpu":  # a captured graph cannot choose
            return see(model, pixels, film)
        key = hashlib.sha256(pixels[0].numpy().tobytes() + film.float().numpy().tobytes()).digest()
        if key not in features:
            make_room(features, REMEMBERED)
            features[key] = see(model, pixels, film)
        return features[key]

    OpenVLA.see = remembered
    try:
        yield
    finally:
        OpenVLA.see = see


def needs_cameras(chosen: Arm) -> bool:
    return isinstance(chosen.pruning, PruningConfig) and chosen.pruning.history_motion == "tf"


class Cameras:
    """The cameras of a recording, which holds the end effector's pose alone: one is fixed, one is on the hand."""

    def __init__(self) -> None:
        env = LiberoEnv(shadows=False, anti_aliasing=False)
        self._fixed, wrist = mirrored_camera(env, "primary"), mirrored_camera(env, "wrist")
        self._base = env.base_pose.inverse()
        self._intrinsics = wrist.intrinsics
        self._mount = np.linalg.inv(matrix(self._base @ env.eef_pose)) @ wrist.pose
        env.close()

    def at(self, hand: Pose) -> dict[str, Camera]:
        """`hand`: the end effector in the world."""
        return {"primary": self._fixed, "wrist": Camera(self._intrinsics, matrix(self._base @ hand) @ self._mount)}


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """An observation, and where the gripper is in its views (V, 2); see `GripperRun.places`."""

    observation: Observation
    gripper: np.ndarray


def observed_steps(episode: Episode, policy: Policy, cameras: Cameras | None) -> Iterator[Step]:
    """Every observation of a recording that begins a chunk, with the velocity that its poses show."""
    stride, motion = policy.chunk_length, TwistEstimator(window=0.15, max_age=0.2)
    gripper = episode.points[:, :, episode.facts["points"].index("gripper")]
    for step, proprio in enumerate(episode.proprio.astype(np.float64)):
        hand = Pose(proprio[:3], Rotation.from_rotvec(proprio[3:6]).as_quat())
        motion.add(step / CONTROL_RATE, hand.position, hand.quaternion)
        if step % stride == 0:
            now = step / CONTROL_RATE
            views = {view: frames[step] for view, frames in episode.frames.items()}
            seen = cameras.at(hand) if cameras else {}
            yield Step(
                Observation(views, proprio, episode.facts["instruction"], now, motion.twist(now), seen),
                as_seen(gripper[step], policy.center_crop),
            )


def _replay(policy: Policy, chosen: Arm, steps: list[Step]) -> list[ActionChunk]:
    chosen.apply(policy)
    chunks = []
    for step in steps:
        GripperRun.places = step.gripper
        chunks.append(policy.act(step.observation))
    return chunks


def error_of(chunk: ActionChunk, dense: ActionChunk) -> dict[str, float]:
    """Of one chunk against the dense one: how far apart the arm would end, and what share of the steps flips."""
    apart = (chunk.actions - dense.actions)[:, :6].sum(axis=0)
    flips = (chunk.actions[:, 6] > 0.5) != (dense.actions[:, 6] > 0.5)
    return {
        "centimetres": 100 * METRES_PER_UNIT * float(np.linalg.norm(apart[:3])),
        "degrees": float(np.degrees(RADIANS_PER_UNIT * np.linalg.norm(apart[3:]))),
        "gripper_flips": float(flips.mean()),
        "kept": sum(map(len, chunk.pruning.kept_static)),
        "tokens": float(np.mean(chunk.pruning.tokens_per_layer)),
        "flop_share": chunk.pruning.flop_share,
    }


def _pair(first: str, second: str, rows: dict[str, list[list[dict[str, float]]]]) -> dict[str, Any]:
    """How much nearer to dense the first arm is than the second, on the same inferences, in every measure."""
    result: dict[str, Any] = {"first": first, "second": second}
    for measure_ in MEASURES:
        nearer = [
            np.array([b[measure_] - a[measure_] for a, b in zip(*episodes, strict=True)])
            for episodes in zip(rows[first], rows[second], strict=True)
        ]
        result[measure_], result[f"{measure_}_standard_error"] = grouped_mean(nearer)
    return result


def summarize(episodes: list[list[dict[str, float]]], first: list[list[dict[str, float]]]) -> dict[str, float]:
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
    parser.add_argument("--pairs", nargs="*", default=[], metavar="ARM", help="arms to compare: first second ...")
    return parser


def recording_parser(description: str) -> argparse.ArgumentParser:
    """The options of every comparison on recorded observations."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path, help="folder of training.collect, of episodes never trained on")
    parser.add_argument("--json", type=machine.writable, required=True)
    parser.add_argument("--episodes", type=int, default=None, help="at most this many (default: all)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", default="float32", help="default: %(default)s")
    return parser


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"benchmarks/libero_open_loop.py: {error}")
