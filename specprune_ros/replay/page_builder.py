# SPDX-License-Identifier: Apache-2.0
"""report.html: one file that needs no server and no network."""

import base64
import html
import json
import math
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs

from specprune_ros.openvla.preprocessing import seen_side
from specprune_ros.policy import ActionChunk, Policy
from specprune_ros.replay.arm_names import DENSE
from specprune_ros.replay.differences import Difference
from specprune_ros.replay.figures import TIMED, Lines, colors, figures, thinned
from specprune_ros.replay.html_table import html_table
from specprune_ros.replay.measurements import Measurements
from specprune_ros.replay.moment import Moment, Spool
from specprune_ros.replay.recorded_gripper import RecordedGripper
from specprune_ros.stamps import NANOSECONDS
from specprune_ros.viewing.mode_colors import MODE_COLORS

MOST_MOMENTS = 600  # with pictures; more of a long bag are thinned out evenly, the worst ones stay
MOST_BYTES = 14_000_000  # of pictures, before base64

SECTIONS = (
    ("actions", "Actions", "The first step of every chunk, in the robot's units. Dotted: what the recorded arm did."),
    (
        "differences",
        "Difference from dense at the chunk's end",
        "How far apart the arm would be after the whole chunk. Dashed: dense's own noise, over the shared steps.",
    ),
    (
        "noise",
        "The noise floor",
        "Two dense chunks of consecutive observations speak about the same time steps and do not agree exactly; nor "
        "does dense when its images go through JPEG once more. Each curve says in which share of the inferences the "
        "difference is at most so large, over the same number of steps. An arm whose curve lies left of the solid "
        "black one differs from dense less than dense from itself a moment later; dashed is the floor, which dense "
        "itself exceeds in 5 %. An arm left of the dotted one could be another JPEG.",
    ),
    ("seams", "Seams", "How much the commanded speed jumps where a chunk replaces the one before."),
    ("modes", "Modes", "What each arm did when; hover for the reason. Below, how often."),
    ("latency", "Latency", "Of every inference on this machine, warm, the arms in turns."),
    ("stages", "Stages", "Where the time goes."),
    ("tokens", "Tokens per layer", "Mean sequence length in every decoder layer, by mode."),
)


def write_page(
    path: Path, report: dict[str, Any], found: Measurements, spool: Spool, policy: Policy, proprio: str
) -> None:
    """`report`: as in report.json. `proprio`: what it is, `inputs.proprio`."""
    lines = _lines(found, spool, policy, proprio)
    made = figures(found, lines, report["noise_floor"])
    kept = _chosen(found, spool)
    place = {index: number for number, index in enumerate(kept)}
    data = {
        "views": list(spool.at(0).frames),
        "grid": list(policy.patch_grid),
        "crop": seen_side(policy.center_crop),
        "colors": MODE_COLORS,
        "lines": colors(found.arms),
        "timed": [name for name in TIMED if name in made],
        "chosen": report["chosen"] or found.arms[-1],
        "worst": {
            arm: [place[index] for index in report["arms"][arm]["worst"] if index in place] for arm in found.arms
        },
        "moments": [_moment_data(spool.at(index), index, found) for index in kept],
    }
    below = {"modes": _modes(report)}
    sections = [_section(name, title, note, below.get(name, "")) for name, title, note in SECTIONS]
    sections.insert(
        3,
        '<section><h2>The worst moments of <span id="gallery-arm"></span></h2>'
        '<p class="note">Furthest from dense at the chunk\'s end; a click goes there.</p>'
        '<div id="gallery" class="gallery"></div></section>',
    )
    files = resources.files("specprune_ros.replay").joinpath("page")
    text = Template(files.joinpath("page.html").read_text()).substitute(
        title=f"Replay of {html.escape(Path(report['bag']).name)}",
        facts=_facts(report),
        style=files.joinpath("page.css").read_text(),
        plotly=get_plotlyjs(),
        findings="".join(_finding(finding) for finding in [*_exceeded(report), *report["findings"]]),
        verdict="".join(f"<p>{html.escape(sentence)}</p>" for sentence in report["verdict"] if sentence),
        table=_table(report),
        sections="".join([*sections, _audit(report["audit"])]),
        data=_embedded(json.dumps(data, allow_nan=False)),
        figures=_embedded("{" + ", ".join(f'"{name}": {figure.to_json()}' for name, figure in made.items()) + "}"),
        script=files.joinpath("page.js").read_text(),
    )
    path.write_text(text)


def _embedded(text: str) -> str:
    """JSON that cannot end the script element it stands in."""
    return text.replace("</", "<\\/")


def _lines(found: Measurements, spool: Spool, policy: Policy, proprio: str) -> Lines:
    space = found.space
    gripper = RecordedGripper(proprio, policy.proprio_range, space)
    lines = Lines(space.dimension_names(policy.action_names))
    for arm in found.arms:
        lines.actions[arm], lines.modes[arm], lines.reasons[arm] = [], [], []
    for index in range(len(spool))[thinned(len(spool))]:
        moment = spool.at(index)
        rotation = moment.pose.rotation if moment.pose is not None else None
        for arm, chunk in moment.chunks.items():
            lines.actions[arm].append(space.in_robot_units(chunk.actions[0], rotation))
            lines.modes[arm].append(chunk.pruning.mode)
            lines.reasons[arm].append(chunk.pruning.reason.replace("_", " "))
        recorded = moment.twist if space.delta else moment.joints
        row = np.full(len(lines.dimensions), np.nan)
        if recorded is not None:
            row[: len(recorded)] = recorded
        openings = gripper.openings(moment.proprio)
        row[len(row) - len(openings) :] = openings
        lines.recorded.append(row)
        lines.positions.append(moment.pose.position if moment.pose is not None else np.full(3, np.nan))
    return lines


def _chosen(found: Measurements, spool: Spool) -> list[int]:
    """Indices of the moments that get pictures."""
    size = sum(map(len, spool.at(0).frames.values()))
    most = max(1, min(MOST_MOMENTS, MOST_BYTES // max(size, 1)))
    even = {int(index) for index in np.linspace(0, len(spool) - 1, min(most, len(spool))).round()}
    return sorted(even.union(*(found.worst(arm, 10) for arm in found.arms if arm != DENSE)))


def _moment_data(moment: Moment, index: int, found: Measurements) -> dict[str, Any]:
    speed = "unknown" if moment.twist is None else f"{np.linalg.norm(moment.twist[:3]):.3f} m/s"
    return {
        "time": round(moment.time, 3),
        "stamp": f"{moment.stamp / NANOSECONDS:.3f}",
        "speed": speed,
        "position": None if moment.pose is None else _rounded(moment.pose.position),
        "frames": [base64.b64encode(frame).decode() for frame in moment.frames.values()],
        "arms": {arm: _arm_data(chunk, found.whole[arm][index], moment, found) for arm, chunk in moment.chunks.items()},
    }


def _arm_data(chunk: ActionChunk, apart: Difference, moment: Moment, found: Measurements) -> dict[str, Any]:
    report = chunk.pruning
    path = None
    if moment.pose is not None and found.space.delta:
        positions, _ = found.space.path(chunk.actions, moment.pose.position, moment.pose.rotation)
        path = [_rounded(position) for position in positions]
    distance = "" if math.isnan(apart.centimetres) else f"{apart.centimetres:.2f} cm, "
    return {
        "mode": report.mode,
        "reason": report.reason,
        "ms": f"{chunk.seconds * 1e3:.1f}",
        "flops": f"{report.flop_share * 100:.0f}",
        "patches": f"{sum(map(len, report.kept_final))} of {sum(report.patches)}",
        "apart": f"{distance}{apart.degrees:.2f} degrees",
        "path": path,
        "static": [_bits(kept, count) for kept, count in zip(report.kept_static, report.patches, strict=True)],
        "final": [_bits(kept, count) for kept, count in zip(report.kept_final, report.patches, strict=True)],
    }


def _bits(kept: NDArray[np.int64], count: int) -> str:
    """Four patches a hexadecimal digit, the first one in its highest bit."""
    mask = np.zeros(count, np.uint8)
    mask[kept] = 1
    return np.packbits(mask).tobytes().hex()


def _rounded(position: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 4) for value in position]


def _section(name: str, title: str, note: str, below: str) -> str:
    return f'<section><h2>{title}</h2><p class="note">{note}</p><div id="{name}" class="plot"></div>{below}</section>'


def _exceeded(report: dict[str, Any]) -> list[dict[str, str]]:
    """Findings about the limits that were given."""
    return [
        {"level": "error", "text": f"--{limit['limit']} is exceeded by {limit['arm']}: {limit['exceeded']}"}
        for limit in report["limits"]
        if limit["exceeded"]
    ]


def _finding(finding: dict[str, str]) -> str:
    return f'<p class="finding {finding["level"]}">{html.escape(finding["text"])}</p>'


def _facts(report: dict[str, Any]) -> str:
    machine = report["machine"]
    complete = "" if report["complete"] else " (interrupted)"
    facts = (
        f"{report['inferences']} inferences ({report['inferred_on']}) over {report['replayed_s']:.1f} s of the "
        f"bag{complete}; checkpoint "
        f"{Path(report['checkpoint']).name} ({report['checkpoint_digest']}), unnorm_key {report['unnorm_key']}; "
        f"{machine['device']}, {machine['processor']}, threads: {machine['torch_threads']}, torch {machine['torch']}"
    )
    return html.escape(facts)


def _table(report: dict[str, Any]) -> str:
    """The arms in numbers."""
    heads = (
        *("arm", "p50 ms", "p99 ms", "speed-up", "operations", "p95 cm", "p95 degrees", "above noise", "above JPEG"),
        *("gripper differs", "flips early or late, missed, added"),
    )
    rows = []
    for name, arm in report["arms"].items():
        end, gripper, delay = arm["from_dense_at_chunk_end"], arm["gripper"], arm["gripper"]["flip_delay_steps"]
        late = (
            "none"
            if delay is None or delay["min"] == delay["max"] == 0
            else "{min:+d} to {max:+d} steps".format(**delay)
        )
        cells = [
            name,
            _text(arm["latency_ms"]["p50"], "{:.1f}"),
            _text(arm["latency_ms"]["p99"], "{:.1f}"),
            _text(arm["speedup"], "{:.2f}"),
            _text(arm["flop_share"], "{:.0%}"),
        ]
        if name == DENSE:
            cells += [""] * 6
        else:
            cells += [
                _text(end["centimetres"]["p95"], "{:.2f}"),
                _text(end["degrees"]["p95"], "{:.2f}"),
                _text(arm["above_noise_share"], "{:.0%}"),
                _text(arm["above_jpeg_share"], "{:.0%}"),
                _text(gripper["differing_steps_share"], "{:.1%}"),
                f"{late}, {gripper['flips_missed']}, {gripper['flips_added']}",
            ]
        rows.append(cells)
    return _scrolled(heads, rows)


def _modes(report: dict[str, Any]) -> str:
    """In which share of the inferences each arm was in which mode, and why."""
    modes = list(dict.fromkeys(mode for arm in report["arms"].values() for mode in arm["mode_share"]))
    rows = []
    for name, arm in report["arms"].items():
        shares = [_text(arm["mode_share"].get(mode), "{:.0%}") for mode in modes]
        reasons = [f"{reason.replace('_', ' ')} ({count})" for reason, count in arm["reasons"].items()]
        rows.append([name, *shares, ", ".join(reasons)])
    return _scrolled(("arm", *modes, "mode: reason (how often)"), rows)


def _audit(audit: dict[str, Any]) -> str:
    heads = (
        *("input", "topic", "messages", "Hz", "longest interval s", "jitter s", "delay p99 s", "gaps"),
        *("no stamp", "out of order"),
    )
    rows = [
        [
            name,
            seen["topic"],
            str(seen["messages"]),
            _text(seen["rate_hz"], "{:.1f}"),
            _text(seen["interval_s"]["max"], "{:.3f}"),
            _text(seen["jitter_s"], "{:.4f}"),
            _text(seen["delay_s"]["p99"], "{:.3f}"),
            str(seen["gaps"]),
            str(seen["without_stamp"]),
            str(seen["same_stamp_again"] + seen["backwards"]),
        ]
        for name, seen in audit["inputs"].items()
    ]
    refusals = [
        [refusal["text"], str(refusal["count"]), f"{refusal['first_s']:g}", f"{refusal['last_s']:g}"]
        for refusal in audit["refusals"]
    ]
    refused = _scrolled(("what the live node would have refused", "times", "first s", "last s"), refusals)
    skew = audit["camera_skew_s"]["max"]
    frozen = [f"{camera} from {start:g} s" for camera, spans in audit["frozen_s"].items() for start, _ in spans]
    jumps = [f"at {time:g} s" for time, _ in audit["clock_jumps_s"]]
    facts = (
        f"{audit['observations']} observations, {audit['refused']} refused, velocity unknown in "
        f"{audit['velocity_unknown']}. Views of one moment are at most {_text(skew, '{:.3f}')} "
        f"s apart. Frozen cameras: {', '.join(frozen) or 'none'}. Clock set back: {', '.join(jumps) or 'never'}."
    )
    return (
        '<section><h2>The recording</h2><p class="note">What is wrong with it stands at the top of this page.</p>'
        f"{_scrolled(heads, rows)}<p>{html.escape(facts)}</p>{refused if refusals else ''}{_ranges(audit)}</section>"
    )


def _ranges(audit: dict[str, Any]) -> str:
    """How the recorded arm lies in the checkpoint's normalisation ranges; what is outside is clipped."""
    rows = []
    for key, fit in audit["unnorm_keys"].items():
        outside = [_outside(fit[name]) for name in ("proprio_outside_range", "joints_outside_range")]
        rows.append([key, *outside, *(_text(pace, "{:.2f}") for pace in fit["step_of_longest"])])
    heads = (
        *("statistics of", "proprio outside their range", "joints outside"),
        *("step: goes, of their longest", "turns, of their longest"),
    )
    return _scrolled(heads, rows) if rows else ""


def _outside(shares: list[float]) -> str:
    worst = max(shares, default=0.0)
    return f"{worst:.0%} (number {shares.index(worst)})" if worst else "never"


def _scrolled(heads: tuple[str, ...], rows: list[list[str]]) -> str:
    """A table that a narrow window scrolls."""
    return f'<div class="scroll">{html_table(heads, rows)}</div>'


def _text(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
