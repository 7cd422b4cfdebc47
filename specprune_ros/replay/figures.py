# SPDX-License-Identifier: Apache-2.0
"""The plots of the page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from specprune_ros.replay.arm_names import DENSE
from specprune_ros.replay.measurements import Measurements, column
from specprune_ros.replay.summary import number
from specprune_ros.viewing.mode_colors import MODE_COLORS

PALETTE = ("#b5303a", "#2f9e6e", "#5b4b8a", "#e08a1e", "#1f9aa8", "#8a6d3b")
DENSE_COLOR, RECORDED, CURSOR = "#3c4043", "#3d7edb", "#d81b60"
STAGE_COLORS = ("#b9c0ca", "#7fa6d6", "#d8c18a", "#46658f", "#e39a4f", "#8a8f98")  # none of an arm's
MOST_POINTS = 4000  # of a line
HEADROOM = 1.12  # of an axis above its highest line


@dataclass(eq=False)
class Lines:
    """What the plots over time draw, of every `thinned` moment."""

    dimensions: list[tuple[str, str]]  # name and unit
    actions: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)  # arm -> (D,) of the first step
    recorded: list[NDArray[np.float64]] = field(default_factory=list)  # (D,), nan where unknown
    positions: list[NDArray[np.float64]] = field(default_factory=list)  # (3,) m, nan where unknown
    modes: dict[str, list[str]] = field(default_factory=dict)
    reasons: dict[str, list[str]] = field(default_factory=dict)


def colors(arms: Sequence[str]) -> dict[str, str]:
    """One colour for each arm."""
    others = [arm for arm in arms if arm != DENSE]
    return {DENSE: DENSE_COLOR} | {arm: PALETTE[index % len(PALETTE)] for index, arm in enumerate(others)}


def figures(found: Measurements, lines: Lines, floor: dict[str, Any]) -> dict[str, go.Figure]:
    """Name -> figure; those in TIMED are over the bag's time."""
    paint = colors(found.arms)
    made = {
        "actions": _actions(found, lines, paint),
        "differences": _differences(found, floor, paint),
        "noise": _noise(found, floor, paint),
        "seams": _seams(found, paint),
        "modes": _modes(found, lines),
        "latency": _latency(found, paint),
        "stages": _stages(found),
        "tokens": _tokens(found, paint),
    }
    if any(np.isfinite(position).all() for position in lines.positions):
        made["path"] = _path(lines, paint)
    return made


TIMED = ("actions", "differences", "seams", "modes", "latency")


def _layout(figure: go.Figure, height: int, **more: Any) -> go.Figure:
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 66, "r": 16, "t": 26, "b": 40},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"},
        **more,
    )
    return figure


def thinned(count: int) -> slice:
    """Which of so many moments the lines are drawn of."""
    return slice(None, None, max(1, -(-count // MOST_POINTS)))


def _actions(found: Measurements, lines: Lines, paint: dict[str, str]) -> go.Figure:
    rows = len(lines.dimensions)
    figure = make_subplots(rows, 1, shared_xaxes=True, vertical_spacing=0.012)
    thin, times = thinned(len(found.times)), np.array(found.times)
    for arm in found.arms:
        values = np.array(lines.actions[arm])
        for row in range(rows):
            trace = go.Scatter(
                x=times[thin],
                y=values[:, row],
                name=arm,
                legendgroup=arm,
                showlegend=row == 0,
                line={"color": paint[arm], "width": 2.2 if arm == DENSE else 1.4},
            )
            figure.add_trace(trace, row + 1, 1)
    recorded = np.array(lines.recorded)
    for row in range(rows):
        if np.isfinite(recorded[:, row]).any():
            trace = go.Scatter(
                x=times[thin],
                y=recorded[:, row],
                name="recorded arm",
                legendgroup="recorded",
                showlegend=row == 0,
                line={"color": RECORDED, "width": 1.4, "dash": "dot"},
            )
            figure.add_trace(trace, row + 1, 1)
        name, unit = lines.dimensions[row]
        figure.update_yaxes(title_text=f"{name}<br>{unit}", row=row + 1, col=1)
    figure.update_xaxes(title_text="time of the bag (s)", row=rows, col=1)
    return _cursor(figure, 110 * rows + 60)


def _cursor(figure: go.Figure, height: int, others: Sequence[dict[str, Any]] = ()) -> go.Figure:
    """With the cursor as the first shape."""
    line = {"color": CURSOR, "width": 1.5}
    cursor = {"type": "line", "xref": "x", "yref": "paper", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "line": line}
    return _layout(figure, height, shapes=[cursor, *others])


def _differences(found: Measurements, floor: dict[str, Any], paint: dict[str, str]) -> go.Figure:
    measures = [("centimetres", "cm"), ("degrees", "degrees"), ("gripper", "share of steps")]
    shown = [(measure, unit) for measure, unit in measures if _known(found, measure)]
    figure = make_subplots(max(len(shown), 1), 1, shared_xaxes=True, vertical_spacing=0.03)
    thin, others = thinned(len(found.times)), []
    for row, (measure, unit) in enumerate(shown, 1):
        for arm in found.arms:
            if arm != DENSE:
                y = found.whole[arm].column(measure)[thin]
                line = {"color": paint[arm], "width": 1.5}
                group = {"legendgroup": arm, "showlegend": row == 1}
                figure.add_trace(go.Scatter(x=np.array(found.times[thin]), y=y, name=arm, line=line, **group), row, 1)
        level = floor.get(measure)
        if level and measure != "gripper":
            axis = "y" if row == 1 else f"y{row}"
            dash = {"color": "#5b6270", "width": 1.2, "dash": "dash"}
            others.append(
                {"type": "line", "xref": "paper", "yref": axis, "x0": 0, "x1": 1, "y0": level, "y1": level}
                | {"line": dash}
            )
            highest = max(float(np.max(column(found.whole[arm], measure), initial=level)) for arm in found.arms)
            figure.update_yaxes(range=[-0.04 * highest, HEADROOM * highest], row=row, col=1)
        figure.update_yaxes(title_text=f"{measure}<br>{unit}" if measure == "gripper" else unit, row=row, col=1)
    figure.update_xaxes(title_text="time of the bag (s)", row=max(len(shown), 1), col=1)
    return _cursor(figure, 170 * max(len(shown), 1) + 60, others)


def _known(found: Measurements, measure: str) -> bool:
    return any(column(found.whole[arm], measure).size for arm in found.arms)


def _noise(found: Measurements, floor: dict[str, Any], paint: dict[str, str]) -> go.Figure:
    """Which share of inferences differs by at most so much."""
    measures = [(m, u) for m, u in (("centimetres", "cm"), ("degrees", "degrees")) if column(found.jpeg, m).size]
    figure = make_subplots(1, max(len(measures), 1), shared_yaxes=True, horizontal_spacing=0.06)
    own = [
        ("dense, consecutive chunks", found.consecutive, "#111111", "solid"),
        ("dense, after JPEG", found.jpeg, "#777777", "dot"),
    ]
    arms = [(arm, found.window[arm], paint[arm], "solid") for arm in found.arms if arm != DENSE]
    for place, (measure, unit) in enumerate(measures, 1):
        for name, values, color, dash in [*own, *arms]:
            x = np.sort(column(values, measure))
            if not x.size:
                continue
            thin = thinned(x.size)
            y = np.arange(1, x.size + 1) / x.size
            line = {"color": color, "dash": dash, "width": 2.5 if "dense" in name else 1.6, "shape": "hv"}
            group = {"legendgroup": name, "showlegend": place == 1}
            figure.add_trace(go.Scatter(x=x[thin], y=y[thin], name=name, line=line, **group), 1, place)
        if floor.get(measure):
            figure.add_vline(x=floor[measure], line={"color": "#5b6270", "dash": "dash", "width": 1}, row=1, col=place)
        figure.update_xaxes(title_text=f"over the shared steps ({unit})", rangemode="tozero", row=1, col=place)
    figure.update_yaxes(title_text="share of inferences", row=1, col=1)
    return _layout(figure, 360)


def _seams(found: Measurements, paint: dict[str, str]) -> go.Figure:
    figure = go.Figure()
    thin = thinned(len(found.times))
    for arm in found.arms:
        line = {"color": paint[arm], "width": 1.3}
        figure.add_trace(
            go.Scatter(x=np.array(found.times[thin]), y=np.array(found.seams[arm][thin]), name=arm, line=line)
        )
    figure.update_yaxes(title_text="jump (cm/s)" if found.space.delta else "jump (degrees/s)")
    figure.update_xaxes(title_text="time of the bag (s)")
    return _cursor(figure, 260)


def _modes(found: Measurements, lines: Lines) -> go.Figure:
    figure = go.Figure()
    thin = thinned(len(found.times))
    for mode, color in MODE_COLORS.items():
        x, y, text = [], [], []
        for arm in found.arms:
            chosen = list(zip(found.times[thin], lines.modes[arm], lines.reasons[arm], strict=True))
            x += [time for time, own, _ in chosen if own == mode]
            y += [arm for _, own, _ in chosen if own == mode]
            text += [reason for _, own, reason in chosen if own == mode]
        if x:
            marker = {"color": color, "size": 9, "symbol": "square"}
            figure.add_trace(go.Scatter(x=x, y=y, text=text, name=mode, mode="markers", marker=marker))
    figure.update_xaxes(title_text="time of the bag (s)")
    figure.update_yaxes(categoryorder="array", categoryarray=list(found.arms), autorange="reversed")
    return _cursor(figure, 90 + 34 * len(found.arms))


def _latency(found: Measurements, paint: dict[str, str]) -> go.Figure:
    figure = go.Figure()
    thin = thinned(len(found.times))
    for arm in found.arms:
        y = np.array(found.seconds[arm])[thin] * 1e3
        marker = {"color": paint[arm], "size": 4}
        line = {"color": paint[arm], "width": 1}
        figure.add_trace(
            go.Scatter(x=np.array(found.times[thin]), y=y, name=arm, mode="lines+markers", marker=marker, line=line)
        )
    figure.update_yaxes(title_text="inference (ms)", rangemode="tozero")
    figure.update_xaxes(title_text="time of the bag (s)")
    return _cursor(figure, 300)


def _stages(found: Measurements) -> go.Figure:
    figure = go.Figure()
    names = list(dict.fromkeys(stage for arm in found.arms for stage in found.stages[arm]))
    for index, stage in enumerate(names):
        x = [number(np.median(found.stages[arm].get(stage, [0.0])) * 1e3) for arm in found.arms]
        color = STAGE_COLORS[index % len(STAGE_COLORS)]
        figure.add_trace(go.Bar(y=list(found.arms), x=x, name=stage, orientation="h", marker={"color": color}))
    figure.update_xaxes(title_text="median per stage (ms)")
    figure.update_yaxes(autorange="reversed")
    return _layout(figure, 100 + 40 * len(found.arms), barmode="stack").update_layout(legend_traceorder="normal")


def _tokens(found: Measurements, paint: dict[str, str]) -> go.Figure:
    figure = go.Figure()
    dashes = {"coarse": "solid", "fine": "dash", "dense": "dot", "off": "solid"}
    for arm in found.arms:
        for mode, total in found.tokens[arm].items():
            y = total / found.modes[arm][mode]
            line = {"color": paint[arm], "dash": dashes.get(mode, "solid"), "shape": "hvh"}
            x = list(range(1, len(y) + 1))
            figure.add_trace(go.Scatter(x=x, y=y, name=arm if mode == "off" else f"{arm}, {mode}", line=line))
    figure.update_xaxes(title_text="decoder layer")
    figure.update_yaxes(title_text="tokens", rangemode="tozero")
    return _layout(figure, 320).update_layout(legend={"orientation": "v", "y": 0.98, "yanchor": "top"})


def _path(lines: Lines, paint: dict[str, str]) -> go.Figure:
    """From above and from the side; traces 2 to 7 follow the cursor: dense, arm, and place, in each."""
    figure = make_subplots(1, 2, horizontal_spacing=0.14)
    positions = np.array(lines.positions)
    for place, up in ((1, 1), (2, 2)):
        line = {"color": RECORDED, "width": 1, "dash": "dot"}
        trace = go.Scatter(x=positions[:, 0], y=positions[:, up], name="recorded", line=line, showlegend=place == 1)
        figure.add_trace(trace, 1, place)
    for place in (1, 2):
        for name, color, width in (("dense", DENSE_COLOR, 3), ("arm", PALETTE[0], 2)):
            line = {"color": color, "width": width}
            look = {"mode": "lines+markers", "line": line, "marker": {"size": 3}, "showlegend": place == 1}
            figure.add_trace(go.Scatter(x=[], y=[], name=name, **look), 1, place)
        here = {"color": CURSOR, "size": 9}
        figure.add_trace(go.Scatter(x=[], y=[], name="now", mode="markers", marker=here, showlegend=False), 1, place)
    for place, axis in ((1, "y"), (2, "z")):
        figure.update_xaxes(title_text="x (m)", nticks=4, tickangle=0, row=1, col=place)
        figure.update_yaxes(title_text=f"{axis} (m)", row=1, col=place)
    return _layout(figure, 300, hovermode=False)
