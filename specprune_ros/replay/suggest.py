# SPDX-License-Identifier: Apache-2.0
"""`replay BAG... --suggest`: pruning constants for one's own recordings, by search: error against operations.

Dense is run once. Every trial then runs one set of constants on the same observations. What it suggests has the fewest
operations of those that stay within dense's own noise; bags that the search never saw judge it, or the last third.
"""

import hashlib
import json
import pickle
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
import yaml
from numpy.typing import NDArray

from specprune_ros.errors import UserError
from specprune_ros.openvla.digest import digest
from specprune_ros.openvla.files import expanded
from specprune_ros.parameter_file import SECTION
from specprune_ros.policy import Observation, Policy
from specprune_ros.pruning.config import PRESETS, PruningConfig
from specprune_ros.replay.arm_names import DENSE
from specprune_ros.replay.differences import ChunkSpace
from specprune_ros.replay.measurements import Measurements
from specprune_ros.replay.moment import Moment
from specprune_ros.replay.options import Options
from specprune_ros.replay.settings import Settings
from specprune_ros.replay.summary import FEW, summarize, within_noise

if TYPE_CHECKING:
    import optuna

TRIAL = "trial"  # the pruned arm's name
HELD_OUT = 1 / 3  # of a single bag: its end
STORAGE, YAML, PAGE, NUMBERS = "suggest.db", "suggested.yaml", "suggest.html", "suggest.json"
INTEGERS = {
    "budget_tokens": (24, 160),
    "global_tokens": (8, 64),
    "dynamic_tokens": (4, 64),
    "local_tokens": (8, 64),
    "refresh_interval": (0, 20),
}
NUMBERS_BETWEEN = {"fine_factor": (1.0, 2.5), "translation_threshold": (0.0, 0.3)}
START = "start"  # user attribute of the trials that a search begins with
MISSING = "--suggest needs Optuna; pip install optuna"


@dataclass(frozen=True, eq=False)
class Seen:
    """What dense said to an observation."""

    bag: int
    moment: Moment
    observation: Observation
    following: tuple[int, NDArray[np.float64]] | None = None  # of `Sink.add_next`


class Observations:
    """Observations on disk, so that memory does not grow with the bags. Only this process reads them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.bag = 0  # that is being replayed
        self.bags: list[int] = []  # of each observation
        self._file = path.open("wb")
        self._last: Seen | None = None

    def add(self, moment: Moment, observation: Observation) -> None:
        self._flush()
        self._last = Seen(self.bag, replace(moment, frames={}), observation)
        self.bags.append(self.bag)

    def add_next(self, stamp: int, actions: NDArray[np.float64]) -> None:
        if self._last is not None:
            self._last = replace(self._last, following=(stamp, actions))

    def close(self) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._last is not None:
            pickle.dump(self._last, self._file, pickle.HIGHEST_PROTOCOL)

    def parts(self) -> tuple[range, range]:
        """Places of what is searched on, and of what judges: the last bag, or the end of the only one."""
        first = self.bags.index(self.bags[-1]) if len(set(self.bags)) > 1 else round(len(self.bags) * (1 - HELD_OUT))
        return range(first), range(first, len(self.bags))

    def at(self, places: range) -> Iterator[Seen]:
        with self._path.open("rb") as file:
            for place in range(places.stop):
                seen = pickle.load(file)
                if place in places:
                    yield seen


class Search:
    """Runs constants on observations."""

    def __init__(self, dense: Policy, base: PruningConfig, space: ChunkSpace, seen: Observations) -> None:
        """`base`: what the node has; its control rate and units are kept."""
        self._dense, self._base, self._space, self._seen = dense, base, space, seen
        self.searched, self.held_out = seen.parts()
        if min(len(self.searched), len(self.held_out)) < FEW:
            raise UserError(
                f"{len(self.searched)} observations to search on and {len(self.held_out)} to judge are too few; "
                f"allowed: at least {FEW} each; give longer or more recordings, or leave --every and --rate out"
            )

    def config(self, values: dict[str, Any]) -> PruningConfig:
        preset = PruningConfig.from_preset(values["preset"])
        own = {name: value for name, value in values.items() if name != "preset"}
        return preset.changed(own).on_robot_of(self._base)

    def measure(self, config: PruningConfig, places: range) -> dict[str, Any]:
        """How these constants do there: `error` in noise floors (p95), `flop_share`, `within`, and more."""
        policy = self._dense.sibling(config)
        found = Measurements(self._space, [DENSE, TRIAL])
        bag = -1
        for seen in self._seen.at(places):
            if seen.bag != bag:
                policy.reset()
                bag = seen.bag
            chunks = {DENSE: seen.moment.chunks[DENSE], TRIAL: policy.act(seen.observation)}
            found.add(replace(seen.moment, chunks=chunks))
            if seen.following is not None:
                found.add_next(*seen.following)
        report = summarize(found)
        arm, floor = report["arms"][TRIAL], report["noise_floor"]
        apart = arm["from_dense_over_shared_steps"]
        error = [
            apart[measure]["p95"] / max(floor[measure] or 0.0, 1e-6)
            for measure in ("centimetres", "degrees")
            if apart[measure]["p95"] is not None
        ]
        return {
            "error": max(error),
            "flop_share": arm["flop_share"],
            "within": within_noise(arm, floor),
            "above_noise_share": arm["above_noise_share"],
            "gripper_differs": arm["gripper"]["differing_steps_share"],
            "p95_cm": arm["from_dense_at_chunk_end"]["centimetres"]["p95"],
            "p95_degrees": arm["from_dense_at_chunk_end"]["degrees"]["p95"],
            "inferences": report["inferences"],
        }


def open_study(folder: Path, identity: Sequence[Any], seed: int) -> "optuna.Study":
    """A study in `folder` that goes on where an earlier one of the same `identity` ended. Raises UserError."""
    try:
        import optuna
        import sqlalchemy  # Optuna's own storage
    except ImportError:
        raise UserError(MISSING) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = hashlib.sha256(json.dumps([*identity, seed], default=str).encode()).hexdigest()[:16]
    path = folder / STORAGE
    url = sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string()
    try:
        study = optuna.create_study(storage=url, study_name=name, directions=["minimize"] * 2, load_if_exists=True)
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:  # the latter of another version of Optuna
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        raise UserError(f"{path} cannot be read ({reason}); delete it, and the search begins anew") from None
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    alive = optuna.trial.TrialState.WAITING, optuna.trial.TrialState.COMPLETE
    begun = {trial.user_attrs.get(START) for trial in study.trials if trial.state in alive}
    for preset in PRESETS:  # also one whose trial was interrupted
        if preset not in begun:
            config = PruningConfig.from_preset(preset)
            own = {name: getattr(config, name) for name in (*INTEGERS, *NUMBERS_BETWEEN)}
            study.enqueue_trial({"preset": preset, **own}, user_attrs={START: preset})
    return study


def search(study: "optuna.Study", runs: Search, trials: int, minutes: float, quiet: bool) -> None:
    """Until the study has `trials`, or for `minutes` when these are not 0."""
    done = len(_finished(study))

    def objective(trial: "optuna.Trial") -> tuple[float, float]:
        values: dict[str, Any] = {"preset": trial.suggest_categorical("preset", PRESETS)}
        values |= {name: trial.suggest_int(name, *bounds) for name, bounds in INTEGERS.items()}
        values |= {name: trial.suggest_float(name, *bounds) for name, bounds in NUMBERS_BETWEEN.items()}
        found = runs.measure(runs.config(values), runs.searched)
        trial.set_user_attr("found", found)
        return found["error"], found["flop_share"]

    if trials > done:
        study.optimize(objective, n_trials=trials - done, timeout=60 * minutes or None, show_progress_bar=not quiet)


def conclude(study: "optuna.Study", runs: Search, folder: Path) -> dict[str, Any]:
    """Write the suggestion, the plot and the numbers. The suggestion is None when nothing stays within the noise."""
    finished = _finished(study)
    good = [trial for trial in study.best_trials if trial.user_attrs["found"]["within"]]
    result: dict[str, Any] = {
        "trials": [{"values": trial.params, **trial.user_attrs["found"]} for trial in finished],
        "pareto": sorted(trial.number for trial in study.best_trials),
        "suggested": None,
        "held_out": None,
        "made": time.strftime("%Y-%m-%d %H:%M"),
    }
    (folder / YAML).unlink(missing_ok=True)
    if good:
        best = min(good, key=lambda trial: trial.user_attrs["found"]["flop_share"])
        result["suggested"] = best.params
        result["searched"] = best.user_attrs["found"]
        result["held_out"] = runs.measure(runs.config(best.params), runs.held_out)
        text = yaml.safe_dump({"/**": {SECTION: {"pruning": best.params}}}, sort_keys=False)
        (folder / YAML).write_text(f"# Suggested by a search over {len(finished)} trials; {sentence(result)}\n{text}")
    (folder / NUMBERS).write_text(json.dumps(result, indent=1))
    _figure(finished, study.best_trials, result).write_html(folder / PAGE, include_plotlyjs=True)
    return result


def sentence(result: dict[str, Any]) -> str:
    """How the suggestion did where the search had not looked."""
    if result["suggested"] is None:
        return "no constants stay within dense's own noise on these recordings; keep the preset careful, or dense"
    held = result["held_out"]
    judged = "within" if held["within"] else "NOT within"
    return (
        f"on held-out observations it is {judged} dense's own noise ({held['above_noise_share']:.0%} of "
        f"{held['inferences']} above), with {held['flop_share']:.0%} of dense's operations"
    )


def identity(options: Options, node: Settings) -> list[Any]:
    """What an earlier search must have in common to be continued: the same observations and dense chunks."""
    asked = options.every, options.rate, options.start, options.duration, options.instruction
    configs = (node.model, node.inputs, node.controller, node.pruning)
    settings = [asdict(config) for config in configs]
    for own in settings:
        own.pop("checkpoint", None)  # the digest says more
    bags = [[str(bag), _size(bag)] for bag in (options.bag, *options.more_bags)]
    return [
        bags,
        digest(expanded(node.model.checkpoint)),
        asked,
        settings,
        node.node.instruction,
        asdict(options.names),
    ]


def _size(bag: Path) -> int:
    """Bytes of its files: a bag that was recorded again is another one."""
    files = [bag] if bag.is_file() else sorted(path for path in bag.iterdir() if path.is_file())
    return sum(path.stat().st_size for path in files)


def _finished(study: "optuna.Study") -> list[Any]:
    return [trial for trial in study.trials if trial.values is not None]


def _figure(finished: Sequence[Any], best: Sequence[Any], result: dict[str, Any]) -> go.Figure:
    figure = go.Figure()
    front = sorted(best, key=lambda trial: trial.values[1])
    for name, trials, look in (
        ("trials", finished, {"mode": "markers", "marker": {"color": "#9aa3b0", "size": 7}}),
        ("Pareto front", front, {"mode": "lines+markers", "line": {"color": "#3d7edb"}, "marker": {"size": 8}}),
    ):
        x, y = ([trial.values[index] for trial in trials] for index in (1, 0))
        text = ["<br>".join(f"{name}: {value}" for name, value in trial.params.items()) for trial in trials]
        figure.add_trace(go.Scatter(x=x, y=y, text=text, name=name, **look))
    if result["suggested"] is not None:
        for name, title, color in (("searched", "suggested", "#b5303a"), ("held_out", "the same, held out", "#2f9e6e")):
            x, y = [result[name]["flop_share"]], [result[name]["error"]]
            marker = {"size": 15, "color": color, "symbol": "diamond"}
            figure.add_trace(go.Scatter(x=x, y=y, mode="markers", name=title, marker=marker))
    figure.add_hline(1.0, line_dash="dash", annotation_text="dense's own noise")
    figure.update_xaxes(title_text="operations, share of dense's", tickformat=".0%")
    figure.update_yaxes(title_text="difference from dense, p95, in noise floors", rangemode="tozero")
    return figure.update_layout(template="plotly_white", title=_title(result), title_font_size=14, margin_t=110)


def _title(result: dict[str, Any]) -> str:
    """What is suggested and how it did, above the plot."""
    if result["suggested"] is None:
        return f"{len(result['trials'])} trials: {sentence(result)}"
    chosen = [
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in result["suggested"].items()
    ]
    half = len(chosen) // 2
    return (
        f"{len(result['trials'])} trials; suggested: {', '.join(chosen[:half])},<br>{', '.join(chosen[half:])};<br>"
        f"{sentence(result)}"
    )
