# SPDX-License-Identifier: Apache-2.0
"""`replay --compare A/report.json B/report.json`: two checkpoints, two presets or two machines, side by side."""

import argparse
import html
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from matplotlib.figure import Figure

from specprune_ros.errors import ConfigError, UserError, no_space
from specprune_ros.replay.arm_names import DENSE
from specprune_ros.replay.html_table import html_table
from specprune_ros.replay.options import COMPARE
from specprune_ros.replay.summary import FORMAT, number

PAGE = "compare.html"
COLORS = ("#3c4043", "#b5303a")
STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;color:#1d2129;margin:20px auto;max-width:1000px;padding:0 20px}"
    "table{border-collapse:collapse}th,td{border-bottom:1px solid #dde1e8;padding:3px 11px;text-align:right}"
    "th:first-child,td:first-child{text-align:left}.warning{border-left:4px solid #e0a81e;background:#fdf7e6;"
    "padding:4px 12px}svg{max-width:100%;height:auto}"
)
# What is compared of an arm: heading, where it is in the report, and how it is written.
MEASURES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("p50 ms", ("latency_ms", "p50"), "{:.1f}"),
    ("p99 ms", ("latency_ms", "p99"), "{:.1f}"),
    ("speed-up", ("speedup",), "{:.2f}"),
    ("operations", ("flop_share",), "{:.0%}"),
    ("p95 cm", ("from_dense_at_chunk_end", "centimetres", "p95"), "{:.2f}"),
    ("p95 degrees", ("from_dense_at_chunk_end", "degrees", "p95"), "{:.2f}"),
    ("above noise", ("above_noise_share",), "{:.0%}"),
    ("gripper differs", ("gripper", "differing_steps_share"), "{:.1%}"),
)
FLOOR = (("noise floor cm", "centimetres"), ("noise floor degrees", "degrees"))
TAIL = ("median", "largest")  # of the differences of actions
# Facts that explain a difference: what it is called, and where it is in the report.
FACTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("bag", ("bag",)),
    ("inferred on", ("inferred_on",)),
    ("checkpoint", ("checkpoint_digest",)),
    ("unnorm_key", ("unnorm_key",)),
    ("number format", ("number_format",)),
    ("device", ("machine", "device")),
    ("processor", ("machine", "processor")),
    ("torch threads", ("machine", "torch_threads")),
    ("torch", ("machine", "torch")),
)


def compare(arguments: Sequence[str]) -> None:
    """Print a table and write a page. Raises UserError, one line, for whatever cannot be compared."""
    given = _parser().parse_args(arguments)
    one, other = (read_report(path) for path in given.compare)
    found = comparison(one, other)
    for warning in found["warnings"]:
        print(f"warning: {warning}")
    for heads, rows in _tables(found):
        print(_as_text(heads, rows), end="\n\n")
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / PAGE).write_text(_page(found, one, other, given.compare))
    except OSError as error:
        raise no_space(error, given.out) from error
    print(f"{given.out / PAGE} shows it")


def read_report(path: Path) -> dict[str, Any]:
    """report.json of a replay; `path` may be its folder. Raises UserError."""
    path = path / "report.json" if path.is_dir() else path
    try:
        report = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the report.json of a replay") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); give the report.json of a replay") from error
    if not isinstance(report, dict) or not {"format", "arms", "moments"} <= report.keys():
        raise UserError(f"{path} is not the report of a replay; give the report.json of one")
    if report["format"] != FORMAT:
        raise UserError(f"{path} has format {report['format']!r}, this version reads {FORMAT}; replay that bag again")
    try:
        comparison(report, report), html.escape(report["verdict"][0])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        what = " ".join(repr(error).split())[:80]
        raise UserError(f"{path} was changed or is not whole ({what}); replay that bag again") from None
    return report


def comparison(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Plain values: `facts` and `floor` of both, `arms` that both have, `actions` at the stamps that both have.

    `actions` of an arm: how many chunks were compared, how many are equal to the last bit, and the largest and the
    median difference of a number in them, in the checkpoint's units.
    """
    facts = {name: [_at(report, place) for report in (one, other)] for name, place in FACTS}
    facts["bag"] = [Path(str(path)).name for path in facts["bag"]]
    arms = [arm for arm in one["arms"] if arm in other["arms"]]
    actions = {arm: _apart(one["moments"], other["moments"], arm) for arm in arms}
    return {
        "warnings": _warnings(one, other, facts, actions),
        "facts": facts,
        "floor": {title: [report["noise_floor"][name] for report in (one, other)] for title, name in FLOOR},
        "arms": {
            arm: {title: [_at(report["arms"][arm], place) for report in (one, other)] for title, place, _ in MEASURES}
            for arm in arms
        },
        "actions": actions,
    }


def _apart(one: list[dict[str, Any]], other: list[dict[str, Any]], arm: str) -> dict[str, Any]:
    own_chunks, their_chunks = _by_stamp(one, arm), _by_stamp(other, arm)
    arrays = [(np.array(own), np.array(their_chunks[at])) for at, own in own_chunks.items() if at in their_chunks]
    largest = [float(np.abs(own - their).max()) for own, their in arrays if own.shape == their.shape]
    return {
        "compared": len(largest),
        "equal": sum(value == 0.0 for value in largest),
        "median": number(np.median(largest)) if largest else None,
        "largest": number(max(largest)) if largest else None,
    }


def _by_stamp(moments: list[dict[str, Any]], arm: str) -> dict[tuple[int, int], Any]:
    """(Stamp, how often it was there before) -> actions: a clock that is set back repeats stamps."""
    seen: Counter[int] = Counter()
    chunks = {}
    for moment in moments:
        stamp = moment["stamp"]
        chunks[stamp, seen[stamp]] = moment["arms"][arm]["actions"]
        seen[stamp] += 1
    return chunks


def _warnings(
    one: dict[str, Any], other: dict[str, Any], facts: dict[str, list[Any]], actions: dict[str, Any]
) -> list[str]:
    """What keeps the numbers from being comparable."""
    said = []
    for report, name in ((one, "A"), (other, "B")):
        if not report["complete"]:
            said.append(f"{name} was interrupted; it is about {report['replayed_s']:.1f} s of its bag")
    for report, rest, name, missing in ((one, other, "A", "B"), (other, one, "B", "A")):
        if only := [arm for arm in report["arms"] if arm not in rest["arms"]]:
            said.append(f"only {name} has {', '.join(only)}; {missing} has not, so nothing is said about it")
    for arm in actions:
        if one["configurations"][arm] != other["configurations"][arm]:
            said.append(f"{arm} has other constants in A than in B")
    stamps = [{moment["stamp"] for moment in report["moments"]} for report in (one, other)]
    shared = len(stamps[0] & stamps[1])
    if shared < max(map(len, stamps)):
        said.append(
            f"A has {len(stamps[0])} inferences, B {len(stamps[1])}, and {shared} are of the same stamps; with other "
            "observations the history of a pruned arm differs too"
        )
    machine = [name for name in ("device", "processor", "torch threads") if facts[name][0] != facts[name][1]]
    if machine:
        said.append(f"another {', '.join(machine)}: compare the speed-ups rather than the latencies")
    return said


def _at(values: Any, place: tuple[str, ...]) -> Any:
    for name in place:
        values = values[name]
    return values


def _tables(found: dict[str, Any]) -> list[tuple[tuple[str, ...], list[list[str]]]]:
    """(heads, rows) each."""
    facts = [[name, *map(str, pair)] for name, pair in found["facts"].items()]
    facts += [[name, *(_written(value, "{:.3g}") for value in pair)] for name, pair in found["floor"].items()]
    arms = []
    for arm, measures in found["arms"].items():
        for title, _, form in MEASURES:
            pair = measures[title]
            if pair != [None, None]:
                arms.append([f"{arm}: {title}", *(_written(value, form) for value in pair), _change(*pair)])
    actions = [
        [arm, str(seen["compared"]), str(seen["equal"]), *(_written(seen[name], "{:.3g}") for name in TAIL)]
        for arm, seen in found["actions"].items()
    ]
    return [
        (("", "A", "B"), facts),
        (("arm", "A", "B", "B / A"), arms),
        (("actions of B from A", "chunks of one stamp", "equal", *TAIL), actions),
    ]


def _written(value: float | None, form: str) -> str:
    return "unknown" if value is None else form.format(value)


def _change(one: float | None, other: float | None) -> str:
    return f"{other / one:.2f}" if one and other is not None else ""


def _as_text(heads: tuple[str, ...], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = []
    for cells in (list(heads), *rows):
        first, *rest = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append("  ".join([cells[0].ljust(len(first)), *rest]).rstrip())
    return "\n".join(lines)


def _page(found: dict[str, Any], one: dict[str, Any], other: dict[str, Any], paths: Sequence[Path]) -> str:
    parts = [f"<p>{name}: {html.escape(str(path))}</p>" for name, path in zip("AB", paths, strict=True)]
    parts += [f'<p class="warning">{html.escape(text)}</p>' for text in found["warnings"]]
    parts += [f'<p class="verdict">{n}: {html.escape(r["verdict"][0])}</p>' for n, r in (("A", one), ("B", other))]
    parts += [html_table(*table) + "<br>" for table in _tables(found)]
    parts.append(_plot(one, other, list(found["arms"])))
    title = "Two replays compared"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body><h1>{title}</h1>{"".join(parts)}'
        "</body></html>\n"
    )


def _plot(one: dict[str, Any], other: dict[str, Any], arms: list[str]) -> str:
    """SVG: how latency and distance from dense are distributed, A solid over B, a row for every arm."""
    figure = Figure(figsize=(10, 1.2 + 0.6 * len(arms)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for offset, report, color, name in ((-0.15, one, COLORS[0], "A"), (0.15, other, COLORS[1], "B")):
        for row, arm in enumerate(arms):
            latency, apart = report["arms"][arm]["latency_ms"], report["arms"][arm]["from_dense_at_chunk_end"]
            label = name if row == 0 else None
            left.plot([latency["p50"], latency["p99"]], [row + offset] * 2, "o-", color=color, label=label)
            measure = "centimetres" if apart["centimetres"]["p95"] is not None else "degrees"
            if arm != DENSE and apart[measure]["p95"] is not None:
                ends = [apart[measure]["p50"], apart[measure]["p95"]]
                right.plot(ends, [row + offset] * 2, "o-", color=color)
                right.set_xlabel(f"{measure} from dense, p50 to p95")
    left.set_yticks(range(len(arms)), arms)
    left.invert_yaxis()
    left.set_xlabel("ms, p50 to p99")
    if arms:
        left.legend()
    for axes in (left, right):
        axes.set_xlim(0, 1.04 * axes.get_xlim()[1])
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see replay {COMPARE} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("replay", description="Compares the reports of two replays: a table here, and a page.")
    add = parser.add_argument
    add(COMPARE, metavar=("A", "B"), nargs=2, type=Path, required=True, help="report.json of two replays")
    add("--out", metavar="DIR", type=Path, default=Path(), help=f"folder for {PAGE} (default here)")
    return parser
