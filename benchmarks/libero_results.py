# SPDX-License-Identifier: Apache-2.0
"""Results of a closed-loop evaluation: the JSON file, the summary per arm, the table and the plots."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from closed_loop import Outcome
from significance import paired_p_value, signed_rank_p_value, wilson

from specprune_ros.errors import UserError

REFERENCES = ("dense", "paper")  # every arm is compared with them, on the episodes that both ran
FAILED_TO_DIFFER = 0.05  # p value from which two arms are said not to differ significantly
CLOSE = 1.0  # % of FLOPs within which points of the plot would hide one another
MARKERS = "os^D"  # ten arms each
COLUMNS = ("arm", "success", "95 % interval", "steps", "tokens", "FLOPs", "latency", "modes")
COLUMNS += tuple(f"{measure} against {name}" for name in REFERENCES for measure in ("success", "steps"))


@dataclass(frozen=True)
class Job:
    """Which episode of which task; every arm runs the same ones."""

    suite: str
    task: int
    placement: str  # standard or wide
    episode: int


class Results:
    """Every finished episode of every arm, in a file that is written anew after each job."""

    def __init__(self, path: Path, checkpoint: str) -> None:
        """`checkpoint`: digest of the weights. Raises UserError when the file holds results of other weights."""
        self._path = path
        self.content: dict[str, Any] = {"checkpoint": checkpoint, "runs": [], "episodes": []}
        if path.exists():
            self.content = json.loads(path.read_text())
            if self.content["checkpoint"] != checkpoint:
                raise UserError(f"{path} holds results of another checkpoint; give another file")

    @property
    def episodes(self) -> list[dict[str, Any]]:
        return self.content["episodes"]

    def has(self, job: Job, arm: str) -> bool:
        wanted = {"arm": arm, **asdict(job)}
        return any(all(episode[key] == value for key, value in wanted.items()) for episode in self.episodes)

    def add(self, job: Job, outcomes: dict[str, Outcome]) -> None:
        for arm, outcome in outcomes.items():
            self.episodes.append({"arm": arm, **asdict(job), **asdict(outcome)})

    def write(self, summary: bool = False) -> None:
        if summary:
            self.episodes.sort(key=lambda row: [row[field.name] for field in fields(Job)])  # not as they ended
            self.content["summary"] = summarize(self.episodes)
        partial = self._path.with_name(self._path.name + ".part")
        partial.write_text(json.dumps(self.content, indent=1))
        partial.rename(self._path)


def summarize(episodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Per arm: rates with intervals, overall and per task, costs, and whether it can be told from the references."""
    by_arm: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for episode in episodes:
        by_arm[episode["arm"]].append(episode)
    return {arm: _summarize_arm(rows, _references(arm, by_arm)) for arm, rows in by_arm.items()}


def _references(arm: str, by_arm: dict[str, list[dict[str, Any]]]) -> dict[str, dict[Any, dict[str, Any]]]:
    """What an arm is compared with, by episode: the references of the same latency."""
    _, at, latency = arm.partition("@")
    names = {name: name + at + latency for name in REFERENCES}
    return {name: {_key(row): row for row in by_arm[full]} for name, full in names.items() if full in by_arm}


def table(summary: dict[str, Any]) -> str:
    """The summary as a Markdown table; of several suites, with a second one for each of them."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for arm, row in summary.items():
        low, high = row["interval"]
        modes = ", ".join(f"{mode} {share:.0%}" for mode, share in row["modes"].items())
        lines.append(
            f"| {arm} | {row['successes']}/{row['episodes']} = {row['rate']:.0%} | {low:.0%} to {high:.0%} "
            f"| {_number(row['steps_to_success'])} | {row['tokens']:.0f} | {row['flop_share']:.0%} "
            f"| {row['latency_ms']:.0f} ms | {modes} | "
            + " | ".join(
                "the reference | " if arm.partition("@")[0] == name else _verdicts(row["against"].get(name))
                for name in REFERENCES
            )
            + " |"
        )
    suites = list(dict.fromkeys(_name(group) for row in summary.values() for group in row["suites"]))
    if len(suites) > 1:
        lines += ["", f"| arm | {' | '.join(suites)} |", "|" + "---|" * (1 + len(suites))]
        lines += [f"| {arm} | {' | '.join(_of_suites(arm, row['suites'], suites))} |" for arm, row in summary.items()]
    return "\n".join(lines)


def _name(group: dict[str, Any]) -> str:
    return group["suite"] if group["placement"] == "standard" else f"{group['suite']}, {group['placement']}"


def _of_suites(arm: str, groups: list[dict[str, Any]], suites: list[str]) -> list[str]:
    """A cell a suite: success, its interval, and against dense."""
    cells = dict.fromkeys(suites, "not run")
    for group in groups:
        low, high = group["interval"]
        cell = f"{group['successes']}/{group['episodes']} = {group['rate']:.0%} ({low:.0%} to {high:.0%})"
        dense = group["against"].get("dense")
        is_told = dense is not None and dense["pairs"] and arm.partition("@")[0] != "dense"
        cells[_name(group)] = f"{cell}, {_p(dense['p'])}" if is_told else cell
    return list(cells.values())


def plot(summary: dict[str, Any], path: Path) -> None:
    """Success against decoder FLOPs, with intervals, to a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    costs = {arm: 100 * row["flop_share"] for arm, row in summary.items() if row["flop_share"]}  # the expert has none
    for number, (arm, x) in enumerate(_side_by_side(costs).items()):
        row = summary[arm]
        y = 100 * row["rate"]
        low, high = (100 * bound for bound in row["interval"])
        label = f"{arm}, {row['successes']} of {row['episodes']}"
        bars = [[max(0.0, y - low)], [max(0.0, high - y)]]
        axes.errorbar(x, y, yerr=bars, fmt=look(number), capsize=3, ms=4, label=label)
    axes.set(ylabel="success, % (95 % interval)", ylim=(0, 102), xlim=(0, 105))
    axes.set_xlabel(f"decoder FLOPs, % of dense (arms closer than {CLOSE:g} % stand side by side)")
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=120)


def latency_plot(summary: dict[str, Any], path: Path) -> None:
    """Success, time to success, pauses and jerk over the latency, a curve an arm, to a PNG file."""
    from matplotlib.figure import Figure

    curves: dict[str, list[tuple[float, dict[str, Any]]]] = defaultdict(list)
    for arm, row in summary.items():
        name, _, latency = arm.partition("@")
        curves[name].append((float(latency or 0), row))
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    panels = list(figure.subplots(2, 2).flat)
    for number, (name, points) in enumerate(curves.items()):
        points.sort(key=lambda point: point[0])
        x = [latency for latency, _ in points]
        rates = [(100 * row["rate"], *(100 * bound for bound in row["interval"])) for _, row in points]
        bars = [[max(0.0, rate - low) for rate, low, _ in rates], [max(0.0, high - rate) for rate, _, high in rates]]
        panels[0].errorbar(x, [rate for rate, _, _ in rates], bars, fmt=look(number) + "-", capsize=3, ms=4, label=name)
        for axes, measure, unit in zip(panels[1:], ("steps_to_success", "pauses", "jerk"), (0.05, 100, 1), strict=True):
            values = [math.nan if row[measure] is None else unit * row[measure] for _, row in points]
            axes.plot(x, values, look(number) + "-", ms=4)
    labels = "success, % (95 % interval)", "seconds to success", "% of the steps without a chunk", "jerk, m/s³ (rms)"
    for axes, label in zip(panels, labels, strict=True):
        axes.set(xlabel="latency, s", ylabel=label, ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=120)


def look(number: int) -> str:
    """Colour and marker of a plot's arm, as matplotlib's format string; forty differ."""
    return f"C{number % 10}{MARKERS[number // 10 % len(MARKERS)]}"


def _side_by_side(places: dict[str, float]) -> dict[str, float]:
    """The same places in ascending order, those that would hide one another spread apart around their middle."""
    clusters: list[list[str]] = []
    for arm in sorted(places, key=places.__getitem__):
        if clusters and places[arm] - places[clusters[-1][-1]] < CLOSE:
            clusters[-1].append(arm)
        else:
            clusters.append([arm])
    spread = {}
    for arms in clusters:
        middle = sum(places[arm] for arm in arms) / len(arms)
        spread |= {arm: middle + 0.8 * CLOSE * (i - (len(arms) - 1) / 2) for i, arm in enumerate(arms)}
    return spread


def _summarize_arm(rows: list[dict[str, Any]], references: dict[str, dict[Any, dict[str, Any]]]) -> dict[str, Any]:
    successes = [row["success"] for row in rows]
    inferences = sum(row["inferences"] for row in rows)
    modes: Counter[str] = Counter()
    for row in rows:
        modes.update(row["modes"])
    tasks = _grouped(rows, ("suite", "placement", "task"))
    suites = _grouped(rows, ("suite", "placement"))
    return {
        **_rate(successes),
        "steps_to_success": _mean(row["steps"] for row in rows if row["success"]),
        "inferences": inferences,
        "latency_ms": _mean(row["latency_ms"] for row in rows),
        "tokens": _mean(row["tokens"] for row in rows),
        "flop_share": _mean(row["flop_share"] for row in rows),
        "pauses": _mean(row.get("pauses", 0) / max(1, row["steps"]) for row in rows),
        "jerk": _mean(row.get("jerk", 0.0) for row in rows),
        "modes": {mode: count / inferences for mode, count in sorted(modes.items())},
        "against": {name: _compare(rows, reference) for name, reference in references.items()},
        "suites": [
            names
            | _rate([row["success"] for row in group])
            | {"against": {name: _compare(group, reference) for name, reference in references.items()}}
            for names, group in suites
        ],
        "tasks": [names | _rate([row["success"] for row in group]) for names, group in tasks],
    }


def _grouped(rows: list[dict[str, Any]], names: tuple[str, ...]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Rows that have the same values under `names`, with these, in the values' order."""
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in names)].append(row)
    return [(dict(zip(names, values, strict=True)), group) for values, group in sorted(groups.items())]


def _compare(rows: list[dict[str, Any]], reference: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """In the same episodes: how much more often this arm succeeds than the reference, and, where both do, how many
    steps more it takes; each with its test's p value."""
    pairs = [(row, reference[_key(row)]) for row in rows if _key(row) in reference]
    own, other = ([bool(row["success"]) for row in side] for side in zip(*pairs, strict=True)) if pairs else ((), ())
    steps = [row["steps"] - twin["steps"] for row, twin in pairs if row["success"] and twin["success"]]
    return {
        "pairs": len(pairs),
        "difference": (sum(own) - sum(other)) / len(pairs) if pairs else None,
        "p": paired_p_value(own, other),
        "both_succeed": len(steps),
        "more_steps": _mean(steps),
        "steps_p": signed_rank_p_value(steps),
    }


def _rate(successes: list[bool]) -> dict[str, Any]:
    count, total = sum(successes), len(successes)
    return {"successes": count, "episodes": total, "rate": count / total, "interval": wilson(count, total)}


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.0f}"


def _verdicts(comparison: dict[str, Any] | None) -> str:
    if comparison is None or not comparison["pairs"]:
        return "not compared | not compared"
    success = _verdict(f"{100 * comparison['difference']:+.0f} points", comparison["p"])
    if not comparison["both_succeed"]:
        return f"{success} | no episode that both solve"
    steps = _verdict(f"{comparison['more_steps']:+.1f} steps", comparison["steps_p"])
    return f"{success} | {steps}"


def _verdict(difference: str, p: float) -> str:
    if p >= FAILED_TO_DIFFER:
        return f"not significantly different (p = {p:.2f})"
    return f"{difference} ({_p(p)})"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _key(episode: dict[str, Any]) -> tuple[Any, ...]:
    return episode["suite"], episode["task"], episode["placement"], episode["episode"]


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return sum(known) / len(known) if known else None
